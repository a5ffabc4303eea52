//! What volumes say of nodes, in the pure decision.

use apimachinery::{Value, value};
use client::ObjectKey;
use scheduler::decide::{Decision, How};
use scheduler::framework::Cycle;
use scheduler::{Cluster, NodeLite, PodLite, Profile, decide};

fn cluster(nodes: &[&str]) -> Cluster {
    let mut cluster = Cluster::default();
    for name in nodes {
        cluster.set_node(NodeLite::from_value(&value!({
            "metadata": {"name": (*name), "labels": {"host": (*name)}},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}})));
    }
    cluster
}

fn set(cluster: &mut Cluster, plural: &str, object: &Value) {
    let key = |member| object.str_at(&["metadata", member]).to_owned();
    cluster.set(plural, &ObjectKey::new(key("namespace"), key("name")), Some(object));
}

fn class(name: &str, provisioner: &str) -> Value {
    value!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"})
}

fn claim(name: &str, class: &str, size: &str) -> Value {
    value!({"metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}})
}

fn pod(name: &str, volumes: Value) -> PodLite {
    PodLite::from_value(&value!({"metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"containers": [{"name": "c"}], "volumes": volumes}}))
}

fn claims(names: &[&str]) -> Value {
    let volume =
        |name: &&str| value!({"name": (*name), "persistentVolumeClaim": {"claimName": (*name)}});
    Value::Array(names.iter().map(volume).collect())
}

/// The nodes that will do, each with what a plugin gives it.
fn scores(cluster: &Cluster, pod: &PodLite, plugin: &str) -> Vec<(String, i64)> {
    let how = How { parts: true, ..How::default() };
    let Decision::Place(it) = decide(Cycle { pod, cluster }, &Profile::default(), how) else {
        return Vec::new();
    };
    let names = it.candidates.iter().map(|row| cluster.rows()[*row].node.name.to_string());
    let part = it.parts.iter().find(|(name, _)| *name == plugin);
    names.zip(part.map(|it| it.1.clone()).unwrap_or_default()).collect()
}

#[test]
fn nodes_where_volumes_leave_more_room_are_better() {
    let mut cluster = cluster(&["n1", "n2", "n3"]);
    set(&mut cluster, "storageclasses", &class("fast", "x.csi"));
    set(
        &mut cluster,
        "csidrivers",
        &value!({"metadata": {"name": "x.csi"}, "spec": {"storageCapacity": true}}),
    );
    for (node, capacity) in [("n1", "100Gi"), ("n2", "200Gi"), ("n3", "10Gi")] {
        let room = value!({"metadata": {"name": node, "namespace": "d"}, "storageClassName": "fast",
            "capacity": capacity, "nodeTopology": {"matchLabels": {"host": node}}});
        set(&mut cluster, "csistoragecapacities", &room);
    }
    for (name, size) in [("a", "30Gi"), ("b", "20Gi")] {
        set(&mut cluster, "persistentvolumeclaims", &claim(name, "fast", size));
    }
    let expect = |scored: &[(&str, i64)]| -> Vec<(String, i64)> {
        scored.iter().map(|(node, score)| ((*node).to_owned(), *score)).collect()
    };
    let both = pod("p", claims(&["a", "b"]));
    let scored = scores(&cluster, &both, "VolumeBinding");
    assert_eq!(scored, expect(&[("n1", 50), ("n2", 75)]), "both of what there is once");
    // A volume that is there already counts by its own size, and what is made beside it not at all.
    let volume = value!({"metadata": {"name": "v"}, "status": {"phase": "Available"},
        "spec": {"capacity": {"storage": "40Gi"}, "storageClassName": "fast", "accessModes": ["ReadWriteOnce"],
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
                [{"key": "host", "operator": "In", "values": ["n1"]}]}]}}}});
    set(&mut cluster, "persistentvolumes", &volume);
    let scored = scores(&cluster, &both, "VolumeBinding");
    assert_eq!(scored, expect(&[("n1", 50), ("n2", 75)]), "20 of 40");
    set(
        &mut cluster,
        "csidrivers",
        &value!({"metadata": {"name": "x.csi"}, "spec": {"storageCapacity": false}}),
    );
    let scored = scores(&cluster, &both, "VolumeBinding");
    assert_eq!(scored, expect(&[("n1", 50), ("n2", 0), ("n3", 0)]), "others say nothing");
    assert_eq!(scores(&cluster, &pod("plain", value!([])), "VolumeBinding"), []);
}

/// A node's driver of EBS that attaches so many volumes.
fn attaches(node: &str, count: i64, left: &str) -> Value {
    value!({"metadata": {"name": node, "annotations": {"storage.alpha.kubernetes.io/migrated-plugins": left}},
        "spec": {"drivers": [{"name": "ebs.csi.aws.com", "allocatable": {"count": count}}]}})
}

fn refusal(cluster: &Cluster, pod: &PodLite) -> String {
    match decide(Cycle { pod, cluster }, &Profile::default(), How::default()) {
        Decision::Place(it) => it.node.to_string(),
        Decision::Reject(it) => it.message,
        Decision::Fail(error) => error,
    }
}

#[test]
fn volumes_of_in_tree_plugins_count_for_the_drivers_that_took_over() {
    let mut cluster = cluster(&["n1"]);
    set(&mut cluster, "csinodes", &attaches("n1", 2, ""));
    set(&mut cluster, "storageclasses", &class("old", "kubernetes.io/aws-ebs"));
    let ebs = |id: &str| value!([{"name": "v", "awsElasticBlockStore": {"volumeID": id}}]);
    let mut first = pod("first", ebs("aws://z/vol-1"));
    first.node = "n1".into();
    cluster.set_pod(std::sync::Arc::new(first));
    let volume = value!({"metadata": {"name": "pv"}, "status": {"phase": "Bound"},
        "spec": {"awsElasticBlockStore": {"volumeID": "vol-2"}}});
    set(&mut cluster, "persistentvolumes", &volume);
    let mut bound = claim("a", "old", "1Gi");
    bound.set_at(&["metadata", "annotations"], value!({"pv.kubernetes.io/bind-completed": "yes"}));
    bound.set_at(&["spec", "volumeName"], "pv");
    set(&mut cluster, "persistentvolumeclaims", &bound);
    assert_eq!(refusal(&cluster, &pod("second", claims(&["a"]))), "n1");
    let attachment = value!({"metadata": {"name": "at"}, "spec": {"nodeName": "n1", "attacher": "ebs.csi.aws.com",
        "source": {"persistentVolumeName": "pv"}}});
    set(&mut cluster, "volumeattachments", &attachment);
    assert_eq!(refusal(&cluster, &pod("second", claims(&["a"]))), "n1", "it is there already");
    set(&mut cluster, "persistentvolumeclaims", &claim("b", "old", "1Gi"));
    for (name, volumes) in [("third", ebs("vol-3")), ("fourth", claims(&["b"]))] {
        let message = refusal(&cluster, &pod(name, volumes));
        assert!(message.contains("1 node(s) exceed max volume count"), "{name}: {message}");
    }
    let portworx = value!([{"name": "v", "portworxVolume": {"volumeID": "p"}}]);
    assert_eq!(refusal(&cluster, &pod("fifth", portworx)), "n1");
}

#[test]
fn a_volume_of_an_in_tree_plugin_is_where_its_driver_says_on_nodes_that_leave_it_to_it() {
    let mut cluster = cluster(&[]);
    for (name, label) in
        [("old", "topology.kubernetes.io/zone"), ("new", "topology.ebs.csi.aws.com/zone")]
    {
        cluster.set_node(NodeLite::from_value(&value!({
            "metadata": {"name": name, "labels": {label: "z"}},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}})));
    }
    set(
        &mut cluster,
        "csinodes",
        &attaches("new", 9, "kubernetes.io/gce-pd,kubernetes.io/aws-ebs"),
    );
    let volume = value!({"metadata": {"name": "pv"}, "status": {"phase": "Bound"},
        "spec": {"awsElasticBlockStore": {"volumeID": "vol-2"}, "nodeAffinity": {"required": {"nodeSelectorTerms":
            [{"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["z"]}]}]}}}});
    set(&mut cluster, "persistentvolumes", &volume);
    let mut bound = claim("a", "", "1Gi");
    bound.set_at(&["metadata", "annotations"], value!({"pv.kubernetes.io/bind-completed": "yes"}));
    bound.set_at(&["spec", "volumeName"], "pv");
    set(&mut cluster, "persistentvolumeclaims", &bound);
    let using = pod("p", claims(&["a"]));
    let place = |cluster: &Cluster| match decide(
        Cycle { pod: &using, cluster },
        &Profile::default(),
        How::default(),
    ) {
        Decision::Place(it) => it.feasible,
        Decision::Reject(_) | Decision::Fail(_) => 0,
    };
    assert_eq!(place(&cluster), 2);
    set(&mut cluster, "csinodes", &attaches("new", 9, ""));
    assert_eq!(place(&cluster), 1);
}

#[test]
fn a_driver_keeps_pods_from_nodes_where_it_is_not_installed_if_it_says_so() {
    let mut cluster = cluster(&["n1", "n2"]);
    set(&mut cluster, "csinodes", &attaches("n1", 2, ""));
    set(&mut cluster, "storageclasses", &class("ebs", "ebs.csi.aws.com"));
    set(&mut cluster, "persistentvolumeclaims", &claim("a", "ebs", "1Gi"));
    let using = pod("p", claims(&["a"]));
    let feasible = |cluster: &Cluster| {
        let cycle = Cycle { pod: &using, cluster };
        match decide(cycle, &Profile::default(), How::default()) {
            Decision::Place(it) => format!("{} {}", it.feasible, it.node),
            Decision::Reject(it) => it.message,
            Decision::Fail(error) => error,
        }
    };
    assert!(feasible(&cluster).starts_with("2 "));
    let driver = |needed: bool| value!({"metadata": {"name": "ebs.csi.aws.com"}, "spec": {"preventPodSchedulingIfMissing": needed}});
    set(&mut cluster, "csidrivers", &driver(true));
    assert_eq!(feasible(&cluster), "1 n1");
    cluster.set("csinodes", &ObjectKey::new("", "n1"), None);
    let message = feasible(&cluster);
    let expected = "2 ebs.csi.aws.com CSI driver is not installed on the node";
    assert!(message.contains(expected), "{message}");
    set(&mut cluster, "csidrivers", &driver(false));
    assert!(feasible(&cluster).starts_with("2 "));
}

/// A claim that says that it is bound to a volume.
fn bound(name: &str, volume: &str) -> Value {
    let mut claim = claim(name, "", "1Gi");
    claim.set_at(&["spec", "volumeName"], volume);
    claim.set_at(&["metadata", "annotations", "pv.kubernetes.io/bind-completed"], "yes");
    claim
}

#[test]
fn a_claim_that_names_its_volume_is_bound_before_its_pod_is_placed() {
    let mut cluster = cluster(&["n1"]);
    set(&mut cluster, "storageclasses", &class("fast", "x.csi"));
    let mut named = claim("named", "fast", "1Gi");
    named.set_at(&["spec", "volumeName"], "v");
    set(&mut cluster, "persistentvolumeclaims", &named);
    let message = refusal(&cluster, &pod("p", claims(&["named"])));
    assert!(message.contains("pod has unbound immediate PersistentVolumeClaims. "), "{message}");
}

#[test]
fn claims_and_volumes_that_are_not_there_are_named_by_whoever_misses_them_first() {
    let mut cluster = cluster(&["n1"]);
    let mut going = claim("going", "", "1Gi");
    going.set_at(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
    set(&mut cluster, "persistentvolumeclaims", &going);
    set(&mut cluster, "persistentvolumeclaims", &bound("lost", "v"));
    let mut own = bound("p-own", "v");
    let owner = value!([{"uid": "p", "controller": true}]);
    own.set_at(&["metadata", "ownerReferences"], owner);
    set(&mut cluster, "persistentvolumeclaims", &own);
    for (volumes, reason, plugin) in [
        (
            claims(&["going", "gone"]),
            r#"persistentvolumeclaim "gone" not found."#,
            "VolumeRestrictions",
        ),
        (claims(&["going"]), r#"persistentvolumeclaim "going" is being deleted."#, "VolumeBinding"),
        (claims(&["lost"]), r#"persistentvolume "v" not found."#, "VolumeZone"),
        (
            value!([{"name": "own", "ephemeral": {}}]),
            "1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s).",
            "VolumeBinding",
        ),
    ] {
        let pod = pod("p", volumes);
        let cycle = Cycle { pod: &pod, cluster: &cluster };
        let Decision::Reject(it) = decide(cycle, &Profile::default(), How::default()) else {
            panic!("{reason}: it is placed");
        };
        let message = format!("0/1 nodes are available: {reason}");
        assert!(it.message.starts_with(&message), "{}", it.message);
        assert_eq!(it.plugins, [plugin]);
    }
}

#[test]
fn the_zone_of_a_volume_counts_where_the_pod_names_the_claim_itself() {
    let mut cluster = Cluster::default();
    cluster.set_node(NodeLite::from_value(&value!({
        "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}})));
    for (volume, zones) in [("v", "z2"), ("w", "z2__")] {
        let labels = value!({"topology.kubernetes.io/zone": zones});
        let volume = value!({"metadata": {"name": volume, "labels": labels}, "spec": {}});
        set(&mut cluster, "persistentvolumes", &volume);
    }
    let mut own = bound("p-own", "v");
    own.set_at(&["metadata", "ownerReferences"], value!([{"uid": "p", "controller": true}]));
    for claim in [own, bound("named", "v"), bound("no-list", "w")] {
        set(&mut cluster, "persistentvolumeclaims", &claim);
    }
    let message = refusal(&cluster, &pod("p", claims(&["named"])));
    assert!(message.contains("1 node(s) had no available volume zone."), "{message}");
    let placed = [value!([{"name": "own", "ephemeral": {}}]), claims(&["no-list"])];
    for volumes in placed {
        let pod = pod("p", volumes);
        let cycle = Cycle { pod: &pod, cluster: &cluster };
        let decision = decide(cycle, &Profile::default(), How::default());
        assert!(matches!(decision, Decision::Place(_)), "{decision:?}");
    }
}
