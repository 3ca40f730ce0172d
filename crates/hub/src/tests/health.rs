//! Legs that deliver and are not well.

use super::*;

#[test]
fn an_encoder_that_brings_a_third_of_its_pictures_gives_way_and_comes_back_when_it_is_well() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 20, true), path(2, 0, 20, true)];
    let mut acts = carry(0, &paths[0], 0, 50 * SECOND);
    let is_left_out = |made: &Made| {
        let is_weak = (10 * SECOND..20 * SECOND).contains(&made.nanos());
        made.track == 0 && is_weak && made.number % GOP != 0 && made.number % 3 != 0
    };
    acts.retain(|(_, leg, act)| *leg != 0 || !matches!(act, Act::Bring(made) if is_left_out(made)));
    acts.extend(carry(1, &paths[1], 0, 50 * SECOND));
    let _legs = play(&mut world, &paths, &[("a", 0), ("b", 1)], acts, 50 * SECOND);

    world.check();
    let switches = world.switches();
    let reasons: Vec<_> = switches.iter().filter_map(|event| event.reason).collect();
    assert_eq!(reasons, [SwitchReason::Joined, SwitchReason::Degraded, SwitchReason::Preferred]);
    let after = switches[1].utc_nanos - UTC;
    assert!((11 * SECOND..14 * SECOND).contains(&after), "{} ms", after / MILLI);
    assert!(switches[1].text.contains("pictures a second where"), "{}", switches[1].text);
    let after = switches[2].utc_nanos - UTC;
    assert!((31 * SECOND..35 * SECOND).contains(&after), "after the hold-down: {} ms", after / MILLI);
}

#[test]
fn a_weak_leg_is_better_than_none_and_than_a_slate() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 20, true), path(2, 0, 20, true)];
    let mut acts = carry(0, &paths[0], 0, 30 * SECOND);
    acts.retain(|(at, leg, act)| {
        *leg != 0
            || *at < 10 * SECOND
            || !matches!(act, Act::Bring(made) if made.track == 0 && made.number % GOP != 0 && made.number % 3 != 0)
    });
    acts.extend(carry(1, &paths[1], 15 * SECOND, 30 * SECOND));
    let _legs = play(&mut world, &paths, &[("a", 0), ("slate", crate::SLATE_RANK)], acts, 29 * SECOND);

    let status = world.status();
    assert_eq!(status.legs.first().map(|leg| (leg.id, leg.role)), Some((0, LegRole::Feeding)));
    let leg = status.legs.first().expect("two");
    assert_eq!(leg.state, crate::LegState::Suspect);
    assert!(leg.weakness.as_ref().is_some_and(|text| text.contains("pictures")), "{:?}", leg.weakness);
    assert_eq!(world.switches().len(), 1);
}

#[test]
fn without_a_picture_and_with_sound_a_slate_stands_in_until_the_picture_is_back() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 20, true), path(2, 0, 20, true)];
    let mut acts = carry(0, &paths[0], 0, 30 * SECOND);
    let is_left_out = |made: &Made| made.track == 0 && (10 * SECOND..20 * SECOND).contains(&made.nanos());
    acts.retain(|(_, leg, act)| *leg != 0 || !matches!(act, Act::Bring(made) if is_left_out(made)));
    // What shows slates looks at the stream when a leg is called dead.
    let (before, after) = (10 * SECOND + 1_900 * MILLI, 10 * SECOND + 2_200 * MILLI);
    let later = acts.extract_if(.., |(at, ..)| *at >= after).collect::<Vec<_>>();
    let between = acts.extract_if(.., |(at, ..)| *at >= before).collect::<Vec<_>>();
    let mut legs = play(&mut world, &paths, &[("a", 0), ("slate", crate::SLATE_RANK)], acts, before);
    let stream = world.hub.stream(&name()).expect("there");
    assert!(!stream.has_source(world.at().now) && !stream.is_dark(world.at().now), "not yet");
    let mut first = legs.remove(0);
    let mut rest = |world: &mut World, acts: Vec<(i64, usize, Act)>, slate: &mut Option<Leg>| {
        for (at, leg, act) in acts {
            world.now_nanos = at;
            world.tick();
            match (act, leg) {
                (Act::Connect, _) => *slate = Some(world.connect("slate", crate::SLATE_RANK)),
                (Act::Bring(made), 0) => world.bring(first.as_mut().expect("connected"), &paths[0], made),
                (Act::Bring(made), _) => world.bring(slate.as_mut().expect("connected"), &paths[1], made),
                (Act::Leave | Act::Jump(_) | Act::Operate(_) | Act::LookBlack, _) => unreachable!("nobody leaves"),
            }
        }
    };
    let mut slate = None;
    rest(&mut world, between, &mut slate);
    assert!(stream.is_dark(world.at().now), "it is time for the slate");
    let dead = world.hub.events().since(0, 1000);
    let dead = dead.iter().rfind(|event| event.kind == EventKind::LegState).expect("told");
    assert!(dead.text.contains("is dead: nothing for 2"), "{}", dead.text);
    let mut later = later;
    later.extend(carry(1, &paths[1], after, 30 * SECOND));
    later.sort_by_key(|(at, ..)| *at);
    rest(&mut world, later, &mut slate);

    world.check();
    let reasons: Vec<_> = world.switches().iter().filter_map(|event| event.reason).collect();
    assert_eq!(reasons, [SwitchReason::Joined, SwitchReason::Silent, SwitchReason::Recovered]);
}

#[test]
fn a_weak_copy_does_not_keep_out_what_comes_later_over_one_that_is_well() {
    for weak in [0, 1] {
        let mut world = World::new(HubConfig::default());
        let mut paths = [path(1, 0, 600, true), path(1, 777_000, 600, false)];
        paths[weak].delay = Duration::from_millis(10);
        let mut acts = carry(0, &paths[0], 0, 30 * SECOND);
        acts.extend(carry(1, &paths[1], 0, 30 * SECOND));
        let is_left_out = |made: &Made| made.track == 0 && made.nanos() >= 10 * SECOND && made.number % 4 != 0;
        acts.retain(|(_, leg, act)| *leg != weak || !matches!(act, Act::Bring(made) if is_left_out(made)));
        let _legs = play(&mut world, &paths, &[("a", 0), ("b", 1)], acts, 29 * SECOND);

        world.check();
        let merged = world.hub.events().since(0, 1000).iter().any(|event| event.kind == EventKind::Merged);
        assert!(merged, "they were copies before");
        let pictures = world.late.iter().filter(|(made, _)| made.track == 0);
        let last: Vec<i64> = pictures.map(|(made, _)| made.number).filter(|number| *number > 16 * RATE).collect();
        assert!(last.len() > 300 && last.windows(2).all(|two| two[1] == two[0] + 1), "leg {weak} is weak");
    }
}

#[test]
fn encodes_that_begin_alike_and_have_the_same_sound_part_when_their_pictures_do() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 10, true), path(1, 777_000, 150, false)];
    let mut acts = carry(0, &paths[0], 0, 20 * SECOND);
    acts.extend(carry(1, &paths[1], 0, 20 * SECOND));
    for (_, leg, act) in &mut acts {
        if let Act::Bring(made) = act
            && (*leg, made.track) == (1, 0)
            && made.number >= 5 * RATE
        {
            made.encode = 2;
        }
    }
    let _legs = play(&mut world, &paths, &[("a", 0), ("b", 1)], acts, 19 * SECOND);
    let of_copies: Vec<(EventKind, i64)> = world
        .hub
        .events()
        .since(0, 1000)
        .iter()
        .filter(|event| matches!(event.kind, EventKind::Merged | EventKind::Parted))
        .map(|event| (event.kind, (event.utc_nanos - UTC) / SECOND))
        .collect();
    assert!(matches!(of_copies[..], [(EventKind::Merged, _), (EventKind::Parted, 5)]), "{of_copies:?}");
}

#[test]
fn a_picture_every_few_seconds_is_no_silence_of_an_encoder_that_sends_no_more() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 20, true), path(2, 0, 20, true)];
    let mut acts = carry(0, &paths[0], 0, 40 * SECOND);
    acts.retain(|(_, _, act)| !matches!(act, Act::Bring(made) if made.track == 0 && made.number % (2 * GOP) != 0));
    acts.extend(carry(1, &paths[1], 10 * SECOND, 40 * SECOND));
    let _legs = play(&mut world, &paths, &[("a", 0), ("b", 1)], acts, 39 * SECOND);

    let events = world.hub.events().since(0, 1000);
    assert!(events.iter().all(|event| event.kind != EventKind::Lost), "{events:#?}");
    let after_first = events.iter().filter(|event| event.utc_nanos > UTC + 5 * SECOND);
    assert!(after_first.into_iter().all(|event| event.kind != EventKind::Switched), "{events:#?}");
}

#[test]
fn an_encoder_that_sends_a_picture_every_three_seconds_is_not_put_out_between_two_of_them() {
    let mut world = World::new(HubConfig { second_publisher: SecondPublisher::Refuse, ..HubConfig::default() });
    let paths = [path(1, 0, 20, true)];
    let mut acts = carry(0, &paths[0], 0, 20 * SECOND);
    acts.retain(|(_, _, act)| !matches!(act, Act::Bring(made) if made.track == 0 && made.number % 90 != 0));
    let mut legs = play(&mut world, &paths, &[("a", 0)], acts, 14 * SECOND + 900 * MILLI);
    let thief = || Publisher { protocol: "rtmp", key_id: "a".into(), ..Publisher::default() };
    let refused = world.hub.publish(world.at(), &name(), thief());
    assert!(matches!(refused, Err(crate::PublishError::Busy(_))), "{refused:?}");
    assert!(legs[0].take().is_some_and(|leg| leg.kicked().borrow().is_none()));
    world.now_nanos += 20 * SECOND;
    assert!(world.hub.publish(world.at(), &name(), thief()).is_ok(), "it is silent now");
}

#[test]
fn how_long_the_server_was_away_is_told_once() {
    let mut world = World::new(HubConfig::default());
    let since = UTC - 2_500 * MILLI;
    world.hub.resume(vec![Outage { stream: name(), utc_nanos: since, is_told: false }]);
    let paths = [path(1, 0, 0, true)];
    let mut acts = carry(0, &paths[0], 0, 4 * SECOND);
    acts.retain(|(_, _, act)| !matches!(act, Act::Bring(made) if (SECOND..7 * SECOND / 2).contains(&made.nanos())));
    let _legs = play(&mut world, &paths, &[("a", 0)], acts, 4 * SECOND);
    let events = world.hub.events().since(0, 100);
    let lost: Vec<_> =
        events.iter().filter(|event| event.kind == EventKind::Lost).map(|event| event.utc_nanos).collect();
    assert_eq!((lost.len(), lost[0]), (2, since), "the server, and the source later");
    let live: Vec<_> = events.iter().filter(|event| event.kind == EventKind::Live).collect();
    let [first, second] = live.as_slice() else { panic!("{live:?}") };
    assert!(first.text.contains("the server was away") && first.gap == Some(Duration::from_millis(2500)), "{first:?}");
    assert!(!second.text.contains("away") && second.gap.is_some_and(|gap| gap < Duration::from_secs(3)), "{second:?}");
}

#[test]
fn what_no_leg_brings_is_told_and_what_one_of_them_brings_is_not() {
    for paths in [vec![path(1, 0, 20, true)], vec![path(1, 0, 20, true), path(1, 777_000, 60, false)]] {
        let mut world = World::new(HubConfig::default());
        let mut acts = carry(0, &paths[0], 0, 30 * SECOND);
        if let Some(path) = paths.get(1) {
            acts.extend(carry(1, path, 0, 20 * SECOND)); // and leaves: that is no hole
        }
        // Of either path one is missing too, which only the other one fills.
        let is_missing = |made: &Made, leg: usize| match made.track {
            0 => {
                (240..243).contains(&made.number)
                    || made.number == 250
                    || paths.len() > 1 && made.number == [270, 273][leg]
            }
            _ => false,
        };
        acts.retain(|(_, leg, act)| !matches!(act, Act::Bring(made) if is_missing(made, *leg)));
        let _legs = play(&mut world, &paths, &[("a", 0), ("b", 0)], acts, 30 * SECOND);

        world.check();
        assert_eq!(world.missing(1), [4, 0]);
        let holes = world.status().program.holes;
        assert_eq!((holes.pictures, holes.time.as_millis()), (4, 133), "{} paths", paths.len());
        assert_eq!(world.status().copies.repaired, u64::from(paths.len() > 1));
        let events = world.hub.events().since(0, 1000);
        let told: Vec<_> = events.iter().filter(|event| event.kind == EventKind::Hole).collect();
        let [first, second] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((first.units_lost, first.gap.map(|gap| gap.as_millis())), (Some(3), Some(100)), "{first:?}");
        assert!((second.utc_nanos - first.utc_nanos - 10 * SECOND).abs() < SECOND / 5, "not more often: {told:?}");
        assert_eq!((second.units_lost, second.gap.map(|gap| gap.as_millis())), (Some(1), Some(33)), "{second:?}");
    }
}

#[test]
fn another_rate_of_pictures_is_no_hole_and_neither_is_jitter() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 20, true), path(2, 777_000, 20, true)];
    let mut acts = carry(0, &paths[0], 0, 10 * SECOND);
    // The backup sends half as many, and from 20 s on one in five of those is missing.
    let of_backup =
        |made: &Made| made.track == 1 || made.number % 2 == 0 && (made.nanos() < 20 * SECOND || made.number % 10 != 2);
    let backup = carry(1, &paths[1], SECOND, 30 * SECOND);
    acts.extend(backup.into_iter().filter(|(_, _, act)| !matches!(act, Act::Bring(made) if !of_backup(made))));
    let _legs = play(&mut world, &paths, &[("a", 0), ("b", 1)], acts, 30 * SECOND);
    world.check();
    assert!(world.out.iter().filter(|(made, _)| made.encode == 2).count() > 300, "it goes on with the backup");
    let holes = world.status().program.holes;
    assert!((28..=30).contains(&holes.pictures), "{holes:?}");
    assert!(holes.time.as_millis().abs_diff(u128::from(holes.pictures) * 67) < 100, "{holes:?}");
}

#[test]
fn a_slate_is_shown_beside_as_many_legs_as_there_may_be() {
    let mut world = World::new(HubConfig::default());
    let legs: Vec<_> = (0..8).map(|key| world.connect(&key.to_string(), 0)).collect();
    let publisher = |rank| Publisher { protocol: "rtmp", key_id: "x".into(), rank, ..Publisher::default() };
    let ninth = world.hub.publish(world.at(), &name(), publisher(0));
    assert!(matches!(ninth, Err(crate::PublishError::TooManyLegs(_))), "{ninth:?}");
    let slate = world.hub.publish(world.at(), &name(), publisher(crate::SLATE_RANK)).expect("a slate is no ninth");
    assert_eq!(world.status().legs.len(), 9);
    drop((legs, slate));
}

#[test]
fn sound_reaches_the_end_of_the_picture_before_other_sound_follows() {
    let (mut world, paths) = (World::new(HubConfig::default()), [path(1, 0, 0, false), path(2, 0, 0, false)]);
    let mut leg = world.connect("a", 0);
    // Its last picture begins a segment, and no sound comes with it.
    let sounds = |made: &Made| made.track == 0 || made.nanos() < 1900 * MILLI;
    for made in units(1, 0, 61 * SECOND / RATE).into_iter().filter(sounds) {
        world.now_nanos = made.nanos();
        world.bring(&mut leg, &paths[0], made);
    }
    leg.close(world.at());
    assert_eq!(world.silence, 0);
    let mut other = world.connect_with("b", 0, &[0x11, 0x88]);
    for made in units(2, 2 * SECOND, 4 * SECOND) {
        world.now_nanos = made.nanos() + 100 * MILLI;
        world.bring(&mut other, &paths[1], made);
    }
    world.tick();
    world.check();
    assert_eq!(world.switches().len(), 2);
    // 90 frames end at 1,920 ms, the picture at 2,033.3: six frames of 21.3.
    assert_eq!(world.silence, 6);
}

#[test]
fn a_leg_whose_sound_stops_gives_way_to_one_that_has_sound() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 20, true), path(2, 777_000, 20, false)];
    let mut acts = carry(0, &paths[0], 0, 30 * SECOND);
    acts.retain(|(_, _, act)| !matches!(act, Act::Bring(made) if made.track == 1 && made.nanos() > 15 * SECOND));
    acts.extend(carry(1, &paths[1], SECOND, 30 * SECOND));
    let _legs = play(&mut world, &paths, &[("a", 0), ("b", 1)], acts, 30 * SECOND);

    world.check();
    let switches = world.switches();
    let last = switches.last().expect("it switched");
    assert_eq!((switches.len(), last.reason), (2, Some(SwitchReason::Degraded)), "{switches:?}");
    assert!(last.text.contains("no sound for 3"), "{}", last.text);
    let after = last.utc_nanos - UTC - 15 * SECOND;
    assert!((3 * SECOND..4 * SECOND).contains(&after), "{after}");
    let states: Vec<_> = world.status().legs.iter().map(|leg| (leg.publisher.key_id.clone(), leg.state)).collect();
    assert!(states.contains(&("a".into(), crate::LegState::Suspect)), "{states:?}");
}

#[test]
fn a_weak_leg_gives_way_to_a_new_one_only_when_it_is_known_whether_that_is_a_copy() {
    // The other path is shorter, and its first picture comes just before a random access point.
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 160, true), path(1, 777_000, 20, false)];
    let mut acts = carry(0, &paths[0], 0, 20 * SECOND);
    acts.push((9 * SECOND, 0, Act::LookBlack));
    acts.extend(carry(1, &paths[1], 10 * SECOND - 40 * MILLI, 20 * SECOND));
    let _legs = play(&mut world, &paths, &[("a", 0), ("b", 0)], acts, 20 * SECOND);

    world.check();
    assert_eq!(world.missing(1), [0, 0]);
    let switches = world.switches();
    let reasons: Vec<_> = switches.iter().filter_map(|event| event.reason).collect();
    assert_eq!(reasons, [SwitchReason::Joined, SwitchReason::Degraded]);
    assert!(switches[1].text.contains("same encode") && world.silence == 0, "{}", switches[1].text);
}
