//! `proxy` of pods and services, as far as it comes without anybody to reach.

use apimachinery::{Value, value};

use crate::cluster::{Cluster, admin};

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    let account = value!({"metadata": {"name": "default"}});
    cluster.done("POST /api/v1/namespaces/default/serviceaccounts", Some(&account)).await;
    cluster.server.hub().catch_up().await.unwrap();
    let pod = value!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "c", "image": "i", "ports": [{"containerPort": 8080}]}
    ]}});
    cluster.done("POST /api/v1/namespaces/default/pods", Some(&pod)).await;
    let service =
        value!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "web", "port": 80}]}});
    cluster.done("POST /api/v1/namespaces/default/services", Some(&service)).await;
    cluster.server.hub().catch_up().await.unwrap();
    cluster
}

async fn check(cluster: &Cluster, path: &str, expected: (u16, &str)) {
    let request = format!("GET /api/v1/namespaces/default/{path}");
    let (code, answer) = cluster.send(&admin(), &request, None::<&Value>).await;
    assert_eq!((code, answer.str_at(&["message"])), expected, "{path}");
}

#[tokio::test]
async fn what_cannot_be_reached_is_refused_as_upstream_does() {
    let cluster = cluster().await;
    check(&cluster, "pods/ftp:p:80/proxy/", (400, "invalid pod request \"ftp:p:80\"")).await;
    check(&cluster, "pods/p/proxy/", (400, "address not allowed")).await;
    check(&cluster, "pods/nobody:80/proxy/", (404, "pods \"nobody\" not found")).await;
    check(&cluster, "services/a:b:c:d/proxy/", (400, "invalid service request \"a:b:c:d\"")).await;
    let none = "no endpoints available for service \"s\"";
    check(&cluster, "services/s:web/proxy/", (503, none)).await;
    let port = "no service port 81 found for service \"s\"";
    check(&cluster, "services/s:81/proxy/", (503, port)).await;
    // An address of this machine is nobody's pod.
    let endpoints = value!({"metadata": {"name": "s"}, "subsets": [
        {"addresses": [{"ip": "10.255.255.1"}], "ports": [{"name": "other", "port": 1}]}
    ]});
    cluster.done("POST /api/v1/namespaces/default/endpoints", Some(&endpoints)).await;
    cluster.server.hub().catch_up().await.unwrap();
    check(&cluster, "services/s:80/proxy/", (503, none)).await;
}

#[tokio::test]
async fn a_path_without_its_slash_is_sent_to_the_one_with_it() {
    let cluster = cluster().await;
    let request = "GET /api/v1/namespaces/default/pods/p/proxy?a=b";
    let (code, _) = cluster.send(&admin(), request, None::<&Value>).await;
    assert_eq!(code, 301);
}
