//! Questions about other names, put to the node's own nameservers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use component_base::Random;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::cache::Cache;
use crate::error::ForwardError;

/// How long one nameserver may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How many times a question is put, to one nameserver after the other.
const ATTEMPTS: usize = 3;
/// How many questions are out at once.
const IN_FLIGHT_MAX: usize = 1000;
/// What we take in one datagram.
const DATAGRAM: u16 = 1232;

/// The nameservers, and what they answered lately.
#[derive(Debug)]
pub(crate) struct Forwarder {
    upstreams: Vec<SocketAddr>,
    next: AtomicUsize,
    permits: Semaphore,
    cache: Cache,
    random: Arc<dyn Random>,
}

impl Forwarder {
    pub(crate) fn new(upstreams: Vec<SocketAddr>, random: Arc<dyn Random>) -> Self {
        Self {
            upstreams,
            next: AtomicUsize::new(0),
            permits: Semaphore::new(IN_FLIGHT_MAX),
            cache: Cache::new(),
            random,
        }
    }

    pub(crate) fn has_upstreams(&self) -> bool {
        !self.upstreams.is_empty()
    }

    /// The answer that is still known.
    pub(crate) fn cached(&self, question: &Query, dnssec: bool) -> Option<Message> {
        self.cache.get(question, dnssec, Instant::now())
    }

    /// Asks the nameservers one after the other, beginning with the next in turn.
    pub(crate) async fn ask(
        &self,
        question: &Query,
        dnssec: bool,
    ) -> Result<Message, ForwardError> {
        if let Some(message) = self.cached(question, dnssec) {
            return Ok(message);
        }
        let _permit = self.permits.acquire().await.map_err(|_| ForwardError::NoUpstream)?;
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut error = ForwardError::NoUpstream;
        for upstream in
            self.upstreams.iter().cycle().skip(first % self.upstreams.len().max(1)).take(ATTEMPTS)
        {
            match self.ask_one(*upstream, question, dnssec).await {
                Ok(message) => {
                    self.cache.put(question, dnssec, &message, Instant::now());
                    return Ok(message);
                }
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    async fn ask_one(
        &self,
        upstream: SocketAddr,
        question: &Query,
        dnssec: bool,
    ) -> Result<Message, ForwardError> {
        // Only low bits of a random number: all of them fit.
        let id = u16::try_from(self.random.next_u64() & 0xffff).unwrap_or_default();
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(question.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM);
        edns.set_dnssec_ok(dnssec);
        message.set_edns(edns);
        let bytes = message.to_vec().map_err(|_| ForwardError::Encode)?;
        let by_udp = within(upstream, udp(upstream, id, question, &bytes)).await?;
        if !by_udp.metadata.truncation {
            return Ok(by_udp);
        }
        within(upstream, tcp(upstream, id, question, &bytes)).await
    }
}

async fn within(
    upstream: SocketAddr,
    asking: impl Future<Output = io::Result<Message>>,
) -> Result<Message, ForwardError> {
    match timeout(TIMEOUT, asking).await {
        Err(_) => Err(ForwardError::Timeout(upstream)),
        Ok(Err(source)) if source.kind() == io::ErrorKind::InvalidData => {
            Err(ForwardError::Malformed(upstream))
        }
        Ok(Err(source)) => Err(ForwardError::Io { upstream, source }),
        Ok(Ok(message)) => Ok(message),
    }
}

/// Asks from a port of its own, connected: who would forge an answer has to guess port and number.
async fn udp(upstream: SocketAddr, id: u16, question: &Query, bytes: &[u8]) -> io::Result<Message> {
    let any = match upstream.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What is no answer to this question is not worth giving up for: the right one may follow.
        if let Some(message) = parse(&buffer[..length], id, question) {
            return Ok(message);
        }
    }
}

async fn tcp(upstream: SocketAddr, id: u16, question: &Query, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut framed = Vec::with_capacity(bytes.len() + 2);
    framed.extend(length.to_be_bytes());
    framed.extend(bytes);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    parse(&buffer, id, question).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse(bytes: &[u8], id: u16, question: &Query) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let metadata = &message.metadata;
    let ours = metadata.id == id && metadata.message_type == MessageType::Response;
    // A server that cannot read the question may leave it out of its error.
    let same = match message.queries.as_slice() {
        [echo] => echo == question,
        [] => message.answers.is_empty(),
        _ => false,
    };
    (ours && same).then_some(message)
}
