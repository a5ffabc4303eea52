//! Rules as text.

use expect_test::{Expect, expect};
use proxy::{Facts, Place, ResolvedPort, ServiceSpec, SliceSpec, diff, resolve, rules};

use crate::objects::{endpoints, objects, service, slice};

const HTTP: &str = "[{name: '', protocol: TCP, port: 8080}]";

struct Planned {
    spec: ServiceSpec,
    ports: Box<[ResolvedPort]>,
}

/// The one Service of `yaml`, resolved with the slices there, after `previous`.
fn resolved(yaml: &str, previous: &[ResolvedPort]) -> Planned {
    let objects = objects(yaml);
    let spec = ServiceSpec::project(&objects.services[0], |_| {}).unwrap();
    let slices: Vec<_> = objects
        .slices
        .iter()
        .filter_map(|slice| SliceSpec::project(slice, Place { node: "here", zone: "" }))
        .map(|(_, slice)| slice)
        .collect();
    let mut id = 0;
    let next = || {
        id += 1;
        id
    };
    let ports = resolve(&spec, &slices.iter().collect::<Vec<_>>(), previous, next);
    Planned { spec, ports }
}

fn planned(one: &Planned) -> Vec<(proxy::Entry, proxy::Value)> {
    let node_ips = ["192.0.2.1".parse().unwrap()];
    rules(&one.spec, &one.ports, Facts { node_ips: &node_ips, masquerade_all: false })
}

#[track_caller]
fn check(yaml: &str, expected: &Expect) {
    let entries = planned(&resolved(yaml, &[]));
    let text: String = entries.iter().map(|(entry, value)| format!("{entry}{value}\n")).collect();
    expected.assert_eq(&text);
}

#[test]
fn a_cluster_ip_leads_to_ready_endpoints() {
    check(
        &(service("a", "{clusterIP: 10.96.0.1, ports: [{port: 80}]}")
            + &slice("a", HTTP, &endpoints("10.244.0.5@here 10.244.1.6 10.244.1.7@other!"))),
        &expect![[r#"
            service-ips 10.96.0.1 . tcp . 80 : 1 goto ip-cluster-2
            endpoints 1 . 0 : 10.244.0.5 . 8080
            endpoints 1 . 1 : 10.244.1.6 . 8080
            cluster-ips 10.96.0.1
            hairpin 10.244.0.5
        "#]],
    );
}

#[test]
fn without_endpoints_clients_are_refused() {
    check(
        &service(
            "a",
            "{type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}",
        ),
        &expect![[r#"
            no-endpoint-services node . tcp . 30080 : reject
            no-endpoint-services 10.96.0.1 . tcp . 80 : reject
            cluster-ips 10.96.0.1
        "#]],
    );
}

#[test]
fn ending_endpoints_serve_where_nobody_else_does() {
    let with = |list: &str| {
        service("a", "{clusterIP: 10.96.0.1, ports: [{port: 80}]}")
            + &slice("a", HTTP, &endpoints(list))
    };
    check(
        &with("10.0.0.1@other~ 10.0.0.2@other!"),
        &expect![[r#"
            service-ips 10.96.0.1 . tcp . 80 : 1 goto ip-cluster-1
            endpoints 1 . 0 : 10.0.0.1 . 8080
            cluster-ips 10.96.0.1
        "#]],
    );
    check(
        &with("10.0.0.1@other~ 10.0.0.3"),
        &expect![[r#"
            service-ips 10.96.0.1 . tcp . 80 : 1 goto ip-cluster-1
            endpoints 1 . 0 : 10.0.0.3 . 8080
            cluster-ips 10.96.0.1
        "#]],
    );
}

#[test]
fn named_ports_protocols_and_families_are_kept_apart() {
    let spec = "{clusterIPs: [10.96.0.1, 'fd00::1'], ports: [\
        {name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}, \
        {name: sctp, port: 9, protocol: SCTP}]}";
    let ports = "[{name: dns, protocol: UDP, port: 1053}, {name: dns-tcp, protocol: TCP, \
        port: 1054}, {name: other, port: 1}]";
    check(
        &(service("a", spec)
            + &slice("a", ports, &endpoints("10.0.0.1"))
            + &slice("a", ports, &endpoints("fd01::1"))),
        &expect![[r#"
            service-ips 10.96.0.1 . tcp . 53 : 3 goto ip-cluster-1
            service-ips 10.96.0.1 . udp . 53 : 1 goto ip-cluster-1
            service-ips fd00::1 . tcp . 53 : 4 goto ip-cluster-1
            service-ips fd00::1 . udp . 53 : 2 goto ip-cluster-1
            endpoints 1 . 0 : 10.0.0.1 . 1053
            endpoints 3 . 0 : 10.0.0.1 . 1054
            endpoints 2 . 0 : fd01::1 . 1053
            endpoints 4 . 0 : fd01::1 . 1054
            cluster-ips 10.96.0.1
            cluster-ips fd00::1
        "#]],
    );
    let mut told = Vec::new();
    ServiceSpec::project(&objects(&service("a", spec)).services[0], |text| told.push(text));
    assert_eq!(told, ["port 9 is not served: protocol SCTP is not supported"]);
}

const BALANCED: &str = "{type: LoadBalancer, clusterIP: 10.96.0.1, externalIPs: [203.0.113.9], \
    externalTrafficPolicy: POLICY, loadBalancerSourceRanges: [198.51.100.0/24, 192.0.2.0/28], \
    ports: [{port: 80, nodePort: 30080}]}\n\
    status: {loadBalancer: {ingress: [{ip: 203.0.113.1}, {ip: 203.0.113.2, ipMode: Proxy}]}}";

fn balanced(policy: &str, list: &str) -> String {
    service("a", &BALANCED.replace("POLICY", policy)) + &slice("a", HTTP, &endpoints(list))
}

#[test]
fn outside_addresses_are_masqueraded_under_the_cluster_policy() {
    check(
        &balanced("Cluster", "10.244.0.5@here 10.244.1.6"),
        &expect![[r#"
            service-ips node . tcp . 30080 : 1 goto node-cluster-2-masq
            service-ips 10.96.0.1 . tcp . 80 : 1 goto ip-cluster-2
            service-ips 203.0.113.1 . tcp . 80 : 1 goto ip-cluster-2-masq
            service-ips 203.0.113.9 . tcp . 80 : 1 goto ip-cluster-2-masq
            firewall-ips 203.0.113.1 . tcp . 80
            firewall-allow 203.0.113.1 . tcp . 80 . 192.0.2.0/28
            firewall-allow 203.0.113.1 . tcp . 80 . 198.51.100.0/24
            firewall-allow 203.0.113.1 . tcp . 80 . 203.0.113.1/32
            endpoints 1 . 0 : 10.244.0.5 . 8080
            endpoints 1 . 1 : 10.244.1.6 . 8080
            cluster-ips 10.96.0.1
            hairpin 10.244.0.5
        "#]],
    );
}

#[test]
fn outside_addresses_keep_the_source_under_the_local_policy() {
    check(
        &balanced("Local", "10.244.0.5@here 10.244.1.6"),
        &expect![[r#"
            service-ips node . tcp . 30080 : 1 goto node-external-local
            service-ips 10.96.0.1 . tcp . 80 : 1 goto ip-cluster-2
            service-ips 203.0.113.1 . tcp . 80 : 1 goto external-local
            service-ips 203.0.113.9 . tcp . 80 : 1 goto external-local
            internal-ips node . tcp . 30080 : goto node-cluster-2
            internal-ips 203.0.113.1 . tcp . 80 : goto ip-cluster-2
            internal-ips 203.0.113.9 . tcp . 80 : goto ip-cluster-2
            external-ips node . tcp . 30080 : goto node-local-1
            external-ips 203.0.113.1 . tcp . 80 : goto ip-local-1
            external-ips 203.0.113.9 . tcp . 80 : goto ip-local-1
            firewall-ips 203.0.113.1 . tcp . 80
            firewall-allow 203.0.113.1 . tcp . 80 . 192.0.2.0/28
            firewall-allow 203.0.113.1 . tcp . 80 . 198.51.100.0/24
            firewall-allow 203.0.113.1 . tcp . 80 . 203.0.113.1/32
            endpoints 1 . 0 : 10.244.0.5 . 8080
            endpoints 1 . 1 : 10.244.1.6 . 8080
            endpoints 1 . local 0 : 10.244.0.5 . 8080
            cluster-ips 10.96.0.1
            hairpin 10.244.0.5
        "#]],
    );
}

#[test]
fn a_policy_without_endpoints_here_drops_and_without_any_refuses() {
    let local = "{type: NodePort, clusterIP: 10.96.0.1, internalTrafficPolicy: Local, \
        externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]}";
    check(
        &(service("a", local) + &slice("a", HTTP, &endpoints("10.244.1.6"))),
        &expect![[r#"
            service-ips node . tcp . 30080 : 1 goto node-external-local
            internal-ips node . tcp . 30080 : goto node-cluster-1
            no-endpoint-services node . tcp . 30080 : drop
            no-endpoint-services 10.96.0.1 . tcp . 80 : drop
            endpoints 1 . 0 : 10.244.1.6 . 8080
            cluster-ips 10.96.0.1
        "#]],
    );
    check(
        &(service("a", local) + &slice("a", HTTP, &endpoints("10.244.1.6@other!"))),
        &expect![[r#"
            no-endpoint-services node . tcp . 30080 : reject
            no-endpoint-services 10.96.0.1 . tcp . 80 : reject
            cluster-ips 10.96.0.1
        "#]],
    );
}

#[test]
fn session_affinity_has_chains_and_endpoints_of_its_own() {
    let spec = "{clusterIP: 10.96.0.1, sessionAffinity: ClientIP, \
        sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}, ports: [{port: 80}]}";
    check(
        &(service("a", spec) + &slice("a", HTTP, &endpoints("10.0.0.1 10.0.0.2"))),
        &expect![[r#"
            service-ips 10.96.0.1 . tcp . 80 : 1 goto ip-cluster-2-affinity-60
            endpoints 1 . 0 : 10.0.0.1 . 8080
            endpoints 1 . 1 : 10.0.0.2 . 8080
            affinity-endpoints 1 . 10.0.0.1 . 8080
            affinity-endpoints 1 . 10.0.0.2 . 8080
            cluster-ips 10.96.0.1
        "#]],
    );
}

#[test]
fn an_endpoint_that_goes_changes_as_little_as_can_be() {
    let with = |list: &str| {
        service("a", "{clusterIP: 10.96.0.1, ports: [{port: 80}]}")
            + &slice("a", HTTP, &endpoints(list))
    };
    let before = resolved(&with("10.0.0.1 10.0.0.2 10.0.0.3"), &[]);
    let after = resolved(&with("10.0.0.2 10.0.0.3"), &before.ports);
    expect![[r#"
        - service-ips 10.96.0.1 . tcp . 80 : 1 goto ip-cluster-3
        - endpoints 1 . 0 : 10.0.0.1 . 8080
        - endpoints 1 . 2 : 10.0.0.3 . 8080
        + service-ips 10.96.0.1 . tcp . 80 : 1 goto ip-cluster-2
        + endpoints 1 . 0 : 10.0.0.3 . 8080
    "#]]
    .assert_eq(&diff(&planned(&before), &planned(&after)).to_string());
    assert_eq!(diff(&planned(&after), &planned(&after)), proxy::Transaction::default());
}

#[test]
fn services_without_an_address_of_ours_have_no_rules() {
    for text in [
        service("a", "{clusterIP: None, ports: [{port: 80}]}"),
        service("a", "{type: ExternalName, externalName: example.org}"),
        service("a", "{ports: [{port: 80}]}"),
        "metadata: {name: a, labels: {service.kubernetes.io/service-proxy-name: x}}\n\
         spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n"
            .to_owned(),
    ] {
        assert_eq!(ServiceSpec::project(&objects(&text).services[0], |_| {}), None, "{text}");
    }
}
