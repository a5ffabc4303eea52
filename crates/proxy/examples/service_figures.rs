//! Figures of the service proxy: load, one change, memory, at 10,000 services of 3 endpoints each, in a network
//! namespace of its own. `cargo run --release -p proxy --example service_figures [SERVICES]`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example that measures")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "it measures real time")]

use std::time::Instant;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proxy::{Config, Family, NodePortAddresses, Proxy, ServiceKey};
use serde_json::json;
use sys::netlink::Netns;

const CHANGES: usize = 2000;

fn service(n: u32) -> Service {
    let [_, _, high, low] = n.to_be_bytes();
    serde_json::from_value(json!({
        "metadata": {"name": format!("svc-{n}"), "namespace": "default"},
        "spec": {"clusterIP": format!("10.96.{high}.{low}"), "ports": [{"port": 80, "protocol": "TCP"}]},
    }))
    .unwrap()
}

fn slice(n: u32, first: u32) -> EndpointSlice {
    let address = |k: u32| {
        let [_, a, b, c] = (n * 3 + first + k).to_be_bytes();
        json!({"addresses": [format!("10.{}.{b}.{c}", 128 + a)], "nodeName": "n",
            "conditions": {"ready": true, "serving": true, "terminating": false}})
    };
    serde_json::from_value(json!({
        "metadata": {"name": format!("svc-{n}-abcde"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": format!("svc-{n}")}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [address(0), address(1), address(2)],
    }))
    .unwrap()
}

fn resident_kb() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() {
    let count: u32 = std::env::args().nth(1).map_or(10_000, |text| text.parse().unwrap());
    let mut proxy = Proxy::new(Config {
        namespace: Netns::anonymous().unwrap(),
        node_name: "here".to_owned(),
        node_ips: vec![],
        families: vec![Family::Ip, Family::Ip6],
        cluster_cidrs: vec!["10.128.0.0/9".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        masquerade_all: false,
        node_port_addresses: NodePortAddresses::All,
        masquerade_bit: Config::MASQUERADE_BIT,
    })
    .unwrap();
    let before = resident_kb();
    for n in 0..count {
        proxy.update_service(&service(n));
        proxy.update_slice(&slice(n, 0));
    }
    let told = resident_kb();
    let start = Instant::now();
    let applied = proxy.apply().unwrap();
    println!("load of {count} services, {} entries: {:?}", applied.added, start.elapsed());
    let kb = resident_kb();
    println!(
        "memory: {} KB told, {} KB after load, {} bytes a service",
        told - before,
        kb - before,
        (told - before) * 1024 / count as usize
    );

    let mut times: Vec<_> = (0..CHANGES)
        .map(|k| {
            let n = u32::try_from(k * 7919).unwrap() % count;
            let changed = slice(n, 1);
            let start = Instant::now();
            proxy.update_slice(&changed);
            proxy.apply().unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "one change of endpoints: median {:?}, p99 {:?}, worst {:?}",
        times[CHANGES / 2],
        times[CHANGES * 99 / 100],
        times[CHANGES - 1]
    );
    let mut times: Vec<_> = (0..CHANGES)
        .map(|k| {
            let n = count + u32::try_from(k).unwrap();
            let (service, slice) = (service(n), slice(n, 0));
            let start = Instant::now();
            proxy.update_service(&service);
            proxy.update_slice(&slice);
            proxy.apply().unwrap();
            let elapsed = start.elapsed();
            proxy.delete_service(&ServiceKey::new("default", &format!("svc-{n}")));
            proxy.delete_slice(&ServiceKey::new("default", &format!("svc-{n}-abcde")));
            proxy.apply().unwrap();
            elapsed
        })
        .collect();
    times.sort();
    println!(
        "one new service: median {:?}, p99 {:?}, worst {:?}",
        times[CHANGES / 2],
        times[CHANGES * 99 / 100],
        times[CHANGES - 1]
    );
}
