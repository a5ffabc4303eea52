//! A running container as its shim keeps it: output to the log and to those attached, and how it ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use component_base::{Clock, RealClock};
use sys::cgroup;
use sys::process::Exit;

use super::log::{Lines, LogFile, Stream};
use super::protocol::{Running, Start};
use crate::spec::{EXIT_FILE, ExitRecord, Identity};

/// What is read from a container at once.
const CHUNK_BYTES: usize = 16 << 10;
/// What waits for somebody attached who does not read. More is not read from the container.
const MAX_PENDING_BYTES: usize = 64 << 10;
/// How much is still read from the pipes of an ended container: more than pipes hold.
const MAX_LAST_READS: usize = 1024;

/// One stream of output.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) fd: OwnedFd,
    pub(super) stream: Stream,
    lines: Lines,
}

impl Output {
    pub(super) fn new(fd: OwnedFd, stream: Stream) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, stream, lines: Lines::default() })
    }
}

/// Somebody who reads along.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) fd: OwnedFd,
    stream: Stream,
    /// What could not be written yet.
    pending: Vec<u8>,
}

impl Attached {
    pub(super) fn new(fd: OwnedFd, stream: Stream) -> Self {
        Self { fd, stream, pending: Vec::new() }
    }

    pub(super) fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes what waits; false when the reader is gone.
    pub(super) fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.fd, &self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        self.pending = Vec::new();
        true
    }

    fn push(&mut self, bytes: &[u8]) -> bool {
        self.pending.extend_from_slice(bytes);
        self.flush() && self.pending.len() <= MAX_PENDING_BYTES + CHUNK_BYTES
    }
}

/// A running container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) start: Start,
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) started_at: i64,
    pub(super) identity: Identity,
    pub(super) outputs: Vec<Output>,
    pub(super) attached: Vec<Attached>,
    /// The end to write its input to.
    pub(super) stdin: Option<OwnedFd>,
    /// The controlling end of its terminal.
    pub(super) terminal: Option<OwnedFd>,
    pub(super) oom_watch: Option<OwnedFd>,
    /// Kills seen so far.
    oom_seen: u64,
    /// An OOM was announced and its kill is not counted yet.
    pub(super) oom_expected: u32,
    log: Option<LogFile>,
}

impl Container {
    pub(super) fn new(
        start: Start,
        (pid, pidfd): (i32, OwnedFd),
        outputs: Vec<Output>,
        stdin: Option<OwnedFd>,
        log: Option<LogFile>,
    ) -> Self {
        Self {
            start,
            pid,
            pidfd,
            started_at: 0,
            identity: Identity::default(),
            outputs,
            attached: Vec::new(),
            stdin,
            terminal: None,
            oom_watch: None,
            oom_seen: 0,
            oom_expected: 0,
            log,
        }
    }

    pub(super) fn running(&self) -> Running {
        Running {
            container: self.start.container.clone(),
            pid: self.pid,
            started_at: self.started_at,
            identity: self.identity.clone(),
        }
    }

    /// The program runs: from now on an OOM kill in its group is noticed.
    pub(super) fn started(&mut self, now: i64, identity: Identity) {
        self.started_at = now;
        self.identity = identity;
        let Some(dir) = &self.start.memory_dir else { return };
        let watch = if self.start.cgroup_v2 {
            cgroup::watch_oom_v2(dir)
        } else {
            cgroup::watch_oom_v1(dir)
        };
        // Without a watch the count is still read at the end.
        self.oom_watch = watch.ok();
    }

    /// Takes the terminal: it is output too.
    pub(super) fn take_terminal(&mut self, master: OwnedFd) -> io::Result<()> {
        self.outputs.push(Output::new(master.try_clone()?, Stream::Stdout)?);
        self.terminal = Some(master);
        Ok(())
    }

    /// Whether there is room for output.
    pub(super) fn may_read(&self) -> bool {
        self.attached.iter().all(|a| a.pending.len() < MAX_PENDING_BYTES)
    }

    /// Reads once from the output `index`: false at its end.
    pub(super) fn read(&mut self, index: usize) -> bool {
        let mut chunk = [0; CHUNK_BYTES];
        let output = &mut self.outputs[index];
        let got = match rustix::io::read(&output.fd, &mut chunk) {
            Ok(0) => 0,
            Ok(n) => n,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
            // A terminal whose last user is gone reads as an error.
            Err(_) => 0,
        };
        let mut text = Vec::new();
        let now = RealClock.now();
        if got == 0 {
            output.lines.finish(output.stream, now, &mut text);
        } else if self.log.is_some() {
            output.lines.feed(output.stream, now, &chunk[..got], &mut text);
        }
        let stream = output.stream;
        if let Some(log) = &mut self.log
            && !text.is_empty()
        {
            log.write(&text);
        }
        self.attached.retain_mut(|a| got == 0 || a.stream != stream || a.push(&chunk[..got]));
        got != 0
    }

    /// Reads what is left after the end of the first process.
    pub(super) fn drain(&mut self) {
        for index in 0..self.outputs.len() {
            for _ in 0..MAX_LAST_READS {
                if !readable(&self.outputs[index].fd) || !self.read(index) {
                    break;
                }
            }
            let output = &mut self.outputs[index];
            let mut text = Vec::new();
            output.lines.finish(output.stream, RealClock.now(), &mut text);
            if let Some(log) = &mut self.log {
                log.write(&text);
            }
        }
        self.outputs.clear();
    }

    pub(super) fn reopen_log(&mut self) -> io::Result<()> {
        self.log.as_mut().map_or(Ok(()), LogFile::reopen)
    }

    /// Whether the OOM killer struck since this was last asked.
    pub(super) fn new_oom_kill(&mut self) -> bool {
        let count = self.start.memory_dir.as_deref().and_then(cgroup::oom_kills).unwrap_or(0);
        let new = count > self.oom_seen;
        self.oom_seen = self.oom_seen.max(count);
        new
    }

    pub(super) fn kill_all(&self) -> io::Result<()> {
        cgroup::kill_all(&self.start.kill_dir)
    }

    /// Stores how it ended, durably.
    pub(super) fn store_exit(&mut self, exit: Exit) -> (ExitRecord, io::Result<()>) {
        self.new_oom_kill();
        let finished_at = nanoseconds(RealClock.now());
        let oom_killed = self.oom_seen > 0;
        let record = ExitRecord {
            exit_code: exit.shell_code(),
            finished_at,
            oom_killed,
            ..ExitRecord::default()
        };
        let path: PathBuf = self.start.bundle.join(EXIT_FILE);
        let stored = serde_json::to_vec(&record)
            .map_err(io::Error::from)
            .and_then(|text| sys::fs::write_atomic(&path, &text));
        (record, stored)
    }
}

/// Whether a read would not wait.
fn readable(fd: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&zero)).is_ok_and(|n| n > 0)
}

/// As CRI counts time.
pub(super) fn nanoseconds(time: jiff::Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}
