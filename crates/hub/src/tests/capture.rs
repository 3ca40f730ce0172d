//! Encoders that tell when their pictures were captured.

use super::*;

/// Two encoders film the same, over paths with these delays; the first one dies. How far apart both lie in the program, in milliseconds, and
/// what is told of the switch.
fn cut(delays: (u64, u64), clock_errors: [Option<i64>; 2]) -> (i64, String) {
    let mut world = World::new(HubConfig::default());
    let mut paths = [path(1, 0, delays.0, true), path(2, 777_000, delays.1, false)];
    for (path, error) in paths.iter_mut().zip(clock_errors) {
        path.clock_error_nanos = error;
    }
    let mut acts = carry(0, &paths[0], 0, 20 * SECOND);
    acts.retain(|(at, _, act)| !(matches!(act, Act::Bring(_)) && *at > 10 * SECOND));
    acts.push((10 * SECOND + MILLI, 0, Act::Leave));
    acts.extend(carry(1, &paths[1], 2 * SECOND, 20 * SECOND));
    let _legs = play(&mut world, &paths, &[("a", 0), ("b", 1)], acts, 20 * SECOND);
    world.check();
    assert!(world.skew_ms() <= 40, "{} ms", world.skew_ms());
    let lies = |encode: u8| {
        let pictures = world.out.iter().filter(|(made, _)| (made.encode, made.track) == (encode, 0));
        pictures
            .map(|(made, nanos)| nanos - made.nanos())
            .next_back()
            .unwrap_or_else(|| panic!("{encode} of {delays:?}: {:?}", world.hub.events().since(0, 100)))
    };
    let text = world.switches().last().expect("switched").text.clone();
    ((lies(2) - lies(1)).abs() / MILLI, text)
}

#[test]
fn what_both_encoders_filmed_at_one_time_lies_at_one_time_whatever_their_delay() {
    for delays in [(10, 400), (400, 10), (10, 900), (900, 10), (20, 20)] {
        let (apart, text) = cut(delays, [Some(0), Some(0)]);
        assert!(apart <= 1 && text.contains("aligned by the times of capture"), "{delays:?}: {apart} ms, {text}");
        let (apart, _) = cut(delays, [Some(0), Some(-3600 * SECOND)]);
        assert!(apart <= 1, "{delays:?}, in another zone: {apart} ms");
    }
}

#[test]
fn without_times_or_with_wrong_ones_arrival_tells_where_an_encoder_lies() {
    for clock_errors in
        [[None, None], [Some(0), None], [None, Some(0)], [Some(0), Some(-2 * SECOND)], [Some(0), Some(300 * SECOND)]]
    {
        let (apart, text) = cut((10, 400), clock_errors);
        assert!((300..=500).contains(&apart) && !text.contains("capture"), "{clock_errors:?}: {apart} ms, {text}");
    }
}
