//! The plugins, one table each.

use apimachinery::json;
use auth::fixed::FixedObjects;
use auth::objects::Feed;
use component_base::SeededRandom;

use super::*;

mod switched;

/// Objects in memory as admission sees them.
#[derive(Debug)]
pub(crate) struct Fixed(pub(crate) FixedObjects);

#[async_trait]
impl auth::Objects for Fixed {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Obj>> {
        self.0.get(group, resource, namespace, name)
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Obj>> {
        self.0.list(group, resource, namespace)
    }

    fn feed(&self, group: &str, resource: &str) -> Option<Box<dyn Feed>> {
        self.0.feed(group, resource)
    }

    async fn get_live(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Obj>>, Status> {
        self.0.get_live(group, resource, namespace, name).await
    }
}

#[async_trait]
impl Objects for Fixed {
    async fn compare_and_set_status(
        &self,
        group: &str,
        resource: &str,
        value: Value,
    ) -> Result<bool, Status> {
        let (namespace, name) =
            (value.str_at(&["metadata", "namespace"]), value.str_at(&["metadata", "name"]));
        let found = auth::Objects::get(&self.0, group, resource, namespace, name);
        let version = value.str_at(&["metadata", "resourceVersion"]);
        let same = found.is_some_and(|it| it.resource_version.to_string() == version);
        if same {
            self.0.put(group, resource, &value);
        }
        Ok(same)
    }

    fn resource_of_kind(
        &self,
        group: &str,
        version: &str,
        kind: &str,
    ) -> Option<&'static api::ResourceFacts> {
        let mut all = api::all_resources();
        all.find(|it| it.group == group && it.version == version && it.kind == kind)
    }

    async fn in_version(
        &self,
        object: &Obj,
        _version: &'static api::ResourceFacts,
    ) -> Result<Arc<Value>, String> {
        object.value().map_err(|error| error.to_string())
    }
}

/// A write.
pub(crate) struct Case {
    operation: Operation,
    group: String,
    resource: String,
    subresource: String,
    name: String,
    object: Value,
    pub(crate) old: Option<Value>,
    warnings: Vec<String>,
    annotations: Annotations,
    reinvocation: Reinvocation,
    waited: Duration,
}

/// A request that says nothing of itself.
#[derive(Debug)]
struct Silent;

#[async_trait]
impl Context for Silent {
    fn options(&self) -> Value {
        Value::Null
    }

    fn versions(&self) -> Vec<&'static api::ResourceFacts> {
        Vec::new()
    }

    fn kind(&self, version: &'static api::ResourceFacts) -> context::Kind<'static> {
        context::Kind { group: version.group, version: version.version, kind: version.kind }
    }

    async fn to_version(
        &self,
        _object: &Value,
        _version: &'static api::ResourceFacts,
    ) -> Result<Option<Value>, Status> {
        Ok(None)
    }

    async fn take_version(
        &self,
        object: Value,
        _version: &'static api::ResourceFacts,
        _base: &Value,
        _strictly: bool,
    ) -> Result<Value, Status> {
        Ok(object)
    }

    async fn create_namespace(&self, name: &str) -> Result<(), Status> {
        Err(Status::internal(format!("{name} was to be made")))
    }

    fn merge(
        &self,
        _object: &Value,
        _configuration: &Value,
        _version: &'static api::ResourceFacts,
    ) -> Result<Value, String> {
        Err("nothing is served".into())
    }
}

impl Case {
    pub(crate) fn new(operation: Operation, path: &str, object: Value) -> Self {
        let mut parts = path.split('/');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        let resource = next();
        let (resource, group) = resource.split_once('.').unwrap_or((&resource, ""));
        Self {
            operation,
            group: group.into(),
            resource: resource.into(),
            subresource: next(),
            name: object.str_at(&["metadata", "name"]).into(),
            object,
            old: None,
            warnings: Vec::new(),
            annotations: Annotations::new(),
            reinvocation: Reinvocation::default(),
            waited: Duration::ZERO,
        }
    }

    pub(crate) fn object_mut(&mut self) -> &mut Value {
        &mut self.object
    }

    pub(crate) fn attributes<'r>(&'r mut self, user: &'r UserInfo) -> Attributes<'r> {
        let cluster_wide =
            ["nodes", "namespaces", "priorityclasses", "csinodes"].contains(&&*self.resource);
        Attributes {
            operation: self.operation,
            group: &self.group,
            version: "v1",
            resource: &self.resource,
            subresource: &self.subresource,
            kind: "Any",
            namespace: if cluster_wide { "" } else { "ns" },
            name: &self.name,
            user,
            object: &mut self.object,
            old: self.old.as_ref(),
            dry_run: false,
            warnings: &mut self.warnings,
            annotations: &mut self.annotations,
            reinvocation: &mut self.reinvocation,
            waited: &mut self.waited,
            context: &Silent,
        }
    }
}

fn parse(text: &str) -> Value {
    json::parse(text.as_bytes()).unwrap()
}

fn cluster() -> FixedObjects {
    let objects = FixedObjects::default();
    for (group, resource, text) in [
        ("", "namespaces", r#"{"metadata":{"name":"ns"},"status":{"phase":"Active"}}"#),
        (
            "",
            "serviceaccounts",
            r#"{"metadata":{"name":"default","namespace":"ns"},"imagePullSecrets":[{"name":"pull"}]}"#,
        ),
        (
            "",
            "serviceaccounts",
            r#"{"metadata":{"name":"quiet","namespace":"ns"},"automountServiceAccountToken":false}"#,
        ),
        (
            "scheduling.k8s.io",
            "priorityclasses",
            r#"{"metadata":{"name":"high"},"value":9,"preemptionPolicy":"Never"}"#,
        ),
        (
            "node.k8s.io",
            "runtimeclasses",
            r#"{"metadata":{"name":"sandbox"},"overhead":{"podFixed":{"cpu":"1"}},"scheduling":{"nodeSelector":{"a":"b"}}}"#,
        ),
        (
            "",
            "nodes",
            r#"{"metadata":{"name":"n1","labels":{"topology.kubernetes.io/zone":"z1","x":"y"}}}"#,
        ),
        (
            "",
            "pods",
            r#"{"metadata":{"name":"mine","namespace":"ns","uid":"u"},"spec":{"nodeName":"n1"}}"#,
        ),
        (
            "",
            "pods",
            r#"{"metadata":{"name":"theirs","namespace":"ns","uid":"v"},"spec":{"nodeName":"n2"}}"#,
        ),
    ] {
        let mut value = parse(text);
        value.set_at(&["kind"], "Any");
        value.set_at(&["apiVersion"], "v1");
        objects.put(group, resource, &value);
    }
    objects
}

/// Sends a write through one plugin; the object afterwards, or the refusal.
async fn run(plugin: &dyn Plugin, user: &UserInfo, case: &mut Case) -> String {
    let mut attributes = case.attributes(user);
    if !plugin.handles(&attributes) {
        return "not handled".into();
    }
    let mut result = plugin.mutate(&mut attributes).await;
    if result.is_ok() {
        result = plugin.validate(&mut attributes).await;
    }
    match result {
        Ok(()) => json::to_string(&case.object),
        Err(status) => status.message,
    }
}

async fn create(plugin: &dyn Plugin, path: &str, object: &str) -> String {
    let mut case = Case::new(Operation::Create, path, parse(object));
    run(plugin, &UserInfo::new("jane", &[]), &mut case).await
}

fn objects() -> Arc<dyn Objects> {
    Arc::new(Fixed(cluster()))
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_is_going_or_not_there() {
    let objects = cluster();
    let plugin = namespace_lifecycle::NamespaceLifecycle::new(Arc::new(Fixed(objects.clone())));
    let map = r#"{"metadata":{"name":"m"}}"#;
    assert_eq!(create(&plugin, "configmaps", map).await, map);
    let mut going = parse(r#"{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"ns"}}"#);
    going.set_at(&["status", "phase"], "Terminating");
    objects.put("", "namespaces", &going);
    assert_eq!(
        create(&plugin, "configmaps", map).await,
        "configmaps \"m\" is forbidden: unable to create new content in namespace ns because it is being terminated"
    );
    objects.delete("", "namespaces", "", "ns");
    assert_eq!(create(&plugin, "configmaps", map).await, "namespaces \"ns\" not found");
    let mut delete =
        Case::new(Operation::Delete, "namespaces", parse(r#"{"metadata":{"name":"default"}}"#));
    assert_eq!(
        run(&plugin, &UserInfo::default(), &mut delete).await,
        "namespaces \"default\" is forbidden: this namespace may not be deleted"
    );
}

/// A plugin that takes so long to judge that the namespace is on its way out meanwhile.
#[derive(Debug)]
struct Slow(FixedObjects);

#[async_trait]
impl Plugin for Slow {
    fn name(&self) -> &'static str {
        "Slow"
    }

    fn handles(&self, _attributes: &Attributes<'_>) -> bool {
        true
    }

    async fn validate(&self, _attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let going = r#"{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"ns"},"status":{"phase":"Terminating"}}"#;
        self.0.put("", "namespaces", &parse(going));
        Ok(())
    }
}

#[tokio::test]
async fn a_namespace_that_went_while_others_judged_takes_nothing() {
    let objects = cluster();
    let fixed = Arc::new(Fixed(objects.clone()));
    let namespaces = Arc::new(namespace_lifecycle::NamespaceLifecycle::new(fixed));
    let plugins: [Arc<dyn Plugin>; 2] =
        [Arc::clone(&namespaces) as Arc<dyn Plugin>, Arc::new(Slow(objects))];
    let placed = plugins.map(|plugin| Placed { plugin, timers: Arc::default() });
    let chain = Chain { plugins: placed.into(), namespaces: Some(namespaces), ..Chain::default() };
    let map = parse(r#"{"metadata":{"name":"m"}}"#);
    let mut case = Case::new(Operation::Create, "configmaps", map);
    let user = UserInfo::new("jane", &[]);
    let mut attributes = case.attributes(&user);
    chain.mutate(&mut attributes).await.unwrap();
    let refused = chain.validate(&mut attributes).await.unwrap_err();
    assert!(refused.message.contains("because it is being terminated"), "{}", refused.message);
}

#[tokio::test]
async fn pods_run_as_an_account_and_get_its_token() {
    let plugin = service_account::ServiceAccount::new(objects(), Arc::new(SeededRandom::new(1)));
    let pod = create(
        &plugin,
        "pods",
        r#"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c"}]}}"#,
    )
    .await;
    let pod = parse(&pod);
    assert_eq!(pod.str_at(&["spec", "serviceAccount"]), "default");
    let volume = &pod["spec"]["volumes"].as_array().unwrap()[0];
    let name = volume.str_at(&["name"]);
    assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
    assert_eq!(
        json::to_string(&volume["projected"]),
        r#"{"defaultMode":420,"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}},{"configMap":{"items":[{"key":"ca.crt","path":"ca.crt"}],"name":"kube-root-ca.crt"}},{"downwardAPI":{"items":[{"fieldRef":{"apiVersion":"v1","fieldPath":"metadata.namespace"},"path":"namespace"}]}}]}"#
    );
    let container = &pod.items_at(&["spec", "containers"])[0];
    assert_eq!(container.items_at(&["volumeMounts"])[0].str_at(&["name"]), name);
    assert_eq!(pod.items_at(&["spec", "imagePullSecrets"])[0].str_at(&["name"]), "pull");

    let quiet = r#"{"metadata":{"name":"p"},"spec":{"serviceAccountName":"quiet","containers":[{"name":"c"}]}}"#;
    assert!(!create(&plugin, "pods", quiet).await.contains("kube-api-access"));
    let none = quiet.replace("quiet", "none");
    assert_eq!(
        create(&plugin, "pods", &none).await,
        "pods \"p\" is forbidden: error looking up service account ns/none: serviceaccount \"none\" not found"
    );
    let generated = none.replace(r#""name":"p""#, r#""generateName":"p-""#);
    assert!(create(&plugin, "pods", &generated).await.starts_with("pods \"p-\" is forbidden"));
}

#[tokio::test]
async fn a_mirror_pod_names_neither_accounts_nor_secrets() {
    let plugin = service_account::ServiceAccount::new(objects(), Arc::new(SeededRandom::new(1)));
    let check = async |spec: &str, expected: &str| {
        let pod = format!(
            r#"{{"metadata":{{"annotations":{{"kubernetes.io/config.mirror":"h"}},"name":"p"}},"spec":{{{spec}}}}}"#
        );
        let expected = match expected {
            "" => pod.clone(),
            why => format!("pods \"p\" is forbidden: {why}"),
        };
        assert_eq!(create(&plugin, "pods", &pod).await, expected, "{spec}");
    };
    check("", "").await;
    let why = "a mirror pod may not reference service accounts";
    check(r#""serviceAccountName":"default""#, why).await;
    let why = "a mirror pod may not reference secrets";
    for spec in [
        r#""imagePullSecrets":[{"name":"s"}]"#,
        r#""containers":[{"envFrom":[{"secretRef":{"name":"s"}}]}]"#,
        r#""initContainers":[{"env":[{"valueFrom":{"secretKeyRef":{"name":"s"}}}]}]"#,
        r#""volumes":[{"secret":{"secretName":"s"}}]"#,
        r#""volumes":[{"csi":{"nodePublishSecretRef":{"name":"s"}}}]"#,
    ] {
        check(spec, why).await;
    }
    let why = "a mirror pod may not use ServiceAccountToken volume projections";
    check(r#""volumes":[{"projected":{"sources":[{"serviceAccountToken":{}}]}}]"#, why).await;
}

/// What pods say that use a secret, and why they may not where their account does not list it.
fn uses_of_secrets() -> Vec<(&'static str, String, String)> {
    let refused = |what: &str, of: &str| {
        format!("{what} is not allowed because service account strict does not reference that {of}")
    };
    let of_secret = |what: &str| refused(&format!("{what} secret.secretName=\"SECRET\""), "secret");
    let volume = r#""volumes":[{"secret":{"secretName":"SECRET"}}]"#.to_owned();
    let pull = r#""imagePullSecrets":[{"name":"pull"},{"name":"SECRET"}]"#.to_owned();
    let why = refused("imagePullSecrets[1].name=\"SECRET\"", "imagePullSecret");
    let mut all = vec![("", volume, of_secret("volume with")), ("", pull, why)];
    let env =
        r#"[{"name":"c","env":[{"name":"E","valueFrom":{"secretKeyRef":{"name":"SECRET"}}}]}]"#;
    let env_from = r#"[{"name":"c","envFrom":[{"secretRef":{"name":"SECRET"}}]}]"#;
    for (list, word, part) in [
        ("initContainers", "init container", ""),
        ("containers", "container", ""),
        ("ephemeralContainers", "ephemeral container", "/ephemeralcontainers"),
    ] {
        for (containers, how) in [(env, "envVar E"), (env_from, "envFrom")] {
            let why = of_secret(&format!("{word} c with {how} referencing"));
            all.push((part, format!(r#""{list}":{containers}"#), why));
        }
    }
    all
}

#[tokio::test]
async fn pods_use_no_secrets_but_their_account_s_where_it_says_so() {
    let objects = cluster();
    for (name, said) in [("strict", "true"), ("lax", "false")] {
        let mut account = parse(
            r#"{"kind":"ServiceAccount","apiVersion":"v1","metadata":{"namespace":"ns"},"automountServiceAccountToken":false,
                "secrets":[{"name":"own"}],"imagePullSecrets":[{"name":"pull"}]}"#,
        );
        account.set_at(&["metadata", "name"], name);
        let annotation = ["metadata", "annotations", "kubernetes.io/enforce-mountable-secrets"];
        account.set_at(&annotation, said);
        objects.put("", "serviceaccounts", &account);
    }
    let objects = Arc::new(Fixed(objects));
    let plugin = service_account::ServiceAccount::new(objects, Arc::new(SeededRandom::new(1)));
    let tell = async |part: &str, spec: &str| {
        let pod = parse(&format!(r#"{{"metadata":{{"name":"p"}},"spec":{spec}}}"#));
        let operation = if part.is_empty() { Operation::Create } else { Operation::Update };
        let mut case = Case::new(operation, &format!("pods{part}"), pod);
        run(&plugin, &UserInfo::new("jane", &[]), &mut case).await
    };
    for (part, spec, why) in uses_of_secrets() {
        let own = if spec.contains("imagePullSecrets") { "pull" } else { "own" };
        for (account, secret, good) in
            [("strict", own, true), ("lax", "other", true), ("strict", "other", false)]
        {
            let spec = spec.replace("SECRET", secret);
            let spec = format!(r#"{{"serviceAccountName":"{account}",{spec}}}"#);
            let told = tell(part, &spec).await;
            let why = format!("pods \"p\" is forbidden: {}", why.replace("SECRET", secret));
            assert_eq!(told.starts_with('{'), good, "{spec}: {told}");
            assert!(good || told == why, "{told} is not {why}");
        }
    }
    let why = "pods \"p\" is forbidden: no service account specified for pod ns/p";
    assert_eq!(tell("/ephemeralcontainers", "{}").await, why);
}

#[tokio::test]
async fn classes_become_numbers_and_tolerations_have_defaults() {
    let priority = priority::Priority::new(objects());
    let with = |spec: &str| format!(r#"{{"metadata":{{"name":"p"}},"spec":{spec}}}"#);
    for (spec, expected) in [
        ("{}", with(r#"{"preemptionPolicy":"PreemptLowerPriority","priority":0}"#)),
        (
            r#"{"priorityClassName":"high"}"#,
            with(r#"{"preemptionPolicy":"Never","priority":9,"priorityClassName":"high"}"#),
        ),
        (
            r#"{"priorityClassName":"none"}"#,
            "pods \"p\" is forbidden: no PriorityClass with name none was found".into(),
        ),
        (
            r#"{"priority":5}"#,
            "pods \"p\" is forbidden: the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name".into(),
        ),
    ] {
        assert_eq!(create(&priority, "pods", &with(spec)).await, expected, "{spec}");
    }
    let tolerations = DefaultTolerationSeconds::default();
    let own = r#"{"tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists"}]}"#;
    let pod = parse(&create(&tolerations, "pods", &with(own)).await);
    assert_eq!(pod.items_at(&["spec", "tolerations"]).len(), 2);
    let pod = parse(&create(&tolerations, "pods", &with("{}")).await);
    assert_eq!(pod.items_at(&["spec", "tolerations"])[1].i64_at(&["tolerationSeconds"]), Some(300));
    let runtime = runtime_class::RuntimeClass::new(objects());
    let sandbox =
        parse(&create(&runtime, "pods", &with(r#"{"runtimeClassName":"sandbox"}"#)).await);
    assert_eq!(sandbox.str_at(&["spec", "overhead", "cpu"]), "1");
    assert_eq!(sandbox.str_at(&["spec", "nodeSelector", "a"]), "b");
    assert_eq!(
        create(&runtime, "pods", &with(r#"{"runtimeClassName":"no"}"#)).await,
        "pods \"p\" is forbidden: pod rejected: RuntimeClass \"no\" not found"
    );
}

#[tokio::test]
async fn limit_ranges_set_defaults_and_bound_what_is_asked() {
    let check = async |limit: &str, resources: &str, expected: &str| {
        let objects = cluster();
        let range = format!(
            r#"{{"kind":"LimitRange","apiVersion":"v1","metadata":{{"name":"l","namespace":"ns"}},"spec":{{"limits":[{limit}]}}}}"#
        );
        objects.put("", "limitranges", &parse(&range));
        let plugin = limit_ranger::LimitRanger::new(Arc::new(Fixed(objects)));
        let pod = format!(
            r#"{{"metadata":{{"name":"p"}},"spec":{{"containers":[{{"name":"c","resources":{resources}}}]}}}}"#
        );
        let answer = create(&plugin, "pods", &pod).await;
        assert!(answer.contains(expected), "{answer} for {limit} and {resources}");
    };
    let cpu = |amount: &str| {
        format!(r#"{{"requests":{{"cpu":"{amount}"}},"limits":{{"cpu":"{amount}"}}}}"#)
    };
    check(
        r#"{"type":"Container","default":{"cpu":"1"},"defaultRequest":{"cpu":"500m"}}"#,
        "{}",
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c",
    )
    .await;
    let min = r#"{"type":"Container","min":{"cpu":"100m"}}"#;
    check(min, &cpu("50m"), "minimum cpu usage per Container is 100m, but request is 50m").await;
    check(min, "{}", "minimum cpu usage per Container is 100m.  No request is specified").await;
    let max = r#"{"type":"Pod","max":{"cpu":"1"}}"#;
    check(max, &cpu("2"), "maximum cpu usage per Pod is 1, but limit is 2").await;
    check(max, "{}", "maximum cpu usage per Pod is 1.  No limit is specified").await;
    check(max, &cpu("1"), r#""cpu":"1""#).await;
    check(
        r#"{"type":"Container","maxLimitRequestRatio":{"cpu":"2"}}"#,
        r#"{"requests":{"cpu":"100m"},"limits":{"cpu":"300m"}}"#,
        "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
    )
    .await;
}

#[tokio::test]
async fn nobody_gives_what_they_do_not_have() {
    let objects = cluster();
    let rbac = |resource: &str, text: &str| {
        let mut value = parse(text);
        value.set_at(&["kind"], "Any");
        value.set_at(&["apiVersion"], "v1");
        objects.put(auth::rbac::GROUP, resource, &value);
    };
    rbac(
        "roles",
        r#"{"metadata":{"name":"reader","namespace":"ns"},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}]}"#,
    );
    rbac(
        "roles",
        r#"{"metadata":{"name":"secrets","namespace":"ns"},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["secrets"]}]}"#,
    );
    rbac(
        "rolebindings",
        r#"{"metadata":{"name":"b","namespace":"ns"},"roleRef":{"kind":"Role","name":"reader"},"subjects":[{"kind":"User","name":"jane"}]}"#,
    );
    let rbac = Arc::new(Rbac::new(&objects));
    let plugin = escalation::RoleEscalation::new(Arc::clone(&rbac), rbac);
    let role = |resource: &str| {
        format!(
            r#"{{"metadata":{{"name":"r"}},"rules":[{{"verbs":["get"],"apiGroups":[""],"resources":["{resource}"]}}]}}"#
        )
    };
    let roles = "roles.rbac.authorization.k8s.io";
    assert!(create(&plugin, roles, &role("pods")).await.starts_with('{'));
    assert_eq!(
        create(&plugin, roles, &role("secrets")).await,
        "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"
    );
    let binding = |role: &str| {
        format!(
            r#"{{"metadata":{{"name":"x"}},"roleRef":{{"kind":"Role","name":"{role}"}},"subjects":[]}}"#
        )
    };
    let bindings = "rolebindings.rbac.authorization.k8s.io";
    assert!(create(&plugin, bindings, &binding("reader")).await.starts_with('{'));
    assert!(create(&plugin, bindings, &binding("secrets")).await.contains("not currently held"));
    assert_eq!(
        create(&plugin, bindings, &binding("none")).await,
        "roles.rbac.authorization.k8s.io \"none\" not found"
    );
}

#[tokio::test]
async fn claims_grow_where_their_class_lets_them() {
    let objects = cluster();
    let class = r#"{"kind":"StorageClass","apiVersion":"v1","metadata":{"name":"elastic"},"allowVolumeExpansion":true}"#;
    objects.put("storage.k8s.io", "storageclasses", &parse(class));
    let plugin = claim_resize::ClaimResize::new(Arc::new(Fixed(objects)));
    let claim = |class: &str, size: &str| {
        parse(&format!(
            r#"{{"metadata":{{"name":"c"}},"spec":{{"storageClassName":"{class}","resources":{{"requests":{{"storage":"{size}"}}}}}},"status":{{"phase":"Bound"}}}}"#
        ))
    };
    for (class, size, good) in
        [("elastic", "2Gi", true), ("stiff", "2Gi", false), ("stiff", "1Gi", true)]
    {
        let mut case = Case::new(Operation::Update, "persistentvolumeclaims", claim(class, size));
        case.old = Some(claim(class, "1Gi"));
        let answer = run(&plugin, &UserInfo::default(), &mut case).await;
        assert_eq!(answer.starts_with('{'), good, "{class} {size}: {answer}");
    }
}

#[tokio::test]
async fn pods_know_their_node_s_zone_from_when_they_are_bound() {
    let plugin = pod_topology_labels::PodTopologyLabels::new(objects());
    let check = async |path: &str, object: &str, expected: &str| {
        assert_eq!(create(&plugin, path, object).await, expected, "{path} {object}");
    };
    let labels = r#""metadata":{"labels":{"topology.kubernetes.io/zone":"z1"}}"#;
    let binding = r#"{"target":{"name":"n1"}}"#;
    check("pods/binding", binding, &format!(r#"{{{labels},"target":{{"name":"n1"}}}}"#)).await;
    let unknown = r#"{"target":{"name":"n9"}}"#;
    check("pods/binding", unknown, unknown).await;
    let pod = r#"{"spec":{"nodeName":"n1"}}"#;
    check("pods", pod, &format!(r#"{{{labels},"spec":{{"nodeName":"n1"}}}}"#)).await;
    check("pods", r#"{"spec":{}}"#, r#"{"spec":{}}"#).await;
    check("pods/eviction", "{}", "not handled").await;
}
