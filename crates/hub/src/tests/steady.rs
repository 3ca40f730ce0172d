//! Legs that carry the same encode, and the mode that waits for the slower one.

use super::*;

/// How late pictures came out from a time of the encoder on, the least and the most, in milliseconds; what is missing; how often
/// the program changed its leg.
fn lateness(mode: MergeMode, delays: (u64, u64), dies: usize) -> (i64, i64, [i64; 2]) {
    within(HubConfig::default().merge_window, mode, delays, dies)
}

fn within(merge_window: Duration, mode: MergeMode, delays: (u64, u64), dies: usize) -> (i64, i64, [i64; 2]) {
    let mut world = World::new(HubConfig { merge_mode: mode, merge_window, ..HubConfig::default() });
    let paths = [path(1, 0, delays.0, true), path(1, 777_000, delays.1, false)];
    let mut acts = carry(0, &paths[0], 0, 20 * SECOND);
    acts.extend(carry(1, &paths[1], 0, 20 * SECOND));
    // One path breaks; what was on its way is lost with it.
    acts.retain(|(at, leg, act)| !(*leg == dies && matches!(act, Act::Bring(_)) && *at > 10 * SECOND));
    acts.push((10 * SECOND + MILLI, dies, Act::Leave));
    let _legs = play(&mut world, &paths, &[("a", 0), ("a", 0)], acts, 19 * SECOND);
    world.check();
    let filled = world.status().copies.repaired;
    assert_eq!(filled, 0, "nothing was lacking");
    let settled = world.late.iter().filter(|(made, _)| made.track == 0 && made.nanos() > 5 * SECOND);
    let late: Vec<i64> = settled.map(|(_, late)| late / MILLI).collect();
    (*late.iter().min().expect("pictures"), *late.iter().max().expect("pictures"), world.missing(1))
}

#[test]
fn steady_waits_for_the_slower_copy_and_losing_either_changes_nothing() {
    for dies in [0, 1] {
        for delays in [(10, 150), (150, 10)] {
            let (least, most, missing) = lateness(MergeMode::Steady, delays, dies);
            assert_eq!(missing, [0, 0]);
            assert!(least >= 145 && most <= 200, "{delays:?}, leg {dies} dies: {least} to {most} ms");
        }
    }
}

/// A satellite beside a fibre.
#[test]
fn with_a_wider_window_copies_may_be_seconds_apart() {
    for (dies, delays) in [(0, (10, 2000)), (1, (10, 2000)), (0, (2000, 10)), (0, (10, 4000))] {
        let (least, most, missing) = within(Duration::from_secs(5), MergeMode::Steady, delays, dies);
        let apart = i64::try_from(delays.0.max(delays.1)).expect("small");
        assert_eq!(missing, [0, 0], "{delays:?}, leg {dies} dies: {least} to {most} ms");
        assert!(most <= apart + 300, "{delays:?}, leg {dies} dies: {least} to {most} ms");
        let (least, most, missing) = within(Duration::from_secs(5), MergeMode::Swift, delays, dies);
        assert_eq!(missing, [0, 0], "swift, {delays:?}, leg {dies} dies: {least} to {most} ms");
    }
}

#[test]
fn swift_is_as_fast_as_the_faster_copy_and_pays_for_losing_it() {
    let (least, most, missing) = lateness(MergeMode::Swift, (10, 150), 0);
    assert_eq!(missing, [0, 0]);
    assert!(least <= 15 && most >= 150, "{least} to {most} ms");
}

#[test]
fn steady_waits_no_longer_than_the_window() {
    let (least, most, missing) = lateness(MergeMode::Steady, (10, 500), 1);
    assert_eq!(missing, [0, 0]);
    assert!(least >= 10 && most <= 260, "{least} to {most} ms");
}

#[test]
fn a_copy_that_stands_still_for_once_does_not_make_the_program_wait_for_it_from_then_on() {
    let config =
        HubConfig { merge_mode: MergeMode::Steady, merge_window: Duration::from_secs(5), ..HubConfig::default() };
    let mut world = World::new(config);
    let paths = [path(1, 0, 10, true), path(1, 777_000, 100, true)];
    let mut acts = carry(0, &paths[0], 0, 20 * SECOND);
    acts.extend(carry(1, &paths[1], 0, 20 * SECOND));
    for (at, leg, _) in &mut acts {
        if *leg == 1 && (8 * SECOND..11 * SECOND).contains(at) {
            *at = 11 * SECOND;
        }
    }
    let _legs = play(&mut world, &paths, &[("a", 0), ("a", 0)], acts, 19 * SECOND);
    world.check();
    assert_eq!(world.missing(1), [0, 0]);
    let worst = world.late.iter().map(|(_, late)| late / MILLI).max();
    assert!(worst.is_some_and(|worst| worst <= 250), "{worst:?} ms");
}

/// Two paths with these delays carry one track, what is kept of it; the second one comes after three seconds, and one of them leaves.
fn of_one_track(track: u8, is_kept: fn(&Made) -> bool, delays: [u64; 2], (dies, at): (usize, i64)) -> World {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, delays[0], true), path(1, 777_000, delays[1], false)];
    let mut legs = [0, 1].map(|_| {
        let publisher = Publisher { protocol: "rtmp", key_id: "a".into(), ..Publisher::default() };
        let mut leg = world.hub.publish(world.at(), &name(), publisher).expect("let in");
        let announcement = Announcement { video: track == 0, audio: track == 1, ..Announcement::default() };
        leg.announce(world.at().now, announcement);
        if track == 0 {
            leg.video_config(world.at(), VideoCodec::Avc, &Bytes::from_static(RECORD)).expect("valid");
        } else {
            leg.audio_config(world.at(), AudioCodec::Aac, &Bytes::from_static(&[0x11, 0x90])).expect("valid");
        }
        world.subscriber.get_or_insert_with(|| leg.stream().subscribe_from_oldest());
        Some(leg)
    });
    let of = |leg: usize| units(1, i64::try_from(leg).expect("few") * 3 * SECOND, at + 6 * SECOND).into_iter();
    let mut acts: Vec<_> = [0, 1].into_iter().flat_map(|leg| of(leg).map(move |made| (leg, made))).collect();
    acts.retain(|(_, made)| made.track == track && is_kept(made));
    acts.sort_by_key(|(leg, made)| made.nanos() + nanos(paths[*leg].delay));
    for (leg, made) in acts {
        world.now_nanos = made.nanos() + nanos(paths[leg].delay);
        world.tick();
        if world.now_nanos > at
            && let Some(dead) = legs[dies].take()
        {
            dead.close(world.at());
        }
        if let Some(leg_there) = &mut legs[leg] {
            world.bring(leg_there, &paths[leg], made);
        }
    }
    world.now_nanos += SECOND;
    world.tick();
    world.check();
    world
}

#[test]
fn sound_without_a_picture_is_merged_too_and_either_copy_may_die() {
    for dies in [0, 1] {
        let world = of_one_track(1, |_| true, [10, 60], (dies, 6 * SECOND));
        assert_eq!(world.missing(1), [0, 0], "{:?}", world.status().copies);
        assert_eq!(world.silence, 0);
        let events = world.hub.events().since(0, 100);
        assert!(events.iter().any(|event| event.kind == EventKind::Merged), "{events:?}");
    }
}

#[test]
fn copies_that_are_too_far_apart_to_help_each_other_are_told_once() {
    let told = |slow: u64| {
        let mut world = World::new(HubConfig::default());
        let fast = path(1, 0, 10, true);
        let paths = [fast, path(1, 777_000, slow, false), fast];
        let mut acts = carry(0, &paths[0], 0, 12 * SECOND);
        acts.push((12 * SECOND, 0, Act::Leave));
        acts.extend(carry(1, &paths[1], 0, 30 * SECOND));
        acts.extend(carry(2, &paths[2], 14 * SECOND, 30 * SECOND));
        let _legs = play(&mut world, &paths, &[("a", 0); 3], acts, 29 * SECOND);
        world.check();
        assert_eq!(world.missing(1), [0, 0]);
        let events = world.hub.events().since(0, 100).into_iter();
        let apart =
            events.filter(|event| event.kind == EventKind::LegApart).map(|event| (event.leg, event.text.clone()));
        apart.collect::<Vec<_>>()
    };
    assert_eq!(told(150), []);
    let [(late, behind), (early, ahead)] = &told(450)[..] else { panic!("{:?}", told(450)) };
    assert_eq!((*late, *early), (Some(1), Some(2)));
    assert!(behind.contains("440 ms") && behind.contains("late"), "{behind}");
    assert!(ahead.contains("ahead of the program") && ahead.contains("merge_window_ms, 200"), "{ahead}");
}

#[test]
fn a_copy_with_a_picture_a_second_is_merged_though_its_newest_is_a_second_ahead() {
    let world = of_one_track(0, |made| made.number % RATE == 0, [40, 10], (0, 30 * SECOND));
    let seconds: Vec<i64> = world.out.iter().map(|(made, _)| made.number / RATE).collect();
    assert_eq!(seconds, (0..36).collect::<Vec<_>>());
    let kinds: Vec<_> = world.hub.events().since(0, 100).iter().map(|event| (event.kind, event.leg)).collect();
    assert!(kinds.contains(&(EventKind::Merged, Some(1))), "{kinds:?}");
}
