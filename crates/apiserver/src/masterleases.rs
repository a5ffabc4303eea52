//! Several servers on one store: each says that it lives, and the endpoints of the service `kubernetes` are those that do.
//!
//! Upstream: the lease reconciler of `pkg/controlplane/reconcilers` and the identity leases of
//! `k8s.io/apiserver/pkg/controlplane`. A server that dies is left out once its key has expired.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, json, obj, time, value};
use auth::Objects as _;
use component_base::ShutdownSignal;
use http::Method;
use storage::{At, Expect, Key, RangeReq, StorageError, Ttl};

use crate::Server;
use crate::bootstrap::{Bootstrap, BootstrapError};

/// Where servers say that they live.
const LEASES: &str = "/registry/masterleases/";
/// How long one is believed, and how often it says so again (upstream's).
const TTL: Ttl = Ttl { seconds: 15 };
const RECONCILING: Duration = Duration::from_secs(10);
/// How long a server's identity is believed, and the label of such leases.
const IDENTITY_SECONDS: i64 = 3600;
const IDENTITY: &str = "apiserver.kubernetes.io/identity";
const HOSTNAME: &str = "kubernetes.io/hostname";
const KUBE_APISERVER: &str = "kube-apiserver";
/// How often those are removed that are believed no more.
const COLLECTING: u32 = 360;
/// How often versions are told: every ten minutes.
const TELLING_VERSIONS: u32 = 60;
/// How many servers there may be.
const SERVERS_MAX: usize = 1000;

/// Which server this is.
#[derive(Debug, Clone)]
pub struct Membership {
    /// Where clients in the cluster reach it.
    pub address: IpAddr,
    /// On which port.
    pub port: u16,
    /// The name of its machine.
    pub hostname: String,
    /// Whether the endpoints of the service `kubernetes` are its business (`--endpoint-reconciler-type`).
    pub tells_endpoints: bool,
    /// Its identity: `apiserver-` and a hash of the machine's name and where it is reached.
    pub identity: String,
    /// The same with what tells it from the server before it on the same machine.
    pub holder: String,
}

/// Keeps the endpoints right until the server stops, and leaves them then.
pub async fn run(server: Arc<Server>, membership: Membership, stop: ShutdownSignal) {
    let mut rounds = 0_u32;
    loop {
        if let Err(why) = round(&server, &membership).await {
            tracing::warn!(why, "the endpoints of the API servers could not be brought up to date");
        }
        if rounds.is_multiple_of(COLLECTING) {
            collect(&server).await;
        }
        if rounds.is_multiple_of(TELLING_VERSIONS) {
            let told = crate::storage_versions::tell(&server, &membership.identity).await;
            if let Err(error) = told {
                tracing::warn!(%error, "not all versions in which this server stores could be told");
            }
        }
        rounds = rounds.wrapping_add(1);
        tokio::select! {
            () = tokio::time::sleep(RECONCILING) => {}
            () = stop.requested() => break,
        }
    }
    if !membership.tells_endpoints {
        return;
    }
    // Who cannot say goodbye is left out a little later.
    let store = server.hub.store();
    if store.delete(membership.key(), Expect::Any).await.is_ok()
        && let Err(why) = reconcile(&server, &membership, false).await
    {
        tracing::debug!(why, "the last of the API servers' endpoints stays");
    }
}

async fn round(server: &Arc<Server>, membership: &Membership) -> Result<(), String> {
    if membership.tells_endpoints {
        say_that_it_lives(server, membership).await?;
    }
    identify(server, membership).await.map_err(|error| error.to_string())
}

async fn say_that_it_lives(server: &Arc<Server>, membership: &Membership) -> Result<(), String> {
    let address = membership.address.to_string();
    let lease = value!({"kind": "Endpoints", "apiVersion": "v1", "metadata": {},
        "subsets": [{"addresses": [{"ip": (address.as_str())}]}]});
    let put = server.hub.store().put(
        membership.key(),
        obj::encode(&lease).into(),
        Expect::Any,
        Some(TTL),
    );
    put.await.map_err(|error| error.to_string())?;
    reconcile(server, membership, true).await
}

impl Membership {
    fn key(&self) -> Key {
        Key::from(format!("{LEASES}{}", self.address))
    }
}

/// The addresses of the servers that live.
async fn living(server: &Server) -> Result<BTreeSet<IpAddr>, StorageError> {
    let request = RangeReq {
        prefix: Key::from(LEASES),
        after: None,
        limit: SERVERS_MAX,
        keys_only: false,
        at: At::Latest,
    };
    let page = server.hub.store().range(request).await?;
    let address = |kv: &storage::Kv| {
        let value = json::parse(&kv.value).ok()?;
        let subset = value.items_at(&["subsets"]).first()?;
        subset.items_at(&["addresses"]).first()?.str_at(&["ip"]).parse().ok()
    };
    Ok(page.kvs.iter().filter_map(address).collect())
}

/// Makes the endpoints say who lives.
async fn reconcile(
    server: &Arc<Server>,
    membership: &Membership,
    is_serving: bool,
) -> Result<(), String> {
    let mut addresses = living(server).await.map_err(|error| error.to_string())?;
    if is_serving {
        addresses.insert(membership.address);
    } else if addresses.is_empty() {
        // Nobody is left: who comes next writes its own.
        return Ok(());
    }
    let bootstrap = Bootstrap::new(server);
    for (wanted, told) in [
        (endpoints(&addresses, membership.port), addresses_of_endpoints as Told),
        (slice(&addresses, membership), addresses_of_slice as Told),
    ] {
        bootstrap.tell(wanted, told).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn endpoints(addresses: &BTreeSet<IpAddr>, port: u16) -> Value {
    let addresses: Vec<Value> =
        addresses.iter().map(|it| value!({"ip": (it.to_string())})).collect();
    value!({"kind": "Endpoints", "apiVersion": "v1",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": (addresses), "ports": [{"name": "https", "protocol": "TCP", "port": (i64::from(port))}]}]})
}

fn slice(addresses: &BTreeSet<IpAddr>, membership: &Membership) -> Value {
    let family = if membership.address.is_ipv4() { "IPv4" } else { "IPv6" };
    let endpoints: Vec<Value> = addresses
        .iter()
        .filter(|it| it.is_ipv4() == membership.address.is_ipv4())
        .map(|it| value!({"addresses": [(it.to_string())], "conditions": {"ready": true}}))
        .collect();
    value!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family, "endpoints": (endpoints),
        "ports": [{"name": "https", "protocol": "TCP", "port": (i64::from(membership.port))}]})
}

/// What an object tells: addresses and port.
type Told = fn(&Value) -> (BTreeSet<String>, Value);

fn addresses_of_endpoints(object: &Value) -> (BTreeSet<String>, Value) {
    let Some(subset) = object.items_at(&["subsets"]).first() else { return Default::default() };
    let of = |it: &Value| it.str_at(&["ip"]).to_owned();
    let addresses = subset.items_at(&["addresses"]).iter().map(of).collect();
    (addresses, port(subset.items_at(&["ports"])))
}

fn addresses_of_slice(object: &Value) -> (BTreeSet<String>, Value) {
    let all = object.items_at(&["endpoints"]).iter();
    let of = |it: &Value| it.as_str().map(str::to_owned);
    let addresses = all.flat_map(|it| it.items_at(&["addresses"]).iter().filter_map(of)).collect();
    (addresses, port(object.items_at(&["ports"])))
}

fn port(ports: &[Value]) -> Value {
    ports.first().and_then(|it| it.get("port")).cloned().unwrap_or_default()
}

impl Bootstrap<'_> {
    /// Has an object tell what it is wanted to.
    async fn tell(&self, wanted: Value, told: Told) -> Result<(), BootstrapError> {
        let (path, found) = self.find(&wanted);
        let name = wanted.str_at(&["metadata", "name"]).to_owned();
        let Some(mut found) = found else {
            return self.send(Method::POST, &path, Some(&wanted)).await.map(drop);
        };
        if told(&found) == told(&wanted) {
            return Ok(());
        }
        for member in ["subsets", "endpoints", "ports"] {
            if let Some(value) = wanted.get(member) {
                found.set_at(&[member], value.clone());
            }
        }
        self.send(Method::PUT, &format!("{path}/{name}"), Some(&found)).await.map(drop)
    }
}

/// Renews the lease that says which server this is.
async fn identify(server: &Arc<Server>, membership: &Membership) -> Result<(), BootstrapError> {
    let bootstrap = Bootstrap::new(server);
    let now = time::format_micro_time(server.clock.now());
    let mut lease = value!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"name": (membership.identity.as_str()), "namespace": "kube-system",
            "labels": {(IDENTITY): KUBE_APISERVER, (HOSTNAME): (membership.hostname.as_str())}},
        "spec": {"holderIdentity": (membership.holder.as_str()), "leaseDurationSeconds": IDENTITY_SECONDS,
            "acquireTime": (now.as_str()), "renewTime": (now.as_str())}});
    let (path, found) = bootstrap.find(&lease);
    let Some(mut found) = found else {
        return bootstrap.send(Method::POST, &path, Some(&lease)).await.map(drop);
    };
    if found.str_at(&["spec", "holderIdentity"]) == membership.holder {
        lease.set_at(&["spec", "acquireTime"], found["spec"]["acquireTime"].clone());
    }
    found.set_at(&["spec"], lease["spec"].clone());
    found.set_at(&["metadata", "labels"], lease["metadata"]["labels"].clone());
    let path = format!("{path}/{}", membership.identity);
    bootstrap.send(Method::PUT, &path, Some(&found)).await.map(drop)
}

/// Removes the identities of servers that are long gone.
async fn collect(server: &Arc<Server>) {
    let bootstrap = Bootstrap::new(server);
    let now = server.clock.now();
    for lease in bootstrap.objects().list("coordination.k8s.io", "leases", "kube-system") {
        let Ok(lease) = lease.to_value() else { continue };
        if lease.str_at(&["metadata", "labels", IDENTITY]) != KUBE_APISERVER || lives(&lease, now) {
            continue;
        }
        let (path, _) = bootstrap.find(&lease);
        let path = format!("{path}/{}", lease.str_at(&["metadata", "name"]));
        if let Err(error) = bootstrap.send(Method::DELETE, &path, None).await {
            tracing::warn!(%error, "the identity of a server that is gone stays");
        }
    }
}

fn lives(lease: &Value, now: jiff::Timestamp) -> bool {
    let renewed: Result<jiff::Timestamp, _> = lease.str_at(&["spec", "renewTime"]).parse();
    let seconds = lease.i64_at(&["spec", "leaseDurationSeconds"]).unwrap_or_default();
    let lasting = jiff::SignedDuration::from_secs(seconds);
    // What lies beyond the end of time is alive.
    renewed.is_ok_and(|it| it.checked_add(lasting).is_ok_and(|end| end > now) || it > now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read_back() {
        let addresses = BTreeSet::from(["10.0.0.1", "10.0.0.2"].map(|it| it.parse().unwrap()));
        let membership = Membership {
            tells_endpoints: true,
            address: "10.0.0.1".parse().unwrap(),
            port: 6443,
            hostname: "a".into(),
            identity: "apiserver-a".into(),
            holder: "apiserver-a_1".into(),
        };
        let expected = (BTreeSet::from(["10.0.0.1", "10.0.0.2"].map(str::to_owned)), 6443.into());
        assert_eq!(addresses_of_endpoints(&endpoints(&addresses, 6443)), expected);
        assert_eq!(addresses_of_slice(&slice(&addresses, &membership)), expected);
    }

    #[test]
    fn an_identity_lives_as_long_as_it_says() {
        let now: jiff::Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let cases =
            [("2026-01-01T00:00:01.000000Z", true), ("2026-01-01T00:00:00Z", false), ("", false)];
        for (renewed, expected) in cases {
            let lease = value!({"spec": {"renewTime": renewed, "leaseDurationSeconds": 3600}});
            assert_eq!(lives(&lease, now), expected, "{renewed}");
        }
    }
}
