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
