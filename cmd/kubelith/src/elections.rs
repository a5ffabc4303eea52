//! One of the API servers says who holds the leases of those that stand for them, where `CoordinatedLeaderElection` is on.

use std::sync::Arc;

use apiserver::{InProcess, Server};
use auth::UserInfo;
use client::Client;
use client::candidacy::Candidacy;
use client::leader::{Election, Metrics};
use component_base::feature_gates::FeatureGates;
use component_base::{Clock, Random, Shutdown, ShutdownSignal};
use controllers::leader_election::Elections;

use crate::gates::COORDINATED_LEADER_ELECTION;
use crate::leading::{self, Member, Times};

/// What those who elect are called, and the lease of the one that does.
const NAME: &str = "leader-election-controller";
/// The namespace of that lease, and of what stands for leases.
const NAMESPACE: &str = "kube-system";
/// As who the server writes.
const USER: &str = "system:apiserver";
/// What these programs are and behave as.
const BINARY: &str = "1.37.1";
const EMULATED: &str = "1.37.0";

/// Elects in turns with other servers, where the feature is on and its API served.
pub(crate) fn start(
    server: &Arc<Server>,
    features: &FeatureGates,
    (clock, random): (&Arc<dyn Clock>, &Arc<dyn Random>),
    (times, metrics): (Times, Metrics),
    stop: ShutdownSignal,
) {
    let served = || server.optional_resources().iter().any(|it| it.plural == "leasecandidates");
    if !features.enabled(COORDINATED_LEADER_ELECTION) || !served() {
        return;
    }
    let user = UserInfo::new(USER, &[auth::user::MASTERS]);
    let client = Client::new(Arc::new(InProcess::new(Arc::clone(server), user)), "kube-apiserver");
    let elections = Elections { client, clock: Arc::clone(clock), random: Arc::clone(random) };
    tokio::spawn(for_ever(elections, (times, metrics), stop));
}

/// Elects while this server is the one that does.
async fn for_ever(elections: Elections, (times, metrics): (Times, Metrics), stop: ShutdownSignal) {
    let election = Election {
        namespace: NAMESPACE.into(),
        name: NAME.into(),
        identity: leading::identity(elections.random.as_ref()),
        lease_duration: times.lease,
        renew_deadline: times.renew,
        retry_period: times.retry,
        release: false,
        coordinated: false,
    };
    loop {
        let leading = Shutdown::new();
        let member = Member {
            name: NAME,
            client: elections.client.clone(),
            clock: Arc::clone(&elections.clock),
            random: Arc::clone(&elections.random),
            metrics: metrics.clone(),
            stop: stop.clone(),
        };
        let work = elections.clone().run(leading.signal());
        let Err(error) = leading::work(member, election.clone(), &leading, work).await else {
            return;
        };
        let error = format!("{error:#}");
        tracing::error!(error, "another server elects the holders of leases now");
        tokio::time::sleep(times.retry).await;
    }
}

/// Has a part of the control plane stand for the lease that it asks for, where holders are elected.
pub(crate) fn stand(
    election: &mut Election,
    features: &FeatureGates,
    client: &Client,
    (clock, random): (&Arc<dyn Clock>, &Arc<dyn Random>),
    stop: ShutdownSignal,
) {
    if !features.enabled(COORDINATED_LEADER_ELECTION) {
        return;
    }
    election.coordinated = true;
    let candidacy = Candidacy {
        namespace: election.namespace.clone(),
        lease: election.name.clone(),
        identity: election.identity.clone(),
        binary_version: BINARY.into(),
        emulation_version: EMULATED.into(),
        client: client.clone(),
        clock: Arc::clone(clock),
        random: Arc::clone(random),
    };
    tokio::spawn(candidacy.run(stop));
}
