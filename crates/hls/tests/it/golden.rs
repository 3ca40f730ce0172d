//! Playlists, letter by letter. `UPDATE_GOLDEN=1 cargo test -p throughline-hls golden` writes them anew: read the difference.

use std::path::Path;
use std::time::Duration;

use hls::PackagerConfig;
use media::TrackKind;

use crate::world::World;

fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, text).expect("written");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(known == text, "{name} is not what was agreed on; it is now:\n{text}");
}

#[test]
fn golden_playlists_of_a_broadcast_with_a_gap_and_another_encoder() {
    let mut world = World::new(PackagerConfig::default());
    world.connect(Some("ffmpeg-5.1-avcc-30.bin"), Some(48_000));
    world.run(0, 7);
    check("live.index.m3u8", &world.packager.render_multivariant("b").expect("ready"));
    check("live.video.m3u8", &world.packager.render_media(TrackKind::Video, false).expect("there"));
    check("live.audio.m3u8", &world.packager.render_media(TrackKind::Audio, false).expect("there"));

    world.disconnect();
    world.pass(Duration::from_secs(8));
    check("gap.video.m3u8", &world.packager.render_media(TrackKind::Video, false).expect("there"));

    world.connect(Some("ffmpeg-5.1-avcc-25.bin"), Some(48_000));
    world.run(15 * 30, 20);
    check("back.video.m3u8", &world.packager.render_media(TrackKind::Video, false).expect("there"));
    check("back.audio.m3u8", &world.packager.render_media(TrackKind::Audio, false).expect("there"));
    check("delta.video.m3u8", &world.packager.render_media(TrackKind::Video, true).expect("there"));

    world.disconnect();
    world.pass(Duration::from_secs(70));
    check("ended.video.m3u8", &world.packager.render_media(TrackKind::Video, true).expect("there"));
    assert_eq!(world.broken, Vec::<String>::new());
}
