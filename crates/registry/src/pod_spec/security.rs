//! Checks of what pods and containers may do to their host.

use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use super::volumes::descending_path;
use super::windows;
use crate::check;

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
/// The longest name of an AppArmor profile of the host.
const APP_ARMOR_LENGTH_MAX: usize = 4095;
/// The longest name of a kernel parameter.
const SYSCTL_LENGTH_MAX: usize = 253;

/// Checks the security context of a container.
pub(super) fn container(
    context: &Value,
    host_users: bool,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    ids(context, &["runAsUser", "runAsGroup"], path, errors);
    check::optional_one_of(context, "procMount", &["Default", "Unmasked"], path, errors);
    if host_users && context.str_at(&["procMount"]) == "Unmasked" {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        errors.invalid_text(&path.child("procMount"), "Unmasked", detail);
    }
    profiles(context, path, errors);
    if context.get("allowPrivilegeEscalation").and_then(Value::as_bool) == Some(false) {
        let added = context.items_at(&["capabilities", "add"]);
        let admin = |it: &Value| matches!(it.as_str(), Some("CAP_SYS_ADMIN" | "SYS_ADMIN"));
        if context.bool_at(&["privileged"]) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            check::invalid_shown(path, &shown(context), detail, errors);
        }
        if added.iter().any(admin) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            check::invalid_shown(path, &shown(context), detail, errors);
        }
    }
    if let Some(options) = context.get("windowsOptions") {
        windows::options(options, &path.child("windowsOptions"), errors);
    }
}

/// A container's context in the words of upstream's own type.
fn shown(context: &Value) -> String {
    let capabilities = context.get("capabilities").map_or_else(
        || "null".to_owned(),
        |it| check::go_struct(it, &[("Add", "add"), ("Drop", "drop")]),
    );
    let rest = check::go_struct(
        context,
        &[
            ("Privileged", "privileged"),
            ("SELinuxOptions", "seLinuxOptions"),
            ("WindowsOptions", "windowsOptions"),
            ("RunAsUser", "runAsUser"),
            ("RunAsGroup", "runAsGroup"),
            ("RunAsNonRoot", "runAsNonRoot"),
            ("ReadOnlyRootFilesystem", "readOnlyRootFilesystem"),
            ("AllowPrivilegeEscalation", "allowPrivilegeEscalation"),
            ("ProcMount", "procMount"),
            ("SeccompProfile", "seccompProfile"),
            ("AppArmorProfile", "appArmorProfile"),
        ],
    );
    format!("{{\"Capabilities\":{capabilities},{}", &rest[1..])
}

fn ids(of: &Value, members: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    for member in members {
        if let Some(id) = of.i64_at(&[member]) {
            for problem in validation::unix_id(id) {
                errors.invalid(&path.child(member), &id.into(), &problem);
            }
        }
    }
}

fn profiles(context: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(profile) = context.get("seccompProfile") {
        seccomp(profile, &path.child("seccompProfile"), errors);
    }
    if let Some(profile) = context.get("appArmorProfile") {
        app_armor(profile, &path.child("appArmorProfile"), errors);
    }
}

fn seccomp(profile: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = profile.str_at(&["type"]);
    if kind.is_empty() {
        errors.required(&path.child("type"), "type is required when seccompProfile is set");
    } else {
        check::one_of(profile, "type", &PROFILES, path, errors);
    }
    let at = path.child("localhostProfile");
    match (kind, profile.get("localhostProfile")) {
        ("Localhost", None) => {
            errors.required(&at, "must be set when seccomp type is Localhost");
        }
        ("Localhost", Some(file)) => {
            descending_path(file.as_str().unwrap_or_default(), &at, errors);
        }
        (_, Some(_)) => {
            let fields = [("Type", "type"), ("LocalhostProfile", "localhostProfile")];
            let detail = "can only be set when seccomp type is Localhost";
            check::invalid_shown(&at, &check::go_struct(profile, &fields), detail, errors);
        }
        (_, None) => {}
    }
}

pub(super) fn app_armor(profile: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("localhostProfile");
    let name = profile.get("localhostProfile").and_then(Value::as_str);
    let needed = "must be set when AppArmor type is Localhost";
    match (profile.str_at(&["type"]), name) {
        ("Localhost", None) => errors.required(&at, needed),
        ("Localhost", Some(name)) if name.trim() != name => {
            errors.invalid_text(&at, name, "must not be padded with whitespace");
        }
        ("Localhost", Some("")) => errors.required(&at, needed),
        ("Localhost", Some(name)) if name.len() > APP_ARMOR_LENGTH_MAX => {
            errors.too_long(&at, APP_ARMOR_LENGTH_MAX);
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errors.invalid_text(&at, name, "can only be set when AppArmor type is Localhost");
        }
        ("Localhost" | "RuntimeDefault" | "Unconfined", _) => {}
        ("", _) => {
            errors.required(&path.child("type"), "type is required when appArmorProfile is set");
        }
        _ => check::one_of(profile, "type", &PROFILES, path, errors),
    }
}

/// Checks the security context of a pod. What upstream's own type holds there stands in the spec.
pub(super) fn pod(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let empty = Value::object();
    let context = spec.get("securityContext").unwrap_or(&empty);
    let at = path.child("securityContext");
    for member in ["fsGroup", "runAsUser", "runAsGroup"] {
        ids(context, &[member], &at, errors);
    }
    let groups = at.child("supplementalGroups");
    for (index, group) in context.items_at(&["supplementalGroups"]).iter().enumerate() {
        let id = group.as_i64().unwrap_or_default();
        for problem in validation::unix_id(id) {
            errors.invalid(&groups.index(index), &id.into(), &problem);
        }
    }
    if spec.bool_at(&["shareProcessNamespace"]) && spec.bool_at(&["hostPID"]) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&at.child("shareProcessNamespace"), &true.into(), detail);
    }
    sysctls(spec, context.items_at(&["sysctls"]), &at.child("sysctls"), errors);
    let policies = ["Always", "OnRootMismatch"];
    check::optional_one_of(context, "fsGroupChangePolicy", &policies, &at, errors);
    profiles(context, &at, errors);
    if let Some(options) = context.get("windowsOptions") {
        windows::options(options, &at.child("windowsOptions"), errors);
    }
    let policies = ["Merge", "Strict"];
    check::optional_one_of(context, "supplementalGroupsPolicy", &policies, &at, errors);
    // Upstream takes `MountOption` only with its gate SELinuxMount.
    check::optional_one_of(context, "seLinuxChangePolicy", &["Recursive"], &at, errors);
}

fn sysctls(spec: &Value, list: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<String> = Vec::new();
    for (index, sysctl) in list.iter().enumerate() {
        let at = path.index(index);
        let name = sysctl.str_at(&["name"]);
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if !is_sysctl(name) {
            let detail = format!(
                "must have at most {SYSCTL_LENGTH_MAX} characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            );
            errors.invalid_text(&at.child("name"), name, &detail);
        } else if seen.contains(&name.replace('/', ".")) {
            errors.duplicate(&at.child("name"), &name.into());
        }
        seen.push(name.replace('/', "."));
        let dotted = name.replace('/', ".");
        for (member, prefix, said) in [
            ("hostNetwork", "net.", "hostNet"),
            ("hostIPC", "kernel.shm", "hostIPC"),
            ("hostIPC", "kernel.msg", "hostIPC"),
            ("hostIPC", "kernel.sem", "hostIPC"),
            ("hostIPC", "fs.mqueue.", "hostIPC"),
        ] {
            if spec.bool_at(&[member]) && dotted.starts_with(prefix) {
                let detail = format!("may not be specified when '{said}' is true");
                errors.invalid_text(&at.child("name"), name, &detail);
            }
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    name.len() <= SYSCTL_LENGTH_MAX
        && name.split(['.', '/']).all(|part| {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            part.bytes().next().is_some_and(plain)
                && part.bytes().last().is_some_and(plain)
                && part.bytes().all(|b| plain(b) || b == b'-' || b == b'_')
        })
}
