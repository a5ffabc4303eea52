//! Pods that talk to each other, to the world and through host ports; repair and removal.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use network::{Config, LocalNode, PodNetwork, PortMapping, Protocol, RemoteNode, plan};
use sys::netlink::{Netns, Rtnetlink};
use sys::nftables::{Batch, Family, Nftables, Table};

use crate::lab::{CLIENT, GATEWAY, Lab, NODE, ask_tcp, ask_udp, serve_tcp, serve_udp, udp_client};

fn config(lab: &Lab, directory: &Path) -> Config {
    Config {
        namespace: lab.node.clone(),
        device: Config::DEVICE.to_owned(),
        pod_cidrs: vec!["10.244.0.0/24".parse().unwrap(), "fd00:244::/64".parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        mtu: None,
        state_dir: directory.to_owned(),
    }
}

fn tcp(host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { protocol: Protocol::Tcp, host_ip: None, host_port, container_port }
}

fn pod(network: &PodNetwork, id: &str, ports: &[PortMapping]) -> (Netns, Vec<IpAddr>) {
    let namespace = Netns::anonymous().unwrap();
    let ips = network.setup(id, &namespace, ports).unwrap();
    (namespace, ips)
}

#[test]
fn pods_reach_each_other_the_host_and_the_world() {
    let (lab, directory) = (Lab::new(), tempfile::tempdir().unwrap());
    let network = PodNetwork::start(config(&lab, directory.path())).unwrap();
    let ((a, a_ips), (b, b_ips)) = (pod(&network, "a", &[]), pod(&network, "b", &[]));
    assert_eq!(a_ips, ["10.244.0.2".parse::<IpAddr>().unwrap(), "fd00:244::2".parse().unwrap()]);
    serve_tcp(&b, "[::]:80", "b");
    serve_tcp(&lab.client, &format!("{CLIENT}:80"), "world");
    serve_tcp(&lab.node, "0.0.0.0:81", "host");
    assert_eq!(ask_tcp(&a, "10.244.0.3:80"), "b ::ffff:10.244.0.2");
    assert_eq!(ask_tcp(&a, &format!("[{}]:80", b_ips[1])), "b fd00:244::2");
    assert_eq!(ask_tcp(&lab.node, "10.244.0.3:80"), format!("b ::ffff:{GATEWAY}"));
    assert_eq!(ask_tcp(&lab.node, &format!("[{}]:80", b_ips[1])), "b fd00:244::1");
    assert_eq!(ask_tcp(&a, &format!("{CLIENT}:80")), format!("world {NODE}"), "masquerade");
    assert_eq!(ask_tcp(&a, &format!("{NODE}:81")), "host 10.244.0.2");
    assert_eq!(ask_tcp(&a, "10.244.0.99:80"), "HostUnreachable", "an address nobody has");
    let again = network.setup("a", &a, &[]).unwrap();
    assert_eq!(again, a_ips, "a second setup changes nothing");
    network.teardown("a").unwrap();
    network.teardown("a").unwrap();
    assert_eq!(ask_tcp(&lab.node, "10.244.0.2:80"), "HostUnreachable");
    let (_, c_ips) = pod(&network, "c", &[]);
    assert_eq!(c_ips[0].to_string(), "10.244.0.4", "an address rests before it is used again");
}

#[test]
fn a_pod_cannot_send_with_an_address_that_is_not_its_own() {
    let (lab, directory) = (Lab::new(), tempfile::tempdir().unwrap());
    let network = PodNetwork::start(config(&lab, directory.path())).unwrap();
    let ((a, _), (b, _)) = (pod(&network, "a", &[]), pod(&network, "b", &[]));
    let mut rt = Rtnetlink::open(&a).unwrap();
    let link = rt.link("eth0").unwrap().unwrap().index;
    let net = "10.244.0.77/32".parse().unwrap();
    rt.add_address(&sys::netlink::Address { link, net, scope: 0 }).unwrap();
    let receiver = udp_client(&b);
    let to = format!("10.244.0.3:{}", receiver.local_addr().unwrap().port());
    let send = |from: &str| {
        let socket = a.run(|| std::net::UdpSocket::bind(from)).unwrap().unwrap();
        socket.send_to(from.as_bytes(), &to).unwrap();
    };
    send("10.244.0.77:1");
    send("10.244.0.2:1");
    let mut buffer = [0; 64];
    let (_, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!(from.ip().to_string(), "10.244.0.2", "the forged one, sent first, never arrives");
}

#[test]
fn host_ports_lead_to_the_pod_from_everywhere() {
    let (lab, directory) = (Lab::new(), tempfile::tempdir().unwrap());
    let network = PodNetwork::start(config(&lab, directory.path())).unwrap();
    let bound = PortMapping { host_ip: Some(NODE.parse().unwrap()), ..tcp(9090, 80) };
    let udp = PortMapping { protocol: Protocol::Udp, ..tcp(5353, 53) };
    let (a, _) = pod(&network, "a", &[tcp(8080, 80), bound, udp]);
    let (b, _) = pod(&network, "b", &[]);
    serve_tcp(&a, "0.0.0.0:80", "a");
    serve_udp(&a, "0.0.0.0:53", "a");
    let port = |port: u16| format!("{NODE}:{port}");
    assert_eq!(ask_tcp(&lab.client, &port(8080)), format!("a {CLIENT}"), "the source is kept");
    assert_eq!(ask_tcp(&lab.client, &port(9090)), format!("a {CLIENT}"));
    assert_eq!(ask_tcp(&lab.node, &port(8080)), format!("a {NODE}"), "from the host itself");
    assert_eq!(ask_tcp(&b, &port(8080)), "a 10.244.0.3");
    let hairpin = ask_tcp(&a, &port(8080));
    assert!(hairpin.starts_with("a ") && hairpin != "a 10.244.0.2", "{hairpin}");
    assert_eq!(ask_tcp(&b, &format!("{GATEWAY}:9090")), "ConnectionRefused", "bound elsewhere");

    assert!(!network.restore_rules().unwrap());
    let mut flush = Batch::new();
    flush.remove_table(&Table { family: Family::Ip, name: "kubelith-network" });
    Nftables::open(&lab.node).unwrap().apply(flush).unwrap();
    assert!(network.restore_rules().unwrap(), "somebody removed a table");
    assert_eq!(ask_tcp(&lab.client, &port(8080)), format!("a {CLIENT}"));

    let taken = network.setup("c", &Netns::anonymous().unwrap(), &[tcp(8080, 1)]).unwrap_err();
    let text = "host port TCP 0.0.0.0:8080 is already taken by sandbox a";
    assert_eq!(taken.to_string(), text);
    assert!(!network.sandboxes().contains_key("c"));

    // The same client port goes on to the next pod, although UDP has no end.
    let client = udp_client(&lab.client);
    assert_eq!(ask_udp(&client, &port(5353)), "a");
    network.teardown("a").unwrap();
    let (d, _) = pod(&network, "d", &[udp]);
    serve_udp(&d, "0.0.0.0:53", "d");
    assert_eq!(ask_udp(&client, &port(5353)), "d");
    assert_eq!(ask_tcp(&lab.client, &port(8080)), "ConnectionRefused");
}

#[test]
fn a_restart_keeps_the_living_and_repair_removes_the_dead() {
    let (lab, directory) = (Lab::new(), tempfile::tempdir().unwrap());
    let network = PodNetwork::start(config(&lab, directory.path())).unwrap();
    let (a, ips) = pod(&network, "a", &[tcp(8080, 80)]);
    let (_b, _) = pod(&network, "b", &[tcp(8081, 80)]);
    let (_c, _) = pod(&network, "c", &[]);
    serve_tcp(&a, "0.0.0.0:80", "a");
    drop(network);
    // The record of c is lost; only its link tells.
    std::fs::remove_file(directory.path().join("sandboxes/c")).unwrap();
    let network = PodNetwork::start(config(&lab, directory.path())).unwrap();
    assert_eq!(ask_tcp(&lab.client, &format!("{NODE}:8080")), format!("a {CLIENT}"));
    let live = BTreeSet::from(["a".to_owned()]);
    let stale = network.repair(&live).unwrap();
    assert_eq!(stale, BTreeSet::from(["b".to_owned(), "c".to_owned()]));
    assert_eq!(network.repair(&live).unwrap(), BTreeSet::new());
    assert_eq!(network.setup("a", &a, &[tcp(8080, 80)]).unwrap(), ips);
    let (_, fresh) = pod(&network, "d", &[tcp(8081, 80)]);
    assert!(!ips.contains(&fresh[0]));
    // The pod's namespace went without a teardown, as in a reboot: a new sandbox is no trouble.
    assert_eq!(network.sandboxes().len(), 2);
}

#[test]
fn uninstall_leaves_nothing() {
    let (lab, directory) = (Lab::new(), tempfile::tempdir().unwrap());
    let mut rt = Rtnetlink::open(&lab.node).unwrap();
    let before = (rt.links().unwrap().len(), rt.routes().unwrap(), rt.addresses().unwrap().len());
    let network = PodNetwork::start(config(&lab, directory.path())).unwrap();
    let _pods = (pod(&network, "a", &[tcp(8080, 80)]), pod(&network, "b", &[]));
    assert_ne!(rt.links().unwrap().len(), before.0);
    network.uninstall().unwrap();
    let after = (rt.links().unwrap().len(), rt.routes().unwrap(), rt.addresses().unwrap().len());
    assert_eq!(after, before);
    let mut nft = Nftables::open(&lab.node).unwrap();
    assert_eq!(nft.tables(Family::Ip).unwrap(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn nodes_on_one_segment_reach_each_others_pods_by_plain_routes() {
    let (lab, directories) = (Lab::new(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
    let one = PodNetwork::start(config(&lab, directories[0].path())).unwrap();
    let two = PodNetwork::start(Config {
        namespace: lab.client.clone(),
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        ..config(&lab, directories[1].path())
    })
    .unwrap();
    let node = |name: &str, ip: &str, cidr: &str| RemoteNode {
        name: name.to_owned(),
        addresses: vec![ip.parse().unwrap()],
        pod_cidrs: vec![cidr.parse().unwrap()],
    };
    let nodes = [node("one", NODE, "10.244.0.0/24"), node("two", CLIENT, "10.244.1.0/24")];
    let local = one.local_node("one").unwrap();
    assert_eq!(
        local,
        LocalNode { name: "one".to_owned(), segments: vec!["192.0.2.0/24".parse().unwrap()] }
    );
    assert_eq!(one.apply_routes(&plan(&local, &nodes)).unwrap(), 1);
    assert_eq!(two.apply_routes(&plan(&two.local_node("two").unwrap(), &nodes)).unwrap(), 1);
    let ((a, _), (b, _)) = (pod(&one, "a", &[]), pod(&two, "b", &[]));
    serve_tcp(&b, "0.0.0.0:80", "b");
    assert_eq!(ask_tcp(&a, "10.244.1.2:80"), "b 10.244.0.2", "no masquerade inside the cluster");
    assert_eq!(one.apply_routes(&plan(&local, &nodes)).unwrap(), 0);
    assert_eq!(one.apply_routes(&plan(&local, &nodes[..1])).unwrap(), 1);
    let left = Rtnetlink::open(&lab.node).unwrap().routes().unwrap();
    assert!(!left.iter().any(|route| route.destination.to_string() == "10.244.1.0/24"));
}
