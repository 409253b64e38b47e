//! What a backend answers in HTTP/1.1 is read as hyper reads it, however its bytes are cut; where we read less, it is
//! because the framing is not clear. And its connection is kept only after an answer with a clear end.
//! `tests/fuzz/targets/answer.rs` does the same with inputs that libFuzzer finds.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use proptest::prelude::*;
use sidestep::net::connect::Connector;
use sidestep::net::upstream::{Origin, RequestBody, Reuse, Tls, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime::{Builder, LocalOptions};

use super::beside_hyper::{Plugged, Told, compare, tls};

/// The next answer on the same connection, where it was kept; all that came before it was sent a while ago.
async fn next(pieces: &[&[u8]], tls: &Tls) -> Option<Told> {
    let (near, mut far) = duplex(64 * 1024);
    let plugged = Rc::new(Plugged(RefCell::new(Some(near)), Cell::new(0)));
    let origin = Origin { tls: false, host: "a".into(), port: 80, path_prefix: String::new(), http2: false };
    let upstream =
        Upstream::over(&Connector::Memory(plugged.clone()), origin, tls, Duration::from_secs(9)).unwrap();
    let ask = async || {
        let path = PathAndQuery::from_static("/");
        let none = RequestBody::empty();
        let sent = upstream.send(Method::GET, path, HeaderMap::new(), none, Reuse::Allowed).await;
        Some(Told::of(sent.ok()?).await)
    };
    let asking = async {
        drop(tokio::time::timeout(Duration::from_secs(1), ask()).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
        tokio::time::timeout(Duration::from_secs(1), ask()).await.ok().flatten()
    };
    let playing = async {
        let mut request = [0; 1024];
        let _first = far.read(&mut request).await;
        for piece in pieces {
            let _sent = far.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        if far.read(&mut request).await.is_ok_and(|count| count > 0) {
            let _sent = far.write_all(b"HTTP/1.1 299 Next\r\ncontent-length: 4\r\n\r\nnext").await;
        }
    };
    tokio::join!(asking, playing).0
}

const PIECES: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 429 Slow down\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "content-length: 5\r\n",
    "content-length: 5\r\n",
    "content-length: 3, 3\r\n",
    "content-length: +5\r\n",
    "content-length: 18446744073709551616\r\n",
    "content-length: 9223372036854775808\r\n",
    "transfer-encoding: chunked\r\n",
    "transfer-encoding: chunked\r\n",
    "transfer-encoding: gzip\r\n",
    "connection: close\r\n",
    "x-a: b\r\n",
    "x-a: b\r\n c\r\n",
    "x-a: b\n",
    "\r\n",
    "\r\n",
    "\n",
    "\r",
    "hello",
    "5\r\nhello\r\n",
    "3;a=b\r\nabc\r\n",
    "05 \r\nhello\r\n",
    "ffffffffffffffffff\r\n",
    "5\nhello\r\n",
    "0\r\n\r\n",
    "0\r\nx-t: u\r\n\r\n",
    "\0",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_answer_is_read_as_hyper_reads_it_however_it_is_cut(
        first in 0..6_usize,
        rest in prop::collection::vec(prop::sample::select(PIECES), 0..9),
        size in 1_usize..40,
        asks_for_head in prop::bool::weighted(0.1),
    ) {
        thread_local!(static TLS: Tls = tls());
        let text = PIECES[first].to_owned() + &rest.concat();
        let method = if asks_for_head { Method::HEAD } else { Method::GET };
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        TLS.with(|tls| compare(&method, &pieces, tls));
    }

    #[test]
    fn what_a_kept_connection_answers_next_is_the_answer_to_what_was_asked_next(
        first in 0..6_usize,
        rest in prop::collection::vec(prop::sample::select(PIECES), 0..9),
        size in 1_usize..40,
    ) {
        thread_local!(static TLS: Tls = tls());
        let text = PIECES[first].to_owned() + &rest.concat();
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build_local(LocalOptions::default()).unwrap();
        let told = TLS.with(|tls| runtime.block_on(next(&pieces, tls)));
        prop_assert!(
            told.as_ref().is_none_or(|told| told.whole && told.status == 299 && told.body == b"next"),
            "{:?} after {:?}", told, text
        );
    }
}
