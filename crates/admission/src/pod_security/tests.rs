//! What passes, what does not, and how it is told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use apimachinery::{json, yaml};
use auth::UserInfo;
use auth::fixed::FixedObjects;
use component_base::RealClock;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::checks::{BASELINE, Finding, RESTRICTED, details, violations};
use super::policy::LevelVersion;
use super::*;
use crate::tests::{Case, Fixed};

fn parse(text: &str) -> Value {
    json::parse(text.as_bytes()).unwrap()
}

/// How many pods upstream's set has here: fewer would mean that some were not found.
const CASES: usize = 860;

fn cases() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().map(|it| it.join("shared/reference/pod-security")).find(|it| it.is_dir())
}

fn children(at: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(at).unwrap().map(|it| it.unwrap().path()).collect();
    all.sort();
    all
}

fn name(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap()
}

/// The policy that enforces `level` as of `version`.
fn by(level: &str, version: &str) -> LevelVersion {
    let label = |key: &str| match key.strip_prefix("pod-security.kubernetes.io/")? {
        "enforce" => Some(level),
        "enforce-version" => Some(version),
        _ => None,
    };
    let (policy, errors) = Policy::of(label, &Policy::default());
    assert!(errors.is_empty(), "{level} {version}: {errors:?}");
    policy.enforce
}

/// What upstream calls the reason of the check that a failing pod is named after.
fn reason_of(file: &str) -> &'static str {
    match file.trim_end_matches(|it: char| it.is_ascii_digit()) {
        "allowprivilegeescalation" => "allowPrivilegeEscalation != false",
        "apparmorprofile" => "forbidden AppArmor profile",
        // The stricter check says it in its own words.
        "capabilities_baseline" => "capabilities",
        "capabilities_restricted" => "unrestricted capabilities",
        "hostnamespaces" => "host namespaces",
        "hostpathvolumes" => "volume",
        "hostports" => "hostPort",
        "hostprobesandhostlifecycle" => "probe or lifecycle host",
        "privileged" => "privileged",
        "procmount" | "procmount_restricted" => "procMount",
        "restrictedvolumes" => "restricted volume types",
        "runasnonroot" => "runAsNonRoot != true",
        "runasuser" => "runAsUser=0",
        "seccompprofile_baseline" | "seccompprofile_restricted" => "seccompProfile",
        "selinuxoptions" => "seLinuxOptions",
        "sysctls" => "forbidden sysctls",
        "windowshostprocess" => "hostProcess",
        other => panic!("a check that is not known: {other}"),
    }
}

/// The server makes a volume without a source an empty directory before anybody judges it.
fn default_volumes(pod: &mut Value) {
    for volume in pod.items_at_mut(&["spec", "volumes"]) {
        if volume.as_object().is_some_and(|it| it.len() == 1) {
            volume.set_at(&["emptyDir"], Value::object());
        }
    }
}

#[test]
fn upstreams_pods_pass_and_fail_as_they_should() {
    let Some(at) = cases() else {
        eprintln!("skipped: shared/reference/pod-security is not beside the project");
        return;
    };
    let (mut count, mut wrong) = (0, Vec::new());
    for level in children(&at).iter().filter(|it| it.is_dir()) {
        for version in children(level) {
            // `file_stem` would take the minor version for an extension.
            let by = by(name(level), version.file_name().unwrap().to_str().unwrap());
            for file in ["pass", "fail"].iter().flat_map(|it| children(&version.join(it))) {
                count += 1;
                let mut pod = yaml::parse(&std::fs::read(&file).unwrap()).unwrap();
                default_volumes(&mut pod);
                let found = violations(Pod::of(&pod), by);
                let reason = |it: &Finding| it.reason.contains(reason_of(name(&file)));
                let right = match file.parent().is_some_and(|it| it.ends_with("pass")) {
                    true => found.is_empty(),
                    // Among others: some violate more than what they are named after.
                    false => found.iter().any(reason),
                };
                if !right {
                    wrong.push(format!("{by} {}: {found:?}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(count, CASES);
}

#[test]
fn checks_are_told_in_the_order_of_their_names() {
    for list in [&BASELINE[..], &RESTRICTED] {
        assert!(list.is_sorted_by(|a, b| a.id < b.id));
    }
    for check in RESTRICTED.iter().filter(|it| !it.instead_of.is_empty()) {
        assert!(BASELINE.iter().any(|it| it.id == check.instead_of), "{}", check.instead_of);
    }
}

#[test]
fn violations_are_told_in_upstreams_words() {
    let check = |level: &str, version: &str, annotations: &str, spec: &str, expected: &str| {
        let text = format!(r#"{{"metadata":{{"annotations":{annotations}}},"spec":{spec}}}"#);
        let pod = parse(&text);
        assert_eq!(
            details(&violations(Pod::of(&pod), by(level, version))),
            expected,
            "{level} {version} {spec}"
        );
    };
    let baseline = |spec: &str, expected: &str| check("baseline", "latest", "{}", spec, expected);
    let restricted =
        |spec: &str, expected: &str| check("restricted", "latest", "{}", spec, expected);
    let careful = r#""securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"hostUsers":true"#;
    restricted(
        r#"{"containers":[{"name":"c"}]}"#,
        r#"allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#,
    );
    restricted(
        &format!(
            r#"{{{careful},"volumes":[{{"name":"v","hostPath":{{"path":"/"}}}},{{"name":"w","nfs":{{}}}},{{"name":"ok","image":{{}}}}],"initContainers":[{{"name":"i","securityContext":{{"allowPrivilegeEscalation":false,"runAsUser":0,"capabilities":{{"add":["SYS_TIME","CHOWN"],"drop":["ALL"]}}}}}}]}}"#
        ),
        r#"unrestricted capabilities (container "i" must not include "CHOWN", "SYS_TIME" in securityContext.capabilities.add), restricted volume types (volumes "v", "w" use restricted volume types "hostPath", "nfs"), runAsUser=0 (container "i" must not set runAsUser=0)"#,
    );
    baseline(
        r#"{"hostNetwork":true,"hostIPC":true,"volumes":[{"name":"v","hostPath":{"path":"/"}}],"containers":[{"name":"a","securityContext":{"privileged":true,"capabilities":{"add":["NET_RAW"]}},"ports":[{"hostPort":9090},{"hostPort":80}]},{"name":"b","ports":[{"hostPort":80},{"containerPort":1}],"securityContext":{"procMount":"Unmasked"}}]}"#,
        r#"non-default capabilities (container "a" must not include "NET_RAW" in securityContext.capabilities.add), host namespaces (hostNetwork=true, hostIPC=true), hostPath volumes (volume "v"), hostPort (containers "a", "b" use hostPorts 80, 9090), privileged (container "a" must not set securityContext.privileged=true), procMount (container "b" must not set securityContext.procMount to "Unmasked")"#,
    );
    baseline(
        r#"{"securityContext":{"sysctls":[{"name":"z"},{"name":"a"},{"name":"net.ipv4.tcp_rmem"}],"seLinuxOptions":{"type":"spc_t","user":"u"},"windowsOptions":{"hostProcess":true},"seccompProfile":{"type":"Unconfined"}},"containers":[{"name":"c","securityContext":{"seLinuxOptions":{"role":"r"}}}],"ephemeralContainers":[{"name":"e","livenessProbe":{"tcpSocket":{"host":"h"}},"securityContext":{"seccompProfile":{"type":"Unconfined"}}}]}"#,
        r#"probe or lifecycle host (container "e" uses probe or lifecycle host "h"), seLinuxOptions (pod and container "c" set forbidden securityContext.seLinuxOptions: type "spc_t"; user may not be set; role may not be set), seccompProfile (pod and container "e" must not set securityContext.seccompProfile.type to "Unconfined"), forbidden sysctls (z, a), hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)"#,
    );
    check(
        "baseline",
        "v1.18",
        r#"{"container.apparmor.security.beta.kubernetes.io/c":"unconfined","seccomp.security.alpha.kubernetes.io/pod":"unconfined","container.seccomp.security.alpha.kubernetes.io/other":"no"}"#,
        r#"{"securityContext":{"appArmorProfile":{"type":"Unconfined"}},"containers":[{"name":"c"}]}"#,
        r#"forbidden AppArmor profiles (pod and annotation must not set AppArmor profile type to "Unconfined", "container.apparmor.security.beta.kubernetes.io/c="unconfined""), seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod="unconfined")"#,
    );
}

#[test]
fn what_is_allowed_depends_on_the_version() {
    // A pod that has nothing wrong but what the case is about, and from which version on it passes or fails.
    let container = r#""allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}"#;
    let pod = |spec: &str, context: &str, more: &str| {
        parse(&format!(
            r#"{{"spec":{{"securityContext":{{"seccompProfile":{{"type":"Localhost"}}{context}}},"containers":[{{"name":"c","securityContext":{{{container}{more}}}}}]{spec}}}}}"#
        ))
    };
    let check = |pod: &Value, level: &str, changes: i64, passes_then: bool| {
        for (version, passes) in [(changes - 1, !passes_then), (changes, passes_then)] {
            let found = violations(Pod::of(pod), by(level, &format!("v1.{version}")));
            assert_eq!(found.is_empty(), passes, "{level} v1.{version}: {found:?}");
        }
        let latest = violations(Pod::of(pod), by(level, "latest"));
        assert_eq!(latest.is_empty(), passes_then, "{latest:?}");
        assert_eq!(violations(Pod::of(pod), by(level, "v1.10000")), latest);
    };
    for (name, since) in [
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_wmem", 32),
        ("net.ipv4.tcp_notsent_lowat", 37),
    ] {
        let sysctls = format!(r#","sysctls":[{{"name":"{name}"}}]"#);
        check(&pod("", &sysctls, ""), "baseline", since, true);
    }
    let selinux = r#","seLinuxOptions":{"type":"container_engine_t"}"#;
    check(&pod("", selinux, ""), "baseline", 31, true);
    let own_users = r#","hostUsers":false"#;
    let unmasked = pod(own_users, "", r#","procMount":"Unmasked""#);
    check(&unmasked, "baseline", 35, true);
    let root = pod(own_users, r#","runAsUser":0,"runAsNonRoot":false"#, "");
    check(&root, "restricted", 35, true);
    let root = pod("", r#","runAsUser":0,"runAsNonRoot":true"#, "");
    check(&root, "restricted", 23, false);
    let mut probe = pod("", "", "");
    for container in probe.items_at_mut(&["spec", "containers"]) {
        container.set_at(&["livenessProbe", "httpGet", "host"], "h");
    }
    check(&probe, "baseline", 34, false);
    let windows = r#"{"spec":{"os":{"name":"windows"},"securityContext":{"runAsNonRoot":true},"containers":[{"name":"c"}]}}"#;
    check(&parse(windows), "restricted", 25, true);
}

/// A namespace with these labels, which is called `ns`.
fn namespace(labels: &str) -> Value {
    parse(&format!(
        r#"{{"kind":"Namespace","apiVersion":"v1","metadata":{{"name":"ns","labels":{{{labels}}}}}}}"#
    ))
}

/// What comes of a write into a namespace with these labels: the refusal or, a line each, the warnings.
async fn write(labels: &str, mut case: Case) -> String {
    let objects = FixedObjects::default();
    objects.put("", "namespaces", &namespace(labels));
    send(objects, Arc::new(RealClock), &mut case).await
}

async fn send(objects: FixedObjects, clock: Arc<dyn Clock>, case: &mut Case) -> String {
    let plugin = PodSecurity::new(Arc::new(Fixed(objects)), clock);
    let user = UserInfo::default();
    let mut attributes = case.attributes(&user);
    if !plugin.handles(&attributes) {
        return "not handled".into();
    }
    match plugin.validate(&mut attributes).await {
        Ok(()) => attributes.warnings.join("\n"),
        Err(status) => status.message,
    }
}

const ENFORCE: &str = r#""pod-security.kubernetes.io/enforce":"baseline""#;
const WARN: &str = r#""pod-security.kubernetes.io/warn":"baseline","pod-security.kubernetes.io/warn-version":"v1.30""#;
const AUDIT: &str = r#""pod-security.kubernetes.io/audit":"restricted""#;
const BAD: &str =
    r#"{"metadata":{"name":"p"},"spec":{"hostPID":true,"containers":[{"name":"c","image":"a"}]}}"#;

#[tokio::test]
async fn pods_are_refused_and_templates_warned_of() {
    let create = async |labels: &str, path: &str, object: &str| {
        write(labels, Case::new(Operation::Create, path, parse(object))).await
    };
    let found = "host namespaces (hostPID=true)";
    let refused =
        format!(r#"pods "p" is forbidden: violates PodSecurity "baseline:latest": {found}"#);
    let warned = format!(r#"would violate PodSecurity "baseline:v1.30": {found}"#);
    assert_eq!(create(ENFORCE, "pods", BAD).await, refused);
    assert_eq!(create(&format!("{ENFORCE},{WARN}"), "pods", BAD).await, refused);
    assert_eq!(create(WARN, "pods", BAD).await, warned);
    for nothing in ["", AUDIT, r#""a":"b""#] {
        assert_eq!(create(nothing, "pods", BAD).await, "", "{nothing}");
    }
    let unknown = r#""pod-security.kubernetes.io/enforce":"bogus""#;
    assert!(
        create(unknown, "pods", BAD).await.contains(r#"violates PodSecurity "restricted:latest""#)
    );
    let unknown = r#""pod-security.kubernetes.io/warn":"bogus""#;
    assert_eq!(create(unknown, "pods", BAD).await, "");

    let enforced = format!(r#"would violate PodSecurity "baseline:latest": {found}"#);
    for (path, at) in [
        ("podtemplates", &["template"][..]),
        ("replicationcontrollers", &["spec", "template"]),
        ("deployments.apps", &["spec", "template"]),
        ("replicasets.apps", &["spec", "template"]),
        ("statefulsets.apps", &["spec", "template"]),
        ("daemonsets.apps", &["spec", "template"]),
        ("jobs.batch", &["spec", "template"]),
        ("cronjobs.batch", &["spec", "jobTemplate", "spec", "template"]),
    ] {
        let mut object = parse(r#"{"metadata":{"name":"o"}}"#);
        object.set_at(at, parse(BAD));
        let object = json::to_string(&object);
        assert_eq!(create(ENFORCE, path, &object).await, enforced, "{path}");
        assert_eq!(create(WARN, path, &object).await, warned, "{path}");
        assert_eq!(create("", path, &object).await, "", "{path}");
        assert_eq!(create(ENFORCE, &format!("{path}/status"), &object).await, "not handled");
    }
    assert_eq!(create(ENFORCE, "replicationcontrollers", r#"{"spec":{}}"#).await, "");
    for subresource in HARMLESS {
        assert_eq!(create(ENFORCE, &format!("pods/{subresource}"), BAD).await, "not handled");
    }
    assert_eq!(create(ENFORCE, "configmaps", BAD).await, "not handled");
}

#[tokio::test]
async fn pods_are_judged_again_when_something_changes_that_matters() {
    let update = async |path: &str, change: fn(&mut Value)| {
        let mut case = Case::new(Operation::Update, path, parse(BAD));
        case.old = Some(parse(BAD));
        change(case.object_mut());
        write(ENFORCE, case).await.starts_with("pods \"p\" is forbidden: violates PodSecurity")
    };
    assert!(!update("pods", |pod| pod.set_at(&["metadata", "labels", "a"], "b")).await);
    assert!(!update("pods", |pod| pod.set_at(&["spec", "activeDeadlineSeconds"], 5)).await);
    let image =
        |pod: &mut Value| pod.items_at_mut(&["spec", "containers"])[0].set_at(&["image"], "b");
    assert!(update("pods", image).await);
    let annotation = |pod: &mut Value| {
        let key = "container.seccomp.security.alpha.kubernetes.io/c";
        pod.set_at(&["metadata", "annotations", key], "unconfined");
    };
    assert!(update("pods", annotation).await);
    let ephemeral = |pod: &mut Value| {
        pod.set_at(&["spec", "ephemeralContainers"], vec![parse(r#"{"name":"e"}"#)]);
    };
    assert!(update("pods/ephemeralcontainers", ephemeral).await);
    assert!(!update("pods/resize", |_| ()).await);
}

#[tokio::test]
async fn labels_that_mean_nothing_are_refused_when_they_come() {
    let check = async |old: Option<&str>, new: &str, expected: &str| {
        let operation = if old.is_some() { Operation::Update } else { Operation::Create };
        let mut case = Case::new(operation, "namespaces", namespace(new));
        case.old = old.map(namespace);
        assert_eq!(write("", case).await, expected, "{old:?} {new}");
    };
    let label =
        |mode: &str, value: &str| format!(r#""pod-security.kubernetes.io/{mode}":"{value}""#);
    let bogus = label("enforce", "bogus");
    let refusal = r#"Any "ns" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "bogus": must be one of privileged, baseline, restricted"#;
    check(None, &bogus, refusal).await;
    check(Some(""), &bogus, refusal).await;
    check(Some(&bogus), &bogus, "").await;
    check(None, &label("audit", "restricted"), "").await;
    for version in ["1.30", "v1.", "v1.01", "v2.0", "v1.+1", "v1.-1", "v1.99999999999999999999", ""]
    {
        let why = format!(
            r#"Any "ns" is invalid: metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: "{version}": must be "latest" or "v1.x""#
        );
        check(None, &label("warn-version", version), &why).await;
    }
    for version in ["latest", "v1.0", "v1.10000"] {
        check(None, &label("enforce-version", version), "").await;
    }
    let all = format!("{},{}", label("audit", "x"), label("audit-version", "y"));
    check(
        None,
        &all,
        r#"Any "ns" is invalid: [metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: "x": must be one of privileged, baseline, restricted, metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: "y": must be "latest" or "v1.x"]"#,
    )
    .await;
}

#[test]
fn whoever_enforces_is_warned_too() {
    let check = |labels: &[(&str, &'static str)], expected: &str| {
        let label = |key: &str| {
            let mode = key.strip_prefix("pod-security.kubernetes.io/")?;
            labels.iter().find(|(name, _)| *name == mode).map(|(_, value)| *value)
        };
        assert_eq!(
            Policy::of(label, &Policy::default()).0.warn.to_string(),
            expected,
            "{labels:?}"
        );
    };
    check(&[], "privileged:latest");
    check(&[("enforce", "baseline"), ("enforce-version", "v1.30")], "baseline:v1.30");
    check(
        &[("enforce", "baseline"), ("enforce-version", "v1.30"), ("warn-version", "v1.9")],
        "baseline:v1.9",
    );
    check(&[("enforce", "restricted"), ("warn", "privileged")], "privileged:latest");
    check(&[("enforce", "bogus")], "privileged:latest");
}

/// A clock on which this much time goes by whenever somebody looks.
#[derive(Debug)]
struct Steps(Mutex<Instant>, Duration);

impl Clock for Steps {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn monotonic(&self) -> Instant {
        let mut now = self.0.lock();
        *now += self.1;
        *now
    }
}

/// Pods as in this list, a name and a controller each, which violate `baseline`.
fn pods(
    objects: &FixedObjects,
    names: impl IntoIterator<Item = (String, &'static str)>,
    spec: &str,
) {
    for (name, controller) in names {
        let mut pod = parse(BAD);
        pod.set_at(&["kind"], "Pod");
        pod.set_at(&["apiVersion"], "v1");
        pod.set_at(&["metadata", "namespace"], "ns");
        pod.set_at(&["metadata", "name"], name);
        pod.set_at(&["spec"], parse(spec));
        if !controller.is_empty() {
            let owner = parse(&format!(r#"{{"controller":true,"uid":"{controller}"}}"#));
            pod.set_at(&["metadata", "ownerReferences"], vec![owner]);
        }
        objects.put("", "pods", &pod);
    }
}

/// The warnings of an update of labels.
async fn raise(objects: &FixedObjects, clock: Arc<dyn Clock>, old: &str, new: &str) -> String {
    let mut case = Case::new(Operation::Update, "namespaces", namespace(new));
    case.old = Some(namespace(old));
    send(objects.clone(), clock, &mut case).await
}

const PID: &str = r#"{"hostPID":true}"#;

#[tokio::test]
async fn raising_a_level_tells_of_the_pods_that_violate_it() {
    let objects = FixedObjects::default();
    let named = |names: &'static [&'static str]| names.iter().map(|it| ((*it).to_owned(), ""));
    pods(&objects, named(&["c", "a", "b"]), PID);
    pods(
        &objects,
        named(&["d", "e"]),
        r#"{"hostPID":true,"hostIPC":true,"securityContext":{"sysctls":[{"name":"x"}]}}"#,
    );
    pods(&objects, named(&["f"]), r#"{"volumes":[{"name":"v","hostPath":{}}]}"#);
    pods(&objects, named(&["good"]), "{}");
    let raise = async |old: &str, new: &str| raise(&objects, Arc::new(RealClock), old, new).await;
    let expected = "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"\n\
        a (and 2 other pods): host namespaces\n\
        d (and 1 other pod): host namespaces, forbidden sysctls\n\
        f: hostPath volumes";
    assert_eq!(raise("", ENFORCE).await, expected);
    let version = format!(r#"{ENFORCE},"pod-security.kubernetes.io/enforce-version":"v1.20""#);
    assert_eq!(raise(&version, ENFORCE).await, expected);
    let restricted = ENFORCE.replace("baseline", "restricted");
    for (old, new) in [(ENFORCE, ENFORCE), (ENFORCE, ""), (&restricted, ENFORCE), ("", WARN)] {
        assert_eq!(raise(old, new).await, "", "{old} {new}");
    }
}

#[tokio::test]
async fn only_so_many_pods_are_judged_and_for_so_long() {
    let clock = |step| Arc::new(Steps(Mutex::new(Instant::now()), Duration::from_millis(step)));
    let objects = FixedObjects::default();
    let many = |count: usize| (0..count).map(|it| format!("p{it:04}"));
    pods(&objects, many(3_002).map(|name| (name, "")), "{}");
    assert_eq!(
        raise(&objects, clock(0), "", ENFORCE).await,
        "new PodSecurity enforce level only checked against the first 3000 of 3002 existing pods"
    );

    // The time is up after eleven looks at the clock: eight until every controller had its turn.
    let objects = FixedObjects::default();
    pods(&objects, many(8).map(|name| (name, "one")), PID);
    pods(
        &objects,
        [("z".to_owned(), "two")],
        r#"{"hostIPC":true,"hostPID":true,"volumes":[{"name":"v","hostPath":{}}]}"#,
    );
    assert_eq!(
        raise(&objects, clock(100), "", ENFORCE).await,
        "new PodSecurity enforce level only checked against the first 4 of 9 existing pods\n\
         existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"\n\
         p0000 (and 2 other pods): host namespaces\n\
         z: host namespaces, hostPath volumes"
    );
}
