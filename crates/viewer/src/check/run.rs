//! Runs the check: follows every rendition, fetches what it lists, and asks what no player would.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hls::read::{MediaPlaylist, MultivariantPlaylist, Playlist};
use serde::Serialize;

use super::findings::{Evidence, Findings};
use super::media::Media;
use super::rendition::{Rendition, SLACK, is_timely, max_age, open, parse_media, plain_max_age};
use super::table::RULES;
use super::{across, multivariant, version};
use crate::client::{Client, Received, Shared, outside};
use crate::url::Url;

/// Renditions that are followed.
const RENDITIONS_MAX: usize = 8;

/// What is known of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleReport {
    /// Names it.
    pub id: &'static str,
    /// In short.
    pub what: &'static str,
    /// `pass`, `fail`, `not observed`.
    pub verdict: &'static str,
    /// Times it was seen to hold.
    pub held: u64,
    /// Times it was seen broken.
    pub broken: u64,
    /// Proof, or why it was not observed.
    pub evidence: Vec<Evidence>,
    /// Why it was not observed.
    pub why: Option<&'static str>,
}

/// How a server did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// What was looked at.
    pub url: String,
    /// For how long, in seconds.
    pub seconds: u64,
    /// Every rule, in the order of the checklist.
    pub rules: Vec<RuleReport>,
    /// What kept the check from looking; empty: nothing.
    pub obstacles: Vec<String>,
}

struct Checker {
    client: Arc<Client>,
    found: Findings,
    codecs: Vec<String>,
    obstacles: Vec<String>,
    has_parts: bool,
    /// The multivariant playlist, if there is one.
    list: Option<Arc<Playlist>>,
}

/// Looks at a stream for `duration`, and a few seconds more for what must be asked apart.
pub async fn check(shared: &Arc<Shared>, url: &Url, duration: Duration) -> CheckReport {
    let client = Arc::new(Client::new(shared));
    let (found, codecs, obstacles) = (Findings::default(), Vec::new(), Vec::new());
    let mut checker = Checker { client, found, codecs, obstacles, has_parts: false, list: None };
    let began = Instant::now();
    if let Err(text) = checker.run(url, duration).await {
        checker.obstacles.push(text);
    }
    checker.report(url, began.elapsed().as_secs())
}

impl Checker {
    async fn run(&mut self, url: &Url, duration: Duration) -> Result<(), String> {
        let received = self.client.get(url, None, true).await?;
        let text = self.open(&received)?;
        let mut renditions = Vec::new();
        let opened = Playlist::parse_with(text.as_bytes(), outside(&received.url, None));
        let opened = Arc::new(opened.map_err(|error| format!("{url}: {error}"))?);
        match &*opened {
            Playlist::Media(_) => renditions.push(self.load(url).await?),
            Playlist::Multivariant(list) => {
                self.list = Some(Arc::clone(&opened));
                self.found.merge(multivariant(list), &url.to_string(), &text);
                self.answer_of_multivariant(&received, list);
                self.codecs = codecs(list);
                for uri in uris(list) {
                    let url = received.url.resolve(&uri).map_err(|error| error.to_string())?;
                    renditions.push(self.load(&url).await?);
                }
            }
        }
        let until = Instant::now() + duration;
        self.has_parts = renditions.iter().any(|one| one.playlist.part_target.is_some());
        let mut tasks = tokio::task::JoinSet::new();
        for (index, mut rendition) in renditions.drain(..).enumerate() {
            let (client, codecs) = (Arc::clone(&self.client), self.codecs.clone());
            tasks.spawn(async move {
                let failed = rendition.follow(&client, &codecs, until).await.err();
                (index, rendition, failed)
            });
        }
        let mut followed = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            let (index, rendition, failed) = ended.map_err(|error| error.to_string())?;
            self.obstacles.extend(failed);
            followed.push((index, rendition));
        }
        followed.sort_by_key(|(index, _)| *index);
        let mut renditions: Vec<Rendition> = followed.into_iter().map(|(_, rendition)| rendition).collect();
        if let Playlist::Multivariant(list) = &*opened {
            self.peaks(&received.url, list, &renditions);
        }
        self.compare(&mut renditions).await;
        for rendition in &mut renditions {
            let (found, url) = (std::mem::take(&mut rendition.found), rendition.url.to_string());
            self.found.merge(found, &url, &rendition.text);
        }
        if let Some(first) = renditions.first().filter(|one| !one.playlist.is_ended) {
            self.interrogate(first).await;
        }
        Ok(())
    }

    /// The text of a playlist, and what its answer tells.
    fn open(&mut self, received: &Received) -> Result<String, String> {
        let text = open(received, &mut self.found)?;
        Ok(text)
    }

    async fn load(&mut self, url: &Url) -> Result<Rendition, String> {
        let received = self.client.get(url, None, true).await?;
        let text = self.open(&received)?;
        let playlist = parse_media(url, &text, self.list.as_deref())?;
        self.found.merge(version(&playlist), &url.to_string(), &text);
        let plain_age = plain_max_age(&playlist);
        let is_kept =
            max_age(&received).is_some_and(|age| age <= plain_age) || received.header("cache-control").contains("no-");
        self.found.expect(is_kept, "B.3", 0, || {
            format!("{url} without directives: '{}', at most {plain_age} s", received.header("cache-control"))
        });
        self.found.expect(playlist.segments.is_empty() || is_timely(&playlist), "AUTH-05", 0, || {
            format!("{url}: the newest date is not close to the clock")
        });
        let edge = playlist.next_position();
        let next = if playlist.part_target.is_some() { Some(edge) } else { Some((edge.0.saturating_sub(2), 0)) };
        Ok(Rendition {
            url: received.url,
            playlist: Arc::new(playlist),
            list: self.list.clone(),
            text,
            grown_at: Instant::now(),
            segment_at: Instant::now(),
            media: Media::default(),
            map: None,
            next,
            peak: 0,
            kept: VecDeque::new(),
            found: Findings::default(),
            removed: None,
            dropped: None,
            round_trip: received.timing.first_byte,
        })
    }

    fn answer_of_multivariant(&mut self, received: &Received, list: &MultivariantPlaylist) {
        let age = max_age(received);
        let is_private = received.header("cache-control").contains("no-store");
        self.found.expect(is_private || age.is_some_and(|age| age <= 86_400), "B.3", 0, || {
            format!("the multivariant playlist: '{}'", received.header("cache-control"))
        });
        if received.url.is_https {
            self.found.expect(true, "AUTH-14", 0, String::new); // nothing else is offered by this client
            self.found.expect(received.is_http_2, "LL-24", 0, || "over TLS, HTTP/2 was not agreed on".into());
        }
        let bandwidths = list.variants.iter().filter_map(|variant| variant.bandwidth).max();
        self.found.expect(bandwidths.is_some(), "AUTH-11", 1, || "no variant has BANDWIDTH".into());
    }

    /// AUTH-04: what a variant and its sound took at most, against what is said.
    fn peaks(&mut self, url: &Url, list: &MultivariantPlaylist, renditions: &[Rendition]) {
        let peak = |uri: &str| {
            let url = url.resolve(uri).ok()?;
            renditions.iter().find(|one| one.url == url).map(|one| one.peak).filter(|peak| *peak > 0)
        };
        for variant in &list.variants {
            let sound = list.audio_of(variant).and_then(|sound| sound.uri.as_deref());
            let (Some(picture), Some(bandwidth)) = (peak(&variant.uri), variant.bandwidth) else { continue };
            let all = picture + sound.and_then(peak).unwrap_or(0);
            self.found.expect(
                all.saturating_mul(100) <= bandwidth.saturating_mul(125),
                "AUTH-04",
                variant.line,
                || format!("{} kbit/s were measured, and BANDWIDTH says {}", all / 1000, bandwidth / 1000),
            );
        }
    }

    /// Rules between renditions, on playlists of one moment.
    async fn compare(&mut self, renditions: &mut [Rendition]) {
        if renditions.len() < 2 {
            return;
        }
        let mut now = Vec::new();
        for rendition in renditions.iter() {
            let Ok(received) = self.client.get(&rendition.url, None, true).await else { return };
            let Ok(text) = open(&received, &mut Findings::default()) else { return };
            let Ok(playlist) = parse_media(&rendition.url, &text, self.list.as_deref()) else { return };
            now.push((playlist, text));
        }
        let playlists: Vec<&MediaPlaylist> = now.iter().map(|(playlist, _)| playlist).collect();
        let last = now.last().map(|(_, text)| text.clone()).unwrap_or_default();
        let url = renditions.last().map(|one| one.url.to_string()).unwrap_or_default();
        self.found.merge(across(&playlists), &url, &last);
        let is_live = playlists.iter().any(|playlist| !playlist.is_ended);
        for (playlist, _) in now.iter().filter(|(playlist, _)| is_live && playlist.part_target.is_some()) {
            let complete =
                playlist.reports.iter().filter(|report| report.msn.is_some() && report.part.is_some()).count();
            self.found.expect(complete + 1 >= now.len(), "LL-24", 0, || {
                format!("{complete} whole rendition reports for {} other renditions", now.len() - 1)
            });
        }
    }

    /// Asks what no player would. spec: rfc8216bis §6.2.5
    async fn interrogate(&mut self, rendition: &Rendition) {
        let (client, url) = (Arc::clone(&self.client), rendition.url.clone());
        let get = async |query: &str| {
            let asked = Instant::now();
            client.get(&url.with_query(query), None, true).await.map(|received| (received, asked.elapsed()))
        };
        let Ok((whole, _)) = get("").await else { return self.obstacles.push(format!("{url}: no answer")) };
        let Some(now) = open(&whole, &mut Findings::default())
            .ok()
            .and_then(|text| parse_media(&url, &text, self.list.as_deref()).ok())
        else {
            return;
        };
        let (target, edge) = (now.target_duration.max(1), now.next_position());
        self.found.expect(edge.0 + 2 >= rendition.playlist.next_position().0, "CACHE-04", 0, || {
            "the playlist without directives is older than 1.5 target durations".into()
        });
        if now.control.can_block_reload {
            if let Ok((answer, _)) = get("_HLS_part=0").await {
                self.refused(&answer, "LL-13", "_HLS_part alone");
            }
            if let Ok((answer, took)) = get(&format!("_HLS_msn={}", edge.0 + 50)).await {
                self.refused(&answer, "LL-14", "a segment 50 ahead");
                self.found.expect(took < SLACK * 3, "LL-14", 0, || format!("the refusal took {} ms", took.as_millis()));
                let age = max_age(&answer).unwrap_or(0);
                self.found.expect(age <= 4 * target, "B.3", 0, || format!("a refusal may be kept for {age} s"));
            }
            self.past_the_end(&now, &url).await;
        } else if let Ok((answer, _)) = get(&format!("_HLS_msn={}", edge.0 + 50)).await {
            self.found.expect(answer.status == 200, "LL-16", 0, || {
                format!("directives are not offered, and get {}", answer.status)
            });
        }
        match now.control.can_skip_until {
            Some(until) if now.length() > until + now.target_nanos() => self.delta(&url).await,
            Some(_) => {}
            None => {
                if let Ok((answer, _)) = get("_HLS_skip=YES").await {
                    let text = open(&answer, &mut Findings::default()).unwrap_or_default();
                    self.found.expect(!text.contains("#EXT-X-SKIP"), "LL-16", 0, || {
                        "a delta update where none is offered".into()
                    });
                }
            }
        }
        self.hint(&url).await;
        self.names(rendition, &now, &url).await;
    }

    fn refused(&mut self, answer: &Received, id: &'static str, what: &str) {
        self.found.expect(answer.status == 400, id, 0, || format!("{what} gets {} and not 400", answer.status));
    }

    /// A part past the end of a segment is part 0 of the next one. LL-12
    async fn past_the_end(&mut self, now: &MediaPlaylist, url: &Url) {
        let Some(last) = now.complete().last().filter(|last| !last.parts.is_empty()) else { return };
        let query = format!("_HLS_msn={}&_HLS_part={}", last.number, last.parts.len());
        let Ok(answer) = self.client.get(&url.with_query(&query), None, true).await else { return };
        let playlist = open(&answer, &mut Findings::default())
            .ok()
            .and_then(|text| parse_media(url, &text, self.list.as_deref()).ok());
        let holds = playlist.is_some_and(|playlist| playlist.next_position() > (last.number + 1, 0));
        self.found.expect(holds, "LL-12", 0, || {
            format!("{query}: status {}, and no part of segment {}", answer.status, last.number + 1)
        });
    }

    /// A delta update says the same as the whole. LL-17
    async fn delta(&mut self, url: &Url) {
        for _ in 0..3 {
            let Ok(before) = self.client.get(url, None, true).await else { return };
            let Ok(delta) = self.client.get(&url.with_query("_HLS_skip=YES"), None, true).await else { return };
            let Ok(after) = self.client.get(url, None, true).await else { return };
            let texts = [&before, &delta, &after].map(|one| open(one, &mut Findings::default()).unwrap_or_default());
            let [Ok(before), Ok(delta), Ok(after)] =
                texts.each_ref().map(|text| parse_media(url, text, self.list.as_deref()))
            else {
                return;
            };
            if before != after {
                continue; // something came in between
            }
            self.found.expect(delta.skipped.is_some(), "LL-17", 0, || "_HLS_skip=YES skips nothing".into());
            let completed = delta.completed_by(&before);
            let same = |one: &MediaPlaylist| {
                one.next_position() == before.next_position()
                    && one.segments.len() == before.segments.len()
                    && one.segments.iter().zip(&before.segments).all(|(a, b)| {
                        (&a.uri, a.duration, a.is_discontinuity, a.number)
                            == (&b.uri, b.duration, b.is_discontinuity, b.number)
                    })
            };
            self.found.expect(completed.as_ref().is_some_and(same), "LL-17", 0, || {
                "the delta update and the whole differ".into()
            });
            return;
        }
    }

    /// What is hinted comes, and comes whole. LL-08, LL-18
    async fn hint(&mut self, url: &Url) {
        let Ok(received) = self.client.get(url, None, true).await else { return };
        let now =
            open(&received, &mut Findings::default()).and_then(|text| parse_media(url, &text, self.list.as_deref()));
        let Ok(now) = now else { return };
        let Some((hint, part)) = now.part_hint().zip(now.part_target) else { return };
        let Ok(target) = url.resolve(&hint.uri) else { return };
        let range = hint.range.filter(|range| range.length.is_some() || range.start > 0);
        match self.client.get(&target, range, false).await {
            Err(text) => self.found.expect(false, "LL-18", hint.line, || text),
            Ok(answer) => {
                let is_there = matches!(answer.status, 200 | 206);
                self.found
                    .expect(is_there, "LL-18", hint.line, || format!("{target} is hinted, and gets {}", answer.status));
                let body = answer.timing.total.saturating_sub(answer.timing.first_byte);
                let limit = Duration::from_nanos(u64::try_from(part).unwrap_or(0)) / 2 + Duration::from_millis(100);
                self.found.expect(body < limit, "LL-08", hint.line, || {
                    format!("the hinted part came in pieces, over {} ms", body.as_millis())
                });
            }
        }
    }

    /// Names: what is neither listed nor hinted, and what was.
    async fn names(&mut self, rendition: &Rendition, now: &MediaPlaylist, url: &Url) {
        let Some(last) = now.complete().last().filter(|last| last.range.is_none()) else { return };
        let Some(uri) = last.uri.as_deref() else { return };
        let unknown = match uri.rsplit_once('/') {
            Some((folder, name)) => format!("{folder}/no-such-{name}"),
            None => format!("no-such-{uri}"),
        };
        if let Ok(unknown) = url.resolve(&unknown)
            && let Ok(answer) = self.client.get(&unknown, None, false).await
        {
            self.found.expect(answer.status == 404, "LL-18", 0, || format!("{unknown} gets {}", answer.status));
            let age = max_age(&answer).unwrap_or(0);
            self.found
                .expect(age <= now.target_duration, "B.3", 0, || format!("404 for media may be kept for {age} s"));
        }
        for (gone, id, what) in [(&rendition.removed, "LL-05", "segment"), (&rendition.dropped, "LL-06", "part")] {
            let Some(url) = gone.as_deref().and_then(|uri| url.resolve(uri).ok()) else { continue };
            if let Ok(answer) = self.client.get(&url, None, false).await {
                self.found.expect(matches!(answer.status, 200 | 206), id, 0, || {
                    format!("a {what} that was listed until just now gets {}: {url}", answer.status)
                });
            }
        }
    }

    fn report(self, url: &Url, seconds: u64) -> CheckReport {
        let rules = RULES.iter().map(|rule| {
            let outcome = self.found.get(rule.id).cloned().unwrap_or_default();
            let verdict = match (outcome.held, outcome.broken) {
                (_, 1..) => "fail",
                (1.., 0) => "pass",
                (0, 0) => "not observed",
            };
            let why = (verdict == "not observed").then(|| rule.hidden.unwrap_or("the stream gave no occasion"));
            let (held, broken, evidence) = (outcome.held, outcome.broken, outcome.evidence);
            RuleReport { id: rule.id, what: rule.what, verdict, held, broken, evidence, why }
        });
        CheckReport { url: url.to_string(), seconds, rules: rules.collect(), obstacles: self.obstacles }
    }
}

fn codecs(list: &MultivariantPlaylist) -> Vec<String> {
    let all = list.variants.iter().filter_map(|variant| variant.codecs.as_deref());
    let mut codecs: Vec<String> =
        all.flat_map(|codecs| codecs.split(',')).map(|codec| codec.trim().to_owned()).collect();
    codecs.sort();
    codecs.dedup();
    codecs
}

/// Media playlists of variants and of sound, each once.
fn uris(list: &MultivariantPlaylist) -> Vec<Box<str>> {
    let variants = list.variants.iter().map(|variant| variant.uri.clone());
    let sound = list.renditions.iter().filter(|one| &*one.kind == "AUDIO").filter_map(|one| one.uri.clone());
    let mut uris = Vec::new();
    for uri in variants.chain(sound) {
        if uris.len() < RENDITIONS_MAX && !uris.contains(&uri) {
            uris.push(uri);
        }
    }
    uris
}

impl CheckReport {
    /// Whether no rule was seen broken, and nothing kept the check from looking.
    pub fn is_good(&self) -> bool {
        self.obstacles.is_empty() && self.rules.iter().all(|rule| rule.broken == 0)
    }

    /// For people.
    pub fn summary(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "{}, {} s", self.url, self.seconds);
        for rule in &self.rules {
            let _ = writeln!(out, "  {:<9} {:<12} {}", rule.id, rule.verdict, rule.what);
            for one in &rule.evidence {
                let _ = writeln!(out, "            {}", one.what);
                if !one.text.is_empty() {
                    let _ = writeln!(out, "            line {}: {}", one.line, one.text);
                }
            }
        }
        let count = |verdict| self.rules.iter().filter(|rule| rule.verdict == verdict).count();
        for obstacle in &self.obstacles {
            let _ = writeln!(out, "  could not look: {obstacle}");
        }
        let _ = writeln!(out, "{} pass, {} fail, {} not observed", count("pass"), count("fail"), count("not observed"));
        out
    }

    /// As test results for a CI: JUnit's XML.
    pub fn junit(&self) -> String {
        let escape =
            |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
        let failures = self.rules.iter().filter(|rule| rule.broken > 0).count() + self.obstacles.len();
        let mut out = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" time=\"{}\">\n",
            escape(&self.url),
            self.rules.len() + self.obstacles.len(),
            self.seconds
        );
        for rule in &self.rules {
            let _ = write!(out, "  <testcase name=\"{} {}\"", rule.id, escape(rule.what));
            if rule.broken > 0 {
                let proof: Vec<String> =
                    rule.evidence.iter().map(|one| format!("{} | line {}: {}", one.what, one.line, one.text)).collect();
                let _ = writeln!(out, "><failure>{}</failure></testcase>", escape(&proof.join("\n")));
            } else if let Some(why) = rule.why {
                let _ = writeln!(out, "><skipped message=\"{}\"/></testcase>", escape(why));
            } else {
                let _ = writeln!(out, "/>");
            }
        }
        for obstacle in &self.obstacles {
            let _ = writeln!(out, "  <testcase name=\"could look\"><failure>{}</failure></testcase>", escape(obstacle));
        }
        out + "</testsuite>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn junit_escapes_what_servers_say() {
        let evidence = vec![Evidence { what: "<&\">".into(), ..Evidence::default() }];
        let rule = RuleReport { id: "LL-01", what: "x", verdict: "fail", held: 0, broken: 1, evidence, why: None };
        let report = CheckReport { url: "http://a/?a&b".into(), seconds: 1, rules: vec![rule], obstacles: Vec::new() };
        let xml = report.junit();
        assert!(
            xml.contains("failures=\"1\"") && xml.contains("&lt;&amp;&quot;&gt;") && xml.contains("http://a/?a&amp;b"),
            "{xml}"
        );
    }
}
