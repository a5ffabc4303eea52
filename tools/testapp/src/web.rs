//! Web servers that the documents' images run: agnhost's `liveness` and `netexec`, an application with a health page,
//! the hello application.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::http::{Answer, Request, serve};
use crate::number;

/// How long `liveness` is well.
const WELL: Duration = Duration::from_secs(10);
/// The largest datagram that is answered.
const MAX_DATAGRAM_BYTES: usize = 4096;

/// Well for ten seconds, then not.
pub(crate) fn liveness(arguments: &[String]) -> Result<(), String> {
    let started = Instant::now();
    serve(number(arguments, "port", 8080)?, move |request| {
        let age = started.elapsed();
        match request.path.as_str() {
            "/started" => Answer::ok(format!("{:.6}s", age.as_secs_f64())),
            "/healthz" if age > WELL => {
                Answer::error(500, format!("error: {:.6}", age.as_secs_f64()))
            }
            "/healthz" => Answer::ok("ok"),
            "/redirect" => Answer {
                status: 302,
                location: Some(request.query.get("loc").cloned().unwrap_or_default()),
                body: String::new(),
            },
            _ => Answer::error(404, "404 page not found\n"),
        }
    })
}

/// Answers questions about itself, over HTTP and UDP.
pub(crate) fn netexec(arguments: &[String]) -> Result<(), String> {
    datagrams(number(arguments, "udp-port", 8081)?)?;
    serve(number(arguments, "http-port", 8080)?, ask)
}

fn ask(request: &Request) -> Answer {
    let value = |name: &str| request.query.get(name).map_or("", String::as_str);
    match request.path.as_str() {
        "/" => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Answer::ok(format!("NOW: {}", now.as_secs()))
        }
        "/healthz" => Answer::ok(""),
        "/hostname" | "/hostName" => Answer::ok(hostname()),
        "/echo" => Answer::ok(value("msg")),
        "/clientip" => Answer::ok(plain(request.from).to_string()),
        "/shell" => shell(value("cmd")),
        "/exit" => {
            let code = value("code").parse().unwrap_or(0);
            #[allow(clippy::exit, reason = "ending is what was asked for")]
            thread::spawn(move || {
                // The answer is on its way meanwhile.
                thread::sleep(Duration::from_millis(100));
                std::process::exit(code)
            });
            Answer::ok("")
        }
        _ => Answer::error(404, "404 page not found\n"),
    }
}

fn shell(command: &str) -> Answer {
    match Command::new("/bin/sh").args(["-c", command]).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() { Answer::ok(text) } else { Answer::error(500, text) }
        }
        Err(error) => Answer::error(500, format!("could not start a shell: {error}")),
    }
}

fn datagrams(port: u16) -> Result<(), String> {
    let socket = UdpSocket::bind(("::", port))
        .or_else(|_| UdpSocket::bind(("0.0.0.0", port)))
        .map_err(|error| format!("could not listen on UDP port {port}: {error}"))?;
    thread::spawn(move || {
        let mut buffer = [0; MAX_DATAGRAM_BYTES];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            let (command, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
            let answer = match command.to_lowercase().as_str() {
                "hostname" => hostname(),
                "clientip" => plain(from).to_string(),
                "echo" => rest.to_owned(),
                _ => continue,
            };
            let _ = socket.send_to(answer.as_bytes(), from);
        }
    });
    Ok(())
}

/// An application that is up as long as it runs, as its health page says.
pub(crate) fn health(arguments: &[String]) -> Result<(), String> {
    serve(number(arguments, "port", 8080)?, |request| match request.path.as_str() {
        "/actuator/health" => Answer::ok("{\"status\":\"UP\"}"),
        "/" => Answer::ok(format!("{}\n", hostname())),
        _ => Answer::error(404, ""),
    })
}

/// Says hello, its version and its host.
pub(crate) fn hello(arguments: &[String]) -> Result<(), String> {
    serve(number(arguments, "port", 8080)?, |_| {
        let environment: BTreeMap<String, String> = std::env::vars().collect();
        let version = environment.get("APP_VERSION").map_or("1.0.0", String::as_str);
        Answer::ok(format!("Hello, world!\nVersion: {version}\nHostname: {}\n", hostname()))
    })
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// An IPv4 address that came in over an IPv6 socket, as itself.
fn plain(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(ip.into(), address.port()),
            None => address,
        },
        IpAddr::V4(_) => address,
    }
}
