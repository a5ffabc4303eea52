//! Wrong requests, one by one: each with the whole of upstream's refusal, code, reason, message and causes.
//!
//! Rows in `wrong/*.txt` were answered so by upstream itself, those of `wrong/own.txt` follow from its source. `kinds.rs` makes
//! the rows that are alike for every kind. Those of `bad_input` are of broken connections and bytes, and count too.

mod kinds;

use std::sync::Arc;

use apimachinery::{Value, json, value};
use apiserver::{Body, Peer, RequestBody};
use auth::UserInfo;

use crate::bad_input;
use crate::cluster::{Cluster, admin};
use crate::custom::until;

/// How many wrong requests there have to be.
const ROWS_MIN: usize = 450;

/// What upstream answered, file by file, in the order in which it is sent.
const FILES: [(&str, &str); 7] = [
    ("own", include_str!("wrong/own.txt")),
    ("immutable", include_str!("wrong/immutable.txt")),
    ("names", include_str!("wrong/names.txt")),
    ("requests", include_str!("wrong/requests.txt")),
    ("required", include_str!("wrong/required.txt")),
    ("unknown", include_str!("wrong/unknown.txt")),
    ("values", include_str!("wrong/values.txt")),
];

/// A request and the answer that it gets.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Row {
    /// `POST /api/v1/nodes`
    pub(crate) request: String,
    /// Its headers.
    pub(crate) headers: Vec<(String, String)>,
    /// `$version` stands for the version that the object has, `$uid` for its uid.
    pub(crate) body: String,
    pub(crate) answer: Answer,
}

/// What there is to say of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    /// Empty where there is none, and for what is no failure.
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Reason, field and message of each.
    pub(crate) causes: Vec<(String, String, String)>,
}

impl Row {
    pub(crate) fn new(request: &str, body: &str) -> Self {
        Self { request: request.into(), body: body.into(), ..Self::default() }
    }

    pub(crate) fn media(mut self, media: &str) -> Self {
        self.headers.push(("content-type".into(), media.into()));
        self
    }

    pub(crate) fn refused(mut self, code: u16, reason: &str, message: &str) -> Self {
        let (reason, message) = (reason.into(), message.into());
        self.answer = Answer { code, reason, message, ..Answer::default() };
        self
    }

    /// The message of an invalid object, which ends in what is wrong with it.
    pub(crate) fn cause(mut self, reason: &str, field: &str, message: &str) -> Self {
        self.answer.causes.push((reason.into(), field.into(), message.into()));
        self
    }

    /// Whether the request is a wrong one.
    fn is_refused(&self) -> bool {
        self.answer.code >= 400
    }

    /// The answer with the causes in its message, where it leaves room for them.
    fn expected(&self) -> Answer {
        let mut answer = self.answer.clone();
        if answer.message.ends_with("is invalid:") {
            let told: Vec<String> =
                answer.causes.iter().map(|(_, field, why)| format!("{field}: {why}")).collect();
            let told =
                if told.len() == 1 { told[0].clone() } else { format!("[{}]", told.join(", ")) };
            answer.message = format!("{} {told}", answer.message);
        }
        answer
    }
}

/// The rows of a file, with blank lines between them. Line breaks and backslashes are escaped in messages and in what is `raw`.
fn rows_of(text: &str) -> Vec<Row> {
    text.split("\n\n").filter(|it| !it.trim().is_empty()).map(row_of).collect()
}

fn row_of(text: &str) -> Row {
    let mut row = Row::default();
    for line in text.lines().filter(|it| !it.starts_with('#') && !it.is_empty()) {
        if let Some(cause) = line.strip_prefix("  ") {
            let mut parts = cause.splitn(3, ' ').map(unescaped);
            let mut part = || parts.next().unwrap_or_default();
            row.answer.causes.push((part(), part(), part()));
        } else if row.request.is_empty() {
            row.request = line.into();
        } else if let Some(media) = line.strip_prefix("type ") {
            row = row.media(media);
        } else if let Some(media) = line.strip_prefix("accept ") {
            row.headers.push(("accept".into(), media.into()));
        } else if let Some(body) = line.strip_prefix("body ") {
            row.body = body.into();
        } else if let Some(body) = line.strip_prefix("raw ") {
            row.body = unescaped(body);
        } else {
            let mut parts = line.splitn(3, ' ');
            row.answer.code = parts.next().unwrap().parse().unwrap_or_else(|_| panic!("{line}"));
            row.answer.reason = parts.next().filter(|it| *it != "-").unwrap_or_default().into();
            row.answer.message = unescaped(parts.next().unwrap_or_default());
        }
    }
    assert!(row.answer.code > 0, "no answer in {text}");
    row
}

fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some('n') => plain.push('\n'),
                Some(other) => plain.push(other),
                None => plain.push('\\'),
            },
            other => plain.push(other),
        }
    }
    plain
}

/// All rows, by what they are about.
fn rows() -> Vec<(&'static str, Vec<Row>)> {
    let mut all: Vec<_> = FILES.iter().map(|(name, text)| (*name, rows_of(text))).collect();
    all.push(("every kind", kinds::rows()));
    all
}

/// Sends a request of the administrator.
async fn send(cluster: &Cluster, row: &Row) -> Answer {
    let (method, path) = row.request.split_once(' ').unwrap();
    let mut builder = http::Request::builder().method(method).uri(path);
    if !row.headers.iter().any(|(name, _)| name == "content-type") {
        builder = builder.header("content-type", "application/json");
    }
    for (name, value) in &row.headers {
        builder = builder.header(name, value);
    }
    let request = builder.body(RequestBody::Bytes(row.body.clone().into_bytes().into())).unwrap();
    let user = Some(Arc::new(UserInfo::new("admin", &["system:masters"])));
    let response = cluster.server.serve(request, Peer { user, ..Peer::default() }).await;
    let code = response.status().as_u16();
    let Body::Full(bytes) = response.into_body() else {
        return Answer { code, ..Answer::default() };
    };
    let bytes = bytes.unwrap_or_default();
    match json::parse(&bytes) {
        Ok(status) if code >= 400 => answer_of(&status),
        Ok(_) => Answer { code, ..Answer::default() },
        Err(_) => {
            let message = String::from_utf8_lossy(&bytes).into_owned();
            Answer { code, message, ..Answer::default() }
        }
    }
}

/// A row with what only this cluster knows of the object.
async fn filled_in(cluster: &Cluster, mut row: Row) -> Row {
    if ![&row.body, &row.answer.message]
        .iter()
        .any(|it| it.contains("$version") || it.contains("$uid"))
    {
        return row;
    }
    let path = row.request.split_once(' ').unwrap().1.split('?').next().unwrap();
    let (_, live) = cluster.send(&admin(), &format!("GET {path}"), None).await;
    for (place, member) in [("$version", "resourceVersion"), ("$uid", "uid")] {
        let told = live.str_at(&["metadata", member]);
        row.body = row.body.replace(place, told);
        row.answer.message = row.answer.message.replace(place, told);
    }
    row
}

fn answer_of(status: &Value) -> Answer {
    let text = |value: &Value, key: &str| value.str_at(&[key]).to_owned();
    let causes = status.items_at(&["details", "causes"]).iter();
    Answer {
        code: u16::try_from(status.i64_at(&["code"]).unwrap_or_default()).unwrap(),
        reason: text(status, "reason"),
        message: text(status, "message"),
        causes: causes
            .map(|it| (text(it, "reason"), text(it, "field"), text(it, "message")))
            .collect(),
    }
}

/// A cluster with what the rows are about: a namespace, an account for its pods, custom resources.
async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    let named = |name: &str| value!({"metadata": {"name": name}});
    cluster.done("POST /api/v1/namespaces", Some(&named("rec"))).await;
    cluster.done("POST /api/v1/namespaces/rec/serviceaccounts", Some(&named("default"))).await;
    for row in rows_of(include_str!("wrong/definitions.txt")) {
        let answer = send(&cluster, &row).await;
        assert_eq!(answer, row.answer, "{}", row.request);
    }
    for path in ["namespaces/rec/widgets", "namespaces/rec/gadgets", "rulers"] {
        let path = format!("GET /apis/ex.example/v1/{path}");
        until(&cluster, &path, |code, _| code == 200).await;
    }
    cluster
}

#[tokio::test]
async fn wrong_requests_are_refused_in_upstreams_words() {
    let cluster = cluster().await;
    let mut wrong = Vec::new();
    for (name, rows) in rows() {
        for row in rows {
            let row = filled_in(&cluster, row).await;
            let (answer, expected) = (send(&cluster, &row).await, row.expected());
            if answer != expected {
                let body: String = row.body.chars().take(200).collect();
                wrong.push(format!(
                    "{name}: {} {:?} {body}\n  wanted {expected:?}\n  got    {answer:?}",
                    row.request, row.headers
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn there_are_many_wrong_requests_and_some_of_every_kind() {
    let rows: Vec<Row> =
        rows().into_iter().flat_map(|(_, rows)| rows).filter(Row::is_refused).collect();
    let (own, others) = (rows.len(), bad_input::rows());
    assert!(own >= ROWS_MIN, "only {own} rows, and {others} of broken bytes");
    assert!(others >= 200, "only {others} rows of broken bytes");
    for facts in api::resources().iter().filter(|it| kinds::is_served(it)) {
        let path = kinds::path(facts);
        let about = rows.iter().filter(|row| {
            let asked = row.request.split_once(' ').map_or("", |(_, it)| it);
            asked.strip_prefix(&path).is_some_and(|it| it.is_empty() || it.starts_with(['/', '?']))
        });
        let ways = about.count();
        assert!(ways >= 3, "{path}: only {ways} ways to be wrong");
    }
}
