//! HTTP/1.1 as bytes, from a thread that waits, so that a test can say what no client library would.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::Value;

use super::fixture::PATIENCE;

/// One connection.
pub(crate) struct Wire {
    stream: TcpStream,
    /// Read and not yet taken.
    ahead: Vec<u8>,
}

/// One answer, chunk framing removed.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// The body ended as HTTP says it should.
    pub(crate) complete: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The `code` of an error.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Wire {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, ahead: Vec::new() }
    }

    /// Whether there was room for all of it, with somebody on the other side.
    pub(crate) fn sends(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        // Who is refused early may find the door closed in the middle of its words.
        let _refused = self.stream.write_all(bytes.as_ref());
        self
    }

    /// No more will be said from this side.
    pub(crate) fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The next answer; `None` when the connection ended before one began.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let mut answer = self.head()?;
        if answer.status == 204 || answer.status == 304 || answer.status < 200 {
            answer.complete = true;
        } else if answer.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk() {
                answer.complete = chunk.is_empty();
                answer.body.extend(chunk);
                if answer.complete {
                    break;
                }
            }
        } else if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.ahead.len() < length && self.more() {}
            answer.complete = self.ahead.len() >= length;
            answer.body = self.take(length);
        } else {
            while self.more() {}
            answer.body = self.take(usize::MAX);
            answer.complete = true;
        }
        Some(answer)
    }

    /// The head of the next answer; its body is left.
    pub(crate) fn head(&mut self) -> Option<Answer> {
        let end = self.until(b"\r\n\r\n")?;
        let head = String::from_utf8(self.take(end)).unwrap();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Some(Answer { status, head, body: Vec::new(), complete: false })
    }

    /// One chunk of a chunked body, empty at its end; `None` when it was cut.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let end = self.until(b"\r\n")?;
        let size = String::from_utf8(self.take(end)).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        while self.ahead.len() < size + 2 {
            if !self.more() {
                return None;
            }
        }
        let chunk = self.take(size);
        self.take(2);
        Some(chunk)
    }

    /// Whether the other side has closed, with nothing more to say.
    pub(crate) fn closed(&mut self) -> bool {
        self.ahead.is_empty() && !self.more() && self.ahead.is_empty()
    }

    fn until(&mut self, mark: &[u8]) -> Option<usize> {
        loop {
            if let Some(at) = self.ahead.windows(mark.len()).position(|window| window == mark) {
                return Some(at + mark.len());
            }
            if !self.more() {
                return None;
            }
        }
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let length = length.min(self.ahead.len());
        self.ahead.drain(..length).collect()
    }

    fn more(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(read) => {
                self.ahead.extend_from_slice(&piece[..read]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("no answer in {PATIENCE:?}")
            }
            Err(_) => false,
        }
    }
}

/// A request's bytes: `headers` are whole lines.
pub(crate) fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
}

/// One request on a connection of its own.
pub(crate) fn ask(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let asked = request(method, path, headers, body);
    Wire::to(address).send(asked).answer().unwrap_or_else(|| panic!("{method} {path}: no answer"))
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path, "", "")
}

/// Waits until something holds that another thread or process brings about.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "never came true: {what}");
        std::thread::yield_now();
    }
}

#[expect(clippy::disallowed_methods, reason = "a bound on waiting, in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
