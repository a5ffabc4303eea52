//! Subsets: addresses with the ports that all of them have. A pod may resolve a named port differently from its sibling.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::{Object, Value, value};
use k8s_openapi::api::core::v1::{Pod, Service};

use crate::endpointslice::{port_number, publishes_all};
use crate::pods;

/// Addresses that have the same ports.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Subset {
    /// By address and uid of the pod.
    ready: BTreeMap<(String, String), Value>,
    not_ready: BTreeMap<(String, String), Value>,
    ports: Vec<Value>,
}

impl Subset {
    pub(super) fn to_value(&self) -> Value {
        let mut subset = value!({});
        let lists = [("addresses", &self.ready), ("notReadyAddresses", &self.not_ready)];
        for (member, addresses) in lists.into_iter().filter(|(_, it)| !it.is_empty()) {
            let addresses: Value = addresses.values().cloned().collect();
            subset.set_at(&[member], addresses);
        }
        if !self.ports.is_empty() {
            subset.set_at(&["ports"], Value::Array(self.ports.clone()));
        }
        subset
    }
}

/// The subsets of a service: ports that the same addresses have stand together.
pub(super) fn of(service: &Service, pods: &[Arc<Pod>]) -> Vec<Subset> {
    // By port, as text: which pods have it, and whether each is ready.
    let mut by_port: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    let members: Vec<(usize, Value)> = pods
        .iter()
        .enumerate()
        .filter_map(|(place, pod)| Some((place, address(service, pod)?)))
        .collect();
    for (place, _) in &members {
        for port in ports(service, &pods[*place]) {
            by_port.entry(port).or_default().insert(*place);
        }
    }
    let mut by_members: BTreeMap<BTreeSet<usize>, Vec<String>> = BTreeMap::new();
    for (port, places) in by_port {
        by_members.entry(places).or_default().push(port);
    }
    let addresses: BTreeMap<usize, Value> = members.into_iter().collect();
    let mut subsets: Vec<Subset> = by_members
        .into_iter()
        .map(|(places, ports)| subset(service, pods, &addresses, &places, &ports))
        .collect();
    subsets.sort_by_cached_key(|it| apimachinery::json::to_string(&it.to_value()));
    subsets
}

fn subset(
    service: &Service,
    pods: &[Arc<Pod>],
    addresses: &BTreeMap<usize, Value>,
    places: &BTreeSet<usize>,
    ports: &[String],
) -> Subset {
    let ports = ports.iter().filter(|it| !it.is_empty());
    let ports = ports.filter_map(|it| apimachinery::json::parse(it.as_bytes()).ok()).collect();
    let mut subset = Subset { ready: BTreeMap::new(), not_ready: BTreeMap::new(), ports };
    for place in places {
        let (pod, address) = (&pods[*place], &addresses[place]);
        let ready = publishes_all(service) || pods::is_ready(pod);
        let list = if ready { &mut subset.ready } else { &mut subset.not_ready };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        list.insert((address.str_at(&["ip"]).to_owned(), uid), address.clone());
    }
    subset
}

/// The address of a pod; `None` where it is no endpoint.
fn address(service: &Service, pod: &Pod) -> Option<Value> {
    let over = matches!(pods::phase(pod), "Succeeded" | "Failed");
    let going = pod.metadata.deletion_timestamp.is_some() && !publishes_all(service);
    if over || going {
        return None;
    }
    let families = service.spec.as_ref().and_then(|it| it.ip_families.as_ref());
    let six = families.and_then(|it| it.first()).is_some_and(|it| it == "IPv6");
    let status = pod.status.as_ref()?;
    let ips = status.pod_ips.iter().flatten().map(|it| it.ip.as_str());
    let mut ips = ips.chain(status.pod_ip.as_deref());
    let ip = ips.find(|ip| !ip.is_empty() && ip.contains(':') == six)?;
    let mut address = value!({"ip": ip, "targetRef": {"kind": "Pod",
        "namespace": (pod.metadata.namespace.clone().unwrap_or_default()),
        "name": (pod.metadata.name.clone().unwrap_or_default()), "uid": (pod.metadata.uid.clone().unwrap_or_default())}});
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|it| !it.is_empty()) {
        address.set_at(&["nodeName"], node);
    }
    let hostname = spec.hostname.as_deref().filter(|it| !it.is_empty());
    if let Some(hostname) = hostname.filter(|_| spec.subdomain == service.metadata.name) {
        address.set_at(&["hostname"], hostname);
    }
    Some(address)
}

/// The ports that a pod has for a service, each as text; one empty text for a headless service without ports.
fn ports(service: &Service, pod: &Pod) -> Vec<String> {
    let Some(spec) = service.spec.as_ref() else { return Vec::new() };
    let all = spec.ports.as_deref().unwrap_or_default();
    if all.is_empty() && spec.cluster_ip.as_deref() == Some("None") {
        return vec![String::new()];
    }
    let text = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let number = port_number(port, pod)?;
        let mut entry = Object::new();
        if let Some(name) = port.name.as_deref().filter(|it| !it.is_empty()) {
            entry.insert("name", name);
        }
        entry.insert("port", i64::from(number));
        entry.insert("protocol", port.protocol.clone().unwrap_or_else(|| "TCP".into()));
        if let Some(protocol) = &port.app_protocol {
            entry.insert("appProtocol", protocol.as_str());
        }
        Some(apimachinery::json::to_string(&Value::Object(entry)))
    };
    all.iter().filter_map(text).collect()
}

/// Leaves so many addresses at most, ready ones before others, of each subset in proportion; says whether any had to go.
pub(super) fn truncate(subsets: &mut [Subset], most: usize) -> bool {
    let ready: usize = subsets.iter().map(|it| it.ready.len()).sum();
    let not_ready: usize = subsets.iter().map(|it| it.not_ready.len()).sum();
    if ready + not_ready <= most {
        return false;
    }
    let room = most.saturating_sub(ready);
    for subset in subsets {
        let share = |part: usize, whole: usize, of: usize| {
            if whole <= of { part } else { part * of / whole }
        };
        let ready_left = share(subset.ready.len(), ready, most);
        let not_ready_left = share(subset.not_ready.len(), not_ready, room);
        keep(&mut subset.ready, ready_left);
        keep(&mut subset.not_ready, not_ready_left);
    }
    true
}

fn keep(addresses: &mut BTreeMap<(String, String), Value>, most: usize) {
    while addresses.len() > most {
        addresses.pop_last();
    }
}

/// Whether two lists of subsets say the same; the version of a pod does not count.
pub(super) fn same(a: &[Value], b: &[Value]) -> bool {
    let set = |subsets: &[Value]| -> BTreeSet<String> {
        subsets.iter().map(|subset| apimachinery::json::to_string(&plain(subset))).collect()
    };
    a.len() == b.len() && set(a) == set(b)
}

fn plain(subset: &Value) -> Value {
    let mut subset = subset.clone();
    for list in ["addresses", "notReadyAddresses"] {
        for address in subset.items_at_mut(&[list]) {
            address.remove_at(&["targetRef", "resourceVersion"]);
        }
        subset.items_at_mut(&[list]).sort_by_cached_key(apimachinery::json::to_string);
    }
    subset.items_at_mut(&["ports"]).sort_by_cached_key(apimachinery::json::to_string);
    subset
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: &str) -> Service {
        serde_json::from_str(&format!(r#"{{"metadata":{{"name":"s"}},"spec":{spec}}}"#)).unwrap()
    }

    fn pod(name: &str, ip: &str, ready: bool, port: i32) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","uid":"{name}"}},"spec":{{"containers":[{{"name":"c","ports":[{{"name":"http","containerPort":{port}}}]}}]}},
            "status":{{"phase":"Running","podIP":"{ip}","conditions":[{{"type":"Ready","status":"{ready}"}}]}}}}"#
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    fn shown(subsets: &[Subset]) -> Vec<String> {
        let ips = |it: &BTreeMap<(String, String), Value>| {
            it.keys().map(|it| it.0.clone()).collect::<Vec<_>>().join(",")
        };
        let show = |it: &Subset| {
            let ports = it.ports.iter().map(|it| it.i64_at(&["port"]).unwrap_or_default());
            let ports: Vec<String> = ports.map(|it| it.to_string()).collect();
            format!("{} / {} : {}", ips(&it.ready), ips(&it.not_ready), ports.join(","))
        };
        subsets.iter().map(show).collect()
    }

    #[test]
    fn addresses_stand_with_the_ports_that_they_have() {
        let pods = [
            pod("a", "10.0.0.1", true, 80),
            pod("b", "10.0.0.2", false, 80),
            pod("c", "10.0.0.3", true, 81),
        ];
        let check = |spec: &str, expected: &[&str]| {
            assert_eq!(shown(&of(&service(spec), &pods)), expected, "{spec}");
        };
        check(
            r#"{"ports":[{"port":1,"targetPort":"http"}]}"#,
            &["10.0.0.1 / 10.0.0.2 : 80", "10.0.0.3 /  : 81"],
        );
        check(
            r#"{"ports":[{"name":"x","port":1},{"name":"y","port":2}],"publishNotReadyAddresses":true}"#,
            &["10.0.0.1,10.0.0.2,10.0.0.3 /  : 1,2"],
        );
        check(r#"{"clusterIP":"None"}"#, &["10.0.0.1,10.0.0.3 / 10.0.0.2 : "]);
        check(r#"{"clusterIP":"10.0.0.9"}"#, &[]);
        check(r#"{"ports":[{"port":1,"targetPort":"none"}]}"#, &[]);
    }

    #[test]
    fn ready_addresses_stay_when_there_are_too_many() {
        let pods: Vec<Arc<Pod>> = (0..12)
            .map(|it| pod(&format!("p{it:02}"), &format!("10.0.0.{it:02}"), it < 8, 80))
            .collect();
        let left = |most: usize| {
            let mut subsets = of(&service(r#"{"ports":[{"port":1}]}"#), &pods);
            let truncated = truncate(&mut subsets, most);
            (truncated, subsets[0].ready.len(), subsets[0].not_ready.len())
        };
        assert_eq!(left(12), (false, 8, 4));
        assert_eq!(left(10), (true, 8, 2));
        assert_eq!(left(5), (true, 5, 0));
    }
}
