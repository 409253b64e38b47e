//! HTTP/2 as frames, by hand: what no client library would send, on either side.

use std::net::SocketAddr;
use std::time::Duration;

use sidestep::simulator::{Fault, FaultRule};
use tokio::io::AsyncWriteExt;

use super::fixture::backend::PlayedBackend;
use super::fixture::wire::Wire;
use super::fixture::{CHAT, QUESTION, STREAMED, Scene, Stage, eventually, within};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

const INTERNAL_ERROR: u32 = 2;
const FLOW_CONTROL_ERROR: u32 = 3;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const CALM: u32 = 11;

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW: u16 = 4;

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    /// The error code of a reset or of a GOAWAY.
    fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// One header as HPACK's literal without indexing.
fn literal(name: &str, value: &str) -> Vec<u8> {
    fn text(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut length = text.len();
        if length < 127 {
            bytes.push(u8::try_from(length).unwrap());
        } else {
            bytes.push(127);
            length -= 127;
            while length >= 128 {
                bytes.push(u8::try_from(length % 128 + 128).unwrap());
                length /= 128;
            }
            bytes.push(u8::try_from(length).unwrap());
        }
        bytes.extend(text.as_bytes());
        bytes
    }
    [vec![0], text(name), text(value)].concat()
}

fn post(path: &str) -> Vec<u8> {
    [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
        .map(|(name, value)| literal(name, value))
        .concat()
}

/// One side of a connection.
struct Peer(Wire);

impl Peer {
    /// A caller that has said its settings.
    async fn calls(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut wire = Wire::connect(address).await;
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(key, value)| [&key.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        wire.write([PREFACE, &frame(SETTINGS, 0, 0, &settings), &frame(SETTINGS, ACK, 0, &[])].concat())
            .await;
        Self(wire)
    }

    /// A backend that has said its settings.
    async fn serves(backend: &PlayedBackend) -> Self {
        let mut wire = backend.accept().await;
        wire.exactly(PREFACE.len()).await;
        wire.write([frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat()).await;
        Self(wire)
    }

    async fn next(&mut self) -> Frame {
        let head = self.0.exactly(9).await;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        Frame { kind: head[3], flags: head[4], stream, payload: self.0.exactly(length).await }
    }

    /// The next frame of this kind.
    async fn next_of(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await;
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// A chat, whole.
    async fn ask(&mut self, stream: u32, body: &str) {
        let head = frame(HEADERS, END_HEADERS, stream, &post(CHAT));
        self.0.write([head, frame(DATA, END_STREAM, stream, body.as_bytes())].concat()).await;
    }

    /// The balancer's request, read to its end: the number of its stream.
    async fn asked(&mut self) -> u32 {
        loop {
            let frame = self.next().await;
            if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                return frame.stream;
            }
        }
    }

    /// 200 with an empty object.
    async fn answer(&mut self, stream: u32) {
        // 0x88 is `:status 200` in HPACK's table.
        let head =
            frame(HEADERS, END_HEADERS, stream, &[&[0x88][..], &literal("content-length", "2")].concat());
        self.0.write([head, frame(DATA, END_STREAM, stream, b"{}")].concat()).await;
    }

    /// Sends all of it unless the other side stops reading; that is an answer as well.
    async fn flood(&mut self, bytes: &[u8]) {
        let writing = self.0.socket.write_all(bytes);
        let _stopped = tokio::time::timeout(Duration::from_secs(1), writing).await;
    }

    /// How it ends: the code of a GOAWAY, or 0 where it simply closes.
    async fn end(mut self) -> u32 {
        loop {
            if self.0.read.len() < 9 {
                let read = tokio::io::AsyncReadExt::read_buf(&mut self.0.socket, &mut self.0.read);
                match within("the end", read).await {
                    Ok(0) | Err(_) => return 0,
                    Ok(_) => continue,
                }
            }
            let length = usize::from(self.0.read[1]) << 8 | usize::from(self.0.read[2]);
            if self.0.read.len() < 9 + length {
                let read = tokio::io::AsyncReadExt::read_buf(&mut self.0.socket, &mut self.0.read);
                match within("the end", read).await {
                    Ok(0) | Err(_) => return 0,
                    Ok(_) => continue,
                }
            }
            let frame = self.next().await;
            if frame.kind == GOAWAY {
                return frame.code();
            }
        }
    }
}

/// While and after this is sent others are served, and nothing of it stays.
async fn attacked(stage: &Stage, attack: &[u8]) -> Peer {
    let mut attacker = Peer::calls(stage.balancer.address(), &[]).await;
    let calm = async {
        for _ in 0..5 {
            assert_eq!(stage.chat().await.status, 200);
            assert_eq!(stage.caller_http2().post(CHAT, QUESTION).await.status, 200);
        }
    };
    tokio::join!(attacker.flood(attack), calm);
    attacker
}

async fn nothing_stays(stage: &Stage) {
    eventually("all places are free", || stage.backend("east").in_flight == 0).await;
    eventually("the backend is left", || stage.resource("east").counters().in_flight == 0).await;
    assert_eq!((stage.backend("east").state, stage.backend("east").failed_total), ("admitting", 0));
    assert_eq!(stage.chat().await.status, 200);
}

fn odd(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|index| 2 * index + 1)
}

#[tokio::test]
async fn a_rapid_reset_ends_its_connection_and_disturbs_nobody() {
    let stage = Scene::of([("east", 1)]).start();
    let attack = odd(5_000).flat_map(|stream| {
        let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &post(CHAT));
        [head, frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].concat()
    });
    let attacker = attacked(&stage, &attack.collect::<Vec<u8>>()).await;
    assert_eq!(attacker.end().await, CALM);
    nothing_stays(&stage).await;
    assert!(stage.seen("east") < 1_000, "{} of 5,000 went on to the backend", stage.seen("east"));
}

#[tokio::test]
async fn floods_of_settings_and_pings_that_are_not_heard_are_not_answered_without_end() {
    for flood in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8])] {
        let stage = Scene::of([("east", 1)]).start();
        // Nothing is read meanwhile: acknowledgements have to wait somewhere, or the connection ends.
        let mut attacker = attacked(&stage, &flood.repeat(1_000_000)).await;
        nothing_stays(&stage).await;
        // It stopped reading: not all of the flood found room.
        let more = flood.repeat(100_000);
        let stopped = async {
            loop {
                let writing = attacker.0.socket.write_all(&more);
                if !matches!(tokio::time::timeout(Duration::from_secs(1), writing).await, Ok(Ok(()))) {
                    return;
                }
            }
        };
        within("the end of its reading", stopped).await;
        nothing_stays(&stage).await;
    }
}

#[tokio::test]
async fn empty_frames_without_end_keep_neither_a_request_alive_nor_others_out() {
    let stage = Scene::of([("east", 1)]).toml("[limits]\nbody_idle = \"500ms\"").start();
    let head = frame(HEADERS, END_HEADERS, 1, &post(CHAT));
    let attack = [head, frame(DATA, 0, 1, &[]).repeat(50_000)].concat();
    let mut attacker = attacked(&stage, &attack).await;
    // 408 in a literal, or the connection has ended with a GOAWAY.
    let told = attacker.next_of_either(HEADERS, GOAWAY).await;
    assert!(told.kind == GOAWAY || told.payload.windows(3).any(|text| text == b"408"), "{:?}", told.payload);
    nothing_stays(&stage).await;
}

#[tokio::test]
async fn a_head_in_continuations_without_end_ends_its_connection() {
    let stage = Scene::of([("east", 1)]).start();
    for piece in [&literal("x", "y")[..], &[]] {
        let mut attack = frame(HEADERS, 0, 1, &post(CHAT));
        attack.extend(frame(CONTINUATION, 0, 1, piece).repeat(100_000));
        let attacker = attacked(&stage, &attack).await;
        let code = attacker.end().await;
        assert_ne!(code, 0, "{} bytes a frame: it says why", piece.len());
        nothing_stays(&stage).await;
    }
    assert_eq!(stage.seen("east"), 22, "only the calm ones");
}

#[tokio::test]
async fn a_header_list_beyond_its_bound_is_refused_and_at_the_bound_is_served() {
    let stage = Scene::of([("east", 1)]).toml("[limits]\nheader_bytes = \"16KiB\"").start();
    let mut peer = Peer::calls(stage.balancer.address(), &[]).await;
    for (stream, size, status) in [(1, 15_000, "200"), (3, 20_000, "431")] {
        let head = [post(CHAT), literal("x-long", &"x".repeat(size))].concat();
        let (first, rest) = head.split_at(16_000.min(head.len()));
        let frames = [frame(HEADERS, 0, stream, first), frame(CONTINUATION, END_HEADERS, stream, rest)];
        peer.0.write(frames.concat()).await;
        peer.0.write(frame(DATA, END_STREAM, stream, QUESTION.as_bytes())).await;
        let answer = peer.next_of_either(HEADERS, RST_STREAM).await;
        // 0x88 is 200.
        let good = answer.payload.first() == Some(&0x88);
        assert_eq!(good, status == "200", "{size} bytes: {:?}", answer.payload);
    }
    assert_eq!(stage.seen("east"), 1);
}

#[tokio::test]
async fn a_window_that_overflows_ends_the_connection() {
    let stage = Scene::of([("east", 1)]).start();
    let most = 0x7fff_ffff_u32.to_be_bytes();
    for (attack, code) in [
        (frame(WINDOW_UPDATE, 0, 0, &most).repeat(2), FLOW_CONTROL_ERROR),
        // More data than the window that we gave.
        (
            [frame(HEADERS, END_HEADERS, 1, &post(CHAT)), frame(DATA, 0, 1, &[b'x'; 16_384]).repeat(1_000)]
                .concat(),
            FLOW_CONTROL_ERROR,
        ),
    ] {
        let attacker = attacked(&stage, &attack).await;
        let ended = attacker.end().await;
        // A body that is read as it comes overflows no window: then it is only too much for its connection.
        assert!(ended == code || ended == 0, "{ended}");
        nothing_stays(&stage).await;
    }
}

#[tokio::test]
async fn who_gives_an_answer_no_window_does_not_hold_its_place_for_ever() {
    let stage = Scene::of([("east", 1)]).toml("[limits]\nwrite_idle = \"300ms\"").start();
    let mut peer = Peer::calls(stage.balancer.address(), &[(INITIAL_WINDOW, 0)]).await;
    for (stream, body) in [(1, STREAMED), (3, QUESTION)] {
        peer.ask(stream, body).await;
        let reset = peer.next_of(RST_STREAM).await;
        assert_eq!((reset.stream, reset.code()), (stream, CANCEL));
    }
    nothing_stays(&stage).await;
    // The connection lives, and who gives room is served.
    peer.0.write(frame(PING, 0, 0, &[7; 8])).await;
    assert_eq!(peer.next_of(PING).await.payload, [7; 8]);
    peer.ask(5, QUESTION).await;
    peer.0.write(frame(WINDOW_UPDATE, 0, 5, &100_000_u32.to_be_bytes())).await;
    assert!(peer.next_of(DATA).await.payload.starts_with(b"{"));
}

#[tokio::test]
async fn who_waits_for_a_slow_backend_is_not_one_that_takes_nothing() {
    let stage = Scene::of([("east", 1)]).toml("[limits]\nwrite_idle = \"200ms\"").start();
    stage.resource("east").fault(FaultRule::standing(Fault::SlowEvents { gap_ms: 400 }));
    let answer = stage.caller_http2().post(CHAT, STREAMED).await;
    assert!(answer.complete, "{}", answer.text());
}

impl Peer {
    /// The next frame of one of these kinds.
    async fn next_of_either(&mut self, one: u8, other: u8) -> Frame {
        loop {
            let frame = self.next().await;
            if frame.kind == one || frame.kind == other {
                return frame;
            }
        }
    }
}

async fn over_http2() -> (PlayedBackend, Stage) {
    let east = PlayedBackend::listen().await;
    let stage =
        Scene::of([("west", 2)]).played("east", 1, east.address).backend("east", "http2 = true").start();
    (east, stage)
}

#[tokio::test]
async fn a_stream_that_its_backend_resets_goes_to_the_next_lane_and_not_once_more() {
    let (east, stage) = over_http2().await;
    let caller = stage.caller();
    let playing = async {
        let mut peer = Peer::serves(&east).await;
        let first = peer.asked().await;
        peer.answer(first).await;
        let second = peer.asked().await;
        peer.0.write(frame(RST_STREAM, 0, second, &INTERNAL_ERROR.to_be_bytes())).await;
        // The connection is not to blame: it is used again.
        let third = peer.asked().await;
        peer.answer(third).await;
    };
    let calling = async {
        let mut attempts = Vec::new();
        for _ in 0..3 {
            attempts.push(caller.post(CHAT, QUESTION).await);
        }
        attempts
    };
    let ((), attempts) = tokio::join!(playing, calling);
    let expected = [("east", "1"), ("west", "2"), ("east", "1")];
    for (answer, expected) in attempts.iter().zip(expected) {
        let told = ["x-sidestep-backend", "x-sidestep-attempts"].map(|name| answer.header(name).unwrap());
        assert_eq!((answer.status, told), (200, [expected.0, expected.1]));
    }
    assert_eq!((stage.seen("west"), stage.backend("east").failed_total), (1, 1));
}

#[tokio::test]
async fn what_a_backend_has_not_begun_with_is_sent_there_once_more_on_a_fresh_connection() {
    // A creation too, which may otherwise not be repeated.
    for (path, body) in [(CHAT, QUESTION), ("/openai/v1/batches", "{}")] {
        for goaway in [true, false] {
            let (east, stage) = over_http2().await;
            let caller = stage.caller();
            let playing = async {
                let mut peer = Peer::serves(&east).await;
                let stream = peer.asked().await;
                if goaway {
                    // The last stream that it has begun with is none, and all is well.
                    peer.0.write(frame(GOAWAY, 0, 0, &[0; 8])).await;
                } else {
                    peer.0.write(frame(RST_STREAM, 0, stream, &REFUSED_STREAM.to_be_bytes())).await;
                }
                let mut fresh = Peer::serves(&east).await;
                let stream = fresh.asked().await;
                fresh.answer(stream).await;
                (peer, fresh)
            };
            let (_open, answer) = tokio::join!(playing, caller.post(path, body));
            assert_eq!(answer.status, 200, "{path} {goaway}");
            assert_eq!(answer.header("x-sidestep-attempts"), Some("1"));
            assert_eq!((stage.seen("west"), stage.backend("east").failed_total), (0, 0));
        }
    }
}
