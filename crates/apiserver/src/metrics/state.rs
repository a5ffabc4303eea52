//! What is so and need not be counted: the build, the features.

use std::fmt::Write as _;
use std::sync::Weak;
use std::time::Duration;

use api::ResourceFacts;
use component_base::ShutdownSignal;
use component_base::feature_gates::{FeatureGates, Stage};

use crate::cache::Cache;
use crate::{Server, Version};

/// Asks the store again and again how large it is, where it says.
pub(crate) async fn follow_size(server: Weak<Server>, every: Duration, stop: ShutdownSignal) {
    if every.is_zero() {
        return;
    }
    loop {
        let Some(now) = server.upgrade() else { return };
        match now.hub.store().size_bytes().await {
            Ok(Some(bytes)) => now.metrics.storage_sized(bytes),
            Ok(None) => return,
            Err(error) => tracing::debug!(%error, "the store does not say how large it is"),
        }
        drop(now);
        tokio::select! {
            biased;
            () = stop.requested() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// What memory there is, which connections, what was built, which of upstream's features are on, and how many changes of each resource the caches were told of.
pub(super) fn text(server: &Server) -> String {
    let mut out = String::new();
    build(&server.version, &mut out);
    versions(&server.version, &mut out);
    features(&server.operating.features, &mut out);
    caches(server, &mut out);
    crate::memory::text(server.operating.memory.as_deref(), &mut out);
    server.connections.text(&mut out);
    out
}

fn build(version: &Version, out: &mut String) {
    let Version { major, minor, git } = version;
    let _ = writeln!(
        out,
        "# HELP kubernetes_build_info What was built\n# TYPE kubernetes_build_info gauge\n\
         kubernetes_build_info{{build_date=\"\",compiler=\"rustc\",git_commit=\"\",git_tree_state=\"\",\
         git_version=\"{git}\",go_version=\"\",major=\"{major}\",minor=\"{minor}\",platform=\"linux/amd64\"}} 1"
    );
}

fn versions(version: &Version, out: &mut String) {
    let Version { major, minor, git } = version;
    let binary = git.trim_start_matches('v');
    // One minor version back, as upstream's where nothing else is said.
    let compatible = minor.parse::<u32>().unwrap_or_default().saturating_sub(1);
    let _ = writeln!(
        out,
        "# HELP version_info Which version this is and which it behaves as\n# TYPE version_info gauge\n\
         version_info{{binary=\"{binary}\",component=\"kube\",emulation=\"{major}.{minor}\",min_compat=\"{major}.{compatible}\"}} 1"
    );
}

fn features(gates: &FeatureGates, out: &mut String) {
    out.push_str(
        "# HELP kubernetes_feature_enabled Whether a feature is on\n\
         # TYPE kubernetes_feature_enabled gauge\n",
    );
    for (name, stage, on) in gates.iter() {
        let stage = match stage {
            Stage::Alpha => "ALPHA",
            Stage::Beta => "BETA",
            Stage::GenerallyAvailable => "",
            Stage::Deprecated => "DEPRECATED",
        };
        let on = u8::from(on);
        let _ =
            writeln!(out, "kubernetes_feature_enabled{{name=\"{name}\",stage=\"{stage}\"}} {on}");
    }
}

/// What is told of one cache.
struct Told {
    group: &'static str,
    resource: &'static str,
    received: u64,
    dispatched: u64,
    filled: u64,
    bytes: u64,
}

impl Told {
    fn of(cache: &Cache) -> Option<Self> {
        let ResourceFacts { group, resource, .. } = *cache.resource().served().first()?.facts;
        let (received, dispatched) = (cache.received(), cache.dispatched());
        let (filled, bytes) = (cache.filled(), cache.size().1);
        Some(Self { group, resource, received, dispatched, filled, bytes })
    }
}

/// What is told of caches: name, kind and help.
type Family = (&'static str, &'static str, &'static str);

fn caches(server: &Server, out: &mut String) {
    let custom = server.catalog.custom();
    let custom: Vec<_> = custom.installed().map(|it| &it.cache).collect();
    let all: Vec<Told> =
        server.hub.caches().iter().chain(custom).filter_map(|it| Told::of(it)).collect();
    let revision = server.hub.progress().revision();
    let mut family = |(name, kind, help): Family, value: &dyn Fn(&Told) -> u64| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for told in &all {
            let Told { group, resource, .. } = told;
            let value = value(told);
            let _ = writeln!(out, "{name}{{group=\"{group}\",resource=\"{resource}\"}} {value}");
        }
    };
    // There is one way from the store to the caches.
    for name in
        ["apiserver_storage_events_received_total", "apiserver_watch_cache_events_received_total"]
    {
        family((name, "counter", "Changes that the caches were told of"), &|it| it.received);
    }
    let name = "apiserver_watch_cache_events_dispatched_total";
    let help = "Events that the caches put where watchers find them";
    family((name, "counter", help), &|it| it.dispatched);
    let name = "apiserver_watch_cache_initializations_total";
    family((name, "counter", "Times that a cache was filled from the store"), &|it| it.filled);
    let name = "apiserver_watch_cache_resource_version";
    let help = "Up to which version the caches hold everything";
    family((name, "gauge", help), &|_| revision);
    let name = "apiserver_resource_size_estimate_bytes";
    family((name, "gauge", "How many bytes the stored objects have"), &|it| it.bytes);
}
