//! The happy path takes no memory, however many backends there are.

use super::{Attempts, Verdict, World, headers, millis};

#[test]
fn a_request_that_is_served_at_once_allocates_nothing() {
    let told = headers(&[
        ("x-ratelimit-limit-tokens", "3000000"),
        ("x-ratelimit-remaining-tokens", "2900000"),
        ("x-ratelimit-remaining-requests", "179"),
    ]);
    for count in [1, 8, 200] {
        let mut world = World::equals(count);
        let mut serve = |conversation| {
            world.ask.conversation = conversation;
            world.pass(millis(20));
            let attempts = &mut Attempts::default();
            let pick = world.pick(attempts).expect("all admit");
            world.pool.answered(world.now, &pick, &told, attempts);
            world.pool.report(world.now, pick, Verdict::Served { tokens: 900 }, attempts);
        };
        // Once for what is kept: the deployment's route, room to work in.
        serve(None);
        let counted = allocation_counter::measure(|| {
            for turn in 0..500 {
                serve((turn % 2 == 0).then_some(turn));
            }
        });
        assert_eq!(counted.count_total, 0, "{count} backends: {counted:?}");
    }
}
