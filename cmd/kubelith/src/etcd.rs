//! Flags of storage on etcd, and the store that is made of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apiserver::WriteAs;
use apiserver::masterleases::Membership;
use component_base::{Random, ShutdownSignal};
use sha2::{Digest as _, Sha256};
use storage::Store;
use storage_etcd::{EtcdStore, Metrics, TlsFiles, compact_now_and_then};

use crate::control_plane::period;

/// What an identity is a hash of: this much of it, as upstream does.
const IDENTITY_BYTES: usize = 16;
/// The letters of base 32.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// How etcd is reached, and where in it objects are.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "etcd-access")]
#[command(next_help_heading = "kube-apiserver")]
#[allow(clippy::struct_field_names, reason = "they are upstream's names")]
pub(crate) struct EtcdAccess {
    /// Certificates of the authorities that etcd's are signed by
    #[arg(long, value_name = "FILE")]
    etcd_cafile: Option<PathBuf>,
    /// Certificate by which this server proves itself to etcd
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
    /// What keys in etcd begin with
    #[arg(long, default_value = storage_etcd::REGISTRY, value_name = "PREFIX")]
    etcd_prefix: String,
}

impl EtcdAccess {
    /// The store at these addresses.
    pub(crate) async fn open(&self, servers: &[String], metrics: Metrics) -> Result<EtcdStore> {
        if self.etcd_prefix.trim_matches('/').is_empty() {
            bail!("--etcd-prefix must name something");
        }
        let options = storage_etcd::Options {
            tls: TlsFiles {
                ca: self.etcd_cafile.clone(),
                certificate: self.etcd_certfile.clone(),
                key: self.etcd_keyfile.clone(),
            },
            prefix: self.etcd_prefix.clone(),
            metrics,
            ..storage_etcd::Options::new(servers.to_vec())
        };
        let opened = EtcdStore::open(&options).await;
        opened.with_context(|| format!("could not use etcd at {}", servers.join(",")))
    }
}

/// Upstream's flags of etcd.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "etcd")]
#[command(next_help_heading = "kube-apiserver")]
#[allow(clippy::struct_field_names, reason = "they are upstream's names")]
pub(crate) struct EtcdOptions {
    /// Members of the etcd where objects are kept, in place of the embedded store: https://HOST:PORT,...
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    etcd_servers: Vec<String>,
    #[command(flatten)]
    access: EtcdAccess,
    /// How often history is forgotten that is older; 0s is never
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = interval)]
    etcd_compaction_interval: Duration,
    /// How long etcd, or another store, may take to answer before this server is not healthy
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = period)]
    pub(crate) etcd_healthcheck_timeout: Duration,
    /// How often etcd, or another store, is asked how large it is; 0 for never
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = interval)]
    pub(crate) etcd_db_metric_poll_interval: Duration,
    /// How objects are kept in etcd: application/vnd.kubernetes.protobuf or application/json
    #[arg(long, default_value = PROTOBUF, value_name = "TYPE", value_parser = media_type)]
    storage_media_type: MediaType,
}

/// How objects of built-in kinds are written to etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MediaType(WriteAs);

/// The type that upstream writes.
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A duration, or none at all.
fn interval(text: &str) -> Result<Duration, String> {
    if text == "0" || text == "0s" { Ok(Duration::ZERO) } else { period(text) }
}

fn media_type(text: &str) -> Result<MediaType, String> {
    match text {
        PROTOBUF => Ok(MediaType(WriteAs::Protobuf)),
        "application/json" => Ok(MediaType(WriteAs::Json)),
        _ => Err(format!("it is {PROTOBUF} or application/json")),
    }
}

impl EtcdOptions {
    /// Whether objects are kept in etcd.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.etcd_servers.is_empty()
    }

    /// How objects are written to the store that these flags choose.
    pub(crate) fn write_as(&self) -> WriteAs {
        if self.is_wanted() { self.storage_media_type.0 } else { WriteAs::Json }
    }

    /// The store, which counts its requests.
    pub(crate) async fn open(&self, stop: ShutdownSignal) -> Result<Opened> {
        let named = crate::at_rest::keys().map(|(prefix, of)| (prefix, (of.group, of.resource)));
        let metrics = Metrics::new(named);
        let store = self.access.open(&self.etcd_servers, metrics.clone()).await?;
        if !self.etcd_compaction_interval.is_zero() {
            let compacting = compact_now_and_then(store.clone(), self.etcd_compaction_interval);
            tokio::spawn(async move {
                tokio::select! {
                    () = compacting => {}
                    () = stop.requested() => {}
                }
            });
        }
        Ok(Opened { store: Arc::new(store), metrics: Some(metrics) })
    }
}

/// A store.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    /// What it counts, where it is etcd.
    pub(crate) metrics: Option<Metrics>,
}

impl From<Arc<dyn Store>> for Opened {
    fn from(store: Arc<dyn Store>) -> Self {
        Self { store, metrics: None }
    }
}

impl Opened {
    /// Tells of what it counts among what the server does.
    pub(crate) fn register(metrics: Option<&Metrics>, server: &apiserver::Server) {
        if let Some(metrics) = metrics {
            server.metrics().register(|it| metrics.register(it));
        }
    }
}

/// Which server this is among those that share a store.
pub(crate) fn membership(
    (address, port): (std::net::IpAddr, u16),
    random: &dyn Random,
) -> Membership {
    let hostname = crate::leading::hostname();
    let identity = identity(&hostname, (address, port));
    let holder = format!("{identity}_{}", random.uid());
    Membership { address, port, hostname, tells_endpoints: true, identity, holder }
}

/// The name of a server's identity: upstream's hash of the host's name and the component's, and further of where the server
/// is reached, so that several on one host have one each. It is the same after a restart.
fn identity(hostname: &str, (address, port): (std::net::IpAddr, u16)) -> String {
    let reached = SocketAddr::new(address, port).to_string();
    let mut hash = Sha256::new();
    for part in [hostname, "kube-apiserver", &reached] {
        // Each with its length before it; a name of a host is far shorter than the length can tell.
        let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
        hash.update(length.to_be_bytes());
        hash.update(&part.as_bytes()[..usize::from(length)]);
    }
    format!("apiserver-{}", base32(&hash.finalize()[..IDENTITY_BYTES]))
}

/// Lower case, without padding.
fn base32(bytes: &[u8]) -> String {
    let bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    let bits: Vec<u8> = bits.collect();
    let letter = |five: &[u8]| {
        let filled = five.iter().chain(std::iter::repeat(&0)).take(5);
        char::from(BASE32[filled.fold(0, |number, bit| number << 1 | usize::from(*bit))])
    };
    bits.chunks(5).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_one_host_have_an_identity_each() {
        let at = |host: &str, address: &str, port| identity(host, (address.parse().unwrap(), port));
        let one = at("a", "192.0.2.1", 6443);
        assert_eq!(one, at("a", "192.0.2.1", 6443));
        assert_eq!(one.len(), "apiserver-".len() + 26);
        for other in
            [at("b", "192.0.2.1", 6443), at("a", "192.0.2.2", 6443), at("a", "192.0.2.1", 6444)]
        {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn identities_are_in_base_32() {
        let cases: [(&[u8], &str); 4] =
            [(b"", ""), (b"f", "my"), (b"foobar", "mzxw6ytboi"), (&[0xff; 5], "77777777")];
        for (bytes, expected) in cases {
            assert_eq!(base32(bytes), expected);
        }
    }
}
