//! A server that may have so much memory, and clients that would make it take several times as much: it stays below its budget,
//! says no to what it has no room for, and serves everything when they are gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use component_base::tls::{Trust, client};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::AsyncWriteExt as _;

use crate::kube_apiserver::{Part, Pki, free_port};

const BUDGET: u64 = 512 << 20;
/// How long the load goes on.
const LOAD: Duration = Duration::from_secs(20);
/// Namespaces, each with objects of some size: a list of one as a table takes some 80 MB.
const NAMESPACES: usize = 4;
const OBJECTS: usize = 14;
const SIZE: usize = 400_000;
/// As many at once as would take gigabytes.
const READERS: usize = 32;
const WRITERS: usize = 24;
const WATCHERS: usize = 200;

/// The server's API as somebody with a certificate.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    tls: ClientConfig,
    port: u16,
}

/// A code, the headers, and how many bytes there were.
struct Answer {
    code: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Api {
    pub(crate) fn of(pki: &Pki, name: &str, port: u16) -> Self {
        let read = |file: &str| std::fs::read(pki.path(file)).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&read("ca.crt")).unwrap()).unwrap();
        let certificate = CertificateDer::from_pem_slice(&read(&format!("{name}.crt"))).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&read(&format!("{name}.key"))).unwrap();
        let tls = client(Trust::Authorities(roots))
            .unwrap()
            .with_client_auth_cert(vec![certificate], key)
            .unwrap();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls.clone())
            .https_only()
            .enable_http1()
            .build();
        // Connections are not taken up again that the server may be about to end.
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(5))
            .build(connector);
        Self { client, tls, port }
    }

    async fn ask(&self, method: Method, path: &str, accept: &str, body: String) -> Answer {
        let media = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("https://127.0.0.1:{}{path}", self.port))
            .header("accept", accept)
            .header("content-type", media)
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let none = || Answer { code: 0, headers: HeaderMap::new(), body: Bytes::new() };
        let Ok(response) = self.client.request(request).await else { return none() };
        let (parts, body) = response.into_parts();
        match body.collect().await {
            Ok(body) => Answer {
                code: parts.status.as_u16(),
                headers: parts.headers,
                body: body.to_bytes(),
            },
            Err(_) => none(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, "application/json", String::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: String) -> u16 {
        self.ask(Method::POST, path, "application/json", body).await.code
    }

    /// Makes an object; its version.
    pub(crate) async fn made(&self, path: &str, body: String) -> String {
        let answer = self.ask(Method::POST, path, "application/json", body).await;
        assert_eq!(answer.code, 201, "{path}");
        let object = apimachinery::json::parse(&answer.body).unwrap();
        object.str_at(&["metadata", "resourceVersion"]).to_owned()
    }

    /// A connection of its own.
    pub(crate) async fn connect(
        &self,
        protocol: &str,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
        let mut tls = self.tls.clone();
        tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp).await
    }
}

/// What `/proc` says of the memory of a process, in bytes: `VmRSS:` now, `VmHWM:` at most until now.
pub(crate) fn memory(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

fn map(name: &str, size: usize) -> String {
    format!(r#"{{"metadata":{{"name":"{name}"}},"data":{{"k":"{}"}}}}"#, "x".repeat(size))
}

fn maps(namespace: usize) -> String {
    format!("/api/v1/namespaces/ns-{namespace}/configmaps")
}

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

/// How requests were answered, by what they were.
#[derive(Default)]
struct Tally(Mutex<BTreeMap<(&'static str, u16), usize>>);

impl Tally {
    fn add(&self, what: &'static str, answer: &Answer) {
        *self.0.lock().entry((what, answer.code)).or_default() += 1;
        if answer.code == 429 {
            assert!(answer.headers.contains_key("retry-after"), "{:?}", answer.headers);
        }
    }

    fn count(&self, what: &'static str, code: u16) -> usize {
        self.0.lock().get(&(what, code)).copied().unwrap_or_default()
    }

    fn all(&self, what: &'static str) -> usize {
        self.0.lock().iter().filter(|((it, _), _)| *it == what).map(|(_, count)| count).sum()
    }
}

/// What every test of memory has: objects, and somebody who may do everything and is no administrator.
async fn furnish(admin: &Api) {
    let binding = r#"{"metadata":{"name":"loader"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io",
        "kind":"ClusterRole","name":"cluster-admin"},"subjects":[{"kind":"User","name":"loader",
        "apiGroup":"rbac.authorization.k8s.io"}]}"#;
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(admin.post(path, binding.to_owned()).await, 201);
    assert_eq!(admin.post(LEASE, r#"{"metadata":{"name":"l"}}"#.to_owned()).await, 201);
    for namespace in 0..NAMESPACES {
        let made = format!(r#"{{"metadata":{{"name":"ns-{namespace}"}}}}"#);
        assert_eq!(admin.post("/api/v1/namespaces", made).await, 201);
        for object in 0..OBJECTS {
            let made = admin.post(&maps(namespace), map(&format!("m{object}"), SIZE)).await;
            assert_eq!(made, 201);
        }
    }
}

/// The clients of a load; they go on until they are told to stop.
struct Load {
    api: Api,
    admin: Api,
    tally: Arc<Tally>,
    over: Arc<AtomicBool>,
    tasks: tokio::task::JoinSet<()>,
}

impl Load {
    fn spawn<F: Future<Output = ()> + Send>(
        &mut self,
        each: impl Fn(Api, Arc<Tally>, usize) -> F + Send + 'static,
        api: &Api,
    ) {
        let (api, tally, over) = (api.clone(), Arc::clone(&self.tally), Arc::clone(&self.over));
        self.tasks.spawn(async move {
            let mut turn = 0;
            while !over.load(Ordering::Relaxed) {
                each(api.clone(), Arc::clone(&tally), turn).await;
                turn += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    fn begin(&mut self) {
        let (api, admin) = (self.api.clone(), self.admin.clone());
        for reader in 0..READERS {
            let read = move |api: Api, tally: Arc<Tally>, turn: usize| async move {
                let path = maps((reader + turn) % NAMESPACES);
                let accept = ["application/vnd.kubernetes.protobuf", TABLE, "application/json"];
                let accept = accept[(reader + turn) % accept.len()];
                let answer = api.ask(Method::GET, &path, accept, String::new()).await;
                tally.add("list", &answer);
            };
            self.spawn(read, &api);
        }
        for writer in 0..WRITERS {
            let write = move |api: Api, tally: Arc<Tally>, turn: usize| async move {
                let (path, name) = (maps(writer % NAMESPACES), format!("w{writer}-{turn}"));
                let body = map(&name, 1_000_000);
                let made = api.ask(Method::POST, &path, "application/json", body).await;
                tally.add("create", &made);
                let path = format!("{path}/{name}");
                let mut gone = made.code != 201;
                while !gone {
                    let answer = api.ask(Method::DELETE, &path, "application/json", String::new());
                    let answer = answer.await;
                    tally.add("delete", &answer);
                    gone = answer.code == 200;
                }
            };
            self.spawn(write, &api);
        }
        let renew = |api: Api, tally: Arc<Tally>, turn: usize| async move {
            let body = format!(r#"{{"spec":{{"leaseTransitions":{turn}}}}}"#);
            let path = format!("{LEASE}/l");
            let answer = api.ask(Method::PATCH, &path, "application/json", body).await;
            tally.add("lease", &answer);
        };
        self.spawn(renew, &api);
        let probe = |api: Api, tally: Arc<Tally>, _: usize| async move {
            tally.add("livez", &api.get("/livez").await);
            let ready = api.get("/readyz?verbose").await;
            let says = String::from_utf8_lossy(&ready.body).contains("[-]memory-budget");
            tally.add(if says { "not ready" } else { "ready" }, &ready);
        };
        self.spawn(probe, &admin);
    }

    /// Watches, each a connection of its own and with a text of its own, of which nobody reads anything.
    async fn watch(&mut self) {
        for watcher in 0..WATCHERS {
            let Ok(mut stream) = self.api.connect("http/1.1").await else { continue };
            let path = format!("{}?watch=1&labelSelector=no!%3Done", maps(watcher % NAMESPACES));
            let head = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
            let over = Arc::clone(&self.over);
            self.tasks.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                drop(stream);
            });
        }
    }
}

async fn until_ready(admin: &Api) {
    let begun = Instant::now();
    loop {
        let answer = admin.get("/readyz?verbose").await;
        if answer.code == 200 {
            return;
        }
        let says = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not become ready: {says}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[test]
fn a_server_stays_below_its_budget_whatever_is_asked_of_it() {
    let (pki, port) = (Pki::make(), free_port());
    let mut arguments = vec!["kube-apiserver".to_owned()];
    arguments.extend(pki.flags(port));
    let data = pki.path("data");
    arguments.extend(["--data-dir".to_owned(), data, format!("--memory-budget={BUDGET}")]);
    let server = Part::start(&arguments, "API server");
    let process = server.0.id();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tally = runtime.block_on(async {
        let (api, admin) = (Api::of(&pki, "loader", port), Api::of(&pki, "admin", port));
        furnish(&admin).await;
        let begin = memory(process, "VmRSS:");
        let (tally, over) = <(Arc<Tally>, Arc<AtomicBool>)>::default();
        let tasks = tokio::task::JoinSet::new();
        let load = (Arc::clone(&tally), Arc::clone(&over));
        let mut load = Load { api, admin, tally: load.0, over: load.1, tasks };
        load.begin();
        load.watch().await;
        tokio::time::sleep(LOAD).await;
        over.store(true, Ordering::Relaxed);
        let (api, admin) = (load.api.clone(), load.admin.clone());
        load.tasks.join_all().await;
        let most = memory(process, "VmHWM:");
        println!("{begin} bytes before, {most} at most: {:?}", tally.0.lock());
        assert!(most < BUDGET, "it had {most} bytes: {:?}", tally.0.lock());

        until_ready(&admin).await;
        for accept in ["application/vnd.kubernetes.protobuf", TABLE, "application/json"] {
            for namespace in 0..NAMESPACES {
                let path = maps(namespace);
                let answer = api.ask(Method::GET, &path, accept, String::new()).await;
                assert_eq!(answer.code, 200, "{path} as {accept} after the load");
            }
        }
        assert_eq!(api.post(&maps(0), map("after", 1_000_000)).await, 201);
        let watch = api.get(&format!("{}?watch=1&timeoutSeconds=1", maps(0))).await;
        assert_eq!(watch.code, 200);
        let metrics = admin.get("/metrics").await;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        assert!(!text.contains("apiserver_memory_refused_requests_total{kind=\"read\"} 0\n"));
        // Nothing but what this very request may cost.
        assert!(text.contains("\napiserver_memory_charged_bytes 32768\n"), "{text}");
        tally
    });
    for what in ["list", "create"] {
        assert!(tally.count(what, 429) > 0, "no {what} was refused");
        let good = tally.count(what, 200) + tally.count(what, 201);
        assert!(good > 0, "no {what} was carried out");
    }
    assert!(tally.count("not ready", 500) > 0, "readyz never said so");
    for what in ["lease", "livez"] {
        // Some find that their connection was just ended.
        let answered = tally.all(what) - tally.count(what, 0);
        assert!(answered > 0, "no {what} was answered");
        assert_eq!(tally.count(what, 200), answered, "{what}: {:?}", tally.0.lock());
    }
}
