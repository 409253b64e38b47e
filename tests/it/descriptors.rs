//! The shipped binary with hardly any file descriptors: it serves whom it can, waits quietly, and recovers.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use sidestep::simulator::{Fault, FaultRule, Simulator};

use super::fixture::{CHAT, QUESTION};
use super::front::{backends, resources};
use super::process::Running;
use super::raw::{Wire, ask, get, request, until};

const DESCRIPTORS: u32 = 64;

struct Daemon {
    running: Running,
    address: SocketAddr,
    admin: SocketAddr,
    _folder: tempfile::TempDir,
    simulator: Simulator,
}

fn daemon(names: &[&str]) -> Daemon {
    let simulator = resources(names);
    let folder = tempfile::tempdir().unwrap();
    let server = "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nworkers = 1\n";
    let text = format!("{server}{}", backends(simulator.handle().resources()));
    std::fs::write(folder.path().join("sidestep.toml"), text).unwrap();
    let running = Running::with_descriptors(folder.path(), DESCRIPTORS);
    let (address, admin) = running.addresses();
    Daemon { running, address, admin: admin.unwrap(), _folder: folder, simulator }
}

/// Connects until no descriptor is left, and then as often again.
fn crowd(daemon: &Daemon) -> Vec<Wire> {
    let crowd = (0..2 * DESCRIPTORS).map(|_| Wire::to(daemon.address)).collect();
    // One more may be inherited from whoever runs the tests.
    until("no descriptor is left", || daemon.running.descriptors() >= DESCRIPTORS as usize);
    sleep(Duration::from_millis(100));
    crowd
}

#[test]
fn without_descriptors_it_waits_without_spinning_and_serves_again_when_it_has_some() {
    let daemon = daemon(&["east"]);
    // A connection to the backend is there from now on.
    assert_eq!(ask(daemon.address, "POST", CHAT, "", QUESTION).status, 200);
    let mut crowd = crowd(&daemon);
    let before = daemon.running.ticks();
    sleep(Duration::from_secs(2));
    let spent = daemon.running.ticks() - before;
    assert!(spent <= 20, "{spent} ticks of 10 ms in 2 s in which there was nothing to do");
    // Who got in is served over what is there already.
    let served = crowd[0].send(request("POST", CHAT, "", QUESTION)).answer().unwrap();
    assert_eq!(served.status, 200, "{served:?}");
    // Who waits is served when others go.
    let mut last = crowd.pop().unwrap();
    last.send(request("POST", CHAT, "", QUESTION));
    drop(crowd);
    assert_eq!(last.answer().unwrap().status, 200);
    for _ in 0..3 {
        assert_eq!(ask(daemon.address, "POST", CHAT, "", QUESTION).status, 200);
        assert_eq!(get(daemon.admin, "/healthz").status, 200);
    }
    until("the crowd's descriptors are free", || daemon.running.descriptors() < DESCRIPTORS as usize / 2);
}

#[test]
fn without_a_descriptor_for_its_backend_it_says_so_and_serves_at_once_when_it_has_one() {
    let daemon = daemon(&["east"]);
    let mut crowd = crowd(&daemon);
    for _ in 0..5 {
        let told = crowd[0].send(request("POST", CHAT, "", QUESTION)).answer().unwrap();
        assert_eq!((told.status, told.header("retry-after")), (503, Some("1")), "{told:?}");
    }
    crowd.truncate(1);
    until("the crowd's descriptors are free", || daemon.running.descriptors() < DESCRIPTORS as usize / 2);
    let served = crowd[0].send(request("POST", CHAT, "", QUESTION)).answer().unwrap();
    assert_eq!(served.status, 200, "{served:?}");
}

#[test]
fn our_own_lack_of_descriptors_blames_no_backend() {
    let daemon = daemon(&["east", "west"]);
    // To the second there is a connection that can be used again, to the first none.
    daemon.simulator.resource("east").fault(FaultRule::times(Fault::CloseBeforeHead, 1));
    assert_eq!(ask(daemon.address, "POST", CHAT, "", QUESTION).status, 200);
    let mut crowd = crowd(&daemon);
    for _ in 0..5 {
        let told = crowd[0].send(request("POST", CHAT, "", QUESTION)).answer().unwrap();
        assert_eq!((told.status, told.header("x-sidestep-backend")), (200, Some("west")), "{told:?}");
    }
    drop(crowd);
    let status = get(daemon.admin, "/status").json();
    for backend in status["backends"].as_array().unwrap() {
        assert_eq!(backend["state"], "admitting", "{status}");
    }
}
