//! The server on loopback, with an upstream that the tests play themselves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use component_base::{SeededRandom, Shutdown};
use dns::{Config, Server};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::index;

struct Running {
    address: SocketAddr,
    stop: Shutdown,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.request();
    }
}

async fn start(upstreams: Vec<SocketAddr>) -> Running {
    start_with(index(), upstreams).await
}

async fn start_with(index: Arc<dns::Index>, upstreams: Vec<SocketAddr>) -> Running {
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let config = Config { listen, service_ips: vec![], upstreams, workers: 2 };
    let random = Arc::new(SeededRandom::new(1));
    let server = Server::bind(&config, index, random).await.unwrap();
    let (address, stop) = (server.addresses()[0], Shutdown::new());
    tokio::spawn(server.run(stop.signal()));
    Running { address, stop }
}

fn question(name: &str, edns: Option<u16>) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    if let Some(max) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(max);
        message.set_edns(edns);
    }
    message
}

async fn exchange(server: SocketAddr, bytes: &[u8]) -> (Message, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, server).await.unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    (Message::from_vec(&buffer[..length]).unwrap(), length)
}

async fn ask(server: SocketAddr, message: &Message) -> Message {
    exchange(server, &message.to_vec().unwrap()).await.0
}

async fn ask_tcp(stream: &mut TcpStream, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn ips(message: &Message) -> Vec<String> {
    let ip = |record: &Record| record.data.ip_addr().map(|ip| ip.to_string());
    message.answers.iter().filter_map(ip).collect()
}

/// A nameserver that answers every name with 192.0.2.1 and counts; by UDP truncated, where `truncated` says so.
async fn upstream(truncated: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let answer = |bytes: &[u8]| {
        let mut message = Message::from_vec(bytes).unwrap().into_response();
        let name = message.queries[0].name().clone();
        message.add_answer(Record::from_rdata(name, 60, RData::A(A([192, 0, 2, 1].into()))));
        message
    };
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            seen.fetch_add(1, Ordering::SeqCst);
            let mut message = answer(&buffer[..length]);
            if truncated {
                message.metadata.truncation = true;
                message.answers.clear();
            }
            // A forger who does not know the number comes first.
            let mut forged = message.clone();
            forged.metadata.id ^= 1;
            socket.send_to(&forged.to_vec().unwrap(), client).await.unwrap();
            socket.send_to(&message.to_vec().unwrap(), client).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut bytes = vec![0; length.into()];
            stream.read_exact(&mut bytes).await.unwrap();
            let bytes = answer(&bytes).to_vec().unwrap();
            stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
    (address, count)
}

#[tokio::test]
async fn cluster_names_are_answered_with_authority() {
    let server = start(vec![]).await;
    let found = ask(server.address, &question("Web.ns.svc.cluster.local.", Some(4096))).await;
    assert_eq!((found.metadata.id, ips(&found)), (77, vec!["10.96.0.1".to_owned()]));
    assert!(found.metadata.authoritative && found.metadata.recursion_available);
    assert_eq!(found.answers[0].name.to_ascii(), "Web.ns.svc.cluster.local.", "letters kept");
    assert_eq!((found.answers[0].ttl, found.edns.unwrap().max_payload()), (5, 1232));
    let missing = ask(server.address, &question("nope.ns.svc.cluster.local.", None)).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(missing.authorities[0].record_type(), RecordType::SOA);
    assert!(missing.edns.is_none());
    let other = ask(server.address, &question("example.org.", None)).await;
    assert_eq!(other.metadata.response_code, ResponseCode::Refused, "nobody to ask");
}

#[tokio::test]
async fn large_answers_are_cut_and_whole_by_tcp() {
    let index = index();
    let endpoints: Vec<_> = (0..200).map(|n| format!("{{addresses: [10.1.0.{n}]}}")).collect();
    let slice = format!(
        "metadata: {{name: db-3, namespace: ns, labels: {{kubernetes.io/service-name: db}}}}\n\
         addressType: IPv4\nendpoints: [{}]\n",
        endpoints.join(", ")
    );
    index.apply_slice(&serde_saphyr::from_str(&slice).unwrap());
    let server = start_with(index, vec![]).await;
    let name = "db.ns.svc.cluster.local.";
    for (edns, limit) in [(None, 512), (Some(600), 600), (Some(4096), 1232), (Some(1), 512)] {
        let bytes = question(name, edns).to_vec().unwrap();
        let (message, length) = exchange(server.address, &bytes).await;
        assert!(message.metadata.truncation && length <= limit && !message.answers.is_empty());
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..2 {
        let message = ask_tcp(&mut stream, &question(name, None)).await;
        assert_eq!((message.metadata.truncation, message.answers.len()), (false, 203));
    }
}

#[tokio::test]
async fn other_names_are_forwarded_once_and_then_known() {
    let (upstream, count) = upstream(false).await;
    let server = start(vec![upstream]).await;
    for _ in 0..3 {
        let answer = ask(server.address, &question("www.example.org.", None)).await;
        assert_eq!((answer.metadata.id, ips(&answer)), (77, vec!["192.0.2.1".to_owned()]));
        assert!(!answer.metadata.authoritative);
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let alias = ask(server.address, &question("outside.ns.svc.cluster.local.", None)).await;
    assert_eq!(alias.answers[0].record_type(), RecordType::CNAME);
    assert_eq!(ips(&alias), ["192.0.2.1"]);
    assert_eq!(count.load(Ordering::SeqCst), 1, "the alias's target is known too");
    let inside = ask(server.address, &question("inside.ns.svc.cluster.local.", None)).await;
    assert_eq!(ips(&inside), ["10.96.0.1"]);
}

#[tokio::test]
async fn truncated_answers_of_others_are_asked_for_by_tcp() {
    let (upstream, _) = upstream(true).await;
    let server = start(vec![upstream]).await;
    let answer = ask(server.address, &question("big.example.org.", None)).await;
    assert_eq!(ips(&answer), ["192.0.2.1"]);
}

#[tokio::test]
async fn a_nameserver_that_is_down_is_passed_over() {
    let (upstream, _) = upstream(false).await;
    // Bound and dropped: nobody listens there, which the kernel says at once.
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = start(vec![dead, upstream]).await;
    for n in 0..4 {
        let answer = ask(server.address, &question(&format!("n{n}.example."), None)).await;
        assert_eq!(ips(&answer), ["192.0.2.1"]);
    }
    let server = start(vec![dead]).await;
    let answer = ask(server.address, &question("x.example.", None)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn what_is_no_question_is_told_so_or_ignored() {
    let server = start(vec![]).await;
    let good = question("web.ns.svc.cluster.local.", None);
    let mut response = good.clone();
    response.metadata.message_type = MessageType::Response;
    let mut notify = good.clone();
    notify.metadata.op_code = OpCode::Notify;
    let mut two = good.clone();
    two.queries.push(two.queries[0].clone());
    let mut transfer = good.clone();
    transfer.queries[0].set_query_type(RecordType::AXFR);
    let mut future = question("web.ns.svc.cluster.local.", Some(512));
    future.edns.as_mut().unwrap().set_version(1);
    let header = [0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for (bytes, expected) in [
        (notify.to_vec().unwrap(), ResponseCode::NotImp),
        (two.to_vec().unwrap(), ResponseCode::FormErr),
        (transfer.to_vec().unwrap(), ResponseCode::Refused),
        (future.to_vec().unwrap(), ResponseCode::BADVERS),
        (header.to_vec(), ResponseCode::FormErr),
    ] {
        let (message, _) = exchange(server.address, &bytes).await;
        // By number: 16 has two names.
        assert_eq!(u16::from(message.metadata.response_code), u16::from(expected));
    }
    // Neither a response nor half a header gets an answer: the one that comes is that of the question after them.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for bytes in [response.to_vec().unwrap(), vec![1, 2, 3], good.to_vec().unwrap()] {
        socket.send_to(&bytes, server.address).await.unwrap();
    }
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    assert_eq!(ips(&Message::from_vec(&buffer[..length]).unwrap()), ["10.96.0.1"]);
}
