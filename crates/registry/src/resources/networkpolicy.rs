//! NetworkPolicy.

use apimachinery::{FieldErrors, Path, Value, validation};
use jiff::Timestamp;

use super::printing;
use crate::declaration::{Declaration, Generation, MetadataChecks};
use crate::rules::{self, each};
use crate::{Rules, check, table};

const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "networking.k8s.io",
        resource: "networkpolicies",
        warnings: |it, _| warnings(it),
        default,
        validate,
        row,
        metadata_checks: MetadataChecks::Update,
        rules: Rules { generation: Generation::Spec, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

/// Networks in forms that not everybody reads the same.
fn warnings(policy: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut told = |cidr: &str, at: &str| {
        let said = validation::cidr_warnings(cidr).into_iter();
        found.extend(said.map(|it| format!("{at}: {it}")));
    };
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in policy.items_at(&["spec", direction]).iter().enumerate() {
            for (place, peer) in rule.items_at(&[peers]).iter().enumerate() {
                let at = format!("spec.{direction}[{index}].{peers}[{place}].ipBlock");
                told(peer.str_at(&["ipBlock", "cidr"]), &format!("{at}.cidr"));
                for (number, except) in peer.items_at(&["ipBlock", "except"]).iter().enumerate() {
                    let at = format!("{at}.except[{number}]");
                    told(except.as_str().unwrap_or_default(), &at);
                }
            }
        }
    }
    found
}

fn default(policy: &mut Value) {
    for direction in ["ingress", "egress"] {
        for rule in policy.items_at_mut(&["spec", direction]) {
            for port in rule.items_at_mut(&["ports"]) {
                port.default_at(&["protocol"], "TCP");
            }
        }
    }
    let egress = !policy.items_at(&["spec", "egress"]).is_empty();
    let types = if egress { &["Ingress", "Egress"][..] } else { &["Ingress"] };
    policy.default_at(&["spec", "policyTypes"], types.iter().copied().collect::<Value>());
}

fn validate(policy: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = &policy["spec"];
    check::label_selector(spec.get("podSelector"), &path.child("podSelector"), errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        each(spec, direction, &path, errors, |rule, at, errors| {
            each(rule, "ports", at, errors, port);
            each(rule, peers, at, errors, peer);
        });
    }
    let types = spec.items_at(&["policyTypes"]);
    let at = path.child("policyTypes");
    if types.len() > 2 {
        errors.invalid(&at, &spec["policyTypes"], "may not specify more than two policyTypes");
        return;
    }
    rules::each_one_of(spec, "policyTypes", &["Ingress", "Egress"], &path, errors);
}

fn port(port: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::optional_one_of(port, "protocol", PROTOCOLS, path, errors);
    let at = path.child("port");
    let end = port.i64_at(&["endPort"]);
    let end_at = path.child("endPort");
    match port.get("port") {
        None => {
            if let Some(end) = end {
                let detail = "may not be specified when `port` is not specified";
                errors.invalid(&end_at, &end.into(), detail);
            }
        }
        Some(Value::String(name)) => {
            if let Some(end) = end {
                let detail = "may not be specified when `port` is non-numeric";
                errors.invalid(&end_at, &end.into(), detail);
            }
            errors.invalid_all(&at, name, validation::port_name(name));
        }
        Some(number) => {
            let number = number.as_i64().unwrap_or_default();
            check::port_number(number, &at, errors);
            let Some(end) = end else { return };
            if end < number {
                errors.invalid(&end_at, &end.into(), "must be greater than or equal to `port`");
            }
            check::port_number(end, &end_at, errors);
        }
    }
}

fn peer(peer: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut kinds = 0;
    for member in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = peer.get(member) {
            kinds += 1;
            check::label_selector(Some(selector), &path.child(member), errors);
        }
    }
    if let Some(block) = peer.get("ipBlock") {
        ip_block(block, &path.child("ipBlock"), errors);
        if kinds > 0 {
            errors.forbidden(path, "may not specify both ipBlock and another peer");
        }
        kinds += 1;
    }
    if kinds == 0 {
        errors.required(path, "must specify a peer");
    }
}

fn ip_block(block: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let cidr = block.str_at(&["cidr"]);
    if cidr.is_empty() {
        errors.required(&path.child("cidr"), "");
        return;
    }
    errors.invalid_all(&path.child("cidr"), cidr, rules::network(cidr));
    let Some((outer, outer_bits)) = validation::parse_cidr(cidr) else { return };
    each(block, "except", path, errors, |it, at, errors| {
        let text = it.as_str().unwrap_or_default();
        errors.invalid_all(at, text, rules::network(text));
        let Some((inner, bits)) = validation::parse_cidr(text) else { return };
        if !covers(outer, outer_bits, inner) || bits <= outer_bits {
            errors.invalid_text(at, text, "must be a strict subset of `cidr`");
        }
    });
}

/// Whether a network holds an address.
pub(super) fn covers(network: std::net::IpAddr, bits: u8, address: std::net::IpAddr) -> bool {
    use std::net::IpAddr::{V4, V6};
    match (network, address) {
        (V4(a), V4(b)) => {
            let shift = 32 - u32::from(bits.min(32));
            u32::from(a).checked_shr(shift) == u32::from(b).checked_shr(shift)
        }
        (V6(a), V6(b)) => {
            let shift = 128 - u32::from(bits.min(128));
            u128::from(a).checked_shr(shift) == u128::from(b).checked_shr(shift)
        }
        _ => false,
    }
}

fn row(policy: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        policy.str_at(&["metadata", "name"]).into(),
        printing::selector(policy.at(&["spec", "podSelector"])),
        table::created(policy, now),
    ]
}
