//! Tokens: those of accounts in Secrets, and those with which nodes join.

use apimachinery::value;
use client::Resource;
use client::call::DeleteParams;

use crate::cluster;

#[tokio::test(start_paused = true)]
async fn a_secret_gets_its_account_s_token_and_goes_with_it() {
    let cluster = cluster(&["serviceaccount-token-controller"]).await;
    let account = value!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x", "namespace": "default"}});
    cluster.create("", "serviceaccounts", account).await;
    let secret = value!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "t", "namespace": "default", "annotations": {"kubernetes.io/service-account.name": "x"}}});
    cluster.create("", "secrets", secret).await;
    let token = cluster
        .eventually("a token", async |it| {
            let secret = it.get("", "secrets", "default", "t").await?;
            let token = secret.str_at(&["data", "token"]).to_owned();
            (!token.is_empty()).then_some(token)
        })
        .await;
    assert_eq!(token, "ZGVmYXVsdDp4");
    let accounts = Resource::built_in("", "serviceaccounts");
    cluster.client.delete(&accounts, "default", "x", &DeleteParams::default()).await.unwrap();
    cluster
        .eventually("the secret is gone", async |it| {
            it.get("", "secrets", "default", "t").await.is_none().then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_bootstrap_token_signs_until_its_time_is_over() {
    let cluster = cluster(&["bootstrap-signer-controller", "token-cleaner-controller"]).await;
    for name in ["kube-public", "kube-system"] {
        if cluster.get("", "namespaces", "", name).await.is_none() {
            let namespace =
                value!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            cluster.create("", "namespaces", namespace).await;
        }
    }
    let info = value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info", "namespace": "kube-public"},
        "data": {"kubeconfig": "here"}});
    cluster.create("", "configmaps", info).await;
    let ends = cluster.clock.now().checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
    let secret = value!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true", "expiration": (ends.to_string())}});
    cluster.create("", "secrets", secret).await;
    let signed = async |wanted: bool| {
        cluster
            .eventually("a signature or none", async |it| {
                let info = it.get("", "configmaps", "kube-public", "cluster-info").await?;
                let signed = info.at(&["data", "jws-kubeconfig-abcdef"]).is_some();
                (signed == wanted).then_some(())
            })
            .await;
    };
    signed(true).await;
    cluster
        .eventually("the token is gone", async |it| {
            it.get("", "secrets", "kube-system", "bootstrap-token-abcdef")
                .await
                .is_none()
                .then_some(())
        })
        .await;
    signed(false).await;
    assert!(cluster.clock.now() >= ends);
}
