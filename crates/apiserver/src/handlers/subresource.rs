//! Subresources that are more than a part of their object: scale, binding, eviction, token, and the streams of nodes.
//!
//! `status` and others that take and give the object itself go through [`super::update`] like the object.

use std::sync::Arc;

use admission::Operation;
use apimachinery::{FieldErrors, Object, Path, Status, Value, labels, value};
use http::Response;
use registry::Scale;

use super::admit::{Admission, admit, judge};
use super::create::place_in_namespace;
use super::patch::{self, PatchKind};
use super::update::{Tracking, Write};
use crate::Server;
use crate::body::Body;
use crate::decode::{self, Patched};
use crate::exchange::{Exchange, RequestBody};
use crate::negotiate::{Form, negotiate, negotiate_without_rows};
use crate::options::WriteOptions;
use crate::persist;
use crate::posted;
use crate::respond;
use crate::target::Target;

/// Whether a subresource has an object of another kind.
pub(crate) fn is_special(subresource: &str) -> bool {
    matches!(
        subresource,
        "scale"
            | "binding"
            | "eviction"
            | "token"
            | "log"
            | "exec"
            | "attach"
            | "portforward"
            | "proxy"
    )
}

/// POST to a subresource.
pub(crate) async fn create(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    match exchange.info.subresource.as_str() {
        "binding" => binding(server, exchange, target, body).await,
        "eviction" => super::eviction::create(server, exchange, target, body).await,
        "token" => super::token::create(server, exchange, target, body).await,
        other => Err(not_built(target, other)),
    }
}

fn not_built(target: &Target, subresource: &str) -> Status {
    Status::not_implemented(format!(
        "{}/{subresource} is not built yet",
        target.served.facts.resource
    ))
}

/// GET of a subresource.
pub(crate) async fn get(
    server: &Server,
    exchange: &Exchange,
    target: &Target,
) -> Result<Response<Body>, Status> {
    let form = negotiate(exchange)?;
    let name = &exchange.info.name;
    let found = persist::current(server, target, name).await;
    let current = found.map_err(|status| without_scale(target, name, status))?;
    match (exchange.info.subresource.as_str(), target.resource().rules().scale) {
        ("scale", Some(scale)) => {
            if target.resource().is_custom() && current.value.at(scale.spec_replicas).is_none() {
                let path = format!(".{}", scale.spec_replicas.join("."));
                let path = apimachinery::field::quote(&path);
                let why = format!("the spec replicas field {path} does not exist");
                return Err(Status::internal(why));
            }
            Ok(respond::scale(server, target, form, scale_of(&scale, &current.value)))
        }
        (other, _) => Err(not_built(target, other)),
    }
}

/// What is said of a count whose object is not there: upstream's handlers of some kinds name the subresource, in a group of their choice.
fn without_scale(target: &Target, name: &str, status: Status) -> Status {
    let facts = target.served.facts;
    let (group, resource) = match (facts.group, facts.resource) {
        ("apps", "deployments") => ("apps", "deployments/scale"),
        ("apps", "replicasets") => ("apps", "replicasets/scale"),
        ("", "replicationcontrollers") => ("autoscaling", "replicationcontrollers/scale"),
        _ => return status,
    };
    if status.code != 404 {
        return status;
    }
    Status::not_found(apimachinery::status::GroupResource { group, resource }, name)
}

/// PUT to a subresource.
pub(crate) async fn update(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let (subresource, scale) = (exchange.info.subresource.clone(), target.resource().rules().scale);
    let ("scale", Some(scale)) = (subresource.as_str(), scale) else {
        return Err(not_built(target, &subresource));
    };
    let body = exchange.read(body).await?;
    let options = WriteOptions::of(exchange, "UpdateOptions")?;
    let form = negotiate(exchange)?;
    let mut wanted =
        decode::posted(exchange, (&posted::SCALE, &[]), &body, options.field_validation)?;
    super::update::check_name(&wanted, &exchange.info.name)?;
    place_in_namespace(target, &mut wanted)?;
    write_scale(server, exchange, target, form, &options, scale, |_, _| Ok(wanted.clone())).await
}

/// PATCH of a subresource.
pub(crate) async fn patch(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
    kind: PatchKind,
) -> Result<Response<Body>, Status> {
    let (subresource, scale) = (exchange.info.subresource.clone(), target.resource().rules().scale);
    let ("scale", Some(scale)) = (subresource.as_str(), scale) else {
        return Err(not_built(target, &subresource));
    };
    if kind == PatchKind::Apply {
        return super::apply::apply_scale(server, exchange, target, body, scale).await;
    }
    let body = exchange.read(body).await?;
    let options = WriteOptions::of(exchange, "PatchOptions")?;
    let form = negotiate(exchange)?;
    let (given, problems) = patch::parse(exchange, kind, &body, options.field_validation)?;
    let strictly = (options.field_validation, problems.as_slice());
    let name = exchange.info.name.clone();
    let node = posted::served(&posted::SCALE)?.node;
    let shape = Target { served: registry::Served { node, ..target.served }, ..target.clone() };
    write_scale(server, exchange, target, form, &options, scale, |exchange, live| {
        let mut wanted = patch::apply(&shape, kind, live, &given)?;
        let origin = match kind {
            PatchKind::Strategic => Patched::Map(&given),
            _ => Patched::Text,
        };
        decode::patched_scale(exchange, &mut wanted, strictly, origin)?;
        place_in_namespace(target, &mut wanted)?;
        super::update::check_name(&wanted, &name)?;
        Ok(wanted)
    })
    .await
}

async fn write_scale(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    form: Form,
    options: &WriteOptions,
    scale: Scale,
    change: impl Fn(&mut Exchange, &Value) -> Result<Value, Status>,
) -> Result<Response<Body>, Status> {
    let name = exchange.info.name.clone();
    let current = persist::current(server, target, &name).await?;
    let write = Write {
        name: &name,
        subresource: "scale",
        options,
        tracking: Tracking::Compare,
        of_live: true,
    };
    // A count without version is for the object as it is, also where updates have to name one.
    let unversioned = target.resource().rules().unconditional_update;
    let stored = write
        .run(server, exchange, target, current, |exchange, _, live| {
            let wanted = change(exchange, &scale_of(&scale, live))?;
            let mut value = scaled(target, &name, &scale, live, &wanted)?;
            check_uid(target, &name, live, &wanted)?;
            let version = match wanted.str_at(&["metadata", "resourceVersion"]) {
                "" if !unversioned => live.str_at(&["metadata", "resourceVersion"]),
                given => given,
            };
            value.set_at(&["metadata", "resourceVersion"], version);
            Ok(value)
        })
        .await?;
    Ok(respond::scale(server, target, form, scale_of(&scale, &stored.into_value()?)))
}

/// A `Scale` that names a uid is for that object alone.
fn check_uid(target: &Target, name: &str, live: &Value, wanted: &Value) -> Result<(), Status> {
    let uid = |of: &Value| of.str_at(&["metadata", "uid"]).to_owned();
    let (wanted, actual) = (uid(wanted), uid(live));
    if wanted.is_empty() || wanted == actual {
        return Ok(());
    }
    let facts = target.served.facts;
    let resource = format!("{}/scale", facts.resource);
    let of = apimachinery::status::GroupResource { group: facts.group, resource: &resource };
    Err(Status::conflict(of, name, &super::update::uid_mismatch(&wanted, &actual)))
}

/// The object with the count that a `Scale` wants.
fn scaled(
    target: &Target,
    name: &str,
    scale: &Scale,
    live: &Value,
    wanted: &Value,
) -> Result<Value, Status> {
    let mut errors = FieldErrors::new();
    let replicas = wanted.i64_at(&["spec", "replicas"]).unwrap_or_default();
    registry::metadata::validate(
        wanted,
        target.served.facts.namespaced,
        registry::metadata::subdomain_name,
        &mut errors,
    );
    // A custom resource is checked as a whole.
    if replicas < 0 && !target.resource().is_custom() {
        let spec = Path::new("spec");
        errors.invalid(
            &spec.child("replicas"),
            &Value::from(replicas),
            "must be greater than or equal to 0",
        );
    }
    if !errors.is_empty() {
        return Err(Status::invalid("autoscaling", "Scale", name, &errors));
    }
    let mut value = live.clone();
    value.set_at(scale.spec_replicas, replicas);
    Ok(value)
}

/// The `Scale` of an object.
pub(super) fn scale_of(scale: &Scale, object: &Value) -> Value {
    let mut metadata = Object::new();
    for member in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.at(&["metadata", member]) {
            metadata.insert(member, value.clone());
        }
    }
    let mut spec = Object::new();
    if let Some(replicas) = object.i64_at(scale.spec_replicas).filter(|it| *it != 0) {
        spec.insert("replicas", replicas);
    }
    let mut status = Object::new();
    status.insert("replicas", object.i64_at(scale.status_replicas).unwrap_or_default());
    let selector = object.at(scale.selector).filter(|_| !scale.selector.is_empty());
    let selector = match selector {
        // Custom resources have it as text.
        Some(Value::String(text)) => Some(text.to_string()),
        Some(plain)
            if scale.selector == ["spec", "selector"]
                && plain.get("matchLabels").is_none()
                && plain.get("matchExpressions").is_none() =>
        {
            plain.as_object().map(labels::Selector::from_labels).map(|it| it.to_string())
        }
        other => labels::Selector::from_value(other).ok().map(|it| it.to_string()),
    };
    if let Some(selector) = selector.filter(|it| !it.is_empty()) {
        status.insert("selector", selector);
    }
    value!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": (metadata), "spec": (spec), "status": (status)})
}

/// POST of a binding as an object of its own, which names the pod itself: an older form of the subresource.
pub(crate) async fn create_binding(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let info = Arc::make_mut(&mut exchange.info);
    info.resource = "pods".into();
    info.subresource = "binding".into();
    let target = Target::of(server, &exchange.info)?;
    exchange.facts = Some(target.served.facts);
    binding(server, exchange, &target, body).await
}

/// Whether a pod is the one, as it was, that somebody decided about: uid and version, where they are given.
fn is_meant(pod: &Value, (uid, seen): (&str, &str)) -> Result<(), String> {
    let has = |member| pod.str_at(&["metadata", member]);
    if !uid.is_empty() && uid != has("uid") {
        return Err(super::update::uid_mismatch(uid, has("uid")));
    }
    let version = has("resourceVersion");
    if !seen.is_empty() && seen != version {
        return Err(format!(
            "Precondition failed: ResourceVersion in precondition: {seen}, ResourceVersion in object meta: {version}"
        ));
    }
    Ok(())
}

/// Gives a pod its node.
async fn binding(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let body = exchange.read(body).await?;
    let options = WriteOptions::of(exchange, "CreateOptions")?;
    let form = negotiate_without_rows(exchange)?;
    let mut binding =
        decode::posted(exchange, (&posted::BINDING, &[]), &body, options.field_validation)?;
    place_in_namespace(target, &mut binding)?;
    let name = bound_name(exchange, &binding)?;
    admit_binding(server, exchange, target, &options, &mut binding).await?;
    let node = node_of(&binding)?;
    let [uid, seen] =
        ["uid", "resourceVersion"].map(|it| binding.str_at(&["metadata", it]).to_owned());
    let current = persist::current(server, target, &name).await?;
    let now = apimachinery::time::format_time(server.clock.now());
    let write = Write {
        name: &name,
        subresource: "binding",
        options: &options,
        tracking: Tracking::Nobody,
        of_live: true,
    };
    let handed_on =
        ["annotations", "labels"].map(|it| (it, binding.at(&["metadata", it]).cloned()));
    let conflict = |why: &str| {
        let of = apimachinery::status::GroupResource { group: "", resource: "pods/binding" };
        Status::conflict(of, &name, why)
    };
    write
        .run(server, exchange, target, current, |_, _, live| {
            if live.at(&["metadata", "deletionTimestamp"]).is_some() {
                return Err(conflict(&format!(
                    "pod {name} is being deleted, cannot be assigned to a host"
                )));
            }
            let assigned = live.str_at(&["spec", "nodeName"]);
            if !assigned.is_empty() {
                return Err(conflict(&format!(
                    "pod {name} is already assigned to node \"{assigned}\""
                )));
            }
            if !live.items_at(&["spec", "schedulingGates"]).is_empty() {
                return Err(conflict(&format!("pod {name} has non-empty .spec.schedulingGates")));
            }
            is_meant(live, (&uid, &seen)).map_err(|why| conflict(&why))?;
            let mut pod = live.clone();
            pod.remove_at(&["metadata", "resourceVersion"]);
            pod.set_at(&["spec", "nodeName"], node.as_str());
            for (member, more) in &handed_on {
                let Some(Value::Object(more)) = more else { continue };
                let all = pod.object_at_mut(&["metadata", member]);
                for (key, value) in more.iter() {
                    all.insert(key, value.clone());
                }
            }
            // It has served its purpose (upstream's gate ClearingNominatedNodeNameAfterBinding, on by default).
            pod.remove_at(&["status", "nominatedNodeName"]);
            set_scheduled(&mut pod, &now);
            Ok(pod)
        })
        .await?;
    let done = Status { success: true, code: 201, ..Status::default() };
    Ok(respond::plain(form, 201, &done.to_value()))
}

/// The name of the pod: the path's, which the object's has to be equal to, or where the path has none the object's.
fn bound_name(exchange: &mut Exchange, binding: &Value) -> Result<String, Status> {
    let given = binding.str_at(&["metadata", "name"]);
    if exchange.info.name.is_empty() {
        Arc::make_mut(&mut exchange.info).name = given.into();
    }
    if given != exchange.info.name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    Ok(given.to_owned())
}

/// Lets the plugins change and judge a binding.
async fn admit_binding(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    options: &WriteOptions,
    binding: &mut Value,
) -> Result<(), Status> {
    let admission = Admission {
        operation: Operation::Create,
        target,
        subresource: "binding",
        name: exchange.info.name.to_string(),
        dry_run: options.dry_run,
        delete_options: Value::Null,
    };
    admit(server, exchange, &admission, binding, None).await?;
    judge(server, exchange, &admission, binding, None).await
}

/// The node that a binding names.
fn node_of(binding: &Value) -> Result<String, Status> {
    let mut errors = FieldErrors::new();
    let at = Path::new("target");
    let kind = binding.str_at(&["target", "kind"]);
    if !matches!(kind, "" | "Node") {
        errors.not_supported(&at.child("kind"), &Value::from(kind), ["Node", "<empty>"]);
    }
    let node = binding.str_at(&["target", "name"]).to_owned();
    if node.is_empty() {
        errors.required(&at.child("name"), "");
    }
    if let Some(first) = errors.iter().next() {
        return Err(Status { code: 500, message: first.to_string(), ..Status::default() });
    }
    Ok(node)
}

fn set_scheduled(pod: &mut Value, now: &str) {
    let condition = value!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let status = pod.object_at_mut(&["status"]);
    let conditions = status.entry("conditions");
    if conditions.is_null() {
        *conditions = Value::Array(Vec::new());
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    match conditions.iter_mut().find(|it| it.str_at(&["type"]) == "PodScheduled") {
        Some(existing) => *existing = condition,
        None => conditions.push(condition),
    }
}
