//! A client that watches through one server after another: where one ends its watch, or dies, it goes on at the next from the
//! version that it has seen last.

use std::io::{BufRead as _, BufReader};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::{Client, name, version};

/// How many seconds one watch lasts at most: then the next server is asked.
const WATCH_SECONDS: u32 = 7;

/// What a follower is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Told {
    pub(crate) version: u64,
    pub(crate) kind: String,
    pub(crate) name: String,
}

/// Follows what happens under a path from a version on, until it is told to stop.
///
/// # Panics
/// Where it is told anything but changes, each newer than the one before it.
pub(crate) fn follow(
    servers: &[Client],
    (path, from): (&str, u64),
    stop: &AtomicBool,
    told: &Mutex<Vec<Told>>,
) {
    let mut seen = from;
    for server in servers.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let path =
            format!("{path}?watch=true&resourceVersion={seen}&timeoutSeconds={WATCH_SECONDS}");
        let mut watching = server.curl(&path).spawn().unwrap();
        for line in BufReader::new(watching.stdout.take().unwrap()).lines() {
            // Who dies may do so in the middle of a line.
            let Some(event) = line.ok().and_then(|line| serde_json::from_str::<Value>(&line).ok())
            else {
                break;
            };
            let it = of(&event);
            // A server that ends answers with a refusal in place of a watch.
            if event["kind"] == "Status" {
                assert_ne!(event["code"], 410, "{path}: {event}");
                break;
            }
            assert!(matches!(it.kind.as_str(), "ADDED" | "MODIFIED" | "DELETED"), "{event}");
            assert!(it.version > seen, "{it:?} after {seen}");
            seen = it.version;
            told.lock().unwrap().push(it);
        }
        let _ = watching.kill();
        watching.wait().unwrap();
        // One that is away answers nothing at once.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn of(event: &Value) -> Told {
    let kind = event["type"].as_str().unwrap_or_default().to_owned();
    let object = &event["object"];
    Told { version: version(object), kind, name: name(object) }
}
