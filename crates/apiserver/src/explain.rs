//! `GET .../NAME/why` of every object: why it is as it is. Not a part of upstream's API, and stored nowhere.
//!
//! Who explains is given to the server. This module knows requests and caches, and nothing of schedulers or controllers.

use std::fmt::Debug;
use std::sync::Arc;

use api::ResourceFacts;
use apimachinery::{Status, Value};
use component_base::task::BlockingPool;
use http::{Method, Response};
use jiff::Timestamp;

use crate::Server;
use crate::body::Body;
use crate::exchange::Exchange;
use crate::negotiate::{Encoding, Form, negotiate};
use crate::objects::CachedObjects;
use crate::respond;
use crate::target::Target;

/// How many explanations are made at once: each may read every object. Others wait for their turn.
const MAX_AT_ONCE: usize = 2;

/// What somebody asks about.
#[derive(Debug, Clone)]
pub struct Question {
    /// Its kind, in the version of the path.
    pub facts: &'static ResourceFacts,
    /// Its namespace; empty for cluster-wide kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it is asked.
    pub now: Timestamp,
}

/// Says why objects are as they are. May take its time: it is asked on a thread of its own.
pub trait Explain: Send + Sync + Debug {
    /// The explanation; `None` where there is no such object.
    fn explain(&self, objects: &CachedObjects, question: &Question) -> Option<Value>;
}

/// Makes explanations, a few at a time.
#[derive(Debug)]
pub(crate) struct Explanations {
    explain: Arc<dyn Explain>,
    objects: Arc<CachedObjects>,
    pool: BlockingPool,
}

impl Explanations {
    pub(crate) fn new(explain: Arc<dyn Explain>, objects: Arc<CachedObjects>) -> Self {
        Self { explain, objects, pool: BlockingPool::new("explanations", MAX_AT_ONCE) }
    }
}

/// Answers with the explanation of an object.
pub(crate) async fn answer(
    server: &Server,
    exchange: &Exchange,
    explanations: &Explanations,
    target: &Target,
) -> Result<Response<Body>, Status> {
    let info = &exchange.info;
    if exchange.parts.method != Method::GET || info.verb != "get" || !info.rest.is_empty() {
        return Err(Status::method_not_allowed());
    }
    let form = negotiate(exchange)?;
    // It has no protobuf.
    let encoding = match form.encoding {
        Encoding::Protobuf => Encoding::Json,
        other => other,
    };
    let name = info.name.to_string();
    // A namespace is asked about by its name, not from within it.
    let facts = target.served.facts;
    let namespace = if facts.namespaced { target.namespace.to_string() } else { String::new() };
    let question = Question { facts, namespace, name, now: server.clock.now() };
    let (explain, objects) = (Arc::clone(&explanations.explain), Arc::clone(&explanations.objects));
    let made = explanations.pool.run(move || explain.explain(&objects, &question)).await;
    let made = made.map_err(|error| Status::internal(error.to_string()))?;
    let value = made.ok_or_else(|| Status::not_found(target.group_resource(), &info.name))?;
    Ok(respond::plain(Form { encoding, ..form }, 200, &value))
}
