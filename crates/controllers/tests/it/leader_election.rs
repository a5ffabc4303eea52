//! Holders of leases are elected among those who stand for them: on a real API server, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use client::EventRecorder;
use client::candidacy::Candidacy;
use client::leader::{Candidate, Election, Lost};
use component_base::Shutdown;
use controllers::leader_election::Elections;
use test_cluster::TestCluster;
use test_cluster::registry::{Apis, Features, Registry};

const GROUP: &str = "coordination.k8s.io";
const NAMESPACE: &str = "kube-system";
const LEASE: &str = "kube-scheduler";

/// A server that elects.
async fn cluster() -> TestCluster {
    let features = Features { coordinated_leader_election: true, ..Features::default() };
    let asked = ["coordination.k8s.io/v1beta1=true".to_owned()];
    let apis = Apis::default().with_features(features).configure(&asked).unwrap();
    let cluster = TestCluster::serving(1, Registry::of(apis)).await;
    let elections = Elections {
        client: cluster.client_named("kube-apiserver"),
        clock: Arc::clone(&cluster.clock),
        random: Arc::clone(&cluster.random),
    };
    tokio::spawn(elections.run(cluster.stop()));
    cluster
}

/// Stands for the lease until it is told to stop.
fn stand(cluster: &TestCluster, identity: &str, emulates: &str) -> Shutdown {
    let stop = Shutdown::new();
    let candidacy = Candidacy {
        namespace: NAMESPACE.into(),
        lease: LEASE.into(),
        identity: identity.into(),
        binary_version: "1.37.1".into(),
        emulation_version: emulates.into(),
        client: cluster.client_named(identity),
        clock: Arc::clone(&cluster.clock),
        random: Arc::clone(&cluster.random),
    };
    tokio::spawn(candidacy.run(stop.signal()));
    stop
}

fn candidate(cluster: &TestCluster, identity: &str) -> Candidate {
    let (clock, random) = (Arc::clone(&cluster.clock), Arc::clone(&cluster.random));
    let events = EventRecorder::new("kube-scheduler", "", Arc::clone(&clock), Arc::clone(&random));
    let election = Election {
        namespace: NAMESPACE.into(),
        name: LEASE.into(),
        identity: identity.into(),
        lease_duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
        release: true,
        coordinated: true,
    };
    Candidate::new(cluster.client_named(identity), clock, random, events, election)
}

/// Waits until the lease says so.
async fn lease_says(cluster: &TestCluster, member: &'static str, expected: &str) {
    let what = format!("{member} of the lease is {expected}");
    let says = cluster.eventually(&what, async |it| {
        let lease = it.get(GROUP, "leases", NAMESPACE, LEASE).await?;
        (lease.str_at(&["spec", member]) == expected).then_some(())
    });
    says.await;
}

#[tokio::test(start_paused = true)]
async fn the_lease_goes_to_the_oldest_and_on_to_an_older_one() {
    let cluster = cluster().await;
    let _new = stand(&cluster, "new", "1.37.0");
    lease_says(&cluster, "holderIdentity", "new").await;
    lease_says(&cluster, "strategy", "OldestEmulationVersion").await;
    let never = Shutdown::new();
    let new = candidate(&cluster, "new").acquire(&never.signal()).await.unwrap();
    let signal = never.signal();
    let new = tokio::spawn(async move { new.keep(&signal).await });
    // Held for longer than a lease lasts that is not renewed.
    tokio::time::sleep(Duration::from_secs(60)).await;
    lease_says(&cluster, "holderIdentity", "new").await;
    let _old = stand(&cluster, "old", "1.36.0");
    lease_says(&cluster, "preferredHolder", "old").await;
    let old = candidate(&cluster, "old").acquire(&never.signal()).await;
    assert!(old.is_some());
    assert_eq!(new.await.unwrap().unwrap_err(), Lost);
    lease_says(&cluster, "holderIdentity", "old").await;
    lease_says(&cluster, "preferredHolder", "").await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_passed_over_and_forgotten() {
    let cluster = cluster().await;
    let gone = stand(&cluster, "gone", "1.36.0");
    lease_says(&cluster, "holderIdentity", "gone").await;
    let there = stand(&cluster, "there", "1.37.0");
    gone.request();
    // It held the lease, and nobody renews that.
    lease_says(&cluster, "holderIdentity", "there").await;
    tokio::time::sleep(Duration::from_secs(30 * 60)).await;
    cluster
        .eventually("the candidate is forgotten", async |it| {
            it.get(GROUP, "leasecandidates", NAMESPACE, "gone").await.is_none().then_some(())
        })
        .await;
    assert!(cluster.get(GROUP, "leasecandidates", NAMESPACE, "there").await.is_some());
    drop(there);
}
