//! HTTP as players and caches use it.

use std::io::Read as _;
use std::time::{Duration, Instant};

use testkit::http::{get, request};
use testkit::playlist::Playlist;
use testkit::programs::Program;

use crate::rig::{Encoder, Rig, eventually, requests};

#[tokio::test(flavor = "multi_thread")]
async fn ll_12_to_16_blocking_requests_are_answered_when_and_as_they_must() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    let path = rig.playlist_path("show", "video").await;
    let playlist = rig.playlist_when(&path, "segments", |playlist| playlist.complete().count() >= 2).await;
    let (msn, part) = playlist.edge().expect("parts");

    let began = Instant::now();
    let answer = get(rig.http(), &format!("{path}?_HLS_msn={msn}&_HLS_part={}", part + 2)).await;
    assert!(began.elapsed() > Duration::from_millis(50), "it was held");
    let edge = Playlist::parse(answer.text()).edge().expect("parts");
    assert!(edge >= (msn, part + 2) || edge.0 > msn, "LL-12: {edge:?}");
    assert_eq!(answer.header("cache-control"), "public, max-age=24", "B.3: six target durations");

    for (query, what) in [
        ("_HLS_part=1", "LL-13"),
        (&*format!("_HLS_msn={}", msn + 50), "LL-14"),
        (&*format!("_HLS_msn={}&_HLS_part=99", msn + 1), "LL-14"),
        ("_HLS_msn=banana", "garbage"),
    ] {
        let began = Instant::now();
        let answer = get(rig.http(), &format!("{path}?{query}")).await;
        assert_eq!(answer.status, 400, "{what}");
        assert!(began.elapsed() < Duration::from_millis(500), "{what}: at once");
        assert_eq!(answer.header("cache-control"), "public, max-age=16", "{what}");
    }
    let old = get(rig.http(), &format!("{path}?_HLS_msn={}", playlist.media_sequence)).await;
    assert_eq!(old.status, 200, "LL-12: a segment that exists");
    assert_eq!(get(rig.http(), &path).await.header("cache-control"), "public, max-age=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn ll_08_and_18_the_hinted_part_is_held_and_unknown_ones_are_not_found() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    let path = rig.playlist_path("show", "video").await;
    let directory = path.rsplit_once('/').expect("a path").0.to_owned();
    for _ in 0..12 {
        let playlist = rig.playlist_when(&path, "a hint", |playlist| playlist.hint.is_some()).await;
        let hint = playlist.hint.expect("one");
        let answer = get(rig.http(), &format!("{directory}/{hint}")).await;
        assert_eq!(answer.status, 200, "the hint {hint} is kept");
        assert_eq!(&answer.body[4..8], b"moof", "whole, from its beginning");
        assert_eq!(answer.header("cache-control"), "public, max-age=1209600, immutable");
    }
    for name in ["v1.m4s", "v1.0.m4s", "v-0000000000000000.mp4", "x", "v01.m4s", "..%2f..%2fetc%2fpasswd"] {
        let answer = get(rig.http(), &format!("{directory}/{name}")).await;
        assert_eq!((answer.status, answer.header("cache-control")), (404, "public, max-age=1"), "{name}");
    }
    for path in ["/live/../../etc/passwd", "/watch/..%2f..%2fetc", "/assets/../Cargo.toml", "/live/show/index.m3u8/x"] {
        assert_eq!(get(rig.http(), path).await.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ll_17_delta_updates_say_the_same_as_the_whole() {
    let rig = Rig::with(|file| file.hls.segment_target_ms = 1000).await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    let path = rig.playlist_path("show", "video").await;
    rig.playlist_when(&path, "more than is skipped", |playlist| playlist.segments.len() > 14).await;
    let delta = Playlist::parse(get(rig.http(), &format!("{path}?_HLS_skip=YES")).await.text());
    let whole = rig.playlist(&path).await;
    assert!(delta.skipped > 0, "something is skipped");
    let rest: Vec<&str> = delta.complete().map(|segment| segment.uri.as_str()).collect();
    let same: Vec<&str> =
        whole.complete().skip(usize::try_from(delta.skipped).expect("small")).map(|s| s.uri.as_str()).collect();
    assert!(same.starts_with(&rest[..rest.len() - 1]), "{rest:?} against {same:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_etag_ranges_gzip_and_cors_are_served() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    let path = rig.playlist_path("show", "video").await;
    let playlist = rig.playlist_when(&path, "a segment", |playlist| playlist.complete().count() >= 1).await;
    let directory = path.rsplit_once('/').expect("a path").0;
    let segment = format!("{directory}/{}", playlist.segments[0].uri);
    let server = rig.http();
    let whole = get(server, &segment).await;
    let length = whole.body.len();
    assert_eq!(whole.header("content-type"), "video/mp4");
    assert_eq!(whole.header("access-control-allow-origin"), "*");

    let head = request(server, "HEAD", &segment, &[]).await;
    assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, &*length.to_string()));
    let part = request(server, "GET", &segment, &[("range", "bytes=100-299")]).await;
    assert_eq!((part.status, &part.body[..]), (206, &whole.body[100..300]));
    assert_eq!(part.header("content-range"), format!("bytes 100-299/{length}"));
    let beyond = request(server, "GET", &segment, &[("range", "bytes=99999999-")]).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, &*format!("bytes */{length}")));
    let huge = request(server, "GET", &segment, &[("range", "bytes=0-18446744073709551615")]).await;
    assert_eq!((huge.status, huge.body.len()), (206, length));
    for (tag, status) in [(whole.header("etag"), 206), ("\"another\"", 200)] {
        let answer = request(server, "GET", &segment, &[("range", "bytes=100-299"), ("if-range", tag)]).await;
        assert_eq!(answer.status, status, "a part only of what the client knows: {tag}");
    }
    let again = request(server, "GET", &segment, &[("if-none-match", whole.header("etag"))]).await;
    assert_eq!((again.status, again.body.len()), (304, 0));

    let zipped = request(server, "GET", &path, &[("accept-encoding", "br, gzip")]).await;
    assert_eq!((zipped.header("content-encoding"), zipped.header("vary")), ("gzip", "Accept-Encoding"));
    assert_eq!(zipped.header("content-type"), "application/vnd.apple.mpegurl");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&zipped.body[..]).read_to_string(&mut text).expect("gzip");
    assert!(text.starts_with("#EXTM3U"));

    let preflight = request(server, "OPTIONS", &segment, &[("origin", "https://example.org")]).await;
    assert_eq!(preflight.status, 204);
    assert!(preflight.header("access-control-allow-headers").contains("Range"));
    let post = request(server, "POST", &segment, &[]).await;
    assert_eq!((post.status, post.header("allow")), (405, "GET, HEAD, OPTIONS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_compressed_and_its_script_cached_for_good() {
    let rig = Rig::start().await;
    let page = request(rig.http(), "GET", "/watch/show", &[("accept-encoding", "gzip")]).await;
    assert_eq!((page.header("content-encoding"), page.header("cache-control")), ("gzip", "public, max-age=60"));
    let text = get(rig.http(), "/watch/show").await.text().to_owned();
    let script = text
        .split('"')
        .find(|word| word.starts_with("/assets/index-") && word.contains(".js"))
        .expect("a script")
        .to_owned();
    let plain = get(rig.http(), &script).await;
    let zipped = request(rig.http(), "GET", &script, &[("accept-encoding", "gzip")]).await;
    assert!(zipped.header("cache-control").contains("immutable"), "its name follows from its content");
    assert!(zipped.body.len() < plain.body.len() / 2, "{} of {} bytes", zipped.body.len(), plain.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn https_speaks_http_2() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    rig.multivariant("show").await;
    let url = format!("https://{}/live/show/index.m3u8", rig.addresses.https.expect("listens"));
    let arguments = ["-sk", "--http2", "-w", "%{http_version} %{http_code}", "-o", "/dev/null", &url];
    let (_, out, _) = Program::start("/usr/bin/curl", arguments).finish().await;
    assert_eq!(out, "2 200");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_strict_reader_accepts_every_playlist() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    let script = "const {createRequire}=require('node:module');const r=createRequire(process.argv[1]+'/package.json');\
        const p=r('hls-parser');p.setOptions({strictMode:true});\
        (async()=>{for(const u of process.argv.slice(2)){const t=await (await fetch(u)).text();p.parse(t);}console.log('fine');})()\
        .catch(e=>{console.log(String(e));});";
    let (video, audio) = (rig.playlist_path("show", "video").await, rig.playlist_path("show", "audio").await);
    for count in [1, 4, 8] {
        rig.playlist_when(&video, "segments", |playlist| playlist.complete().count() >= count).await;
        let urls = ["/live/show/index.m3u8", &video, &audio].map(|path| format!("http://{}{path}", rig.http()));
        let tools = testkit::programs::tools();
        let arguments = ["-e", script, tools.to_str().expect("plain"), &urls[0], &urls[1], &urls[2]];
        let (_, out, errors) = Program::start("/usr/bin/env", ["node"].into_iter().chain(arguments)).finish().await;
        assert_eq!(out.trim(), "fine", "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_01_and_02_varnish_collapses_a_hundred_blocked_viewers_into_one_request() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    let path = rig.playlist_path("show", "video").await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let cache = listener.local_addr().expect("bound");
    drop(listener);
    let (backend, listen) = (rig.http().to_string(), cache.to_string());
    let folder = rig.state.join("varnish");
    let arguments = ["-F", "-n", folder.to_str().expect("plain"), "-a", &listen, "-b", &backend, "-s", "malloc,64m"];
    let _varnish = Program::start("/usr/sbin/varnishd", arguments);
    eventually("varnish listens", || async { std::net::TcpStream::connect(cache).ok() }).await;

    let count = || requests(&rig, "\"playlist\"");
    let (msn, part) = rig.playlist(&path).await.edge().expect("parts");
    let before = count().await;
    let wanted = format!("{path}?_HLS_msn={msn}&_HLS_part={}", part + 3);
    let viewers: Vec<_> = (0..100)
        .map(|_| {
            let wanted = wanted.clone();
            tokio::task::spawn(async move { get(cache, &wanted).await })
        })
        .collect();
    for viewer in viewers {
        assert_eq!(viewer.await.expect("ends").status, 200);
    }
    assert_eq!(count().await - before, 1, "the origin saw one request");
    let again = get(cache, &wanted).await;
    assert!(!again.header("age").is_empty() && again.header("x-varnish").contains(' '), "a hit: {:?}", again.headers);

    // The rest of table B.3: what the second who asks gets comes from the cache.
    let directory = path.rsplit_once('/').expect("a path").0;
    let playlist = rig.playlist(&path).await;
    let segment = playlist.complete().last().expect("one");
    let part = &playlist.segments.iter().rfind(|segment| !segment.parts.is_empty()).expect("one").parts[0].uri;
    let file = |name: &str| format!("{directory}/{name}");
    let four_targets = format!("max-age={}", 4.0 * playlist.target_duration);
    for (what, path, status, seconds) in [
        ("the multivariant playlist", "/live/show/index.m3u8".to_owned(), 200, "max-age=1"),
        ("a segment", file(&segment.uri), 200, "max-age=1209600, immutable"),
        ("a part", file(part), 200, "max-age=1209600, immutable"),
        ("an initialization segment", file(&segment.map), 200, "max-age=1209600, immutable"),
        ("what is not there", file("v1.m4s"), 404, "max-age=1"),
        // The table allows a target duration: players ask before the encoder is back, and get this for as long.
        ("a playlist that is not there", "/live/show/none/video.m3u8".to_owned(), 404, "max-age=1"),
        ("an answer to directives about it", "/live/show/none/video.m3u8?_HLS_msn=1".to_owned(), 404, &four_targets),
    ] {
        let (first, second) = (get(cache, &path).await, get(cache, &path).await);
        assert_eq!((first.status, second.status), (status, status), "{what}");
        assert_eq!(second.header("cache-control"), format!("public, {seconds}"), "{what}");
        assert!(second.header("x-varnish").contains(' '), "{what} is a hit: {:?}", second.headers);
    }
}
