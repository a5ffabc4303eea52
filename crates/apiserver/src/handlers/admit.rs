//! Sends a write through the admission plugins, and tells them of it what costs something to tell.

use std::sync::Arc;
use std::time::Duration;

use admission::context::{Context, Kind, Reinvocation};
use admission::{Annotations, Attributes, Operation};
use api::ResourceFacts;
use apimachinery::{Object, Status, Value, conform, value};
use async_trait::async_trait;
use http::Method;
use registry::{Scale, Served};

use super::proxy::options_kind;
use super::subresource::scale_of;
use crate::Server;
use crate::bootstrap::Bootstrap;
use crate::exchange::Exchange;
use crate::posted;
use crate::query::Query;
use crate::target::Target;
use crate::traces;

/// What the plugins are told of a write.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    pub(crate) operation: Operation,
    pub(crate) target: &'a Target,
    pub(crate) subresource: &'a str,
    pub(crate) name: String,
    pub(crate) dry_run: bool,
    /// Where something is deleted, how (`DeleteOptions`); else null.
    pub(crate) delete_options: Value,
}

/// What the plugins tell of a write.
struct Told<'r> {
    warnings: &'r mut Vec<String>,
    annotations: &'r mut Annotations,
    reinvocation: &'r mut Reinvocation,
    waited: &'r mut Duration,
}

/// Lets the plugins change the object.
pub(crate) async fn admit(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    admission: &Admission<'_>,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    pass(server, exchange, admission, (object, old), Pass::Mutate).await
}

/// Lets the plugins judge the object.
pub(crate) async fn judge(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    admission: &Admission<'_>,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    pass(server, exchange, admission, (object, old), Pass::Validate).await
}

/// What plugins are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Mutate,
    Validate,
}

async fn pass(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    admission: &Admission<'_>,
    (object, old): (&mut Value, Option<&Value>),
    which: Pass,
) -> Result<(), Status> {
    let mut reinvocation = Reinvocation::default();
    let user = Arc::clone(&exchange.user);
    let asked = Asked::new(server, admission, &exchange.query);
    let told = Told {
        warnings: &mut exchange.warnings,
        annotations: &mut exchange.annotations,
        reinvocation: &mut reinvocation,
        waited: &mut exchange.waited,
    };
    let mut attributes = attributes(&asked, &user, (object, old), told);
    let plugins = &server.access.admission;
    match which {
        Pass::Mutate => {
            let mut part = traces::part("admission", "mutate");
            spans::run(&mut part, std::pin::pin!(plugins.mutate(&mut attributes))).await
        }
        Pass::Validate => {
            let mut part = traces::part("admission", "validate");
            spans::run(&mut part, std::pin::pin!(plugins.validate(&mut attributes))).await
        }
    }
}

/// Whether a plugin wants to see who is deleted from a resource.
pub(crate) fn is_judged(server: &Arc<Server>, exchange: &Exchange, target: &Target) -> bool {
    let (operation, subresource, name) = (Operation::Delete, "", String::new());
    let delete_options = Value::Null;
    let admission =
        Admission { operation, target, subresource, name, dry_run: false, delete_options };
    let asked = Asked::new(server, &admission, &exchange.query);
    let (mut object, mut warnings, mut annotations, mut reinvocation) = Default::default();
    let mut waited = Duration::ZERO;
    let told = Told {
        warnings: &mut warnings,
        annotations: &mut annotations,
        reinvocation: &mut reinvocation,
        waited: &mut waited,
    };
    let attributes = attributes(&asked, &exchange.user, (&mut object, None), told);
    server.access.admission.looks_at(&attributes)
}

fn attributes<'r>(
    asked: &'r Asked<'_>,
    user: &'r auth::UserInfo,
    (object, old): (&'r mut Value, Option<&'r Value>),
    told: Told<'r>,
) -> Attributes<'r> {
    let admission = asked.admission;
    let facts = admission.target.served.facts;
    let Told { warnings, annotations, reinvocation, waited } = told;
    Attributes {
        operation: admission.operation,
        group: facts.group,
        version: facts.version,
        resource: facts.resource,
        subresource: admission.subresource,
        kind: facts.kind,
        namespace: &admission.target.namespace,
        name: &admission.name,
        user,
        object,
        old,
        dry_run: admission.dry_run,
        warnings,
        annotations,
        reinvocation,
        waited,
        context: asked,
    }
}

/// What the object of a write is.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// An object of the resource itself.
    Itself,
    /// The same, of which others see a `Scale`.
    Scale(Scale),
    /// An object of this kind, of which only the group, version and kind are meant.
    Posted(&'static ResourceFacts),
    /// The options of a stream, which are of this kind.
    Stream(&'static str),
}

/// A write, for who wants to know more of it.
#[derive(Debug)]
struct Asked<'a> {
    server: &'a Arc<Server>,
    admission: &'a Admission<'a>,
    query: &'a Query,
    form: Form,
}

impl<'a> Asked<'a> {
    fn new(server: &'a Arc<Server>, admission: &'a Admission<'a>, query: &'a Query) -> Self {
        let target = admission.target;
        let form = match (admission.subresource, target.resource().rules().scale) {
            ("", _) => Form::Itself,
            ("scale", Some(scale)) => Form::Scale(scale),
            ("binding", _) => Form::Posted(&posted::BINDING),
            ("eviction", _) => Form::Posted(&posted::EVICTION),
            ("token", _) => Form::Posted(&posted::TOKEN_REQUEST),
            ("exec", _) => Form::Stream("PodExecOptions"),
            ("attach", _) => Form::Stream("PodAttachOptions"),
            ("portforward", _) => Form::Stream("PodPortForwardOptions"),
            ("proxy", _) => Form::Stream(options_kind(target.served.facts.resource)),
            _ => Form::Itself,
        };
        Self { server, admission, query, form }
    }

    /// A version of the resource, with the view that knows it.
    fn view(&self, version: &'static ResourceFacts) -> Option<Target> {
        let own = self.admission.target;
        if std::ptr::eq(own.served.facts, version) {
            return Some(own.clone());
        }
        Target::in_version(self.server, own, version)
    }
}

/// What admission has made of an object is of its kind still: it would be stored among the others.
fn check_kind(object: &Value, version: &ResourceFacts) -> Result<(), Status> {
    let (api_version, kind) = (object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
    let fits = (api_version.is_empty() || api_version == version.api_version())
        && (kind.is_empty() || kind == version.kind);
    if fits {
        return Ok(());
    }
    let wanted = (version.api_version(), version.kind);
    Err(Status::internal(format!(
        "failed to convert object: {api_version}, Kind={kind} is not {}, Kind={}",
        wanted.0, wanted.1
    )))
}

#[async_trait]
impl Context for Asked<'_> {
    fn options(&self) -> Value {
        let kind = match self.admission.operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete | Operation::Connect => {
                return self.admission.delete_options.clone();
            }
        };
        let mut options = Object::new();
        options.insert("kind", kind);
        options.insert("apiVersion", "meta.k8s.io/v1");
        // As the client gave them: upstream tells neither of the manager that it makes of the user agent, nor of `force`.
        for member in ["fieldManager", "fieldValidation"] {
            if let Some(text) = self.query.get(member).filter(|it| !it.is_empty()) {
                options.insert(member, text);
            }
        }
        if self.admission.dry_run {
            options.insert("dryRun", ["All"].into_iter().collect::<Value>());
        }
        Value::Object(options)
    }

    fn versions(&self) -> Vec<&'static ResourceFacts> {
        let own = self.admission.target.served.facts;
        let all = self.server.catalog.versions(self.admission.target);
        let others = all.into_iter().filter(|it| !std::ptr::eq(*it, own));
        std::iter::once(own).chain(others).collect()
    }

    fn kind(&self, version: &'static ResourceFacts) -> Kind<'static> {
        let of = |it: &ResourceFacts| (it.group, it.version, it.kind);
        let (group, version, kind) = match self.form {
            Form::Itself => (version.group, version.version, version.kind),
            Form::Scale(_) => ("autoscaling", "v1", "Scale"),
            Form::Posted(facts) => of(facts),
            Form::Stream(kind) => ("", "v1", kind),
        };
        Kind { group, version, kind }
    }

    async fn to_version(
        &self,
        object: &Value,
        version: &'static ResourceFacts,
    ) -> Result<Option<Value>, Status> {
        match self.form {
            Form::Scale(scale) => return Ok(Some(scale_of(&scale, object))),
            Form::Posted(_) | Form::Stream(_) => return Ok(None),
            Form::Itself => {}
        }
        let Some(view) = self.view(version) else { return Ok(None) };
        view.of_pipeline(self.admission.target, object).await
    }

    async fn take_version(
        &self,
        mut object: Value,
        version: &'static ResourceFacts,
        base: &Value,
        strictly: bool,
    ) -> Result<Value, Status> {
        match self.form {
            Form::Scale(scale) => {
                let replicas = object.i64_at(&["spec", "replicas"]).unwrap_or_default();
                let mut changed = base.clone();
                changed.set_at(scale.spec_replicas, replicas);
                return Ok(changed);
            }
            Form::Posted(facts) => {
                let Served { node, .. } = posted::served(facts)?;
                conform::conform(api::schema(), node, &mut object).map_err(Status::internal)?;
                return Ok(object);
            }
            Form::Stream(_) => return Ok(object),
            Form::Itself => {}
        }
        check_kind(&object, version)?;
        let unknown = || Status::internal(format!("{} is not served", version.api_version()));
        let view = self.view(version).ok_or_else(unknown)?;
        let resource = view.resource();
        let unknown = resource.conform(&view.served, &mut object).map_err(Status::internal)?;
        if strictly && !unknown.is_empty() {
            let all = unknown.iter().map(|path| format!("unknown field \"{path}\""));
            let all: Vec<String> = all.collect();
            return Err(Status::internal(format!("strict decoding error: {}", all.join(", "))));
        }
        resource.default(&view.served, &mut object);
        view.to_pipeline(self.admission.target, object).await
    }

    async fn create_namespace(&self, name: &str) -> Result<(), Status> {
        let object = value!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": (name)}
        });
        let made = Bootstrap::new(self.server);
        let made = made.send(Method::POST, "/api/v1/namespaces", Some(&object)).await;
        made.map(drop).map_err(Status::internal)
    }

    fn merge(
        &self,
        object: &Value,
        configuration: &Value,
        version: &'static ResourceFacts,
    ) -> Result<Value, String> {
        let view = self.view(version).ok_or("the version is not served")?;
        let (schema, node) = match self.form {
            Form::Itself => (view.resource().types(&view.served), view.served.node),
            Form::Scale(_) => {
                let served = posted::served(&posted::SCALE).map_err(|it| it.message)?;
                (api::schema(), served.node)
            }
            Form::Posted(facts) => {
                (api::schema(), posted::served(facts).map_err(|it| it.message)?.node)
            }
            Form::Stream(kind) => return Err(format!("{kind} cannot be applied to")),
        };
        apimachinery::managed_fields::merge_configuration(schema, node, object, configuration)
    }
}
