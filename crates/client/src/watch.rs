//! A stream of watch events, decoded from the pieces of an answer.

use apimachinery::{Value, json};
use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use http::Method;

use crate::call::{Client, ListParams};
use crate::error::{ApiStatus, ClientError};
use crate::resource::Resource;
use crate::transport::ResponseStream;

/// The longest frame that is read, in bytes.
const MAX_FRAME_BYTES: usize = 16 << 20;

/// What happened to an object.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    /// It is new to this watch.
    Added(Value),
    /// It changed.
    Modified(Value),
    /// It is gone, or is not selected any more.
    Deleted(Value),
    /// Nothing happened up to this version; `initial_end` says that all there was has been told.
    Bookmark {
        /// The version.
        resource_version: String,
        /// Whether this ends the initial events.
        initial_end: bool,
    },
    /// The watch is over, for this reason.
    Error(Box<ApiStatus>),
}

/// A running watch.
pub struct Watch {
    stream: ResponseStream,
    buffer: BytesMut,
    ended: bool,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl Client {
    /// Watches a resource from a version on, with bookmarks; with everything there is first where `initial` says so.
    ///
    /// # Errors
    /// Not allowed, version too old, no answer.
    pub async fn watch(
        &self,
        resource: &Resource,
        namespace: &str,
        params: &ListParams,
        initial: bool,
    ) -> Result<Watch, ClientError> {
        let more =
            if initial { "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan" } else { "" };
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true{more}&{}",
            resource.path(namespace, "", ""),
            params.query()
        );
        let response = self.request(Method::GET, &path, "", Bytes::new()).await?;
        Ok(Watch { stream: response.into_body(), buffer: BytesMut::new(), ended: false })
    }
}

impl Watch {
    /// The next event; `None` when the server ended the watch.
    ///
    /// # Errors
    /// When the answer breaks off or cannot be read.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, ClientError> {
        loop {
            if let Some(end) = memchr_newline(&self.buffer) {
                let frame = self.buffer.split_to(end).freeze();
                self.buffer.advance(1);
                if frame.is_empty() {
                    continue;
                }
                return decode(&frame).map(Some);
            }
            if self.ended {
                return Ok(None);
            }
            match self.stream.next().await.transpose()? {
                Some(piece) => {
                    if self.buffer.len() + piece.len() > MAX_FRAME_BYTES {
                        return Err(ClientError::Decode(format!(
                            "a watch frame is larger than {MAX_FRAME_BYTES} bytes"
                        )));
                    }
                    self.buffer.extend_from_slice(&piece);
                }
                None => self.ended = true,
            }
        }
    }
}

fn memchr_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

fn decode(frame: &[u8]) -> Result<WatchEvent, ClientError> {
    let mut value = json::parse(frame).map_err(|error| ClientError::Decode(error.to_string()))?;
    let object = value.remove_at(&["object"]).unwrap_or_default();
    Ok(match value.str_at(&["type"]) {
        "ADDED" => WatchEvent::Added(object),
        "MODIFIED" => WatchEvent::Modified(object),
        "DELETED" => WatchEvent::Deleted(object),
        "BOOKMARK" => WatchEvent::Bookmark {
            resource_version: object.str_at(&["metadata", "resourceVersion"]).to_owned(),
            initial_end: object.str_at(&["metadata", "annotations", "k8s.io/initial-events-end"])
                == "true",
        },
        "ERROR" => {
            let code =
                object.i64_at(&["code"]).and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
            WatchEvent::Error(Box::new(ApiStatus {
                code,
                reason: object.str_at(&["reason"]).to_owned(),
                message: object.str_at(&["message"]).to_owned(),
                status: object,
            }))
        }
        other => return Err(ClientError::Decode(format!("unknown watch event {other:?}"))),
    })
}
