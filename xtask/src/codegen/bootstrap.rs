//! What a fresh server holds: the recorded objects without what the server adds itself, one a line.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// The recordings, in the order in which the objects are made. What depends on the server's own address or network is
/// not among them.
const FILES: [&str; 9] = [
    "namespaces",
    "apiservices",
    "priorityclasses",
    "prioritylevelconfigurations",
    "flowschemas",
    "clusterroles",
    "clusterrolebindings",
    "roles",
    "rolebindings",
];

/// What 1.37 lets roles do beyond what the recordings, which are of 1.36, say: role, resource, verbs.
const SINCE_37: [(&str, &str, &[&str]); 3] = [
    ("system:kube-scheduler", "devicetaintrules", &["get", "list", "watch"]),
    (
        "system:controller:device-taint-eviction-controller",
        "devicetaintrules",
        &["get", "list", "watch"],
    ),
    (
        "system:controller:device-taint-eviction-controller",
        "devicetaintrules/status",
        &["patch", "update"],
    ),
];

/// The generated text.
pub(super) fn generate(reference: &Path) -> Result<String> {
    let mut out = String::new();
    for name in FILES {
        let path = reference.join("bootstrap").join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("could not read {}", path.display()))?;
        let list: Value = serde_json::from_str(&text)?;
        let kind = list["kind"].as_str().unwrap_or_default().trim_end_matches("List");
        let version = list["apiVersion"].as_str().unwrap_or_default();
        for item in list["items"].as_array().into_iter().flatten() {
            let mut item = item.clone();
            item["kind"] = kind.into();
            item["apiVersion"] = version.into();
            strip(&mut item);
            add_rules(&mut item);
            out.push_str(&serde_json::to_string(&item)?);
            out.push('\n');
        }
    }
    Ok(out)
}

fn add_rules(item: &mut Value) {
    let name = item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if item["kind"] != "ClusterRole" {
        return;
    }
    for (_, resource, verbs) in SINCE_37.iter().filter(|(role, ..)| *role == name) {
        let rule = serde_json::json!({"apiGroups": ["resource.k8s.io"], "resources": [resource], "verbs": verbs});
        if let Some(rules) = item["rules"].as_array_mut() {
            rules.push(rule);
        }
    }
}

/// Takes away what the server sets, and what is null.
fn strip(item: &mut Value) {
    let namespace = item["kind"] == "Namespace";
    if let Some(metadata) = item["metadata"].as_object_mut() {
        for member in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"]
        {
            metadata.remove(member);
        }
    }
    if let Some(members) = item.as_object_mut() {
        members.remove("status");
        if namespace {
            members.remove("spec");
        }
        members.retain(|_, value| !value.is_null());
    }
}
