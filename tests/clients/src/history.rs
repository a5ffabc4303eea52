//! What happened to an object, and whether a client's record tells the same. No I/O.

use std::collections::BTreeMap;

use serde_json::Value;

/// What is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    ConfigMap,
    Widget,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::ConfigMap, Self::Widget];

    /// Where its objects of a namespace are.
    pub(crate) fn path(self, namespace: &str) -> String {
        match self {
            Self::ConfigMap => format!("/api/v1/namespaces/{namespace}/configmaps"),
            Self::Widget => format!("/apis/clients.example.com/v1/namespaces/{namespace}/widgets"),
        }
    }
}

/// One object's life.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) namespace: &'static str,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Every version, as it was acknowledged, with the number that it has.
    pub(crate) versions: Vec<(String, u64)>,
    pub(crate) deleted: bool,
}

/// What a record says of one object.
#[derive(Debug, Default)]
struct Told {
    versions: Vec<(String, u64)>,
    gone: usize,
    /// Something was told after its end.
    after: bool,
    has: Vec<(String, u64)>,
}

fn text<'a>(line: &'a Value, member: &str) -> &'a str {
    line[member].as_str().unwrap_or_default()
}

fn version(line: &Value) -> (String, u64) {
    (text(line, "version").to_owned(), line["n"].as_u64().unwrap_or_default())
}

/// What is wrong in the record of somebody who follows objects: each version once, in order, then the end once; at the end
/// the last version of those that are left, and nothing else. Who goes on where it was lists once.
pub(crate) fn judge_followed(histories: &[&History], lines: &[Value]) -> Vec<String> {
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    let mut lists: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines {
        let of = told.entry(text(line, "uid").to_owned()).or_default();
        match text(line, "event") {
            "set" if of.gone == 0 => of.versions.push(version(line)),
            "set" => of.after = true,
            "gone" => of.gone += 1,
            "has" => of.has.push(version(line)),
            "list" => *lists.entry(text(line, "kind").to_owned()).or_default() += 1,
            _ => {}
        }
    }
    let mut wrong: Vec<String> = Vec::new();
    for history in histories {
        let it = told.remove(&history.uid).unwrap_or_default();
        let left: Vec<_> =
            history.versions.last().filter(|_| !history.deleted).into_iter().collect();
        if it.versions != history.versions {
            wrong.push(format!(
                "{}: told {:?}, and it was {:?}",
                history.name, it.versions, history.versions
            ));
        }
        if it.gone != usize::from(history.deleted) || it.after {
            wrong.push(format!("{}: told {} ends", history.name, it.gone));
        }
        if it.has.iter().collect::<Vec<_>>() != left {
            wrong.push(format!("{}: at the end there is {:?}, not {left:?}", history.name, it.has));
        }
    }
    told.retain(|_, it| !it.versions.is_empty() || it.gone > 0 || !it.has.is_empty());
    wrong.extend(told.keys().map(|uid| format!("told of {uid}, which nobody made")));
    wrong.extend(
        lists.iter().filter(|(_, it)| **it > 1).map(|(kind, it)| format!("{kind}: {it} lists")),
    );
    wrong
}

/// What is wrong in the record of somebody who handles objects: each up to its last number, then its end, and nothing after it;
/// its beginning once, where beginnings are told. A call whose outcome was lost is made again, so that an end may be told twice.
pub(crate) fn judge_handled(histories: &[&History], lines: &[Value]) -> Vec<String> {
    let mut calls: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    for line in
        lines.iter().filter(|it| matches!(text(it, "event"), "create" | "update" | "delete"))
    {
        let call = (text(line, "event").to_owned(), line["n"].as_u64().unwrap_or_default());
        calls.entry(text(line, "uid").to_owned()).or_default().push(call);
    }
    let mut wrong = Vec::new();
    for history in histories {
        let calls = calls.remove(&history.uid).unwrap_or_default();
        let last = history.versions.last().map_or(0, |(_, n)| *n);
        let ends = calls.iter().rev().take_while(|(event, _)| event == "delete").count();
        let (handled, ended) = calls.split_at(calls.len() - ends);
        let creates = handled.iter().filter(|(event, _)| event == "create").count();
        let is_whole = handled.last().is_some_and(|(event, n)| event != "delete" && *n == last)
            && ended.iter().all(|(_, n)| *n == last)
            && handled.iter().all(|(event, _)| event != "delete");
        if ends == 0 || creates > 1 || !is_whole || !calls.is_sorted_by_key(|(_, n)| *n) {
            wrong.push(format!("{}, up to {last}: {calls:?}", history.name));
        }
    }
    wrong.extend(calls.keys().map(|uid| format!("handled {uid}, which nobody made")));
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn history(versions: &[(&str, u64)], deleted: bool) -> History {
        let versions = versions.iter().map(|(version, n)| ((*version).to_owned(), *n)).collect();
        let (name, uid) = ("a".to_owned(), "1".to_owned());
        History { namespace: "x", name, uid, versions, deleted }
    }

    fn line(event: &str, version: &str, n: u64) -> Value {
        json!({"event": event, "uid": "1", "version": version, "n": n})
    }

    #[track_caller]
    fn check(history: &History, lines: &[Value], wrong: usize) {
        let found = judge_followed(&[history], lines);
        assert_eq!(found.len(), wrong, "{found:?}");
    }

    #[test]
    fn who_follows_is_told_everything_once_and_in_order() {
        let (one, two, gone) = (line("set", "5", 1), line("set", "7", 2), line("gone", "9", 2));
        let ended = history(&[("5", 1), ("7", 2)], true);
        let all = [one.clone(), two.clone(), gone.clone()];
        check(&ended, &all, 0);
        check(&ended, &[two.clone(), gone.clone()], 1);
        check(&ended, &[one.clone(), one.clone(), two.clone(), gone.clone()], 1);
        check(&ended, &[one.clone(), two.clone()], 1);
        check(&ended, &[one.clone(), two.clone(), gone.clone(), gone.clone()], 1);
        check(&ended, &[all.as_slice(), &[line("has", "7", 2)]].concat(), 1);
        let left = history(&[("5", 1)], false);
        check(&left, &[one.clone(), line("has", "5", 1)], 0);
        check(&left, std::slice::from_ref(&one), 1);
        let strange = json!({"event": "set", "uid": "2", "version": "5", "n": 1});
        check(&ended, &[all.as_slice(), &[strange]].concat(), 1);
        let list = json!({"event": "list", "kind": "Widget"});
        check(&ended, &[vec![list; 2], all.to_vec()].concat(), 1);
    }

    #[test]
    fn who_handles_does_so_to_the_end_and_no_further() {
        let life = history(&[("5", 1), ("7", 2)], true);
        let call = |event: &str, n| line(event, "", n);
        let judge = |lines: &[Value]| judge_handled(&[&life], lines).len();
        assert_eq!(judge(&[call("create", 1), call("update", 2), call("delete", 2)]), 0);
        assert_eq!(judge(&[call("create", 2), call("delete", 2)]), 0);
        assert_eq!(judge(&[call("create", 1), call("delete", 2)]), 1);
        assert_eq!(judge(&[call("create", 1), call("update", 2)]), 1);
        assert_eq!(judge(&[call("create", 2), call("delete", 2), call("delete", 2)]), 0);
        assert_eq!(judge(&[call("create", 1), call("create", 2), call("delete", 2)]), 1);
        assert_eq!(judge(&[call("create", 2), call("delete", 2), call("update", 2)]), 1);
        assert_eq!(judge(&[]), 1);
    }
}
