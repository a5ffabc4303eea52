//! Capabilities by name.

/// In the order of their numbers.
pub(crate) const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containers have unless they say otherwise.
pub(crate) const DEFAULT: u64 = 0x0000_0000_a804_25fb;

/// The number of a name, with or without `CAP_`.
pub(crate) fn number(name: &str) -> Option<usize> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare)
}

/// The default ones with some added and dropped; never more than `available`.
///
/// # Errors
/// When a name is none.
pub(crate) fn resolve(
    wanted: &cri::Capabilities,
    privileged: bool,
    available: u64,
) -> Result<u64, String> {
    if privileged {
        return Ok(available);
    }
    let is_all = |name: &&String| name.eq_ignore_ascii_case("ALL");
    let mut set = DEFAULT;
    if wanted.add_capabilities.iter().any(|name| is_all(&name)) {
        set = available;
    }
    if wanted.drop_capabilities.iter().any(|name| is_all(&name)) {
        set = 0;
    }
    let bits = |names: &[String]| -> Result<u64, String> {
        names.iter().filter(|name| !is_all(name)).try_fold(0, |set, name| {
            let number = number(name).ok_or_else(|| format!("unknown capability {name:?}"))?;
            Ok(set | (1 << number))
        })
    };
    Ok((set | bits(&wanted.add_capabilities)?) & !bits(&wanted.drop_capabilities)? & available)
}

/// The bits of these names.
///
/// # Errors
/// When a name is none.
pub(crate) fn ambient(wanted: &cri::Capabilities) -> Result<u64, String> {
    wanted.add_ambient_capabilities.iter().try_fold(0, |set, name| {
        let number = number(name).ok_or_else(|| format!("unknown capability {name:?}"))?;
        Ok(set | (1 << number))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], privileged: bool, expected: Result<u64, &str>) {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let wanted = cri::Capabilities {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            ..Default::default()
        };
        let all = 0x1ff_feff_ffff;
        let got = resolve(&wanted, privileged, all);
        assert_eq!(got, expected.map_err(str::to_owned), "+{add:?} -{drop:?}");
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_elsewhere() {
        check(&[], &[], false, Ok(DEFAULT));
        check(&["NET_ADMIN"], &[], false, Ok(DEFAULT | 1 << 12));
        check(&["cap_net_admin"], &["CHOWN"], false, Ok((DEFAULT | 1 << 12) & !1));
        check(&["NET_BIND_SERVICE"], &["ALL"], false, Ok(1 << 10));
        check(&["ALL"], &["NET_RAW"], false, Ok(0x1ff_feff_ffff & !(1 << 13)));
        check(&[], &[], true, Ok(0x1ff_feff_ffff));
        // What the node itself does not have is not given.
        check(&["SYS_RESOURCE"], &["ALL"], false, Ok(0));
        check(&["FLY"], &[], false, Err("unknown capability \"FLY\""));
    }
}
