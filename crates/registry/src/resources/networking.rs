//! IPAddress and ServiceCIDR: what service addresses are taken from, and which are taken.

use apimachinery::{FieldErrors, Path, Value, validation};

use super::printing;
use crate::declaration::{Declaration, MetadataChecks, NameUse};
use crate::rules::{self, each};
use crate::{Rules, check, go, table};

const GROUP: &str = "networking.k8s.io";

pub(super) fn ip_address() -> Declaration {
    Declaration {
        group: GROUP,
        resource: "ipaddresses",
        name: address_name,
        validate,
        validate_update: |it, old, errors| {
            let (parent, before) = (&it["spec"]["parentRef"], &old["spec"]["parentRef"]);
            if parent != before {
                let shown = go::compact(parent, go::PARENT_REFERENCE);
                let path = Path::new("spec");
                let at = path.child("parentRef");
                check::invalid_shown(&at, &shown, "field is immutable", errors);
            }
        },
        row: |it, now| {
            let parent = it.at(&["spec", "parentRef"]).map(parent_text).unwrap_or_default();
            vec![it.str_at(&["metadata", "name"]).into(), parent.into(), table::created(it, now)]
        },
        ..Declaration::PLAIN
    }
}

/// An address is its own name, in the one way to write it.
fn address_name(name: &str, _usage: NameUse) -> Vec<String> {
    match validation::parse_ip(name) {
        None => validation::ip(name),
        Some(ip) if ip.to_string() != name => {
            vec![format!("must be in canonical form ({:?})", ip.to_string())]
        }
        Some(_) => Vec::new(),
    }
}

fn validate(address: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let at = path.child("parentRef");
    let Some(parent) = address.at(&["spec", "parentRef"]) else {
        errors.required(&at, "");
        return;
    };
    check::optional_name(parent, "group", validation::dns1123_subdomain, &at, errors);
    for member in ["resource", "name"] {
        check::required_name(parent, member, validation::path_segment_name, &at, errors);
    }
    check::optional_name(parent, "namespace", validation::path_segment_name, &at, errors);
}

fn parent_text(parent: &Value) -> String {
    let resource = match parent.str_at(&["group"]) {
        "" => parent.str_at(&["resource"]).to_owned(),
        group => format!("{}.{group}", parent.str_at(&["resource"])),
    };
    let name = parent.str_at(&["name"]);
    match parent.str_at(&["namespace"]) {
        "" => format!("{resource}/{name}"),
        namespace => format!("{resource}/{namespace}/{name}"),
    }
}

pub(super) fn service_cidr() -> Declaration {
    Declaration {
        group: GROUP,
        resource: "servicecidrs",
        validate: |it, errors| cidrs(&it["spec"], &Path::new("spec"), errors),
        validate_update: same_cidrs,
        row: |it, now| {
            let list = it.items_at(&["spec", "cidrs"]).iter();
            let cidrs: Vec<&str> = list.filter_map(Value::as_str).collect();
            let name = it.str_at(&["metadata", "name"]).into();
            vec![name, printing::or_none(&cidrs.join(",")), table::created(it, now)]
        },
        metadata_checks: MetadataChecks::Update,
        rules: Rules { has_status: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn cidrs(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("cidrs");
    let all: Vec<&str> = spec.items_at(&["cidrs"]).iter().filter_map(Value::as_str).collect();
    if all.is_empty() {
        errors.required(&at, "at least one CIDR required");
        return;
    }
    let is_v6 = |cidr: &str| validation::parse_cidr(cidr).is_some_and(|(ip, _)| ip.is_ipv6());
    let both_known = all.iter().all(|it| validation::parse_cidr(it).is_some());
    if all.len() > 2 {
        let detail = "may only hold up to 2 values";
        errors.invalid(&at, &spec["cidrs"], detail);
    } else if all.len() == 2 && both_known && is_v6(all[0]) == is_v6(all[1]) {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid(&at, &spec["cidrs"], detail);
    }
    each(spec, "cidrs", path, errors, |it, at, errors| {
        let text = it.as_str().unwrap_or_default();
        let problems = rules::network(text);
        let fine = problems.is_empty();
        errors.invalid_all(at, text, problems);
        if fine {
            errors.invalid_all(at, text, validation::interface_address(text));
        }
    });
}

/// Networks stay; a second family may be added.
fn same_cidrs(cidr: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let at = path.child("cidrs");
    let (now, before) = (cidr.items_at(&["spec", "cidrs"]), old.items_at(&["spec", "cidrs"]));
    if now.len() < before.len() {
        errors.invalid(&at, &cidr["spec"]["cidrs"], "field is immutable");
        return;
    }
    // What is said of a changed network is that it may not change, not what else is wrong with it.
    let changed: Vec<usize> =
        (0..before.len()).filter(|index| now[*index] != before[*index]).collect();
    if !changed.is_empty() {
        let kept: Vec<_> =
            errors.iter().filter(|it| !it.field.starts_with("spec.cidrs")).cloned().collect();
        *errors = FieldErrors::new();
        kept.into_iter().for_each(|it| errors.push(it));
    }
    for index in changed {
        errors.invalid(&at.index(index), &now[index], "field is immutable");
    }
}
