//! Three servers on three members of etcd: what one has written the others have, and what a client was told it is told nowhere
//! again, whoever dies.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::cluster::Cluster;
use super::following::{Told, follow};
use super::*;

const WRITERS: usize = 3;
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// The servers and what they share.
struct Lab {
    etcd: Cluster,
    servers: Vec<Member>,
    clients: Vec<Client>,
    _directory: TempDir,
}

impl Lab {
    fn start() -> Self {
        let etcd = Cluster::start(3);
        let flags = [
            format!("--etcd-servers={}", etcd.urls().join(",")),
            "--kube-controller-manager-arg=leader-elect-lease-duration=6s".to_owned(),
            "--kube-controller-manager-arg=leader-elect-renew-deadline=4s".to_owned(),
            "--kube-controller-manager-arg=leader-elect-retry-period=1s".to_owned(),
        ];
        let directory = tempfile::tempdir().unwrap();
        let data = |n: usize| directory.path().join(n.to_string());
        let mut servers: Vec<Member> = Vec::new();
        for n in 0..3 {
            if n > 0 {
                share_keys(&data(0), &data(n));
            }
            servers.push(Member::start(data(n), &address(n), &flags));
        }
        let clients = servers.iter().map(Member::client).collect();
        Self { etcd, servers, clients, _directory: directory }
    }

    fn holder(&self, lease: &str) -> String {
        let lease = self.clients[2].get(&format!("{LEASES}/{lease}"));
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }
}

/// Where a server says that it is reached.
fn address(n: usize) -> String {
    format!("192.0.2.{}", n + 1)
}

/// The addresses in endpoints, however they are told.
fn addresses(told: &Value) -> BTreeSet<String> {
    let subsets = told["subsets"].as_array().into_iter().flatten();
    let of_subset = subsets.flat_map(|it| it["addresses"].as_array().into_iter().flatten());
    let endpoints = told["endpoints"].as_array().into_iter().flatten();
    let of_endpoint = endpoints.flat_map(|it| it["addresses"].as_array().into_iter().flatten());
    let all = of_subset.map(|it| &it["ip"]).chain(of_endpoint);
    all.filter_map(|it| it.as_str().map(str::to_owned)).collect()
}

fn service(name: &str, address: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"clusterIP": address, "ports": [{"port": 80}]}})
    .to_string()
}

/// What one has acknowledged the others tell at once: by a read of one object and by a list from their caches.
fn reads_are_fresh(lab: &Lab) {
    for n in 0..30 {
        let name = format!("seen-{n}");
        assert!(lab.clients[n % 3].create(CONFIG_MAPS, &config_map(&name)));
        for reader in [&lab.clients[(n + 1) % 3], &lab.clients[(n + 2) % 3]] {
            let list = reader.get(CONFIG_MAPS);
            assert!(items(&list).any(|it| super::name(it) == name), "{name} is not in the list");
            assert_eq!(super::name(&reader.get(&format!("{CONFIG_MAPS}/{name}"))), name);
        }
    }
}

/// All are told of, and each has an identity of its own.
fn all_say_that_they_live(lab: &Lab) {
    let all: BTreeSet<String> = (0..3).map(address).collect();
    for (n, client) in lab.clients.iter().enumerate() {
        for path in [ENDPOINTS, SLICE] {
            until(&format!("all in {path} by {n}"), || addresses(&client.get(path)) == all);
        }
        assert!(client.text("/readyz?verbose").contains("[+]etcd ok"));
    }
    let selector = "labelSelector=apiserver.kubernetes.io/identity%3Dkube-apiserver";
    let leases = lab.clients[0].get(&format!("{LEASES}?{selector}"));
    assert_eq!(items(&leases).count(), 3, "{leases}");
    for lease in items(&leases) {
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap();
        assert!(holder.starts_with(&format!("{}_", name(lease))), "{lease}");
    }
}

/// Of three that want one address at once one gets it, whichever server it asks.
fn addresses_are_given_once(lab: &Lab) {
    for n in 0..10 {
        let won: usize = std::thread::scope(|scope| {
            let ask = |(server, client): (usize, &Client)| {
                let object = service(&format!("s-{server}-{n}"), &format!("10.96.0.{}", 50 + n));
                let (path, client) = ("/api/v1/namespaces/default/services", client.clone());
                scope.spawn(move || usize::from(client.create(path, &object)))
            };
            // All are begun before the first is waited for.
            let asked: Vec<_> = lab.clients.iter().enumerate().map(ask).collect();
            asked.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert_eq!(won, 1, "address {n}");
    }
}

/// A Deployment gets its pod, which is looked at for a node: controllers and scheduler work, wherever they do.
fn work_goes_on(client: &Client, name: &str) {
    let labels = json!({"app": name});
    let template = json!({"metadata": {"labels": labels},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": template}});
    until(&format!("Deployment {name}"), || client.create(DEPLOYMENTS, &object.to_string()));
    let pods = format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{name}");
    until(&format!("a pod of {name}, looked at"), || {
        let pods = client.get(&pods);
        items(&pods).any(|pod| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|it| it["reason"] == "Unschedulable")
        })
    });
}

/// Creates, changes and deletes objects by turns through all servers until told to stop; answers with what was acknowledged.
/// Of a deletion the version is not told.
fn load(clients: &[Client], writer: usize, stop: &AtomicBool) -> Vec<Told> {
    let mut acknowledged = Vec::new();
    for n in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("load-{writer}-{n}");
        let path = format!("{CONFIG_MAPS}/{name}");
        let changed = r#"{"data":{"k":"w"}}"#;
        let steps = [
            ("POST", CONFIG_MAPS, config_map(&name), "ADDED"),
            ("PATCH", &path, changed.to_owned(), "MODIFIED"),
            ("DELETE", &path, String::new(), "DELETED"),
        ];
        let some = if n % 2 == 0 { 2 } else { 3 };
        for (step, (method, path, body, kind)) in steps.into_iter().take(some).enumerate() {
            let answer = clients[(n + step) % 3].send(method, path, &body);
            let Some((200 | 201, object)) = answer else { break };
            let version = if kind == "DELETED" { 0 } else { version(&object) };
            acknowledged.push(Told { version, kind: kind.to_owned(), name: name.clone() });
        }
    }
    acknowledged
}

/// Kills members and servers one after the other, each for as long as writes take to go on without it.
fn kill_in_turn(lab: &mut Lab) {
    let writable = |lab: &Lab, who: &str, servers: &[usize]| {
        for server in servers {
            let map = config_map(&format!("mark-{who}-{server}"));
            until(&format!("{who} {server}"), || lab.clients[*server].create(CONFIG_MAPS, &map));
        }
    };
    for victim in 0..3 {
        lab.servers[victim].kill();
        let others = [(victim + 1) % 3, (victim + 2) % 3];
        writable(lab, &format!("without-server-{victim}"), &others);
        work_goes_on(&lab.clients[others[0]], &format!("without-{victim}"));
        lab.servers[victim].start_again();
        writable(lab, &format!("with-server-{victim}"), &[victim]);

        lab.etcd.kill(victim);
        writable(lab, &format!("without-member-{victim}"), &[0, 1, 2]);
        lab.etcd.run(victim);
        writable(lab, &format!("with-member-{victim}"), &[0, 1, 2]);
    }
}

/// Everything that was acknowledged was told, once and as it was.
fn check_told(acknowledged: &[Told], told: &[Told]) {
    let of_load: Vec<&Told> = told.iter().filter(|it| it.name.starts_with("load-")).collect();
    for it in acknowledged {
        let is_it = |other: &&&Told| {
            (&other.kind, &other.name) == (&it.kind, &it.name)
                && (it.version == 0 || other.version == it.version)
        };
        assert_eq!(of_load.iter().filter(is_it).count(), 1, "{it:?}");
    }
}

/// The names that are left after what was told.
fn left(told: &[Told]) -> BTreeSet<String> {
    let mut left = BTreeSet::new();
    for it in told.iter().filter(|it| it.name.starts_with("load-")) {
        if it.kind == "DELETED" {
            left.remove(&it.name);
        } else {
            left.insert(it.name.clone());
        }
    }
    left
}

/// Followers and writers beside whoever kills; what was acknowledged, and what each follower was told.
fn under_load(lab: &mut Lab) -> (Vec<Told>, Vec<Vec<Told>>) {
    let list = lab.clients[0].get(&format!("{CONFIG_MAPS}?limit=1"));
    let from = version(&list);
    let clients = lab.clients.clone();
    let (load_ends, following_ends) = (AtomicBool::new(false), AtomicBool::new(false));
    let told: Vec<Mutex<Vec<Told>>> = (0..3).map(|_| Mutex::default()).collect();
    let acknowledged = std::thread::scope(|scope| {
        let (clients, stop, end) = (clients.as_slice(), &load_ends, &following_ends);
        for (n, told) in told.iter().enumerate() {
            // Each begins at another server.
            let servers = [&clients[n..], &clients[..n]].concat();
            scope.spawn(move || follow(&servers, (CONFIG_MAPS, from), end, told));
        }
        let writers: Vec<_> =
            (0..WRITERS).map(|n| scope.spawn(move || load(clients, n, stop))).collect();
        // Whatever goes wrong, the others come to an end.
        let killed = std::panic::catch_unwind(AssertUnwindSafe(|| kill_in_turn(lab)));
        load_ends.store(true, Ordering::Relaxed);
        let all: Vec<Told> = writers.into_iter().flat_map(|it| it.join().unwrap()).collect();
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
            until("the last object", || clients[0].create(CONFIG_MAPS, &config_map("the-end")));
            let is_told = |told: &Mutex<Vec<Told>>| {
                told.lock().unwrap().iter().any(|it| it.name == "the-end")
            };
            until("the news of the last object", || told.iter().all(is_told));
        }));
        following_ends.store(true, Ordering::Relaxed);
        killed.and(ended).unwrap_or_else(|why| std::panic::resume_unwind(why));
        all
    });
    let told = told.into_iter().map(|it| it.into_inner().unwrap());
    (acknowledged, told.collect())
}

#[test]
fn three_servers_on_three_members_agree_and_lose_nothing_whoever_dies() {
    let mut lab = Lab::start();
    reads_are_fresh(&lab);
    all_say_that_they_live(&lab);
    addresses_are_given_once(&lab);
    work_goes_on(&lab.clients[0], "first");
    let leases = ["kube-controller-manager", "kube-scheduler"];
    let led = leases.map(|it| lab.holder(it));

    let (acknowledged, told) = under_load(&mut lab);
    assert!(acknowledged.len() >= 100, "only {} writes", acknowledged.len());
    check_told(&acknowledged, &told[0]);
    for (n, sequence) in told.iter().enumerate() {
        assert_eq!(sequence, &told[0], "follower {n} and the first");
    }
    for client in &lab.clients {
        let list = client.get(CONFIG_MAPS);
        let names: BTreeSet<String> =
            items(&list).map(name).filter(|it| it.starts_with("load-")).collect();
        assert_eq!(names, left(&told[0]));
    }
    // Who led has died meanwhile, and somebody else leads.
    for (lease, before) in leases.iter().zip(led) {
        assert!(!before.is_empty() && lab.holder(lease) != before, "{lease} is still {before}'s");
    }
    // Who dies is left out once its key has expired.
    lab.servers[0].kill();
    let others: BTreeSet<String> = [address(1), address(2)].into();
    for client in &lab.clients[1..] {
        until("the end of a server's endpoint", || addresses(&client.get(ENDPOINTS)) == others);
    }
}
