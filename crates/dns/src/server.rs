//! Sockets: UDP questions answered by a few tasks each, TCP by one task a connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use component_base::{Random, ShutdownSignal};
use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::forward::Forwarder;
use crate::index::Index;
use crate::message::{Received, Reply, Request, Transport, encode, receive, reply};
use crate::{Config, DnsError};

/// The largest question that is read; a real one is below 300 bytes.
const QUESTION_MAX: usize = 4096;
/// How many UDP questions wait for others' answers at once; further ones are told to try again.
const WAITING_MAX: usize = 4096;
/// How many TCP connections are open at once; further ones wait in the backlog.
const CONNECTIONS_MAX: usize = 512;
/// How long a TCP connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// How often any free port is tried, until one is free for both transports.
const PORT_ATTEMPTS: u32 = 16;
/// How long nothing is accepted after the machine had no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The DNS server, listening.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    udp: Vec<Arc<UdpSocket>>,
    tcp: Vec<TcpListener>,
    workers: usize,
}

#[derive(Debug)]
struct Shared {
    index: Arc<Index>,
    forwarder: Forwarder,
    waiting: Arc<Semaphore>,
}

impl Server {
    /// Listens, so that questions wait from now on; answers begin with [`Server::run`].
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub async fn bind(
        config: &Config,
        index: Arc<Index>,
        random: Arc<dyn Random>,
    ) -> Result<Self, DnsError> {
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for address in &config.listen {
            let (socket, listener) = bind_both(*address).await?;
            udp.push(Arc::new(socket));
            tcp.push(listener);
        }
        let forwarder = Forwarder::new(config.others(), random);
        let waiting = Arc::new(Semaphore::new(WAITING_MAX));
        let shared = Arc::new(Shared { index, forwarder, waiting });
        Ok(Self { shared, udp, tcp, workers: config.workers.max(1) })
    }

    /// The addresses it listens on.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.udp.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Answers until the stop is asked for.
    pub async fn run(self, stop: ShutdownSignal) {
        let mut tasks = JoinSet::new();
        for socket in &self.udp {
            for _ in 0..self.workers {
                tasks.spawn(serve_udp(Arc::clone(&self.shared), Arc::clone(socket)));
            }
        }
        for listener in self.tcp {
            tasks.spawn(serve_tcp(Arc::clone(&self.shared), listener));
        }
        stop.requested().await;
        tasks.shutdown().await;
    }
}

/// One port for both transports. A port of 0 is any that is free for both.
async fn bind_both(address: SocketAddr) -> Result<(UdpSocket, TcpListener), DnsError> {
    let failed = |transport| move |source| DnsError::Bind { transport, address, source };
    let mut attempt = 1;
    loop {
        let socket = UdpSocket::bind(address).await.map_err(failed("UDP"))?;
        let bound = socket.local_addr().map_err(failed("UDP"))?;
        match TcpListener::bind(bound).await {
            Ok(listener) => return Ok((socket, listener)),
            Err(_) if address.port() == 0 && attempt < PORT_ATTEMPTS => attempt += 1,
            Err(source) => return Err(failed("TCP")(source)),
        }
    }
}

async fn serve_udp(shared: Arc<Shared>, socket: Arc<UdpSocket>) {
    let mut buffer = [0; QUESTION_MAX];
    loop {
        // An error here is the echo of an earlier answer that could not be delivered.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        match receive(&shared.index, &buffer[..length]) {
            Received::Ignore => {}
            Received::Reply(reply) => send(&socket, client, reply).await,
            Received::Forward(request) => forward_udp(&shared, &socket, client, request).await,
        }
    }
}

async fn send(socket: &UdpSocket, client: SocketAddr, reply: Reply) {
    if let Some(bytes) = encode(reply.message, reply.client_max, Transport::Udp) {
        // A client that is gone does not need its answer.
        let _ = socket.send_to(&bytes, client).await;
    }
}

async fn forward_udp(
    shared: &Arc<Shared>,
    socket: &Arc<UdpSocket>,
    client: SocketAddr,
    request: Box<Request>,
) {
    let client_max = request.message.max_payload();
    let dnssec = wants_dnssec(&request.message);
    if let Some(answer) = shared.forwarder.cached(&request.question, dnssec) {
        return send(socket, client, Reply { message: merge(&request, answer), client_max }).await;
    }
    let Ok(permit) = Arc::clone(&shared.waiting).try_acquire_owned() else {
        let message = reply(&request.message, ResponseCode::ServFail);
        return send(socket, client, Reply { message, client_max }).await;
    };
    let (shared, socket) = (Arc::clone(shared), Arc::clone(socket));
    tokio::spawn(async move {
        let _permit = permit;
        let message = forward(&shared, &request).await;
        send(&socket, client, Reply { message, client_max }).await;
    });
}

fn wants_dnssec(message: &Message) -> bool {
    message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
}

async fn forward(shared: &Shared, request: &Request) -> Message {
    if !shared.forwarder.has_upstreams() {
        return match &request.alias {
            Some(_) => merge(request, reply(&request.message, ResponseCode::NoError)),
            None => reply(&request.message, ResponseCode::Refused),
        };
    }
    let dnssec = wants_dnssec(&request.message);
    match shared.forwarder.ask(&request.question, dnssec).await {
        Ok(answer) => merge(request, answer),
        Err(error) => {
            let name = request.question.name();
            tracing::debug!(error = &error as &dyn std::error::Error, %name, "could not resolve");
            match &request.alias {
                Some(_) => merge(request, reply(&request.message, ResponseCode::NoError)),
                None => reply(&request.message, ResponseCode::ServFail),
            }
        }
    }
}

/// What others answered, as our answer to the client's own question.
fn merge(request: &Request, answer: Message) -> Message {
    let mut message = reply(&request.message, answer.metadata.response_code);
    message.metadata.authentic_data = answer.metadata.authentic_data;
    message.answers = request.alias.iter().cloned().chain(answer.answers).collect();
    message.authorities = answer.authorities;
    message.additionals = answer.additionals;
    message
}

async fn serve_tcp(shared: Arc<Shared>, listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let _permit = permit;
            // A client that goes away ends its connection; nobody else is concerned.
            let _ = converse(&shared, stream).await;
        });
    }
}

async fn converse(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let question = timeout(IDLE, read(&mut stream)).await.map_err(io::Error::from)??;
        let message = match receive(&shared.index, &question) {
            Received::Ignore => return Ok(()),
            Received::Reply(reply) => reply.message,
            Received::Forward(request) => forward(shared, &request).await,
        };
        let Some(bytes) = encode(message, u16::MAX, Transport::Tcp) else { return Ok(()) };
        let Ok(length) = u16::try_from(bytes.len()) else { return Ok(()) };
        let framed = [&length.to_be_bytes()[..], &bytes].concat();
        timeout(IDLE, stream.write_all(&framed)).await.map_err(io::Error::from)??;
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > QUESTION_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut question = vec![0; length];
    stream.read_exact(&mut question).await?;
    Ok(question)
}
