//! How many answers a second: server and clients on the same cores, over loopback.
//! `cargo run --release -p dns --example load [CLIENTS] [SECONDS]`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example that measures")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "it measures real time")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use component_base::{Shutdown, SystemRandom};
use dns::{Config, Index, Server, Zone};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use serde_json::json;

const SERVICES: u32 = 10_000;
/// How many questions each client has out at once.
const WINDOW: usize = 32;

fn index() -> Index {
    let index = Index::new(Zone::new("cluster.local").unwrap(), Index::TTL, vec![]);
    for n in 0..SERVICES {
        let [_, _, high, low] = n.to_be_bytes();
        let service = json!({
            "metadata": {"name": format!("svc-{n}"), "namespace": "default"},
            "spec": {"clusterIP": format!("10.96.{high}.{low}"), "ports": [{"port": 80}]},
        });
        index.apply_service(&serde_json::from_value(service).unwrap());
    }
    index
}

fn question(n: u32) -> Vec<u8> {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii(format!("svc-{n}.default.svc.cluster.local.")).unwrap();
    message.add_query(Query::query(name, RecordType::A));
    message.to_vec().unwrap()
}

fn client(server: std::net::SocketAddr, seed: u32, stop: &AtomicBool, answers: &AtomicU64) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let questions: Vec<_> = (0..1000).map(|k| question((seed * 977 + k * 7) % SERVICES)).collect();
    let mut next = questions.iter().cycle();
    let mut buffer = [0; 512];
    let ask = |bytes: &Vec<u8>| drop(socket.send(bytes));
    next.by_ref().take(WINDOW).for_each(ask);
    while !stop.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(_) => drop(answers.fetch_add(1, Ordering::Relaxed)),
            // A lost datagram must not let the window shrink.
            Err(_) => next.by_ref().take(WINDOW).for_each(ask),
        }
        ask(next.next().unwrap());
    }
}

fn main() {
    let argument = |n: usize, default: u32| {
        std::env::args().nth(n).map_or(default, |text| text.parse().unwrap())
    };
    let (clients, seconds) = (argument(1, 2), argument(2, 5));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stop = Shutdown::new();
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let config = Config { listen, service_ips: vec![], upstreams: vec![], workers: 2 };
    let (index, random) = (Arc::new(index()), Arc::new(SystemRandom::new()));
    let server = runtime.block_on(Server::bind(&config, index, random)).unwrap();
    let address = server.addresses()[0];
    let running = runtime.spawn(server.run(stop.signal()));
    let (done, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for seed in 0..clients {
            let (done, answers) = (&done, &answers);
            scope.spawn(move || client(address, seed, done, answers));
        }
        std::thread::sleep(Duration::from_secs(seconds.into()));
        done.store(true, Ordering::Relaxed);
    });
    let per_second =
        u128::from(answers.load(Ordering::Relaxed)) * 1000 / start.elapsed().as_millis();
    println!("{per_second} answers a second");
    stop.request();
    runtime.block_on(running).unwrap();
}
