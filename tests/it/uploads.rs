//! Bodies that do not move: whoever lets them wait, they end by a named limit and no lane is blamed.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::fixture::backend::PlayedBackend;
use super::fixture::wire::Wire;
use super::fixture::{CHAT, Scene, Stage, eventually, within};

const LIMITS: &str = "[limits]\nbody_idle = \"300ms\"\nrequest_replay = \"4KiB\"";

/// A body far larger than sockets hold.
const LARGE: usize = 64 << 20;

async fn stage() -> (PlayedBackend, Stage) {
    let east = PlayedBackend::listen().await;
    let stage = Scene::of([("west", 2)]).played("east", 1, east.address).toml(LIMITS).start();
    (east, stage)
}

fn head(length: usize) -> String {
    format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n")
}

async fn no_lane_changed(stage: &Stage, ended: &str) {
    eventually("the place is free", || stage.backend("east").in_flight == 0).await;
    let east = stage.backend("east");
    assert_eq!((east.state, stage.seen("west")), ("admitting", 0));
    assert!(east.lanes.iter().all(|lane| lane.state == "admitting"));
    eventually("it is written down", || stage.log().contains(ended)).await;
}

#[tokio::test]
async fn a_body_that_stops_coming_is_408_long_before_the_deadline() {
    let (_east, stage) = stage().await;
    let mut wire = Wire::connect(stage.balancer.address()).await;
    // A byte now and then is progress; none is not.
    wire.write(head(1000)).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        wire.write("{").await;
    }
    let (told, _) = wire.rest().await;
    assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("\"code\":\"Timeout\""), "{told}");
    // Chunks without bytes cannot be; in HTTP/2 frames without bytes can (`frames`).
    no_lane_changed(&stage, "\"status\":408").await;
}

#[tokio::test]
async fn an_upload_whose_caller_stalls_is_408_and_cancels_the_backends_work() {
    let (east, stage) = stage().await;
    let mut wire = Wire::connect(stage.balancer.address()).await;
    wire.write(head(LARGE)).await;
    wire.write(vec![b'x'; 10_000]).await;
    let mut backend = east.accept().await;
    backend.until("\r\n\r\n").await;
    backend.exactly(10_000).await;
    let (told, _) = wire.rest().await;
    assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("\"code\":\"Timeout\""), "{told}");
    within("the backend hears of it", backend.rest()).await;
    no_lane_changed(&stage, "\"status\":408").await;
    assert_eq!(stage.backend("east").failed_total, 0);
}

#[tokio::test]
async fn an_upload_that_its_backend_does_not_take_ends_whether_its_caller_stays_or_leaves() {
    for leaves in [false, true] {
        let (east, stage) = stage().await;
        let mut wire = Wire::connect(stage.balancer.address()).await;
        wire.write(head(LARGE)).await;
        // The backend takes the connection and reads nothing; the caller never stops trying, or it would be to blame.
        let piece = vec![b'x'; LARGE];
        let (reading, mut writing) = wire.socket.split();
        let sending = async {
            writing.write_all(&piece).await.unwrap();
            panic!("all of it found room");
        };
        if leaves {
            let _cut = timeout(Duration::from_millis(100), sending).await;
            let backend = east.accept().await;
            drop(wire);
            no_lane_changed(&stage, "\"ended\":").await;
            drop(backend);
            continue;
        }
        let (backend, _) = tokio::join!(east.accept(), async {
            tokio::select! {
                () = sending => {}
                readable = within("an answer", reading.readable()) => readable.unwrap(),
            }
        });
        let told = wire.until("backend_timeout").await;
        assert!(told.starts_with("HTTP/1.1 504 "), "{told}");
        no_lane_changed(&stage, "\"status\":504").await;
        drop(backend);
    }
}

#[tokio::test]
async fn a_slow_upload_that_moves_is_served() {
    let (east, stage) = stage().await;
    let mut wire = Wire::connect(stage.balancer.address()).await;
    wire.write(head(6 * 2_000)).await;
    let sending = async {
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            wire.write("x".repeat(2_000)).await;
        }
    };
    let playing = async {
        let mut backend = east.accept().await;
        backend.until("\r\n\r\n").await;
        backend.exactly(6 * 2_000).await;
        // It thinks for longer than a body may stand still: the body is there.
        tokio::time::sleep(Duration::from_millis(500)).await;
        backend.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        backend
    };
    let ((), _backend) = tokio::join!(sending, playing);
    assert!(wire.until("\r\n\r\n{}").await.starts_with("HTTP/1.1 200"));
    assert_eq!(stage.backend("east").failed_total, 0);
}
