//! A WebSocket (Realtime, Responses): one backend after the other until one answers 101, then bytes both ways.
//!
//! Its place on the lane and its record are held until the socket ends.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::response::Parts as Head;
use http::{HeaderValue, Response};

use super::attempt::{Attempt, Outcome, finish_head};
use super::committed::ProxyBody;
use super::error::ProxyError;
use super::ledger::Ledger;
use super::objects::Noting;
use super::place::Place;
use super::request::Share;
use crate::balance::{Attempts, Deployments, Verdict};
use crate::net::connect::Socket;
use crate::net::frames::Seen;
use crate::net::messages::Edit;
use crate::net::server::{Upgrade, Upgraded};
use crate::net::tunnel::{TunnelEnd, carry};
use crate::openai::{self, Usage, UsageScanner};
use crate::telemetry::access::Ended;
use crate::telemetry::clock;

/// What is done with the caller's connection after the 101.
pub struct Agreed(Option<Upgrade>);

impl Agreed {
    pub(super) fn take(&mut self) -> Option<Upgrade> {
        self.0.take()
    }
}

impl fmt::Debug for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agreed").finish_non_exhaustive()
    }
}

impl Attempt<'_> {
    /// The backend has agreed: so do we.
    pub(super) fn open(
        self,
        mut head: Head,
        (backend, early): (Socket, Bytes),
        attempts: &mut Attempts,
        ledger: &mut Option<Ledger>,
    ) -> Outcome {
        let number = self.number(ledger);
        let Some(mut entry) = ledger.take() else { return Outcome::Stop(ProxyError::UpstreamFailed) };
        let now = clock::now();
        self.place.answered(now, &head.headers, attempts);
        entry.tried(Verdict::Served { tokens: 0 }.word());
        entry.commit(now, head.status, number);
        entry.stream = true;
        finish_head(&mut head.headers, self.explain(), &entry);
        head.headers.remove(CONTENT_LENGTH);
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        // Of realtime sessions nothing stays.
        let responses = self.ask.operation == "responses";
        let noting = responses.then(|| self.bond.noting(self.place.pick().backend_id(), false));
        let renaming = responses.then(|| self.renaming()).flatten();
        let session = Session {
            place: self.place,
            attempts: std::mem::take(attempts),
            ledger: entry,
            noting,
            renaming,
        };
        let upgrade: Upgrade = Box::new(move |caller| Box::pin(session.run(caller, backend, early)));
        let body = ProxyBody::Socket(Agreed(Some(upgrade)));
        Outcome::Commit(Box::new(Response::from_parts(head, body)))
    }

    /// Where the backend has names of its own for deployments.
    fn renaming(&self) -> Option<Renaming> {
        let deployments = &self.edge.backends[self.place.pick().backend].deployments;
        if !deployments.renames() {
            return None;
        }
        let settings = &self.edge.settings;
        Some(Renaming {
            deployments: Arc::clone(deployments),
            share: self.place.share(),
            longest: settings.request_hard_limit,
            buffered: settings.buffered,
        })
    }
}

/// Each message of a caller of Responses names a deployment, by the callers' name for it.
struct Renaming {
    deployments: Arc<Deployments>,
    /// Of all buffered bytes, for what is held.
    share: Share,
    longest: u64,
    buffered: usize,
}

impl Edit for Renaming {
    /// Each byte counts twice: a message and the frame that is made of it are there at the same time.
    fn has_room(&mut self, more: usize, length: usize) -> bool {
        length as u64 <= self.longest && self.share.grow(more.saturating_mul(2), self.buffered)
    }

    fn edit(&mut self, message: Bytes) -> [Bytes; 3] {
        let same = |message| [message, Bytes::new(), Bytes::new()];
        // What says it in no clear way is the backend's to refuse, under the name that it was given.
        let Some(name) = openai::scan(&message).ok().and_then(|scan| scan.model) else {
            return same(message);
        };
        match self.deployments.there(&name.value) {
            Some(there) if there != name.value => openai::replace_model(&message, name.range, there),
            _ => same(message),
        }
    }

    fn sent(&mut self, bytes: usize) {
        self.share.shrink(bytes.saturating_mul(2));
    }
}

/// One open WebSocket. Dropped before it runs, the caller has left.
struct Session {
    place: Place,
    attempts: Attempts,
    ledger: Ledger,
    noting: Option<Box<Noting>>,
    renaming: Option<Renaming>,
}

impl Session {
    async fn run(self, caller: Upgraded, backend: Socket, early: Bytes) {
        let Self { place, mut attempts, mut ledger, mut noting, renaming } = self;
        let mut count = Count::default();
        let cut = ledger.ear();
        let edit = renaming.map(|renaming| Box::new(renaming) as Box<dyn Edit>);
        let end = carry(caller, (backend, early), cut, edit, |seen| {
            match (&seen, &mut noting) {
                (Seen::Payload(bytes), Some(noting)) => noting.feed(bytes),
                (Seen::MessageEnd, Some(noting)) => noting.next_message(),
                _ => {}
            }
            count.see(seen);
        })
        .await;
        let now = clock::now();
        let tokens = ledger.count_tokens(count.sum, 0);
        let (verdict, ended) = match end {
            TunnelEnd::BackendLeft => (Verdict::CutOff { tokens }, Ended::UpstreamCut),
            TunnelEnd::Closed => (Verdict::Served { tokens }, Ended::Completed),
            // Nobody says how long a socket lasts: a caller that goes has been served.
            TunnelEnd::CallerLeft => (Verdict::Served { tokens }, Ended::CallerLeft),
            TunnelEnd::Stopped => (Verdict::Served { tokens }, Ended::Stopped),
        };
        ledger.attempts.amend(verdict.word());
        place.report(now, verdict, &mut attempts);
        ledger.waited_until(now);
        ledger.end(now, ended);
    }
}

/// Tokens of all answers on one socket: each `response.done` tells those of one (azure-openai.md 7).
#[derive(Default)]
struct Count {
    scanner: UsageScanner,
    sum: Option<Usage>,
}

impl Count {
    fn see(&mut self, seen: Seen<'_>) {
        match seen {
            Seen::Payload(bytes) => self.scanner.feed(bytes),
            Seen::MessageEnd => {
                if let Some(usage) = std::mem::take(&mut self.scanner).usage() {
                    let sum = self.sum.get_or_insert_default();
                    sum.prompt = sum.prompt.saturating_add(usage.prompt);
                    sum.cached = sum.cached.saturating_add(usage.cached);
                    sum.completion = sum.completion.saturating_add(usage.completion);
                    sum.reasoning = sum.reasoning.saturating_add(usage.reasoning);
                    sum.total = sum.total.saturating_add(usage.total);
                }
            }
            Seen::Head(_) | Seen::Control(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tokens_of_all_answers_on_a_socket_are_summed_whatever_the_pieces_they_come_in() {
        let mut count = Count::default();
        for message in [
            r#"{"type":"response.done","response":{"usage":{"input_tokens":10,"output_tokens":5,"total_tokens":15}}}"#,
            r#"{"type":"response.output_text.delta","delta":"\"usage\": {\"input_tokens\": 7}"}"#,
            r#"{"type":"response.done","response":{"usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3}}}"#,
        ] {
            let (first, second) = message.as_bytes().split_at(message.len() / 2);
            count.see(Seen::Payload(first));
            count.see(Seen::Payload(second));
            count.see(Seen::MessageEnd);
        }
        let sum = count.sum.unwrap();
        assert_eq!((sum.prompt, sum.completion), (11, 7));
    }
}
