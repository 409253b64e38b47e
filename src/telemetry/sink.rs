//! Standard output, without waiting for it.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::LogFormat;
use super::clock::{self, Stamp};
use super::text;

/// Lines not yet written, in bytes, those included that the output is just being given. At that bound lines are dropped
/// and counted.
pub const CAPACITY: usize = 4 * 1024 * 1024;
/// So long the writer gathers lines before it writes them together.
const GATHER: Duration = Duration::from_millis(20);
/// A buffer that grew beyond is given back once written.
const KEPT: usize = 256 * 1024;

/// Takes whole lines from any thread and never blocks on the output; a thread of its own writes them.
///
/// That thread sleeps while there is nothing to write (no wake-ups when idle) and is woken once per batch.
#[derive(Clone)]
pub struct Sink {
    shared: Arc<Shared>,
    format: LogFormat,
    colours: bool,
}

struct Shared {
    state: Mutex<State>,
    /// For the writer: there is something to write, or hurry.
    wake: Condvar,
    /// For `flush`: all is written.
    written: Condvar,
    capacity: usize,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    dropped: u64,
    /// Of `dropped`, not yet told in the log.
    untold: u64,
    /// The writer waits for a line.
    sleeping: bool,
    /// Bytes that the writer has taken and is not through with.
    taken: usize,
    /// The writer gathers no longer.
    hurry: bool,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("capacity", &self.shared.capacity).finish_non_exhaustive()
    }
}

impl Sink {
    /// A sink that writes to `output`; `format` is that of its own notices.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(output: impl Write + Send + 'static, format: LogFormat) -> std::io::Result<Self> {
        Self::with_capacity(output, format, CAPACITY)
    }

    /// The same with a bound of `capacity` bytes instead of [`CAPACITY`].
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn with_capacity(
        output: impl Write + Send + 'static,
        format: LogFormat,
        capacity: usize,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            written: Condvar::new(),
            capacity,
        });
        let of_writer = Arc::clone(&shared);
        // Never joined: it may be blocked on an output that nobody reads.
        std::thread::Builder::new().name("log".into()).spawn(move || of_writer.write_all(output, format))?;
        Ok(Self { shared, format, colours: false })
    }

    /// The same output as a terminal that shows colours, or not.
    #[must_use]
    pub fn coloured(self, colours: bool) -> Self {
        Self { colours: colours && self.format == LogFormat::Text, ..self }
    }

    /// Whether lines may bring colours.
    #[must_use]
    pub fn colours(&self) -> bool {
        self.colours
    }

    /// Takes one line, with its final newline. Dropped whole when the buffer is full.
    pub fn line(&self, line: &[u8]) {
        let mut state = self.shared.lock();
        if state.taken + state.pending.len() + line.len() > self.shared.capacity {
            state.dropped += 1;
            state.untold += 1;
            return;
        }
        state.pending.extend_from_slice(line);
        let full = state.pending.len() > self.shared.capacity / 2 && !state.hurry;
        if !state.sleeping && !full {
            return;
        }
        state.sleeping = false;
        state.hurry |= full;
        drop(state);
        self.shared.wake.notify_one();
    }

    /// Waits until all that was taken is written, at most `limit`. True when it is.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        let mut state = self.shared.lock();
        state.hurry = true;
        self.shared.wake.notify_one();
        let waiting = |state: &mut State| !state.pending.is_empty() || state.taken > 0;
        let (mut state, result) = self
            .shared
            .written
            .wait_timeout_while(state, limit, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        state.hurry = false;
        !result.timed_out()
    }

    /// Lines dropped so far, because the output was not read or could not be written.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.lock().dropped
    }
}

impl Shared {
    /// A poisoned lock is taken all the same: bytes and counts are whole at every moment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut output: impl Write, format: LogFormat) {
        let mut batch = Vec::new();
        let mut stamp = Stamp::default();
        loop {
            let untold = self.take(&mut batch);
            if untold > 0 {
                notice(&mut batch, untold, stamp.at(clock::wall()), format);
            }
            let failed = output.write_all(&batch).and_then(|()| output.flush()).is_err();
            let lines = u64::try_from(memchr::memchr_iter(b'\n', &batch).count()).unwrap_or(u64::MAX);
            batch.clear();
            batch.shrink_to(KEPT);
            let mut state = self.lock();
            state.taken = 0;
            if failed {
                state.dropped += lines;
            }
            if state.pending.is_empty() {
                self.written.notify_all();
            }
        }
    }

    /// Waits for lines, gathers a little, swaps them into `batch`. Returns how many dropped lines are to be told.
    fn take(&self, batch: &mut Vec<u8>) -> u64 {
        let mut state = self.lock();
        while state.pending.is_empty() {
            state.sleeping = true;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.sleeping = false;
        let (mut state, _) = self
            .wake
            .wait_timeout_while(state, GATHER, |state| !state.hurry)
            .unwrap_or_else(PoisonError::into_inner);
        state.hurry = false;
        std::mem::swap(&mut state.pending, batch);
        state.taken = batch.len();
        std::mem::take(&mut state.untold)
    }
}

fn notice(out: &mut Vec<u8>, lines: u64, stamp: &[u8; 24], format: LogFormat) {
    match format {
        LogFormat::Text => {
            out.extend_from_slice(stamp);
            out.extend_from_slice(b"  WARN log lines were dropped: the output was not read lines=");
            text::decimal(out, lines);
            out.push(b'\n');
        }
        LogFormat::Json => {
            out.extend_from_slice(b"{\"time\":\"");
            out.extend_from_slice(stamp);
            out.extend_from_slice(
                b"\",\"level\":\"WARN\",\"message\":\"log lines were dropped: the output was not read\",\"lines\":",
            );
            text::decimal(out, lines);
            out.extend_from_slice(b"}\n");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// An output that tests can read back.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// An output whose reader stalls: it announces each write and takes nothing until it is let go.
    pub(crate) struct Stalled {
        pub(crate) page: Page,
        pub(crate) began: Sender<()>,
        pub(crate) go: Receiver<()>,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.began.send(());
            let _ = self.go.recv();
            self.page.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn lines_of_many_threads_arrive_whole_and_in_each_threads_order() {
        let page = Page::default();
        let sink = Sink::new(page.clone(), LogFormat::Text).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let sink = sink.clone();
                scope.spawn(move || (0..500).for_each(|n| sink.line(format!("{thread} {n}\n").as_bytes())));
            }
        });
        assert!(sink.flush(LONG));
        let text = page.text();
        for thread in 0..4 {
            let mine: Vec<_> = text
                .lines()
                .filter_map(|l| l.strip_prefix(&format!("{thread} ")))
                .map(str::to_owned)
                .collect();
            assert_eq!(mine, (0..500).map(|n| n.to_string()).collect::<Vec<_>>());
        }
        assert_eq!(sink.dropped(), 0);
    }

    #[test]
    fn a_stalled_reader_costs_whole_lines_that_are_counted_and_blocks_nobody() {
        let page = Page::default();
        let (began, writes) = channel();
        let (let_go, go) = channel();
        let sink =
            Sink::with_capacity(Stalled { page: page.clone(), began, go }, LogFormat::Text, 1_000).unwrap();
        sink.line(b"the first\n");
        writes.recv().unwrap(); // From here on the writer hangs in its first write.
        for n in 0..500 {
            sink.line(format!("line {n:04}\n").as_bytes()); // Would hang here if it waited for the reader.
        }
        assert_eq!(
            sink.dropped(),
            401,
            "a hundred lines of ten bytes fit, with the one that is being written"
        );
        assert!(!sink.flush(Duration::from_millis(1)), "flush gives up at its limit");
        drop(let_go);
        assert!(sink.flush(LONG));
        let text = page.text();
        let kept: Vec<_> = text.lines().filter(|l| l.starts_with("line ")).collect();
        assert_eq!(kept, (0..99).map(|n| format!("line {n:04}")).collect::<Vec<_>>());
        assert!(text.contains("WARN log lines were dropped: the output was not read lines=401\n"), "{text}");
    }

    #[test]
    fn an_output_that_fails_is_counted_and_no_panic() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let sink = Sink::new(Broken, LogFormat::Json).unwrap();
        sink.line(b"a\n");
        assert!(sink.flush(LONG));
        sink.line(b"b\n");
        assert!(sink.flush(LONG));
        assert_eq!(sink.dropped(), 2);
    }

    #[test]
    fn the_notice_is_json_where_the_log_is() {
        let mut out = Vec::new();
        notice(&mut out, 12, b"2026-09-21T14:13:20.007Z", LogFormat::Json);
        let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(read["lines"], 12);
        assert_eq!(read["level"], "WARN");
    }
}
