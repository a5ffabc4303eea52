//! Messages: what a client's is worth, and ours to it.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use crate::answer::Outcome;
use crate::index::Index;

/// What a datagram may hold without EDNS, and what we let it hold with: more may be lost in fragments.
const PLAIN_MAX: u16 = 512;
const DATAGRAM_MAX: u16 = 1232;
const HEADER: usize = 12;

/// How an answer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What is to be done with what a client sent.
#[derive(Debug)]
pub(crate) enum Received {
    /// Nothing: it is no question.
    Ignore,
    /// Sent back at once.
    Reply(Reply),
    /// Somebody else is to be asked; the request, whose answer is to be completed.
    Forward(Box<Request>),
}

/// An answer, and how much the client takes in a datagram.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) message: Message,
    pub(crate) client_max: u16,
}

/// A question that others answer.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) message: Message,
    pub(crate) question: Query,
    /// Where the question came about by an alias of ours: the record that says so.
    pub(crate) alias: Option<Record>,
}

/// Reads what a client sent and answers what the index can.
pub(crate) fn receive(index: &Index, bytes: &[u8]) -> Received {
    let Ok(message) = Message::from_vec(bytes) else { return malformed(bytes) };
    if message.metadata.message_type != MessageType::Query {
        return Received::Ignore;
    }
    let refuse = |code| sent_back(&message, reply(&message, code));
    if message.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    if message.version() > 0 {
        return refuse(ResponseCode::BADVERS);
    }
    let [question] = message.queries.as_slice() else { return refuse(ResponseCode::FormErr) };
    let transfer = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR);
    if question.query_class() != DNSClass::IN || transfer {
        return refuse(ResponseCode::Refused);
    }
    let question = question.clone();
    match index.answer(&question) {
        Outcome::NotOurs => Received::Forward(Box::new(Request { message, question, alias: None })),
        Outcome::Alias { cname, target } => resolve_alias(index, message, *cname, *target),
        outcome => sent_back(&message, complete(index, &message, outcome)),
    }
}

fn sent_back(request: &Message, message: Message) -> Received {
    Received::Reply(Reply { message, client_max: request.max_payload() })
}

/// An alias for one of our own names is answered at once; another needs others. One step only: a name of ours that is
/// an alias itself is left to the client.
fn resolve_alias(
    index: &Index,
    message: Message,
    cname: Record,
    target: hickory_proto::rr::Name,
) -> Received {
    let Some(question) = message.queries.first() else { return Received::Ignore };
    let question = Query::query(target, question.query_type());
    match index.answer(&question) {
        Outcome::NotOurs => {
            Received::Forward(Box::new(Request { message, question, alias: Some(cname) }))
        }
        Outcome::Records { mut answers, additionals } => {
            answers.insert(0, cname);
            let outcome = Outcome::Records { answers, additionals };
            sent_back(&message, complete(index, &message, outcome))
        }
        Outcome::NoData | Outcome::NoName | Outcome::Alias { .. } => {
            let outcome = Outcome::Records { answers: vec![cname], additionals: Vec::new() };
            sent_back(&message, complete(index, &message, outcome))
        }
    }
}

/// What has a header but no sense is told so.
fn malformed(bytes: &[u8]) -> Received {
    let (Some(&[high, low]), Some(flags)) = (bytes.first_chunk(), bytes.get(2)) else {
        return Received::Ignore;
    };
    if bytes.len() < HEADER || flags & 0x80 != 0 {
        return Received::Ignore;
    }
    let id = u16::from_be_bytes([high, low]);
    let message = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    Received::Reply(Reply { message, client_max: PLAIN_MAX })
}

/// An answer to `request` that says nothing yet.
pub(crate) fn reply(request: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.checking_disabled = request.metadata.checking_disabled;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.queries.clone_from(&request.queries);
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM_MAX);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        reply.set_edns(edns);
    }
    reply
}

fn complete(index: &Index, request: &Message, outcome: Outcome) -> Message {
    let mut message = reply(request, ResponseCode::NoError);
    message.metadata.authoritative = true;
    match outcome {
        Outcome::Records { answers, additionals } => {
            message.answers = answers;
            message.additionals = additionals;
        }
        Outcome::NoData => message.authorities.extend(index.soa()),
        Outcome::NoName => {
            message.metadata.response_code = ResponseCode::NXDomain;
            message.authorities.extend(index.soa());
        }
        Outcome::Alias { cname, .. } => message.answers.push(*cname),
        Outcome::NotOurs => message.metadata.response_code = ResponseCode::Refused,
    }
    message
}

/// The bytes of `message` for a client that takes `client_max` in a datagram; cut down to what fits, with the sign that it is.
pub(crate) fn encode(
    mut message: Message,
    client_max: u16,
    transport: Transport,
) -> Option<Vec<u8>> {
    let limit = match transport {
        Transport::Tcp => u16::MAX,
        Transport::Udp if message.edns.is_some() => client_max.clamp(PLAIN_MAX, DATAGRAM_MAX),
        Transport::Udp => PLAIN_MAX,
    };
    loop {
        let mut bytes = Vec::with_capacity(usize::from(PLAIN_MAX));
        let mut encoder = BinEncoder::new(&mut bytes);
        message.emit(&mut encoder).ok()?;
        if bytes.len() <= usize::from(limit) {
            return Some(bytes);
        }
        // Additional records are a kindness; without answers there is nothing left to leave out.
        if !message.additionals.is_empty() {
            message.additionals.clear();
        } else if message.answers.is_empty() && message.authorities.is_empty() {
            return None;
        } else {
            message.metadata.truncation = true;
            message.answers.truncate(message.answers.len() / 2);
            message.authorities.clear();
        }
    }
}
