//! ClusterRoles that are made of others.

use apimachinery::{Value, value};
use client::Resource;
use client::call::PatchKind;

use crate::cluster;

const GROUP: &str = "rbac.authorization.k8s.io";

fn role(name: &str, aggregates: bool, resource: &str) -> Value {
    let mut role = value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}});
    if aggregates {
        let rule = value!({"clusterRoleSelectors": [{"matchLabels": {"agg": "x"}}]});
        role.set_at(&["aggregationRule"], rule);
    } else {
        role.set_at(&["metadata", "labels"], value!({"agg": "x"}));
        role.set_at(
            &["rules"],
            value!([{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]),
        );
    }
    role
}

#[tokio::test(start_paused = true)]
async fn a_role_has_the_rules_of_those_it_selects() {
    let cluster = cluster(&["clusterrole-aggregation-controller"]).await;
    for role in [role("all", true, ""), role("a", false, "pods"), role("b", false, "secrets")] {
        cluster.create(GROUP, "clusterroles", role).await;
    }
    let wait = async |expected: &[&str]| {
        cluster
            .eventually("the rules", async |it| {
                let all = it.get(GROUP, "clusterroles", "", "all").await?;
                let rules = all.items_at(&["rules"]).iter();
                let has: Vec<&str> =
                    rules.filter_map(|it| it.items_at(&["resources"])[0].as_str()).collect();
                (has == expected).then_some(())
            })
            .await;
    };
    wait(&["pods", "secrets"]).await;
    let roles = Resource::built_in(GROUP, "clusterroles");
    for (name, left) in [("a", vec!["secrets"]), ("b", vec![])] {
        let patch = value!({"metadata": {"labels": null}});
        cluster.client.patch(&roles, "", name, "", PatchKind::Merge, &patch).await.unwrap();
        wait(&left).await;
    }
}
