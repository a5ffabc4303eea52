//! Servers that share an etcd: what one has written another one has, whoever dies in between.

mod cut_off;
mod following;
mod three;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;

#[path = "../../../../crates/storage-etcd/tests/it/cluster.rs"]
#[allow(dead_code, reason = "the store's own tests ask more of it")]
pub(crate) mod cluster;

use cluster::Cluster;

/// How long a state may take to come.
const PATIENCE: Duration = Duration::from_secs(90);
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// One of some servers.
struct Member {
    process: Child,
    data: PathBuf,
    port: u16,
    arguments: Vec<String>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Member {
    fn start(data: PathBuf, advertised: &str, more: &[String]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut arguments: Vec<String> =
            ["server", "--bind-address", "127.0.0.1"].map(Into::into).into();
        arguments.extend(["--data-dir".to_owned(), data.display().to_string()]);
        arguments.push(format!("--secure-port={port}"));
        arguments.push(format!("--advertise-address={advertised}"));
        arguments.extend(["--disable", "agent,proxy,dns"].map(Into::into));
        arguments.extend(more.iter().cloned());
        let process = Self::run(&arguments);
        Self { process, data, port, arguments }
    }

    /// Starts it, and waits until it listens.
    fn run(arguments: &[String]) -> Child {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut process = kubelith(&arguments).stderr(Stdio::inherit()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert!(lines.by_ref().map_while(Result::ok).any(|line| line.contains("API server")));
        process
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn start_again(&mut self) {
        self.process = Self::run(&self.arguments);
    }

    fn client(&self) -> Client {
        Client { pki: self.data.join("pki"), url: format!("https://127.0.0.1:{}", self.port) }
    }
}

/// Asks one server, as the administrator.
#[derive(Clone)]
struct Client {
    pki: PathBuf,
    url: String,
}

impl Client {
    fn curl(&self, path: &str) -> Command {
        let file = |name: &str| self.pki.join(name).display().to_string();
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "60", "--no-buffer"]);
        command.args(["--cacert", &file("ca.crt"), "--cert", &file("admin.crt")]);
        command.args(["--key", &file("admin.key")]).arg(format!("{}{path}", self.url));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// What is answered; null where nothing is.
    fn get(&self, path: &str) -> Value {
        let answer = self.curl(path).output().unwrap().stdout;
        serde_json::from_slice(&answer).unwrap_or_default()
    }

    fn text(&self, path: &str) -> String {
        String::from_utf8(self.curl(path).output().unwrap().stdout).unwrap()
    }

    /// The code and the object of an answer; none where there is none, or it says that something may have happened.
    fn send(&self, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        let media = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let mut command = self.curl(path);
        command.args(["--request", method, "--data", body, "--write-out", "\n%{http_code}"]);
        command.args(["--header", &format!("Content-Type: {media}")]);
        let answer = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let (text, code) = answer.rsplit_once('\n')?;
        let code = code.parse().ok().filter(|code| (1..500).contains(code) && *code != 429)?;
        Some((code, serde_json::from_str(text).unwrap_or_default()))
    }

    /// Whether the write was acknowledged.
    fn create(&self, path: &str, object: &str) -> bool {
        self.send("POST", path, object).is_some_and(|(code, _)| code == 201)
    }
}

fn config_map(name: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"k":"v"}}}}"#
    )
}

/// The objects of a list.
fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn version(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The authority, keys and tokens that servers of one cluster share.
fn share_keys(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    let status = Command::new("cp").arg("-a").arg(from.join("pki")).arg(to).status().unwrap();
    assert!(status.success());
    // Its serving certificate is its own.
    for own in ["apiserver.crt", "apiserver.key"] {
        let _ = fs::remove_file(to.join("pki").join(own));
    }
}

#[test]
fn a_store_moves_to_etcd_and_back_while_its_server_runs() {
    let server = Server::start();
    let data = server.data();
    let etcd = Cluster::start(1);
    let place = format!("etcd:{}", etcd.urls().join(","));
    let embedded = format!("embedded:{}", data.display());
    let migrate = |from: &str, to: &str| {
        let output =
            kubelith(&["datastore", "migrate", "--from", from, "--to", to]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let hash = |said: &str| said.trim().rsplit(' ').next().unwrap().to_owned();
    let there = migrate(&embedded, &place);
    let refused = complaint(&["datastore", "migrate", "--from", &embedded, "--to", &place]);
    assert!(refused.contains("objects in etcd at"), "{refused}");
    let moved = tempfile::tempdir().unwrap();
    let back = migrate(&place, &format!("embedded:{}", moved.path().join("data").display()));
    assert_eq!(hash(&there), hash(&back));
    let file = moved.path().join("copy.snap");
    let urls = etcd.urls().join(",");
    let arguments =
        ["datastore", "snapshot", "save", file.to_str().unwrap(), "--etcd-servers", &urls];
    let saved = kubelith(&arguments).output().unwrap();
    assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
    assert_eq!(hash(&String::from_utf8(saved.stdout).unwrap()), hash(&there));
    let other = Cluster::start(1);
    let urls = other.urls().join(",");
    let arguments =
        ["datastore", "snapshot", "restore", file.to_str().unwrap(), "--etcd-servers", &urls];
    let restored = kubelith(&arguments).output().unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    assert_eq!(hash(&String::from_utf8(restored.stdout).unwrap()), hash(&there));
}
