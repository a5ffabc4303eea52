//! Writes that meet.

use apimachinery::value;

use crate::cluster::{Cluster, admin};

#[tokio::test]
async fn patches_that_meet_are_all_made() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/namespaces/default/configmaps/shared";
    let map = value!({"metadata": {"name": "shared"}});
    cluster.done("POST /api/v1/namespaces/default/configmaps", Some(&map)).await;
    let patch = |key: &str| value!({"data": {key: "there"}});
    let [a, b, c] = ["a", "b", "c"].map(patch);
    let request = format!("PATCH {path}");
    let user = admin();
    let answers = futures::join!(
        cluster.send(&user, &request, Some(&a)),
        cluster.send(&user, &request, Some(&b)),
        cluster.send(&user, &request, Some(&c)),
    );
    assert_eq!((answers.0.0, answers.1.0, answers.2.0), (200, 200, 200));
    let made = cluster.done(&format!("GET {path}"), None).await;
    assert_eq!(made.get("data"), Some(&value!({"a": "there", "b": "there", "c": "there"})));
    // A patch that names a version is made of that one only.
    let stale = value!({"metadata": {"resourceVersion": "1"}, "data": {"d": "late"}});
    assert_eq!(cluster.send(&user, &request, Some(&stale)).await.0, 409);
}
