//! Checks of a whole `PodSpec` and of the templates that hold one. Upstream: `ValidatePodSpec`.

use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use super::containers::Pod;
use super::{annotations, resource_checks, scheduling, security, volumes};
use crate::{check, metadata};

/// The most name servers of a pod.
const NAME_SERVERS_MAX: usize = 3;
/// The most domains that a pod searches.
const SEARCHES_MAX: usize = 32;
/// The most letters of these domains, with the spaces between them.
const SEARCH_LENGTH_MAX: usize = 2048;

/// Checks a template of pods.
pub(crate) fn template(template: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let labels = template.at(&["metadata", "labels"]);
    check::label_map(labels, &path.child("labels"), errors);
    if let Some(map) = template.at(&["metadata", "annotations"]).and_then(Value::as_object) {
        metadata::annotations(map, &path.child("annotations"), errors);
    }
    annotations::validate(template, &path.child("annotations"), errors);
    let empty = Value::object();
    let spec = template.get("spec").unwrap_or(&empty);
    let at = path.child("spec");
    pod_spec(spec, &at, errors);
    if !spec.items_at(&["ephemeralContainers"]).is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.forbidden(&at.child("ephemeralContainers"), detail);
    }
}

/// Checks the spec of a pod.
pub(crate) fn pod_spec(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if spec.get("terminationGracePeriodSeconds").is_none() {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes = volumes::volumes(spec.items_at(&["volumes"]), &path.child("volumes"), errors);
    let pod = Pod::new(spec, volumes);
    resource_claims(spec, &path.child("resourceClaims"), errors);
    pod.containers(path, errors);
    if let Some(resources) = spec.get("resources") {
        resource_checks::pod(resources, pod.claims(), &path.child("resources"), errors);
    }
    host_network(spec, path, errors);
    policies(spec, path, errors);
    check::label_map(spec.get("nodeSelector"), &path.child("nodeSelector"), errors);
    security::pod(spec, path, errors);
    pull_secrets(spec, &path.child("imagePullSecrets"), errors);
    if let Some(affinity) = spec.get("affinity") {
        scheduling::affinity(affinity, &path.child("affinity"), errors);
    }
    dns(spec, path, errors);
    gates(spec, path, errors);
    let constraints = spec.items_at(&["topologySpreadConstraints"]);
    scheduling::spread(constraints, &path.child("topologySpreadConstraints"), errors);
    host_users(spec, &path.child("hostUsers"), errors);
    names(spec, path, errors);
    let tolerations = spec.items_at(&["tolerations"]);
    scheduling::tolerations(tolerations, &path.child("tolerations"), errors);
    host_aliases(spec, &path.child("hostAliases"), errors);
    if let Some(overhead) = spec.get("overhead") {
        resource_checks::overhead(overhead, &path.child("overhead"), errors);
    }
    if let Some(group) = spec.get("schedulingGroup") {
        scheduling_group(group, &path.child("schedulingGroup"), errors);
    }
    if spec.get("os").is_some() {
        operating_system(spec, &path.child("os"), errors);
    }
}

/// The group of pods that a pod is a member of.
fn scheduling_group(group: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match group.get("podGroupName").and_then(Value::as_str) {
        None => errors.invalid_text(path, "", "must specify one of: `podGroupName`"),
        Some(name) => {
            let at = path.child("podGroupName");
            errors.invalid_all(&at, name, validation::dns1123_subdomain(name));
        }
    }
}

fn policies(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let restarts = ["Always", "OnFailure", "Never"];
    if check::required_text(spec, "restartPolicy", path, errors) {
        check::one_of(spec, "restartPolicy", &restarts, path, errors);
    }
    let dns = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    if check::required_text(spec, "dnsPolicy", path, errors) {
        check::one_of(spec, "dnsPolicy", &dns, path, errors);
    }
    preemption_policy(spec, path, errors);
}

/// Whether pods of less priority make room.
pub(crate) fn preemption_policy(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let member = "preemptionPolicy";
    if of.get(member).is_some() && check::required_text(of, member, path, errors) {
        check::one_of(of, member, &["PreemptLowerPriority", "Never"], path, errors);
    }
}

fn names(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        check::optional_name(spec, member, validation::dns1123_subdomain, path, errors);
    }
    for member in ["hostname", "subdomain"] {
        check::optional_name(spec, member, validation::dns1123_label, path, errors);
    }
    if let Some(seconds) = spec.i64_at(&["activeDeadlineSeconds"]) {
        for problem in validation::in_range(seconds, 1, i64::from(i32::MAX)) {
            errors.invalid(&path.child("activeDeadlineSeconds"), &seconds.into(), &problem);
        }
    }
    let Some(name) = spec.get("hostnameOverride").and_then(Value::as_str) else { return };
    let at = path.child("hostnameOverride");
    if spec.bool_at(&["hostNetwork"]) {
        errors.forbidden(&at, "may not be specified when hostNetwork is true");
    }
    if spec.bool_at(&["setHostnameAsFQDN"]) {
        errors.forbidden(&at, "may not be specified when setHostnameAsFQDN is true");
    }
    errors.invalid_all(&at, name, validation::dns1123_subdomain(name));
    if name.len() > validation::LABEL_LENGTH_MAX + 1 {
        errors.too_long(&at, validation::LABEL_LENGTH_MAX + 1);
    }
}

fn host_network(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !spec.bool_at(&["hostNetwork"]) {
        return;
    }
    let containers = path.child("containers");
    for (index, container) in spec.items_at(&["containers"]).iter().enumerate() {
        let at = containers.index(index);
        let ports = at.child("ports");
        for (index, port) in container.items_at(&["ports"]).iter().enumerate() {
            let host = port.i64_at(&["hostPort"]).unwrap_or_default();
            if host != 0 && Some(host) != port.i64_at(&["containerPort"]) {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(&ports.index(index).child("hostPort"), &host.into(), detail);
            }
        }
    }
}

fn host_users(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if spec.get("hostUsers").and_then(Value::as_bool) != Some(false) {
        return;
    }
    for (member, said) in
        [("hostNetwork", "hostNetwork"), ("hostIPC", "HostIPC"), ("hostPID", "HostPID")]
    {
        if spec.bool_at(&[member]) {
            errors.forbidden(path, &format!("when `{said}` is true"));
        }
    }
}

fn pull_secrets(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (index, secret) in spec.items_at(&["imagePullSecrets"]).iter().enumerate() {
        let name = secret.str_at(&["name"]);
        let only_name = secret.as_object().is_some_and(|it| it.len() <= 1);
        if name.is_empty() || !only_name {
            // Upstream writes the value with the names of its own type.
            let at = path.index(index);
            check::invalid_shown(&at, &check::go_struct(secret, &[("Name", "name")]), "", errors);
        }
    }
}

fn dns(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("dnsConfig");
    let empty = Value::object();
    let config = spec.get("dnsConfig");
    if spec.str_at(&["dnsPolicy"]) == "None" {
        let given = config.is_some_and(|it| !it.items_at(&["nameservers"]).is_empty());
        if config.is_none() {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.required(&at, detail);
            return;
        }
        if !given {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.required(&at.child("nameservers"), detail);
        }
    }
    let config = config.unwrap_or(&empty);
    let servers = config.items_at(&["nameservers"]);
    let list = at.child("nameservers");
    if servers.len() > NAME_SERVERS_MAX {
        let detail = format!("must not have more than {NAME_SERVERS_MAX} nameservers");
        errors.invalid(&list, &servers.iter().cloned().collect(), &detail);
    }
    for (index, server) in servers.iter().enumerate() {
        let text = server.as_str().unwrap_or_default();
        errors.invalid_all(&list.index(index), text, validation::ip(text));
    }
    searches(config.items_at(&["searches"]), &at.child("searches"), errors);
    let options = at.child("options");
    for (index, option) in config.items_at(&["options"]).iter().enumerate() {
        if option.str_at(&["name"]).is_empty() {
            errors.required(&options.index(index), "must not be empty");
        }
    }
}

fn searches(list: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    if list.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.invalid(path, &list.iter().cloned().collect(), &detail);
    }
    let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    if texts.join(" ").len() > SEARCH_LENGTH_MAX {
        let detail = format!(
            "must not have more than {SEARCH_LENGTH_MAX} characters (including spaces) in the search list"
        );
        errors.invalid(path, &list.iter().cloned().collect(), &detail);
    }
    for (index, text) in texts.iter().enumerate() {
        let domain = text.strip_suffix('.').unwrap_or(text);
        let root = *text == ".";
        if !root {
            let problems = validation::dns1123_subdomain_with_underscore(domain);
            errors.invalid_all(&path.index(index), domain, problems);
        }
    }
}

fn gates(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("readinessGates");
    for (index, gate) in spec.items_at(&["readinessGates"]).iter().enumerate() {
        let name = gate.str_at(&["conditionType"]);
        let at = list.index(index);
        errors.invalid_all(&at.child("conditionType"), name, validation::qualified_name(name));
    }
    let list = path.child("schedulingGates");
    let mut seen: Vec<&str> = Vec::new();
    for (index, gate) in spec.items_at(&["schedulingGates"]).iter().enumerate() {
        let name = gate.str_at(&["name"]);
        let at = list.index(index);
        errors.invalid_all(&at.child("name"), name, validation::qualified_name(name));
        if seen.contains(&name) {
            errors.duplicate(&at.child("name"), &name.into());
        }
        seen.push(name);
    }
}

fn host_aliases(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (index, alias) in spec.items_at(&["hostAliases"]).iter().enumerate() {
        let at = path.index(index);
        let ip = alias.str_at(&["ip"]);
        errors.invalid_all(&at.child("ip"), ip, validation::ip(ip));
        let hosts = at.child("hostnames");
        for (index, host) in alias.items_at(&["hostnames"]).iter().enumerate() {
            let text = host.as_str().unwrap_or_default();
            errors.invalid_all(&hosts.index(index), text, validation::dns1123_subdomain(text));
        }
    }
}

fn resource_claims(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, claim) in spec.items_at(&["resourceClaims"]).iter().enumerate() {
        let at = path.index(index);
        let name = claim.str_at(&["name"]);
        if seen.contains(&name) {
            errors.duplicate(&at.child("name"), &name.into());
        }
        seen.push(name);
        check::required_name(claim, "name", validation::dns1123_label, &at, errors);
        let (own, made) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        let fields = [
            ("Name", "name"),
            ("ResourceClaimName", "resourceClaimName"),
            ("ResourceClaimTemplateName", "resourceClaimTemplateName"),
        ];
        let choice = match (own, made) {
            (Some(_), Some(_)) => "at most one of",
            (None, None) => "must specify one of:",
            _ => "",
        };
        if !choice.is_empty() {
            let detail = format!(
                "{choice} `resourceClaimName`{} `resourceClaimTemplateName`",
                if choice.starts_with("at") { " or" } else { "," }
            );
            let detail = if choice.starts_with("at") {
                format!("{detail} may be specified")
            } else {
                detail
            };
            check::invalid_shown(&at, &check::go_struct(claim, &fields), &detail, errors);
        }
        for member in ["resourceClaimName", "resourceClaimTemplateName"] {
            if let Some(text) = claim.get(member).and_then(Value::as_str) {
                errors.invalid_all(&at.child(member), text, validation::dns1123_subdomain(text));
            }
        }
    }
}

fn operating_system(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match spec.str_at(&["os", "name"]) {
        "" => errors.required(&path.child("name"), "cannot be empty"),
        "linux" | "windows" => {}
        odd => errors.not_supported(path, &odd.into(), ["linux", "windows"]),
    }
}
