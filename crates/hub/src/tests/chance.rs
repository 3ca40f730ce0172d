//! One encode over two paths that do whatever chance wills.

use super::*;

/// Random legs: two paths of one encode that lose, stall, jump, leave and return, beside another encode. At any time one of the
/// two paths is sound.
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
        // Every four seconds one of them suffers for up to a second and a half, from the fifth second on.
        for begin in (5..36).step_by(4) {
            let victim = usize::try_from(random.below(2)).expect("small");
            let from = begin * SECOND + i64::try_from(random.below(1000)).expect("small") * MILLI;
            let length = i64::try_from(50 + random.below(1450)).expect("small") * MILLI;
            let is_hit = |made: &Made| (from..from + length).contains(&made.nanos());
            match random.below(4) {
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
        assert_eq!(world.missing(1), [0, 0], "seed {seed}: {:?} {story:#?}", world.status().copies);
        assert!(world.skew_ms() <= 40, "seed {seed}: {} ms", world.skew_ms());
        assert_eq!(world.status().program.discontinuities, 0, "seed {seed}");
    }
}
