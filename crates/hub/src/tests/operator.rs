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
    let leader = |world: &World| world.status().legs.first().map(|leg| leg.id);
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

#[test]
fn where_an_operator_put_the_stream_it_stays() {
    let mut world = World::new(HubConfig { hold_down: Duration::from_secs(1), ..HubConfig::default() });
    let paths = [path(1, 0, 20, true), path(2, 0, 20, true)];
    let mut legs = [world.connect("a", 0), world.connect("b", 1)];
    let stream = std::sync::Arc::clone(legs[0].stream());
    for made in units(1, 0, 15 * SECOND) {
        world.now_nanos = made.nanos();
        for (leg, path) in legs.iter_mut().zip(&paths) {
            world.bring(leg, path, Made { encode: path.encode, ..made });
        }
        world.tick();
        if made.number == 5 * RATE && made.track == 0 {
            stream.switch_to(world.at(), 1).expect("is there");
        }
    }
    world.check();
    assert_eq!(world.status().legs.first().map(|leg| leg.id), Some(1));
    assert_eq!(world.switches().len(), 2);
}
