//! Embeds the player page again when its files change.

fn main() {
    println!("cargo::rerun-if-changed=../../web/dist");
}
