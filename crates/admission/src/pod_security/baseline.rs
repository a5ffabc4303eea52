//! The checks of the level `baseline`: what is known to let a pod out of its container.

use std::collections::BTreeSet;

use apimachinery::Value;
use apimachinery::field::quote;

use super::checks::Finding;
use super::pod::{Pod, Setters, containers, name_of, plural, quoted};
use super::policy::Version;

/// What containers may add.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The sysctls that touch nothing outside the pod, and since which minor version they are let pass.
const SYSCTLS: [(&str, i64); 14] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
    ("net.ipv4.tcp_notsent_lowat", 37),
    ("net.ipv4.tcp_slow_start_after_idle", 37),
];

/// The SELinux types that are let pass, and since which minor version.
const SELINUX_TYPES: [(&str, i64); 5] = [
    ("", 0),
    ("container_t", 0),
    ("container_init_t", 0),
    ("container_kvm_t", 0),
    ("container_engine_t", 31),
];

/// Before the field came, seccomp profiles were annotations.
const SECCOMP_FIELD: Version = Version::Minor(19);
const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(super) const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

const APP_ARMOR_OF_CONTAINER: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Since then, users of the pod's own make some checks needless.
pub(super) const OWN_USERS: Version = Version::Minor(35);

fn is_known(list: &[(&str, i64)], name: &str, version: Version) -> bool {
    list.iter().any(|(known, since)| *known == name && Version::Minor(*since) <= version)
}

/// Adds these to what was found; says whether there were any.
fn note<T: Ord>(found: &mut BTreeSet<T>, items: impl IntoIterator<Item = T>) -> bool {
    let mut any = false;
    for item in items {
        found.insert(item);
        any = true;
    }
    any
}

/// The type of a profile other than the runtime's own or one of the node's.
fn bad_profile<'p>(context: &'p Value, member: &str) -> Option<&'p str> {
    let kind = context.get(member)?.str_at(&["type"]);
    (!matches!(kind, "RuntimeDefault" | "Localhost")).then_some(kind)
}

pub(super) fn app_armor_profile(pod: Pod<'_>, _: Version) -> Option<Finding> {
    let found = Setters::find(pod, |context| bad_profile(context, "appArmorProfile"));
    let allowed =
        |it: &str| it.is_empty() || it == "runtime/default" || it.starts_with("localhost/");
    let annotations: BTreeSet<String> = pod
        .annotations()
        .filter(|(key, value)| key.starts_with(APP_ARMOR_OF_CONTAINER) && !allowed(value))
        .map(|(key, value)| format!("{key}={}", quote(value)))
        .collect();
    let mut words = found.words();
    if !annotations.is_empty() {
        words.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    let values: Vec<&str> =
        found.values.iter().copied().chain(annotations.iter().map(String::as_str)).collect();
    (!words.is_empty()).then(|| Finding {
        reason: plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len()),
        detail: format!(
            "{} must not set AppArmor profile type to {}",
            words.join(" and "),
            quoted(values)
        ),
    })
}

/// The containers that add anything but these capabilities, in words.
pub(super) fn added_capabilities(pod: Pod<'_>, allowed: &[&str]) -> Option<String> {
    let mut forbidden = BTreeSet::new();
    let names = pod.containers_that(|container| {
        let added = container.items_at(&["securityContext", "capabilities", "add"]);
        let bad = added.iter().filter_map(Value::as_str).filter(|it| !allowed.contains(it));
        note(&mut forbidden, bad)
    });
    (!names.is_empty()).then(|| {
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&names),
            quoted(forbidden)
        )
    })
}

pub(super) fn capabilities(pod: Pod<'_>, _: Version) -> Option<Finding> {
    let detail = added_capabilities(pod, &CAPABILITIES)?;
    Some(Finding { reason: "non-default capabilities", detail })
}

pub(super) fn host_namespaces(pod: Pod<'_>, _: Version) -> Option<Finding> {
    let set = |field: &&str| pod.spec.bool_at(&[field]);
    let fields = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(set);
    let told: Vec<String> = fields.map(|field| format!("{field}=true")).collect();
    (!told.is_empty()).then(|| Finding { reason: "host namespaces", detail: told.join(", ") })
}

pub(super) fn host_path_volumes(pod: Pod<'_>, _: Version) -> Option<Finding> {
    let volumes = pod.spec.items_at(&["volumes"]).iter();
    let names: Vec<&str> = volumes.filter(|it| it.get("hostPath").is_some()).map(name_of).collect();
    (!names.is_empty()).then(|| Finding {
        reason: "hostPath volumes",
        detail: format!("{} {}", plural("volume", "volumes", names.len()), quoted(names)),
    })
}

pub(super) fn host_ports(pod: Pod<'_>, _: Version) -> Option<Finding> {
    // In the order of text, as upstream tells them.
    let mut ports = BTreeSet::new();
    let names = pod.containers_that(|container| {
        let all = container.items_at(&["ports"]).iter();
        let bad = all.filter_map(|it| it.i64_at(&["hostPort"])).filter(|it| *it != 0);
        note(&mut ports, bad.map(|it| it.to_string()))
    });
    let ports: Vec<String> = ports.into_iter().collect();
    (!names.is_empty()).then(|| Finding {
        reason: "hostPort",
        detail: format!(
            "{} {} {} {}",
            containers(&names),
            plural("uses", "use", names.len()),
            plural("hostPort", "hostPorts", ports.len()),
            ports.join(", ")
        ),
    })
}

pub(super) fn host_probes(pod: Pod<'_>, _: Version) -> Option<Finding> {
    const HANDLERS: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let mut hosts = BTreeSet::new();
    let names: BTreeSet<&str> = pod
        .containers_that(|container| {
            let handlers = HANDLERS.iter().filter_map(|path| container.at(path));
            let all = handlers.flat_map(|it| {
                [it.str_at(&["httpGet", "host"]), it.str_at(&["tcpSocket", "host"])]
            });
            note(&mut hosts, all.filter(|it| !it.is_empty()))
        })
        .into_iter()
        .collect();
    let names: Vec<&str> = names.into_iter().collect();
    (!names.is_empty()).then(|| Finding {
        reason: "probe or lifecycle host",
        detail: format!(
            "{} {} {} {}",
            containers(&names),
            plural("uses", "use", names.len()),
            plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
            quoted(hosts)
        ),
    })
}

pub(super) fn privileged(pod: Pod<'_>, _: Version) -> Option<Finding> {
    let names = pod.containers_that(|it| it.bool_at(&["securityContext", "privileged"]));
    (!names.is_empty()).then(|| Finding {
        reason: "privileged",
        detail: format!("{} must not set securityContext.privileged=true", containers(&names)),
    })
}

pub(super) fn proc_mount(pod: Pod<'_>, version: Version) -> Option<Finding> {
    if version >= OWN_USERS && pod.has_own_users() {
        return None;
    }
    unmasked_proc(pod)
}

/// What shows more of `/proc` than usual.
pub(super) fn unmasked_proc(pod: Pod<'_>) -> Option<Finding> {
    let mut kinds = BTreeSet::new();
    let names = pod.containers_that(|container| {
        let kind = container.at(&["securityContext", "procMount"]).and_then(Value::as_str);
        note(&mut kinds, kind.filter(|it| *it != "Default"))
    });
    (!names.is_empty()).then(|| Finding {
        reason: "procMount",
        detail: format!(
            "{} must not set securityContext.procMount to {}",
            containers(&names),
            quoted(kinds)
        ),
    })
}

pub(super) fn selinux_options(pod: Pod<'_>, version: Version) -> Option<Finding> {
    let has = |context: &Value, member| !context.str_at(&["seLinuxOptions", member]).is_empty();
    let found = Setters::find(pod, |context| {
        let kind = context.str_at(&["seLinuxOptions", "type"]);
        let other = has(context, "user") || has(context, "role");
        (other || !is_known(&SELINUX_TYPES, kind, version)).then_some(kind)
    });
    let setters = found.joined()?;
    let types: Vec<&str> = found
        .values
        .iter()
        .copied()
        .filter(|kind| !is_known(&SELINUX_TYPES, kind, version))
        .collect();
    let mut told = Vec::new();
    if !types.is_empty() {
        told.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    for (member, words) in [("user", "user may not be set"), ("role", "role may not be set")] {
        if pod.contexts().any(|context| has(context, member)) {
            told.push(words.to_owned());
        }
    }
    Some(Finding {
        reason: "seLinuxOptions",
        detail: format!(
            "{setters} set forbidden securityContext.seLinuxOptions: {}",
            told.join("; ")
        ),
    })
}

pub(super) fn seccomp_profile(pod: Pod<'_>, version: Version) -> Option<Finding> {
    if version < SECCOMP_FIELD {
        return seccomp_annotations(pod);
    }
    bad_seccomp(pod)
}

/// Profiles that are set to something else than the runtime's own or one of the node's.
pub(super) fn bad_seccomp(pod: Pod<'_>) -> Option<Finding> {
    let found = Setters::find(pod, |context| bad_profile(context, "seccompProfile"));
    found.joined().map(|setters| Finding {
        reason: "seccompProfile",
        detail: format!(
            "{setters} must not set securityContext.seccompProfile.type to {}",
            quoted(&found.values)
        ),
    })
}

fn seccomp_annotations(pod: Pod<'_>) -> Option<Finding> {
    let allowed = |it: &str| {
        it == "runtime/default" || it == "docker/default" || it.starts_with("localhost/")
    };
    let of_containers = pod.containers().map(|it| format!("{SECCOMP_OF_CONTAINER}{}", name_of(it)));
    let forbidden: BTreeSet<String> = of_containers
        .chain([SECCOMP_OF_POD.to_owned()])
        .filter_map(|key| {
            let value = pod.annotation(&key).filter(|it| !allowed(it))?;
            Some(format!("{key}={}", quote(value)))
        })
        .collect();
    let forbidden: Vec<String> = forbidden.into_iter().collect();
    (!forbidden.is_empty()).then(|| Finding {
        reason: "seccompProfile",
        detail: format!(
            "forbidden {} {}",
            plural("annotation", "annotations", forbidden.len()),
            forbidden.join(", ")
        ),
    })
}

pub(super) fn sysctls(pod: Pod<'_>, version: Version) -> Option<Finding> {
    let names = pod.context().items_at(&["sysctls"]).iter().map(name_of);
    let forbidden: Vec<&str> = names.filter(|it| !is_known(&SYSCTLS, it, version)).collect();
    (!forbidden.is_empty())
        .then(|| Finding { reason: "forbidden sysctls", detail: forbidden.join(", ") })
}

pub(super) fn windows_host_process(pod: Pod<'_>, _: Version) -> Option<Finding> {
    let is_set = |context: &Value| context.bool_at(&["windowsOptions", "hostProcess"]);
    let setters = Setters::find(pod, |context| is_set(context).then_some("")).joined()?;
    Some(Finding {
        reason: "hostProcess",
        detail: format!("{setters} must not set securityContext.windowsOptions.hostProcess=true"),
    })
}
