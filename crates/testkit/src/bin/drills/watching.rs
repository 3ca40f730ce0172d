//! Players that watch, what they felt, and the lines of the table.

use std::time::{Duration, SystemTime};

use testkit::browser::{Look, Viewer};
use testkit::programs::Program;
use testkit::relay::Random;
use tokio::task::JoinHandle;

use crate::server::{Event, Server};

/// A player that tells what it felt, and a browser that tells what it showed.
pub(crate) struct Players {
    probe: Program,
    /// What it says is read at once: it would wait with a full pipe.
    browser: JoinHandle<(Look, Vec<String>)>,
}

/// What they felt.
pub(crate) struct Felt {
    /// By the probe.
    pub(crate) stalls: u64,
    pub(crate) longest_ms: u64,
    pub(crate) holes: u64,
    /// By how many milliseconds its latency grew in a minute.
    pub(crate) growth: i64,
    /// All that the probe says.
    told: String,
    /// By the browser.
    pub(crate) page: Look,
    errors: Vec<String>,
}

impl Players {
    /// Both watch for so long.
    pub(crate) fn watch(server: &Server, length: u64) -> Self {
        let url = format!("http://{}/live/show/index.m3u8", server.http);
        let page = format!("http://{}/watch/show", server.http);
        let length = length.to_string();
        let probe = Program::start(&server.program, ["probe", &url, "--for", &length, "--json"]);
        let shot = std::env::var("SHOT").unwrap_or_default(); // a picture of the page at the end, for a look at it
        let mut options = vec!["--seconds", &length, "--width", "640", "--height", "360"];
        options.extend(["--shot", &shot].into_iter().filter(|_| !shot.is_empty()));
        let browser = Viewer::open(&page, &options);
        Self { probe, browser: tokio::spawn(browser.last()) }
    }

    /// When their time is over.
    pub(crate) async fn felt(self) -> Felt {
        let ((_, text, error), browser) = tokio::join!(self.probe.finish(), self.browser);
        let (page, errors) = browser.expect("the browser saw something");
        let told: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let number = |name: &str| {
            told["quality"][name].as_i64().unwrap_or_else(|| panic!("the probe says nothing of {name}: {text} {error}"))
        };
        let count = |name: &str| u64::try_from(number(name)).expect("a count");
        Felt {
            stalls: count("stalls"),
            longest_ms: count("stall_longest_ms"),
            holes: count("holes"),
            growth: number("latency_slope_ms_per_minute"),
            told: text,
            page,
            errors,
        }
    }
}

impl Felt {
    /// Whether the page played until the end, and was loaded once.
    pub(crate) fn page_goes_on(&self) -> bool {
        self.page.loads == 1 && self.page.state == "playing" && self.errors.is_empty()
    }

    /// Whether nobody noticed anything.
    pub(crate) fn is_nothing(&self) -> bool {
        self.stalls == 0 && self.holes == 0 && self.page.felt.stalls == 0 && self.page_goes_on()
    }

    /// The longest stall of either, in milliseconds.
    pub(crate) fn longest(&self) -> u64 {
        self.longest_ms.max(self.page.felt.longest)
    }

    fn by_probe(&self) -> String {
        format!("{} ({} ms), {}", self.stalls, self.longest_ms, self.holes)
    }

    fn by_page(&self) -> String {
        let trouble = if self.page_goes_on() {
            String::new()
        } else {
            format!(", {}, {} loads, {:?}", self.page.state, self.page.loads, self.errors)
        };
        format!("{} ({} ms){trouble}", self.page.felt.stalls, self.page.felt.longest)
    }
}

/// When harm was done, in milliseconds of UTC.
#[derive(Default)]
pub(crate) struct Harms(Vec<i64>);

impl Harms {
    /// It is done now.
    pub(crate) fn mark(&mut self) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        self.0.push(i64::try_from(since.as_millis()).expect("before the year 300 million"));
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// How long after each harm, and before the next, the first event of a kind came, if it did within six seconds.
    pub(crate) fn until(&self, events: &[Event], is_it: impl Fn(&Event) -> bool) -> Vec<u64> {
        let ends = self.0.iter().skip(1).copied().chain([i64::MAX]);
        let times = self.0.iter().zip(ends).filter_map(|(at, end)| {
            let end = end.min(at + 6000);
            let event = events.iter().find(|event| (*at..end).contains(&event.utc_ms) && is_it(event))?;
            u64::try_from(event.utc_ms - at).ok()
        });
        times.collect()
    }
}

/// A leg is suspect, dead, or gone.
pub(crate) fn is_detection(event: &Event) -> bool {
    let is_unwell = event.text.contains(" is suspect") || event.text.contains(" is dead");
    event.kind == "leg.left" || event.kind == "leg.state" && is_unwell
}

/// Another leg leads.
pub(crate) fn is_switch(event: &Event) -> bool {
    event.kind == "stream.switched"
}

/// One line of the table.
#[derive(Default)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) times: usize,
    pub(crate) lost: String,
    pub(crate) felt: Option<Felt>,
    /// Milliseconds.
    pub(crate) gaps: Vec<u64>,
    pub(crate) detected: Vec<u64>,
    pub(crate) switched: Vec<u64>,
    pub(crate) is_met: bool,
}

/// What the lines say.
pub(crate) const HEAD: &str = "| what happens | times | lost | the probe: stalls (longest), holes | Chromium: stalls (longest) \
    | gap in the program | noticed after | switched after |\n| --- | --- | --- | --- | --- | --- | --- | --- |";

impl Row {
    /// Prints it; whether its aim is met.
    pub(crate) fn print(self) -> bool {
        let Self { what, times, lost, is_met, .. } = &self;
        let felt = self.felt.as_ref();
        let (probe, page) = felt.map_or_else(|| ("–".into(), "–".into()), |felt| (felt.by_probe(), felt.by_page()));
        let [gap, noticed, switched] =
            [&self.gaps, &self.detected, &self.switched].map(|times| middle_and_worst(times));
        let verdict = if *is_met { "" } else { " **missed**" };
        println!("| {what} | {times} | {lost} | {probe} | {page} | {gap} | {noticed} | {switched} |{verdict}");
        if let Some(felt) = felt.filter(|_| !*is_met) {
            eprintln!("{}", felt.told); // for whoever looks for the reason
        }
        *is_met
    }
}

fn middle_and_worst(times: &[u64]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let (middle, worst) = (sorted.get(sorted.len() / 2), sorted.last());
    middle.zip(worst).map_or_else(|| "–".to_owned(), |(middle, worst)| format!("{middle} / {worst} ms"))
}

pub(crate) async fn seconds(count: f64) {
    tokio::time::sleep(Duration::from_secs_f64(count)).await;
}

/// Seconds, fewer than these.
pub(crate) fn up_to(random: &mut Random, limit: f64) -> f64 {
    limit * f64::from(u32::try_from(random.draw() % 1000).unwrap_or(0)) / 1000.0
}
