//! Servers that share an etcd: what one has written another one has, whoever dies in between.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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

    fn get(&self, path: &str) -> String {
        String::from_utf8(self.curl(path).output().unwrap().stdout).unwrap()
    }

    /// Whether the write was acknowledged.
    fn create(&self, path: &str, object: &str) -> bool {
        let mut command = self.curl(path);
        command.args(["--header", "Content-Type: application/json", "--data", object]);
        command.args(["--write-out", "\n%{http_code}"]);
        let answer = String::from_utf8(command.output().unwrap().stdout).unwrap();
        answer.ends_with("\n201")
    }
}

fn config_map(name: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"k":"v"}}}}"#
    )
}

fn service(name: &str, address: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}"}},
            "spec":{{"clusterIP":"{address}","ports":[{{"port":80}}]}}}}"#
    )
}

/// The names in an answer of objects `load-...`.
fn names(answer: &str) -> Vec<String> {
    let marked = answer.split("\"name\":\"load-").skip(1);
    marked.map(|it| format!("load-{}", it.split('"').next().unwrap())).collect()
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

/// Creates objects by turns through two servers until told to stop; answers with those that were acknowledged.
fn load(clients: &[Client; 2], worker: usize, stop: &AtomicBool) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("load-{worker}-{n}");
        if clients[n % 2].create(CONFIG_MAPS, &config_map(&name)) {
            acknowledged.insert(name);
        }
        n += 1;
    }
    acknowledged
}

#[allow(clippy::too_many_lines, reason = "one story from beginning to end")]
#[test]
fn two_servers_on_three_members_lose_nothing_that_was_acknowledged() {
    let mut etcd = Cluster::start(3);
    let servers = [format!("--etcd-servers={}", etcd.urls().join(","))];
    let directory = tempfile::tempdir().unwrap();
    let [data_a, data_b] = ["a", "b"].map(|it| directory.path().join(it));
    let mut a = Member::start(data_a.clone(), "192.0.2.1", &servers);
    share_keys(&data_a, &data_b);
    let b = Member::start(data_b, "192.0.2.2", &servers);
    let (on_a, on_b) = (a.client(), b.client());

    // What one has acknowledged the other one tells at once: by a read of one object and by a list from its cache.
    for n in 0..20 {
        let name = format!("seen-{n}");
        let (writer, reader) = if n % 2 == 0 { (&on_a, &on_b) } else { (&on_b, &on_a) };
        assert!(writer.create(CONFIG_MAPS, &config_map(&name)));
        let quoted = format!("\"{name}\"");
        assert!(reader.get(CONFIG_MAPS).contains(&quoted), "{name} is not in the list");
        assert!(reader.get(&format!("{CONFIG_MAPS}/{name}")).contains(&quoted), "no {name}");
    }
    // Both are told of, and each has its identity.
    let endpoints = "/api/v1/namespaces/default/endpoints/kubernetes";
    until("both servers' endpoints", || {
        let told = on_b.get(endpoints);
        told.contains("192.0.2.1") && told.contains("192.0.2.2")
    });
    let leases = on_b.get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases");
    assert!(leases.contains("\"name\":\"apiserver-"), "{leases}");
    assert!(on_b.get("/readyz?verbose").contains("[+]etcd ok"));

    // Of two that want one address at once one gets it, whichever server it asks.
    for n in 0..10 {
        let won: usize = std::thread::scope(|scope| {
            let both = [("one", &on_a), ("two", &on_b)].map(|(name, client)| {
                let object = service(&format!("{name}-{n}"), &format!("10.96.0.{}", 50 + n));
                let path = "/api/v1/namespaces/default/services";
                scope.spawn(move || usize::from(client.create(path, &object)))
            });
            both.map(|it| it.join().unwrap()).iter().sum()
        });
        assert_eq!(won, 1, "address {n}");
    }

    // Under load a member dies, then a server, and both come back.
    let list = on_b.get(&format!("{CONFIG_MAPS}?limit=1"));
    let version = list.split("\"resourceVersion\":\"").nth(1).unwrap().split('"').next().unwrap();
    let mut watching =
        on_b.curl(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={version}")).spawn().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let telling = {
        let (seen, output) = (Arc::clone(&seen), watching.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                seen.lock().unwrap().extend(names(&line).into_iter().next());
            }
        })
    };
    let stop = AtomicBool::new(false);
    let acknowledged: BTreeSet<String> = std::thread::scope(|scope| {
        let clients = [on_a.clone(), on_b.clone()];
        let stop = &stop;
        let workers: Vec<_> = (0..3)
            .map(|n| {
                let clients = clients.clone();
                scope.spawn(move || load(&clients, n, stop))
            })
            .collect();
        let writable =
            |n: &str| until(n, || on_b.create(CONFIG_MAPS, &config_map(&format!("mark-{n}"))));
        for member in 0..2 {
            writable(&format!("before-{member}"));
            etcd.kill(member);
            writable(&format!("without-{member}"));
            etcd.run(member);
            writable(&format!("with-{member}"));
        }
        a.kill();
        writable("without-a-server");
        a.start_again();
        until("the server that was killed", || on_a.create(CONFIG_MAPS, &config_map("mark-again")));
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().flat_map(|it| it.join().unwrap()).collect()
    });
    assert!(acknowledged.len() >= 20, "only {} writes", acknowledged.len());
    for client in [&on_a, &on_b] {
        let there: BTreeSet<String> = names(&client.get(CONFIG_MAPS)).into_iter().collect();
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    }
    // The watch through the server that lived has each of them, once.
    until("the last change", || {
        let seen = seen.lock().unwrap();
        acknowledged.iter().all(|name| seen.contains(name))
    });
    let seen = seen.lock().unwrap().clone();
    let once: BTreeSet<&String> = seen.iter().collect();
    assert_eq!(once.len(), seen.len(), "something was told twice");
    watching.kill().unwrap();
    watching.wait().unwrap();
    telling.join().unwrap();

    // Who dies is left out once its key has expired.
    a.kill();
    until("the end of a server's endpoint", || !on_b.get(endpoints).contains("192.0.2.1"));
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
