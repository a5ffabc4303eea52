//! Pulling from a registry that demands tokens, redirects, breaks off and lies.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use component_base::task::BlockingPool;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::pull::{Puller, pull};
use super::reference::Reference;
use super::registries::Registries;
use super::store::{ImageError, Record, Store, digest_of};

/// How the registry behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Good,
    /// Breaks off in the middle of a layer, until it was asked for the rest.
    BreaksOff,
    /// Sends other bytes than asked for.
    Lies,
    /// Sends an index without end.
    Endless,
    /// Tells of a layer that is larger than any.
    Boasts,
}

struct Registry {
    address: String,
    requests: Mutex<Vec<String>>,
    blobs: BTreeMap<String, Vec<u8>>,
    manifest: Vec<u8>,
    index: Vec<u8>,
    mood: Mood,
    breaks: AtomicUsize,
}

async fn registry(mood: Mood) -> Arc<Registry> {
    let layer = {
        let mut tar = tar::Builder::new(Vec::new());
        let content: Vec<u8> =
            (0..300_000_u32).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "data", content.as_slice()).unwrap();
        tar.into_inner().unwrap()
    };
    let config = serde_json::to_vec(&serde_json::json!({
        "config": {"Cmd": ["x"], "User": "7:8"},
        "rootfs": {"diff_ids": [digest_of(&layer)]}}))
    .unwrap();
    let point = |bytes: &[u8]| serde_json::json!({"digest": digest_of(bytes), "size": bytes.len()});
    let mut of_layer = point(&layer);
    if mood == Mood::Boasts {
        of_layer["size"] = (1_u64 << 62).into();
    }
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "config": point(&config), "layers": [of_layer]}))
    .unwrap();
    let mut ours = point(&manifest);
    let here = super::manifest::Platform::here();
    ours["platform"] = serde_json::json!({"os": "linux", "architecture": here.architecture});
    let mut other = point(b"other");
    other["platform"] = serde_json::json!({"os": "linux", "architecture": "s390x"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [other, ours]});
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = Arc::new(Registry {
        address: listener.local_addr().unwrap().to_string(),
        requests: Mutex::default(),
        blobs: [&layer, &config].map(|b| (digest_of(b), b.clone())).into(),
        manifest,
        index: serde_json::to_vec(&index).unwrap(),
        mood,
        breaks: AtomicUsize::new(0),
    });
    let serving = Arc::clone(&registry);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let registry = Arc::clone(&serving);
            tokio::spawn(async move { registry.serve(stream).await });
        }
    });
    registry
}

impl Registry {
    /// One request a connection.
    async fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 || line == "\r\n" {
                break;
            }
            lines.push(line.trim().to_owned());
        }
        let Some(path) = lines.first().and_then(|l| l.split(' ').nth(1)) else { return };
        let header = |name: &str| {
            lines.iter().find_map(|l| {
                let (key, value) = l.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        let authorization = header("authorization").unwrap_or_default();
        let from: usize = header("range")
            .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
            .unwrap_or(0);
        self.requests.lock().push(format!("{path} {authorization} {from}"));
        let answer = self.answer(path, &authorization, from);
        let _ = stream.get_mut().write_all(&answer).await;
    }

    fn answer(&self, path: &str, authorization: &str, from: usize) -> Vec<u8> {
        let reply = |status: &str, headers: &str, body: &[u8]| {
            let length = body.len();
            let mut bytes = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
            )
            .into_bytes();
            bytes.extend_from_slice(body);
            bytes
        };
        let address = &self.address;
        if path.starts_with("/token") {
            // `user:word`.
            return if authorization == "Basic dXNlcjp3b3Jk"
                && path.contains("scope=repository%3Aa%2Fb%3Apull")
            {
                reply("200 OK", "", br#"{"access_token":"sesame"}"#)
            } else {
                reply("401 Unauthorized", "", b"")
            };
        }
        if let Some(digest) = path.strip_prefix("/elsewhere/") {
            assert_eq!(authorization, "Bearer sesame", "the same host may see the secret");
            return self.blob(digest, from);
        }
        if authorization != "Bearer sesame" {
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"http://{address}/token\",service=\"s\"\r\n"
            );
            return reply("401 Unauthorized", &challenge, b"");
        }
        let bare = path.split('?').next().unwrap_or_default();
        match bare.strip_prefix("/v2/a/b/") {
            Some("manifests/1") if self.mood == Mood::Endless => {
                reply("200 OK", "", &vec![b' '; 9 << 20])
            }
            Some("manifests/1") => reply("200 OK", "", &self.index),
            Some(rest) if rest == format!("manifests/{}", digest_of(&self.manifest)) => {
                reply("200 OK", "", &self.manifest)
            }
            Some(rest) if rest.starts_with("blobs/") => {
                let digest = &rest["blobs/".len()..];
                reply("307 Temporary Redirect", &format!("Location: /elsewhere/{digest}\r\n"), b"")
            }
            _ => reply("404 Not Found", "", b""),
        }
    }

    fn blob(&self, digest: &str, from: usize) -> Vec<u8> {
        let mut body = self.blobs[digest].clone();
        let is_layer = body.len() > 1000;
        if self.mood == Mood::Lies && is_layer {
            body[1000] ^= 1;
        }
        let rest = &body[from.min(body.len())..];
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        let mut bytes = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            rest.len()
        )
        .into_bytes();
        let breaks = self.mood == Mood::BreaksOff
            && is_layer
            && self.breaks.fetch_add(1, Ordering::Relaxed) < 2;
        let sent = if breaks { rest.len() / 3 } else { rest.len() };
        bytes.extend_from_slice(&rest[..sent]);
        bytes
    }
}

async fn fetch(
    registry: &Registry,
    store: &Arc<Store>,
    yaml: &str,
    name: &str,
) -> Result<Record, ImageError> {
    let puller = Puller::new(Registries::parse(yaml).unwrap());
    let reference = Reference::parse(name).unwrap();
    let blocking = BlockingPool::new("test", 2);
    let auth = cri::AuthConfig {
        username: "user".into(),
        password: "word".into(),
        ..cri::AuthConfig::default()
    };
    let auth = name.starts_with(&registry.address).then_some(auth);
    pull(&puller, store, &blocking, &reference, (auth, None)).await
}

fn store() -> (tempfile::TempDir, Arc<Store>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    (dir, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_with_a_token_through_redirects() {
    let registry = registry(Mood::Good).await;
    let (dir, store) = store();
    let name = format!("{}/a/b:1", registry.address);
    let record = fetch(&registry, &store, "", &name).await.unwrap();
    assert_eq!(record.image.repo_tags, std::slice::from_ref(&name));
    assert_eq!(record.image.uid, Some(7));
    assert_eq!(record.manifest, digest_of(&registry.manifest));
    let data = store.layers_dir().join(&record.layers[0]).join("data");
    assert_eq!(fs::metadata(data).unwrap().len(), 300_000);
    assert_eq!(fs::read_dir(store.ingest_dir()).unwrap().count(), 0);
    // What is here is not fetched again, and is found again after a restart.
    registry.requests.lock().clear();
    fetch(&registry, &store, "", &name).await.unwrap();
    let asked = registry.requests.lock().join("\n");
    let layer = registry.blobs.iter().find(|(_, b)| b.len() > 1000).unwrap().0;
    assert!(!asked.contains(layer.as_str()), "{asked}");
    drop(store);
    assert_eq!(Store::open(dir.path()).unwrap().list().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_pulled_at_the_same_time_share_what_they_have_in_common() {
    let registry = registry(Mood::Good).await;
    let (_dir, store) = store();
    let address = &registry.address;
    let yaml = |host: &str| {
        format!(
            "mirrors: {{{host}: {{endpoint: ['http://{address}']}}}}\n\
             configs: {{'{address}': {{auth: {{username: user, password: word}}}}}}"
        )
    };
    let (one, two, three) = (yaml("one.example"), yaml("two.example"), yaml("three.example"));
    let pulled = futures::join!(
        fetch(&registry, &store, &one, "one.example/a/b:1"),
        fetch(&registry, &store, &two, "two.example/a/b:1"),
        fetch(&registry, &store, &three, "three.example/a/b:1"),
    );
    let layers = [pulled.0, pulled.1, pulled.2].map(|it| it.unwrap().layers);
    assert!(layers.iter().all(|it| *it == layers[0]));
    let data = store.layers_dir().join(&layers[0][0]).join("data");
    assert_eq!(fs::metadata(data).unwrap().len(), 300_000);
    let layer = registry.blobs.iter().find(|(_, b)| b.len() > 1000).unwrap().0;
    let wanted = format!("/elsewhere/{layer}");
    let sent = registry.requests.lock().iter().filter(|it| it.starts_with(&wanted)).count();
    assert_eq!(sent, 1, "the layer was sent more than once");
    assert_eq!(fs::read_dir(store.ingest_dir()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_transfer_is_gone_on_with() {
    let registry = registry(Mood::BreaksOff).await;
    let (_dir, store) = store();
    let name = format!("{}/a/b:1", registry.address);
    fetch(&registry, &store, "", &name).await.unwrap();
    let froms: Vec<usize> = registry
        .requests
        .lock()
        .iter()
        .filter(|r| r.starts_with("/elsewhere/"))
        .filter_map(|r| r.rsplit(' ').next()?.parse().ok())
        .filter(|from| *from > 0)
        .collect();
    assert_eq!(froms.len(), 2, "{froms:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bytes_than_asked_for_are_refused() {
    let registry = registry(Mood::Lies).await;
    let (_dir, store) = store();
    let name = format!("{}/a/b:1", registry.address);
    let error = fetch(&registry, &store, "", &name).await.unwrap_err();
    assert!(matches!(error, ImageError::Invalid(_)), "{error}");
    assert!(store.list().is_empty());
    assert_eq!(fs::read_dir(store.layers_dir()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(store.ingest_dir()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_and_layers_beyond_the_limits_are_refused() {
    for (mood, expected) in [
        (Mood::Endless, "manifests 1 has more than 8388608 bytes"),
        (Mood::Boasts, "of 4611686018427387904 bytes is not acceptable"),
    ] {
        let registry = registry(mood).await;
        let (_dir, store) = store();
        let name = format!("{}/a/b:1", registry.address);
        let error = fetch(&registry, &store, "", &name).await.unwrap_err();
        assert!(matches!(error, ImageError::Invalid(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(store.list().is_empty());
        assert_eq!(fs::read_dir(store.ingest_dir()).unwrap().count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_with_their_own_credentials() {
    let registry = registry(Mood::Good).await;
    let (_dir, store) = store();
    let address = &registry.address;
    let yaml = format!(
        "mirrors: {{far.example: {{endpoint: ['http://{address}']}}}}\n\
         configs: {{'{address}': {{auth: {{username: user, password: word}}}}}}"
    );
    let record = fetch(&registry, &store, &yaml, "far.example/a/b:1").await.unwrap();
    assert_eq!(record.image.repo_tags, ["far.example/a/b:1"]);
    assert!(registry.requests.lock()[0].contains("?ns=far.example"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_or_not_allowed_says_so() {
    let registry = registry(Mood::Good).await;
    let (_dir, store) = store();
    let name = format!("{}/a/b:2", registry.address);
    let error = fetch(&registry, &store, "", &name).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("failed to resolve reference {name:?}: {name}: not found")
    );
    let other = format!("{}/not/mine:1", registry.address);
    let error = fetch(&registry, &store, "", &other).await.unwrap_err();
    assert!(matches!(error, ImageError::Denied(_)), "{error}");
}
