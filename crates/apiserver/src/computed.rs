//! Groups whose resources something else in this process computes when they are asked for: nothing of them is stored. A
//! server elsewhere that an APIService names for such a group goes before.
//!
//! Knows neither what they are nor how they are computed; requests have passed all filters before they come here.

use std::sync::Arc;

use apimachinery::{Status, Value, value};
use async_trait::async_trait;
use http::{Method, Response};

use crate::Server;
use crate::body::Body;
use crate::exchange::Exchange;
use crate::handlers::without_protobuf;
use crate::negotiate::{Form, Transform, negotiate};
use crate::query::Query;
use crate::request::RequestInfo;
use crate::respond;

/// Computes the resources of some groups.
#[async_trait]
pub trait Computed: Send + Sync + std::fmt::Debug {
    /// Whether a group and version are computed here. Asked with each request: it is to cost nothing.
    fn serves(&self, group: &str, version: &str) -> bool;

    /// What there is now.
    fn versions(&self) -> Vec<ComputedVersion>;

    /// Whether a group can be asked.
    ///
    /// # Errors
    /// Why it cannot.
    fn available(&self, group: &str) -> Result<(), String>;

    /// Answers a request to read.
    ///
    /// # Errors
    /// What is told to the client.
    async fn answer(&self, info: &RequestInfo, query: &Query) -> Result<Value, Status>;
}

/// A group and version that is computed.
#[derive(Debug, Clone, PartialEq)]
pub struct ComputedVersion {
    /// The group.
    pub group: String,
    /// The version.
    pub version: String,
    /// Its resources, in the form of an `APIResourceList`.
    pub resources: Vec<Value>,
}

impl Server {
    /// Takes what computes further groups. It comes after the server, since it reads through that.
    pub fn set_computed(&self, computed: Arc<dyn Computed>) {
        self.computed.store(Some(Arc::new(computed)));
        self.computed_changed();
    }

    /// Looks anew at what is computed, and at whether it can be.
    pub fn computed_changed(&self) {
        self.catalog.changed().notify_waiters();
    }

    pub(crate) fn computed_versions(&self) -> Vec<ComputedVersion> {
        self.computed.load().as_ref().map(|it| it.versions()).unwrap_or_default()
    }

    /// Whether a computed group can be asked; `None` where it is none.
    pub(crate) fn computed_available(
        &self,
        group: &str,
        version: &str,
    ) -> Option<Result<(), String>> {
        let computed = self.computed.load();
        let computed = computed.as_ref().filter(|it| it.serves(group, version))?;
        Some(computed.available(group))
    }
}

/// The group and version that a path is about.
fn about(info: &RequestInfo) -> Option<(&str, &str)> {
    if info.is_resource {
        return Some((&info.group, &info.version));
    }
    let rest = info.path.strip_prefix("/apis/")?;
    let (group, version) = rest.trim_end_matches('/').split_once('/')?;
    (!version.contains('/')).then_some((group, version))
}

/// What is asked of a computed group.
pub(crate) enum Found {
    /// Something that cannot be done with it.
    Refused,
    /// What there is in it.
    Versions(Value),
    /// What is computed.
    Objects(Arc<Arc<dyn Computed>>),
}

/// What a request asks of a computed group; `None` where it is about something else.
pub(crate) fn find(server: &Server, exchange: &Exchange) -> Option<Found> {
    let (group, version) = about(&exchange.info)?;
    let computed = server.computed.load();
    let computed = computed.as_ref().filter(|it| it.serves(group, version))?;
    if exchange.parts.method != Method::GET {
        return Some(Found::Refused);
    }
    if exchange.info.is_resource {
        return Some(Found::Objects(Arc::clone(computed)));
    }
    let mut versions = computed.versions().into_iter();
    let found = versions.find(|it| it.group == group && it.version == version)?;
    Some(Found::Versions(value!({"kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": (format!("{group}/{version}")), "resources": (found.resources)})))
}

impl Found {
    pub(crate) async fn answer(self, exchange: &mut Exchange) -> Result<Response<Body>, Status> {
        match self {
            Self::Refused => Err(Status::method_not_allowed()),
            Self::Versions(document) => Ok(respond::plain(Form::default(), 200, &document)),
            Self::Objects(computed) => read(&**computed, exchange).await,
        }
    }
}

async fn read(computed: &dyn Computed, exchange: &mut Exchange) -> Result<Response<Body>, Status> {
    if exchange.info.verb == "watch" || !exchange.info.rest.is_empty() {
        return Err(Status::method_not_allowed());
    }
    without_protobuf(exchange)?;
    let form = negotiate(exchange)?;
    // There are no columns and no metadata to tell; who takes the object as well gets that.
    let form = Form { transform: Transform::None, ..form };
    let document = computed.answer(&exchange.info, &exchange.query).await?;
    Ok(respond::plain(form, 200, &document))
}
