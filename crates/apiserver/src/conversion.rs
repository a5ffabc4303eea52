//! Custom resources whose versions a webhook converts. Upstream: `apiextensions-apiserver/pkg/apiserver/conversion`.
//!
//! A request for another version than the stored one works on objects of its own version; they are converted where they
//! are read from the store, and where they are written to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::ResourceFacts;
use apimachinery::obj::{self, Obj};
use apimachinery::{Status, Value, json, validation, value};
use compact_str::CompactString;
use component_base::Random;
use registry::AnyResource;
use tokio::time::Instant;
use webhook::{Call, Client, Resolver};

use crate::metrics::{Conversions, Metrics};
use crate::objects::Services;

/// How long a webhook may take for all objects of a call (upstream: 30 seconds).
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many objects are sent in one call at most. Upstream sends a list whole, whatever its length.
const MAX_OBJECTS: usize = 500;
const USER_AGENT: &str = "kube-apiserver-conversion";
/// What a conversion may change of the metadata.
const CHANGEABLE: [&str; 2] = ["labels", "annotations"];

/// What calls of webhooks need.
#[derive(Debug)]
pub(crate) struct Calls {
    resolver: Arc<dyn Resolver>,
    random: Arc<dyn Random>,
    counted: Arc<Conversions>,
}

impl Calls {
    pub(crate) fn new(
        services: &Arc<Services>,
        random: &Arc<dyn Random>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let (resolver, random) = (Arc::clone(services) as _, Arc::clone(random));
        Arc::new(Self { resolver, random, counted: Arc::clone(&metrics.conversions) })
    }
}

/// The webhook of a definition.
#[derive(Debug)]
pub(crate) struct Conversion {
    calls: Arc<Calls>,
    /// The name of the definition.
    name: String,
    client: Client,
    /// The first version of the review that both sides know.
    version: Option<&'static str>,
    /// The versions that the definition has, with its group.
    known: Vec<String>,
}

/// What went wrong with a conversion, in upstream's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The webhook was not asked.
    Unasked,
    /// It did not answer, or not with a review.
    Call,
    /// Its review says nothing that can be used.
    Malformed,
    /// It has not as many objects as were sent.
    Partial,
    /// One of them is not the one that was sent.
    Invalid,
}

impl Failure {
    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unasked => "",
            Self::Call => "conversion_webhook_call_failure",
            Self::Malformed => "conversion_webhook_malformed_response_failure",
            Self::Partial => "conversion_webhook_partial_response_failure",
            Self::Invalid => "conversion_webhook_invalid_converted_object_failure",
        }
    }
}

/// From which version to which.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Direction<'d> {
    pub(crate) from: &'d str,
    pub(crate) to: &'d str,
    pub(crate) kind: &'d str,
}

impl Conversion {
    /// What a definition says; `None` where its versions differ in nothing but their name.
    pub(crate) fn of(definition: &Value, calls: &Arc<Calls>) -> Option<Arc<Self>> {
        let conversion = definition.at(&["spec", "conversion"])?;
        if conversion.str_at(&["strategy"]) != "Webhook" {
            return None;
        }
        let hook = &conversion["webhook"];
        let versions = hook.items_at(&["conversionReviewVersions"]).iter();
        let known = |it: &str| ["v1", "v1beta1"].into_iter().find(|known| *known == it);
        let (group, names) =
            (&definition["spec"]["group"], definition.items_at(&["spec", "versions"]));
        let group = group.as_str().unwrap_or_default();
        let named = names.iter().map(|it| format!("{group}/{}", it.str_at(&["name"])));
        Some(Arc::new(Self {
            calls: Arc::clone(calls),
            name: definition.str_at(&["metadata", "name"]).to_owned(),
            client: Client::new(&hook["clientConfig"], Arc::clone(&calls.resolver)),
            version: versions.filter_map(Value::as_str).find_map(known),
            known: named.collect(),
        }))
    }

    /// The objects in the other version, in order.
    ///
    /// # Errors
    /// When the webhook does not convert every one of them.
    pub(crate) async fn convert(
        &self,
        direction: Direction<'_>,
        objects: &[&Value],
    ) -> Result<Vec<Value>, Status> {
        // Objects that were stored in a version that the definition has no more.
        if !self.known.iter().any(|it| it == direction.from) {
            let from = direction.from;
            return Err(Status {
                code: 500,
                message: format!("request to convert CR from an invalid group/version: {from}"),
                ..Status::default()
            });
        }
        let mut converted = Vec::with_capacity(objects.len());
        for some in objects.chunks(MAX_OBJECTS) {
            let began = Instant::now();
            let result = self.call(direction, some).await;
            let failure = result.as_ref().err().map(|(failure, _)| *failure);
            self.calls.counted.converted(&self.name, direction, failure, began.elapsed());
            converted.extend(result.map_err(|(_, why)| {
                let Direction { from, kind, .. } = direction;
                Status {
                    code: 500,
                    message: format!("conversion webhook for {from}, Kind={kind} {why}"),
                    ..Status::default()
                }
            })?);
        }
        Ok(converted)
    }

    async fn call(
        &self,
        direction: Direction<'_>,
        objects: &[&Value],
    ) -> Result<Vec<Value>, (Failure, String)> {
        let failed = |of: Failure, why: &str| (of, format!("failed: {why}"));
        let version = self
            .version
            .ok_or_else(|| failed(Failure::Unasked, "no supported conversion review versions"))?;
        let api_version = format!("apiextensions.k8s.io/{version}");
        let uid = self.calls.random.uid().to_string();
        let sent: Value = objects.iter().map(|it| (*it).clone()).collect();
        let review = value!({"kind": "ConversionReview", "apiVersion": (api_version.as_str()),
            "request": {"uid": (uid.as_str()), "desiredAPIVersion": (direction.to),
                "objects": (sent)}});
        let call = Call {
            body: json::to_vec(&review).into(),
            timeout: TIMEOUT,
            tells_timeout: true,
            user_agent: USER_AGENT,
        };
        let answer = self.client.post(call).await;
        let answer = answer.map_err(|error| failed(Failure::Call, error.message()))?;
        let answer = answer.object().map_err(|why| failed(Failure::Call, &why))?;
        let strict = version == "v1";
        let list = read(&answer, strict.then_some(uid.as_str()));
        let list = list.map_err(|why| failed(Failure::Malformed, &why))?;
        if list.len() != objects.len() {
            let (found, expected) = (list.len(), objects.len());
            let why = format!("returned {found} objects, expected {expected}");
            return Err((Failure::Partial, why));
        }
        let pairs = list.iter().zip(objects).enumerate();
        let checked = pairs.map(|(index, (converted, original))| {
            check(direction, original, converted).map_err(|why| {
                let why = format!("returned invalid converted object at index {index}: {why}");
                (Failure::Invalid, why)
            })
        });
        checked.collect()
    }
}

/// The objects of an answer; its uid is checked where the version of the review has always been.
fn read<'a>(answer: &'a Value, uid: Option<&str>) -> Result<&'a [Value], String> {
    if uid.is_some() {
        let (api_version, kind) = (answer.str_at(&["apiVersion"]), answer.str_at(&["kind"]));
        if (api_version, kind) != ("apiextensions.k8s.io/v1", "ConversionReview") {
            let shown = if api_version.is_empty() { "/" } else { api_version };
            return Err(format!(
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {shown}, Kind={kind}"
            ));
        }
    }
    let response = answer.get("response").filter(|it| !it.is_null());
    let response = response.ok_or("no response provided")?;
    let found = response.str_at(&["uid"]);
    if let Some(expected) = uid.filter(|it| *it != found) {
        return Err(format!("expected response.uid={expected:?}, got {found:?}"));
    }
    let (status, message) =
        (response.str_at(&["result", "status"]), response.str_at(&["result", "message"]));
    match (status, message) {
        ("Success", _) => Ok(response.items_at(&["convertedObjects"])),
        (_, "") => Err(format!("response.result.status was '{status}', not 'Success'")),
        (_, message) => Err(message.to_owned()),
    }
}

/// The converted object, with the metadata of the original but for what may change.
fn check(direction: Direction<'_>, original: &Value, converted: &Value) -> Result<Value, String> {
    let (expected, found) = (direction.to, converted.str_at(&["apiVersion"]));
    if expected != found {
        return Err(format!("invalid groupVersion (expected {expected}, received {found})"));
    }
    let (expected, found) = (direction.kind, converted.str_at(&["kind"]));
    if expected != found {
        return Err(format!("invalid kind (expected {expected}, received {found})"));
    }
    let metadata = converted.get("metadata").and_then(Value::as_object);
    let metadata = metadata.ok_or("missing metadata in converted object")?;
    for member in ["name", "namespace", "uid"] {
        let (e, a) =
            (original.str_at(&["metadata", member]), converted.str_at(&["metadata", member]));
        if e != a {
            let name = if member == "uid" { "UID" } else { member };
            return Err(format!("must have the same {name}: {e} != {a}"));
        }
    }
    let mut whole = converted.clone();
    whole.set_at(&["metadata"], original["metadata"].clone());
    for member in CHANGEABLE {
        whole.remove_at(&["metadata", member]);
        let Some(given) = metadata.get(member).filter(|it| !it.is_null()) else { continue };
        let texts = given.as_object().filter(|it| it.iter().all(|(_, it)| it.as_str().is_some()));
        let texts =
            texts.ok_or_else(|| format!("metadata.{member}: Invalid value: not a map of text"))?;
        if let Some(bad) =
            texts.keys().find(|key| !validation::qualified_name(&key.to_lowercase()).is_empty())
        {
            return Err(format!("metadata.{member}: Invalid value: {bad:?}"));
        }
        whole.set_at(&["metadata", member], given.clone());
    }
    Ok(whole)
}

/// One object in another version.
pub(crate) async fn one(
    conversion: &Conversion,
    direction: Direction<'_>,
    object: &Value,
) -> Result<Value, Status> {
    let mut converted = conversion.convert(direction, &[object]).await?;
    converted.pop().ok_or_else(|| Status::internal("a conversion without object"))
}

/// Objects of the caches, each of the version that it is stored in, in the version of a resource: in one call for each
/// version that there is. Selectors see them as they are then.
pub(crate) async fn objects(
    conversion: &Conversion,
    (resource, facts): (&dyn AnyResource, &ResourceFacts),
    mut objects: Vec<Arc<Obj>>,
) -> Result<Vec<Arc<Obj>>, Status> {
    let to = facts.api_version();
    let mut by_version: BTreeMap<CompactString, Vec<usize>> = BTreeMap::new();
    for (place, object) in objects.iter().enumerate() {
        if object.api_version() != to {
            by_version.entry(object.api_version().into()).or_default().push(place);
        }
    }
    for (from, places) in by_version {
        let values: Result<Vec<Arc<Value>>, Status> =
            places.iter().map(|place| objects[*place].value().map_err(Status::internal)).collect();
        let values = values?;
        let borrowed: Vec<&Value> = values.iter().map(AsRef::as_ref).collect();
        let direction = Direction { from: &from, to: &to, kind: facts.kind };
        let converted = conversion.convert(direction, &borrowed).await?;
        for (mut value, place) in converted.into_iter().zip(places) {
            resource.ingest(&mut value);
            let bytes = obj::encode_custom(&value).into();
            let facts = obj::facts(&value, &resource.field_values(&value));
            let version = objects[place].resource_version;
            let made = Obj::with_facts(bytes, version, facts).map_err(Status::internal)?;
            objects[place] = Arc::new(made);
        }
    }
    Ok(objects)
}
