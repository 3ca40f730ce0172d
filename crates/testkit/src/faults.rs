//! A server that breaks one rule on purpose: it stands before a server that keeps them all and changes what passes through.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use crate::http;

/// What passes through.
#[derive(Debug)]
pub struct Exchange {
    /// Path without the query.
    pub path: String,
    /// What came from the server, and what goes on: status, fields, body without compression.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The answer is sent so much later.
    pub delay: Duration,
    /// The body is sent in pieces over so long.
    pub drip: Duration,
    /// Playlists are compressed on their way.
    pub gzip: bool,
    /// Chooses where a fault is planted.
    pub seed: u64,
}

/// What is remembered between exchanges: of each rendition, the first and last number and the hint.
#[derive(Debug, Default)]
pub struct Memory {
    first: u64,
    last: u64,
    hint: String,
    kept: Option<(SystemTime, Vec<u8>)>,
}

/// A rule that is broken, and how.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What is done.
    pub name: &'static str,
    /// The rules that must be found broken by it.
    pub rules: &'static [&'static str],
    /// Rules that may be seen broken by it too, as the moment has it.
    pub perhaps: &'static [&'static str],
    /// Changes the query of a request before it goes to the server.
    pub ask: fn(&str, &str) -> String,
    /// Changes the answer.
    pub answer: fn(&mut Exchange, &mut Memory),
}

impl Exchange {
    fn is_multivariant(&self) -> bool {
        self.path.ends_with("index.m3u8")
    }

    fn names_playlist(&self) -> bool {
        self.file().ends_with("m3u8")
    }

    fn is_playlist(&self) -> bool {
        self.names_playlist() && !self.is_multivariant() && self.status == 200
    }

    fn is_video(&self) -> bool {
        self.path.ends_with("video.m3u8")
    }

    fn file(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Number and part of a media file.
    fn numbers(&self) -> Option<(u64, Option<u64>)> {
        let name = self.file().strip_suffix(".m4s")?.strip_prefix(['v', 'a'])?;
        match name.split_once('.') {
            Some((number, part)) => Some((number.parse().ok()?, Some(part.parse().ok()?))),
            None => Some((name.parse().ok()?, None)),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Changes lines; none: the line goes.
    fn lines(&mut self, mut change: impl FnMut(&str) -> Option<String>) {
        let lines: Vec<String> = self.text().lines().filter_map(&mut change).collect();
        self.body = (lines.join("\n") + "\n").into_bytes();
    }

    fn replace(&mut self, from: &str, to: &str) {
        self.body = self.text().replace(from, to).into_bytes();
    }

    /// Adds a line at the end of a playlist.
    fn append(&mut self, line: &str) {
        self.body.extend_from_slice(line.as_bytes());
        self.body.push(b'\n');
    }

    fn header(&mut self, name: &str, value: &str) {
        self.headers.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.headers.push((name.into(), value.into()));
        }
    }

    /// Segments of a playlist as groups of lines, each ended by its URI; `change` gets the number too.
    fn segments(&mut self, mut change: impl FnMut(u64, &mut Vec<String>)) {
        let (mut out, mut group, mut number): (Vec<String>, Vec<String>, u64) = (Vec::new(), Vec::new(), 0);
        let mut in_head = true;
        for line in self.text().lines() {
            if let Some(first) = line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:") {
                number = first.parse().expect("a number");
            }
            if let Some(skipped) = line.strip_prefix("#EXT-X-SKIP:SKIPPED-SEGMENTS=") {
                number += skipped.parse::<u64>().expect("a number");
                out.push(line.into());
                continue;
            }
            in_head &=
                !["#EXT-X-PROGRAM", "#EXT-X-DISCONTINUITY\n", "#EXT-X-PART:", "#EXTINF", "#EXT-X-MAP", "#EXT-X-GAP"]
                    .iter()
                    .any(|tag| line.starts_with(tag.trim_end()) && !line.starts_with("#EXT-X-DISCONTINUITY-SEQUENCE"));
            if in_head {
                out.push(line.into());
                continue;
            }
            group.push(line.into());
            if !line.starts_with('#') {
                change(number, &mut group);
                out.append(&mut group);
                number += 1;
            }
        }
        out.append(&mut group);
        self.body = (out.join("\n") + "\n").into_bytes();
    }

    /// Whether a fault is planted in the segment of this number.
    fn is_chosen(&self, number: u64) -> bool {
        number % 5 == self.seed % 5
    }
}

/// Seconds now: for what changes with time.
fn second() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The value of a decimal after a tag, changed.
fn scaled(line: &str, tag: &str, factor: f64) -> String {
    let rest = line.strip_prefix(tag).expect("the tag");
    let end = rest.find(',').unwrap_or(rest.len());
    let (value, after) = rest.split_at(end);
    format!("{tag}{:.5}{after}", value.parse::<f64>().expect("a number") * factor)
}

fn same(_: &str, query: &str) -> String {
    query.into()
}

fn without(query: &str, names: &[&str]) -> String {
    let kept = query.split('&').filter(|pair| !names.iter().any(|name| pair.starts_with(name)));
    kept.collect::<Vec<_>>().join("&")
}

const fn fault(name: &'static str, rules: &'static [&'static str], answer: fn(&mut Exchange, &mut Memory)) -> Fault {
    Fault { name, rules, perhaps: &[], ask: same, answer }
}

impl Fault {
    const fn perhaps(self, perhaps: &'static [&'static str]) -> Self {
        Self { perhaps, ..self }
    }

    const fn asking(self, ask: fn(&str, &str) -> String) -> Self {
        Self { ask, ..self }
    }
}

fn nothing(_: &mut Exchange, _: &mut Memory) {}

/// Changes the date of a line by milliseconds.
fn shift_date(line: &str, millis: i64) -> String {
    let Some(date) = line.strip_prefix("#EXT-X-PROGRAM-DATE-TIME:") else { return line.into() };
    let nanos = hls::read::date(date).expect("a date") + millis * 1_000_000;
    let (seconds, millis) = (nanos / 1_000_000_000, nanos / 1_000_000 % 1000);
    // As an offset from a day that is known: the test runs within one.
    let day = hls::read::date(&format!("{}T00:00:00Z", &date[..10])).expect("a day") / 1_000_000_000;
    let of_day = (seconds - day).rem_euclid(86_400);
    format!(
        "#EXT-X-PROGRAM-DATE-TIME:{}T{:02}:{:02}:{:02}.{millis:03}Z",
        &date[..10],
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// Every rule that can be broken from here, once at least.
pub const FAULTS: &[Fault] = &[
    fault("nothing is broken", &[], nothing),
    fault("a date range without an id", &["SYNTAX"], |e, _| {
        if e.is_playlist() {
            e.append("#EXT-X-DATERANGE:START-DATE=\"2026-01-01T00:00:00Z\"");
        }
    }),
    fault("segments that begin with no random access point", &["AUTH-01", "LL-03"], |e, _| {
        if e.file().starts_with('v') && matches!(e.numbers(), Some((_, None))) {
            let at = e.body.windows(4).position(|window| window == b"trun").expect("a run");
            e.body[at + 4 + 4 + 4 + 4 + 8] |= 1;
            e.body[at + 4 + 4 + 4 + 4 + 9] |= 1;
        }
    }),
    fault("a segment three times as long as it may be", &["LL-01", "AUTH-02", "AUTH-03", "AUTH-07"], |e, _| {
        if e.is_playlist() && e.is_video() {
            let seed = e.seed;
            e.segments(|number, lines| {
                for line in lines.iter_mut().filter(|line| number % 5 == seed % 5 && line.starts_with("#EXTINF:")) {
                    *line = scaled(line, "#EXTINF:", 3.0);
                }
            });
        }
    })
    .perhaps(&["LL-06"]),
    fault("parts that last longer than is said", &["AUTH-03"], |e, _| {
        if e.is_playlist() {
            e.replace("DURATION=0.20000", "DURATION=0.19000");
        }
    }),
    fault("a quarter of the bandwidth", &["AUTH-04"], |e, _| {
        if e.is_multivariant() {
            e.lines(|line| match line.split_once(":BANDWIDTH=") {
                Some((tag, rest)) => {
                    let (rate, rest) = rest.split_once(',').expect("more attributes");
                    Some(format!("{tag}:BANDWIDTH={},{rest}", rate.parse::<u64>().expect("a number") / 4))
                }
                None => Some(line.into()),
            });
        }
    }),
    fault("no dates", &["AUTH-05"], |e, _| {
        if e.is_playlist() {
            e.lines(|line| (!line.starts_with("#EXT-X-PROGRAM-DATE-TIME")).then(|| line.into()));
        }
    }),
    fault("dates of an hour ago", &["AUTH-05"], |e, _| {
        if e.is_playlist() {
            e.lines(|line| Some(shift_date(line, -3_600_000)));
        }
    }),
    fault("four segments", &["AUTH-06", "LL-05"], |e, _| {
        if e.is_playlist() {
            let all = e.text().lines().filter(|line| line.starts_with("#EXTINF")).count();
            let drop = all.saturating_sub(4) as u64;
            let (mut first, mut map) = (0, None);
            e.segments(|number, lines| {
                first = if first == 0 { number } else { first };
                map = lines.iter().find(|line| line.starts_with("#EXT-X-MAP")).cloned().or(map.take());
                if number < first + drop {
                    lines.clear();
                } else if number == first + drop && !lines.iter().any(|line| line.starts_with("#EXT-X-MAP")) {
                    lines.insert(0, map.clone().expect("one was before"));
                }
            });
            e.lines(|line| match line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:") {
                Some(number) => {
                    Some(format!("#EXT-X-MEDIA-SEQUENCE:{}", number.parse::<u64>().expect("a number") + drop))
                }
                None => Some(line.into()),
            });
        }
    })
    .perhaps(&["AUTH-07"]),
    fault("sound with another target duration", &["AUTH-07", "LL-11"], |e, _| {
        if e.is_playlist() && !e.is_video() {
            e.replace("#EXT-X-TARGETDURATION:2", "#EXT-X-TARGETDURATION:3");
        }
    }),
    fault("discontinuities in the picture only", &["AUTH-08", "LL-20", "LL-04"], |e, _| {
        if e.is_playlist() && e.is_video() {
            let seed = e.seed;
            e.segments(|number, lines| {
                if number % 5 == seed % 5 {
                    lines.insert(0, "#EXT-X-DISCONTINUITY".into());
                }
            });
        }
    }),
    fault("redirects for media", &["AUTH-09"], |e, _| {
        if e.numbers().is_some() && !e.headers.iter().any(|(name, _)| name == "x-asked-twice") {
            let place = format!("{}?again=1", e.path);
            e.status = 302;
            e.body.clear();
            e.header("location", &place);
        }
    }),
    fault("no frame rate and no average", &["AUTH-11"], |e, _| {
        if e.is_multivariant() {
            e.replace("FRAME-RATE=", "X-RATE=");
            e.replace("AVERAGE-BANDWIDTH=", "X-AVERAGE=");
        }
    }),
    fault("another profile in CODECS than in the media", &["AUTH-11"], |e, _| {
        if e.is_multivariant() {
            let text = e.text();
            let at = text.find("avc1.").expect("H.264");
            e.body = [&text[..at], "avc1.4d401f", &text[at + 11..]].concat().into_bytes();
        }
    }),
    fault("no compression", &["AUTH-13"], |e, _| e.gzip = false),
    fault("media sent as text", &["AUTH-13"], |e, _| {
        if e.numbers().is_some() {
            e.header("content-type", "text/plain");
        }
    }),
    fault("no AAC", &["AUTH-15", "AUTH-11"], |e, _| {
        if e.is_multivariant() {
            e.replace("mp4a.40.2", "ac-3");
        }
    }),
    fault("a level above 5.2", &["AUTH-18", "AUTH-11"], |e, _| {
        if e.is_multivariant() {
            let text = e.text();
            let at = text.find("avc1.").expect("H.264");
            e.body = [&text[..at], "avc1.640040", &text[at + 11..]].concat().into_bytes();
        }
    }),
    fault("a first variant for the few", &["AUTH-19"], |e, _| {
        if e.is_multivariant() {
            let text = e.text();
            let at = text.find("#EXT-X-STREAM-INF").expect("a variant");
            let (before, variant) = text.split_at(at);
            let (_, rest) = variant.split_once(',').expect("more attributes");
            e.body = format!("{before}#EXT-X-STREAM-INF:BANDWIDTH=9000000,{rest}{variant}").into_bytes();
        }
    }),
    fault("PART-HOLD-BACK of two part targets", &["AUTH-20"], |e, _| {
        if e.is_playlist() {
            e.replace("PART-HOLD-BACK=1.00000", "PART-HOLD-BACK=0.45000");
        }
    }),
    fault("a part target that changes", &["LL-01"], |e, _| {
        if e.is_playlist() && second().is_multiple_of(2) {
            e.replace("PART-TARGET=0.21600", "PART-TARGET=0.21700");
        }
    }),
    fault("parts that come a second late", &["LL-02"], |e, _| {
        if e.is_playlist() && e.headers.iter().any(|(name, value)| name == "x-query" && value.contains("_HLS_msn")) {
            e.delay = Duration::from_secs(1);
        }
    }),
    fault("a duration that changes when its parts go", &["LL-03"], |e, _| {
        if e.is_playlist() {
            let seed = e.seed;
            e.segments(|number, lines| {
                let has_parts = lines.iter().any(|line| line.starts_with("#EXT-X-PART:"));
                for line in
                    lines.iter_mut().filter(|line| number % 5 == seed % 5 && !has_parts && line.starts_with("#EXTINF:"))
                {
                    *line = scaled(line, "#EXTINF:", 1.01);
                }
            });
        }
    }),
    fault("the playlist type of an event", &["LL-04"], |e, _| {
        if e.is_playlist() {
            e.replace("#EXT-X-VERSION:9", "#EXT-X-VERSION:9\n#EXT-X-PLAYLIST-TYPE:EVENT");
        }
    }),
    fault("a discontinuity sequence that goes back", &["LL-04"], |e, _| {
        if e.is_playlist() && second().is_multiple_of(2) {
            e.replace("#EXT-X-DISCONTINUITY-SEQUENCE:0", "#EXT-X-DISCONTINUITY-SEQUENCE:3");
        }
    })
    .perhaps(&["LL-20"]),
    fault("segments that vanish with their line", &["LL-05"], |e, memory| {
        if matches!(e.numbers(), Some((number, None)) if number < memory.first) {
            e.status = 404;
        }
    }),
    fault("parts that vanish with their line", &["LL-06"], |e, memory| {
        if matches!(e.numbers(), Some((number, Some(_))) if number + 2 < memory.last) {
            e.status = 404;
        }
    }),
    fault("a gap that is shorter than the time", &["LL-07", "LL-03"], |e, _| {
        if e.is_playlist() {
            let seed = e.seed;
            e.segments(|number, lines| {
                let has_parts = lines.iter().any(|line| line.starts_with("#EXT-X-PART:"));
                if number % 5 == seed % 5 && !has_parts {
                    lines.iter_mut().filter(|line| line.starts_with("#EXTINF:")).for_each(|line| {
                        *line = format!("#EXT-X-GAP\n{}", scaled(line, "#EXTINF:", 0.3));
                    });
                }
            });
        }
    }),
    fault("parts that are sent as fast as they are made", &["LL-08"], |e, _| {
        if matches!(e.numbers(), Some((_, Some(_)))) {
            e.drip = Duration::from_millis(450);
        }
    }),
    fault("segments that are listed and not there", &["LL-08"], |e, _| {
        if matches!(e.numbers(), Some((number, None)) if e.is_chosen(number)) {
            e.status = 404;
        }
    })
    .perhaps(&["LL-05"]),
    fault("parts longer than their target", &["LL-09"], |e, _| {
        if e.is_playlist() {
            e.replace("PART-TARGET=0.21600", "PART-TARGET=0.15000");
        }
    }),
    fault("parts shorter than 85 % of their target", &["LL-09"], |e, _| {
        if e.is_playlist() {
            e.replace("PART-TARGET=0.21600", "PART-TARGET=0.30000");
        }
    }),
    fault("random access points that are not marked", &["LL-10"], |e, _| {
        if e.is_playlist() {
            e.replace(",INDEPENDENT=YES", "");
        }
    }),
    fault("marks where there is no random access point", &["LL-10"], |e, _| {
        if e.is_playlist() && e.is_video() {
            e.lines(|line| {
                let mark = line.starts_with("#EXT-X-PART:") && !line.contains("INDEPENDENT");
                Some(if mark { format!("{line},INDEPENDENT=YES") } else { line.into() })
            });
        }
    }),
    fault("PART-HOLD-BACK below two part targets", &["LL-11", "AUTH-20"], |e, _| {
        if e.is_playlist() {
            e.replace("PART-HOLD-BACK=1.00000", "PART-HOLD-BACK=0.30000");
        }
    }),
    fault("another server control for sound", &["LL-11"], |e, _| {
        if e.is_playlist() && !e.is_video() {
            e.replace(",HOLD-BACK=6.0", ",HOLD-BACK=7.0");
        }
    }),
    fault("blocking reloads that do not block", &["LL-12"], nothing).asking(|_, query| {
        let has = |name| query.contains(name);
        if has("_HLS_msn") && has("_HLS_part") { without(query, &["_HLS_msn", "_HLS_part"]) } else { query.into() }
    }),
    fault("_HLS_part alone is answered", &["LL-13"], nothing)
        .asking(|_, query| if query.contains("_HLS_msn") { query.into() } else { without(query, &["_HLS_part"]) }),
    fault("what is far ahead is answered", &["LL-14"], |e, _| {
        if e.names_playlist() && e.status == 400 && e.headers.iter().any(|(_, value)| value.contains("_HLS_msn")) {
            e.status = 200;
            e.gzip = true;
        }
    }),
    fault("delta updates that were not offered", &["LL-16", "LL-23"], |e, _| {
        if e.is_playlist() {
            e.replace("CAN-SKIP-UNTIL=12.0,", "");
        }
    }),
    fault("delta updates that skip nothing", &["LL-17"], nothing).asking(|_, query| without(query, &["_HLS_skip"])),
    fault("delta updates that skip one too many", &["LL-17"], |e, _| {
        if e.is_playlist() {
            e.lines(|line| match line.strip_prefix("#EXT-X-SKIP:SKIPPED-SEGMENTS=") {
                Some(count) => {
                    Some(format!("#EXT-X-SKIP:SKIPPED-SEGMENTS={}", count.parse::<u64>().expect("a number") + 1))
                }
                None => Some(line.into()),
            });
        }
    }),
    fault("hints that lead nowhere", &["LL-18"], |e, memory| {
        if !memory.hint.is_empty() && e.file() == memory.hint {
            e.status = 404;
        }
    })
    .perhaps(&["LL-08"]),
    fault("everything has a name", &["LL-18"], |e, _| {
        if e.file().starts_with("no-such-") {
            e.status = 200;
        }
    }),
    fault("two hints", &["LL-18"], |e, _| {
        if e.is_playlist() {
            e.append("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"another.m4s\"");
        }
    }),
    fault("a date after the first part", &["LL-19"], |e, _| {
        if e.is_playlist() {
            let mut lines: Vec<String> = e.text().lines().map(str::to_owned).collect();
            for at in 1..lines.len() {
                if lines[at].starts_with("#EXT-X-PART:") && lines[at - 1].starts_with("#EXT-X-PROGRAM-DATE-TIME") {
                    lines.swap(at, at - 1);
                }
            }
            e.body = (lines.join("\n") + "\n").into_bytes();
        }
    }),
    fault("sound that is dated apart from the picture", &["LL-20"], |e, _| {
        if e.is_playlist() && !e.is_video() {
            e.lines(|line| Some(shift_date(line, 700)));
        }
    }),
    fault("a date range that moves", &["LL-21"], |e, _| {
        if e.is_playlist() {
            let second = second() % 60;
            e.append(&format!("#EXT-X-DATERANGE:ID=\"a\",START-DATE=\"2026-01-01T00:00:{second:02}Z\""));
        }
    }),
    fault("a version that is too low", &["LL-23"], |e, _| {
        if e.is_playlist() {
            e.replace("#EXT-X-VERSION:9", "#EXT-X-VERSION:3");
        }
    }),
    fault("a version that is too high", &["LL-23"], |e, _| {
        if e.is_playlist() {
            e.replace("#EXT-X-VERSION:9", "#EXT-X-VERSION:12");
        }
    }),
    fault("no rendition reports", &["LL-24"], |e, _| {
        if e.is_playlist() {
            e.lines(|line| (!line.starts_with("#EXT-X-RENDITION-REPORT")).then(|| line.into()));
        }
    }),
    fault("a clock of another year", &["LL-27"], |e, _| {
        if e.names_playlist() {
            e.header("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        }
    }),
    fault("media that may not be kept", &["B.3"], |e, _| {
        if e.numbers().is_some() {
            e.header("cache-control", "no-store");
        }
    }),
    fault("playlists that may be kept for a minute", &["B.3"], |e, _| {
        if e.is_playlist() && e.headers.iter().all(|(name, value)| name != "x-query" || value.is_empty()) {
            e.header("cache-control", "public, max-age=60");
        }
    }),
    fault("no word on keeping the multivariant playlist", &["B.3"], |e, _| {
        if e.is_multivariant() {
            e.header("cache-control", "");
        }
    }),
    fault("answers to directives that may not be kept", &["CACHE-03"], |e, _| {
        if e.is_playlist() && e.headers.iter().any(|(name, value)| name == "x-query" && value.contains("_HLS_msn")) {
            e.header("cache-control", "no-cache");
        }
    }),
    fault("a playlist of ten seconds ago", &["CACHE-04"], |e, memory| {
        let is_plain = e.headers.iter().all(|(name, value)| name != "x-query" || value.is_empty());
        if e.is_playlist() && is_plain {
            match &memory.kept {
                Some((at, body)) if at.elapsed().is_ok_and(|age| age < Duration::from_secs(15)) => {
                    e.body.clone_from(body);
                }
                _ => memory.kept = Some((SystemTime::now(), e.body.clone())),
            }
        }
    })
    .perhaps(&["LL-17", "LL-18", "AUTH-07", "LL-20", "LL-12", "AUTH-05"]),
];

/// A server with a fault, before another.
#[derive(Debug)]
pub struct FaultServer {
    /// Where it listens.
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FaultServer {
    /// Starts it on a free port of the loopback interface.
    ///
    /// # Panics
    /// There is none.
    pub async fn start(upstream: SocketAddr, fault: Fault, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let memories = Arc::new(Mutex::new((Memory::default(), Memory::default())));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, upstream, fault, seed, Arc::clone(&memories)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, task }
    }
}

type Memories = Arc<Mutex<(Memory, Memory)>>;

/// One request, one connection.
async fn serve(mut socket: TcpStream, upstream: SocketAddr, fault: Fault, seed: u64, memories: Memories) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16_384 {
        head.push(socket.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let target = head.split(' ').nth(1)?.to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let asked = (fault.ask)(path, &without(query, &["again"]));
    let url = if asked.is_empty() { path.to_owned() } else { format!("{path}?{asked}") };
    let range = head.lines().find_map(|line| line.strip_prefix("range: "));
    let fields: Vec<(&str, &str)> = range.map(|range| ("range", range)).into_iter().collect();
    let answer = http::request(upstream, "GET", &url, &fields).await;
    let is_playlist = path.ends_with("m3u8");
    let gzip = is_playlist && answer.status == 200;
    let (delay, drip) = (Duration::ZERO, Duration::ZERO);
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| !matches!(name.as_str(), "content-length" | "connection" | "content-encoding"));
    headers.push(("x-query".into(), query.into()));
    if query.contains("again=1") {
        headers.push(("x-asked-twice".into(), "1".into()));
    }
    let (status, body) = (answer.status, answer.body.to_vec());
    let mut exchange = Exchange { path: path.into(), status, headers, body, delay, drip, gzip, seed };
    {
        let mut memories = memories.lock().await;
        let is_video = path.ends_with("video.m3u8") || exchange.file().starts_with('v');
        let memory = if is_video { &mut memories.0 } else { &mut memories.1 };
        (fault.answer)(&mut exchange, memory);
        if is_playlist && exchange.status == 200 {
            memory.learn(&exchange.text());
        }
    }
    exchange.send(&mut socket).await
}

impl Memory {
    fn learn(&mut self, playlist: &str) {
        let number = |tag: &str| playlist.lines().find_map(|line| line.strip_prefix(tag)?.parse::<u64>().ok());
        let segments = playlist.lines().filter(|line| line.starts_with("#EXTINF")).count() as u64;
        if let Some(first) = number("#EXT-X-MEDIA-SEQUENCE:") {
            (self.first, self.last) = (first, first + segments);
        }
        let hint = playlist.lines().find(|line| line.starts_with("#EXT-X-PRELOAD-HINT"));
        hint.and_then(|line| line.split('"').nth(1)).unwrap_or_default().clone_into(&mut self.hint);
    }
}

impl Exchange {
    async fn send(mut self, socket: &mut TcpStream) -> Option<()> {
        tokio::time::sleep(self.delay).await;
        if self.gzip {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            std::io::Write::write_all(&mut encoder, &self.body).ok()?;
            self.body = encoder.finish().ok()?;
            self.header("content-encoding", "gzip");
        }
        self.header("x-query", "");
        let mut head =
            format!("HTTP/1.1 {} Planted\r\ncontent-length: {}\r\nconnection: close\r\n", self.status, self.body.len());
        for (name, value) in &self.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        socket.write_all(format!("{head}\r\n").as_bytes()).await.ok()?;
        if self.drip.is_zero() {
            socket.write_all(&self.body).await.ok()?;
        } else {
            for piece in self.body.chunks(self.body.len().div_ceil(5).max(1)) {
                socket.write_all(piece).await.ok()?;
                tokio::time::sleep(self.drip / 5).await;
            }
        }
        socket.shutdown().await.ok()
    }
}
