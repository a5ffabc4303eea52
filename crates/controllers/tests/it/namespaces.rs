//! What every namespace has, and how one goes.

use apimachinery::value;
use client::Resource;
use client::call::DeleteParams;

use crate::cluster;

#[tokio::test(start_paused = true)]
async fn a_namespace_gets_its_account_and_the_authority_and_goes_with_all_it_holds() {
    let cluster = cluster(&[
        "serviceaccount-controller",
        "root-ca-certificate-publisher-controller",
        "namespace-controller",
    ])
    .await;
    cluster
        .create(
            "",
            "namespaces",
            value!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}),
        )
        .await;
    cluster
        .eventually("account and authority", async |it| {
            it.get("", "serviceaccounts", "a", "default").await?;
            it.get("", "configmaps", "a", "kube-root-ca.crt").await
        })
        .await;
    let accounts = Resource::built_in("", "serviceaccounts");
    cluster.client.delete(&accounts, "a", "default", &DeleteParams::default()).await.unwrap();
    cluster
        .eventually("the account is back", async |it| {
            it.get("", "serviceaccounts", "a", "default").await
        })
        .await;
    let namespaces = Resource::built_in("", "namespaces");
    cluster.client.delete(&namespaces, "", "a", &DeleteParams::default()).await.unwrap();
    cluster
        .eventually("the namespace is gone, and all in it", async |it| {
            let gone = it.get("", "namespaces", "", "a").await.is_none();
            (gone && it.list("", "configmaps", "a").await.is_empty()).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_stays_while_nobody_knows_what_another_server_has_in_it() {
    let cluster = cluster(&["namespace-controller"]).await;
    let service = value!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.far.example.com"},
        "spec": {"group": "far.example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "service": {"namespace": "default", "name": "nobody"}}});
    cluster.create("apiregistration.k8s.io", "apiservices", service).await;
    let namespace = value!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
    cluster.create("", "namespaces", namespace).await;
    let namespaces = Resource::built_in("", "namespaces");
    cluster.client.delete(&namespaces, "", "a", &DeleteParams::default()).await.unwrap();
    let kind = "NamespaceDeletionDiscoveryFailure";
    let condition = cluster
        .eventually("the namespace says why it stays", async |it| {
            let namespace = it.get("", "namespaces", "", "a").await?;
            let mut conditions = namespace.items_at(&["status", "conditions"]).iter();
            conditions.find(|it| it.str_at(&["type"]) == kind).cloned()
        })
        .await;
    assert_eq!(
        (
            condition.str_at(&["status"]),
            condition.str_at(&["reason"]),
            condition.str_at(&["message"])
        ),
        (
            "True",
            "DiscoveryFailed",
            "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: \
             far.example.com/v1: stale GroupVersion discovery: far.example.com/v1"
        )
    );
    let services = Resource::built_in("apiregistration.k8s.io", "apiservices");
    let name = "v1.far.example.com";
    cluster.client.delete(&services, "", name, &DeleteParams::default()).await.unwrap();
    cluster
        .eventually("the namespace is gone", async |it| {
            it.get("", "namespaces", "", "a").await.is_none().then_some(())
        })
        .await;
}
