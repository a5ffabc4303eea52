//! Leader election on a real API server, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use client::EventRecorder;
use client::Resource;
use client::leader::{Candidate, Election, Lost, Metrics};
use component_base::Shutdown;
use test_cluster::TestCluster;

fn candidate(cluster: &TestCluster, identity: &str) -> Candidate {
    let (clock, random) = (Arc::clone(&cluster.clock), Arc::clone(&cluster.random));
    let events = EventRecorder::new("kube-scheduler", "", Arc::clone(&clock), Arc::clone(&random));
    tokio::spawn(Arc::clone(&events).run(cluster.client.clone(), cluster.stop()));
    let election = Election {
        namespace: "kube-system".into(),
        name: "kube-scheduler".into(),
        identity: identity.into(),
        lease_duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
        release: true,
        coordinated: false,
    };
    Candidate::new(cluster.client.clone(), clock, random, events, election)
}

async fn lease(cluster: &TestCluster) -> (String, i64) {
    let lease = cluster.get("coordination.k8s.io", "leases", "kube-system", "kube-scheduler").await;
    let lease = lease.unwrap();
    let holder = lease.str_at(&["spec", "holderIdentity"]).to_owned();
    (holder, lease.i64_at(&["spec", "leaseTransitions"]).unwrap())
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_another_follows_once_the_lease_is_given_up() {
    let cluster = TestCluster::new(1).await;
    let stop = Shutdown::new();
    let first = candidate(&cluster, "a").acquire(&stop.signal()).await.unwrap();
    assert_eq!(lease(&cluster).await, ("a".into(), 0));
    cluster
        .eventually("an event says who leads", async |it| {
            let events = it.list("", "events", "kube-system").await;
            let said = |it: &apimachinery::Value| {
                it.str_at(&["reason"]) == "LeaderElection"
                    && it.str_at(&["message"]) == "a became leader"
            };
            events.iter().any(said).then_some(())
        })
        .await;
    let keeping = stop.signal();
    let kept = tokio::spawn(async move { first.keep(&keeping).await });
    let second = candidate(&cluster, "b");
    let waiting = Shutdown::new();
    let signal = waiting.signal();
    let second = tokio::spawn(async move { second.acquire(&signal).await });
    // Longer than a lease lasts: it is renewed.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(lease(&cluster).await.0, "a");
    stop.request();
    // Others wait until its work has ended.
    let leader = kept.await.unwrap().unwrap();
    assert_eq!(lease(&cluster).await.0, "a");
    leader.release().await;
    assert!(second.await.unwrap().is_some());
    assert_eq!(lease(&cluster).await, ("b".into(), 1));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_renews_is_taken_and_its_holder_learns_of_it() {
    let cluster = TestCluster::new(1).await;
    let stop = Shutdown::new();
    // It holds the lease, and does not get to renew it.
    let slow = candidate(&cluster, "slow").acquire(&stop.signal()).await.unwrap();
    let begun = tokio::time::Instant::now();
    let next = candidate(&cluster, "next").acquire(&stop.signal()).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(15), "the lease was taken too soon");
    assert_eq!(lease(&cluster).await, ("next".into(), 1));
    assert_eq!(slow.keep(&stop.signal()).await.unwrap_err(), Lost);
    drop(next);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_else_has_written_is_renewed_after_a_look() {
    let cluster = TestCluster::new(1).await;
    let (metrics, mut registry) =
        (Metrics::default(), prometheus_client::registry::Registry::default());
    metrics.register(&mut registry);
    let tells = |line: &str| {
        let told = component_base::metrics::text(&registry);
        assert!(told.lines().any(|it| it == line), "{line}: {told}");
    };
    let stop = Shutdown::new();
    let candidate = candidate(&cluster, "a").counted(metrics);
    tells("leader_election_master_status{name=\"kube-scheduler\"} 0");
    let leader = candidate.acquire(&stop.signal()).await.unwrap();
    tells("leader_election_master_status{name=\"kube-scheduler\"} 1");
    let keeping = stop.signal();
    let kept = tokio::spawn(async move { leader.keep(&keeping).await });
    tokio::time::sleep(Duration::from_secs(30)).await;
    let looked = "leader_election_slowpath_total";
    assert!(!component_base::metrics::text(&registry).contains(&format!("{looked}{{")));
    let leases = Resource::built_in("coordination.k8s.io", "leases");
    let mut lease = cluster.client.get(&leases, "kube-system", "kube-scheduler").await.unwrap();
    lease.set_at(&["metadata", "labels", "a"], "b");
    cluster.client.update(&leases, "", &lease).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    tells("leader_election_slowpath_total{name=\"kube-scheduler\"} 1");
    stop.request();
    assert!(kept.await.unwrap().is_ok());
    tells("leader_election_master_status{name=\"kube-scheduler\"} 0");
}
