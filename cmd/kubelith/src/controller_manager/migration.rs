//! Leader migration: some controllers work under a lease of their own, so that they can move from one controller manager to
//! another one while both run. Upstream: `k8s.io/controller-manager/pkg/leadermigration` (KEP-2436).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use apimachinery::{FieldErrors, Path as Field, Value};

use super::options::canonical;

/// The group of the configuration.
const GROUP: &str = "controllermanager.config.k8s.io/";
const KIND: &str = "LeaderMigrationConfiguration";
/// Upstream's own lease: that of the controllers of clouds, of which there are none here.
const CLOUD: &str = "cloud-provider-extraction-migration";
const CLOUD_CONTROLLERS: [&str; 3] =
    ["cloud-node-lifecycle-controller", "node-route-controller", "service-lb-controller"];
/// Whoever it is.
const ANY: &str = "*";

/// Upstream's flags.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "leader-migration")]
#[command(next_help_heading = "Leader election")]
pub(crate) struct MigrationOptions {
    /// Whether controllers that move between controller managers work under a lease of their own
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    enable_leader_migration: bool,
    /// Which controllers move, and under which lease: a LeaderMigrationConfiguration of controllermanager.config.k8s.io
    /// (default: upstream's, the controllers of clouds)
    #[arg(long, value_name = "FILE")]
    leader_migration_config: Option<PathBuf>,
}

/// Which controllers work under which lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Migration {
    /// The lease of those that move.
    pub(crate) lease: String,
    /// Those, and whether this component runs them.
    moving: Vec<(String, bool)>,
}

/// Under which lease a controller works here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Under {
    /// The component's own.
    Main,
    /// That of those that move.
    Migration,
    /// None: another component runs it.
    Nobody,
}

impl MigrationOptions {
    /// What is asked for.
    ///
    /// # Errors
    /// A file that cannot be read, or that says what cannot be.
    pub(crate) fn migration(&self, component: &str) -> Result<Option<Migration>> {
        if !self.enable_leader_migration {
            return Ok(None);
        }
        match &self.leader_migration_config {
            Some(file) => read(file, component).map(Some),
            None => {
                let moving = CLOUD_CONTROLLERS.map(|it| (it.to_owned(), true)).to_vec();
                Ok(Some(Migration { lease: CLOUD.into(), moving }))
            }
        }
    }
}

impl Migration {
    /// Under which lease a controller works.
    pub(crate) fn of(&self, name: &str) -> Under {
        match self.moving.iter().rev().find(|it| it.0 == name) {
            None => Under::Main,
            Some((_, true)) => Under::Migration,
            Some((_, false)) => Under::Nobody,
        }
    }
}

fn read(file: &Path, component: &str) -> Result<Migration> {
    let shown = file.display();
    let text = std::fs::read(file).with_context(|| {
        format!("unable to read leader migration configuration from \"{shown}\"")
    })?;
    parse(&text, component)
}

fn parse(text: &[u8], component: &str) -> Result<Migration> {
    let config = apimachinery::yaml::parse(text).map_err(|it| anyhow::anyhow!("{it}"))?;
    let (version, kind) = (config.str_at(&["apiVersion"]), config.str_at(&["kind"]));
    let known = matches!(version.strip_prefix(GROUP), Some("v1alpha1" | "v1beta1" | "v1"));
    if !known || kind != KIND {
        bail!(
            "no kind \"{kind}\" is registered for version \"{version}\" in leader migration configurations"
        );
    }
    let mut errors = FieldErrors::default();
    check(&config, &mut errors);
    if !errors.is_empty() {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        bail!("failed to parse leader migration configuration: [{}]", all.join(", "));
    }
    if config.str_at(&["resourceLock"]) == "endpoints" {
        bail!("endpoints lock is removed, migrate to leases");
    }
    let moving = config.items_at(&["controllerLeaders"]).iter().map(|it| {
        let whose = it.str_at(&["component"]);
        (canonical(it.str_at(&["name"])).to_owned(), whose == component || whose == ANY)
    });
    Ok(Migration { lease: config.str_at(&["leaderName"]).to_owned(), moving: moving.collect() })
}

/// Upstream's validation.
fn check(config: &Value, errors: &mut FieldErrors) {
    if config.str_at(&["leaderName"]).is_empty() {
        let detail = "leaderName must be set for LeaderMigrationConfiguration";
        errors.required(&Field::new("leaderName"), detail);
    }
    let lock = config.str_at(&["resourceLock"]);
    if !matches!(lock, "" | "leases" | "endpoints") {
        let detail = "resource Lock must be one of 'leases' or 'endpoints'";
        errors.invalid_text(&Field::new("resourceLock"), lock, detail);
    }
    let all = Field::new("controllerLeaders");
    for (index, leader) in config.items_at(&["controllerLeaders"]).iter().enumerate() {
        let path = all.index(index);
        for member in ["component", "name"] {
            if leader.str_at(&[member]).is_empty() {
                errors.required(&path.child(member), &format!("{member} must be set"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_works_under_one_lease() {
        let text = b"apiVersion: controllermanager.config.k8s.io/v1\nkind: LeaderMigrationConfiguration\n\
            leaderName: moving\ncontrollerLeaders:\n- {name: job-controller, component: kube-controller-manager}\n\
            - {name: cronjob, component: '*'}\n- {name: ttl-controller, component: other}\n";
        let migration = parse(text, "kube-controller-manager").unwrap();
        assert_eq!(migration.lease, "moving");
        for (name, under) in [
            ("job-controller", Under::Migration),
            ("cronjob-controller", Under::Migration),
            ("ttl-controller", Under::Nobody),
            ("namespace-controller", Under::Main),
        ] {
            assert_eq!(migration.of(name), under, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_is_told() {
        let head =
            "apiVersion: controllermanager.config.k8s.io/v1\nkind: LeaderMigrationConfiguration\n";
        for (text, expected) in [
            ("", "leaderName: Required value: leaderName must be set"),
            (
                "leaderName: a\nresourceLock: x\n",
                "resource Lock must be one of 'leases' or 'endpoints'",
            ),
            ("leaderName: a\nresourceLock: endpoints\n", "endpoints lock is removed"),
            (
                "leaderName: a\ncontrollerLeaders: [{name: x}]\n",
                "controllerLeaders[0].component: Required value",
            ),
        ] {
            let error = parse(format!("{head}{text}").as_bytes(), "c").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(parse(b"kind: Pod\napiVersion: v1\n", "c").is_err());
    }

    #[test]
    fn nothing_moves_unless_it_is_asked_for() {
        assert_eq!(MigrationOptions::default().migration("c").unwrap(), None);
        let on = MigrationOptions { enable_leader_migration: true, ..Default::default() };
        assert_eq!(on.migration("c").unwrap().map(|it| it.lease).as_deref(), Some(CLOUD));
    }
}
