//! The rules, and which of them a client can see.

/// A rule of the checklist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Names it.
    pub id: &'static str,
    /// In short.
    pub what: &'static str,
    /// Why no client can see it; none: it is checked.
    pub hidden: Option<&'static str>,
}

const fn seen(id: &'static str, what: &'static str) -> Rule {
    Rule { id, what, hidden: None }
}

const fn hidden(id: &'static str, what: &'static str, why: &'static str) -> Rule {
    Rule { id, what, hidden: Some(why) }
}

/// All rules of the checklist's parts B.1 to B.3.
pub const RULES: &[Rule] = &[
    seen("SYNTAX", "every line of a playlist can be read"),
    seen("AUTH-01", "every video segment begins with a random access point"),
    seen("AUTH-02", "no segment exceeds the target duration by more than 0.5 s"),
    seen("AUTH-03", "EXTINF adds up to the media within one frame"),
    seen("AUTH-04", "measured peak below 125 % of BANDWIDTH"),
    seen("AUTH-05", "EXT-X-PROGRAM-DATE-TIME in every playlist, close to the clock"),
    seen("AUTH-06", "at least six segments"),
    seen("AUTH-07", "renditions share target duration, content and boundaries"),
    seen("AUTH-08", "discontinuities at the same point in all renditions, and counted"),
    seen("AUTH-09", "no redirects"),
    hidden("AUTH-10", "a stale update is told by Last-Modified", "it is a rule for players"),
    seen("AUTH-11", "CODECS, RESOLUTION, FRAME-RATE, AVERAGE-BANDWIDTH are given"),
    seen("AUTH-12", "I-frame playlists"),
    seen("AUTH-13", "playlists compressed; media types"),
    seen("AUTH-14", "TLS 1.2 or later with forward secrecy"),
    seen("AUTH-15", "an AAC rendition"),
    hidden("AUTH-16", "true loudness metadata", "it takes a decoder and a long measurement"),
    hidden("AUTH-17", "captions declared and complete", "nothing tells that there should be captions"),
    seen("AUTH-18", "H.264 up to High 5.2, HEVC as hvc1 in fMP4, at most 60 frames/s"),
    seen("AUTH-19", "the first variant takes about 2 Mbit/s"),
    seen(
        "AUTH-20",
        "PART-HOLD-BACK at least three part targets, part target above the round trip, delta updates for long lists",
    ),
    seen("LL-01", "segments within the target duration, which never changes"),
    seen("LL-02", "new segments and parts in time"),
    seen("LL-03", "what was listed does not change"),
    seen("LL-04", "sequence numbers never go back; no playlist type"),
    seen("LL-05", "at least three target durations; removed segments stay"),
    seen("LL-06", "parts are listed near the edge only, and stay"),
    seen("LL-07", "gaps add up to the time that passed"),
    seen("LL-08", "what is listed comes at once; what is hinted comes whole"),
    seen("LL-09", "part durations within 85 to 100 % of the part target"),
    seen("LL-10", "INDEPENDENT=YES where a random access point is"),
    seen("LL-11", "server control equal in all playlists, and large enough"),
    seen("LL-12", "blocking reload waits for what was asked, and answers"),
    seen("LL-13", "_HLS_part without _HLS_msn is refused with 400"),
    seen("LL-14", "what is far ahead is refused with 400 at once"),
    hidden("LL-15", "503 after three target durations", "it takes a source that stops"),
    seen("LL-16", "directives are ignored where they do not apply"),
    seen("LL-17", "delta updates say the same as the whole"),
    seen("LL-18", "one hint of a type; what is neither listed nor hinted is 404"),
    seen("LL-19", "a segment's tags come before its first part"),
    seen("LL-20", "variants agree in dates and discontinuities"),
    seen("LL-21", "date ranges keep their ids"),
    hidden("LL-22", "a programme that was removed leaves its segments", "nobody may end a stream to look"),
    seen("LL-23", "EXT-X-VERSION as high as needed and no higher"),
    seen("LL-24", "HTTP/2, compression, dates, blocking reload, rendition reports"),
    hidden("LL-25", "findings of Apple's validator", "they are AUTH-02, LL-11 and LL-24 here"),
    hidden("LL-26", "gaps of other servers", "they are LL-11, LL-12, LL-17 and LL-24 here"),
    seen("LL-27", "Date is right, so that Age can be used"),
    seen("B.3", "Cache-Control as the table has it"),
    hidden("CACHE-01", "the cache key holds the directives and nothing else", "what a cache does is seen as LL-12"),
    hidden("CACHE-02", "concurrent misses are one request", "only the origin sees it"),
    seen("CACHE-03", "answers to directives can be cached"),
    seen("CACHE-04", "a playlist is at most 1.5 target durations old"),
];
