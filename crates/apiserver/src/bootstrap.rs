//! What a server makes sure of before it is ready, and as long as it runs: the objects every cluster has.
//!
//! Missing objects are created, by ordinary requests in the process, so that they are defaulted, checked and owned like
//! any other. Roles and bindings that say `autoupdate` get back what they lack; what somebody added or changed otherwise
//! stays.

mod candidates;
mod groups;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Object, Value, json, time, value};
use auth::objects::Objects;
use auth::rbac::{Rule, missing};
use auth::{UserInfo, user::MASTERS};
use bytes::Bytes;
use component_base::ShutdownSignal;
use http::{Method, Request};
use tokio::sync::Notify;

use crate::cache::{Scope, cache_key};
use crate::objects::CachedObjects;
use crate::{Body, Peer, RequestBody, Server};

/// The annotation that lets a server complete a role.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// The annotation that lets a server renew what it suggests for flow control.
const AUTOUPDATE_SPEC: &str = "apf.kubernetes.io/autoupdate-spec";
/// The schemas and levels that are as the server wants them in any case.
const MANDATORY_FLOWS: [&str; 2] = ["exempt", "catch-all"];
/// The object that tells servers of other APIs whom to believe.
const AUTHENTICATION: &str = "extension-apiserver-authentication";
/// Who makes these objects, in their managed fields.
const AGENT: &str = "kube-apiserver";
/// The pauses after which what could not be made is tried again: its namespace may be on its way out.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Who makes the schemas and levels of flow control.
const FLOW_CONTROL_MANAGER: &str = "api-priority-and-fairness-config-producer-v1";
/// Who says that the cluster's own range is ready.
const RANGE_MANAGER: &str = "kubernetes-service-cidr-controller";
/// The one condition of a service range.
const RANGE_READY: &str = "Kubernetes default Service CIDR is ready";

/// What the objects say about this server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where clients in the cluster reach it.
    pub address: IpAddr,
    /// On which port.
    pub port: u16,
    /// The ranges that services get their addresses from, one or one of each family: `10.96.0.0/12`.
    pub service_ranges: Vec<String>,
    /// The address of the service `kubernetes`.
    pub service_address: IpAddr,
    /// The certificates, as PEM, that client certificates are checked with; empty where none are.
    pub client_authority: String,
    /// Whom servers of other APIs may take this one for; none, where it does not say who asks.
    pub front_proxy: Option<FrontProxySettings>,
    /// Whether other servers share the store: then the endpoints are told by [`crate::masterleases`].
    pub shares_store: bool,
}

/// What `kube-system/extension-apiserver-authentication` tells of the front proxy, which this server is to others.
#[derive(Debug, Clone)]
pub struct FrontProxySettings {
    /// The certificates, as PEM, that the proxy's is checked with.
    pub authority: String,
    /// Its names, and its headers.
    pub proxy: auth::front_proxy::FrontProxy,
}

impl Settings {
    /// The data of that object.
    fn authentication_data(&self) -> Object {
        let mut data = Object::new();
        if !self.client_authority.is_empty() {
            data.insert("client-ca-file", self.client_authority.as_str());
        }
        let Some(front) = &self.front_proxy else { return data };
        data.insert("requestheader-client-ca-file", front.authority.as_str());
        let proxy = &front.proxy;
        let list =
            |all: &[String]| json::to_string(&all.iter().map(String::as_str).collect::<Value>());
        data.insert("requestheader-allowed-names", list(&proxy.allowed_names));
        data.insert("requestheader-username-headers", list(&proxy.username_headers));
        data.insert("requestheader-uid-headers", list(&proxy.uid_headers));
        data.insert("requestheader-group-headers", list(&proxy.group_headers));
        data.insert("requestheader-extra-headers-prefix", list(&proxy.extra_header_prefixes));
        data
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many objects were missing.
    pub created: usize,
    /// How many were completed.
    pub updated: usize,
}

impl Summary {
    fn count(&mut self, done: Done) {
        match done {
            Done::Created => self.created += 1,
            Done::Updated => self.updated += 1,
            Done::Nothing => {}
        }
    }
}

/// An object that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("could not {verb} {path}: {message}")]
pub struct BootstrapError {
    verb: Method,
    path: String,
    message: String,
}

impl BootstrapError {
    /// What the server said.
    pub(crate) fn into_message(self) -> String {
        self.message
    }
}

/// Creates and completes further objects, such as those of an add-on, one after another.
///
/// # Errors
/// When an object cannot be written.
pub async fn ensure_all(
    server: &Arc<Server>,
    objects: Vec<Value>,
) -> Result<Summary, BootstrapError> {
    let bootstrap = Bootstrap::new(server);
    let mut summary = Summary::default();
    for object in objects {
        summary.count(bootstrap.ensure(object).await?);
    }
    Ok(summary)
}

/// Makes objects anew whenever somebody deletes or changes them, until `stop`. Upstream's API server looks every few
/// seconds or minutes, controller by controller.
pub async fn keep(server: Arc<Server>, objects: Vec<Value>, stop: ShutdownSignal) {
    let bootstrap = Bootstrap::new(&server);
    let changes: Vec<_> = objects.iter().filter_map(|it| bootstrap.changes_of(it)).collect();
    let (mut pause, mut is_first) = (MIN_PAUSE, true);
    loop {
        // Registered before looking: what changes meanwhile is found.
        let changed: Vec<_> =
            changes.iter().map(|it| Box::pin(Arc::clone(it).notified_owned())).collect();
        let mut failed = false;
        for object in &objects {
            let (kind, name) = (object.str_at(&["kind"]), object.str_at(&["metadata", "name"]));
            match bootstrap.ensure(object.clone()).await {
                Ok(Done::Nothing) => {}
                Ok(Done::Created | Done::Updated) if is_first => {}
                Ok(Done::Created | Done::Updated) => {
                    tracing::info!(kind, name, "made again what every cluster has");
                }
                Err(error) => {
                    tracing::warn!(%error, "will try again in {} s", pause.as_secs());
                    failed = true;
                }
            }
        }
        let again = async {
            if failed { tokio::time::sleep(pause).await } else { std::future::pending().await }
        };
        tokio::select! {
            biased;
            _ = futures::future::select_all(changed) => {}
            () = again => {}
            () = stop.requested() => return,
        }
        is_first = false;
        pause = if failed { (pause * 2).min(MAX_PAUSE) } else { MIN_PAUSE };
    }
}

/// What the cluster cannot do without, for [`keep`]: the system's namespaces, how the server is found, and how its
/// requests are put in order. Roles are made at the start only, as upstream's are.
#[must_use]
pub fn lasting(server: &Server, settings: &Settings) -> Vec<Value> {
    let lasting = |it: &Value| {
        matches!(it.str_at(&["kind"]), "Namespace" | "APIService")
            || it.str_at(&["apiVersion"]).starts_with("flowcontrol.apiserver.k8s.io/")
    };
    let mut objects: Vec<Value> = api::bootstrap_objects().filter(lasting).collect();
    objects.extend(told_objects(server, settings));
    objects
}

fn told_objects(server: &Server, settings: &Settings) -> Vec<Value> {
    let mut objects = own_objects(settings, &time::format_time(server.clock.now()));
    if settings.address.is_loopback() || settings.shares_store {
        // Nobody else could reach it, and endpoints may not say so; or all servers are told of together.
        objects.retain(|it| !matches!(it.str_at(&["kind"]), "Endpoints" | "EndpointSlice"));
    }
    objects
}

/// Creates and completes what is missing.
///
/// # Errors
/// When an object cannot be written.
pub async fn ensure(server: &Arc<Server>, settings: &Settings) -> Result<Summary, BootstrapError> {
    let bootstrap = Bootstrap::new(server);
    let mut known: Vec<Value> = api::bootstrap_objects().collect();
    let features = server.catalog.built_in().features();
    if features.generic_workload {
        groups::add(&mut known, features.workload_with_job);
    }
    if features.coordinated_leader_election {
        candidates::add(&mut known);
    }
    if features.resource_pool_status {
        known.extend(pool_status());
    }
    if features.storage_version_api {
        known.extend(storage_version_collector());
    }
    let (namespaces, mut rest): (Vec<_>, Vec<_>) =
        known.into_iter().partition(|it| it.str_at(&["kind"]) == "Namespace");
    rest.extend(told_objects(server, settings));
    // Addresses of services that were made before there were objects of them are nobody else's.
    Box::pin(crate::allocate::repair::once(server)).await;
    let mut summary = Summary::default();
    // Objects in namespaces need them; all others are made at once, so that they share the store's batches.
    for objects in [namespaces, rest] {
        let all = objects.into_iter().map(|object| bootstrap.ensure(object));
        for done in futures::future::join_all(all).await {
            summary.count(done?);
        }
    }
    Ok(summary)
}

/// The objects that tell about this server.
fn own_objects(settings: &Settings, now: &str) -> Vec<Value> {
    let (address, port) = (settings.address.to_string(), i64::from(settings.port));
    let service_address = settings.service_address.to_string();
    let family = if settings.address.is_ipv4() { "IPv4" } else { "IPv6" };
    let date = now.get(..10).unwrap_or(now);
    let ranges: Value = settings.service_ranges.iter().map(String::as_str).collect();
    let ready = value!({"type": "Ready", "status": "True", "message": RANGE_READY, "lastTransitionTime": now});
    vec![
        value!({"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1",
            "metadata": {"name": "kubernetes"}, "spec": {"cidrs": (ranges)},
            "status": {"conditions": [ready]}}),
        value!({"kind": "Service", "apiVersion": "v1",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"type": "ClusterIP", "clusterIP": (service_address.as_str()), "clusterIPs": [(service_address.as_str())],
                "sessionAffinity": "None", "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}]}}),
        value!({"kind": "Endpoints", "apiVersion": "v1",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": (address.as_str())}], "ports": [{"name": "https", "protocol": "TCP", "port": port}]}]}),
        value!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": family, "endpoints": [{"addresses": [(address.as_str())], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "protocol": "TCP", "port": port}]}),
        value!({"kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"name": AUTHENTICATION, "namespace": "kube-system"},
            "data": (settings.authentication_data())}),
        value!({"kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"},
            "data": {"since": date}}),
    ]
    .into_iter()
    .chain(migrator())
    .chain(bundle_publisher())
    .chain(pod_request_cleaner())
    .collect()
}

/// The role of the controller that stores objects anew, which every server has since 1.37.
fn migrator() -> [Value; 2] {
    let rules = value!([
        {"verbs": ["create", "list", "patch"], "apiGroups": ["*"], "resources": ["*"]},
        {"verbs": ["get"], "apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"]},
        {"verbs": ["patch"], "apiGroups": ["apiextensions.k8s.io"],
            "resources": ["customresourcedefinitions/status"]},
        {"verbs": ["update"], "apiGroups": ["storagemigration.k8s.io"],
            "resources": ["storageversionmigrations/status"]}]);
    controller_role("storage-version-migrator-controller", rules)
}

/// The role of the controller that publishes the cluster's authority, which every server has since 1.37.
fn bundle_publisher() -> [Value; 2] {
    let rules = value!([
        {"verbs": ["attest"], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"],
            "resourceNames": ["kubernetes.io/kube-apiserver-serving"]},
        {"verbs": ["create", "delete", "list", "update", "watch"], "apiGroups": ["certificates.k8s.io"],
            "resources": ["clustertrustbundles"]},
        {"verbs": ["create", "patch", "update"], "apiGroups": ["", "events.k8s.io"], "resources": ["events"]}]);
    controller_role("kube-apiserver-serving-clustertrustbundle-publisher", rules)
}

/// The role of the controller that takes requests for certificates of pods away, which every server has since 1.37.
fn pod_request_cleaner() -> [Value; 2] {
    let rules = value!([{"verbs": ["delete", "get", "list", "watch"], "apiGroups": ["certificates.k8s.io"],
        "resources": ["podcertificaterequests"]}]);
    controller_role("podcertificaterequestcleaner", rules)
}

/// The role of the controller that forgets what servers that are gone have told of their versions, where they tell.
fn storage_version_collector() -> [Value; 2] {
    let rules = value!([
        {"verbs": ["get", "list", "watch"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"]},
        {"verbs": ["delete", "get", "list", "patch", "update", "watch"], "apiGroups": ["internal.apiserver.k8s.io"],
            "resources": ["storageversions"]},
        {"verbs": ["get", "patch", "update"], "apiGroups": ["internal.apiserver.k8s.io"],
            "resources": ["storageversions/status"]}]);
    controller_role("storage-version-garbage-collector", rules)
}

/// The role of the controller that says how full pools of devices are, where that can be asked for.
fn pool_status() -> [Value; 2] {
    let rules = value!([
        {"verbs": ["delete", "get", "list", "watch"], "apiGroups": ["resource.k8s.io"],
            "resources": ["resourcepoolstatusrequests"]},
        {"verbs": ["patch", "update"], "apiGroups": ["resource.k8s.io"],
            "resources": ["resourcepoolstatusrequests/status"]},
        {"verbs": ["get", "list", "watch"], "apiGroups": ["resource.k8s.io"],
            "resources": ["devicetaintrules", "resourceclaims", "resourceslices"]}]);
    controller_role("resourcepoolstatusrequest-controller", rules)
}

/// What a controller may, and the binding to its account.
fn controller_role(controller: &str, rules: Value) -> [Value; 2] {
    let name = format!("system:controller:{controller}");
    let metadata = value!({"name": (name.as_str()), "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}});
    [
        value!({"kind": "ClusterRole", "apiVersion": "rbac.authorization.k8s.io/v1",
            "metadata": (metadata.clone()), "rules": rules}),
        value!({"kind": "ClusterRoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": (name.as_str())},
            "subjects": [{"kind": "ServiceAccount", "namespace": "kube-system", "name": controller}]}),
    ]
}

/// Writes of the server itself.
pub(crate) struct Bootstrap<'s> {
    server: &'s Arc<Server>,
    user: Arc<UserInfo>,
    objects: CachedObjects,
}

#[derive(Debug, Clone, Copy)]
enum Done {
    Created,
    Updated,
    Nothing,
}

impl<'s> Bootstrap<'s> {
    pub(crate) fn new(server: &'s Arc<Server>) -> Self {
        let user = Arc::new(UserInfo::new("system:apiserver", &[MASTERS]));
        let objects = CachedObjects::new(Arc::clone(&server.hub), Arc::clone(&server.catalog));
        Self { server, user, objects }
    }

    pub(crate) fn objects(&self) -> &CachedObjects {
        &self.objects
    }

    /// Where objects of this kind lie, and the one that is there.
    pub(crate) fn find(&self, wanted: &Value) -> (String, Option<Value>) {
        let place = Place::of(wanted);
        let (namespace, name) =
            (wanted.str_at(&["metadata", "namespace"]), wanted.str_at(&["metadata", "name"]));
        let found = self.objects.get(&place.group, &place.resource, namespace, name);
        (place.path, found.and_then(|it| it.to_value().ok()))
    }

    /// Told of each change of an object.
    fn changes_of(&self, object: &Value) -> Option<Arc<Notify>> {
        let place = Place::of(object);
        let cache = self.objects.cache(&place.group, &place.resource)?;
        let (namespace, name) =
            (object.str_at(&["metadata", "namespace"]), object.str_at(&["metadata", "name"]));
        Some(cache.wake_for(Scope::Object(cache_key(namespace, name))))
    }

    async fn ensure(&self, wanted: Value) -> Result<Done, BootstrapError> {
        let place = Place::of(&wanted);
        let (namespace, name) =
            (wanted.str_at(&["metadata", "namespace"]), wanted.str_at(&["metadata", "name"]));
        let found = self.objects.get(&place.group, &place.resource, namespace, name);
        let Some(found) = found.and_then(|it| it.to_value().ok()) else {
            return self.create(&place, wanted).await;
        };
        let Some(changed) = completed(&found, &wanted) else { return Ok(Done::Nothing) };
        if changed["roleRef"] != found["roleRef"] {
            // A binding's role cannot be changed: it is made anew.
            self.send(Method::DELETE, &place.object(name), None).await?;
            return self.create(&place, wanted).await;
        }
        self.send(Method::PUT, &place.object(name), Some(&changed)).await?;
        Ok(Done::Updated)
    }

    async fn create(&self, place: &Place, wanted: Value) -> Result<Done, BootstrapError> {
        let name = wanted.str_at(&["metadata", "name"]).to_owned();
        let path = match place.group.as_str() {
            "flowcontrol.apiserver.k8s.io" => {
                format!("{}?fieldManager={FLOW_CONTROL_MANAGER}", place.path)
            }
            _ => place.path.clone(),
        };
        if self.send(Method::POST, &path, Some(&wanted)).await?.is_none() {
            return Ok(Done::Nothing);
        }
        if wanted.get("status").is_some() {
            let path = place.object(&name);
            self.apply_status(&path, RANGE_MANAGER, &wanted).await?;
        }
        Ok(Done::Created)
    }

    /// Applies the status of an object as a manager of its own, who wins.
    pub(crate) async fn apply_status(
        &self,
        path: &str,
        manager: &str,
        object: &Value,
    ) -> Result<Option<Value>, BootstrapError> {
        let mut told = Value::object();
        for member in ["apiVersion", "kind", "status"] {
            told.set_at(&[member], object[member].clone());
        }
        told.set_at(&["metadata", "name"], object["metadata"]["name"].clone());
        let path = format!("{path}/status?fieldManager={manager}&force=true");
        self.send(Method::PATCH, &path, Some(&told)).await
    }

    /// The answer's object; `None` where another server was faster.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Option<Value>, BootstrapError> {
        let error = |message: String| BootstrapError {
            verb: method.clone(),
            path: path.to_owned(),
            message,
        };
        let bytes = body.map(|it| Bytes::from(json::to_vec(it))).unwrap_or_default();
        let media = if method == Method::PATCH {
            "application/apply-patch+yaml"
        } else {
            "application/json"
        };
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(http::header::CONTENT_TYPE, media)
            .header(http::header::USER_AGENT, AGENT)
            .body(RequestBody::Bytes(bytes))
            .map_err(|broken| error(broken.to_string()))?;
        let peer = Peer { user: Some(Arc::clone(&self.user)), ..Peer::default() };
        // Boxed: a request of the server's own may be part of another one.
        let response = Box::pin(self.server.serve(request, peer)).await;
        let code = response.status().as_u16();
        let Body::Full(Some(bytes)) = response.into_body() else {
            return Err(error("the answer is no object".into()));
        };
        let answer = json::parse(&bytes).map_err(|broken| error(broken.to_string()))?;
        match code {
            200..300 => Ok(Some(answer)),
            409 => Ok(None),
            _ => Err(error(answer.str_at(&["message"]).into())),
        }
    }
}

/// Where objects of a kind lie.
struct Place {
    group: String,
    resource: String,
    path: String,
}

impl Place {
    fn of(object: &Value) -> Self {
        let api_version = object.str_at(&["apiVersion"]);
        let kind = object.str_at(&["kind"]);
        let (group, root) = match api_version.split_once('/') {
            Some((group, _)) => (group, format!("/apis/{api_version}")),
            None => ("", format!("/api/{api_version}")),
        };
        let facts = api::all_resources()
            .find(|it| it.group == group && it.kind == kind && it.api_version() == api_version);
        let resource = facts.map_or("", |it| it.resource);
        let path = match object.str_at(&["metadata", "namespace"]) {
            "" => format!("{root}/{resource}"),
            namespace => format!("{root}/namespaces/{namespace}/{resource}"),
        };
        Self { group: group.into(), resource: resource.into(), path }
    }

    fn object(&self, name: &str) -> String {
        // Roles have colons in their names, which a path may hold as they are.
        format!("{}/{name}", self.path)
    }
}

/// Whether a range of another family comes beside the one that is there; anything else people have to do.
fn gets_a_second_family(found: &Value, wanted: &Value) -> bool {
    let ranges = |it: &Value| it.items_at(&["spec", "cidrs"]).to_vec();
    let (now, both) = (ranges(found), ranges(wanted));
    now.len() == 1 && both.len() == 2 && now[0] == both[0]
}

/// The object with what it lacks; `None` where it lacks nothing, or is not to be touched.
fn completed(found: &Value, wanted: &Value) -> Option<Value> {
    let mut changed = found.clone();
    match wanted.str_at(&["kind"]) {
        "ClusterRole" | "Role" | "ClusterRoleBinding" | "RoleBinding" => {
            if found.str_at(&["metadata", "annotations", AUTOUPDATE]) != "true" {
                return None;
            }
            add_metadata(&mut changed, wanted);
            add_rules(&mut changed, wanted);
            add_subjects(&mut changed, wanted);
            let differs =
                |role: &&Value| ["kind", "name"].iter().any(|it| found["roleRef"][it] != role[it]);
            if let Some(role) = wanted.get("roleRef").filter(differs) {
                changed.set_at(&["roleRef"], role.clone());
            }
        }
        "FlowSchema" | "PriorityLevelConfiguration" => {
            let name = found.str_at(&["metadata", "name"]);
            let untouched = || found.i64_at(&["metadata", "generation"]) == Some(1);
            let follows = MANDATORY_FLOWS.contains(&name)
                || match found.str_at(&["metadata", "annotations", AUTOUPDATE_SPEC]) {
                    "true" => true,
                    "false" => false,
                    // Nobody has said anything: whoever has changed it means what it says.
                    _ => untouched(),
                };
            changed.set_at(&["metadata", "annotations", AUTOUPDATE_SPEC], follows.to_string());
            if follows {
                changed.set_at(&["spec"], wanted["spec"].clone());
            }
        }
        "ConfigMap" if wanted.str_at(&["metadata", "name"]) == AUTHENTICATION => {
            for (key, value) in wanted["data"].as_object().into_iter().flat_map(|it| it.iter()) {
                changed.set_at(&["data", key], value.clone());
            }
        }
        "ServiceCIDR" if gets_a_second_family(found, wanted) => {
            changed.set_at(&["spec", "cidrs"], wanted["spec"]["cidrs"].clone());
        }
        "EndpointSlice" => {
            for member in ["endpoints", "ports"] {
                changed.set_at(&[member], wanted[member].clone());
            }
            // The server writes defaults into the stored object, which are not told here.
            let told = |it: &Value| {
                let address = first(&it["endpoints"])["addresses"].clone();
                (address, first(&it["ports"])["port"].clone())
            };
            if told(found) == told(wanted) {
                return None;
            }
        }
        "Endpoints" => {
            let told = |it: &Value| {
                let subset = first(&it["subsets"]);
                let address = first(&subset["addresses"])["ip"].clone();
                (address, first(&subset["ports"])["port"].clone())
            };
            if told(found) == told(wanted) {
                return None;
            }
            changed.set_at(&["subsets"], wanted["subsets"].clone());
        }
        "ConfigMap" => {
            // What other servers or people wrote beside it stays.
            let authority = &wanted["data"]["client-ca-file"];
            if authority.is_null() {
                return None;
            }
            changed.set_at(&["data", "client-ca-file"], authority.clone());
        }
        _ => return None,
    }
    (changed != *found).then_some(changed)
}

/// The first item of a list, or null.
fn first(list: &Value) -> &Value {
    list.as_array().and_then(<[Value]>::first).unwrap_or(&Value::Null)
}

fn add_metadata(changed: &mut Value, wanted: &Value) {
    for member in ["labels", "annotations"] {
        let Some(entries) = wanted["metadata"][member].as_object() else { continue };
        for (key, value) in entries.iter() {
            changed.default_at(&["metadata", member, key], value.clone());
        }
    }
}

fn add_rules(changed: &mut Value, wanted: &Value) {
    if wanted.get("rules").is_none() {
        return;
    }
    let missing = missing(&Rule::all_of(changed), &Rule::all_of(wanted));
    if missing.is_empty() {
        return;
    }
    let mut rules = changed.items_at(&["rules"]).to_vec();
    rules.extend(missing.iter().map(Rule::to_value));
    changed.set_at(&["rules"], rules);
}

fn add_subjects(changed: &mut Value, wanted: &Value) {
    let mut subjects = changed.items_at(&["subjects"]).to_vec();
    let same = |a: &Value, b: &Value| {
        ["kind", "name", "namespace"]
            .iter()
            .all(|member| a.str_at(&[member]) == b.str_at(&[member]))
    };
    let before = subjects.len();
    for subject in wanted.items_at(&["subjects"]) {
        if !subjects.iter().any(|it| same(it, subject)) {
            subjects.push(subject.clone());
        }
    }
    if subjects.len() > before {
        changed.set_at(&["subjects"], subjects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: &str, wanted: &str, expected: Option<&str>) {
        let parse = |text: &str| json::parse(text.as_bytes()).unwrap();
        let changed = completed(&parse(found), &parse(wanted));
        assert_eq!(changed, expected.map(parse), "{found}");
    }

    #[test]
    fn roles_get_back_what_they_lack_and_keep_what_was_added() {
        let wanted = r#"{"kind":"ClusterRole","metadata":{"name":"r","labels":{"l":"1"}},
            "rules":[{"verbs":["get","list"],"apiGroups":[""],"resources":["pods"]}]}"#;
        check(
            r#"{"kind":"ClusterRole","metadata":{"name":"r","annotations":{"rbac.authorization.kubernetes.io/autoupdate":"true"},"labels":{"own":"2"}},
            "rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]},{"verbs":["*"],"apiGroups":["own"],"resources":["*"]}]}"#,
            wanted,
            Some(
                r#"{"kind":"ClusterRole","metadata":{"name":"r","annotations":{"rbac.authorization.kubernetes.io/autoupdate":"true"},"labels":{"own":"2","l":"1"}},
            "rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]},{"verbs":["*"],"apiGroups":["own"],"resources":["*"]},
            {"verbs":["list"],"apiGroups":[""],"resources":["pods"]}]}"#,
            ),
        );
        let protected = r#"{"kind":"ClusterRole","metadata":{"name":"r","annotations":{"rbac.authorization.kubernetes.io/autoupdate":"false"}},"rules":[]}"#;
        check(protected, wanted, None);
    }

    #[test]
    fn bindings_get_back_their_subjects() {
        let wanted = r#"{"kind":"RoleBinding","metadata":{},"roleRef":{"kind":"Role","name":"r"},"subjects":[{"kind":"User","name":"a"}]}"#;
        let annotations = r#""annotations":{"rbac.authorization.kubernetes.io/autoupdate":"true"}"#;
        let with = |role: &str, subjects: &str| {
            format!(
                r#"{{"kind":"RoleBinding","metadata":{{{annotations}}},"roleRef":{{"kind":"Role","name":"{role}"}},"subjects":[{subjects}]}}"#
            )
        };
        let (a, b) = (r#"{"kind":"User","name":"a"}"#, r#"{"kind":"User","name":"b"}"#);
        check(&with("r", b), wanted, Some(&with("r", &format!("{b},{a}"))));
        check(&with("r", a), wanted, None);
        check(&with("other", a), wanted, Some(&with("r", a)));
    }
}
