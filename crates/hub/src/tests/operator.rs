//! What operators say.

use super::*;

#[test]
fn what_the_operator_says_comes_first() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 20, true), path(2, 0, 20, true)];
    let mut legs = [world.connect("a", 0), world.connect("b", 1)];
    let stream = std::sync::Arc::clone(legs[0].stream());
    let mut run = |world: &mut World, from: i64, to: i64| {
        for made in units(1, from * SECOND, to * SECOND) {
            world.now_nanos = made.nanos();
            for (leg, path) in legs.iter_mut().zip(&paths) {
                world.bring(leg, path, Made { encode: path.encode, ..made });
            }
            world.tick();
        }
    };
    run(&mut world, 0, 4);
    stream.pin(world.at(), Some(1)).expect("is there");
    run(&mut world, 4, 20);
    assert_eq!(leader(&world), Some(1), "held, although the other one is preferred");
    stream.pin(world.at(), None).expect("can be let go");
    run(&mut world, 20, 23);
    assert_eq!(leader(&world), Some(0));
    stream.set_disabled(world.at(), 0, true).expect("is there");
    run(&mut world, 23, 30);
    assert_eq!(leader(&world), Some(1));
    assert!(stream.switch_to(world.at(), 7).is_err());
    world.check();
}

/// Two encoders of different rank; `act` is called before each picture with the second that begins there, if one does.
fn two_ranks(seconds: i64, mut act: impl FnMut(&World, &crate::Stream, i64), silent: std::ops::Range<i64>) -> World {
    let mut world = World::new(HubConfig { hold_down: Duration::from_secs(1), ..HubConfig::default() });
    let paths = [path(1, 0, 20, true), path(2, 0, 20, true)];
    let mut legs = [world.connect("a", 0), world.connect("b", 1)];
    let stream = std::sync::Arc::clone(legs[0].stream());
    for made in units(1, 0, seconds * SECOND) {
        world.now_nanos = made.nanos();
        if made.track == 0 && made.number % RATE == 0 {
            act(&world, &stream, made.number / RATE);
        }
        for (leg, path) in legs.iter_mut().zip(&paths) {
            if path.encode == 2 || !silent.contains(&(made.nanos() / SECOND)) {
                world.bring(leg, path, Made { encode: path.encode, ..made });
            }
        }
        world.tick();
    }
    world.check();
    world
}

fn leader(world: &World) -> Option<u64> {
    world.status().legs.first().map(|leg| leg.id)
}

#[test]
fn where_an_operator_put_the_stream_it_stays() {
    let act = |world: &World, stream: &crate::Stream, second| {
        if second == 5 {
            stream.switch_to(world.at(), 1).expect("is there");
        }
    };
    let world = two_ranks(15, act, 0..0);
    assert_eq!(leader(&world), Some(1));
    assert_eq!(world.switches().len(), 2);
}

#[test]
fn the_leg_that_leads_stays_when_it_is_wanted() {
    let act = |world: &World, stream: &crate::Stream, second| {
        if second == 8 {
            stream.switch_to(world.at(), 1).expect("is there"); // the preferred one has just failed, and is back from second 9 on
        }
    };
    let world = two_ranks(20, act, 6..9);
    assert_eq!(leader(&world), Some(1));
    let world = two_ranks(20, |_, _, _| {}, 6..9);
    assert_eq!(leader(&world), Some(0), "nobody said so");
}

#[test]
fn a_leg_that_was_chosen_gives_way_when_it_is_not_well_any_more() {
    let weak =
        |world: &World, stream: &crate::Stream| stream.set_seen(world.at(), &[(1, Some("a black picture".into()))]);
    let act = |world: &World, stream: &crate::Stream, second| match second {
        5 => stream.switch_to(world.at(), 1).expect("is there"),
        10 => weak(world, stream),
        _ => {}
    };
    let world = two_ranks(15, act, 0..0);
    assert_eq!(leader(&world), Some(0));
    // Whoever chooses a leg that is not well knows it.
    let act = |world: &World, stream: &crate::Stream, second| match second {
        5 => weak(world, stream),
        7 => stream.switch_to(world.at(), 1).expect("is there"),
        _ => {}
    };
    let world = two_ranks(15, act, 0..0);
    assert_eq!(leader(&world), Some(1));
}

#[test]
fn a_wish_that_waits_for_a_keyframe_ends_with_another_one_and_when_its_leg_falls_ill() {
    // The next keyframe is a second away.
    let pinned = |world: &World, stream: &crate::Stream, second| {
        if second == 5 {
            stream.switch_to(world.at(), 1).expect("is there");
            stream.pin(world.at(), Some(0)).expect("is there");
        }
    };
    let ill = |world: &World, stream: &crate::Stream, second| {
        if second == 5 {
            stream.switch_to(world.at(), 1).expect("is there");
            stream.set_seen(world.at(), &[(1, Some("a black picture".into()))]);
        }
    };
    for world in [two_ranks(15, pinned, 0..0), two_ranks(15, ill, 0..0)] {
        assert_eq!(leader(&world), Some(0));
        assert_eq!(world.switches().len(), 1, "{:?}", world.switches());
    }
}
