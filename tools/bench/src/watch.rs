//! Many watchers of one object: how soon the last one has a write, and how many events go out in a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Options;
use crate::api::{CONFIG_MAPS, config_map, fill, plain_server};
use crate::load::{Ask, Clients, percentile};
use crate::reference;
use crate::table::{Bar, Figure};

const WATCHERS: usize = 1_000;
/// Writes whose way to the last watcher is timed, one after another.
const TIMED: usize = 200;
/// Writes that do not wait for the watchers.
const RUSHED: usize = 300;
/// About what an event with such an object and its managed fields takes.
const EVENT_BYTES: usize = 1_650;
/// No event takes longer, unless it is lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// Counts the events of all watchers.
#[derive(Debug, Default)]
struct Count {
    events: AtomicUsize,
    moved: Notify,
}

impl Count {
    async fn reached(&self, wanted: usize) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            let events = self.events.load(Ordering::Acquire);
            if events >= wanted {
                return Ok(());
            }
            if tokio::time::timeout_at(until, moved).await.is_err() {
                bail!("{} of {wanted} events never came", wanted - events);
            }
        }
    }

    /// Told of every event, but wakes only where a round is complete.
    fn add(&self, events: usize) {
        let before = self.events.fetch_add(events, Ordering::AcqRel);
        if before / WATCHERS != (before + events) / WATCHERS {
            self.moved.notify_waiters();
        }
    }
}

async fn follow(clients: Clients, nth: usize, count: Arc<Count>) -> Result<()> {
    let path = format!("{CONFIG_MAPS}?watch=true&fieldSelector=metadata.name%3Dcm-0");
    let mut body = clients.open(nth, &Ask::get(path)).await?.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let lines = |bytes: &Bytes| bytes.iter().filter(|it| **it == b'\n').count();
        count.add(frame.data_ref().map_or(0, lines));
    }
    Ok(())
}

/// What the watchers saw.
struct Seen {
    per_second: f64,
    p99: Duration,
}

/// Opens the watchers, and writes.
async fn measure(clients: &Clients) -> Result<Seen> {
    let count = Arc::new(Count::default());
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|nth| tokio::spawn(follow(clients.clone(), nth, Arc::clone(&count))))
        .collect();
    // Each is told of the object as it is.
    let mut wanted = WATCHERS;
    count.reached(wanted).await?;
    let write = |generation: usize| {
        Ask::json(Method::PUT, format!("{CONFIG_MAPS}/cm-0"), config_map(0, generation))
    };
    let mut took = Vec::with_capacity(TIMED);
    for nth in 0..TIMED {
        let begun = Instant::now();
        clients.send(nth, &write(1 + nth)).await?;
        wanted += WATCHERS;
        count.reached(wanted).await?;
        took.push(begun.elapsed());
    }
    let begun = Instant::now();
    for nth in 0..RUSHED {
        clients.send(nth, &write(1 + TIMED + nth)).await?;
    }
    count.reached(wanted + RUSHED * WATCHERS).await?;
    #[allow(clippy::cast_precision_loss, reason = "a few hundred thousand")]
    let per_second = (RUSHED * WATCHERS) as f64 / begun.elapsed().as_secs_f64();
    watchers.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(Seen { per_second, p99: percentile(&mut took, 99) })
}

pub(crate) async fn watch(options: &Options) -> Result<Vec<Figure>> {
    let server = plain_server(options).await?;
    fill(&server.clients, 1).await?;
    let ours = measure(&server.clients).await?;
    let memory = server.memory_mb("VmRSS")?;
    drop(server);
    let trivial = measure(&reference::telling(EVENT_BYTES).await?).await?;
    let rate = Bar::AtLeast(150_000.0);
    Ok(vec![
        Figure::new("events to 1,000 watchers", ours.per_second, "/s", rate)
            .beside(trivial.per_second),
        Figure::ms("99 of 100 writes at the last watcher within", ours.p99, 12.0)
            .beside(trivial.p99.as_secs_f64() * 1e3),
        Figure::new("memory after it", memory, "MB", Bar::AtMost(200.0)),
    ])
}
