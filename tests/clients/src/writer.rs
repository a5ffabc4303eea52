//! Those who create, change and delete objects, and keep account of what has become of each. A write whose answer is lost is
//! looked for: nobody else writes to the same object.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::api::Client;
use crate::history::{History, Kind};
use crate::{PATIENCE, PAUSE};

/// How many numbers an object has in its life.
const NUMBERS: u64 = 5;
/// Every so many objects one is left to the end.
const LEFT: usize = 4;

/// Tells those who write to come to an end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How much has happened so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Writes to what is followed.
    writes: AtomicU64,
    /// Objects that each operator has handled to their end.
    handled: [AtomicU64; 2],
}

impl Counts {
    /// Where an operator's objects are counted.
    pub(crate) fn operator(&self, number: usize) -> &AtomicU64 {
        &self.handled[number]
    }

    /// Waits for so many writes from now on, and for one object at least of each operator.
    pub(crate) async fn progress(&self, writes: u64, operators: usize) -> Result<()> {
        let now = || {
            let handled = self.handled.iter().map(|it| it.load(Ordering::Relaxed));
            (self.writes.load(Ordering::Relaxed), handled.collect::<Vec<_>>())
        };
        let (begun, (before, done)) = (Instant::now(), now());
        loop {
            let (after, doing) = now();
            let each =
                doing.iter().zip(&done).take(operators).all(|(after, before)| after > before);
            if after >= before + writes && each {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "in {PATIENCE:?} there were {} writes, and objects handled {done:?} to {doing:?}",
                after - before
            );
            sleep(PAUSE).await;
        }
    }
}

/// One object that this task alone writes to.
struct Object<'c> {
    client: &'c Client,
    kind: Kind,
    path: String,
    history: History,
}

impl<'c> Object<'c> {
    /// Creates it, with the number 1.
    async fn create(
        client: &'c Client,
        (namespace, kind): (&'static str, Kind),
        name: String,
    ) -> Result<Self> {
        let all = kind.path(namespace);
        let path = format!("{all}/{name}");
        let (uid, versions) = (String::new(), Vec::new());
        let history = History { namespace, name, uid, versions, deleted: false };
        let mut object = Self { client, kind, path, history };
        let made = object.written(Method::POST, &all, 1).await?;
        object.history.uid = text(&made, "uid")?;
        object.note(&made, 1)?;
        Ok(object)
    }

    /// The object, or the change, with this number.
    fn body(&self, method: &Method, n: u64) -> Value {
        let mut body = match self.kind {
            Kind::ConfigMap => json!({"data": {"n": n.to_string()}}),
            Kind::Widget => json!({"spec": {"n": n}}),
        };
        if method == Method::POST {
            body["metadata"] = json!({"name": self.history.name, "labels": {"followed": "yes"}});
            if self.kind == Kind::Widget {
                body["apiVersion"] = "clients.example.com/v1".into();
                body["kind"] = "Widget".into();
            }
        }
        body
    }

    /// The number that it has.
    fn number(&self, object: &Value) -> Option<u64> {
        match self.kind {
            Kind::ConfigMap => object["data"]["n"].as_str()?.parse().ok(),
            Kind::Widget => object["spec"]["n"].as_u64(),
        }
    }

    /// Creates it or changes its number, once: where an answer is lost, what is there tells whether it has happened.
    async fn written(&self, method: Method, path: &str, n: u64) -> Result<Value> {
        let body = self.body(&method, n);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            // A patch names no version: an operator may write to the same object.
            let answer = match method {
                Method::PATCH => self.client.merge(path, &body).await,
                _ => self.client.ask(method.clone(), path, Some(&body)).await,
            };
            match answer {
                Ok((200 | 201, object)) => return Ok(object),
                Ok((code, answer)) => anyhow::bail!("{method} {path}: {code} {answer}"),
                Err(_) => {
                    let there = self
                        .client
                        .until("it can be read", &self.path, |code, _| matches!(code, 200 | 404));
                    let (_, object) = there.await?;
                    if self.number(&object) == Some(n) {
                        return Ok(object);
                    }
                }
            }
        }
        anyhow::bail!("{path} could not be written in {PATIENCE:?}")
    }

    fn note(&mut self, object: &Value, n: u64) -> Result<()> {
        self.history.versions.push((text(object, "resourceVersion")?, n));
        Ok(())
    }

    async fn change(&mut self, n: u64) -> Result<()> {
        let path = self.path.clone();
        let object = self.written(Method::PATCH, &path, n).await?;
        self.note(&object, n)
    }

    /// Deletes it; whether it is gone already is another matter.
    async fn delete(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.client.ask(Method::DELETE, &self.path, None).await {
                Ok((200 | 202 | 404, _)) => break,
                Ok((code, answer)) => anyhow::bail!("DELETE {}: {code} {answer}", self.path),
                Err(error) => ensure!(begun.elapsed() < PATIENCE, "{}: {error:#}", self.path),
            }
        }
        self.history.deleted = true;
        Ok(())
    }

    /// Waits until its operator has handled this number.
    async fn seen(&self, n: u64) -> Result<()> {
        let is_seen = |_, object: &Value| object["status"]["seen"].as_u64() == Some(n);
        self.client.until(&format!("{n} is handled"), &self.path, is_seen).await.map(drop)
    }
}

fn text(object: &Value, member: &str) -> Result<String> {
    let text = object["metadata"][member].as_str();
    text.map(str::to_owned).with_context(|| format!("no {member} in {object}"))
}

/// Writes to objects that informers follow, until it is told to stop.
pub(crate) async fn followed(
    client: &Client,
    (namespace, writer, kind): (&'static str, usize, Kind),
    stop: &Stop,
    counts: &Counts,
) -> Result<Vec<History>> {
    let mut histories = Vec::new();
    let wrote = || counts.writes.fetch_add(1, Ordering::Relaxed);
    for number in 0_usize.. {
        let name = format!("f-{writer}-{number}");
        let mut object = Object::create(client, (namespace, kind), name).await?;
        wrote();
        for n in 2..=NUMBERS {
            object.change(n).await?;
            wrote();
        }
        if number % LEFT != 0 {
            object.delete().await?;
            wrote();
        }
        histories.push(object.history);
        if stop.is_requested() {
            break;
        }
    }
    Ok(histories)
}

/// One more object, which stays as it is.
pub(crate) async fn mark(
    client: &Client,
    place: (&'static str, Kind),
    name: &str,
) -> Result<History> {
    Ok(Object::create(client, place, name.to_owned()).await?.history)
}

/// Has an operator handle one object after the other, each to its end, until it is told to stop.
pub(crate) async fn handled(
    client: &Client,
    (namespace, writer): (&'static str, usize),
    stop: &Stop,
    count: &AtomicU64,
) -> Result<Vec<History>> {
    let mut histories = Vec::new();
    for number in 0_usize.. {
        let name = format!("h-{writer}-{number}");
        let mut object = Object::create(client, (namespace, Kind::Widget), name).await?;
        // From here on it does not go without its operator.
        object.seen(1).await?;
        for n in 2..=NUMBERS {
            object.change(n).await?;
        }
        object.seen(NUMBERS).await?;
        object.delete().await?;
        client.until("it is gone", &object.path, |code, _| code == 404).await?;
        count.fetch_add(1, Ordering::Relaxed);
        histories.push(object.history);
        if stop.is_requested() {
            break;
        }
    }
    Ok(histories)
}
