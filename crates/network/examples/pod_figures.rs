//! How long a pod's network takes: set up and torn down, in network namespaces of its own.
//! `cargo run --release -p network --example pod_figures`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example that measures")]
#![allow(clippy::disallowed_types, reason = "it measures real time")]

use std::time::{Duration, Instant};

use network::{Config, PodNetwork, PortMapping, Protocol};
use sys::netlink::Netns;

const PODS: usize = 100;

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    println!("{what}: median {:?}, worst {:?}", times[PODS / 2], times[PODS - 1]);
}

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let network = PodNetwork::start(Config {
        namespace: Netns::anonymous().unwrap(),
        device: Config::DEVICE.to_owned(),
        pod_cidrs: vec!["10.244.0.0/24".parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        mtu: None,
        state_dir: directory.path().to_owned(),
    })
    .unwrap();
    let pods: Vec<_> = (0..PODS).map(|_| Netns::anonymous().unwrap()).collect();
    let timed = |work: &dyn Fn(usize)| -> Vec<_> {
        let one = |n| {
            let start = Instant::now();
            work(n);
            start.elapsed()
        };
        (0..PODS).map(one).collect()
    };
    let port = |n: usize| PortMapping {
        protocol: Protocol::Tcp,
        host_ip: None,
        host_port: 10_000 + u16::try_from(n).unwrap(),
        container_port: 80,
    };
    let setup = |n| drop(network.setup(&format!("pod-{n}"), &pods[n], &[port(n)]).unwrap());
    report("set up", timed(&setup));
    report("torn down", timed(&|n| network.teardown(&format!("pod-{n}")).unwrap()));
    network.uninstall().unwrap();
}
