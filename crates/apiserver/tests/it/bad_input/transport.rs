//! What is broken below the requests: framing, sizes, TLS, time.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::front::{Answer, Authority, Front, answer_of, no_answer, read_all, request};
use super::{Case, case};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "Content-Type: application/json";
const CHUNKED: &str = "Transfer-Encoding: chunked";

fn raw(what: &str, text: &str, code: u16, says: &str) -> Case {
    Case { what: what.into(), bytes: text.as_bytes().to_vec(), code, says: says.into() }
}

/// Framing that Go's HTTP server refuses, and sizes that upstream does.
pub(super) fn framing() -> Vec<Case> {
    let too_large = "Request entity too large: limit is 3145728";
    let post = format!("POST {MAPS}");
    let body = format!(r#"{{"metadata":{{"name":"x"}},"data":{{"a":"{}"}}}}"#, "a".repeat(3 << 20));
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let chunks = format!("{}0\r\n\r\n", chunk.repeat(50));
    let long = format!("X: {}", "a".repeat((1 << 20) + 1));
    vec![
        case(&post, &[JSON], body, 413, too_large),
        case(&post, &[JSON, CHUNKED], chunks, 413, too_large),
        case(&format!("GET {MAPS}?x={}", "a".repeat(70_000)), &[], "", 414, ""),
        case(&format!("GET {MAPS}"), &[&long], "", 431, "431 Request Header Fields Too Large"),
        raw(
            "no host",
            "GET /api HTTP/1.1\r\nConnection: close\r\n\r\n",
            400,
            "400 Bad Request: missing required Host header",
        ),
        raw(
            "a compressed transfer",
            "POST /api HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            501,
            "Unsupported transfer encoding",
        ),
        raw("a NUL in the path", "GET /api\0 HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""),
        raw("no version", "GET /\r\n\r\n", 400, ""),
        raw("version 3", "GET / HTTP/3.0\r\nHost: x\r\n\r\n", 400, ""),
        raw(
            "two lengths",
            "POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
            400,
            "",
        ),
        raw(
            "a negative length",
            "POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            400,
            "",
        ),
        raw("a space before the colon", "GET /api HTTP/1.1\r\nHost : x\r\n\r\n", 400, ""),
        raw("TLS in TLS", "\u{16}\u{3}\u{1}garbage\r\n\r\n", 400, ""),
    ]
}

#[tokio::test]
async fn what_is_not_tls_is_told_so_and_certificates_of_strangers_let_nobody_in() {
    let mut front = Front::start().await;
    let mut plain = front.plain().await;
    plain.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let wanted =
        Answer { code: 400, says: "Client sent an HTTP request to an HTTPS server.\n".into() };
    assert_eq!(answer_of(&read_all(&mut plain).await), wanted);
    let mut plain = front.plain().await;
    plain.write_all(&[0x16; 4096]).await.unwrap();
    assert_eq!(answer_of(&read_all(&mut plain).await), no_answer());

    let get = request(&format!("GET {MAPS}"), &["Authorization: none"], b"");
    let bytes = String::from_utf8(get).unwrap().replace("Authorization: none\r\n", "");
    let good = front.authority.identity("bob", 2999);
    let denied = front.send_as(Some(&good), bytes.as_bytes()).await;
    assert!(denied.says.contains("User \"bob\" cannot list"), "{denied:?}");
    for bad in [front.authority.identity("bob", 2020), Authority::new().identity("admin", 2999)] {
        let refused = front.send_as(Some(&bad), bytes.as_bytes()).await;
        assert_eq!(refused, Answer { code: 401, says: "Unauthorized".into() });
        // Other credentials count all the same.
        let with_token = request(&format!("GET {MAPS}"), &[], b"");
        assert_eq!(front.send_as(Some(&bad), &with_token).await.code, 200);
    }
    front.is_unharmed("certificates").await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
    let mut front = Front::start().await;
    let mut stream = front.connect("http/1.1", None).await.unwrap();
    let length = "Content-Length: 100";
    stream.write_all(&request(&format!("POST {MAPS}"), &[JSON, length], b"")).await.unwrap();
    stream.write_all(b"{").await.unwrap();
    stream.flush().await.unwrap();
    // The next time there is nothing to do, the time is later.
    tokio::time::pause();
    let mut read = Vec::new();
    let whole = stream.read_to_end(&mut read);
    let _ = tokio::time::timeout(Duration::from_secs(600), whole).await.unwrap();
    tokio::time::resume();
    let says = "Timeout: request did not complete within the allotted timeout";
    assert_eq!(answer_of(&read), Answer { code: 504, says: says.into() });
    front.is_unharmed("a slow body").await;
}

#[tokio::test]
async fn what_there_will_be_is_not_told() {
    let mut front = Front::start().await;
    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let watch = format!("GET {MAPS}?watch=1&resourceVersion=999999&{initial}");
    let answer = front.send(&request(&watch, &[], b"")).await;
    assert_eq!(answer.code, 200, "{answer:?}");
    for part in [r#""type":"ERROR""#, r#""code":504"#, "Too large resource version"] {
        assert!(answer.says.contains(part), "{part} is not in {answer:?}");
    }
    front.is_unharmed("a watch").await;
}
