//! A request on its way through the filters and its handler, with what they find out about it.

use std::num::NonZeroU64;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use apimachinery::Status;
use auth::UserInfo;
use bytes::{Bytes, BytesMut};
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::audited::Audited;
use crate::body::{BodyError, Incoming};
use crate::fairness::{Schema, Seat};
use crate::memory::Charge;
use crate::metrics::{Ended, Held};
use crate::query::Query;
use crate::request::RequestInfo;
use crate::{MAX_BODY_BYTES, Peer};

/// How long the body of a request may take to arrive (upstream: `RequestTimeout`).
const MAX_BODY_TIME: Duration = Duration::from_secs(60);

/// The header by which a request and its answer are told from others.
pub(crate) const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// The body of a request.
#[derive(Debug)]
pub enum RequestBody {
    /// All of it, from a client in the process.
    Bytes(Bytes),
    /// From a socket.
    Incoming(Incoming),
}

/// A request, and what is known of it so far.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) parts: Parts,
    pub(crate) query: Query,
    pub(crate) info: Arc<RequestInfo>,
    pub(crate) peer: Peer,
    pub(crate) user: Arc<UserInfo>,
    /// What the audit log and the answer call it.
    pub(crate) audit_id: HeaderValue,
    /// The resource it is about, once that is known.
    pub(crate) facts: Option<&'static api::ResourceFacts>,
    /// Whether the object of the request came with labels, before it had any by default.
    pub(crate) labelled: bool,
    /// What to tell the client besides the answer.
    pub(crate) warnings: Vec<String>,
    /// What to tell the audit.
    pub(crate) annotations: admission::Annotations,
    /// The request as it is recorded, where it is.
    pub(crate) audit: Option<Arc<Audited>>,
    /// A status that is the answer of a success.
    pub(crate) told: Option<Box<Status>>,
    /// The flow that it is of, once that is known.
    pub(crate) flow: Option<Arc<Schema>>,
    /// The seats that it holds.
    pub(crate) seat: Seat,
    /// It found no place among the requests in flight.
    pub(crate) turned_away: bool,
    /// The server reads and writes CBOR.
    pub(crate) cbor: bool,
    /// It is about a custom resource, of which upstream's router knows nothing.
    pub(crate) unrouted: bool,
    /// What it may cost of the server's memory, where there is a budget.
    pub(crate) charge: Option<Arc<Charge>>,
    /// It is carried out also where the server is short of memory.
    pub(crate) is_exempt: bool,
    /// How long it waited for seats and for webhooks.
    pub(crate) waited: Duration,
    /// How many bytes its body had, once that is read.
    pub(crate) body_bytes: Option<usize>,
    /// It was ended before it was done.
    pub(crate) ended: Option<Ended>,
    /// Counts it as long as it lasts, where it becomes a stream.
    pub(crate) lasting: Option<Held>,
    /// How many bytes a second each direction carries, where it becomes a stream.
    pub(crate) bytes_per_second: Option<NonZeroU64>,
}

/// Who asks, until that is known.
static NOBODY: LazyLock<Arc<UserInfo>> = LazyLock::new(|| Arc::new(UserInfo::anonymous()));

impl Exchange {
    pub(crate) fn new(parts: Parts, peer: Peer) -> Self {
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let info = RequestInfo::of(&parts.method, &parts.uri, &query);
        Self {
            parts,
            query,
            info: Arc::new(info),
            peer,
            user: Arc::clone(&NOBODY),
            audit_id: HeaderValue::from_static(""),
            facts: None,
            labelled: false,
            warnings: Vec::new(),
            annotations: admission::Annotations::new(),
            audit: None,
            told: None,
            flow: None,
            seat: Seat::default(),
            turned_away: false,
            cbor: false,
            unrouted: false,
            charge: None,
            is_exempt: false,
            waited: Duration::ZERO,
            body_bytes: None,
            ended: None,
            lasting: None,
            bytes_per_second: None,
        }
    }

    /// All bytes of the body, which are counted.
    ///
    /// # Errors
    /// Those of [`RequestBody::read`].
    pub(crate) async fn read(&mut self, body: RequestBody) -> Result<Bytes, Status> {
        let bytes = body.read().await?;
        self.body_bytes = Some(bytes.len());
        Ok(bytes)
    }

    /// The value of a header that is text.
    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> &str {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// What the audit log calls it.
    pub(crate) fn audit_id(&self) -> &str {
        self.audit_id.to_str().unwrap_or_default()
    }

    /// What managed fields call the client: `fieldManager`, or the first word of its user agent.
    pub(crate) fn field_manager(&self) -> String {
        match self.query.get("fieldManager") {
            Some(name) if !name.is_empty() => name.into(),
            _ => manager_of_agent(self.header(http::header::USER_AGENT)),
        }
    }
}

/// Upstream takes the user agent up to the first slash, printable characters only, 128 bytes at most.
fn manager_of_agent(agent: &str) -> String {
    let name = agent.split('/').next().unwrap_or_default();
    let mut manager = String::new();
    for c in name.chars().filter(|c| !c.is_control()) {
        if manager.len() + c.len_utf8() > 128 {
            break;
        }
        manager.push(c);
    }
    if manager.is_empty() { "unknown".into() } else { manager }
}

impl RequestBody {
    /// The body, whose bytes are charged as they come, and what becomes of them once all have.
    ///
    /// # Errors
    /// 429 where it is at hand and there is no room for what becomes of it.
    pub(crate) fn charged(self, charge: Option<&Arc<Charge>>) -> Result<Self, Status> {
        match (self, charge) {
            (Self::Bytes(bytes), Some(charge)) => {
                charge.of_body(bytes.len())?;
                Ok(Self::Bytes(bytes))
            }
            (Self::Incoming(incoming), Some(charge)) => {
                Ok(Self::Incoming(incoming.charged(Arc::clone(charge))))
            }
            (body, None) => Ok(body),
        }
    }

    /// All bytes, up to the limit.
    ///
    /// # Errors
    /// 413 beyond the limit, 504 when it takes too long, 400 when the client breaks off.
    pub(crate) async fn read(self) -> Result<Bytes, Status> {
        let too_large =
            || Status::too_large(format!("Request entity too large: limit is {MAX_BODY_BYTES}"));
        match self {
            Self::Bytes(bytes) if bytes.len() > MAX_BODY_BYTES => Err(too_large()),
            Self::Bytes(bytes) => Ok(bytes),
            Self::Incoming(mut incoming) => {
                let charge = incoming.take_charge();
                let body = whole(incoming, charge.as_deref());
                let Ok(body) = tokio::time::timeout(MAX_BODY_TIME, body).await else {
                    let what = "Timeout: request did not complete within the allotted timeout";
                    return Err(Status::timeout(what, 0));
                };
                match body? {
                    Ok(bytes) => {
                        if let Some(charge) = &charge {
                            charge.of_body(bytes.len())?;
                        }
                        Ok(bytes)
                    }
                    Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
                    Err(error) => Err(Status::bad_request(format!(
                        "could not read the request's body: {error}"
                    ))),
                }
            }
        }
    }
}

/// A body until its end; each part is charged as it comes.
async fn whole(
    incoming: Incoming,
    charge: Option<&Charge>,
) -> Result<Result<Bytes, BodyError>, Status> {
    let mut body = Limited::new(incoming, MAX_BODY_BYTES);
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let data = match frame {
            Ok(frame) => frame.into_data().unwrap_or_default(),
            Err(error) => return Ok(Err(error)),
        };
        if let Some(charge) = charge {
            charge.hold(data.len() as u64)?;
        }
        if first.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(Ok(if rest.is_empty() { first } else { rest.freeze() }))
}
