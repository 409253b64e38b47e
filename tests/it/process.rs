//! The shipped binary as a process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use super::fixture::PATIENCE;
use super::raw::now;

/// The binary at work. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    out: Lines,
    err: Lines,
}

/// What a process has said, line by line as it says it.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<(Mutex<Said>, Condvar)>);

#[derive(Default)]
struct Said {
    text: String,
    ended: bool,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let heard = lines.clone();
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                heard.0.0.lock().unwrap().text.push_str(&String::from_utf8_lossy(&line));
                heard.0.1.notify_all();
                line.clear();
            }
            heard.0.0.lock().unwrap().ended = true;
            heard.0.1.notify_all();
        });
        lines
    }

    pub(crate) fn text(&self) -> String {
        self.0.0.lock().unwrap().text.clone()
    }

    /// The first line with all of `words`, now or later.
    pub(crate) fn wait_for(&self, words: &[&str]) -> String {
        let mut said = self.0.0.lock().unwrap();
        let began = now();
        loop {
            let found = said.text.lines().find(|line| words.iter().all(|word| line.contains(word)));
            if let Some(line) = found {
                return line.to_owned();
            }
            let left = PATIENCE.saturating_sub(began.elapsed());
            if said.ended || left.is_zero() {
                let text = said.text.clone();
                drop(said);
                panic!("no line with {words:?} in:\n{text}");
            }
            said = self.0.1.wait_timeout(said, left).unwrap().0;
        }
    }

    fn wait_for_end(&self) {
        let said = self.0.0.lock().unwrap();
        let (said, _) = self.0.1.wait_timeout_while(said, PATIENCE, |said| !said.ended).unwrap();
        assert!(said.ended, "the pipe is still open");
    }
}

impl Running {
    /// Starts it in `folder` with these arguments and these variables alone.
    pub(crate) fn start(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidestep"));
        command.args(arguments);
        Self::launch(folder, command, variables)
    }

    /// Starts it where the system gives it so many descriptors and no more.
    pub(crate) fn with_descriptors(folder: &Path, most: u32) -> Self {
        let mut command = Command::new("/bin/sh");
        let binary = env!("CARGO_BIN_EXE_sidestep");
        command.args(["-c", &format!("ulimit -n {most} && exec \"$0\""), binary]);
        Self::launch(folder, command, &[])
    }

    fn launch(folder: &Path, mut command: Command, variables: &[(&str, &str)]) -> Self {
        let mut child = command
            .current_dir(folder)
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = Lines::of(child.stdout.take().unwrap());
        let err = Lines::of(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    pub(crate) fn out(&self) -> &Lines {
        &self.out
    }

    /// Where it says that it listens: for callers, and for operators.
    pub(crate) fn addresses(&self) -> (SocketAddr, Option<SocketAddr>) {
        let line = self.out.wait_for(&["listening", "listen"]);
        let address = |field: &str| {
            let url = line.split_once(field)?.1.split_once("http://")?.1;
            url.split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').next()?.parse().ok()
        };
        let field =
            |name: &str| if line.starts_with('{') { format!("\"{name}\":\"") } else { format!(" {name}=") };
        (address(&field("listen")).unwrap(), address(&field("admin")))
    }

    /// Time on a processor so far, in ticks of 10 ms: fields 14 and 15 of its `stat`.
    pub(crate) fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, behind_name) = stat.rsplit_once(')').unwrap();
        behind_name.split_ascii_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
    }

    /// Memory that it has in use, in KiB.
    pub(crate) fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    /// Descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success(), "kill -{name}");
    }

    /// Waits for its end: exit status, standard output, standard error.
    pub(crate) fn end(mut self) -> (ExitStatus, String, String) {
        self.out.wait_for_end();
        self.err.wait_for_end();
        let status = self.child.wait().unwrap();
        (status, self.out.text(), self.err.text())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
