//! Calls: one method a verb, over values or over Rust types.

use std::sync::Arc;

use apimachinery::obj::Obj;
use apimachinery::{Value, json};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ClientError;
use crate::resource::Resource;
use crate::transport::{ResponseStream, Transport, TransportError};

/// The most bytes of an answer that is read whole.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// A client of an API server, under one identity. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    user_agent: Arc<str>,
    in_brief: bool,
}

/// How a patch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902
    Json,
    /// RFC 7386
    Merge,
    /// Kubernetes' own, by list type and key.
    Strategic,
    /// Server-side apply, which takes fields from whoever has them.
    Apply {
        /// Who owns the fields.
        manager: &'static str,
    },
}

impl PatchKind {
    fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply { .. } => "application/apply-patch+yaml",
        }
    }
}

/// What a list may be narrowed by.
#[derive(Debug, Clone, Default)]
pub struct ListParams {
    /// `app=web,tier!=db`
    pub label_selector: String,
    /// `spec.nodeName=n1`
    pub field_selector: String,
    /// `""` for the newest state, `"0"` for whatever is at hand.
    pub resource_version: String,
}

/// How an object is deleted.
#[derive(Debug, Clone, Default)]
pub struct DeleteParams {
    /// Seconds; the object's own where it is not given.
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation: Option<&'static str>,
    /// Only this very object.
    pub uid: Option<String>,
    /// Only in this state.
    pub resource_version: Option<String>,
}

/// A list as it comes.
#[derive(Debug, Clone)]
pub struct List {
    /// The version it is of.
    pub resource_version: String,
    /// The objects, with kind and version put back.
    pub items: Vec<Value>,
}

impl Client {
    /// A client over this transport, which names itself so in its user agent.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>, user_agent: &str) -> Self {
        Self { transport, user_agent: user_agent.into(), in_brief: false }
    }

    /// The same client, whose answers to writes are read no further than who is meant: name, namespace, uid and resource
    /// version of the object's metadata.
    #[must_use]
    pub fn in_brief(&self) -> Self {
        Self { in_brief: true, ..self.clone() }
    }

    /// Sends any request; an answer of failure is an error.
    ///
    /// # Errors
    /// When there is no answer or one of failure.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Response<ResponseStream>, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(USER_AGENT, &*self.user_agent)
            .header(ACCEPT, "application/json");
        let request = if content_type.is_empty() {
            request
        } else {
            request.header(CONTENT_TYPE, content_type)
        };
        let request = request.body(body).map_err(|error| ClientError::Encode(error.to_string()))?;
        let response = self.transport.send(request).await?;
        let code = response.status().as_u16();
        if response.status().is_success() {
            return Ok(response);
        }
        let body = read_all(response.into_body()).await?;
        Err(ClientError::of_status(code, &body))
    }

    async fn bytes(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        let response = self.request(method, path, content_type, body).await?;
        Ok(read_all(response.into_body()).await?)
    }

    /// Sends any request and reads its answer as a value.
    ///
    /// # Errors
    /// When there is no answer, one of failure, or one that is not JSON.
    pub async fn value(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Value, ClientError> {
        let brief = self.in_brief && method != Method::GET;
        let bytes = self.bytes(method, path, content_type, body).await?;
        if brief && let Ok(object) = Obj::unindexed(bytes.clone(), 0) {
            return Ok(brief_of(&object));
        }
        json::parse(&bytes).map_err(|error| ClientError::Decode(error.to_string()))
    }

    /// Sends any request and reads its answer as a Rust type.
    ///
    /// # Errors
    /// When there is no answer, one of failure, or one that does not fit.
    pub async fn typed<K: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<K, ClientError> {
        let bytes = self.bytes(method, path, content_type, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Decode(error.to_string()))
    }

    /// Reads whatever lies at a path.
    ///
    /// # Errors
    /// Not found, not allowed, no answer.
    pub async fn read(&self, path: &str) -> Result<Value, ClientError> {
        self.value(Method::GET, path, "", Bytes::new()).await
    }

    /// Reads an object.
    ///
    /// # Errors
    /// Not found, not allowed, no answer.
    pub async fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Value, ClientError> {
        self.value(Method::GET, &resource.path(namespace, name, ""), "", Bytes::new()).await
    }

    /// Reads an object of a Rust type.
    ///
    /// # Errors
    /// Not found, not allowed, no answer.
    pub async fn get_as<K: DeserializeOwned + k8s_openapi::Resource>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<K, ClientError> {
        self.typed(Method::GET, &Resource::of::<K>().path(namespace, name, ""), "", Bytes::new())
            .await
    }

    /// Reads all objects of a namespace (of all, where it is empty).
    ///
    /// # Errors
    /// Not allowed, no answer.
    pub async fn list(
        &self,
        resource: &Resource,
        namespace: &str,
        params: &ListParams,
    ) -> Result<List, ClientError> {
        let path = format!("{}?{}", resource.path(namespace, "", ""), params.query());
        let mut list = self.value(Method::GET, &path, "", Bytes::new()).await?;
        let resource_version = list.str_at(&["metadata", "resourceVersion"]).to_owned();
        let items = list.remove_at(&["items"]).unwrap_or_default();
        let Value::Array(mut items) = items else {
            return Ok(List { resource_version, items: Vec::new() });
        };
        let version = resource.api_version();
        for item in &mut items {
            item.set_at(&["apiVersion"], version.as_str());
            item.set_at(&["kind"], resource.kind.as_str());
        }
        Ok(List { resource_version, items })
    }

    /// Creates an object.
    ///
    /// # Errors
    /// Exists, not valid, not allowed, no answer.
    pub async fn create(
        &self,
        resource: &Resource,
        namespace: &str,
        object: &Value,
    ) -> Result<Value, ClientError> {
        let path = resource.path(namespace, "", "");
        self.value(Method::POST, &path, "application/json", json::to_vec(object).into()).await
    }

    /// Creates an object of a Rust type.
    ///
    /// # Errors
    /// Exists, not valid, not allowed, no answer.
    pub async fn create_as<K>(&self, namespace: &str, object: &K) -> Result<K, ClientError>
    where
        K: Serialize + DeserializeOwned + k8s_openapi::Resource,
    {
        let path = Resource::of::<K>().path(namespace, "", "");
        self.typed(Method::POST, &path, "application/json", encode(object)?).await
    }

    /// Creates something below an object: a binding, an eviction, a token.
    ///
    /// # Errors
    /// Not found, not valid, not allowed, no answer.
    pub async fn create_subresource(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &Value,
    ) -> Result<Value, ClientError> {
        let path = resource.path(namespace, name, subresource);
        self.value(Method::POST, &path, "application/json", json::to_vec(object).into()).await
    }

    /// Replaces an object, or the part of it that a subresource is (`""` for the object).
    ///
    /// # Errors
    /// Not found, changed meanwhile, not valid, not allowed, no answer.
    pub async fn update(
        &self,
        resource: &Resource,
        subresource: &str,
        object: &Value,
    ) -> Result<Value, ClientError> {
        let (namespace, name) =
            (object.str_at(&["metadata", "namespace"]), object.str_at(&["metadata", "name"]));
        let path = resource.path(namespace, name, subresource);
        self.value(Method::PUT, &path, "application/json", json::to_vec(object).into()).await
    }

    /// Replaces an object of a Rust type, or a part of it.
    ///
    /// # Errors
    /// Not found, changed meanwhile, not valid, not allowed, no answer.
    pub async fn update_as<K>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &K,
    ) -> Result<K, ClientError>
    where
        K: Serialize + DeserializeOwned + k8s_openapi::Resource,
    {
        let path = Resource::of::<K>().path(namespace, name, subresource);
        self.typed(Method::PUT, &path, "application/json", encode(object)?).await
    }

    /// Changes an object, or a part of it.
    ///
    /// # Errors
    /// Not found, not valid, not allowed, no answer.
    pub async fn patch(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        kind: PatchKind,
        patch: &Value,
    ) -> Result<Value, ClientError> {
        let mut path = resource.path(namespace, name, subresource);
        if let PatchKind::Apply { manager } = kind {
            path.push_str("?force=true&fieldManager=");
            path.push_str(manager);
        }
        self.value(Method::PATCH, &path, kind.media_type(), json::to_vec(patch).into()).await
    }

    /// Deletes every object of a namespace.
    ///
    /// # Errors
    /// Not allowed, no answer.
    pub async fn delete_collection(
        &self,
        resource: &Resource,
        namespace: &str,
    ) -> Result<Value, ClientError> {
        let path = resource.path(namespace, "", "");
        self.value(
            Method::DELETE,
            &path,
            "application/json",
            json::to_vec(&DeleteParams::default().to_value()).into(),
        )
        .await
    }

    /// Deletes an object; what the server answers comes back.
    ///
    /// # Errors
    /// Not found, not in that state, not allowed, no answer.
    pub async fn delete(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        params: &DeleteParams,
    ) -> Result<Value, ClientError> {
        let path = resource.path(namespace, name, "");
        self.value(
            Method::DELETE,
            &path,
            "application/json",
            json::to_vec(&params.to_value()).into(),
        )
        .await
    }
}

/// An object as far as it says which one it is.
fn brief_of(object: &Obj) -> Value {
    let mut brief = Value::object();
    for member in ["name", "namespace", "resourceVersion", "uid"] {
        let value = object.metadata_text(member).and_then(|it| json::parse(it).ok());
        if let Some(value) = value {
            brief.set_at(&["metadata", member], value);
        }
    }
    brief
}

fn encode<K: Serialize>(object: &K) -> Result<Bytes, ClientError> {
    serde_json::to_vec(object)
        .map(Bytes::from)
        .map_err(|error| ClientError::Encode(error.to_string()))
}

/// All bytes of an answer.
///
/// # Errors
/// When it breaks off, or is larger than any list should be.
pub async fn read_all(mut stream: ResponseStream) -> Result<Bytes, TransportError> {
    let Some(first) = stream.next().await.transpose()? else { return Ok(Bytes::new()) };
    let Some(second) = stream.next().await.transpose()? else { return Ok(first) };
    let mut all = BytesMut::from(first.as_ref());
    all.extend_from_slice(&second);
    while let Some(piece) = stream.next().await.transpose()? {
        all.extend_from_slice(&piece);
        if all.len() > MAX_ANSWER_BYTES {
            return Err(TransportError::Body(format!(
                "it is larger than {MAX_ANSWER_BYTES} bytes"
            )));
        }
    }
    Ok(all.freeze())
}

impl ListParams {
    pub(crate) fn query(&self) -> String {
        let pairs = [
            ("labelSelector", &self.label_selector),
            ("fieldSelector", &self.field_selector),
            ("resourceVersion", &self.resource_version),
        ];
        let pairs = pairs.iter().filter(|(_, value)| !value.is_empty());
        let pairs = pairs.map(|(name, value)| {
            format!(
                "{name}={}",
                percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC)
            )
        });
        pairs.collect::<Vec<_>>().join("&")
    }
}

impl DeleteParams {
    fn to_value(&self) -> Value {
        let mut options = apimachinery::value!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(seconds) = self.grace_period_seconds {
            options.set_at(&["gracePeriodSeconds"], seconds);
        }
        if let Some(policy) = self.propagation {
            options.set_at(&["propagationPolicy"], policy);
        }
        if let Some(uid) = &self.uid {
            options.set_at(&["preconditions", "uid"], uid.as_str());
        }
        if let Some(version) = &self.resource_version {
            options.set_at(&["preconditions", "resourceVersion"], version.as_str());
        }
        options
    }
}
