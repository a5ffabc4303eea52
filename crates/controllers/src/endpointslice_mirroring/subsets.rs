//! What Endpoints say, as slices say it: by family and ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use apimachinery::{Object, Value, value};

/// Slices differ by address family and ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) family: &'static str,
    /// The ports as JSON text.
    pub(super) ports: String,
}

/// What is to be mirrored.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// The endpoints of each group, none twice.
    pub(super) groups: BTreeMap<Group, Vec<Value>>,
    /// How many addresses are none.
    pub(super) invalid: usize,
    /// How many are too many.
    pub(super) surplus: usize,
}

/// Addresses, as text, with whether each is ready.
type Members = BTreeMap<String, bool>;

/// Sorts the addresses of Endpoints into groups. Ports that the same addresses have stand together, however the subsets
/// are written; an address that is not ready somewhere is not ready.
pub(super) fn wanted(endpoints: &Value, max: usize) -> Wanted {
    let mut by_port: BTreeMap<String, Members> = BTreeMap::new();
    for subset in endpoints.items_at(&["subsets"]) {
        let ports: Vec<String> = match subset.items_at(&["ports"]) {
            [] => vec![String::new()],
            ports => ports.iter().map(|it| apimachinery::json::to_string(&port(it))).collect(),
        };
        for (list, ready) in [("addresses", true), ("notReadyAddresses", false)] {
            for address in subset.items_at(&[list]) {
                let text = apimachinery::json::to_string(address);
                for port in &ports {
                    let members = by_port.entry(port.clone()).or_default();
                    let before = members.entry(text.clone()).or_insert(ready);
                    *before &= ready;
                }
            }
        }
    }
    let mut by_members: BTreeMap<Vec<(String, bool)>, Vec<String>> = BTreeMap::new();
    for (port, members) in by_port {
        by_members.entry(members.into_iter().collect()).or_default().push(port);
    }
    let mut wanted = Wanted::default();
    for (members, ports) in by_members {
        add(&mut wanted, members, &ports, max);
    }
    wanted
}

/// Adds the addresses of a subset: those that are ready first.
fn add(wanted: &mut Wanted, mut members: Vec<(String, bool)>, ports: &[String], max: usize) {
    members.sort_by_key(|(_, ready)| !ready);
    let ports = ports.iter().filter(|it| !it.is_empty());
    let ports: Value =
        ports.filter_map(|it| apimachinery::json::parse(it.as_bytes()).ok()).collect();
    let ports = apimachinery::json::to_string(&ports);
    let mut added = 0;
    for (text, ready) in members {
        if added >= max {
            wanted.surplus += 1;
            continue;
        }
        let Ok(address) = apimachinery::json::parse(text.as_bytes()) else { continue };
        let family = match address.str_at(&["ip"]).parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => "IPv4",
            Ok(IpAddr::V6(_)) => "IPv6",
            Err(_) => {
                wanted.invalid += 1;
                continue;
            }
        };
        added += 1;
        let group = Group { family, ports: ports.clone() };
        wanted.groups.entry(group).or_default().push(endpoint(&address, ready));
    }
}

/// A port with the members that a slice's port has in the order in which they are compared.
fn port(port: &Value) -> Value {
    let mut entry = Object::new();
    entry.insert("name", port.str_at(&["name"]));
    if let Some(number) = port.i64_at(&["port"]) {
        entry.insert("port", number);
    }
    let protocol = port.str_at(&["protocol"]);
    entry.insert("protocol", if protocol.is_empty() { "TCP" } else { protocol });
    if let Some(protocol) = port.get("appProtocol") {
        entry.insert("appProtocol", protocol.clone());
    }
    Value::Object(entry)
}

fn endpoint(address: &Value, ready: bool) -> Value {
    let mut endpoint =
        value!({"addresses": [(address.str_at(&["ip"]))], "conditions": {"ready": ready}});
    if let Some(target) = address.get("targetRef") {
        endpoint.set_at(&["targetRef"], target.clone());
    }
    for member in ["nodeName", "hostname"] {
        let text = address.str_at(&[member]);
        if !text.is_empty() {
            endpoint.set_at(&[member], text);
        }
    }
    endpoint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_grouped_by_family_and_ports() {
        let check = |subsets: &str, expected: &str| {
            let text = format!(r#"{{"subsets":{subsets}}}"#);
            let wanted = wanted(&apimachinery::json::parse(text.as_bytes()).unwrap(), 1_000);
            let mut shown = Vec::new();
            for (group, endpoints) in &wanted.groups {
                let ports = apimachinery::json::parse(group.ports.as_bytes()).unwrap();
                let ports = ports.as_array().unwrap().iter();
                let ports: Vec<String> =
                    ports.map(|it| it.i64_at(&["port"]).unwrap().to_string()).collect();
                let ips = endpoints.iter().map(|it| {
                    let ip = it.items_at(&["addresses"])[0].as_str().unwrap().to_owned();
                    if it.bool_at(&["conditions", "ready"]) { ip } else { format!("!{ip}") }
                });
                let ips: Vec<String> = ips.collect();
                shown.push(format!("{} {}: {}", group.family, ports.join("+"), ips.join(" ")));
            }
            let shown = format!("{} ({} bad)", shown.join("; "), wanted.invalid);
            assert_eq!(shown, expected, "{subsets}");
        };
        check("[]", " (0 bad)");
        check(
            r#"[{"addresses":[{"ip":"10.0.0.1"},{"ip":"fd00::1"}],"ports":[{"port":80}]}]"#,
            "IPv4 80: 10.0.0.1; IPv6 80: fd00::1 (0 bad)",
        );
        check(
            r#"[{"addresses":[{"ip":"10.0.0.1"}],"notReadyAddresses":[{"ip":"10.0.0.2"}],"ports":[{"port":80},{"port":81}]}]"#,
            "IPv4 80+81: 10.0.0.1 !10.0.0.2 (0 bad)",
        );
        check(
            r#"[{"addresses":[{"ip":"10.0.0.1"}],"ports":[{"port":80}]},{"addresses":[{"ip":"10.0.0.1"}],"ports":[{"port":81}]}]"#,
            "IPv4 80+81: 10.0.0.1 (0 bad)",
        );
        check(
            r#"[{"addresses":[{"ip":"10.0.0.1"}],"ports":[{"port":80}]},{"notReadyAddresses":[{"ip":"10.0.0.1"}],"ports":[{"port":80}]}]"#,
            "IPv4 80: !10.0.0.1 (0 bad)",
        );
        check(r#"[{"addresses":[{"ip":"x"}]}]"#, " (1 bad)");
        check(r#"[{"addresses":[{"ip":"10.0.0.1"}]}]"#, "IPv4 : 10.0.0.1 (0 bad)");
    }
}
