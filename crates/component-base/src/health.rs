//! What parts tell of their health: `/healthz`, `/livez`, `/readyz`, and the metrics of what was asked.
//!
//! Upstream: `k8s.io/apiserver/pkg/server/healthz`, KEP-3466 for the metrics.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Something whose health is told, and whether it is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check<'c> {
    /// Its name, as a path has it.
    pub name: &'c str,
    /// What is wrong with it; nothing where it is well.
    pub failure: Option<String>,
}

impl<'c> Check<'c> {
    /// One that is well.
    #[must_use]
    pub fn well(name: &'c str) -> Self {
        Self { name, failure: None }
    }

    /// Whether it is.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.failure.is_none()
    }
}

/// What a page tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// 200 or 500.
    pub code: u16,
    /// Plain text.
    pub text: String,
}

/// One check alone, which says what is wrong.
#[must_use]
pub fn one(check: &Check<'_>) -> Page {
    match &check.failure {
        None => Page { code: 200, text: "ok".into() },
        Some(why) => Page { code: 500, text: format!("internal server error: {why}\n") },
    }
}

/// All checks of a page (`healthz`, `livez` or `readyz`) but the excluded ones. It names them where somebody wants to know
/// (`verbose`) or something is not well.
#[must_use]
pub fn all<'e>(
    which: &str,
    checks: &[Check<'_>],
    excluded: impl Iterator<Item = &'e str>,
    verbose: bool,
) -> Page {
    let mut left: Vec<&str> = Vec::new();
    for name in excluded {
        if !left.contains(&name) {
            left.push(name);
        }
    }
    let (mut text, mut healthy) = (String::new(), true);
    for check in checks {
        let (name, well) = (check.name, check.is_well());
        let is_excluded = left.contains(&name);
        left.retain(|it| *it != name);
        healthy &= well || is_excluded;
        text.push_str(&match (is_excluded, well) {
            (true, _) => format!("[+]{name} excluded: ok\n"),
            (false, true) => format!("[+]{name} ok\n"),
            (false, false) => format!("[-]{name} failed: reason withheld\n"),
        });
    }
    if healthy && !verbose {
        return Page { code: 200, text: "ok".into() };
    }
    if !left.is_empty() {
        let quoted: Vec<String> = left.into_iter().map(|it| format!("{it:?}")).collect();
        let warning = "warn: some health checks cannot be excluded: no matches for";
        text.push_str(&format!("{warning} {}\n", quoted.join(",")));
    }
    let (code, verdict) = if healthy { (200, "passed") } else { (500, "failed") };
    text.push_str(&format!("{which} check {verdict}\n"));
    Page { code, text }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Checked {
    name: String,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    name: String,
    status: &'static str,
    r#type: &'static str,
}

/// What health checks have found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    now: Family<Checked, Gauge<i64, AtomicI64>>,
    all: Family<Outcome, Counter>,
}

impl Found {
    /// Has them told with a registry's metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "kubernetes_healthcheck",
            "Whether a check found its subject well when it was last made",
            Family::clone(&self.now),
        );
        registry.register(
            "kubernetes_healthchecks",
            "Checks that were made",
            Family::clone(&self.all),
        );
    }

    /// The page `/metrics/slis`: these metrics alone.
    #[must_use]
    pub fn text(&self) -> String {
        let mut registry = Registry::default();
        self.register(&mut registry);
        crate::metrics::text(&registry)
    }

    /// A check was made for `/healthz`, `/livez` or `/readyz`.
    pub fn checked(&self, endpoint: &str, check: &Check<'_>) {
        let kind = match endpoint {
            "livez" => "livez",
            "readyz" => "readyz",
            _ => "healthz",
        };
        let of = Checked { name: check.name.to_owned(), r#type: kind };
        self.now.get_or_create(&of).set(i64::from(check.is_well()));
        let status = if check.is_well() { "success" } else { "error" };
        self.all.get_or_create(&Outcome { name: of.name, status, r#type: kind }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken() -> Check<'static> {
        Check { name: "etcd", failure: Some("no answer".into()) }
    }

    fn page(excluded: &[&str], verbose: bool) -> Page {
        let checks = [Check::well("ping"), broken()];
        all("readyz", &checks, excluded.iter().copied(), verbose)
    }

    #[test]
    fn a_page_names_its_checks_where_one_is_not_well_or_somebody_wants_to_know() {
        let failed = "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n";
        assert_eq!(page(&[], false), Page { code: 500, text: failed.into() });
        assert_eq!(page(&["etcd"], false), Page { code: 200, text: "ok".into() });
        let unknown = "[+]ping ok\n[+]etcd excluded: ok\n\
            warn: some health checks cannot be excluded: no matches for \"x\",\"y\"\nreadyz check passed\n";
        let told = page(&["x", "etcd", "y", "x"], true);
        assert_eq!(told, Page { code: 200, text: unknown.into() });
        let alone = Page { code: 500, text: "internal server error: no answer\n".into() };
        assert_eq!(one(&broken()), alone, "which says why");
    }
}
