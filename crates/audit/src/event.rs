//! What is recorded of a request at a stage: `audit.k8s.io/v1` events, and how they are written.

use std::collections::BTreeMap;

use apimachinery::{Status, json, time};
use bytes::Bytes;
use jiff::Timestamp;

use crate::policy::{Level, Stage};

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// `system:node:n1`, `jane`
    pub name: String,
    /// Unique over time, where it is known.
    pub uid: String,
    /// Their groups.
    pub groups: Vec<String>,
    /// What the authenticator adds.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What a request is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectRef {
    /// The plural name.
    pub resource: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which of that name.
    pub uid: String,
    /// The group; empty for the core one.
    pub api_group: String,
    /// The version that was asked for.
    pub api_version: String,
    /// The version of the object that the request names.
    pub resource_version: String,
    /// Empty for the object itself.
    pub subresource: String,
}

/// A request at a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// How much is recorded.
    pub level: Level,
    /// The same at every stage of a request.
    pub audit_id: String,
    /// When.
    pub stage: Stage,
    /// Path and query.
    pub request_uri: String,
    /// What is done.
    pub verb: String,
    /// Who asks.
    pub user: User,
    /// For whom.
    pub impersonated_user: Option<User>,
    /// From where, proxies included.
    pub source_ips: Vec<String>,
    /// What the client calls itself.
    pub user_agent: String,
    /// What it is about; `None` for a path.
    pub object_ref: Option<ObjectRef>,
    /// What came of it, once that is known.
    pub response_status: Option<Status>,
    /// The object of the request, as JSON.
    pub request_object: Option<Bytes>,
    /// The object of the answer, as JSON.
    pub response_object: Option<Bytes>,
    /// When the request came.
    pub request_received: Timestamp,
    /// When it reached this stage.
    pub stage_at: Timestamp,
    /// What those who worked on it say.
    pub annotations: BTreeMap<String, String>,
}

/// The annotation of what is recorded in part.
const TRUNCATED: &str = "audit.k8s.io/truncated";

/// Writes members of an object.
struct Members<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl<'o> Members<'o> {
    fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        json::write_string(key, self.out);
        self.out.push(b':');
        self.out
    }

    /// Text that is left out where there is none.
    fn text(&mut self, key: &str, text: &str) -> &mut Self {
        if !text.is_empty() {
            json::write_string(text, self.key(key));
        }
        self
    }

    fn texts(&mut self, key: &str, texts: &[String]) -> &mut Self {
        if !texts.is_empty() {
            write_texts(texts, self.key(key));
        }
        self
    }

    fn raw(&mut self, key: &str, bytes: Option<&[u8]>) -> &mut Self {
        if let Some(bytes) = bytes {
            self.key(key).extend_from_slice(bytes);
        }
        self
    }

    fn end(self) {
        self.out.push(b'}');
    }
}

fn write_texts(texts: &[String], out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json::write_string(text, out);
    }
    out.push(b']');
}

impl User {
    fn write(&self, out: &mut Vec<u8>) {
        let mut members = Members::begin(out);
        members.text("username", &self.name).text("uid", &self.uid).texts("groups", &self.groups);
        if !self.extra.is_empty() {
            let mut extra = Members::begin(members.key("extra"));
            for (key, values) in &self.extra {
                write_texts(values, extra.key(key));
            }
            extra.end();
        }
        members.end();
    }
}

impl ObjectRef {
    fn write(&self, out: &mut Vec<u8>) {
        let mut members = Members::begin(out);
        members
            .text("resource", &self.resource)
            .text("namespace", &self.namespace)
            .text("name", &self.name)
            .text("uid", &self.uid)
            .text("apiGroup", &self.api_group)
            .text("apiVersion", &self.api_version)
            .text("resourceVersion", &self.resource_version)
            .text("subresource", &self.subresource);
        members.end();
    }
}

/// A status without kind. Of a plain success only the code is known.
fn write_status(status: &Status, out: &mut Vec<u8>) {
    const TYPE: &[u8] = b"\"kind\":\"Status\",\"apiVersion\":\"v1\",";
    let plain = !status.success && status.message.is_empty() && status.reason.is_empty();
    if plain {
        out.extend_from_slice(format!("{{\"metadata\":{{}},\"code\":{}}}", status.code).as_bytes());
        return;
    }
    let text = status.to_json();
    let members = text.strip_prefix(b"{").unwrap_or(&text);
    out.push(b'{');
    out.extend_from_slice(members.strip_prefix(TYPE).unwrap_or(members));
}

impl Event {
    /// Appends its JSON text; in lists, kind and version are left out.
    pub fn write(&self, typed: bool, out: &mut Vec<u8>) {
        let mut members = Members::begin(out);
        if typed {
            members.text("kind", "Event").text("apiVersion", "audit.k8s.io/v1");
        }
        members
            .text("level", self.level.as_str())
            .text("auditID", &self.audit_id)
            .text("stage", self.stage.as_str())
            .text("requestURI", &self.request_uri)
            .text("verb", &self.verb);
        self.user.write(members.key("user"));
        if let Some(user) = &self.impersonated_user {
            user.write(members.key("impersonatedUser"));
        }
        members.texts("sourceIPs", &self.source_ips).text("userAgent", &self.user_agent);
        if let Some(of) = &self.object_ref {
            of.write(members.key("objectRef"));
        }
        if let Some(status) = &self.response_status {
            write_status(status, members.key("responseStatus"));
        }
        members
            .raw("requestObject", self.request_object.as_deref())
            .raw("responseObject", self.response_object.as_deref())
            .text("requestReceivedTimestamp", &time::format_micro_time(self.request_received))
            .text("stageTimestamp", &time::format_micro_time(self.stage_at));
        if !self.annotations.is_empty() {
            let mut annotations = Members::begin(members.key("annotations"));
            for (key, value) in &self.annotations {
                json::write_string(value, annotations.key(key));
            }
            annotations.end();
        }
        members.end();
    }

    /// Its JSON text.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        self.write(true, &mut out);
        out
    }

    /// The same without objects.
    #[must_use]
    pub fn truncated(&self) -> Self {
        let mut short = Self { request_object: None, response_object: None, ..self.clone() };
        short.is_partial();
        short
    }

    /// Notes that not everything is recorded.
    pub fn is_partial(&mut self) {
        self.annotations.insert(TRUNCATED.into(), "true".into());
    }

    /// One line of text: upstream's old form.
    #[must_use]
    pub fn to_legacy(&self) -> String {
        let quote = apimachinery::field::quote;
        let listed =
            |groups: &[String]| groups.iter().map(|it| quote(it)).collect::<Vec<_>>().join(",");
        let or = |text: &str, otherwise: &str| {
            if text.is_empty() { otherwise.to_owned() } else { text.to_owned() }
        };
        let (user, groups) = match self.user.name.as_str() {
            "" => ("<none>".to_owned(), "<none>".to_owned()),
            name => (name.to_owned(), or(&listed(&self.user.groups), "<none>")),
        };
        let for_user = self.impersonated_user.as_ref();
        let as_user = for_user.map_or("<self>", |it| it.name.as_str());
        let as_groups = for_user.map_or_else(String::new, |it| listed(&it.groups));
        let namespace = self.object_ref.as_ref().map_or("", |it| it.namespace.as_str());
        let code = self.response_status.as_ref();
        let code = code.map_or_else(|| "<deferred>".to_owned(), |it| it.code.to_string());
        let ip = self.source_ips.first().map_or("<unknown>", String::as_str);
        format!(
            "{} AUDIT: id={} stage={} ip={} method={} user={} groups={} as={} asgroups={} user-agent={} namespace={} uri={} response=\"{code}\"",
            self.request_received,
            quote(&self.audit_id),
            quote(self.stage.as_str()),
            quote(ip),
            quote(&self.verb),
            quote(&user),
            quote(&groups),
            quote(as_user),
            quote(&or(&as_groups, "<lookup>")),
            quote(&self.user_agent),
            quote(&or(namespace, "<none>")),
            quote(&self.request_uri),
        )
    }
}

#[cfg(test)]
pub(crate) mod tests;
