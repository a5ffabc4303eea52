//! The shim's loop: who speaks, what ended, what is readable, in one `poll`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use component_base::{Clock, RealClock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sys::process::{self, Child, Exit};

use super::container::{Attached, Container, nanoseconds};
use super::log::Stream;
use super::protocol::{Message, Op, PROTOCOL_VERSION, Reply, Request, Start};
use super::sandbox::Sandbox;
use super::{starting, wire};
use crate::launch::{ExecSpec, Report, Stdio};
use crate::spec::{ExitRecord, Identity};

/// The most connections: an agent and its successor need two.
const MAX_CONNECTIONS: usize = 16;
/// The most containers and execs that run at once in one pod.
const MAX_PROCESSES: usize = 512;
/// An OOM kill is counted a moment after it is announced: how often, and how long, to look.
const OOM_LOOKS: u32 = 200;
const OOM_LOOK_MS: i64 = 5;

type ConnectionId = u64;

/// A process between fork and program.
#[derive(Debug)]
struct Starting {
    connection: ConnectionId,
    seq: u64,
    what: What,
    report: OwnedFd,
    child: Option<Child>,
    terminal: Option<OwnedFd>,
    identity: Option<Identity>,
    error: Option<String>,
    /// It ended before its report did.
    exit: Option<Exit>,
}

#[derive(Debug)]
enum What {
    Container(Box<Container>),
    Exec(u64),
}

#[derive(Debug)]
struct Exec {
    connection: ConnectionId,
    name: u64,
    child: Child,
}

/// The shim.
#[derive(Debug)]
pub(super) struct Server {
    sandbox: Sandbox,
    listener: OwnedFd,
    signals: OwnedFd,
    connections: BTreeMap<ConnectionId, OwnedFd>,
    next_connection: ConnectionId,
    starting: Vec<Starting>,
    containers: Vec<Container>,
    execs: Vec<Exec>,
    /// Readers of ended containers that have not taken everything.
    lingering: Vec<Attached>,
    stopping: bool,
}

/// Whose descriptor is ready.
#[derive(Debug, Clone, Copy)]
enum Token {
    Listener,
    Signals,
    Connection(ConnectionId),
    Starting(usize),
    Output(usize, usize),
    Attached(usize, usize),
    Oom(usize),
    Lingering(usize),
}

impl Server {
    pub(super) fn new(sandbox: Sandbox, listener: OwnedFd, signals: OwnedFd) -> Self {
        Self {
            sandbox,
            listener,
            signals,
            connections: BTreeMap::new(),
            next_connection: 1,
            starting: Vec::new(),
            containers: Vec::new(),
            execs: Vec::new(),
            lingering: Vec::new(),
            stopping: false,
        }
    }

    /// Serves until it is told to stop and nothing runs any more.
    pub(super) fn run(mut self) -> ! {
        while !(self.stopping && self.containers.is_empty() && self.starting.is_empty()) {
            let mut ready = self.wait();
            // Later entries first, so that removing one leaves the places of the others.
            ready.reverse();
            for token in ready {
                self.handle(token);
            }
            self.look_for_oom();
        }
        if let Some(pause) = &self.sandbox.pause {
            // It may have been killed already.
            let _ = process::pidfd_kill(&pause.pidfd, libc::SIGKILL);
        }
        process::exit_now(0)
    }

    fn wait(&self) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        let mut add = |token, fd, flags| {
            tokens.push(token);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        add(Token::Listener, self.listener.as_fd(), PollFlags::IN);
        for (id, fd) in &self.connections {
            add(Token::Connection(*id), fd.as_fd(), PollFlags::IN);
        }
        for (index, container) in self.containers.iter().enumerate() {
            let may_read = container.may_read();
            for (output, stream) in container.outputs.iter().enumerate().filter(|_| may_read) {
                add(Token::Output(index, output), stream.fd.as_fd(), PollFlags::IN);
            }
            for (reader, attached) in container.attached.iter().enumerate() {
                let flags = if attached.is_behind() { PollFlags::OUT } else { PollFlags::empty() };
                add(Token::Attached(index, reader), attached.fd.as_fd(), flags);
            }
            if let Some(fd) = &container.oom_watch {
                add(Token::Oom(index), fd.as_fd(), PollFlags::IN);
            }
        }
        for (index, attached) in self.lingering.iter().enumerate() {
            add(Token::Lingering(index), attached.fd.as_fd(), PollFlags::OUT);
        }
        for (index, begun) in self.starting.iter().enumerate() {
            add(Token::Starting(index), begun.report.as_fd(), PollFlags::IN);
        }
        // Last in the list, so first handled: an ended process is taken before its pipes' ends are seen.
        add(Token::Signals, self.signals.as_fd(), PollFlags::IN);
        let looking = self.containers.iter().any(|c| c.oom_expected > 0);
        let pause = Timespec { tv_sec: 0, tv_nsec: OOM_LOOK_MS * 1_000_000 };
        // An interrupted wait reports nothing ready; the next one does.
        let count = poll(&mut fds, looking.then_some(&pause)).unwrap_or(0);
        if count == 0 {
            return Vec::new();
        }
        let ready = fds.iter().map(|fd| !fd.revents().is_empty());
        tokens.iter().zip(ready).filter(|(_, ready)| *ready).map(|(token, _)| *token).collect()
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Listener => self.accept(),
            Token::Signals => self.take_signals(),
            Token::Connection(id) => self.hear(id),
            Token::Starting(index) => self.hear_child(index),
            Token::Output(index, output) => {
                if let Some(container) = self.containers.get_mut(index)
                    && output < container.outputs.len()
                    && !container.read(output)
                {
                    container.outputs.remove(output);
                }
            }
            Token::Attached(index, reader) => {
                if let Some(container) = self.containers.get_mut(index)
                    && let Some(attached) = container.attached.get_mut(reader)
                    && (!attached.is_behind() || !attached.flush())
                {
                    // Not behind and yet ready: the reader is gone.
                    container.attached.remove(reader);
                }
            }
            Token::Oom(index) => self.take_oom(index),
            Token::Lingering(index) => {
                if let Some(attached) = self.lingering.get_mut(index)
                    && (!attached.flush() || !attached.is_behind())
                {
                    self.lingering.remove(index);
                }
            }
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else { return };
        if self.connections.len() >= MAX_CONNECTIONS {
            return;
        }
        self.connections.insert(self.next_connection, socket);
        self.next_connection += 1;
    }

    fn hear(&mut self, id: ConnectionId) {
        let Some(socket) = self.connections.get(&id) else { return };
        let incoming = match wire::receive(socket) {
            Ok(incoming) if !incoming.bytes.is_empty() => incoming,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            _ => return self.hang_up(id),
        };
        match incoming.decode::<Request>() {
            Ok(request) => self.serve(id, request, incoming.descriptors),
            Err(error) => {
                let seq = incoming.decode::<Numbered>().unwrap_or_default().seq;
                let error = Some(format!("unsupported request: {error}"));
                self.reply(id, Reply { seq, error, ..Reply::default() }, &[]);
            }
        }
    }

    /// The asker is gone, and with it whoever waits for its execs.
    fn hang_up(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
    }

    fn serve(&mut self, id: ConnectionId, request: Request, descriptors: Vec<OwnedFd>) {
        let seq = request.seq;
        let done = match request.op {
            Op::Hello { version: _ } => Ok(Some(self.hello(seq))),
            Op::Start(start) => self.start(id, seq, start).map(|()| None),
            Op::Signal { container, signal, all } => self.signal(&container, signal, all),
            Op::Exec { container, exec, spec } => {
                self.exec((id, seq), &container, exec, spec, descriptors).map(|()| None)
            }
            Op::KillExec { exec } => {
                for running in self.execs.iter().filter(|e| e.connection == id && e.name == exec) {
                    // Gone already is what is wanted.
                    let _ = process::pidfd_kill(&running.child.pidfd, libc::SIGKILL);
                }
                Ok(Some(Reply::default()))
            }
            Op::Attach { container, stdin, stdout, stderr } => {
                return self.attach(
                    (id, seq),
                    &container,
                    Wanted { stdin, stdout, stderr },
                    descriptors,
                );
            }
            Op::Detach { container } => self.find(&container).map(|container| {
                if container.start.stdin_once && !container.start.tty {
                    container.stdin = None;
                }
                Some(Reply::default())
            }),
            Op::Reopen { container } => self.find(&container).and_then(|container| {
                container.reopen_log().map_err(|e| format!("open log: {e}"))?;
                Ok(Some(Reply::default()))
            }),
            Op::Socket { v6 } => return self.socket(id, seq, v6),
            Op::Stop => {
                self.stop();
                Ok(Some(Reply::default()))
            }
        };
        match done {
            Ok(None) => {}
            Ok(Some(reply)) => self.reply(id, Reply { seq, ..reply }, &[]),
            Err(error) => {
                self.reply(id, Reply { seq, error: Some(error), ..Reply::default() }, &[]);
            }
        }
    }

    fn hello(&self, seq: u64) -> Reply {
        Reply {
            seq,
            version: PROTOCOL_VERSION,
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            running: self.containers.iter().map(Container::running).collect(),
            ..Reply::default()
        }
    }

    fn find(&mut self, id: &str) -> Result<&mut Container, String> {
        self.containers
            .iter_mut()
            .find(|c| c.start.container == id)
            .ok_or_else(|| format!("container {id} is not running"))
    }

    fn full(&self) -> Result<(), String> {
        let processes = self.containers.len() + self.execs.len() + self.starting.len();
        if processes >= MAX_PROCESSES {
            return Err(format!("the pod runs {MAX_PROCESSES} processes already"));
        }
        Ok(())
    }

    fn start(&mut self, id: ConnectionId, seq: u64, start: Start) -> Result<(), String> {
        self.full()?;
        if self.stopping {
            return Err("the sandbox is stopping".into());
        }
        let (mut container, report) = starting::container(&self.sandbox, start)
            .map_err(|e| format!("start a process: {e}"))?;
        let pidfd = container.pidfd.try_clone().map_err(|e| format!("copy pidfd: {e}"))?;
        container.started_at = nanoseconds(RealClock.now());
        let child = Some(Child { pid: container.pid, pidfd });
        let what = What::Container(Box::new(container));
        self.starting.push(Starting::new((id, seq), what, report, child));
        Ok(())
    }

    fn exec(
        &mut self,
        asker: (ConnectionId, u64),
        container: &str,
        name: u64,
        spec: ExecSpec,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), String> {
        self.full()?;
        let stdio = match <[OwnedFd; 3]>::try_from(descriptors) {
            Ok([stdin, stdout, stderr]) if !spec.tty => Some(Stdio { stdin, stdout, stderr }),
            Err(none) if spec.tty && none.is_empty() => None,
            _ => return Err("exec needs three descriptors, or a terminal".into()),
        };
        let container = self
            .containers
            .iter()
            .find(|c| c.start.container == container)
            .ok_or_else(|| format!("container {container} is not running"))?;
        let begun = starting::exec(&self.sandbox, container, spec, stdio)
            .map_err(|e| format!("start a process: {e}"))?;
        let starting = Starting::new(asker, What::Exec(name), begun.report, Some(begun.child));
        self.starting.push(starting);
        Ok(())
    }

    fn signal(&mut self, id: &str, signal: i32, all: bool) -> Result<Option<Reply>, String> {
        let container = self.find(id)?;
        let done = if all && signal == libc::SIGKILL {
            // The first process too, should it not be in the group any more.
            container.kill_all().and_then(|()| kill_gently(&container.pidfd, signal))
        } else {
            kill_gently(&container.pidfd, signal)
        };
        done.map_err(|e| format!("signal container {id}: {e}"))?;
        Ok(Some(Reply::default()))
    }

    fn attach(
        &mut self,
        (id, seq): (ConnectionId, u64),
        container: &str,
        wanted: Wanted,
        descriptors: Vec<OwnedFd>,
    ) {
        let mut input = None;
        let done = self.find(container).and_then(|container| {
            let streams = [(wanted.stdout, Stream::Stdout), (wanted.stderr, Stream::Stderr)];
            let streams = streams.into_iter().filter(|(wanted, _)| *wanted);
            for ((_, stream), fd) in streams.zip(descriptors) {
                rustix::io::ioctl_fionbio(&fd, true).map_err(|e| format!("attach: {e}"))?;
                container.attached.push(Attached::new(fd, stream));
            }
            if let Some(fd) = container.terminal.as_ref().or(container.stdin.as_ref()) {
                input = Some(fd.try_clone().map_err(|e| format!("attach: {e}"))?);
            }
            Ok(())
        });
        let reply = Reply { seq, error: done.err(), ..Reply::default() };
        // A terminal goes along even when no input is wanted: its size is changed through it.
        let wanted_input = input.filter(|_| wanted.stdin || self.has_terminal(container));
        self.reply(id, reply, &wanted_input.iter().collect::<Vec<_>>());
    }

    fn has_terminal(&self, id: &str) -> bool {
        self.containers.iter().any(|c| c.start.container == id && c.terminal.is_some())
    }

    fn socket(&self, id: ConnectionId, seq: u64, v6: bool) {
        let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let made = rustix::net::socket_with(family, SocketType::STREAM, flags, None);
        let error = made.as_ref().err().map(|e| format!("make a socket: {e}"));
        let made = made.ok();
        let reply = Reply { seq, error, ..Reply::default() };
        self.reply(id, reply, &made.iter().collect::<Vec<_>>());
    }

    fn stop(&mut self) {
        self.stopping = true;
        for container in &self.containers {
            // Those that could be killed are; the rest is tried again by whoever asked.
            let _ = container.kill_all();
            let _ = process::pidfd_kill(&container.pidfd, libc::SIGKILL);
        }
        for child in self.starting.iter().filter_map(|s| s.child.as_ref()) {
            let _ = process::pidfd_kill(&child.pidfd, libc::SIGKILL);
        }
    }

    fn reply(&self, id: ConnectionId, reply: Reply, descriptors: &[&OwnedFd]) {
        self.say(id, &Message::Reply(Box::new(reply)), descriptors);
    }

    /// Somebody who does not read loses the message: exits are in files, and a reconnect tells the rest.
    fn say(&self, id: ConnectionId, message: &Message, descriptors: &[&OwnedFd]) {
        let Some(socket) = self.connections.get(&id) else { return };
        if wire::send(socket, message, descriptors).is_err() {
            // The other side sees the end of the connection and asks anew.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
    }

    fn tell_all(&self, message: &Message) {
        for id in self.connections.keys() {
            self.say(*id, message, &[]);
        }
    }

    fn hear_child(&mut self, index: usize) {
        let Some(begun) = self.starting.get_mut(index) else { return };
        match wire::receive(&begun.report) {
            Ok(incoming) if !incoming.bytes.is_empty() => begun.take(incoming),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // It became its program, or nothing.
            _ => {
                let begun = self.starting.remove(index);
                self.begun(begun);
            }
        }
    }

    /// The report ended: the program runs, or never will.
    fn begun(&mut self, mut begun: Starting) {
        let asker = begun.connection;
        let mut reply = Reply { seq: begun.seq, ..Reply::default() };
        let ended = "the process ended before it could say why".to_owned();
        let error = begun.error.take();
        let identity = begun.identity.take();
        let (identity, error) = match (identity, error) {
            (Some(identity), None) => (identity, None),
            (_, error) => (Identity::default(), Some(error.unwrap_or(ended))),
        };
        if error.is_some() {
            // What became of the child is taken with the others; nobody is told.
            reply.error = error;
            return self.reply(asker, reply, &[]);
        }
        reply.identity = Some(identity.clone());
        reply.pid = begun.child.as_ref().map_or(0, |child| child.pid);
        let terminal = begun.terminal.take();
        match begun.what {
            What::Container(mut container) => {
                let now = nanoseconds(RealClock.now());
                container.started(now, identity);
                reply.started_at = now;
                let took = terminal.map(|terminal| container.take_terminal(terminal));
                if let Some(Err(error)) = took {
                    reply.error = Some(format!("take the terminal: {error}"));
                }
                self.containers.push(*container);
                self.reply(asker, reply, &[]);
                if let Some(exit) = begun.exit {
                    self.container_ended(self.containers.len() - 1, exit);
                }
            }
            What::Exec(name) => {
                self.reply(asker, reply, &terminal.iter().collect::<Vec<_>>());
                match (begun.exit, begun.child) {
                    (Some(exit), _) => self.say(
                        asker,
                        &Message::ExecExited { exec: name, code: exit.shell_code() },
                        &[],
                    ),
                    (None, Some(child)) => self.execs.push(Exec { connection: asker, name, child }),
                    (None, None) => {}
                }
            }
        }
    }

    fn take_signals(&mut self) {
        // What came does not matter: children are asked one by one, and a request to end is not for shims.
        let mut ignored = [0; 1024];
        while rustix::io::read(&self.signals, &mut ignored).is_ok_and(|n| n > 0) {}
        while let Ok(Some((pid, exit))) = process::reap_one() {
            self.ended(pid, exit);
        }
    }

    fn ended(&mut self, pid: i32, exit: Exit) {
        if let Some(begun) =
            self.starting.iter_mut().find(|s| s.child.as_ref().is_some_and(|c| c.pid == pid))
        {
            begun.exit = Some(exit);
        } else if let Some(index) = self.containers.iter().position(|c| c.pid == pid) {
            self.container_ended(index, exit);
        } else if let Some(index) = self.execs.iter().position(|e| e.child.pid == pid) {
            let exec = self.execs.remove(index);
            let message = Message::ExecExited { exec: exec.name, code: exit.shell_code() };
            self.say(exec.connection, &message, &[]);
        }
        // Else an orphan that this process inherited.
    }

    fn container_ended(&mut self, index: usize, exit: Exit) {
        let mut container = self.containers.remove(index);
        if container.start.pid_mode != crate::spec::PidMode::Own {
            // The first process of a private namespace takes all others with it; here somebody must.
            let _ = container.kill_all();
        }
        container.drain();
        // A full disk loses the file; those connected have the message.
        let (record, _stored) = container.store_exit(exit);
        self.announce_exit(&container, record);
        self.lingering.extend(container.attached.into_iter().filter(Attached::is_behind));
    }

    fn announce_exit(&self, container: &Container, exit: ExitRecord) {
        let container = container.start.container.clone();
        if exit.oom_killed {
            self.tell_all(&Message::Oom { container: container.clone() });
        }
        self.tell_all(&Message::Exited { container, exit });
    }

    fn take_oom(&mut self, index: usize) {
        let Some(container) = self.containers.get_mut(index) else { return };
        let Some(fd) = &container.oom_watch else { return };
        let mut ignored = [0; 4096];
        let _ = rustix::io::read(fd, &mut ignored);
        let gone = container.start.memory_dir.as_ref().is_none_or(|dir| !dir.exists());
        if gone {
            container.oom_watch = None;
        } else {
            container.oom_expected = OOM_LOOKS;
        }
    }

    /// Version 1 announces an OOM before it kills: the count tells when it did. Then the whole container goes,
    /// as the kernel itself does it in version 2.
    fn look_for_oom(&mut self) {
        for container in self.containers.iter_mut().filter(|c| c.oom_expected > 0) {
            container.oom_expected -= 1;
            if !container.new_oom_kill() {
                continue;
            }
            container.oom_expected = 0;
            if !container.start.cgroup_v2 {
                let _ = container.kill_all();
                let _ = process::pidfd_kill(&container.pidfd, libc::SIGKILL);
            }
        }
    }
}

/// The number of a request that is not understood otherwise.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Numbered {
    seq: u64,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl Starting {
    fn new(
        (connection, seq): (ConnectionId, u64),
        what: What,
        report: OwnedFd,
        child: Option<Child>,
    ) -> Self {
        Self {
            connection,
            seq,
            what,
            report,
            child,
            terminal: None,
            identity: None,
            error: None,
            exit: None,
        }
    }

    fn take(&mut self, incoming: wire::Incoming) {
        let report = incoming.decode::<Report>();
        self.terminal = incoming.descriptors.into_iter().next().or(self.terminal.take());
        match report {
            Ok(report) => {
                self.identity = report.identity.or(self.identity.take());
                self.error = report.error.or(self.error.take());
            }
            Err(error) => self.error = Some(format!("decode report: {error}")),
        }
    }
}

/// Gone already is no failure: its exit is on the way.
fn kill_gently(pidfd: &OwnedFd, signal: i32) -> std::io::Result<()> {
    match process::pidfd_kill(pidfd, signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}
