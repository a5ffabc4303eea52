//! Pods from their creation to their end, as a client of the API sees them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, value};
use client::Resource;
use client::call::{DeleteParams, PatchKind};
use component_base::Shutdown;
use kubelet::{Config, Kubelet, Parts};
use test_cluster::TestCluster;

use crate::fake::Fake;

/// A cluster with one node.
struct Node {
    cluster: TestCluster,
    fake: Fake,
    dir: tempfile::TempDir,
    stop: Shutdown,
}

impl Node {
    async fn new() -> Self {
        let cluster = TestCluster::new(1).await;
        let fake = Fake::new(Arc::clone(&cluster.clock));
        let dir = tempfile::tempdir().unwrap();
        let namespace = |name: &str| value!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        for name in ["ns", "kube-node-lease"] {
            cluster.create("", "namespaces", namespace(name)).await;
        }
        let mut node = Self { cluster, fake, dir, stop: Shutdown::new() };
        node.start().await;
        node
    }

    /// Starts the agent, or another one in its place.
    async fn start(&mut self) {
        self.stop.request();
        self.stop = Shutdown::new();
        let parts = Parts {
            config: config(self.dir.path()),
            client: self.cluster.client_named("system:node:n"),
            runtime: Arc::new(self.fake.clone()),
            images: Arc::new(self.fake.clone()),
            clock: Arc::clone(&self.cluster.clock),
            random: Arc::clone(&self.cluster.random),
            serving: None,
        };
        let kubelet = Kubelet::open(parts).await.unwrap();
        tokio::spawn(kubelet.run(self.stop.signal()));
    }

    async fn pod(&self, name: &str, mut spec: Value) {
        spec.set_at(&["nodeName"], "n");
        let pod = value!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "ns", "labels": {"a": "b"}}, "spec": spec});
        self.cluster.create("", "pods", pod).await;
    }

    /// Waits until a pod's state is this, as told by [`brief`].
    async fn until(&self, name: &str, expected: &str) {
        let mut last = String::new();
        let client = self.cluster.client.clone();
        for _ in 0..20_000 {
            last = match client.get(&pods(), "ns", name).await {
                Ok(pod) => brief(&pod),
                Err(error) if error.is_not_found() => "gone".into(),
                Err(error) => panic!("{error}"),
            };
            if last == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!(
            "{name} never became {expected:?}; last it was {last:?}; calls {:?}",
            self.fake.calls()
        );
    }

    async fn events(&self, name: &str) -> Vec<String> {
        let all = self.cluster.list("", "events", "ns").await;
        let of_pod = all.iter().filter(|it| it.str_at(&["involvedObject", "name"]) == name);
        let mut list: Vec<String> = of_pod
            .map(|it| format!("{}: {}", it.str_at(&["reason"]), it.str_at(&["message"])))
            .collect();
        list.sort();
        list
    }

    async fn delete(&self, name: &str) {
        self.cluster.client.delete(&pods(), "ns", name, &DeleteParams::default()).await.unwrap();
    }
}

fn config(dir: &Path) -> Config {
    Config {
        node_ips: vec!["192.0.2.1".parse().unwrap()],
        // Tests make no groups in the kernel.
        cgroup_root: String::new(),
        resolv_conf: None,
        static_pods: Some(dir.join("manifests")),
        // How full this machine is decides nothing here.
        eviction_memory_bytes: 0,
        eviction_disk_percent: 0,
        ..Config::new("n", dir)
    }
}

fn pods() -> Resource {
    Resource::built_in("", "pods")
}

/// Phase, reason, readiness and each container's state.
fn brief(pod: &Value) -> String {
    let mut parts = vec![pod.str_at(&["status", "phase"]).to_owned()];
    let reason = pod.str_at(&["status", "reason"]);
    if !reason.is_empty() {
        parts.push(reason.to_owned());
    }
    let conditions = pod.items_at(&["status", "conditions"]);
    if conditions
        .iter()
        .any(|it| it.str_at(&["type"]) == "Ready" && it.str_at(&["status"]) == "True")
    {
        parts.push("ready".into());
    }
    for it in pod.items_at(&["status", "containerStatuses"]) {
        let state = it
            .get("state")
            .and_then(Value::as_object)
            .and_then(|it| it.iter().next().map(|(k, v)| (k.to_owned(), v.clone())));
        let (kind, detail) = state.unwrap_or_default();
        let detail = match kind.as_str() {
            "running" => "running".to_owned(),
            "terminated" => format!(
                "{}({})",
                detail.str_at(&["reason"]),
                detail.i64_at(&["exitCode"]).unwrap_or(-1)
            ),
            _ => detail.str_at(&["reason"]).to_owned(),
        };
        parts.push(format!(
            "{}:{detail}:{}",
            it.str_at(&["name"]),
            it.i64_at(&["restartCount"]).unwrap_or(-1)
        ));
    }
    parts.join(" ")
}

fn one(command: &[&str]) -> Value {
    let command: Vec<Value> = command.iter().map(|it| (*it).into()).collect();
    value!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 5, "containers": [
        {"name": "c", "image": "here:1", "imagePullPolicy": "IfNotPresent", "command": (Value::Array(command))}]})
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_and_is_deleted() {
    let node = Node::new().await;
    node.pod("p", one(&["run"])).await;
    node.until("p", "Running ready c:running:0").await;
    let pod = node.cluster.client.get(&pods(), "ns", "p").await.unwrap();
    assert_eq!(pod.str_at(&["status", "podIP"]), "10.0.0.9");
    assert_eq!(pod.str_at(&["status", "hostIP"]), "192.0.2.1");
    node.delete("p").await;
    node.until("p", "gone").await;
    let calls = node.fake.calls();
    assert_eq!(calls, ["sandbox p", "start c", "kill c 5s", "stop s1"]);
    assert_eq!(
        node.events("p").await,
        [
            "Created: Container created",
            "Killing: Stopping container c",
            "Pulled: Container image \"here:1\" already present on machine and can be accessed by the pod",
            "Started: Container started"
        ]
    );
    assert!(!node.dir.path().join("pods").read_dir().unwrap().any(|_| true), "nothing is left");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_fails_waits_longer_each_time() {
    let node = Node::new().await;
    node.pod("p", one(&["exit", "1"])).await;
    let begun = tokio::time::Instant::now();
    node.until("p", "Running c:CrashLoopBackOff:1").await;
    node.until("p", "Running c:CrashLoopBackOff:2").await;
    assert!(begun.elapsed() >= Duration::from_secs(10), "{:?}", begun.elapsed());
    node.until("p", "Running c:CrashLoopBackOff:3").await;
    assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(
        node.events("p").await.iter().any(
            |it| it.starts_with("BackOff: Back-off restarting failed container c in pod p_ns(")
        )
    );
}

#[tokio::test(start_paused = true)]
async fn pods_that_finish_say_how() {
    let node = Node::new().await;
    let mut done = one(&["after", "2", "0"]);
    done.set_at(&["restartPolicy"], "OnFailure");
    node.pod("done", done).await;
    node.until("done", "Succeeded c:Completed(0):0").await;
    let mut failed = one(&["exit", "3"]);
    failed.set_at(&["restartPolicy"], "Never");
    node.pod("failed", failed).await;
    node.until("failed", "Failed c:Error(3):0").await;
    let mut broken = one(&["unstartable"]);
    broken.set_at(&["restartPolicy"], "Never");
    node.pod("broken", broken).await;
    node.until("broken", "Failed c:Error(128):0").await;
    let mut late = one(&["run"]);
    late.set_at(&["activeDeadlineSeconds"], 7);
    node.pod("late", late).await;
    node.until("late", "Failed DeadlineExceeded c:Completed(0):0").await;
}

#[tokio::test(start_paused = true)]
async fn images_that_cannot_be_had_are_tried_again_later() {
    let node = Node::new().await;
    let mut spec = one(&["run"]);
    spec.items_at_mut(&["containers"])[0].set_at(&["image"], "nowhere:1");
    node.pod("p", spec).await;
    node.until("p", "Pending c:ErrImagePull:0").await;
    node.until("p", "Pending c:ImagePullBackOff:0").await;
    let mut spec = one(&["run"]);
    spec.items_at_mut(&["containers"])[0].set_at(&["image"], "there:1");
    node.pod("q", spec).await;
    node.until("q", "Running ready c:running:0").await;
    assert!(
        node.events("q")
            .await
            .iter()
            .any(|it| it.starts_with("Pulled: Successfully pulled image \"there:1\" in "))
    );
}

#[tokio::test(start_paused = true)]
async fn probes_decide_on_readiness_and_restarts() {
    let node = Node::new().await;
    node.fake.answer("ready", 1);
    let mut spec = one(&["run"]);
    let container = &mut spec.items_at_mut(&["containers"])[0];
    container
        .set_at(&["readinessProbe"], value!({"exec": {"command": ["ready"]}, "periodSeconds": 1}));
    container.set_at(
        &["livenessProbe"],
        value!({"exec": {"command": ["live"]}, "periodSeconds": 1, "failureThreshold": 2}),
    );
    node.pod("p", spec).await;
    node.until("p", "Running c:running:0").await;
    node.fake.answer("ready", 0);
    node.until("p", "Running ready c:running:0").await;
    node.fake.answer("live", 1);
    node.until("p", "Running ready c:running:1").await;
    node.fake.answer("live", 0);
    let events = node.events("p").await;
    for expected in [
        "Unhealthy: Liveness probe failed: no",
        "Unhealthy: Readiness probe failed: no",
        "Killing: Container c failed liveness probe, will be restarted",
    ] {
        assert!(events.iter().any(|it| it == expected), "{expected}: {events:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_refused() {
    let node = Node::new().await;
    let mut spec = one(&["run"]);
    spec.items_at_mut(&["containers"])[0]
        .set_at(&["resources"], value!({"requests": {"cpu": "9k"}}));
    node.pod("p", spec).await;
    node.until("p", "Failed OutOfcpu").await;
    let mut spec = one(&["run"]);
    spec.set_at(&["nodeSelector"], value!({"a": "b"}));
    node.pod("q", spec).await;
    node.until("q", "Failed NodeAffinity").await;
    node.delete("q").await;
    node.until("q", "gone").await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_config_map_holds_a_pod_up_until_it_is_there() {
    let node = Node::new().await;
    let mut spec = one(&["run"]);
    spec.set_at(
        &["volumes"],
        Value::Array(vec![value!({"name": "v", "configMap": {"name": "cm"}})]),
    );
    node.pod("p", spec).await;
    node.until("p", "Pending c:ContainerCreating:0").await;
    let map = value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm", "namespace": "ns"}, "data": {"k": "1"}});
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.cluster.create("", "configmaps", map).await;
    node.until("p", "Running ready c:running:0").await;
    let events = node.events("p").await;
    let expected =
        "FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"cm\" not found";
    assert!(events.iter().any(|it| it == expected), "{events:?}");
    let file = glob(&node, "volumes/kubernetes.io~configmap/v/k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
    let patch = value!({"data": {"k": "2"}});
    let maps = Resource::built_in("", "configmaps");
    node.cluster.client.patch(&maps, "ns", "cm", "", PatchKind::Merge, &patch).await.unwrap();
    for _ in 0..1_000 {
        if std::fs::read_to_string(&file).unwrap() == "2" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the file never changed");
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_reads_of_itself_follows_its_changes() {
    let node = Node::new().await;
    let mut spec = one(&["run"]);
    let items = value!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]);
    let volume = value!({"name": "v", "downwardAPI": {"items": items}});
    spec.set_at(&["volumes"], Value::Array(vec![volume]));
    node.pod("p", spec).await;
    node.until("p", "Running ready c:running:0").await;
    let file = glob(&node, "volumes/kubernetes.io~downward-api/v/labels");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "a=\"b\"");
    let patch = value!({"metadata": {"labels": {"a": "c"}}});
    node.cluster.client.patch(&pods(), "ns", "p", "", PatchKind::Merge, &patch).await.unwrap();
    let changed = node.cluster.eventually("the file changes", async |_| {
        (std::fs::read_to_string(&file).ok()? == "a=\"c\"").then_some(())
    });
    changed.await;
    // With it goes what was mounted.
    node.delete("p").await;
    node.until("p", "gone").await;
}

#[tokio::test(start_paused = true)]
async fn a_port_of_the_node_is_given_once() {
    let node = Node::new().await;
    let mut spec = one(&["run"]);
    let port = value!({"containerPort": 80, "hostPort": 21017});
    spec.items_at_mut(&["containers"])[0].set_at(&["ports"], Value::Array(vec![port]));
    node.pod("p", spec.clone()).await;
    node.until("p", "Running ready c:running:0").await;
    node.pod("q", spec.clone()).await;
    node.until("q", "Failed NodePorts").await;
    let why =
        "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    assert_eq!(node.events("q").await, [format!("NodePorts: {why}")]);
    node.delete("p").await;
    node.until("p", "gone").await;
    node.pod("r", spec).await;
    node.until("r", "Running ready c:running:0").await;
}

fn glob(node: &Node, below: &str) -> std::path::PathBuf {
    let mut pods = node.dir.path().join("pods").read_dir().unwrap();
    pods.next().unwrap().unwrap().path().join(below)
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_restarts_nothing() {
    let mut node = Node::new().await;
    node.pod("p", one(&["run"])).await;
    node.until("p", "Running ready c:running:0").await;
    let before = node.fake.calls();
    node.start().await;
    node.pod("q", one(&["run"])).await;
    node.until("q", "Running ready c:running:0").await;
    node.until("p", "Running ready c:running:0").await;
    assert_eq!(node.fake.calls(), [before, vec!["sandbox q".into(), "start c".into()]].concat());
    node.delete("p").await;
    node.until("p", "gone").await;
}

const STATIC: &str = "apiVersion: v1
kind: Pod
metadata: {name: s, namespace: ns}
spec:
  containers: [{name: c, image: here:1, imagePullPolicy: IfNotPresent, command: [run]}]
";

#[tokio::test(start_paused = true)]
async fn a_static_pod_is_seen_as_its_mirror() {
    let node = Node::new().await;
    let manifests = node.dir.path().join("manifests");
    std::fs::create_dir_all(&manifests).unwrap();
    let file = manifests.join("s.yaml");
    std::fs::write(&file, STATIC).unwrap();
    node.until("s-n", "Running ready c:running:0").await;
    let mirror = node.cluster.client.get(&pods(), "ns", "s-n").await.unwrap();
    let said = |name: &str| mirror.str_at(&["metadata", "annotations", name]).to_owned();
    let hash = said("kubernetes.io/config.hash");
    assert_eq!((hash.len(), &hash), (32, &said("kubernetes.io/config.mirror")));
    assert_eq!(said("kubernetes.io/config.source"), "file");
    assert!(!said("kubernetes.io/config.seen").is_empty());
    let owner = &mirror.items_at(&["metadata", "ownerReferences"])[0];
    assert_eq!((owner.str_at(&["kind"]), owner.str_at(&["name"])), ("Node", "n"));

    // Deleted, it is made again, and what runs goes on.
    node.delete("s-n").await;
    for _ in 0..1_000 {
        let found = node.cluster.client.get(&pods(), "ns", "s-n").await;
        let is_new = found
            .is_ok_and(|it| it.str_at(&["metadata", "uid"]) != mirror.str_at(&["metadata", "uid"]));
        if is_new {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    node.until("s-n", "Running ready c:running:0").await;
    assert_eq!(node.fake.calls(), ["sandbox s-n", "start c"]);

    std::fs::remove_file(&file).unwrap();
    node.until("s-n", "gone").await;
    assert_eq!(node.fake.calls().last().unwrap(), "stop s1");
}

#[tokio::test(start_paused = true)]
async fn a_changed_static_pod_begins_when_the_old_one_has_ended() {
    let node = Node::new().await;
    let manifests = node.dir.path().join("manifests");
    std::fs::create_dir_all(&manifests).unwrap();
    let file = manifests.join("s.yaml");
    std::fs::write(&file, STATIC.replace("[run]", "[deaf]")).unwrap();
    node.until("s-n", "Running ready c:running:0").await;
    std::fs::write(&file, STATIC.replace("[run]", "[exit, '3']")).unwrap();
    node.until("s-n", "Running c:CrashLoopBackOff:1").await;
    let calls = node.fake.calls();
    let begun = ["sandbox s-n", "start c"];
    assert_eq!(calls[..6], [&begun[..], &["kill c 30s", "stop s1"], &begun].concat(), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn the_node_says_what_it_is_and_that_it_lives() {
    let node = Node::new().await;
    let resource = Resource::built_in("", "nodes");
    let ready = |it: &Value| {
        let mut conditions = it.items_at(&["status", "conditions"]).iter();
        conditions
            .any(|it| it.str_at(&["type"]) == "Ready" && it.str_at(&["reason"]) == "KubeletReady")
    };
    for _ in 0..1_000 {
        if node.cluster.client.get(&resource, "", "n").await.is_ok_and(|it| ready(&it)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let it = node.cluster.client.get(&resource, "", "n").await.unwrap();
    assert!(ready(&it));
    assert_eq!(it.str_at(&["metadata", "labels", "kubernetes.io/hostname"]), "n");
    assert_eq!(it.str_at(&["status", "nodeInfo", "containerRuntimeVersion"]), "fake://1");
    assert_eq!(it.str_at(&["status", "capacity", "pods"]), "110");
    let leases = Resource::built_in("coordination.k8s.io", "leases");
    let renewed = || async {
        let lease = node.cluster.client.get(&leases, "kube-node-lease", "n").await;
        lease.map(|it| it.str_at(&["spec", "renewTime"]).to_owned()).unwrap_or_default()
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    let first = renewed().await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(!first.is_empty() && renewed().await > first);
}

#[tokio::test(start_paused = true)]
async fn a_pod_gets_the_volume_of_its_claim_once_that_is_bound() {
    let node = Node::new().await;
    let data = node.dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let path = data.display().to_string();
    let claim = value!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "ns"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}}});
    let claim = node.cluster.create("", "persistentvolumeclaims", claim).await;
    let uid = claim.str_at(&["metadata", "uid"]);
    let volume = value!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": path},
            "claimRef": {"namespace": "ns", "name": "c", "uid": uid}}});
    node.cluster.create("", "persistentvolumes", volume).await;
    let spec = value!({"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "here:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
    node.pod("p", spec).await;
    let told = node.cluster.eventually("the pod is told", async |it| {
        let events = it.list("", "events", "ns").await;
        let failed = events.iter().find(|it| it.str_at(&["reason"]) == "FailedMount")?;
        Some(failed.str_at(&["message"]).to_owned())
    });
    let told = told.await;
    assert!(told.ends_with("error processing PVC ns/c: PVC is not bound"), "{told}");
    let claims = Resource::built_in("", "persistentvolumeclaims");
    let client = &node.cluster.client;
    let patch = value!({"spec": {"volumeName": "pv"}});
    client.patch(&claims, "ns", "c", "", PatchKind::Merge, &patch).await.unwrap();
    let patch = value!({"status": {"phase": "Bound"}});
    client.patch(&claims, "ns", "c", "status", PatchKind::Merge, &patch).await.unwrap();
    let pod = node.cluster.eventually("the pod runs", async |it| {
        let pod = it.get("", "pods", "ns", "p").await?;
        (pod.str_at(&["status", "phase"]) == "Running").then_some(pod)
    });
    let pod = pod.await;
    let uid = pod.str_at(&["metadata", "uid"]);
    let link = format!("pods/{uid}/volumes/kubernetes.io~persistent-volume/v");
    let found = std::fs::read_link(node.dir.path().join(link)).ok();
    assert_eq!(found, Some(data));
}
