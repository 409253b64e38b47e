//! Who calls, and what each of them may complain of.
//!
//! One backend is always well, so the oracle is short. A harmless request must be answered 200; a JSON answer is
//! also whole. What may go wrong, each counted by its cause:
//! - a stream whose backend fails after its first words have reached the caller cannot fail over: it ends with an
//!   error event or without its proper end (`cut after commit`), and never looks complete, not even where the
//!   backend ended it by HTTP's rules, only too soon. An error event of the backend's own passes as it is
//!   (`error told by the backend`);
//! - a request that must not be repeated may be told of a failure of the one backend that may have begun on it,
//!   5xx or 408 (`not harmless`), but never of throttling or of our own credentials;
//! - a 408 is tried once more and no further, so two backends with one each are seen (`two 408s`);
//! - who leaves hears nothing (`left`).
//!
//! Anything else is a mistake of ours.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;

use crate::conversation::converse;
use crate::fixture::caller::{Reply, post};
use crate::fixture::{CHAT, Caller, QUESTION, RESPONSE_STREAMED, RESPONSES, STREAMED, within};

const EMBEDDINGS: &str = "/openai/deployments/text-embedding-3-small/embeddings?api-version=2024-10-21";
const TEXT: &str = r#"{"input":"Is anyone there?"}"#;
const RESPONSE: &str = r#"{"model":"gpt-4o","input":"Is anyone there?","store":false}"#;
const BACKGROUND: &str = r#"{"model":"gpt-4o","input":"Is anyone there?","background":true}"#;

/// How a request ended: the word under which it is counted, or what must not be.
pub(crate) type End = Result<&'static str, String>;

/// One request of a kind at random, in a conversation of its own.
pub(crate) async fn call(address: SocketAddr, mut rng: Rng) -> End {
    let caller = if rng.u8(..3) == 0 { Caller::http2(address) } else { Caller::http1(address) };
    let somebody = format!("Is {} there?", rng.u32(..));
    let ask = |body: &str| body.replace("Is anyone there?", &somebody);
    match rng.u8(..17) {
        16 => converse(address, rng.bool(), &ask(QUESTION)).await,
        0..=3 => whole(caller, CHAT, &ask(QUESTION)).await,
        4 => whole(caller, EMBEDDINGS, &ask(TEXT)).await,
        5 => whole(caller, RESPONSES, &ask(RESPONSE)).await,
        6..=8 => stream(caller, CHAT, &ask(STREAMED), Duration::ZERO).await,
        9 | 10 => stream(caller, RESPONSES, &ask(RESPONSE_STREAMED), Duration::ZERO).await,
        11 => stream(caller, CHAT, &ask(STREAMED), Duration::from_millis(rng.u64(1..40))).await,
        12 => harmful(caller, &ask(BACKGROUND)).await,
        13 => leave(whole(caller, CHAT, &ask(QUESTION)), rng.u64(..60)).await,
        _ => leave(stream(caller, CHAT, &ask(STREAMED), Duration::ZERO), rng.u64(..120)).await,
    }
}

async fn begun(caller: Caller, path: &str, body: &str) -> Result<Reply, String> {
    let reply = within("a head", caller.try_send(post(path, body))).await;
    reply.map_err(|error| format!("{path} {body}: no answer: {error}"))
}

async fn whole(caller: Caller, path: &str, body: &str) -> End {
    let answer = begun(caller, path, body).await?.whole().await;
    match (answer.status, answer.complete) {
        (200, true) => Ok("served"),
        (408, true) => Ok("two 408s"),
        _ => Err(format!("{path} {body}: {answer:?}")),
    }
}

/// Background work: a failure after it was sent is told, everything before is absorbed.
async fn harmful(caller: Caller, body: &str) -> End {
    let answer = begun(caller, RESPONSES, body).await?.whole().await;
    match (answer.status, answer.complete) {
        (200, true) => Ok("served"),
        (408 | 500..=599, true) => Ok("not harmless"),
        _ => Err(format!("background: {answer:?}")),
    }
}

async fn stream(caller: Caller, path: &str, body: &str, pause: Duration) -> End {
    let mut reply = begun(caller, path, body).await?;
    match reply.status() {
        200 => {}
        408 => return Ok("two 408s"),
        status => return Err(format!("{path} {body}: {status} {:?}", reply.whole().await)),
    }
    let whole = loop {
        match reply.piece().await {
            Some(Ok(_)) => tokio::time::sleep(pause).await,
            Some(Err(_)) => break false,
            None => break true,
        }
    };
    let last = reply.seen.trim_end().rsplit("\n\n").next().unwrap_or_default();
    let ended = last == "data: [DONE]" || last.starts_with("event: response.completed");
    let failed =
        ["\"error\":{", "response.failed", "event: error"].iter().any(|word| reply.seen.contains(word));
    match (whole, ended, failed) {
        (true, true, false) => Ok("served"),
        (true, _, true) => Ok("error told by the backend"),
        (false, _, true) => Ok("cut after commit, told by an error event"),
        (false, false, false) => Ok("cut after commit"),
        (true, false, false) => Err(format!("a cut stream looks complete: {}", reply.seen)),
        // All that matters came, then the connection broke.
        (false, true, false) => Ok("broken after the last event"),
    }
}

/// What was there before it left must be right all the same.
async fn leave(staying: impl Future<Output = End>, after: u64) -> End {
    tokio::time::timeout(Duration::from_millis(after), staying).await.unwrap_or(Ok("left"))
}
