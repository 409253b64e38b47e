//! One resource throttles or fails, the next one answers.

use sidestep::simulator::Fault;

use super::fixture::Scene;

#[tokio::test]
async fn a_429_is_absorbed_and_the_next_backend_answers() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    stage.resource("east").fault(Fault::throttle_seconds(30));
    let answer = stage.chat().await;
    assert_eq!((answer.status, answer.region()), (200, Some("west")));
    assert_eq!(answer.header("x-sidestep-attempts"), Some("2"));
    assert_eq!((stage.seen("east"), stage.seen("west")), (1, 1));
}
