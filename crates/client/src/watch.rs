//! A stream of watch events: decoded from the pieces of an answer, or the server's own objects in the same process.

use std::sync::Arc;

use apimachinery::json;
use apimachinery::obj::Obj;
use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use http::Method;

use crate::call::{Client, ListParams};
use crate::error::{ApiStatus, ClientError};
use crate::resource::Resource;
use crate::transport::{Objects, ResponseStream};

/// The longest frame that is read, in bytes.
const MAX_FRAME_BYTES: usize = 16 << 20;

/// What happened to an object.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    /// It is new to this watch.
    Added(Arc<Obj>),
    /// It changed.
    Modified(Arc<Obj>),
    /// It is gone, or is not selected any more.
    Deleted(Arc<Obj>),
    /// Nothing happened up to this version; `initial_end` says that all there was has been told.
    Bookmark {
        /// The version.
        resource_version: u64,
        /// Whether this ends the initial events.
        initial_end: bool,
    },
    /// The watch is over, for this reason.
    Error(Box<ApiStatus>),
}

/// A running watch.
pub struct Watch(Source);

enum Source {
    Text { stream: ResponseStream, buffer: BytesMut, ended: bool },
    Objects(BoxStream<'static, WatchEvent>),
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Source::Text { buffer, .. } => {
                f.debug_struct("Watch").field("buffered", &buffer.len()).finish_non_exhaustive()
            }
            Source::Objects(_) => f.write_str("Watch(in process)"),
        }
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
        if let Some(events) = response.extensions().get::<Objects>().and_then(Objects::take) {
            return Ok(Watch(Source::Objects(events)));
        }
        let stream = response.into_body();
        Ok(Watch(Source::Text { stream, buffer: BytesMut::new(), ended: false }))
    }
}

impl Watch {
    /// The next event; `None` when the server ended the watch.
    ///
    /// # Errors
    /// When the answer breaks off or cannot be read.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, ClientError> {
        let (stream, buffer, ended) = match &mut self.0 {
            Source::Text { stream, buffer, ended } => (stream, buffer, ended),
            Source::Objects(events) => return Ok(events.next().await),
        };
        loop {
            if let Some(end) = memchr_newline(buffer) {
                let frame = buffer.split_to(end).freeze();
                buffer.advance(1);
                if frame.is_empty() {
                    continue;
                }
                return decode(&frame).map(Some);
            }
            if *ended {
                return Ok(None);
            }
            match stream.next().await.transpose()? {
                Some(piece) => {
                    if buffer.len() + piece.len() > MAX_FRAME_BYTES {
                        return Err(ClientError::Decode(format!(
                            "a watch frame is larger than {MAX_FRAME_BYTES} bytes"
                        )));
                    }
                    buffer.extend_from_slice(&piece);
                }
                None => *ended = true,
            }
        }
    }
}

fn memchr_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

fn decode(frame: &[u8]) -> Result<WatchEvent, ClientError> {
    let mut value = json::parse(frame).map_err(|error| ClientError::Decode(error.to_string()))?;
    let value_of_object = value.remove_at(&["object"]).unwrap_or_default();
    let object = || match Obj::of(&value_of_object) {
        Ok(object) => Ok(Arc::new(object)),
        Err(error) => Err(ClientError::Decode(error.to_string())),
    };
    Ok(match value.str_at(&["type"]) {
        "ADDED" => WatchEvent::Added(object()?),
        "MODIFIED" => WatchEvent::Modified(object()?),
        "DELETED" => WatchEvent::Deleted(object()?),
        "BOOKMARK" => WatchEvent::Bookmark {
            resource_version: value_of_object
                .str_at(&["metadata", "resourceVersion"])
                .parse()
                .unwrap_or_default(),
            initial_end: value_of_object.str_at(&[
                "metadata",
                "annotations",
                "k8s.io/initial-events-end",
            ]) == "true",
        },
        "ERROR" => WatchEvent::Error(Box::new(ApiStatus::of_value(value_of_object))),
        other => return Err(ClientError::Decode(format!("unknown watch event {other:?}"))),
    })
}
