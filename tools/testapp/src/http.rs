//! Just enough of HTTP/1.1 to be probed and asked: one request a connection, no bodies in. It knows no path.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// The longest request head that is read.
const MAX_HEAD_BYTES: u64 = 64 << 10;
/// A client that says nothing for so long is forgotten.
const SILENCE: Duration = Duration::from_secs(30);

/// What was asked.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) from: SocketAddr,
}

/// What is answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn ok(body: impl Into<String>) -> Self {
        Self { status: 200, location: None, body: body.into() }
    }

    pub(crate) fn error(status: u16, body: impl Into<String>) -> Self {
        Self { status, location: None, body: body.into() }
    }
}

/// Serves every connection in a thread of its own.
pub(crate) fn serve(
    port: u16,
    handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> Result<(), String> {
    let listener = TcpListener::bind(("::", port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
        .map_err(|error| format!("could not listen on port {port}: {error}"))?;
    println!("listening on port {port}");
    let handler = Arc::new(handler);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handler = Arc::clone(&handler);
            thread::spawn(move || {
                // A client that went away is nobody's trouble.
                let _ = answer(stream, handler.as_ref());
            });
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream, handler: &dyn Fn(&Request) -> Answer) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    let from = stream.peer_addr()?;
    let mut reader = BufReader::new((&stream).take(MAX_HEAD_BYTES));
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut words = first.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(()) };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = Request { path: path.to_owned(), query: pairs(query), from };
    let answer = handler(&request);
    println!("{from} {method} {target} {}", answer.status);
    let location = answer.location.map(|it| format!("Location: {it}\r\n")).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n{location}Connection: close\r\n\r\n",
        answer.status,
        reason(answer.status),
        answer.body.len(),
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(answer.body.as_bytes())
}

fn reason(status: u16) -> &'static str {
    match status {
        200..=299 => "OK",
        300..=399 => "Found",
        404 => "Not Found",
        400..=499 => "Bad Request",
        _ => "Internal Server Error",
    }
}

fn pairs(query: &str) -> BTreeMap<String, String> {
    let parts = query.split('&').filter(|it| !it.is_empty());
    parts
        .map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (unescape(key), unescape(value))
        })
        .collect()
}

/// Percent signs and plus signs undone; what is no escape stays.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let escaped = bytes
            .get(at + 1..at + 3)
            .and_then(|it| std::str::from_utf8(it).ok())
            .and_then(|it| u8::from_str_radix(it, 16).ok());
        match (byte, escaped) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (other, _) => out.push(*other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn queries_are_unescaped() {
        let pairs = super::pairs("msg=a+b%2Fc%zz&code=1&flag");
        let read: Vec<(&str, &str)> =
            pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(read, [("code", "1"), ("flag", ""), ("msg", "a b/c%zz")]);
    }
}
