//! Starts: of a new cluster, and of one with objects; and what a server takes that has nothing to do.

use std::time::Duration;

use anyhow::Result;

use crate::Options;
use crate::api::{fill, plain_server};
use crate::node::{Events, node_ready, node_server, pod};
use crate::server::Server;
use crate::table::{Bar, Figure};

/// How many objects a restart finds.
const STORED: usize = 10_000;
/// How long a server is left alone before its memory is looked at.
const QUIET: Duration = Duration::from_secs(10);

pub(crate) async fn idle(options: &Options) -> Result<Vec<Figure>> {
    let server = node_server(options).await?;
    node_ready(&server.clients).await?;
    tokio::time::sleep(QUIET).await;
    let memory = server.memory_mb("VmRSS")?;
    Ok(vec![Figure::new("memory, idle, everything on", memory, "MB", Bar::AtMost(100.0))])
}

pub(crate) async fn fresh(options: &Options) -> Result<Vec<Figure>> {
    let server = node_server(options).await?;
    let ready = node_ready(&server.clients).await? - server.started;
    let mut events = Events::of(&server.clients, "/api/v1/namespaces/default/pods").await?;
    server.clients.send(0, &pod("first")).await?;
    let pod = events.until("Ready", 1).await? - server.started;
    Ok(vec![
        Figure::seconds("new cluster: API ready after", server.ready_after, 1.5),
        Figure::seconds("new cluster: node ready after", ready, 1.5),
        Figure::seconds("new cluster: first pod runs after", pod, 2.0),
    ])
}

pub(crate) async fn with_objects(options: &Options) -> Result<Vec<Figure>> {
    let server = plain_server(options).await?;
    fill(&server.clients, STORED).await?;
    let directory = server.stop()?;
    let flags = ["--disable".to_owned(), "agent,proxy,dns".to_owned()];
    let again = Server::start(&options.binary, directory, &flags).await?;
    Ok(vec![Figure::seconds("start with 10,000 objects: ready after", again.ready_after, 2.0)])
}
