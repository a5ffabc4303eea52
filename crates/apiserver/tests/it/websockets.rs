//! Watches over WebSockets, as pages and older libraries open them.

use apimachinery::{Value, json, value};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::bad_input::front::{Front, read_all};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A request to watch over a WebSocket: with these protocols, from a page where `origin` is one.
fn request(query: &str, protocols: &str, origin: Option<&str>) -> String {
    let mut text = format!(
        "GET {MAPS}?watch=1{query} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {protocols}\r\n"
    );
    if let Some(origin) = origin {
        text.push_str(&format!("Origin: {origin}\r\n"));
    }
    text + "\r\n"
}

/// A token as a page gives it.
fn token(token: &str) -> String {
    format!("base64url.bearer.authorization.k8s.io.{}", BASE64_URL_SAFE_NO_PAD.encode(token))
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(read).unwrap()
}

/// What a message begins with, and what it says.
async fn message(stream: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    let first = stream.read_u8().await.unwrap();
    let length = match stream.read_u8().await.unwrap() {
        126 => usize::from(stream.read_u16().await.unwrap()),
        short => usize::from(short),
    };
    let mut said = vec![0; length];
    stream.read_exact(&mut said).await.unwrap();
    (first, said)
}

fn map(name: &str) -> Value {
    value!({"metadata": {"name": name}})
}

#[tokio::test]
async fn a_page_watches_with_a_token_among_its_protocols() {
    let front = Front::start().await;
    front.cluster.done(&format!("POST {MAPS}"), Some(&map("first"))).await;
    let mut stream = front.connect("http/1.1", None).await.unwrap();
    let protocols = format!("{}, any.example", token("admin-token"));
    let asked =
        request("&fieldSelector=metadata.name!=x", &protocols, Some("https://page.example"));
    stream.write_all(asked.as_bytes()).await.unwrap();
    let head = head(&mut stream).await.to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-protocol: any.example\r\n"), "{head}");
    // RFC 6455, section 1.3.
    assert!(
        head.contains(&"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n".to_lowercase())
    );
    let mut told = Vec::new();
    for name in ["first", "second"] {
        let (first, said) = message(&mut stream).await;
        assert_eq!(first, 0x81, "text, and all of it");
        assert_eq!(said.last(), Some(&b'\n'));
        let event = json::parse(&said).unwrap();
        told.push(format!(
            "{} {}",
            event.str_at(&["type"]),
            event.str_at(&["object", "metadata", "name"])
        ));
        if name == "first" {
            front.cluster.done(&format!("POST {MAPS}"), Some(&map("second"))).await;
        }
    }
    assert_eq!(told, ["ADDED first", "ADDED second"]);
    // A close under a mask that changes nothing: the server goes too.
    stream.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]).await.unwrap();
    read_all(&mut stream).await;
}

#[tokio::test]
async fn a_watch_ends_with_its_time() {
    let front = Front::start().await;
    let mut stream = front.connect("http/1.1", None).await.unwrap();
    let protocols = format!("{}, x", token("admin-token"));
    let asked = request("&timeoutSeconds=1", &protocols, Some("https://page.example"));
    stream.write_all(asked.as_bytes()).await.unwrap();
    head(&mut stream).await;
    assert_eq!(message(&mut stream).await, (0x88, vec![0x03, 0xe8]));
}

#[tokio::test]
async fn who_may_not_watch_gets_no_websocket() {
    let front = Front::start().await;
    let page = Some("https://page.example");
    let good = token("admin-token");
    for (protocols, origin, code) in [
        (format!("{good}, x"), None, 403),
        (format!("{good}, x, y"), page, 400),
        (good.clone(), page, 401),
        (format!("{good}, {good}, x"), page, 401),
        (format!("{}, x", token("nobody")), page, 401),
        (format!("{}, x", token("bob-token")), page, 403),
        ("x".into(), page, 403),
    ] {
        let mut stream = front.connect("http/1.1", None).await.unwrap();
        stream.write_all(request("", &protocols, origin).as_bytes()).await.unwrap();
        let head = head(&mut stream).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {code} ")), "{protocols} {origin:?}: {head}");
    }
}
