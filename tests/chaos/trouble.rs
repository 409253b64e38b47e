//! What befalls the backends: one or two of the troubled ones at a time, something else every moment.

use std::time::Duration;

use fastrand::Rng;
use sidestep::simulator::{Fault, FaultRule, SimulatorHandle};

/// The backends that trouble comes to. `WELL` is never among them.
pub(crate) const TROUBLED: [&str; 4] = ["east", "west", "north", "south"];

/// The last resort: nothing ever befalls it, so it could serve every request at every moment.
pub(crate) const WELL: &str = "well";

/// How bad it gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Temper {
    /// What a bad day on Azure brings: throttling, slowness, a server error now and then.
    Mild,
    /// Every fault that the simulator knows.
    Wild,
}

fn status(status: u16, headers: &[(&str, &str)], body: Option<&str>) -> Fault {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Fault::Status { status, body: body.map(str::to_owned), headers }
}

/// Waits are short, so that a backend is soon in the thick of it again.
fn throttle(rng: &mut Rng) -> Fault {
    let some = |text: &str| Some(text.to_owned());
    let (retry_after, retry_after_ms) = match rng.u8(..6) {
        0 => (None, some(&rng.u32(1..2_000).to_string())),
        1 => (some("1"), None),
        2 => (some("0.3"), some("50")),
        3 => (some("1"), some("nonsense")),
        4 => (some("-1"), some("200")),
        _ => (some("0"), some("0")),
    };
    Fault::Throttle { retry_after, retry_after_ms }
}

fn mild(rng: &mut Rng) -> Fault {
    match rng.u8(..10) {
        0..=5 => throttle(rng),
        6 | 7 => Fault::SlowHead { delay_ms: rng.u64(10..300) },
        8 => Fault::SlowEvents { gap_ms: rng.u64(1..30) },
        _ => Fault::status(500),
    }
}

/// Rare, because the backend is then left alone for a minute or more (a reload ends it): what these answers are.
fn rare(rng: &mut Rng) -> Fault {
    match rng.u8(..5) {
        0 => Fault::status(401),
        1 => Fault::status(403),
        2 => status(
            404,
            &[],
            Some(
                r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}"#,
            ),
        ),
        3 => Fault::throttle_seconds(86_400),
        _ => status(
            429,
            &[("retry-after", "2")],
            Some(
                r#"{"error":{"code":"429","message":"The request exceeds the maximum usage size allowed during peak load."}}"#,
            ),
        ),
    }
}

fn wild(rng: &mut Rng) -> Fault {
    let events = rng.usize(..6);
    match rng.u8(..20) {
        0..=2 => throttle(rng),
        3 => Fault::status([500, 502, 504, 529, 599][rng.usize(..5)]),
        4 => status(503, &[("retry-after-ms", "300")], None),
        5 => Fault::status(408),
        6 => Fault::HangBeforeHead,
        7 => Fault::HangBeforeFirstEvent,
        8 => Fault::SlowHead { delay_ms: rng.u64(10..300) },
        9 => Fault::SlowEvents { gap_ms: rng.u64(1..50) },
        10 => Fault::CloseBeforeHead,
        11 => Fault::Reset,
        12 => Fault::Garbage,
        13 => Fault::CutAfterEvents { events, reset: rng.bool() },
        14 => Fault::CutInsideEvent { events },
        15 => Fault::EndAfterEvents { events },
        16 => Fault::CutMidJson,
        17 => Fault::RateLimitInStream { events },
        18 => Fault::ErrorInStream { events },
        _ => Fault::Refuse,
    }
}

/// Brings trouble forever; ended by being dropped.
pub(crate) async fn brew(resources: SimulatorHandle, temper: Temper, mut rng: Rng) {
    for moment in 0_u32.. {
        for name in TROUBLED {
            resources.resource(name).clear();
        }
        let first = rng.usize(..TROUBLED.len());
        let second = rng.usize(..TROUBLED.len());
        for name in [TROUBLED[first], TROUBLED[second]] {
            let fault = match temper {
                Temper::Mild => mild(&mut rng),
                Temper::Wild if moment % 40 == 39 => rare(&mut rng),
                Temper::Wild => wild(&mut rng),
            };
            let rule =
                if rng.bool() { FaultRule::standing(fault) } else { FaultRule::times(fault, rng.u32(1..10)) };
            resources.resource(name).fault(rule);
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(50..600))).await;
    }
}
