//! The health question of gRPC, over HTTP/2 without TLS: one message each way, small enough to write by hand.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::net;
use crate::pod::backoff::go_duration;

/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 1 << 10;
/// What a probe may take beyond its limit to say that it could not connect.
const LAST_WORD: Duration = Duration::from_millis(50);
/// `HealthCheckResponse.ServingStatus`
const SERVING: u8 = 1;
/// The status code of a server without a health service.
const UNIMPLEMENTED: &str = "12";

/// Asks whether a service serves; the whole takes at most `limit`.
///
/// # Errors
/// Why not, in upstream's words.
pub(super) async fn check(
    host: &str,
    port: u16,
    service: &str,
    limit: Duration,
) -> Result<(), String> {
    let late = || format!("timeout: health rpc did not complete within {}s", limit.as_secs());
    let work = ask(host, port, service, limit);
    // What it says itself at the end of its time goes before this.
    tokio::time::timeout(limit + LAST_WORD, work).await.unwrap_or_else(|_| Err(late()))
}

async fn ask(host: &str, port: u16, service: &str, limit: Duration) -> Result<(), String> {
    let begun = tokio::time::Instant::now();
    let address =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let Ok(stream) = net::connect(host, port, limit).await else {
        // Upstream's goes on trying to connect for as long as it may take.
        tokio::time::sleep(limit.saturating_sub(begun.elapsed())).await;
        let limit = go_duration(limit.try_into().unwrap_or_default());
        return Err(format!("timeout: failed to connect service {address:?} within {limit}"));
    };
    let failed = |it: hyper::Error| format!("error: health rpc probe failed: {it}");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(failed)?;
    let driver = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.37")
        .body(Full::new(question(service)))
        .map_err(|it| it.to_string())?;
    let result = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let (parts, body) = response.into_parts();
        let limited = http_body_util::Limited::new(body, MAX_ANSWER_BYTES);
        let collected = limited
            .collect()
            .await
            .map_err(|it| format!("error: health rpc probe failed: {it}"))?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let status = trailers.get("grpc-status").or_else(|| parts.headers.get("grpc-status"));
        let status = status.and_then(|it| it.to_str().ok()).unwrap_or("0").to_owned();
        answer(&status, &collected.to_bytes())
    };
    let result = result.await;
    driver.abort();
    result
}

/// `HealthCheckRequest{service}` in gRPC's frame.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or(0));
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// Reads `HealthCheckResponse{status}`.
fn answer(status: &str, frame: &[u8]) -> Result<(), String> {
    match status {
        "0" => {}
        UNIMPLEMENTED => {
            return Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into());
        }
        other => return Err(format!("error: health rpc probe failed: status code {other}")),
    }
    // Field 1, a varint; left out it is 0, which is UNKNOWN.
    let serving = match frame.get(5..) {
        Some([0x08, status, ..]) => *status,
        _ => 0,
    };
    if serving == SERVING {
        return Ok(());
    }
    let name = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"]
        .get(usize::from(serving))
        .unwrap_or(&"UNKNOWN");
    Err(format!("service unhealthy (responded with {name:?})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_and_its_answers() {
        assert_eq!(question("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(question("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(question(&"x".repeat(200))[5..8], [0x0a, 0xc8, 0x01]);
        for (status, frame, expected) in [
            ("0", [0, 0, 0, 0, 2, 8, 1].as_slice(), ""),
            (
                "0",
                [0, 0, 0, 0, 2, 8, 2].as_slice(),
                "service unhealthy (responded with \"NOT_SERVING\")",
            ),
            ("0", [0, 0, 0, 0, 0].as_slice(), "service unhealthy (responded with \"UNKNOWN\")"),
            ("5", [].as_slice(), "error: health rpc probe failed: status code 5"),
        ] {
            assert_eq!(answer(status, frame).err().unwrap_or_default(), expected);
        }
        assert!(answer("12", &[]).is_err());
    }
}
