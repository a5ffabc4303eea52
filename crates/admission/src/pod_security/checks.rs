//! The checks of each level, since which version they are made, and what they say together.

use std::fmt::Write as _;

use super::pod::Pod;
use super::policy::{Level, LevelVersion, Version};
use super::{baseline, restricted};

/// What a check does not let pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// In a few words, without names.
    pub(super) reason: &'static str,
    /// Where it is, and what to do.
    pub(super) detail: String,
}

/// One check.
pub(super) struct Check {
    /// Upstream's name of it; the order of the list.
    pub(super) id: &'static str,
    /// The first minor version that has it. Those that changed later look at the version themselves.
    pub(super) since: i64,
    /// The check of the level below that it says more strictly.
    pub(super) instead_of: &'static str,
    judge: fn(Pod<'_>, Version) -> Option<Finding>,
}

const fn check(
    id: &'static str,
    since: i64,
    judge: fn(Pod<'_>, Version) -> Option<Finding>,
) -> Check {
    Check { id, since, instead_of: "", judge }
}

/// What `baseline` looks at, by name: messages are in this order.
pub(super) const BASELINE: [Check; 12] = [
    check("appArmorProfile", 0, baseline::app_armor_profile),
    check("capabilities_baseline", 0, baseline::capabilities),
    check("hostNamespaces", 0, baseline::host_namespaces),
    check("hostPathVolumes", 0, baseline::host_path_volumes),
    check("hostPorts", 0, baseline::host_ports),
    check("hostProbesAndHostLifecycle", 34, baseline::host_probes),
    check("privileged", 0, baseline::privileged),
    check("procMount", 0, baseline::proc_mount),
    check("seLinuxOptions", 0, baseline::selinux_options),
    check("seccompProfile_baseline", 0, baseline::seccomp_profile),
    check("sysctls", 0, baseline::sysctls),
    check("windowsHostProcess", 0, baseline::windows_host_process),
];

/// What `restricted` looks at besides, by name, after those of `baseline`.
pub(super) const RESTRICTED: [Check; 7] = [
    check("allowPrivilegeEscalation", 8, restricted::privilege_escalation),
    Check {
        instead_of: "capabilities_baseline",
        ..check("capabilities_restricted", 22, restricted::capabilities)
    },
    Check { instead_of: "procMount", ..check("procMount_restricted", 35, restricted::proc_mount) },
    Check { instead_of: "hostPathVolumes", ..check("restrictedVolumes", 0, restricted::volumes) },
    check("runAsNonRoot", 0, restricted::run_as_non_root),
    check("runAsUser", 23, restricted::run_as_user),
    Check {
        instead_of: "seccompProfile_baseline",
        ..check("seccompProfile_restricted", 19, restricted::seccomp_profile)
    },
];

/// What a pod violates of a level; nothing where it may run.
pub(super) fn violations(pod: Pod<'_>, by: LevelVersion) -> Vec<Finding> {
    let (baseline, restricted): (&[Check], &[Check]) = match by.level {
        Level::Privileged => (&[], &[]),
        Level::Baseline => (&BASELINE, &[]),
        Level::Restricted => (&BASELINE, &RESTRICTED),
    };
    let made = |check: &&Check| Version::Minor(check.since) <= by.version;
    let said_below = |check: &&Check| {
        !restricted.iter().filter(made).any(|stricter| stricter.instead_of == check.id)
    };
    let all = baseline.iter().filter(said_below).chain(restricted).filter(made);
    all.filter_map(|check| (check.judge)(pod, by.version)).collect()
}

/// `reason (detail), reason (detail)`
pub(super) fn details(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        let separator = if out.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(out, "{separator}{} ({})", finding.reason, finding.detail);
    }
    out
}

/// `reason, reason`
pub(super) fn reasons(findings: &[Finding]) -> String {
    let reasons: Vec<&str> = findings.iter().map(|it| it.reason).collect();
    reasons.join(", ")
}
