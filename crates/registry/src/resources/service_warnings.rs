//! What to warn the writers of Services of. Upstream: `pkg/api/service/warnings.go`.

use apimachinery::{Value, validation};

const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";

/// What to warn of in a Service.
pub(super) fn of(service: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let spec = |member: &str| service.str_at(&["spec", member]);
    let list = |member: &str| {
        service.items_at(&["spec", member]).iter().filter_map(Value::as_str).enumerate()
    };
    if service.at(&["metadata", "annotations", HINTS]).is_some() {
        found.push(format!("annotation {HINTS} is deprecated, please use {MODE} instead"));
    }
    let headless = spec("type") == "ClusterIP" && spec("clusterIP") == "None";
    if spec("type") != "ExternalName" && !headless {
        for (index, ip) in list("clusterIPs") {
            let at = format!("spec.clusterIPs[{index}]");
            found.extend(validation::ip_warnings(ip).iter().map(|it| format!("{at}: {it}")));
        }
    }
    let external = list("externalIPs").next().is_some();
    if headless {
        if !spec("loadBalancerIP").is_empty() {
            found.push("spec.loadBalancerIP is ignored for headless services".into());
        }
        if external {
            found.push("spec.externalIPs is ignored for headless services".into());
        }
        if spec("sessionAffinity") != "None" {
            found.push("spec.SessionAffinity is ignored for headless services".into());
        }
    }
    for (index, ip) in list("externalIPs") {
        let at = format!("spec.externalIPs[{index}]");
        found.extend(validation::ip_warnings(ip).iter().map(|it| format!("{at}: {it}")));
    }
    if external && !headless && spec("type") != "ExternalName" {
        let said =
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters";
        found.push(said.into());
    }
    let given = Some(spec("loadBalancerIP")).filter(|it| !it.is_empty());
    let warnings = given.map(validation::ip_warnings).unwrap_or_default();
    found.extend(warnings.iter().map(|it| format!("spec.loadBalancerIP: {it}")));
    for (index, range) in list("loadBalancerSourceRanges") {
        let at = format!("spec.loadBalancerSourceRanges[{index}]");
        found.extend(validation::cidr_warnings(range).iter().map(|it| format!("{at}: {it}")));
    }
    if spec("type") == "ExternalName" && external {
        found.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if spec("type") != "ExternalName" && !spec("externalName").is_empty() {
        found.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if spec("trafficDistribution") == "PreferClose" {
        let said =
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"";
        found.push(said.into());
    }
    found
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn what_is_ignored_is_told() {
        for (spec, expected) in [
            (
                value!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}),
                "",
            ),
            (
                value!({"type": "ClusterIP", "clusterIP": "None", "sessionAffinity": "ClientIP", "externalIPs": ["10.0.0.1"]}),
                "spec.externalIPs is ignored for headless services\nspec.SessionAffinity is ignored for headless services",
            ),
            (
                value!({"type": "NodePort", "externalName": "x"}),
                "spec.externalName is ignored when spec.type is not \"ExternalName\"",
            ),
            (
                value!({"type": "ClusterIP", "trafficDistribution": "PreferClose"}),
                "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
            ),
        ] {
            let service = value!({"spec": (spec)});
            assert_eq!(of(&service).join("\n"), expected);
        }
    }
}
