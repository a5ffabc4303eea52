//! Policies whose expressions do not fit say so.

use apimachinery::{Value, value};

use crate::cluster;

const GROUP: &str = "admissionregistration.k8s.io";

fn policy(name: &str, expression: &str) -> Value {
    value!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": [
            {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["CREATE"]}]},
            "validations": [{"expression": expression}]}})
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_checked_once() {
    let cluster = cluster(&["validatingadmissionpolicy-status-controller"]).await;
    for (name, expression, warnings) in
        [("good", "object.spec.replicas > 1", 0), ("bad", "object.spec.replicass > 1", 1)]
    {
        cluster.create(GROUP, "validatingadmissionpolicies", policy(name, expression)).await;
        let status = cluster
            .eventually("it is checked", async |it| {
                let policy = it.get(GROUP, "validatingadmissionpolicies", "", name).await?;
                let seen = policy.i64_at(&["status", "observedGeneration"]) == Some(1);
                seen.then(|| policy["status"].clone())
            })
            .await;
        let told = status.items_at(&["typeChecking", "expressionWarnings"]);
        assert_eq!(told.len(), warnings, "{status:?}");
    }
}
