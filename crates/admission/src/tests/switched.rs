//! The plugins that are off unless somebody asks for them, one table each.

use std::time::Duration;

use apimachinery::value;
use auth::Decision;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Lets users do what it has: `update deployments/finalizers d`.
#[derive(Debug)]
struct Only(&'static [&'static str]);

impl Authorizer for Only {
    fn decide(&self, asked: &auth::Attributes<'_>) -> Option<Decision> {
        let slash = if asked.subresource.is_empty() { "" } else { "/" };
        let text =
            format!("{} {}{slash}{} {}", asked.verb, asked.resource, asked.subresource, asked.name);
        Some(if self.0.contains(&text.as_str()) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion("no".into())
        })
    }

    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Result<auth::Rules, Status> {
        Ok(auth::Rules::default())
    }
}

async fn update(plugin: &dyn Plugin, path: &str, old: &str, object: &str) -> String {
    let mut case = Case::new(Operation::Update, path, parse(object));
    case.old = Some(parse(old));
    run(plugin, &UserInfo::new("jane", &[]), &mut case).await
}

/// An object whose `spec` is this.
fn with(spec: &str) -> String {
    format!(r#"{{"metadata":{{"name":"p"}},"spec":{spec}}}"#)
}

fn configured(plugin: &str, configuration: &str) -> Result<AdmissionConfiguration, String> {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n\
         - {{name: {plugin}, configuration: {configuration}}}"
    );
    AdmissionConfiguration::parse(text.as_bytes(), |file| Err(format!("{file} is not there")))
}

fn in_namespace(annotations: &str) -> Arc<dyn Objects> {
    let objects = FixedObjects::default();
    let text = format!(
        r#"{{"kind":"Namespace","apiVersion":"v1","metadata":{{"name":"ns","annotations":{annotations}}}}}"#
    );
    objects.put("", "namespaces", &parse(&text));
    Arc::new(Fixed(objects))
}

#[tokio::test]
async fn images_are_pulled_each_time() {
    let plugin = always_pull_images::AlwaysPullImages;
    let pod = with(
        r#"{"containers":[{"image":"a","imagePullPolicy":"Never"}],"volumes":[{"image":{"reference":"v"}},{"emptyDir":{}}]}"#,
    );
    let pulled = with(
        r#"{"containers":[{"image":"a","imagePullPolicy":"Always"}],"volumes":[{"image":{"pullPolicy":"Always","reference":"v"}},{"emptyDir":{}}]}"#,
    );
    assert_eq!(create(&plugin, "pods", &pod).await, pulled);
    assert_eq!(update(&plugin, "pods", &pod, &pod).await, "not handled");
    let old = pod.replace(r#""image":"a""#, r#""image":"b""#);
    assert_eq!(update(&plugin, "pods", &old, &pod).await, pulled);
    let mut case = Case::new(Operation::Create, "pods", parse(&pod));
    let user = UserInfo::default();
    let refused = plugin.validate(&mut case.attributes(&user)).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (
            500,
            r#"[pods "p" is forbidden: spec.containers[0].imagePullPolicy: Unsupported value: "Never": supported values: "Always", pods "p" is forbidden: spec.volumes[0].image.pullPolicy: Unsupported value: "": supported values: "Always"]"#
        )
    );
}

#[tokio::test]
async fn services_get_no_external_ips() {
    let plugin = deny_external_ips::DenyServiceExternalIps;
    let of = |list: &str| with(&format!(r#"{{"externalIPs":[{list}]}}"#));
    let refused = "services \"p\" is forbidden: Use of external IPs is denied by admission control";
    let (none, one, two) = (of(""), of(r#""1.1.1.1""#), of(r#""1.1.1.1","2.2.2.2""#));
    assert_eq!(create(&plugin, "services", &none).await, none);
    assert_eq!(create(&plugin, "services", &one).await, refused);
    for (old, new, expected) in
        [(&two, &one, &*one), (&one, &one, &*one), (&one, &two, refused), (&none, &one, refused)]
    {
        assert_eq!(update(&plugin, "services", old, new).await, expected, "{old} {new}");
    }
}

#[tokio::test]
async fn namespaces_are_there_or_made() {
    let there = namespace_exists::NamespaceExists::new(objects());
    let nowhere: Arc<dyn Objects> = Arc::new(Fixed(FixedObjects::default()));
    let missing = namespace_exists::NamespaceExists::new(Arc::clone(&nowhere));
    let map = r#"{"metadata":{"name":"m"}}"#;
    assert_eq!(create(&there, "configmaps", map).await, map);
    assert_eq!(create(&missing, "configmaps", map).await, "namespaces \"ns\" not found");
    assert_eq!(create(&missing, "namespaces", map).await, "not handled");
    let mut case = Case::new(Operation::Delete, "configmaps", parse(map));
    let answer = run(&missing, &UserInfo::default(), &mut case).await;
    assert_eq!(answer, "namespaces \"ns\" not found");
    let made = namespace_exists::NamespaceAutoProvision::new(objects());
    assert_eq!(create(&made, "configmaps", map).await, map);
    let made = namespace_exists::NamespaceAutoProvision::new(nowhere);
    assert!(create(&made, "configmaps", map).await.contains("ns was to be made"));
    assert_eq!(update(&made, "configmaps", map, map).await, "not handled");
}

#[tokio::test]
async fn pods_keep_others_from_their_node_alone() {
    let plugin = anti_affinity::LimitPodHardAntiAffinityTopology;
    let of = |kind: &str, key: &str| {
        with(&format!(
            r#"{{"affinity":{{"podAntiAffinity":{{"{kind}":[{{"topologyKey":"{key}"}}]}}}}}}"#
        ))
    };
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for (pod, good) in [
        (of(required, "kubernetes.io/hostname"), true),
        (of(preferred, "zone"), true),
        (of(required, "zone"), false),
    ] {
        let refused = "pods \"p\" is forbidden: affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey zone but only key kubernetes.io/hostname is allowed";
        let expected = if good { pod.as_str() } else { refused };
        assert_eq!(create(&plugin, "pods", &pod).await, expected);
    }
}

#[tokio::test]
async fn who_asks_for_extended_resources_tolerates_their_taints() {
    let plugin = extended_resources::ExtendedResourceToleration;
    let check = async |requests: &str, had: &str, expected: &str| {
        let pod = with(&format!(
            r#"{{"containers":[{{"resources":{{"requests":{requests}}}}}],"tolerations":[{had}]}}"#
        ));
        let pod = parse(&create(&plugin, "pods", &pod).await);
        assert_eq!(json::to_string(&pod["spec"]["tolerations"]), format!("[{expected}]"));
    };
    let gpu = r#"{"effect":"NoSchedule","key":"a.com/gpu","operator":"Exists"}"#;
    let other = r#"{"key":"x","operator":"Exists"}"#;
    check(r#"{"cpu":"1","kubernetes.io/x":"1","requests.a/b":"1"}"#, other, other).await;
    check(r#"{"a.com/gpu":"1","cpu":"1"}"#, other, &format!("{other},{gpu}")).await;
    check(r#"{"a.com/gpu":"1"}"#, gpu, gpu).await;
}

#[tokio::test]
async fn owners_are_given_by_who_may() {
    let check =
        async |may: &'static [&'static str], old: Option<&str>, new: &str, expected: &str| {
            let plugin = owner_references::OwnerReferences::new(objects(), Arc::new(Only(may)));
            let of = |list: &str| {
                parse(&format!(r#"{{"metadata":{{"name":"p","ownerReferences":[{list}]}}}}"#))
            };
            let operation = if old.is_some() { Operation::Update } else { Operation::Create };
            let mut case = Case::new(operation, "pods", of(new));
            case.old = old.map(of);
            let answer = run(&plugin, &UserInfo::new("jane", &[]), &mut case).await;
            let answer = if answer.starts_with('{') { "" } else { &answer };
            assert_eq!(answer, expected, "{old:?} {new}");
        };
    let plain = r#"{"apiVersion":"apps/v1","kind":"Deployment","name":"d","uid":"1"}"#;
    let blocking = r#"{"apiVersion":"apps/v1","kind":"Deployment","name":"d","uid":"1","blockOwnerDeletion":true}"#;
    let strange =
        r#"{"apiVersion":"a/v1","kind":"B","name":"d","uid":"1","blockOwnerDeletion":true}"#;
    let no_delete =
        "pods \"p\" is forbidden: cannot set an ownerRef on a resource you can't delete: no, <nil>";
    let no_finalizers = "pods \"p\" is forbidden: cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: no, <nil>";
    let unmapped = "pods \"p\" is forbidden: cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion a/v1 Kind B: no matches for kind \"B\" in version \"a/v1\"";
    check(&[], None, plain, "").await;
    check(&[], Some(plain), plain, "").await;
    check(&[], Some(plain), "", no_delete).await;
    check(&["delete pods p"], Some(""), plain, "").await;
    check(&[], None, blocking, no_finalizers).await;
    check(&["update deployments/finalizers d"], None, blocking, "").await;
    check(&["delete pods p"], Some(plain), blocking, no_finalizers).await;
    check(&["delete pods p"], Some(blocking), plain, "").await;
    check(&["delete pods p"], Some(blocking), &format!("{blocking},{plain}"), "").await;
    check(&[], None, strange, unmapped).await;
}

#[tokio::test]
async fn bundles_are_attested_by_who_may() {
    let path = "clustertrustbundles.certificates.k8s.io";
    let check = async |may: &'static [&'static str], old: Option<&str>, expected: &str| {
        let plugin = certificates::TrustBundleAttest::new(Arc::new(Only(may)));
        let bundle =
            |text: &str| with(&format!(r#"{{"signerName":"a.b/c","trustBundle":"{text}"}}"#));
        let answer = match old {
            None => create(&plugin, path, &bundle("x")).await,
            Some(old) => update(&plugin, path, &bundle(old), &bundle("x")).await,
        };
        let answer = if answer.starts_with('{') { "" } else { &answer };
        assert_eq!(answer, expected, "{may:?} {old:?}");
    };
    let refused = "clustertrustbundles.certificates.k8s.io \"p\" is forbidden: user not permitted to attest for signerName \"a.b/c\"";
    check(&[], None, refused).await;
    check(&["attest signers a.b/c"], None, "").await;
    check(&["attest signers a.b/*"], None, "").await;
    check(&[], Some("x"), "").await;
    check(&[], Some("y"), refused).await;
}

#[tokio::test]
async fn pods_go_where_their_namespace_goes() {
    let check = async |annotations: &str, configuration: &str, selector: &str, expected: &str| {
        let configuration = configured("PodNodeSelector", configuration).unwrap();
        let objects = in_namespace(annotations);
        let plugin = pod_node_selector::PodNodeSelector::new(objects, configuration.node_selectors);
        let answer =
            create(&plugin, "pods", &with(&format!(r#"{{"nodeSelector":{selector}}}"#))).await;
        let got = match json::parse(answer.as_bytes()) {
            Ok(pod) => json::to_string(&pod["spec"]["nodeSelector"]),
            Err(_) => answer,
        };
        assert_eq!(got, expected, "{annotations} {configuration:?} {selector}", configuration = "");
    };
    let of = |text: &str| format!(r#"{{"scheduler.alpha.kubernetes.io/node-selector":"{text}"}}"#);
    let cluster =
        "{podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: 'c=d', ns: 'a=b, c=d'}}";
    let conflict = "pods \"p\" is forbidden: pod node label selector conflicts with its namespace node label selector";
    let refused = "pods \"p\" is forbidden: pod node label selector labels conflict with its namespace whitelist";
    check(&of("a=b"), "{}", "{}", r#"{"a":"b"}"#).await;
    check(&of("a=b"), "{}", r#"{"x":"y"}"#, r#"{"a":"b","x":"y"}"#).await;
    check(&of("a=b"), "{}", r#"{"a":"c"}"#, conflict).await;
    check("{}", cluster, "{}", r#"{"c":"d"}"#).await;
    check(&of(""), cluster, r#"{"a":"b"}"#, r#"{"a":"b"}"#).await;
    check("{}", cluster, r#"{"x":"y"}"#, refused).await;
    check(&of("a=b=c"), "{}", "{}", "invalid selector: [a b c]").await;
    let wrong = configured("PodNodeSelector", "{podNodeSelectorPluginConfig: {ns: 'a'}}");
    let wrong = wrong.unwrap_err();
    assert_eq!(wrong, "PodNodeSelector: podNodeSelectorPluginConfig[ns]: invalid selector: [a]");
}

#[tokio::test]
async fn pods_tolerate_what_their_namespace_does() {
    let check = async |annotations: &str, configuration: &str, pod: &str, expected: &str| {
        let given = configured("PodTolerationRestriction", configuration).unwrap();
        let objects = in_namespace(annotations);
        let plugin = pod_tolerations::PodTolerationRestriction::new(objects, given.tolerations);
        let answer = create(&plugin, "pods", &with(pod)).await;
        let got = match json::parse(answer.as_bytes()) {
            Ok(pod) => json::to_string(&pod["spec"]["tolerations"]),
            Err(_) => answer,
        };
        assert_eq!(got, expected, "{annotations} {configuration} {pod}");
    };
    let version =
        "apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1, kind: Configuration";
    let none = format!("{{{version}}}");
    let cluster = format!(
        "{{{version}, default: [{{key: d, operator: Exists}}], whitelist: [{{key: d, operator: Exists}}]}}"
    );
    let a = r#"{"key":"a","operator":"Exists"}"#;
    let d = r#"{"key":"d","operator":"Exists"}"#;
    let pressure =
        r#"{"effect":"NoSchedule","key":"node.kubernetes.io/memory-pressure","operator":"Exists"}"#;
    let of =
        |name: &str, list: &str| format!(r#"{{"scheduler.alpha.kubernetes.io/{name}":{list:?}}}"#);
    let refused = "pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist";
    let pod = |list: &str| format!(r#"{{"tolerations":[{list}]}}"#);
    check("{}", &none, "{}", "null").await;
    check("{}", &cluster, "{}", &format!("[{d}]")).await;
    check("{}", &cluster, &pod(a), refused).await;
    check(&of("defaultTolerations", &format!("[{a}]")), &none, "{}", &format!("[{a}]")).await;
    check(&of("defaultTolerations", ""), &cluster, "{}", "null").await;
    check(&of("tolerationsWhitelist", &format!("[{a}]")), &none, &pod(d), refused).await;
    check(&of("tolerationsWhitelist", &format!("[{a}]")), &none, &pod(a), &format!("[{a}]")).await;
    let needs = r#"{"containers":[{"resources":{"requests":{"cpu":"1"}}}]}"#;
    check("{}", &none, needs, &format!("[{pressure}]")).await;
    let wrong = format!("{{{version}, default: [{{key: a, effect: Never}}]}}");
    let wrong = configured("PodTolerationRestriction", &wrong).unwrap_err();
    assert!(
        wrong.contains("podtolerationrestriction.default[0].effect: Unsupported value"),
        "{wrong}"
    );
}

#[tokio::test(start_paused = true)]
async fn events_are_as_many_as_their_limits_say() {
    let limits =
        "{apiVersion: eventratelimit.admission.k8s.io/v1alpha1, kind: Configuration, limits: ";
    let of = |list: &str| configured("EventRateLimit", &format!("{limits}{list}}}"));
    let configuration = of(
        "[{type: Namespace, qps: 1, burst: 2}, {type: SourceAndObject, qps: 1, burst: 3, cacheSize: 1}]",
    );
    let plugin =
        event_rate_limit::EventRateLimit::new(&configuration.unwrap().event_limits.unwrap());
    let event = |name: &str| {
        format!(
            r#"{{"involvedObject":{{"kind":"Pod","name":"{name}"}},"source":{{"component":"k"}}}}"#
        )
    };
    let of_namespace = "Too many requests: limit reached on type Namespace for key ns";
    let of_source = "Too many requests: limit reached on type SourceAndObject for key kPoda";
    let one = format!("Too many requests: {of_namespace}");
    let both = format!("Too many requests: [{of_namespace}, {of_source}]");
    let a = event("a");
    for expected in [&a, &a, &one, &both] {
        assert_eq!(create(&plugin, "events", &a).await, *expected);
    }
    assert_eq!(create(&plugin, "events", &event("b")).await, one);
    tokio::time::advance(Duration::from_secs(1)).await;
    // The one bucket of sources was given to another meanwhile.
    assert_eq!(create(&plugin, "events", &a).await, a);
    assert_eq!(create(&plugin, "events.events.k8s.io", &a).await, "not handled");
    for (list, expected) in [
        ("[]", "limits: Invalid value: null: must not be empty"),
        ("[{type: User, qps: 0, burst: 1}]", "limits[0].qps: Invalid value: 0: must be positive"),
        (
            "[{type: User, qps: 1, burst: 1, cacheSize: -1}]",
            "limits[0].cacheSize: Invalid value: -1: must not be negative",
        ),
        (
            "[{type: Node, qps: 1, burst: 1}]",
            r#"limits[0].type: Unsupported value: "Node": supported values: "Namespace", "Server", "SourceAndObject", "User""#,
        ),
        ("[{size: 1}]", r#"strict decoding error: unknown field "limits[0].size""#),
    ] {
        assert_eq!(of(list).unwrap_err(), format!("EventRateLimit: {expected}"));
    }
}

/// A webhook without TLS: its answers in turn, and what it was asked.
async fn webhook(
    answers: &'static [(u16, &'static str)],
) -> (u16, tokio::task::JoinHandle<Vec<Value>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let mut asked = Vec::new();
        for (code, body) in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            let question = loop {
                let mut part = [0; 4096];
                let read = stream.read(&mut part).await.unwrap();
                seen.extend_from_slice(&part[..read]);
                let text = String::from_utf8_lossy(&seen);
                let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
                if let Some(Ok(body)) = body.map(|it| json::parse(it.as_bytes())) {
                    break body;
                }
            };
            asked.push(question);
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    });
    (port, served)
}

#[tokio::test]
async fn a_webhook_says_which_images_may_be() {
    let (port, served) = webhook(&[
        (200, r#"{"status":{"allowed":true,"auditAnnotations":{"seen":"yes"}}}"#),
        (200, r#"{"status":{"allowed":false,"reason":"bad image"}}"#),
        (403, "no"),
        (200, r#"{"status":{}}"#),
    ])
    .await;
    let folder = std::env::temp_dir().join(format!("image-policy-{port}"));
    std::fs::write(
        &folder,
        format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: k}}}}]\n\
             clusters: [{{name: k, cluster: {{server: 'http://127.0.0.1:{port}/review'}}}}]\n"
        ),
    )
    .unwrap();
    let of = |rest: &str| {
        let file = folder.display();
        configured(
            "ImagePolicyWebhook",
            &format!("{{imagePolicy: {{kubeConfigFile: '{file}'{rest}}}}}"),
        )
    };
    let policy = of("").unwrap().image_policy.unwrap();
    let plugin = image_policy::ImagePolicyWebhook::new(policy, &Default::default());
    let pod = |image: &str| {
        format!(
            r#"{{"metadata":{{"annotations":{{"a.image-policy.k8s.io/b":"c","x":"y"}},"name":"p"}},"spec":{{"containers":[{{"image":"{image}"}}]}}}}"#
        )
    };
    let user = UserInfo::default();
    // The second answer is remembered, with what the audit is told.
    for _ in 0..2 {
        let mut case = Case::new(Operation::Create, "pods", parse(&pod("good")));
        assert_eq!(run(&plugin, &user, &mut case).await, pod("good"));
        let told = case.annotations.get("imagepolicywebhook.image-policy.k8s.io/seen");
        assert_eq!(told.map(String::as_str), Some("yes"));
    }
    assert_eq!(
        create(&plugin, "pods", &pod("bad")).await,
        "pods \"p\" is forbidden: image policy webhook backend denied one or more images: bad image"
    );
    let open = image_policy::ImagePolicyWebhook::new(
        of(", defaultAllow: true").unwrap().image_policy.unwrap(),
        &Default::default(),
    );
    let passed = parse(&create(&open, "pods", &pod("unknown")).await);
    let annotation = ["metadata", "annotations", "alpha.image-policy.k8s.io/failed-open"];
    assert_eq!(passed.str_at(&annotation), "true");
    assert_eq!(
        create(&plugin, "pods", &pod("unknown")).await,
        "pods \"p\" is forbidden: one or more images rejected by webhook backend"
    );
    let refused = create(&plugin, "pods", &pod("gone")).await;
    assert!(refused.starts_with("pods \"p\" is forbidden: Post \"http://127.0.0.1"), "{refused}");
    let asked = served.await.unwrap();
    assert_eq!(
        json::to_string(&asked[0]["spec"]),
        r#"{"annotations":{"a.image-policy.k8s.io/b":"c"},"containers":[{"image":"good"}],"namespace":"ns"}"#
    );
    assert_eq!(asked[0].str_at(&["apiVersion"]), "imagepolicy.k8s.io/v1alpha1");
    for (rest, expected) in [
        (", allowTTL: 1801", "valid value is between 1s and 30m0s, got 30m1s"),
        (", retryBackoff: -5", "valid value is between 1ms and 5m0s, got -5ms"),
        (", other: 1", "strict decoding error: unknown field \"imagePolicy.other\""),
    ] {
        assert_eq!(of(rest).unwrap_err(), format!("ImagePolicyWebhook: {expected}"));
    }
    std::fs::remove_file(folder).unwrap();
}

#[tokio::test]
async fn what_is_limited_needs_a_quota_that_covers_it() {
    let limits = "{apiVersion: apiserver.config.k8s.io/v1, kind: ResourceQuotaConfiguration, limitedResources: ";
    let check = async |list: &str, quota: &str, pod: &str, expected: &str| {
        let given = configured("ResourceQuota", &format!("{limits}{list}}}")).unwrap();
        let objects = FixedObjects::default();
        if !quota.is_empty() {
            let mut quota = parse(quota);
            quota.set_at(&["metadata"], value!({"name": "q", "namespace": "ns"}));
            quota.set_at(&["kind"], "ResourceQuota");
            quota.set_at(&["apiVersion"], "v1");
            objects.put("", "resourcequotas", &quota);
        }
        let plugin = resource_quota::ResourceQuota::new(Arc::new(Fixed(objects)));
        let answer = create(&plugin.limited(given.limited), "pods", &with(pod)).await;
        let answer = if answer.starts_with('{') { "" } else { &answer };
        assert_eq!(answer, expected, "{list} {quota} {pod}");
    };
    let cpu = "[{resource: pods, matchContains: [requests.cpu]}]";
    let critical = "[{resource: pods, matchScopes: [{scopeName: PriorityClass, operator: In, values: [high]}]}]";
    let needs = r#"{"containers":[{"name":"c","resources":{"requests":{"cpu":"1"}}}]}"#;
    let bounded = r#"{"spec":{"hard":{"requests.cpu":"2"}},"status":{"hard":{"requests.cpu":"2"},"used":{"requests.cpu":"0"}}}"#;
    let scoped = r#"{"spec":{"scopeSelector":{"matchExpressions":[{"scopeName":"PriorityClass","operator":"In","values":["high"]}]},"hard":{"pods":"2"}},"status":{"hard":{"pods":"2"},"used":{"pods":"0"}}}"#;
    let uncovered = "pods \"p\" is forbidden: insufficient quota to consume: requests.cpu";
    check(cpu, "", needs, uncovered).await;
    check(cpu, "", "{}", "").await;
    check(cpu, scoped, needs, uncovered).await;
    check(cpu, bounded, needs, "").await;
    let high = r#"{"priorityClassName":"high"}"#;
    let uncovered = "insufficient quota to match these scopes: [{PriorityClass In [high]}]";
    check(critical, "", high, uncovered).await;
    check(critical, "", "{}", "").await;
    check(critical, scoped, high, "").await;
    let wrong = configured("ResourceQuota", &format!("{limits}[{{apiGroup: a}}]}}")).unwrap_err();
    assert_eq!(wrong, "ResourceQuota: limitedResources[0].resource: Required value");
}

#[tokio::test]
async fn pods_are_changed_as_their_node_knows() {
    let check = async |features: &str, old: &str, new: &str, expected: &str| {
        let objects = FixedObjects::default();
        let node = format!(
            r#"{{"kind":"Node","apiVersion":"v1","metadata":{{"name":"n"}},"status":{{"declaredFeatures":[{features}]}}}}"#
        );
        objects.put("", "nodes", &parse(&node));
        let plugin = declared_features::NodeDeclaredFeatureValidator::new(Arc::new(Fixed(objects)));
        let pod = |spec: &str| {
            format!(
                r#"{{"metadata":{{"name":"p"}},"spec":{spec},"status":{{"qosClass":"Guaranteed"}}}}"#
            )
        };
        let answer = update(&plugin, "pods/resize", &pod(old), &pod(new)).await;
        let answer = if answer.starts_with('{') { "" } else { &answer };
        assert_eq!(answer, expected, "{features} {old} {new}");
    };
    let of = |list: &str, cpu: &str| {
        format!(r#"{{"nodeName":"n","{list}":[{{"resources":{{"requests":{{"cpu":"{cpu}"}}}}}}]}}"#)
    };
    let whole =
        |cpu: &str| format!(r#"{{"nodeName":"n","resources":{{"limits":{{"cpu":"{cpu}"}}}}}}"#);
    let refused = |feature: &str| {
        format!(
            "pods \"p\" is forbidden: pod update requires features {feature} which are not available on node \"n\""
        )
    };
    let guaranteed = "GuaranteedQoSPodCPUResize";
    let (one, two) = (of("containers", "1"), of("containers", "2"));
    check("", &one, &of("containers", "1000m"), "").await;
    check("", &one, &two, &refused(guaranteed)).await;
    check(r#""GuaranteedQoSPodCPUResize""#, &one, &two, "").await;
    let level = "InPlacePodLevelResourcesVerticalScaling";
    check("", &whole("1"), &whole("2"), &refused(level)).await;
    let (one, two) = (of("initContainers", "1"), of("initContainers", "2"));
    check("", &one, &two, &refused("InPlacePodVerticalScalingInitContainers")).await;
    let elsewhere = |spec: &str| spec.replace(r#""nodeName":"n""#, r#""nodeName":"m""#);
    let missing = "pods \"p\" is forbidden: node \"m\" not found";
    check("", &elsewhere(&one), &elsewhere(&two), missing).await;
    let nowhere = |spec: &str| spec.replace(r#""nodeName":"n","#, "");
    check("", &nowhere(&one), &nowhere(&two), "").await;
}

#[tokio::test]
async fn pods_get_no_larger_than_their_node() {
    let check = async |system: &str, old: &str, new: &str, expected: &str| {
        let objects = FixedObjects::default();
        let node = format!(
            r#"{{"kind":"Node","apiVersion":"v1","metadata":{{"name":"n","labels":{{"kubernetes.io/os":"{system}"}}}},"status":{{"allocatable":{{"cpu":"1500m","memory":"1Ki"}}}}}}"#
        );
        objects.put("", "nodes", &parse(&node));
        let plugin = pod_resize::PodResizeValidator::new(Arc::new(Fixed(objects)));
        let pod = |requests: &str| {
            with(&format!(
                r#"{{"containers":[{{"resources":{{"requests":{requests}}}}}],"nodeName":"n"}}"#
            ))
        };
        let answer = update(&plugin, "pods/resize", &pod(old), &pod(new)).await;
        let answer = if answer.starts_with('{') { "" } else { &answer };
        assert_eq!(answer, expected, "{system} {old} {new}");
    };
    let (small, large) = (r#"{"cpu":"1"}"#, r#"{"cpu":"2","memory":"2Ki"}"#);
    let large_refused = "pods \"p\" is forbidden: node didn't have enough allocatable resources: cpu, requested: 2000, allocatable: 1500; memory, requested: 2048, allocatable: 1024";
    let windows = "pods \"p\" is forbidden: pod resize is only supported on linux nodes, node \"n\" is \"windows\"";
    check("linux", "{}", small, "").await;
    check("linux", small, large, large_refused).await;
    check("linux", large, large, "").await;
    check("windows", "{}", small, windows).await;
}

#[tokio::test]
async fn everything_is_refused_and_nothing_is() {
    let map = r#"{"metadata":{"name":"m"}}"#;
    assert_eq!(create(&always::AlwaysAdmit, "configmaps", map).await, map);
    let refused = "configmaps \"m\" is forbidden: admission control is denying all modifications";
    assert_eq!(create(&always::AlwaysDeny, "configmaps", map).await, refused);
}

#[test]
fn webhooks_are_called_as_a_file_says() {
    let of = |rest: &str| {
        let version = "apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration";
        configured("ValidatingAdmissionWebhook", &format!("{{{version}{rest}}}")).unwrap_err()
    };
    let relative = "ValidatingAdmissionWebhook: kubeConfigFile: Invalid value: \"a\": must be an absolute file path";
    assert_eq!(of(", kubeConfigFile: a"), relative);
    assert!(of(", kubeConfigFile: /nowhere/at/all").contains("could not read /nowhere/at/all"));
}

#[test]
fn plugins_run_in_upstream_s_order() {
    let objects = objects();
    let parts = Parts {
        rbac: Arc::new(auth::rbac::Rbac::new(&cluster())),
        objects,
        authorizer: Arc::new(Only(&[])),
        clock: Arc::new(component_base::RealClock),
        random: Arc::new(SeededRandom::new(1)),
        calls: Default::default(),
    };
    // Those of ours that upstream has elsewhere, and those that need a configuration.
    let elsewhere = ["AdminAccess", "RoleEscalation", "PolicyParameters", "PodCertificateSigning"];
    let on: Vec<String> = OFF_BY_DEFAULT.map(str::to_owned).into();
    let all = Chain::of(&parts, &AdmissionConfiguration::default(), &on);
    let names: Vec<&str> = all.names().filter(|it| !elsewhere.contains(it)).collect();
    let upstream = "AlwaysAdmit NamespaceAutoProvision NamespaceLifecycle NamespaceExists \
        LimitPodHardAntiAffinityTopology LimitRanger ServiceAccount NodeRestriction TaintNodesByCondition \
        AlwaysPullImages PodSecurity PodNodeSelector Priority DefaultTolerationSeconds \
        PodTolerationRestriction ExtendedResourceToleration DefaultStorageClass \
        StorageObjectInUseProtection PodGroupProtection OwnerReferencesPermissionEnforcement \
        PersistentVolumeClaimResize RuntimeClass CertificateApproval CertificateSigning \
        ClusterTrustBundleAttest CertificateSubjectRestriction DefaultIngressClass \
        DenyServiceExternalIPs PodTopologyLabels NodeDeclaredFeatureValidator PodResizeValidator MutatingAdmissionPolicy MutatingAdmissionWebhook \
        ValidatingAdmissionPolicy ValidatingAdmissionWebhook ResourceQuota AlwaysDeny";
    assert_eq!(names.join(" "), upstream);
    let usual = Chain::standard(&parts);
    assert!(!usual.names().any(|it| OFF_BY_DEFAULT.contains(&it)));
    assert_eq!(usual.names().count() + OFF_BY_DEFAULT.len() - 2, all.names().count());
    let configuration = AdmissionConfiguration::default();
    let lacks = |name: &str| configuration.check(&[name.to_owned()]).unwrap_err();
    assert!(lacks("EventRateLimit").contains("must not be empty"));
    assert!(lacks("ImagePolicyWebhook").contains("no config specified"));
}
