//! Reviews: questions about tokens and rights that are posted like objects, answered, and never stored.

use std::sync::Arc;

use admission::Operation;
use apimachinery::field::{ErrorType, FieldError};
use apimachinery::{FieldErrors, Object, Path, Status, Value, json, time, validation, value};
use auth::{Attributes, UserInfo};
use http::Response;
use registry::declaration::{BuiltIn, Declaration};
use registry::{Features, Served};

use super::admit::{Admission, admit, judge};
use super::create::place_in_namespace;
use crate::Server;
use crate::body::Body;
use crate::cache::{Cache, Progress};
use crate::decode;
use crate::exchange::{Exchange, RequestBody};
use crate::negotiate::negotiate_without_rows;
use crate::options::WriteOptions;
use crate::persist;
use crate::request::RequestInfo;
use crate::respond;
use crate::target::Target;

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// Which question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Token,
    SelfSubject,
    SelfAccess,
    Access,
    LocalAccess,
    SelfRules,
}

const KINDS: [(&str, &str, Kind); 6] = [
    (AUTHENTICATION, "tokenreviews", Kind::Token),
    (AUTHENTICATION, "selfsubjectreviews", Kind::SelfSubject),
    (AUTHORIZATION, "selfsubjectaccessreviews", Kind::SelfAccess),
    (AUTHORIZATION, "subjectaccessreviews", Kind::Access),
    (AUTHORIZATION, "localsubjectaccessreviews", Kind::LocalAccess),
    (AUTHORIZATION, "selfsubjectrulesreviews", Kind::SelfRules),
];

/// The reviews that are served. Each has a cache that stays empty, which makes it a target like any other resource.
#[derive(Debug)]
pub(crate) struct Reviews(Vec<(Kind, Served, Arc<Cache>)>);

/// A review that a request asks for.
#[derive(Debug)]
pub(crate) struct Review {
    kind: Kind,
    target: Target,
}

impl Reviews {
    pub(crate) fn new() -> Self {
        let made = KINDS.into_iter().filter_map(|(group, resource, kind)| {
            let declaration = Declaration { group, resource, ..Declaration::PLAIN };
            let resource: Arc<dyn registry::AnyResource> =
                Arc::new(BuiltIn::new(declaration, Features::default())?);
            let served = *resource.served().first()?;
            Some((kind, served, Arc::new(Cache::new(resource, Arc::new(Progress::default())))))
        });
        Self(made.collect())
    }

    /// The review at a request's path. Reviews are posted and have no names.
    pub(crate) fn find(&self, info: &RequestInfo) -> Option<Review> {
        let (kind, served, cache) = self.0.iter().find(|(_, served, _)| {
            let facts = served.facts;
            facts.group == info.group
                && facts.version == info.version
                && facts.resource == info.resource
        })?;
        let named = !info.name.is_empty();
        if served.facts.namespaced == info.namespace.is_empty() || named {
            return None;
        }
        let namespace = info.namespace.clone();
        Some(Review {
            kind: *kind,
            target: Target {
                conversion: None,
                resource: Arc::clone(cache.resource()),
                cache: Arc::clone(cache),
                served: *served,
                namespace,
            },
        })
    }
}

impl Review {
    /// The resource that reviews of this sort are posted to.
    pub(crate) fn facts(&self) -> &'static api::ResourceFacts {
        self.target.served.facts
    }
}

/// Answers a review.
pub(crate) async fn create(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    review: Review,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let Review { kind, target } = review;
    if exchange.info.verb != "create" || !exchange.info.name.is_empty() {
        return Err(Status::method_not_allowed());
    }
    let body = exchange.read(body).await?;
    let options = WriteOptions::of(exchange, "CreateOptions")?;
    let form = negotiate_without_rows(exchange)?;
    let mut object = decode::object(exchange, &target, &body, options.field_validation)?;
    place_in_namespace(&target, &mut object)?;
    persist::track_fields(server, &target, "", &options, &mut object, None);
    let admission = Admission {
        operation: Operation::Create,
        target: &target,
        subresource: "",
        name: object.str_at(&["metadata", "name"]).to_owned(),
        dry_run: options.dry_run,
        delete_options: Value::Null,
    };
    admit(server, exchange, &admission, &mut object, None).await?;
    check(kind, &object)?;
    judge(server, exchange, &admission, &mut object, None).await?;
    let answer = match kind {
        Kind::Token => token(server, object).await,
        Kind::SelfSubject => self_subject(server, exchange, &target),
        Kind::SelfRules => self_rules(server, exchange, &target, &object)?,
        Kind::SelfAccess | Kind::Access | Kind::LocalAccess => {
            access(server, exchange, kind, object).await
        }
    };
    Ok(respond::plain(form, 201, &answer))
}

/// Whether a question can be answered.
fn check(kind: Kind, object: &Value) -> Result<(), Status> {
    match kind {
        Kind::SelfSubject => Ok(()),
        Kind::Token if object.str_at(&["spec", "token"]).is_empty() => {
            Err(Status::bad_request("token is required for TokenReview in authentication"))
        }
        Kind::Token if !object.str_at(&["metadata", "namespace"]).is_empty() => {
            Err(Status::bad_request("namespace is not allowed on this type"))
        }
        Kind::Token => Ok(()),
        Kind::SelfRules if object.str_at(&["spec", "namespace"]).is_empty() => {
            Err(Status::bad_request("no namespace on request"))
        }
        Kind::SelfRules => Ok(()),
        Kind::SelfAccess | Kind::Access | Kind::LocalAccess => check_access(kind, object),
    }
}

/// An object of a review's kind with nothing in it.
fn plain(target: &Target, metadata: Value, spec: Option<Value>, status: Value) -> Value {
    let facts = target.served.facts;
    let mut answer = Object::new();
    answer.insert("kind", facts.kind);
    answer.insert("apiVersion", facts.api_version());
    answer.insert("metadata", metadata);
    if let Some(spec) = spec {
        answer.insert("spec", spec);
    }
    answer.insert("status", status);
    Value::Object(answer)
}

/// Whose a token is.
async fn token(server: &Server, mut object: Value) -> Value {
    let token = object.str_at(&["spec", "token"]).to_owned();
    let audiences: Vec<String> = object
        .items_at(&["spec", "audiences"])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    // Upstream writes what it finds out into the status that was sent.
    let mut status = object.get("status").cloned().unwrap_or_else(|| value!({"user": {}}));
    status.remove_at(&["authenticated"]);
    let mut failed: Vec<String> = Vec::new();
    let mut known = false;
    for authenticator in &server.access.authenticators {
        match authenticator.review(&token, &audiences).await {
            Ok(None) => {}
            Ok(Some(reviewed)) => {
                known = true;
                status.set_at(&["authenticated"], true);
                status.set_at(&["user"], value!(&reviewed.user));
                status.remove_at(&["audiences"]);
                if !reviewed.audiences.is_empty() {
                    let list: Value = reviewed.audiences.iter().map(String::as_str).collect();
                    status.set_at(&["audiences"], list);
                }
                break;
            }
            Err(error) => failed.push(error.to_string()),
        }
    }
    if !known {
        let error = match failed.as_slice() {
            [] => "invalid bearer token".to_owned(),
            failed => format!("[invalid bearer token, {}]", failed.join(", ")),
        };
        status.set_at(&["error"], error);
    }
    object.set_at(&["status"], status);
    object
}

/// Who asks.
fn self_subject(server: &Server, exchange: &Exchange, target: &Target) -> Value {
    let now = time::format_time(server.clock.now());
    let user = exchange.user.as_ref();
    plain(target, value!({"creationTimestamp": now}), None, value!({"userInfo": user}))
}

/// What who asks may do in a namespace.
fn self_rules(
    server: &Server,
    exchange: &Exchange,
    target: &Target,
    object: &Value,
) -> Result<Value, Status> {
    let namespace = object.str_at(&["spec", "namespace"]);
    let rules = server.access.authorizer.rules_for(&exchange.user, namespace)?;
    let mut status = value!({"resourceRules": (rules.resource), "nonResourceRules": (rules.non_resource),
        "incomplete": (rules.incomplete)});
    if !rules.evaluation_error.is_empty() {
        status.set_at(&["evaluationError"], rules.evaluation_error);
    }
    Ok(plain(target, Value::object(), Some(Value::object()), status))
}

/// Whether a question about rights is asked as it should be.
fn check_access(kind: Kind, object: &Value) -> Result<(), Status> {
    let mut errors = FieldErrors::new();
    validate_attributes(&object["spec"], &mut errors);
    if kind != Kind::SelfAccess {
        validate_subject(&object["spec"], &mut errors);
    }
    validate_metadata(object, kind, &mut errors);
    if kind == Kind::LocalAccess {
        let namespace = object.str_at(&["metadata", "namespace"]);
        let asked = object.str_at(&["spec", "resourceAttributes", "namespace"]);
        if object.at(&["spec", "resourceAttributes"]).is_some() && asked != namespace {
            let spec = Path::new("spec");
            let at = spec.child("resourceAttributes");
            errors.invalid_text(&at.child("namespace"), asked, "must match metadata.namespace");
        }
        if let Some(path) = object.at(&["spec", "nonResourceAttributes"]) {
            errors.push(invalid_path(path, "disallowed on this kind of request"));
        }
    }
    if !errors.is_empty() {
        return Err(Status::invalid(AUTHORIZATION, "", "", &errors));
    }
    Ok(())
}

/// Whether somebody may do something.
async fn access(server: &Server, exchange: &Exchange, kind: Kind, mut object: Value) -> Value {
    let user = match kind {
        Kind::SelfAccess => exchange.user.as_ref().clone(),
        _ => subject(&object["spec"]),
    };
    let selectors = Selectors::of(&object["spec"]);
    let decision = {
        let asked = attributes(&user, &object["spec"], &selectors);
        server.access.authorizer.authorize(&asked).await
    };
    let mut status = value!({"allowed": (decision.is_allowed())});
    let mut errors = selectors.errors.clone();
    match &decision {
        auth::Decision::Failed { why, denies } => {
            if *denies {
                status.set_at(&["denied"], true);
            }
            errors.push(why.clone());
        }
        auth::Decision::Deny(_) => status.set_at(&["denied"], true),
        auth::Decision::Allow(_) | auth::Decision::NoOpinion(_) => {}
    }
    if !matches!(decision, auth::Decision::Failed { .. }) && !decision.reason().is_empty() {
        status.set_at(&["reason"], decision.reason());
    }
    if !errors.is_empty() {
        status.set_at(&["evaluationError"], errors.join("; "));
    }
    object.set_at(&["status"], status);
    object
}

/// The selectors of a review as a request would have them.
#[derive(Debug, Default)]
struct Selectors {
    field: String,
    label: String,
    /// What of them could not be read, which widens the question.
    errors: Vec<String>,
}

impl Selectors {
    fn of(spec: &Value) -> Self {
        let mut selectors = Self::default();
        for (member, is_field) in [("fieldSelector", true), ("labelSelector", false)] {
            let Some(of) = spec.at(&["resourceAttributes", member]) else { continue };
            let raw = of.str_at(&["rawSelector"]);
            let requirements = of.items_at(&["requirements"]);
            let (text, left_out) = if raw.is_empty() {
                let terms: Vec<Option<String>> =
                    requirements.iter().map(|it| auth::selectors::term(it, is_field)).collect();
                let left_out = terms.iter().any(Option::is_none);
                (terms.into_iter().flatten().collect::<Vec<_>>().join(","), left_out)
            } else if auth::selectors::is_readable(raw, is_field) {
                (raw.to_owned(), false)
            } else {
                (String::new(), true)
            };
            if left_out {
                let partially = if text.is_empty() { "" } else { "partially " };
                selectors.errors.push(format!(
                    "spec.resourceAttributes.{member} {partially}ignored due to parse error"
                ));
            }
            *(if is_field { &mut selectors.field } else { &mut selectors.label }) = text;
        }
        selectors
    }
}

/// The user that a review is about.
fn subject(spec: &Value) -> UserInfo {
    let texts = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .unwrap_or_default()
            .iter()
            .filter_map(Value::as_str)
            .map(Into::into)
            .collect()
    };
    let extra = spec["extra"].as_object();
    UserInfo {
        name: spec.str_at(&["user"]).into(),
        uid: spec.str_at(&["uid"]).into(),
        groups: texts(&spec["groups"]),
        extra: extra
            .map(|it| it.iter().map(|(key, values)| (key.to_lowercase(), texts(values))).collect())
            .unwrap_or_default(),
    }
}

/// What a review asks.
fn attributes<'r>(user: &'r UserInfo, spec: &'r Value, selectors: &'r Selectors) -> Attributes<'r> {
    let resource = &spec["resourceAttributes"];
    if resource.is_null() {
        let path = &spec["nonResourceAttributes"];
        return Attributes {
            verb: path.str_at(&["verb"]),
            path: path.str_at(&["path"]),
            ..Attributes::of(user)
        };
    }
    let version = match resource.str_at(&["version"]) {
        "" => "*",
        version => version,
    };
    Attributes {
        verb: resource.str_at(&["verb"]),
        group: resource.str_at(&["group"]),
        version,
        resource: resource.str_at(&["resource"]),
        subresource: resource.str_at(&["subresource"]),
        namespace: resource.str_at(&["namespace"]),
        name: resource.str_at(&["name"]),
        field_selector: &selectors.field,
        label_selector: &selectors.label,
        ..Attributes::of(user)
    }
}

/// What is wrong with a question about a path, which is shown as upstream's internal type writes itself.
fn invalid_path(path: &Value, why: &str) -> FieldError {
    let text = |member| json::to_string(&Value::from(path.str_at(&[member])));
    let shown = format!("{{\"Path\":{},\"Verb\":{}}}", text("path"), text("verb"));
    FieldError {
        kind: ErrorType::Invalid,
        field: "spec.nonResourceAttributes".into(),
        body: format!("Invalid value: {shown}: {why}"),
    }
}

fn validate_attributes(spec: &Value, errors: &mut FieldErrors) {
    let at = Path::new("spec");
    let (resource, path) = (spec.get("resourceAttributes"), spec.get("nonResourceAttributes"));
    match (resource, path) {
        (Some(_), Some(path)) => {
            let why = "cannot be specified in combination with resourceAttributes";
            errors.push(invalid_path(path, why));
        }
        (None, None) => errors.invalid(
            &at.child("resourceAttributes"),
            &Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    for selector in ["fieldSelector", "labelSelector"] {
        let of = spec.at(&["resourceAttributes", selector]);
        if let Some(of) = of {
            let resource = at.child("resourceAttributes");
            validate_selector(selector, &resource.child(selector), of, errors);
        }
    }
}

fn validate_selector(member: &str, at: &Path<'_>, selector: &Value, errors: &mut FieldErrors) {
    let raw = selector.str_at(&["rawSelector"]);
    let requirements = selector.items_at(&["requirements"]);
    if !raw.is_empty() && !requirements.is_empty() {
        let why = "may not specified at the same time as requirements";
        errors.invalid_text(&at.child("rawSelector"), raw, why);
    }
    let list = at.child("requirements");
    if raw.is_empty() && requirements.is_empty() {
        let why = format!("when {member} is specified, requirements or rawSelector is required");
        errors.required(&list, &why);
    }
    for (index, requirement) in requirements.iter().enumerate() {
        let of_labels = member == "labelSelector";
        validate_requirement(&list.index(index), requirement, of_labels, errors);
    }
}

/// Operators that are not known here pass: such a requirement is left out when the question is asked.
fn validate_requirement(
    at: &Path<'_>,
    requirement: &Value,
    of_labels: bool,
    errors: &mut FieldErrors,
) {
    let (key, values) = (requirement.str_at(&["key"]), requirement.items_at(&["values"]));
    let (at_key, at_values) = (at.child("key"), at.child("values"));
    if key.is_empty() && !of_labels {
        errors.required(&at_key, "must be specified");
    }
    match requirement.str_at(&["operator"]) {
        "In" | "NotIn" if values.is_empty() => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.required(&at_values, why);
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(&at_values, why);
        }
        _ => {}
    }
    if of_labels {
        errors.invalid_all(&at_key, key, validation::qualified_name(key));
        for (index, value) in values.iter().enumerate() {
            let text = value.as_str().unwrap_or_default();
            errors.invalid_all(&at_values.index(index), text, validation::label_value(text));
        }
    }
}

fn validate_subject(spec: &Value, errors: &mut FieldErrors) {
    if spec.str_at(&["user"]).is_empty() && spec.items_at(&["groups"]).is_empty() {
        let at = Path::new("spec");
        errors.invalid_text(
            &at.child("user"),
            "",
            "at least one of user or group must be specified",
        );
    }
}

fn validate_metadata(object: &Value, kind: Kind, errors: &mut FieldErrors) {
    let empty = Object::new();
    let metadata = object["metadata"].as_object().unwrap_or(&empty);
    let local = kind == Kind::LocalAccess;
    let given =
        metadata.iter().any(|(key, _)| key != "managedFields" && !(local && key == "namespace"));
    if given {
        let why = if local { "must be empty except for namespace" } else { "must be empty" };
        errors.push(FieldError {
            kind: ErrorType::Invalid,
            field: "metadata".into(),
            body: format!("Invalid value: {}: {why}", metadata_text(metadata)),
        });
    }
}

/// Metadata in the order in which upstream writes its fields.
fn metadata_text(metadata: &Object) -> String {
    const FIELDS: [&str; 15] = [
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ];
    const ENTRY: [&str; 7] =
        ["manager", "operation", "apiVersion", "time", "fieldsType", "fieldsV1", "subresource"];
    let in_order = |object: &Object, fields: &[&str], text: &dyn Fn(&str, &Value) -> String| {
        let members = fields.iter().filter_map(|field| {
            object.get(field).map(|value| format!("\"{field}\":{}", text(field, value)))
        });
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    };
    in_order(metadata, &FIELDS, &|field, value| {
        if field != "managedFields" {
            return json::to_string(value);
        }
        let entries = value.as_array().unwrap_or_default().iter().filter_map(Value::as_object);
        let entries = entries.map(|it| in_order(it, &ENTRY, &|_, value| json::to_string(value)));
        format!("[{}]", entries.collect::<Vec<_>>().join(","))
    })
}
