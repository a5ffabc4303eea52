//! Which kernel parameters pods may set on this node: the safe ones, and those that its operator allows. Pure.

use k8s_openapi::api::core::v1::Pod;

use crate::spec;

/// The longest name of a parameter.
const MAX_NAME_BYTES: usize = 253;

/// What is safe: of the pod alone, and without influence on others. Each with the first kernel that has it in a
/// namespace.
const SAFE: [(&str, (u32, u32)); 12] = [
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];

/// What a parameter is of, in the word of upstream's refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

impl Namespace {
    fn of(name: &str) -> Option<Self> {
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."];
        if name == "kernel.sem" || ipc.iter().any(|it| name.starts_with(it)) {
            return Some(Self::Ipc);
        }
        name.starts_with("net.").then_some(Self::Net)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Ipc => "IPC",
            Self::Net => "Net",
        }
    }
}

/// The parameters that pods may set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allowlist {
    names: Vec<String>,
    prefixes: Vec<String>,
}

impl Allowlist {
    /// What is safe with this kernel, and what the operator allows besides: names, or beginnings with a `*`.
    pub(crate) fn new(kernel: &str, allowed: &[String]) -> Self {
        let kernel = version(kernel);
        let safe = SAFE.iter().filter(|(_, since)| kernel >= *since);
        let mut list = Self::default();
        list.names.extend(safe.map(|(name, _)| (*name).to_owned()));
        for pattern in allowed.iter().map(|it| with_dots(it)) {
            match pattern.strip_suffix('*') {
                Some(prefix) => list.prefixes.push(prefix.to_owned()),
                None => list.names.push(pattern),
            }
        }
        list
    }

    /// Whether a pod sets only what it may.
    ///
    /// # Errors
    /// Upstream's message.
    pub(crate) fn admit(&self, pod: &Pod) -> Result<(), String> {
        let spec = spec::spec(pod);
        let context = spec.security_context.as_ref();
        let (net, ipc) = (spec.host_network.unwrap_or_default(), spec.host_ipc.unwrap_or_default());
        for sysctl in context.and_then(|it| it.sysctls.as_ref()).into_iter().flatten() {
            let name = with_dots(&sysctl.name);
            let listed = self.names.contains(&name)
                || self.prefixes.iter().any(|it| name.starts_with(it.as_str()));
            let namespace = Namespace::of(&name).filter(|_| listed);
            let why = match namespace {
                None => "not allowlisted".to_owned(),
                Some(it) if (it == Namespace::Net && net) || (it == Namespace::Ipc && ipc) => {
                    format!("not allowed with host {} enabled", it.word())
                }
                Some(_) => continue,
            };
            return Err(format!("forbidden sysctl: {name:?} {why}"));
        }
        Ok(())
    }
}

/// Checks what an operator allows: a name, or a beginning with a `*`, of parameters that a pod can have for itself.
///
/// # Errors
/// In upstream's words.
pub fn check_sysctl_pattern(pattern: &str) -> Result<(), String> {
    let stem = pattern.strip_suffix('*').unwrap_or(pattern);
    let is_word = |it: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        it.bytes().all(|b| inner(b) || b == b'-' || b == b'_')
            && it.bytes().next().is_none_or(inner)
    };
    let fine = stem.split(['.', '/']).all(is_word) && !pattern.is_empty();
    if !fine || pattern.len() > MAX_NAME_BYTES {
        return Err(format!(
            "sysctl {pattern:?} must have at most {MAX_NAME_BYTES} characters and be words of \
             [a-z0-9_-] with '.' or '/' between them, with a '*' at the end at most"
        ));
    }
    if Namespace::of(&with_dots(stem)).is_none() {
        return Err(format!("the sysctls {pattern:?} are not known to be namespaced"));
    }
    Ok(())
}

/// Slashes may stand for dots: where the first separator is one, the two change places.
fn with_dots(name: &str) -> String {
    let first = name.find(['.', '/']);
    if first.is_none_or(|at| name.as_bytes()[at] == b'.') {
        return name.to_owned();
    }
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|it| it.parse().ok());
    let mut next = || numbers.next().flatten().unwrap_or_default();
    (next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &Allowlist, spec: &str, sysctl: &str, expected: &str) {
        let text = format!(
            r#"{{"metadata":{{}},"spec":{{{spec}"containers":[],"securityContext":{{"sysctls":[{{"name":"{sysctl}","value":"1"}}]}}}}}}"#
        );
        let pod: Pod = serde_json::from_str(&text).unwrap();
        let why = list.admit(&pod).err().unwrap_or_default();
        assert_eq!(why, expected, "{spec} {sysctl}");
    }

    #[test]
    fn only_what_is_safe_or_allowed_is_set() {
        let safe = Allowlist::new("6.18.5-amd64", &[]);
        check(&safe, "", "net.ipv4.tcp_syncookies", "");
        check(&safe, "", "net/ipv4/tcp_wmem", "");
        check(&safe, "", "kernel.msgmax", "forbidden sysctl: \"kernel.msgmax\" not allowlisted");
        check(&safe, "", "vm.swappiness", "forbidden sysctl: \"vm.swappiness\" not allowlisted");
        let net = r#""hostNetwork":true,"#;
        let refused =
            "forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host Net enabled";
        check(&safe, net, "net.ipv4.tcp_syncookies", refused);
        check(&safe, net, "kernel.shm_rmid_forced", "");
        let ipc = r#""hostIPC":true,"#;
        let refused =
            "forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host IPC enabled";
        check(&safe, ipc, "kernel.shm_rmid_forced", refused);
        let old = Allowlist::new("4.14.0", &[]);
        check(&old, "", "net.ipv4.tcp_fin_timeout", "");
        check(
            &old,
            "",
            "net.ipv4.tcp_rmem",
            "forbidden sysctl: \"net.ipv4.tcp_rmem\" not allowlisted",
        );
        let more = Allowlist::new("6.18", &["kernel.msg*".into(), "net.core.somaxconn".into()]);
        check(&more, "", "kernel.msgmax", "");
        check(&more, "", "net.core.somaxconn", "");
        check(&more, "", "kernel.sem", "forbidden sysctl: \"kernel.sem\" not allowlisted");
        let refused = "forbidden sysctl: \"kernel.msgmax\" not allowed with host IPC enabled";
        check(&more, ipc, "kernel.msgmax", refused);
    }

    #[test]
    fn an_operator_allows_what_is_of_a_pod() {
        for fine in ["kernel.msg*", "net.*", "net/core/somaxconn", "kernel.sem", "fs.mqueue.*"] {
            assert_eq!(check_sysctl_pattern(fine), Ok(()), "{fine}");
        }
        for (pattern, expected) in [
            ("vm.swappiness", "the sysctls \"vm.swappiness\" are not known to be namespaced"),
            ("*", "the sysctls \"*\" are not known to be namespaced"),
            ("kernel.*", "the sysctls \"kernel.*\" are not known to be namespaced"),
            ("Net.x", "sysctl \"Net.x\" must have at most 253 characters"),
            ("net.*.x", "sysctl \"net.*.x\" must have"),
            ("", "sysctl \"\" must have"),
        ] {
            let error = check_sysctl_pattern(pattern).unwrap_err();
            assert!(error.starts_with(expected), "{pattern}: {error}");
        }
    }
}
