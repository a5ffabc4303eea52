//! Policies and webhooks of files: they count from the beginning, and nobody takes them away by the API.

use std::path::Path;
use std::sync::Arc;

use admission::AdmissionConfiguration;
use apimachinery::{Value, value};
use component_base::{Clock, RealClock, Shutdown};
use registry::{Apis, Features, Registry};

use crate::cluster::{Cluster, With, admin};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// A policy that refuses what its expression is false for, and what puts it in force.
fn refusing(name: &str, rule: &str, expression: &str) -> String {
    format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {{name: {name}.static.k8s.io}}\n\
         spec:\n  matchConstraints: {{resourceRules: [{rule}]}}\n  validations: [{{expression: \"{expression}\"}}]\n---\n\
         apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {{name: {name}.static.k8s.io}}\n\
         spec: {{policyName: {name}.static.k8s.io, validationActions: [Deny]}}\n"
    )
}

const ON_MAPS: &str =
    "{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}";
const ON_POLICIES: &str = "{apiGroups: [admissionregistration.k8s.io], apiVersions: ['*'], operations: [DELETE], resources: [validatingadmissionpolicies]}";

fn configuration(directory: &Path) -> Result<AdmissionConfiguration, String> {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- name: ValidatingAdmissionPolicy\n  \
         configuration: {{apiVersion: apiserver.config.k8s.io/v1, kind: ValidatingAdmissionPolicyConfiguration, staticManifestsDir: {}}}\n",
        directory.display()
    );
    let mut made = AdmissionConfiguration::parse(text.as_bytes(), |it| Err(it.into())).unwrap();
    made.load_manifests(true)?;
    Ok(made)
}

fn policy(name: &str) -> Value {
    value!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name, "labels": {"kept": "yes"}},
        "spec": {"validations": [{"expression": "true"}], "matchConstraints": {"resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]}]}}})
}

#[tokio::test]
async fn policies_of_files_count_also_for_policies_and_are_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("maps.yaml");
    std::fs::write(&file, refusing("maps", ON_MAPS, "object.metadata.name != 'no'")).unwrap();
    let kept =
        refusing("kept", ON_POLICIES, "oldObject.metadata.?labels.kept.orValue('') != 'yes'");
    std::fs::write(directory.path().join("kept.yml"), kept).unwrap();
    std::fs::write(directory.path().join("notes.txt"), "not read").unwrap();
    let admission = configuration(directory.path()).unwrap();
    let (stop, clock) = (Shutdown::new(), Arc::new(RealClock) as Arc<dyn Clock>);
    admission.follow_manifests("sha256:me", &clock, &stop.signal()).unwrap();
    let features = Features { manifest_based_admission: true, ..Features::default() };
    let registry = Some(Registry::of(Apis::default().with_features(features)));
    let cluster = Cluster::start_changed(With { registry, admission, ..With::default() }).await;
    let map =
        |name: &str| value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    cluster.done(&format!("POST {MAPS}"), Some(&map("yes"))).await;
    let (_, answer) = cluster.send(&admin(), &format!("POST {MAPS}"), Some(&map("no"))).await;
    let wanted = "configmaps \"no\" is forbidden: ValidatingAdmissionPolicy 'maps.static.k8s.io' with binding 'maps.static.k8s.io' denied request";
    assert!(answer.str_at(&["message"]).starts_with(wanted), "{answer:?}");
    // Those of the API are never asked about each other; those of files are.
    let policies = format!("{GROUP}/validatingadmissionpolicies");
    cluster.done(&format!("POST {policies}"), Some(&policy("p"))).await;
    let (_, answer) = cluster.send(&admin(), &format!("DELETE {policies}/p"), None).await;
    assert!(answer.str_at(&["message"]).contains("'kept.static.k8s.io'"), "{answer:?}");
    // Nobody sees them, or takes their names.
    let (code, _) =
        cluster.send(&admin(), &format!("GET {policies}/maps.static.k8s.io"), None).await;
    assert_eq!(code, 404);
    let (code, answer) =
        cluster.send(&admin(), &format!("POST {policies}"), Some(&policy("x.static.k8s.io"))).await;
    let wanted = "metadata.name: Invalid value: \"x.static.k8s.io\": names ending with \".static.k8s.io\" are reserved for static manifest-based configurations and cannot be managed via the API";
    assert_eq!(code, 422);
    assert!(answer.str_at(&["message"]).ends_with(wanted), "{answer:?}");
    // What is wrong changes nothing, and what is right counts.
    let metrics = async |line: &str| {
        for _ in 0..1_000 {
            let told = cluster.send(&admin(), "GET /metrics", None).await.1;
            if told.as_str().unwrap().lines().any(|it| it.starts_with(line)) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{line} is not told");
    };
    let reloads = "apiserver_manifest_admission_config_controller_automatic_reloads_total";
    let of = "plugin=\"ValidatingAdmissionPolicy\",apiserver_id_hash=\"sha256:me\"}";
    metrics(&format!("{reloads}{{status=\"success\",{of} 1")).await;
    std::fs::write(&file, "kind: Nothing").unwrap();
    metrics(&format!("{reloads}{{status=\"failure\",{of}")).await;
    let (code, _) = cluster.send(&admin(), &format!("POST {MAPS}"), Some(&map("no"))).await;
    assert_eq!(code, 422);
    std::fs::write(&file, refusing("maps", ON_MAPS, "true")).unwrap();
    metrics(&format!("{reloads}{{status=\"success\",{of} 2")).await;
    cluster.done(&format!("POST {MAPS}"), Some(&map("no"))).await;
}

#[test]
fn a_directory_that_is_none_or_not_allowed_is_refused() {
    let away = Path::new("/nowhere/at/all");
    let why = configuration(away).unwrap_err();
    assert!(why.contains("unable to read"), "{why}");
    let why = configuration(Path::new("relative")).unwrap_err();
    assert!(why.ends_with("must be an absolute file path"), "{why}");
}
