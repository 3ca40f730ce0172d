//! Installs what is missing, quietly; says nothing when there is nothing to do.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::root;

/// Program to look for, and the Debian package that has it.
const FOR_RUN: [(&str, &str); 1] = [("ffmpeg", "ffmpeg")];
const FOR_TEST: [(&str, &str); 14] = [
    ("curl", "curl"),
    ("ffmpeg", "ffmpeg"),
    ("ffprobe", "ffmpeg"),
    ("ffplay", "ffmpeg"),
    ("rtmpdump", "rtmpdump"),
    ("srt-live-transmit", "srt-tools"),
    ("chromium", "chromium"),
    ("firefox-esr", "firefox-esr"),
    ("varnishd", "varnish"),
    ("openssl", "openssl"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("python3", "python3"),
    ("gst-launch-1.0", "gstreamer1.0-tools"),
];
const FOR_BENCH: [(&str, &str); 6] = [
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("nginx", "nginx-light"),
    ("srt-live-transmit", "srt-tools"),
];
const NGINX_RTMP: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";
const FOR_OBS: [(&str, &str); 2] = [("obs", "obs-studio"), ("Xvfb", "xvfb")];
/// GStreamer's elements are files, not programs.
const GSTREAMER_ELEMENTS: &str = "/usr/lib/x86_64-linux-gnu/gstreamer-1.0/libgstrtmp2.so";
const GSTREAMER_PACKAGES: [&str; 4] =
    ["gstreamer1.0-plugins-base", "gstreamer1.0-plugins-good", "gstreamer1.0-plugins-bad", "gstreamer1.0-plugins-ugly"];
/// A current FFmpeg, with Enhanced RTMP, ships inside this package.
const CURRENT_FFMPEG: &str = "imageio-ffmpeg==0.8.1";

pub(crate) fn for_run() -> anyhow::Result<()> {
    packages(&missing(&FOR_RUN))
}

pub(crate) fn for_test() -> anyhow::Result<()> {
    let mut wanted = missing(&FOR_TEST);
    if !Path::new(GSTREAMER_ELEMENTS).exists() {
        wanted.extend(GSTREAMER_PACKAGES);
    }
    packages(&wanted)?;
    node_modules()?;
    current_ffmpeg()
}

pub(crate) fn for_bench() -> anyhow::Result<()> {
    let mut wanted = missing(&FOR_BENCH);
    if !Path::new(NGINX_RTMP).exists() {
        wanted.push("libnginx-mod-rtmp");
    }
    packages(&wanted)
}

pub(crate) fn for_obs() -> anyhow::Result<()> {
    packages(&missing(&FOR_OBS))
}

fn missing(wanted: &[(&str, &'static str)]) -> Vec<&'static str> {
    let mut packages: Vec<_> =
        wanted.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(system).any(|folder| folder.join(program).exists())
}

/// Installs Debian packages, as root or through sudo.
fn packages(packages: &[&str]) -> anyhow::Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    println!("installing {}", packages.join(" "));
    let apt = |arguments: &[&str]| {
        let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
        let mut command = if is_root { Command::new("apt-get") } else { Command::new("sudo") };
        if !is_root {
            command.args(["--", "apt-get"]);
        }
        quiet(
            command
                .args(["-qq", "-y", "--no-install-recommends"])
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    apt(&["update"])?;
    apt(&[&["install"][..], packages].concat())
}

/// Runs a command; shows what it printed only if it failed.
fn quiet(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!("{command:?} failed:\n{}", String::from_utf8_lossy(&text));
    }
    Ok(())
}

/// The packages that drive browsers, below `target`.
fn node_modules() -> anyhow::Result<()> {
    let (source, folder) = (root().join("crates/testkit/tools"), root().join("target/tools"));
    let lock = std::fs::read(source.join("package-lock.json"))?;
    let done = folder.join("node_modules/.installed");
    if std::fs::read(&done).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    println!("installing what drives browsers");
    std::fs::create_dir_all(&folder)?;
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(source.join(file), folder.join(file))?;
    }
    quiet(Command::new("npm").args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&folder))?;
    Ok(std::fs::write(done, lock)?)
}

/// A current FFmpeg, below `target`.
fn current_ffmpeg() -> anyhow::Result<()> {
    let folder = root().join("target/tools");
    let link = folder.join("ffmpeg-current");
    if link.exists() {
        return Ok(());
    }
    println!("installing a current FFmpeg");
    let packages = folder.join("python");
    let module =
        Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|output| output.status.success());
    if !module {
        self::packages(&["python3-pip"])?;
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target"])
        .arg(&packages)
        .arg(CURRENT_FFMPEG);
    quiet(&mut pip)?;
    let binaries = packages.join("imageio_ffmpeg/binaries");
    let binary = std::fs::read_dir(&binaries)?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("ffmpeg-"))
        .context("the package holds no ffmpeg")?;
    let _ = std::fs::remove_file(&link);
    Ok(std::os::unix::fs::symlink(binary.path(), link)?)
}
