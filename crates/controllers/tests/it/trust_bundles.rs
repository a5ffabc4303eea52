//! The cluster's authority is there for pods to mount.

use std::sync::Arc;

use apimachinery::value;
use client::Resource;
use client::call::DeleteParams;
use test_cluster::TestCluster;

const GROUP: &str = "certificates.k8s.io";
const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";

#[tokio::test(start_paused = true)]
async fn the_authority_is_published_once() {
    let cluster = TestCluster::new(1).await;
    let certificate = |name: &str| {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    };
    let bundle = value!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle",
        "metadata": {"name": "kubernetes.io:kube-apiserver-serving:old"},
        "spec": {"signerName": SIGNER, "trustBundle": (certificate("old"))}});
    cluster.create(GROUP, "clustertrustbundles", bundle).await;
    let now = certificate("now");
    let setup = controllers::Setup { root_ca: Arc::from(now.as_str()), ..crate::setup(&cluster) };
    let publisher = controllers::trust_bundles::TrustBundlePublisher {
        root_ca: now.as_str().into(),
        metrics: controllers::publisher::Metrics::default(),
    };
    assert!(publisher.has_any());
    controllers::start_all(&setup, |it| it.contains("clustertrustbundle"));
    let only = cluster
        .eventually("there is one", async |it| {
            let all = it.list(GROUP, "clustertrustbundles", "").await;
            (all.len() == 1 && all[0].str_at(&["spec", "trustBundle"]) == now)
                .then(|| all[0].clone())
        })
        .await;
    assert_eq!(only.str_at(&["spec", "signerName"]), SIGNER);
    assert!(
        only.str_at(&["metadata", "name"]).starts_with("kubernetes.io:kube-apiserver-serving:")
    );
    // Whoever takes it away gets it back.
    let (of, name) =
        (Resource::built_in(GROUP, "clustertrustbundles"), only.str_at(&["metadata", "name"]));
    cluster.client.delete(&of, "", name, &DeleteParams::default()).await.unwrap();
    cluster
        .eventually("it is back", async |it| {
            let all = it.list(GROUP, "clustertrustbundles", "").await;
            all.first().filter(|it| it["metadata"]["uid"] != only["metadata"]["uid"]).cloned()
        })
        .await;
}
