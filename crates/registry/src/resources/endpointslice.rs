//! EndpointSlice.

use apimachinery::{FieldErrors, Path, Value, validation};
use jiff::Timestamp;

use crate::declaration::{Declaration, Generation, MetadataChecks};
use crate::rules::{self, each};
use crate::{Rules, check, table};

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;
/// How many ports and endpoints the table shows.
const SHOWN: usize = 3;

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "discovery.k8s.io",
        resource: "endpointslices",
        default: |it| {
            for port in it.items_at_mut(&["ports"]) {
                port.default_at(&["name"], "");
                port.default_at(&["protocol"], "TCP");
            }
        },
        validate,
        validate_update: |it, old, errors| {
            rules::immutable(it, old, "addressType", &Path::new(""), errors);
        },
        metadata_checks: MetadataChecks::New,
        row,
        rules: Rules { generation: Generation::SpecAndLabels, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn validate(slice: &Value, errors: &mut FieldErrors) {
    let root = Path::new("");
    rules::required_one_of(slice, "addressType", &["FQDN", "IPv4", "IPv6"], &root, errors);
    let family = slice.str_at(&["addressType"]);
    let count = slice.items_at(&["endpoints"]).len();
    if count > ENDPOINTS_MAX {
        errors.too_many(&root.child("endpoints"), count, ENDPOINTS_MAX);
    } else {
        each(slice, "endpoints", &root, errors, |it, at, errors| endpoint(it, family, at, errors));
    }
    ports(slice, &root, errors);
}

fn endpoint(endpoint: &Value, family: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let count = endpoint.items_at(&["addresses"]).len();
    let at = path.child("addresses");
    if count == 0 {
        errors.required(&at, "must contain at least 1 address");
    } else if count > ADDRESSES_MAX {
        errors.too_many(&at, count, ADDRESSES_MAX);
    }
    each(endpoint, "addresses", path, errors, |it, at, errors| {
        address(it.as_str().unwrap_or_default(), family, at, errors);
    });
    check::given_name(endpoint, "nodeName", validation::dns1123_subdomain, path, errors);
    check::optional_name(endpoint, "zone", validation::label_value, path, errors);
    check::given_name(endpoint, "hostname", validation::dns1123_label, path, errors);
    hints(&endpoint["hints"], &path.child("hints"), errors);
}

fn address(text: &str, family: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    match family {
        "IPv4" | "IPv6" => match validation::parse_ip(text) {
            None => rules::ip(text, path, errors),
            Some(it) if it.is_ipv6() != (family == "IPv6") => {
                errors.invalid_text(path, text, &format!("must be an {family} address"));
            }
            Some(_) => {
                let before = errors.len();
                rules::ip(text, path, errors);
                if errors.len() == before {
                    rules::ordinary_ip(text, path, errors);
                }
            }
        },
        "FQDN" => {
            if text.split('.').count() < 2 {
                let detail = "should be a domain with at least two segments separated by dots";
                errors.invalid_text(path, text, detail);
            } else {
                errors.invalid_all(path, text, validation::dns1123_subdomain(text));
            }
        }
        _ => {}
    }
}

fn hints(hints: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (member, rule) in [
        ("forZones", validation::label_value as fn(&str) -> validation::Problems),
        ("forNodes", validation::dns1123_subdomain),
    ] {
        let count = hints.items_at(&[member]).len();
        if count > HINTS_MAX {
            errors.too_many(&path.child(member), count, HINTS_MAX);
            continue;
        }
        let mut seen = Vec::new();
        each(hints, member, path, errors, |hint, at, errors| {
            let name = hint.str_at(&["name"]).to_owned();
            let place = at.child("name");
            if seen.contains(&name) {
                errors.duplicate(&place, &Value::from(name.as_str()));
            }
            errors.invalid_all(&place, &name, rule(&name));
            seen.push(name);
        });
    }
}

fn ports(slice: &Value, root: &Path<'_>, errors: &mut FieldErrors) {
    let count = slice.items_at(&["ports"]).len();
    if count > PORTS_MAX {
        errors.too_many(&root.child("ports"), count, PORTS_MAX);
        return;
    }
    let mut names = Vec::new();
    each(slice, "ports", root, errors, |port, at, errors| {
        let name = port.str_at(&["name"]);
        check::optional_name(port, "name", validation::dns1123_label, at, errors);
        if names.iter().any(|it| it == name) {
            errors.duplicate(&at.child("name"), &name.into());
        }
        names.push(name.to_owned());
        check::one_of(port, "protocol", &["SCTP", "TCP", "UDP"], at, errors);
        check::given_name(port, "appProtocol", validation::qualified_name, at, errors);
    });
}

fn row(slice: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = slice
        .items_at(&["ports"])
        .iter()
        .map(|port| match (port.i64_at(&["port"]), port.str_at(&["name"])) {
            (Some(number), _) => number.to_string(),
            (None, "") => "*".into(),
            (None, name) => name.into(),
        })
        .collect();
    let endpoints: Vec<String> = slice
        .items_at(&["endpoints"])
        .iter()
        .flat_map(|it| it.items_at(&["addresses"]))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let unset = if slice.get("ports").is_some() { "<none>" } else { "<unset>" };
    vec![
        slice.str_at(&["metadata", "name"]).into(),
        slice.str_at(&["addressType"]).into(),
        first_few(&ports, unset),
        first_few(&endpoints, "<unset>"),
        table::created(slice, now),
    ]
}

fn first_few(all: &[String], none: &str) -> Value {
    match all.len() {
        0 => none.into(),
        count if count > SHOWN => {
            format!("{} + {} more...", all[..SHOWN].join(","), count - SHOWN).into()
        }
        _ => all.join(",").into(),
    }
}
