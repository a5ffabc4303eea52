//! The binary as people start it: flags, files, the data directory, signals. Without a node, so without root.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "real processes need real time"
)]

mod budget;
mod etcd;
mod kube_apiserver;
mod raw;
mod watches;
mod why;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

fn kubelith(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubelith"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a command that fails says.
fn complaint(arguments: &[&str]) -> String {
    let output = kubelith(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?} did not fail");
    String::from_utf8(output.stderr).unwrap()
}

/// A control plane; killed when it is dropped.
struct Server {
    process: Child,
    directory: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Starts one by a configuration file, and waits until it listens.
    fn start() -> Self {
        Self::start_with("")
    }

    /// The same, with more lines in its configuration file.
    fn start_with(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = directory.path().join("config.yaml");
        let text = format!(
            "data-dir: {}\nsecure-port: {port}\nbind-address: 127.0.0.1\nstorage: embedded\n\
             disable: [agent, proxy, dns]\nkube-apiserver-arg: [max-requests-inflight=50]\n{more}",
            directory.path().join("data").display()
        );
        fs::write(&config, text).unwrap();
        let mut process =
            kubelith(&["server", "--config", config.to_str().unwrap()]).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let up = lines.by_ref().map_while(Result::ok).any(|line| line.contains("API server"));
        let mut server = Self { process, directory };
        assert!(up, "it did not start: {}", server.log());
        server
    }

    fn log(&mut self) -> String {
        let _ = self.process.kill();
        let mut text = String::new();
        if let Some(mut stderr) = self.process.stderr.take() {
            stderr.read_to_string(&mut text).unwrap();
        }
        text
    }

    fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn one_server_has_a_data_directory_keeps_it_private_and_ends_by_signal() {
    let mut server = Server::start();
    let data = server.data();
    assert_eq!(mode(&data), 0o700);
    for secret in ["kubeconfig", "node-token", "pki/ca.key", "pki/admin.key"] {
        assert_eq!(mode(&data.join(secret)), 0o600, "{secret}");
    }
    let data_text = data.to_str().unwrap();
    let arguments = ["server", "--data-dir", data_text, "--disable", "agent,proxy,dns"];
    let refused = complaint(&arguments);
    let holder = format!("in use by another kubelith (process {})", server.process.id());
    assert!(refused.contains(&holder), "{refused}");
    let printed = kubelith(&["kubeconfig", "--data-dir", data_text]).output().unwrap();
    assert_eq!(printed.stdout, fs::read(data.join("kubeconfig")).unwrap());
    let id = i32::try_from(server.process.id()).unwrap();
    let id = rustix::process::Pid::from_raw(id).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert!(server.process.wait().unwrap().success());
    // What it held is free again.
    let lock = fs::File::open(data.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn who_sends_a_second_signal_does_not_wait() {
    let directory = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let data = directory.path().join("data");
    let mut arguments = vec!["server", "--bind-address", "127.0.0.1", "--data-dir"];
    let port = port.to_string();
    arguments.extend([data.to_str().unwrap(), "--secure-port", &port]);
    arguments.extend(["--disable", "agent,proxy,dns"]);
    arguments.extend(["--kube-apiserver-arg", "shutdown-delay-duration=1h"]);
    let mut process = kubelith(&arguments).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let up = lines.by_ref().map_while(Result::ok).any(|line| line.contains("API server"));
    let mut server = Server { process, directory };
    assert!(up, "it did not start: {}", server.log());
    let id = i32::try_from(server.process.id()).unwrap();
    let id = rustix::process::Pid::from_raw(id).unwrap();
    let mut errors = BufReader::new(server.process.stderr.take().unwrap()).lines();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    let heard = errors.by_ref().map_while(Result::ok).any(|line| line.contains("a signal"));
    assert!(heard, "the first asks for the end");
    assert!(server.process.try_wait().unwrap().is_none(), "which takes an hour");
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert_eq!(server.process.wait().unwrap().code(), Some(1));
}

#[test]
fn flags_that_cannot_be_are_refused_before_anything_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let data = data.to_str().unwrap();
    for (flags, wanted) in [
        (vec!["--feature-gates", "Nope=true"], "unrecognized feature gate: Nope"),
        (vec!["--kubelet-arg", "nope=1"], "kubelet has no flag --nope"),
        (vec!["--controllers", "nope"], "\"nope\" is not in the list of known controllers"),
        (vec!["--config", "/does/not/exist"], "could not read /does/not/exist"),
        (vec!["--config", "/dev/zero"], "a configuration file has at most 1048576 bytes"),
        (vec!["--service-cidr", "10.0.0.0/16,10.1.0.0/16"], "must be of different families"),
    ] {
        let mut arguments = vec!["server", "--data-dir", data, "--disable", "agent,proxy,dns"];
        arguments.extend(flags);
        let said = complaint(&arguments);
        assert!(said.contains(wanted), "{said}");
        // What it is, and nothing below it.
        assert!(said.starts_with("error: ") && !said.contains("Caused by"), "{said}");
    }
    let said = complaint(&["agent", "--server", "https://127.0.0.1:1", "--data-dir", data]);
    assert!(said.contains("give --token"), "{said}");
    let said = complaint(&["image", "ls", "--data-dir", data]);
    assert!(said.contains("is kubelith running with this data directory?"), "{said}");
    assert!(!Path::new(data).join("store").exists());
}

#[test]
fn what_cannot_start_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let start = |data: &Path, more: &[&str]| {
        let data = data.to_str().unwrap();
        let common = ["server", "--data-dir", data, "--disable", "agent,proxy,dns"];
        complaint(&[&common, more].concat())
    };
    let said = start(&data, &["--bind-address", "127.0.0.1", "--secure-port", &port]);
    assert!(said.contains("choose another --secure-port"), "{said}");
    let said = start(&data, &["--bind-address", "203.0.113.9", "--secure-port", &port]);
    assert!(said.contains("see --bind-address"), "{said}");
    let made: Vec<_> = fs::read_dir(&data).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(made, ["lock"]);

    // What is somebody else's stays as it is, whether a server or an uninstall is pointed there.
    let strange = directory.path().join("strange");
    fs::create_dir(&strange).unwrap();
    fs::set_permissions(&strange, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(strange.join("diary"), "mine").unwrap();
    let said = start(&strange, &[]);
    assert!(said.contains("has other things in it (diary)"), "{said}");
    let said = complaint(&["uninstall", "--data-dir", strange.to_str().unwrap(), "--yes"]);
    assert!(said.contains("has other things in it (diary)"), "{said}");
    assert_eq!((mode(&strange), fs::read_dir(&strange).unwrap().count()), (0o755, 1));
    let file = strange.join("diary");
    let said = start(&file, &[]);
    assert!(said.contains("could not read the data directory"), "{said}");
}
