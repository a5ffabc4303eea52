//! The ports of nodes that are taken, as upstream's servers keep them: one object with a bit for each port, which the
//! store lets only one change at a time. Upstream: `pkg/registry/core/service/allocator`.
//!
//! It decides where other servers share the store. Where none does, [`super::repair`] alone writes it, for who may come.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use apimachinery::protobuf::{self, Reader, WireValue, write_bytes, write_len};
use apimachinery::schema::NodeId;
use apimachinery::{Status, Value, json, obj, value};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use storage::{At, Expect, Key, Kv, Rev, StorageError};

use super::ports::{self, Change, Planning, Ports, Source};
use crate::{Server, error, proto};

/// Its kind.
pub(crate) const KIND: &str = "RangeAllocation";
/// Where it is.
pub(super) const KEY: &str = "/registry/ranges/servicenodeports";
/// How often others may be faster.
const TRIES: usize = 50;

/// Which ports are taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bitmap(pub(super) BTreeSet<u16>);

/// The bitmap as the store has it.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) bitmap: Bitmap,
    /// Where it was written; nowhere, where it is not there yet.
    revision: Option<Rev>,
}

impl Bitmap {
    /// The object: bits from the range's first port on, as one big-endian number.
    fn to_value(&self, range: &RangeInclusive<u16>) -> Value {
        let offsets = self.0.iter().filter_map(|it| it.checked_sub(*range.start()));
        let mut bytes: Vec<u8> = Vec::new();
        for offset in offsets.map(usize::from) {
            let (byte, bit) = (offset / 8, offset % 8);
            bytes.resize(bytes.len().max(byte + 1), 0);
            bytes[byte] |= 1 << bit;
        }
        bytes.reverse();
        let span = span(range);
        value!({"kind": KIND, "apiVersion": "v1", "metadata": {}, "range": (span.as_str()),
            "data": (STANDARD.encode(bytes))})
    }

    /// # Errors
    /// Where it is of another range, or none at all.
    fn of_value(object: &Value, range: &RangeInclusive<u16>) -> Result<Self, String> {
        let (of, span) = (object.str_at(&["range"]), span(range));
        if of != span {
            return Err(format!(
                "the provided port range does not match the current port range: {of} instead of {span}"
            ));
        }
        let bytes = STANDARD.decode(object.str_at(&["data"])).map_err(|error| error.to_string())?;
        let mut ports = BTreeSet::new();
        for (index, byte) in bytes.iter().rev().enumerate() {
            let bits = (0..8_usize).filter(|bit| byte & (1 << bit) != 0);
            let offsets = bits.filter_map(|bit| u16::try_from(index * 8 + bit).ok());
            ports.extend(offsets.filter_map(|it| range.start().checked_add(it)));
        }
        Ok(Self(ports))
    }
}

fn span(range: &RangeInclusive<u16>) -> String {
    format!("{}-{}", range.start(), range.end())
}

impl Stored {
    /// Whether it is in the store at all.
    pub(super) fn is_written(&self) -> bool {
        self.revision.is_some()
    }

    fn of(kv: &Kv, range: &RangeInclusive<u16>) -> Result<Self, String> {
        kv.readable().map_err(|error| error.to_string())?;
        let object = json::parse(&kv.value).map_err(|error| error.to_string())?;
        let bitmap = Bitmap::of_value(&object, range)?;
        Ok(Self { bitmap, revision: Some(kv.mod_rev) })
    }
}

/// The bitmap as it is now.
///
/// # Errors
/// Where the store does not answer. What cannot be read counts as nothing and is written anew by whoever repairs.
pub(super) async fn read(server: &Server) -> Result<Stored, StorageError> {
    let (kv, _) = server.hub().store().get(&Key::from(KEY), At::Latest).await?;
    Ok(kv.map_or(Stored { bitmap: Bitmap::default(), revision: None }, |kv| found(server, &kv)))
}

fn found(server: &Server, kv: &Kv) -> Stored {
    Stored::of(kv, &server.allocator.node_ports).unwrap_or_else(|why| {
        tracing::warn!(why, "the bitmap of node ports is made anew");
        Stored { bitmap: Bitmap::default(), revision: Some(kv.mod_rev) }
    })
}

/// What became of a write.
pub(super) enum Written {
    Done(Stored),
    /// Somebody else was faster: this is there now.
    Late(Stored),
}

/// Replaces the bitmap where it is still `stored`.
pub(super) async fn write(
    server: &Server,
    stored: &Stored,
    bitmap: Bitmap,
) -> Result<Written, StorageError> {
    let expect = stored.revision.map_or(Expect::Absent, Expect::ModRev);
    let value = obj::encode(&bitmap.to_value(&server.allocator.node_ports));
    match server.hub().store().put(Key::from(KEY), value.into(), expect, None).await {
        Ok(put) => Ok(Written::Done(Stored { bitmap, revision: Some(put.rev) })),
        Err(StorageError::Conflict { current } | StorageError::Exists { current }) => {
            Ok(Written::Late(found(server, &current)))
        }
        Err(StorageError::NotFound { .. }) => {
            Ok(Written::Late(Stored { bitmap: Bitmap::default(), revision: None }))
        }
        Err(error) => Err(error),
    }
}

struct Bits<'b> {
    server: &'b Server,
    bitmap: Bitmap,
}

impl Source for Bits<'_> {
    fn has(&self, port: u16) -> bool {
        self.bitmap.0.contains(&port)
    }

    fn take(&mut self, port: u16) {
        self.bitmap.0.insert(port);
    }

    fn give_back(&mut self, port: u16) {
        self.bitmap.0.remove(&port);
    }

    fn any(&mut self) -> Option<u16> {
        let range = &self.server.allocator.node_ports;
        let port = ports::pick(self.server.random.as_ref(), range, |it| !self.has(it))?;
        self.take(port);
        Some(port)
    }
}

/// Reserves the ports that a service needs among all servers, and writes them into it.
pub(super) async fn reserve(
    server: &Arc<Server>,
    change: &Change<'_>,
    service: &mut Value,
) -> Result<Ports, Status> {
    let allocator = &server.allocator;
    let mut known = allocator.bitmap.lock().await;
    // What this server has seen last may be old: who is refused by it looks again.
    let mut is_fresh = known.is_none();
    let mut stored = match known.take() {
        Some(stored) => stored,
        None => read(server).await.map_err(|failed| error::general(&failed))?,
    };
    for _ in 0..TRIES {
        let mut tried = service.clone();
        let mut bits = Bits { server, bitmap: stored.bitmap.clone() };
        let planning = Planning::new(&mut bits, &allocator.node_ports, &allocator.metrics);
        let ports = match planning.run(change, &mut tried) {
            Ok(ports) => ports,
            Err(_) if !is_fresh => {
                stored = read(server).await.map_err(|failed| error::general(&failed))?;
                is_fresh = true;
                continue;
            }
            Err(status) => {
                *known = Some(stored);
                return Err(status);
            }
        };
        if ports.reserved.is_empty() {
            *known = Some(stored);
            *service = tried;
            return Ok(ports);
        }
        let bitmap = bits.bitmap;
        match write(server, &stored, bitmap).await.map_err(|failed| error::general(&failed))? {
            Written::Done(now) => {
                *known = Some(now);
                *service = tried;
                return Ok(ports);
            }
            Written::Late(now) => {
                stored = now;
                is_fresh = true;
            }
        }
    }
    Err(Status::internal(
        "failed to allocate a nodePort: other servers change the ports all the time",
    ))
}

/// Takes ports out of the bitmap.
pub(super) async fn clear(server: &Arc<Server>, ports: &[u16]) {
    if ports.is_empty() || !server.shares_store {
        return;
    }
    let mut known = server.allocator.bitmap.lock().await;
    // Another server may have given them: what this one has seen last does not tell.
    *known = None;
    for _ in 0..TRIES {
        let stored = match known.take() {
            Some(stored) => stored,
            None => match read(server).await {
                Ok(stored) => stored,
                Err(_) => break,
            },
        };
        let mut bitmap = stored.bitmap.clone();
        ports.iter().for_each(|it| {
            bitmap.0.remove(it);
        });
        if bitmap == stored.bitmap {
            *known = Some(stored);
            return;
        }
        match write(server, &stored, bitmap).await {
            Ok(Written::Done(now)) => {
                *known = Some(now);
                return;
            }
            Ok(Written::Late(now)) => *known = Some(now),
            Err(_) => break,
        }
    }
    tracing::debug!(?ports, "ports of a service stay taken until somebody looks");
}

fn metadata() -> Option<NodeId> {
    api::type_of_definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
}

/// The message of the object, with its envelope: no other kind without an API of its own is stored.
pub(crate) fn to_protobuf(object: &Value) -> Option<Vec<u8>> {
    let node = metadata()?;
    let data = STANDARD.decode(object.str_at(&["data"])).ok()?;
    let mut out = Vec::new();
    protobuf::wrap("v1", KIND, &mut out, |out| {
        let of = object.get("metadata").unwrap_or(&Value::Null);
        write_len(1, out, |out| proto::write_message(node, of, out));
        write_bytes(2, object.str_at(&["range"]).as_bytes(), out);
        write_bytes(3, &data, out);
    });
    Some(out)
}

/// The object of a message, where it is one.
pub(crate) fn from_protobuf(message: &[u8]) -> Option<Value> {
    let envelope = protobuf::unwrap(message).ok()?;
    if (envelope.api_version.as_str(), envelope.kind.as_str()) != ("v1", KIND) {
        return None;
    }
    let mut object = value!({"kind": KIND, "apiVersion": "v1", "metadata": {}});
    let mut reader = Reader::new(envelope.raw);
    while let Some((number, field)) = reader.field().ok()? {
        match (number, field) {
            (1, WireValue::Bytes(bytes)) => {
                let of = protobuf::decode(api::schema(), api::protobuf_tags(), metadata()?, bytes);
                object.set_at(&["metadata"], of.ok()?);
            }
            (2, WireValue::Bytes(bytes)) => {
                object.set_at(&["range"], std::str::from_utf8(bytes).ok()?);
            }
            (3, WireValue::Bytes(bytes)) => object.set_at(&["data"], STANDARD.encode(bytes)),
            _ => {}
        }
    }
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_one_big_endian_number() {
        let range = 30000..=32767;
        for (ports, data) in [
            (vec![], ""),
            (vec![30000], "AQ=="),
            (vec![30000, 30001], "Aw=="),
            (vec![30000, 30009], "AgE="),
        ] {
            let bitmap = Bitmap(ports.into_iter().collect());
            let object = bitmap.to_value(&range);
            assert_eq!(object.str_at(&["data"]), data);
            assert_eq!(object.str_at(&["range"]), "30000-32767");
            assert_eq!(Bitmap::of_value(&object, &range), Ok(bitmap));
        }
        let other = Bitmap::default().to_value(&(1..=2));
        assert!(
            Bitmap::of_value(&other, &range).unwrap_err().contains("1-2 instead of 30000-32767")
        );
    }

    /// Written and read as upstream's servers do.
    #[test]
    fn the_object_is_upstreams_byte_for_byte() {
        let golden = |end: &str| {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/reference/api-golden");
            std::fs::read(format!("{path}/core.v1.RangeAllocation.{end}"))
        };
        let (Ok(text), Ok(message)) = (golden("json"), golden("pb")) else {
            eprintln!("skipped: there is no api-golden");
            return;
        };
        let object = json::parse(&text).unwrap();
        assert_eq!(to_protobuf(&object), Some(message.clone()));
        assert_eq!(from_protobuf(&message), Some(object));
    }
}
