//! What is so and need not be counted: the build, the features.

use std::fmt::Write as _;
use std::sync::Weak;
use std::time::Duration;

use component_base::ShutdownSignal;
use component_base::feature_gates::{FeatureGates, Stage};

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
    events(server, &mut out);
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

fn events(server: &Server, out: &mut String) {
    let custom = server.catalog.custom();
    let custom: Vec<_> = custom.installed().map(|it| &it.cache).collect();
    let caches = server.hub.caches().iter().chain(custom);
    let received: Vec<(&str, &str, u64)> = caches
        .filter_map(|cache| {
            let facts = cache.resource().served().first()?.facts;
            Some((facts.group, facts.resource, cache.received()))
        })
        .collect();
    // There is one way from the store to the caches.
    for name in
        ["apiserver_storage_events_received_total", "apiserver_watch_cache_events_received_total"]
    {
        let help = "Changes that the caches were told of";
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
        for (group, resource, count) in &received {
            let _ = writeln!(out, "{name}{{group=\"{group}\",resource=\"{resource}\"}} {count}");
        }
    }
}
