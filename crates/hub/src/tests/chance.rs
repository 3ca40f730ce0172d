//! Legs that do whatever chance wills.

use super::*;

/// Random legs: two paths of one encode that lose, stall, jump, leave and return. At any time one of the two is sound.
#[test]
fn whatever_one_path_does_the_other_makes_up_for_it() {
    for seed in 1..=60 {
        let mut random = Random(seed * 7_919);
        let merge_mode = if seed % 2 == 0 { MergeMode::Steady } else { MergeMode::Swift };
        let mut world = World::new(HubConfig { merge_mode, ..HubConfig::default() });
        let offset = i64::try_from(random.below(1_000_000)).expect("small");
        let paths =
            [path(1, 0, random.below(100), random.chance(50)), path(1, offset, random.below(180), random.chance(50))];
        let end = 40 * SECOND;
        let mut acts = carry(0, &paths[0], 0, end);
        acts.extend(carry(1, &paths[1], i64::try_from(random.below(3000)).expect("small") * MILLI, end));
        let mut set_backs = 0;
        // Every four seconds one of them suffers for up to a second and a half, from the fifth second on.
        for begin in (5..36).step_by(4) {
            let victim = usize::try_from(random.below(2)).expect("small");
            let from = begin * SECOND + i64::try_from(random.below(1000)).expect("small") * MILLI;
            let length = i64::try_from(50 + random.below(1450)).expect("small") * MILLI;
            let is_hit = |made: &Made| (from..from + length).contains(&made.nanos());
            match random.below(5) {
                0 => acts.retain(|(_, leg, act)| !(*leg == victim && matches!(act, Act::Bring(made) if is_hit(made)))),
                1 => acts.retain(|(_, leg, act)| {
                    !(*leg == victim && matches!(act, Act::Bring(made) if is_hit(made) && random.chance(40)))
                }),
                2 => {
                    // It stands still, then everything comes at once.
                    for (at, leg, act) in &mut acts {
                        if *leg == victim && matches!(act, Act::Bring(made) if is_hit(made)) {
                            *at = (*at).max(from + length + nanos(paths[victim].delay));
                        }
                    }
                }
                3 => {
                    let by = jump(&mut random);
                    set_backs += i64::from(by < 0);
                    acts.push((from, victim, Act::Jump(by)));
                }
                _ => {
                    acts.retain(|(_, leg, act)| !(*leg == victim && matches!(act, Act::Bring(made) if is_hit(made))));
                    acts.push((from, victim, Act::Leave));
                    acts.push((from + length, victim, Act::Connect));
                }
            }
        }
        let _legs = play(&mut world, &paths, &[("a", 0), ("b", 0)], acts, end);
        world.check();
        let events = world.hub.events().since(0, 1000);
        let story: Vec<_> =
            events.iter().map(|event| format!("{} {}", event.utc_nanos / MILLI % 100_000, event.text)).collect();
        let [pictures, sound] = world.missing(1);
        // A leg whose sound was set back by some tens of milliseconds settles half a second later, by one frame.
        let is_whole = pictures == 0 && sound <= set_backs;
        assert!(is_whole, "seed {seed}: {pictures}, {sound}: {:?} {story:#?}", world.status().copies);
        assert!(world.skew_ms() <= 40, "seed {seed}: {} ms", world.skew_ms());
        assert_eq!(world.status().program.discontinuities, 0, "seed {seed}");
    }
}

/// By how much stamps jump, in nanoseconds: as a restart does. Up to two seconds forward is a hole, and up to half a second back disorder.
fn jump(random: &mut Random) -> i64 {
    let millis = i64::try_from(2500 + random.below(10_000)).expect("small");
    if random.chance(50) { millis * MILLI } else { -millis * MILLI }
}

/// Two paths of one encode, a backup that is another encode, and a slate: they leave, return, stand still and jump, any of them and several at
/// once, and an operator does what operators do.
#[test]
fn whatever_legs_and_operators_do_what_is_well_is_shown_once_and_in_order() {
    for seed in 1..=30 {
        let mut random = Random(seed * 104_729);
        let merge_mode = if seed % 2 == 0 { MergeMode::Steady } else { MergeMode::Swift };
        let hold_down = Duration::from_millis(500 + random.below(4000));
        let mut world = World::new(HubConfig { merge_mode, hold_down, ..HubConfig::default() });
        let paths = [
            path(1, 0, random.below(100), random.chance(50)),
            path(1, 777_000, random.below(180), random.chance(50)),
            path(2, 5_000, random.below(180), random.chance(50)),
            path(9, 0, 0, true),
        ];
        let keys = [("a", 0), ("a", 0), ("b", 1), ("slate", crate::SLATE_RANK)];
        let end = 80 * SECOND;
        let mut acts: Vec<_> = (0..4).flat_map(|leg| carry(leg, &paths[leg], 0, end)).collect();
        // When something was done, what comes of it may still be seen, and in which encode: what befalls a leg does nothing to another encode,
        // what an operator does may.
        let mut troubles = Vec::new();
        for begin in (4..72).step_by(4) {
            let victim = usize::try_from(random.below(3)).expect("small");
            let from = begin * SECOND + i64::try_from(random.below(1500)).expect("small") * MILLI;
            let length = i64::try_from(50 + random.below(850)).expect("small") * MILLI;
            let is_hit = |made: &Made| (from..from + length).contains(&made.nanos());
            let leg = random.below(8);
            let what = random.below(8);
            match what {
                0 | 1 => {
                    acts.push((from, victim, Act::Leave));
                    acts.push((from + length, victim, Act::Connect));
                }
                2 | 3 => {
                    for (at, leg, act) in &mut acts {
                        if *leg == victim && matches!(act, Act::Bring(made) if is_hit(made)) {
                            *at = (*at).max(from + length + nanos(paths[victim].delay));
                        }
                    }
                }
                4 => acts.push((from, victim, Act::Jump(jump(&mut random)))),
                5 => {
                    acts.push((from, victim, Act::Operate(Operation::Pin(Some(leg)))));
                    acts.push((from + length, victim, Act::Operate(Operation::Pin(None))));
                }
                6 => acts.push((from, victim, Act::Operate(Operation::SwitchTo(leg)))),
                _ => {
                    acts.push((from, victim, Act::Operate(Operation::SetDisabled(leg, true))));
                    acts.push((from + length, victim, Act::Operate(Operation::SetDisabled(leg, false))));
                }
            }
            let encode = Some(paths[victim].encode).filter(|_| what < 5);
            troubles.push((encode, from - SECOND / 2..from + length + 3 * SECOND / 2));
        }
        let _legs = play(&mut world, &paths, &keys, acts, end);
        world.check();
        let events = world.hub.events().since(0, 10_000);
        let story = || -> Vec<String> {
            events.iter().map(|event| format!("{} {}", (event.utc_nanos - UTC) / MILLI, event.text)).collect()
        };
        assert!(world.skew_ms() <= 40, "seed {seed}: {} ms {:#?}", world.skew_ms(), story());
        for track in 0..2 {
            let of_track: Vec<Made> =
                world.out.iter().map(|(made, _)| *made).filter(|made| made.track == track).collect();
            for pair in of_track.windows(2) {
                let is_whole = pair[0].encode != pair[1].encode || pair[1].number == pair[0].number + 1;
                let is_told = |(encode, trouble): &(Option<u8>, std::ops::Range<i64>)| {
                    let is_of_it = encode.is_none_or(|encode| encode == pair[0].encode);
                    is_of_it && pair[0].nanos() < trouble.end && trouble.start < pair[1].nanos()
                };
                assert!(is_whole || troubles.iter().any(is_told), "seed {seed}: {pair:?} {:#?}", story());
            }
            let last = of_track.last().expect("something came out");
            assert!(last.nanos() > end - SECOND, "seed {seed}: the last is {last:?} {:#?}", story());
        }
    }
}
