//! Whatever a server sends as a playlist is read or refused; delta updates are completed or not; nothing panics.
#![no_main]
use hls::read::Playlist;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let half = data.len() / 2;
    let whole = Playlist::parse(data);
    let (first, second) = (Playlist::parse(&data[..half]), Playlist::parse(&data[half..]));
    for playlist in [&whole, &first, &second].into_iter().flatten() {
        if let Playlist::Media(media) = playlist {
            let _ = (media.edge(), media.next_position(), media.target_nanos());
            let _ = media.segment(media.media_sequence);
        }
    }
    if let (Ok(Playlist::Media(earlier)), Ok(Playlist::Media(delta))) = (first, second)
        && let Some(completed) = delta.completed_by(&earlier)
    {
        assert!(completed.skipped.is_none());
        assert!(completed.segments.len() >= delta.segments.len());
    }
});
