//! Broken requests over a real socket: each gets upstream's code and message, and leaves the server as it was.

pub(crate) mod front;
mod http2;
mod kinds;
mod requests;
mod slow;
pub(crate) mod streams;
mod transport;
mod unread;
mod values;

use front::{Answer, Front, pod_on_a_node};

/// A request as it is sent, the code of its answer, and what it says: all of it, or its beginning before `...`.
struct Case {
    what: String,
    bytes: Vec<u8>,
    code: u16,
    says: String,
}

/// A case made of a request line, headers and a body.
fn case(line: &str, headers: &[&str], body: impl AsRef<[u8]>, code: u16, says: &str) -> Case {
    let what: String = line.chars().take(120).collect();
    Case { what, bytes: front::request(line, headers, body.as_ref()), code, says: says.into() }
}

impl Case {
    fn check(&self, answer: &Answer, wrong: &mut Vec<String>) {
        let says = match self.says.strip_suffix("...") {
            Some(beginning) => answer.says.starts_with(beginning),
            None => answer.says == self.says,
        };
        if answer.code != self.code || !says {
            let text: String = answer.says.chars().take(400).collect();
            wrong.push(format!(
                "{}\n  wanted {} {}\n  got    {} {text}",
                self.what, self.code, self.says, answer.code
            ));
        }
    }
}

/// Sends every case and tells of all that are answered otherwise; the server must be unharmed after each group.
async fn check(front: &mut Front, groups: Vec<(&str, Vec<Case>)>) {
    let mut wrong = Vec::new();
    for (group, cases) in groups {
        for case in cases {
            let answer = front.send(&case.bytes).await;
            case.check(&answer, &mut wrong);
        }
        front.is_unharmed(group).await;
    }
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn broken_requests_are_refused_in_upstreams_words() {
    let mut front = Front::start().await;
    let credentials = requests::credentials(&front.cluster);
    check(
        &mut front,
        vec![
            ("paths", requests::paths()),
            ("queries", requests::queries()),
            ("credentials", credentials),
            ("impersonation", requests::impersonation()),
            ("framing", transport::framing()),
        ],
    )
    .await;
}

#[tokio::test]
async fn broken_bodies_are_refused_in_upstreams_words() {
    let mut front = Front::start().await;
    let path = "POST /apis/apps/v1/namespaces/default/deployments";
    front.cluster.done(path, Some(&front::deployment())).await;
    front.mark().await;
    check(
        &mut front,
        vec![
            ("syntax", values::syntax()),
            ("depth", values::depth()),
            ("values", values::values()),
            ("patches", values::patches()),
        ],
    )
    .await;
}

#[tokio::test]
async fn bodies_of_other_kinds_are_refused_in_upstreams_words() {
    let mut front = Front::start().await;
    let path = "POST /apis/apps/v1/namespaces/default/deployments";
    front.cluster.done(path, Some(&front::deployment())).await;
    pod_on_a_node(&mut front).await;
    check(
        &mut front,
        vec![
            ("options of deletes", kinds::deletes()),
            ("other kinds and versions", kinds::objects()),
            ("evictions", kinds::evictions()),
            ("bindings", kinds::bindings()),
            ("tokens", kinds::tokens()),
            ("scales", kinds::scales()),
        ],
    )
    .await;
}

/// How many requests of these tables there are, without those that need a cluster to be made.
pub(crate) fn rows() -> usize {
    [
        requests::paths(),
        requests::queries(),
        requests::impersonation(),
        transport::framing(),
        values::syntax(),
        values::depth(),
        values::values(),
        values::patches(),
        kinds::deletes(),
        kinds::objects(),
        kinds::evictions(),
        kinds::bindings(),
        kinds::tokens(),
        kinds::scales(),
    ]
    .iter()
    .map(Vec::len)
    .sum()
}
