//! Endpoints.

use apimachinery::{FieldErrors, Path, Value, validation};
use jiff::Timestamp;

use crate::declaration::Declaration;
use crate::rules::{self, each};
use crate::{Rules, check, table};

/// How many addresses the table shows.
const SHOWN: usize = 3;

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "endpoints",
        prefix: "services/endpoints",
        default: |it| {
            for subset in it.items_at_mut(&["subsets"]) {
                for port in subset.items_at_mut(&["ports"]) {
                    port.default_at(&["protocol"], "TCP");
                }
            }
        },
        validate,
        row,
        rules: Rules { create_on_update: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn validate(endpoints: &Value, errors: &mut FieldErrors) {
    each(endpoints, "subsets", &Path::new(""), errors, |subset, at, errors| {
        let none = |member| subset.items_at(&[member]).is_empty();
        if none("addresses") && none("notReadyAddresses") {
            errors.required(at, "must specify `addresses` or `notReadyAddresses`");
        }
        for member in ["addresses", "notReadyAddresses"] {
            each(subset, member, at, errors, address);
        }
        let named = subset.items_at(&["ports"]).len() > 1;
        each(subset, "ports", at, errors, |it, at, errors| port(it, named, at, errors));
    });
}

fn address(address: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let ip = address.str_at(&["ip"]);
    let at = path.child("ip");
    rules::ip(ip, &at, errors);
    check::optional_name(address, "hostname", validation::dns1123_label, path, errors);
    check::given_name(address, "nodeName", validation::dns1123_subdomain, path, errors);
    rules::ordinary_ip(ip, &at, errors);
}

fn port(port: &Value, named: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    if named {
        check::required_name(port, "name", validation::dns1123_label, path, errors);
    } else {
        check::optional_name(port, "name", validation::dns1123_label, path, errors);
    }
    let number = port.i64_at(&["port"]).unwrap_or_default();
    check::port_number(number, &path.child("port"), errors);
    rules::required_one_of(port, "protocol", &["SCTP", "TCP", "UDP"], path, errors);
    check::given_name(port, "appProtocol", validation::qualified_name, path, errors);
}

fn row(endpoints: &Value, now: Timestamp) -> Vec<Value> {
    let name = endpoints.str_at(&["metadata", "name"]).into();
    vec![name, shown(endpoints).into(), table::created(endpoints, now)]
}

fn shown(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in endpoints.items_at(&["subsets"]) {
        let ports = subset.items_at(&["ports"]);
        let addresses = subset.items_at(&["addresses"]).iter().map(|it| it.str_at(&["ip"]));
        if ports.is_empty() {
            all.extend(addresses.clone().map(str::to_owned));
        }
        for port in ports {
            let port = port.i64_at(&["port"]).unwrap_or_default();
            all.extend(addresses.clone().map(|ip| match ip.contains(':') {
                true => format!("[{ip}]:{port}"),
                false => format!("{ip}:{port}"),
            }));
        }
    }
    match all.len() {
        0 => "<none>".into(),
        count if count > SHOWN => {
            format!("{} + {} more...", all[..SHOWN].join(","), count - SHOWN)
        }
        _ => all.join(","),
    }
}
