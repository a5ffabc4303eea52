//! Rules in the kernel, and clients that meet them.

use std::collections::BTreeSet;
use std::time::Duration;

use proxy::{Config, Family, NodePortAddresses, Proxy, ServiceKey};
use sys::netlink::Netns;
use sys::nftables::Nftables;

use crate::lab::{
    CLIENT, GATEWAY, Lab, NODE, ask_tcp, ask_tcp_within, ask_udp, serve_tcp, serve_udp, udp_client,
};
use crate::objects::{endpoints, objects, service, slice};

const HTTP: &str = "[{name: '', protocol: TCP, port: 8080}]";
/// As long as a client waits that is not to be answered.
const SILENCE: Duration = Duration::from_millis(300);

fn config(namespace: &Netns) -> Config {
    Config {
        namespace: namespace.clone(),
        node_name: "here".to_owned(),
        node_ips: vec![NODE.parse().unwrap()],
        families: vec![Family::Ip, Family::Ip6],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        masquerade_all: false,
        node_port_addresses: NodePortAddresses::All,
        masquerade_bit: Config::MASQUERADE_BIT,
    }
}

struct World {
    lab: Lab,
    proxy: Proxy,
    pods: Vec<Netns>,
}

/// Pods 10.244.0.11, .12, ... that say `pod1`, `pod2`, ... on TCP 8080 and UDP 5353.
fn world(pods: u8) -> World {
    let lab = Lab::new();
    let proxy = Proxy::new(config(&lab.node)).unwrap();
    let pod = |n: u8| {
        let address = format!("10.244.0.{}", 10 + n);
        let pod = lab.pod(&address);
        serve_tcp(&pod, "0.0.0.0:8080", &format!("pod{n}"));
        serve_udp(&pod, &format!("{address}:5353"), &format!("pod{n}"));
        pod
    };
    let pods = (1..=pods).map(pod).collect();
    World { lab, proxy, pods }
}

impl World {
    fn sync(&mut self, yaml: &str) {
        let objects = objects(yaml);
        self.proxy.sync(&objects.services, &objects.slices).unwrap();
    }
}

fn who(answer: &str) -> &str {
    answer.split(' ').next().unwrap_or_default()
}

/// Asks until every name of `wanted` has answered, many times more often than chance needs, and none other has.
fn answers(namespace: &Netns, address: &str, tries: usize) -> BTreeSet<String> {
    (0..tries).map(|_| who(&ask_tcp(namespace, address)).to_owned()).collect()
}

fn names(list: &str) -> BTreeSet<String> {
    list.split(' ').map(str::to_owned).collect()
}

const THREE: &str = "10.244.0.11@here 10.244.0.12@here 10.244.0.13@here";

#[test]
fn pods_reach_all_endpoints_of_a_cluster_ip_themselves_included() {
    let mut world = world(3);
    let spec = "{clusterIP: 10.96.0.1, ports: [{port: 80}]}";
    world.sync(&(service("a", spec) + &slice("a", HTTP, &endpoints(THREE))));
    let all = names("pod1 pod2 pod3");
    // With three endpoints, 60 tries miss one with a chance below 10^-10.
    assert_eq!(answers(&world.pods[0], "10.96.0.1:80", 60), all);
    assert_eq!(answers(&world.lab.node, "10.96.0.1:80", 60), all);
    // The source is kept, except where a pod reaches itself.
    let seen: BTreeSet<_> = (0..60).map(|_| ask_tcp(&world.pods[0], "10.96.0.1:80")).collect();
    assert!(seen.contains("pod2 10.244.0.11"), "{seen:?}");
    assert!(!seen.contains("pod1 10.244.0.11"), "{seen:?}");
    // From outside the cluster the answer has to come back by the node.
    world.lab.client_route("10.96.0.0/12");
    let answer = ask_tcp(&world.lab.client, "10.96.0.1:80");
    assert!(answer.starts_with("pod") && !answer.ends_with(CLIENT), "{answer}");
    assert_eq!(ask_tcp(&world.pods[0], "10.96.0.1:81"), "ConnectionRefused", "no such port");
    let nobody = ask_tcp_within(&world.pods[0], "10.96.0.99:80", SILENCE);
    assert_eq!(nobody, "TimedOut", "no such service");
}

#[test]
fn node_ports_are_served_on_the_nodes_addresses() {
    let mut world = world(2);
    let spec = |policy: &str| {
        format!(
            "{{type: NodePort, clusterIP: 10.96.0.1, externalTrafficPolicy: {policy}, \
             ports: [{{port: 80, nodePort: 30080}}]}}"
        )
    };
    let of = |list: &str| slice("a", HTTP, &endpoints(list));
    let address = format!("{NODE}:30080");
    world.sync(&(service("a", &spec("Cluster")) + &of("10.244.0.11@here 10.244.0.12@other")));
    assert_eq!(answers(&world.lab.client, &address, 40), names("pod1 pod2"));
    assert!(!ask_tcp(&world.lab.client, &address).ends_with(CLIENT), "masqueraded");
    assert_eq!(answers(&world.lab.node, &address, 40), names("pod1 pod2"));
    assert_eq!(answers(&world.pods[0], &format!("{GATEWAY}:30080"), 40), names("pod1 pod2"));

    world.sync(&(service("a", &spec("Local")) + &of("10.244.0.11@here 10.244.0.12@other")));
    let seen: BTreeSet<_> = (0..20).map(|_| ask_tcp(&world.lab.client, &address)).collect();
    assert_eq!(seen, BTreeSet::from([format!("pod1 {CLIENT}")]), "local only, source kept");
    assert_eq!(answers(&world.pods[0], &address, 40), names("pod1 pod2"), "a short cut inside");
    assert_eq!(answers(&world.lab.node, &address, 40), names("pod1 pod2"));

    world.sync(&(service("a", &spec("Local")) + &of("10.244.0.12@other")));
    assert_eq!(ask_tcp_within(&world.lab.client, &address, SILENCE), "TimedOut", "dropped");
    assert_eq!(who(&ask_tcp(&world.pods[0], &address)), "pod2");
    world.sync(&service("a", &spec("Local")));
    assert_eq!(ask_tcp(&world.lab.client, &address), "ConnectionRefused", "nobody anywhere");
}

#[test]
fn services_without_endpoints_refuse_at_once_everywhere() {
    let mut world = world(1);
    world.lab.client_route("203.0.113.0/24");
    let spec = "{clusterIP: 10.96.0.1, externalIPs: [203.0.113.9], ports: [{port: 80}]}";
    world.sync(&service("a", spec));
    for (namespace, address) in [
        (&world.pods[0], "10.96.0.1:80"),
        (&world.lab.node, "10.96.0.1:80"),
        (&world.lab.client, "203.0.113.9:80"),
    ] {
        assert_eq!(ask_tcp(namespace, address), "ConnectionRefused", "{address}");
    }
    let yaml = service("a", spec) + &slice("a", HTTP, &endpoints("10.244.0.11@here"));
    world.sync(&yaml);
    assert_eq!(who(&ask_tcp(&world.lab.client, "203.0.113.9:80")), "pod1");
}

#[test]
fn a_client_keeps_its_endpoint_until_that_is_gone() {
    let mut world = world(3);
    let spec = "{type: NodePort, clusterIP: 10.96.0.1, sessionAffinity: ClientIP, \
        ports: [{port: 80, nodePort: 30080}]}";
    let with = |list: &str| service("a", spec) + &slice("a", HTTP, &endpoints(list));
    world.sync(&with(THREE));
    let first = answers(&world.lab.node, "10.96.0.1:80", 30);
    assert_eq!(first.len(), 1, "{first:?}");
    let by_node_port = answers(&world.lab.client, &format!("{NODE}:30080"), 30);
    assert_eq!(by_node_port.len(), 1, "{by_node_port:?}");
    let had = first.first().unwrap();
    let left: Vec<_> = THREE
        .split(' ')
        .enumerate()
        .filter(|(n, _)| format!("pod{}", n + 1) != *had)
        .map(|(_, text)| text)
        .collect();
    world.sync(&with(&left.join(" ")));
    let second = answers(&world.lab.node, "10.96.0.1:80", 30);
    assert_eq!(second.len(), 1, "{second:?}");
    assert_ne!(first, second);
}

#[test]
fn udp_clients_leave_endpoints_that_are_gone() {
    let mut world = world(2);
    let udp = "[{name: '', protocol: UDP, port: 5353}]";
    let spec = "{clusterIP: 10.96.0.10, ports: [{port: 53, protocol: UDP}]}";
    let with = |list: &str| service("dns", spec) + &slice("dns", udp, &endpoints(list));
    let client = udp_client(&world.pods[1]);
    // Only a connected socket is told that it was refused.
    client.connect("10.96.0.10:53").unwrap();
    world.sync(&with("10.244.0.11@here"));
    assert_eq!(ask_udp(&client, "10.96.0.10:53"), "pod1");
    world.sync(&with("10.244.0.11@here 10.244.0.12@here"));
    assert_eq!(ask_udp(&client, "10.96.0.10:53"), "pod1", "a connection stays where it is");
    world.sync(&with("10.244.0.12@here"));
    assert_eq!(ask_udp(&client, "10.96.0.10:53"), "pod2");
    world.sync(&service("dns", spec));
    assert_eq!(ask_udp(&client, "10.96.0.10:53"), "ConnectionRefused");
    world.sync(&with("10.244.0.11@here"));
    assert_eq!(ask_udp(&client, "10.96.0.10:53"), "pod1");
}

#[test]
fn source_ranges_keep_others_out() {
    let mut world = world(1);
    world.lab.client_route("203.0.113.0/24");
    let with = |ranges: &str| {
        let spec = format!(
            "{{type: LoadBalancer, clusterIP: 10.96.0.1, loadBalancerSourceRanges: [{ranges}], \
             ports: [{{port: 80, nodePort: 30080}}]}}\n\
             status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.1}}]}}}}"
        );
        service("a", &spec) + &slice("a", HTTP, &endpoints("10.244.0.11@here"))
    };
    world.sync(&with("198.51.100.0/24, 192.0.2.0/24"));
    assert_eq!(who(&ask_tcp(&world.lab.client, "203.0.113.1:80")), "pod1");
    world.sync(&with("198.51.100.0/24"));
    assert_eq!(ask_tcp_within(&world.lab.client, "203.0.113.1:80", SILENCE), "TimedOut");
    let node_port = ask_tcp(&world.lab.client, &format!("{NODE}:30080"));
    assert_eq!(who(&node_port), "pod1", "node ports have no firewall");
}

#[test]
fn a_restart_a_flush_by_others_and_removal() {
    let mut world = world(1);
    let spec = "{clusterIP: 10.96.0.1, ports: [{port: 80}]}";
    let one = service("a", spec) + &slice("a", HTTP, &endpoints("10.244.0.11@here"));
    world.sync(&one);
    // A new process knows nothing of what the old one installed, and replaces it.
    world.proxy = Proxy::new(config(&world.lab.node)).unwrap();
    assert_eq!(who(&ask_tcp(&world.pods[0], "10.96.0.1:80")), "pod1", "the old rules still work");
    world.sync(&one);
    assert_eq!(who(&ask_tcp(&world.pods[0], "10.96.0.1:80")), "pod1");
    // Somebody removes the table: the next change fails, the one after installs everything.
    let mut nft = Nftables::open(&world.lab.node).unwrap();
    let table = sys::nftables::Table { family: Family::Ip, name: "kube-proxy" };
    let mut batch = sys::nftables::Batch::new();
    batch.remove_table(&table);
    nft.apply(batch).unwrap();
    let two = objects(&service("b", "{clusterIP: 10.96.0.2, ports: [{port: 80}]}"));
    world.proxy.update_service(&two.services[0]);
    let error = world.proxy.apply().unwrap_err();
    assert_eq!(error.to_string(), "could not change the rules of 1 services");
    assert!(world.proxy.is_dirty());
    assert!(world.proxy.apply().unwrap().replaced);
    assert_eq!(who(&ask_tcp(&world.pods[0], "10.96.0.1:80")), "pod1");
    assert_eq!(ask_tcp(&world.pods[0], "10.96.0.2:80"), "ConnectionRefused");
    assert!(!world.proxy.is_dirty());
    world.proxy.uninstall().unwrap();
    assert_eq!(nft.tables(Family::Ip).unwrap(), Vec::<String>::new());
    assert_eq!(nft.tables(Family::Ip6).unwrap(), Vec::<String>::new());
}

#[test]
fn chains_and_shared_entries_go_with_their_last_user() {
    let namespace = Netns::anonymous().unwrap();
    let mut proxy = Proxy::new(config(&namespace)).unwrap();
    let mut nft = Nftables::open(&namespace).unwrap();
    let table = sys::nftables::Table { family: Family::Ip, name: "kube-proxy" };
    let mut state = |proxy: &mut Proxy| {
        proxy.apply().unwrap();
        let chains = nft.chains(&table).unwrap();
        let chains = chains.into_iter().filter(|chain| chain.starts_with("ip-"));
        let hairpin = nft.element_keys(&table, "hairpin").unwrap().len();
        format!("{} {hairpin}", chains.collect::<Vec<_>>().join(" "))
    };
    let text = |name: &str, ip: &str, list: &str| {
        objects(
            &(service(name, &format!("{{clusterIP: {ip}, ports: [{{port: 80}}]}}"))
                + &slice(name, HTTP, &endpoints(list))),
        )
    };
    for (name, ip, list, expected) in [
        ("a", "10.96.0.1", "10.244.0.1@here", "ip-cluster-1 1"),
        ("b", "10.96.0.2", "10.244.0.1@here", "ip-cluster-1 1"),
        ("a", "10.96.0.1", "10.244.0.1@here 10.244.0.2@here", "ip-cluster-1 ip-cluster-2 2"),
        ("b", "10.96.0.2", "10.244.0.3@other 10.244.0.4@other", "ip-cluster-2 2"),
    ] {
        let objects = text(name, ip, list);
        objects.services.iter().for_each(|service| drop(proxy.update_service(service)));
        objects.slices.iter().for_each(|slice| drop(proxy.update_slice(slice)));
        assert_eq!(state(&mut proxy), expected, "{name} {list}");
    }
    // The slice is known by its own name, and without it the service refuses.
    proxy.delete_slice(&ServiceKey::new("ns", "b-IPv4"));
    proxy.delete_service(&ServiceKey::new("ns", "a"));
    assert_eq!(state(&mut proxy), " 0");
    assert_eq!(proxy.services(), 2);
    proxy.delete_slice(&ServiceKey::new("ns", "a-IPv4"));
    assert_eq!(state(&mut proxy), " 0");
    assert_eq!(proxy.services(), 1);
}

#[test]
fn the_kernel_takes_every_kind_of_chain_in_both_families() {
    let namespace = Netns::anonymous().unwrap();
    let mut proxy = Proxy::new(config(&namespace)).unwrap();
    let mut nft = Nftables::open(&namespace).unwrap();
    let affinity = "sessionAffinity: ClientIP, ";
    let mut yaml = String::new();
    for (n, (policy, affinity)) in
        [("Cluster", ""), ("Local", ""), ("Cluster", affinity), ("Local", affinity)]
            .iter()
            .enumerate()
    {
        let (name, spec) = (
            format!("s{n}"),
            format!(
                "{{type: LoadBalancer, clusterIPs: [10.96.0.{n}, 'fd00::{n}'], {affinity}\
                 externalTrafficPolicy: {policy}, internalTrafficPolicy: {policy}, \
                 loadBalancerSourceRanges: [192.0.2.0/24, '2001:db8::/32'], \
                 externalIPs: [203.0.113.{n}, 'fd02::{n}'], \
                 ports: [{{port: 80, nodePort: 3008{n}}}]}}\n\
                 status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.1{n}}}, {{ip: 'fd03::{n}'}}]}}}}"
            ),
        );
        yaml += &service(&name, &spec);
        yaml += &slice(&name, HTTP, &endpoints("10.244.0.11@here 10.244.1.12"));
        yaml += &slice(&name, HTTP, &endpoints("fd01::11@here fd01::12"));
    }
    let objects = objects(&yaml);
    proxy.sync(&objects.services, &objects.slices).unwrap();
    let mut chains = |family| {
        let table = sys::nftables::Table { family, name: "kube-proxy" };
        let chains = nft.chains(&table).unwrap().into_iter();
        chains.filter(|chain| chain.contains("-1") || chain.contains("-2")).collect::<BTreeSet<_>>()
    };
    let expected = names(
        "ip-cluster-2 ip-cluster-2-masq ip-local-1 node-cluster-2 node-cluster-2-masq node-local-1 \
         ip-cluster-2-affinity-10800 ip-cluster-2-masq-affinity-10800 ip-local-1-affinity-10800 \
         node-cluster-2-affinity-10800 node-cluster-2-masq-affinity-10800 \
         node-local-1-affinity-10800",
    );
    assert_eq!(chains(Family::Ip), expected);
    assert_eq!(chains(Family::Ip6), expected);
    // Without any of them again, one by one and in one step.
    proxy.sync(&objects.services[..2], &objects.slices[..4]).unwrap();
    // The tool that people look with survives all but those of affinity.
    let list = || std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    let shown = namespace.run(list).unwrap();
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    proxy.sync(&[], &[]).unwrap();
    assert!(chains(Family::Ip).is_empty() && chains(Family::Ip6).is_empty());
}

#[test]
fn a_front_belongs_to_who_had_it_first_until_that_is_gone() {
    let namespace = Netns::anonymous().unwrap();
    let mut proxy = Proxy::new(config(&namespace)).unwrap();
    let with = |name: &str, ip: &str| {
        let spec =
            format!("{{clusterIP: {ip}, externalIPs: [203.0.113.9], ports: [{{port: 80}}]}}");
        objects(&service(name, &spec)).services.remove(0)
    };
    proxy.update_service(&with("z", "10.96.0.1"));
    proxy.apply().unwrap();
    proxy.update_service(&with("a", "10.96.0.2"));
    proxy.apply().unwrap();
    let problems: Vec<_> = proxy.problems().map(|problem| problem.to_string()).collect();
    let text = "service ns/a: 203.0.113.9 . tcp . 80 is not served: service ns/z has it";
    assert_eq!(problems, [text]);
    proxy.delete_service(&ServiceKey::new("ns", "z"));
    let applied = proxy.apply().unwrap();
    assert_eq!((applied.services, applied.added), (2, 1), "a gets it in the same transaction");
    assert_eq!(proxy.problems().count(), 0);
}

#[test]
fn rules_that_somebody_removes_come_back() {
    let mut world = world(1);
    let spec = "{clusterIP: 10.96.0.1, ports: [{port: 80}]}";
    world.sync(&(service("a", spec) + &slice("a", HTTP, &endpoints("10.244.0.11@here"))));
    assert!(!world.proxy.look().unwrap());
    Proxy::remove(&world.lab.node).unwrap();
    assert!(world.proxy.look().unwrap());
    assert!(world.proxy.apply().unwrap().replaced);
    assert!(!world.proxy.look().unwrap());
    assert_eq!(answers(&world.pods[0], "10.96.0.1:80", 1), names("pod1"));
}
