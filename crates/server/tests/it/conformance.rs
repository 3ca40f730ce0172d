//! The checker: it finds every planted fault, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use testkit::faults::{FAULTS, Fault, FaultServer};
use testkit::programs::Program;
use viewer::check::{CheckReport, RULES, check};
use viewer::client::{ClientSettings, Shared};

use crate::rig::{Encoder, Rig};

/// What our server is known not to have yet.
const KNOWN: [&str; 1] = ["AUTH-12"];
/// Checked at once: encoder, server, faults and checkers share two cores.
const AT_ONCE: usize = 10;
const SEED: u64 = 20_261_125;

fn failed(report: &CheckReport) -> BTreeSet<&'static str> {
    report.rules.iter().filter(|rule| rule.broken > 0).map(|rule| rule.id).filter(|id| !KNOWN.contains(id)).collect()
}

async fn look(server: std::net::SocketAddr, fault: Fault) -> CheckReport {
    let planted = FaultServer::start(server, fault, SEED).await;
    let url = format!("http://{}/live/show/index.m3u8", planted.address).parse().expect("an address");
    let shared = Shared::new(ClientSettings::default(), None).expect("a client");
    check(&shared, &url, Duration::from_secs(8)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_every_planted_fault_and_nothing_else() {
    let rig = Rig::with(|file| (file.hls.segment_target_ms, file.hls.window_seconds) = (1000, 0)).await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    let path = rig.playlist_path("show", "video").await;
    rig.playlist_when(&path, "a full window", |playlist| playlist.complete().count() >= 15).await;
    let mut wrong = Vec::new();
    let mut found_ever = BTreeSet::new();
    for faults in FAULTS.chunks(AT_ONCE) {
        let mut looks = tokio::task::JoinSet::new();
        for fault in faults {
            let server = rig.http();
            looks.spawn(async move { (fault, look(server, *fault).await) });
        }
        while let Some(looked) = looks.join_next().await {
            let (fault, report) = looked.expect("no panic");
            let found = failed(&report);
            let missed: Vec<_> = fault.rules.iter().filter(|rule| !found.contains(*rule)).collect();
            let more: Vec<_> =
                found.iter().filter(|rule| !fault.rules.contains(rule) && !fault.perhaps.contains(rule)).collect();
            if !missed.is_empty() || !more.is_empty() || !report.obstacles.is_empty() {
                wrong.push(format!("{}: missed {missed:?}, found {more:?} beside\n{}", fault.name, report.summary()));
            }
            found_ever.extend(found);
        }
    }
    let shown = |text: &String| {
        text.lines()
            .filter(|line| !line.contains(" pass ") && !line.contains(" not observed "))
            .fold(String::new(), |all, line| all + line + "\n")
    };
    assert!(wrong.is_empty(), "{}", wrong.iter().map(shown).collect::<Vec<_>>().join("\n"));
    // Every rule has a fault, or says why no client can see it, or is known to be broken here, or needs TLS.
    for rule in RULES.iter().filter(|rule| rule.hidden.is_none() && !KNOWN.contains(&rule.id) && rule.id != "AUTH-14") {
        assert!(found_ever.contains(rule.id), "no fault breaks {}", rule.id);
    }
}

/// Faults that show in one playlist, and that an independent strict reader (npm `hls-parser`) refuses to read too. The others
/// show between playlists, in media, in headers or in time, or it does not look for them.
const REFUSED_BY_THE_STRICT_READER: [&str; 6] = [
    "a date range without an id",
    "a segment three times as long as it may be",
    "a version that is too low",
    "parts longer than their target",
    "parts shorter than 85 % of their target",
    "two hints",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_strict_reader_refuses_planted_faults_and_nothing_else() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    let [video, audio] = [rig.playlist_path("show", "video").await, rig.playlist_path("show", "audio").await];
    rig.playlist_when(&video, "enough of it", |playlist| playlist.complete().count() >= 8).await;
    let mut servers = Vec::new();
    let mut urls = serde_json::Map::new();
    let of = |server: std::net::SocketAddr| {
        ["/live/show/index.m3u8", &video, &audio].map(|path| format!("http://{server}{path}")).to_vec()
    };
    for fault in FAULTS {
        let server = FaultServer::start(rig.http(), *fault, SEED).await;
        urls.insert(fault.name.into(), of(server.address).into());
        servers.push(server);
    }
    urls.insert("none".into(), of(rig.http()).into());
    let script = "const {createRequire}=require('node:module');const r=createRequire(process.argv[1]+'/package.json');\
        const p=r('hls-parser');p.setOptions({strictMode:true});(async()=>{for(const [name,urls] of \
        Object.entries(JSON.parse(process.argv[2])))for(const u of urls){try{const a=await fetch(u);if(a.ok)p.parse(await a.text())}\
        catch(e){console.log(name+'\\t'+e);break}}})()";
    let (tools, urls) = (testkit::programs::tools(), serde_json::Value::from(urls).to_string());
    let arguments = ["node", "-e", script, tools.to_str().expect("plain"), &urls];
    let (success, out, errors) = Program::start("/usr/bin/env", arguments).finish().await;
    assert!(success, "{errors}");
    let refused: BTreeSet<&str> = out.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(refused, BTreeSet::from(REFUSED_BY_THE_STRICT_READER), "{out}");
}
