//! Checks of services. Upstream: `ValidateService`, and what its address allocation refuses before that.

use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use crate::check;
use crate::rules::{self, each};
use crate::status;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const TRAFFIC_POLICIES: &[&str] = &["Cluster", "Local"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const HEADLESS: &str = "None";
const NOT_EXTERNAL_NAME: &str = "may not be set for ExternalName services";
const LOAD_BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
/// Where the networks stood that a load balancer serves, before they had a field.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// The kubelet's own port, which no load balancer may show.
const KUBELET_PORT: i64 = 10_250;
/// How long a client may stick to an endpoint, in seconds.
const AFFINITY_SECONDS_MAX: i64 = 86_400;

/// Everything wrong with a service.
pub(super) fn validate(service: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = &service["spec"];
    let mut addresses = FieldErrors::new();
    cluster_ips(spec, &path, &mut addresses);
    if !addresses.is_empty() {
        // Addresses are looked at before everything else, and alone.
        *errors = addresses;
        return;
    }
    by_type(spec, &path, errors);
    ports(spec, &path, errors);
    check::label_map(spec.get("selector"), &path.child("selector"), errors);
    affinity(spec, &path, errors);
    each(spec, "externalIPs", &path, errors, |ip, at, errors| {
        let text = ip.as_str().unwrap_or_default();
        let before = errors.len();
        rules::ip(text, at, errors);
        if errors.len() == before {
            rules::ordinary_ip(text, at, errors);
        }
    });
    rules::required_one_of(spec, "type", TYPES, &path, errors);
    repeated_ports(spec, &path, errors);
    source_ranges(service, &path, errors);
    load_balancer(spec, &path, errors);
    traffic(spec, &path, errors);
}

fn is_headless(spec: &Value) -> bool {
    spec.items_at(&["clusterIPs"]).first().and_then(Value::as_str) == Some(HEADLESS)
        || spec.str_at(&["clusterIP"]) == HEADLESS
}

/// Whether traffic from outside the cluster can come in.
pub(super) fn is_external(spec: &Value) -> bool {
    match spec.str_at(&["type"]) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !spec.items_at(&["externalIPs"]).is_empty(),
        _ => false,
    }
}

fn by_type(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = spec.str_at(&["type"]);
    let no_ports = spec.items_at(&["ports"]).is_empty();
    if no_ports && !is_headless(spec) && kind != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    match kind {
        "ExternalName" => external_name(spec, path, errors),
        "LoadBalancer" => each(spec, "ports", path, errors, |port, at, errors| {
            if port.i64_at(&["port"]) == Some(KUBELET_PORT) {
                let detail = "may not expose port 10250 externally since it is used by kubelet";
                errors.invalid(at, &KUBELET_PORT.into(), detail);
            }
        }),
        _ => {}
    }
    if matches!(kind, "LoadBalancer" | "NodePort") && is_headless(spec) {
        let ips = path.child("clusterIPs");
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.invalid_text(&ips.index(0), HEADLESS, &detail);
    }
}

fn external_name(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    // An address that stands alone is the first of them.
    if !spec.items_at(&["clusterIPs"]).is_empty() || !spec.str_at(&["clusterIP"]).is_empty() {
        errors.forbidden(&path.child("clusterIPs"), NOT_EXTERNAL_NAME);
    }
    if !spec.items_at(&["ipFamilies"]).is_empty() {
        errors.forbidden(&path.child("ipFamilies"), NOT_EXTERNAL_NAME);
    }
    if spec.get("ipFamilyPolicy").is_some() {
        errors.forbidden(&path.child("ipFamilyPolicy"), NOT_EXTERNAL_NAME);
    }
    let name = spec.str_at(&["externalName"]);
    let name = name.strip_suffix('.').unwrap_or(name);
    let at = path.child("externalName");
    if name.is_empty() {
        errors.required(&at, "");
    } else {
        errors.invalid_all(&at, name, validation::dns1123_subdomain(name));
    }
}

fn ports(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let named = spec.items_at(&["ports"]).len() > 1;
    let mut names: Vec<String> = Vec::new();
    each(spec, "ports", path, errors, |port, at, errors| {
        let name = port.str_at(&["name"]);
        let place = at.child("name");
        if name.is_empty() {
            if named {
                errors.required(&place, "");
            }
        } else {
            errors.invalid_all(&place, name, validation::dns1123_label(name));
            if names.iter().any(|it| it == name) {
                errors.duplicate(&place, &name.into());
            }
            names.push(name.to_owned());
        }
        let number = port.i64_at(&["port"]).unwrap_or_default();
        check::port_number(number, &at.child("port"), errors);
        rules::required_one_of(port, "protocol", PROTOCOLS, at, errors);
        check::port(port.get("targetPort"), &at.child("targetPort"), errors);
        check::given_name(port, "appProtocol", validation::qualified_name, at, errors);
    });
}

fn affinity(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    rules::required_one_of(spec, "sessionAffinity", &["ClientIP", "None"], path, errors);
    let at = path.child("sessionAffinityConfig");
    let config = spec.get("sessionAffinityConfig");
    match spec.str_at(&["sessionAffinity"]) {
        "ClientIP" => {
            let client = at.child("clientIP");
            let place = client.child("timeoutSeconds");
            let seconds = spec.i64_at(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"]);
            let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
            match seconds {
                None => {
                    let detail = "when session affinity type is ClientIP";
                    errors.required(&at, detail);
                }
                Some(it) if it <= 0 || it > AFFINITY_SECONDS_MAX => {
                    errors.invalid(&place, &it.into(), &detail);
                }
                Some(_) => {}
            }
        }
        "None" if config.is_some() => {
            errors.forbidden(&at, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn repeated_ports(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let cluster_only = spec.str_at(&["type"]) == "ClusterIP";
    let mut node_ports = Vec::new();
    let mut pairs = Vec::new();
    each(spec, "ports", path, errors, |port, at, errors| {
        let protocol = port.str_at(&["protocol"]).to_owned();
        let node = port.i64_at(&["nodePort"]).unwrap_or_default();
        let place = at.child("nodePort");
        if node != 0 {
            if cluster_only {
                errors.forbidden(&place, "may not be used when `type` is 'ClusterIP'");
            }
            if node_ports.contains(&(protocol.clone(), node)) {
                errors.duplicate(&place, &node.into());
            }
            node_ports.push((protocol.clone(), node));
        }
        let number = port.i64_at(&["port"]).unwrap_or_default();
        if pairs.contains(&(protocol.clone(), number)) {
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":\"{protocol}\",\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}"
            );
            check::duplicate_shown(at, &shown, errors);
        }
        pairs.push((protocol, number));
    });
}

/// From where a load balancer takes traffic, by its field or by the annotation from before it.
fn source_ranges(service: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let is_one = service.str_at(&["spec", "type"]) == "LoadBalancer";
    let check = |text: &str, at: &Path<'_>, errors: &mut FieldErrors| {
        // Spaces around are part of the API.
        let text = text.trim();
        errors.invalid_all(at, text, rules::network(text));
    };
    let ranges = service.items_at(&["spec", "loadBalancerSourceRanges"]);
    if !ranges.is_empty() {
        // Upstream writes the member so.
        let list = path.child("LoadBalancerSourceRanges");
        if !is_one {
            errors.forbidden(&list, LOAD_BALANCER_ONLY);
        }
        for (index, range) in ranges.iter().enumerate() {
            check(range.as_str().unwrap_or_default(), &list.index(index), errors);
        }
        return;
    }
    let annotations = service.at(&["metadata", "annotations"]);
    let Some(text) = annotations.and_then(|it| it.get(SOURCE_RANGES)) else { return };
    let metadata = Path::new("metadata");
    let place = metadata.child("annotations");
    let at = place.key(SOURCE_RANGES);
    if !is_one {
        errors.forbidden(&at, LOAD_BALANCER_ONLY);
    }
    let text = text.as_str().unwrap_or_default().trim();
    text.split(',').filter(|_| !text.is_empty()).for_each(|it| check(it, &at, errors));
}

fn load_balancer(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let is_one = spec.str_at(&["type"]) == "LoadBalancer";
    let at = path.child("allocateLoadBalancerNodePorts");
    match spec.get("allocateLoadBalancerNodePorts") {
        Some(_) if !is_one => errors.forbidden(&at, LOAD_BALANCER_ONLY),
        None if is_one => errors.required(&at, ""),
        _ => {}
    }
    if let Some(class) = spec.get("loadBalancerClass").and_then(Value::as_str) {
        let at = path.child("loadBalancerClass");
        if is_one {
            errors.invalid_all(&at, class, validation::qualified_name(class));
        } else {
            errors.forbidden(&at, LOAD_BALANCER_ONLY);
        }
    }
}

fn traffic(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let external = spec.str_at(&["externalTrafficPolicy"]);
    if is_external(spec) {
        rules::required_one_of(spec, "externalTrafficPolicy", TRAFFIC_POLICIES, path, errors);
    } else if !external.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.invalid_text(&path.child("externalTrafficPolicy"), external, detail);
    }
    let health = spec.i64_at(&["healthCheckNodePort"]).unwrap_or_default();
    let at = path.child("healthCheckNodePort");
    if !needs_health_port(spec) {
        if health != 0 {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(&at, &health.into(), detail);
        }
    } else if health != 0 {
        check::port_number(health, &at, errors);
    }
    if spec.str_at(&["type"]) == "ExternalName" {
        if spec.get("internalTrafficPolicy").is_some() {
            errors.forbidden(&path.child("internalTrafficPolicy"), NOT_EXTERNAL_NAME);
        }
    } else {
        check::optional_one_of(spec, "internalTrafficPolicy", TRAFFIC_POLICIES, path, errors);
    }
    let distributions = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    check::optional_one_of(spec, "trafficDistribution", &distributions, path, errors);
}

/// Whether a load balancer asks each node whether it has endpoints.
pub(super) fn needs_health_port(spec: &Value) -> bool {
    spec.str_at(&["type"]) == "LoadBalancer" && spec.str_at(&["externalTrafficPolicy"]) == "Local"
}

/// Addresses, their families and how many of them there are.
fn cluster_ips(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if spec.str_at(&["type"]) == "ExternalName" {
        return;
    }
    let at = path.child("clusterIPs");
    let primary = spec.str_at(&["clusterIP"]);
    let texts: Vec<&str> =
        spec.items_at(&["clusterIPs"]).iter().filter_map(Value::as_str).collect();
    let ips = if texts.is_empty() && !primary.is_empty() { vec![primary] } else { texts };
    let shown: Value = ips.iter().copied().collect();
    if ips.first().is_some_and(|first| *first != primary) {
        errors.invalid(&at, &shown, "first value must match `clusterIP`");
    }
    families(spec, path, errors);
    let before = errors.len();
    for (index, ip) in ips.iter().enumerate() {
        if index == 0 && *ip == HEADLESS {
            if ips.len() > 1 {
                errors.invalid(&at, &shown, "'None' must be the first and only value");
            }
            continue;
        }
        rules::ip(ip, &at.index(index), errors);
    }
    if ips.len() > 2 {
        errors.invalid(&at, &shown, "may only hold up to 2 values");
    }
    if errors.len() > before {
        return;
    }
    let is_v6 = |ip: &str| validation::parse_ip(ip).is_some_and(|it| it.is_ipv6());
    if ips.len() > 1 && is_v6(ips[0]) == is_v6(ips[1]) {
        errors.invalid(&at, &shown, "may specify no more than one IP for each IP family");
    }
    for (index, (ip, family)) in ips.iter().zip(spec.items_at(&["ipFamilies"])).enumerate() {
        let family = family.as_str().unwrap_or_default();
        if *ip != HEADLESS && matches!(family, "IPv4" | "IPv6") && is_v6(ip) != (family == "IPv6") {
            let detail =
                format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.invalid_text(&at.index(index), ip, &detail);
        }
    }
}

fn families(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<Value> = Vec::new();
    each(spec, "ipFamilies", path, errors, |family, at, errors| {
        if !matches!(family.as_str(), Some("IPv4" | "IPv6")) {
            errors.not_supported(at, family, ["IPv4", "IPv6"]);
        }
        if seen.contains(family) {
            errors.duplicate(at, family);
        }
        seen.push(family.clone());
    });
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    check::optional_one_of(spec, "ipFamilyPolicy", &policies, path, errors);
}

/// What is wrong with a change of status: only a load balancer tells of addresses.
pub(super) fn validate_status(service: &Value, old: &Value, errors: &mut FieldErrors) {
    let status = Path::new("status");
    let path = status.child("loadBalancer");
    let of = |it: &Value| it["status"]["loadBalancer"].clone();
    let now = of(service);
    if service.str_at(&["spec", "type"]) != "LoadBalancer" && !now.items_at(&["ingress"]).is_empty()
    {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        errors.forbidden(&path.child("ingress"), detail);
    } else {
        status::load_balancer((&now, &of(old)), Some(&["Proxy", "VIP"]), &path, errors);
    }
}

/// What is wrong with a change: the first address stays, and so does the class of a load balancer.
pub(super) fn validate_update(service: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let (spec, before) = (&service["spec"], &old["spec"]);
    let external = |it: &Value| it.str_at(&["type"]) == "ExternalName";
    let at = path.child("clusterIPs");
    let (now, then) = (spec.str_at(&["clusterIP"]), before.str_at(&["clusterIP"]));
    let readable = now == HEADLESS || validation::parse_ip(now).is_some();
    if !external(spec) && !external(before) && !then.is_empty() && now != then && readable {
        errors.invalid_text(&at.index(0), now, "may not change once set");
    }
    let balancer = |it: &Value| it.str_at(&["type"]) == "LoadBalancer";
    if balancer(spec) && balancer(before) {
        let (now, then) = (spec.get("loadBalancerClass"), before.get("loadBalancerClass"));
        if now != then {
            let detail = "may not change once set";
            errors.invalid(&path.child("loadBalancerClass"), now.unwrap_or(&Value::Null), detail);
        }
    }
    if needs_health_port(spec) && needs_health_port(before) {
        let port = |it: &Value| it.i64_at(&["healthCheckNodePort"]).unwrap_or_default();
        if port(spec) != port(before) {
            errors.forbidden(&path.child("healthCheckNodePort"), "field is immutable");
        }
    }
}
