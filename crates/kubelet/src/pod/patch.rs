//! The smallest strategic merge patch between two statuses. Pure.

use apimachinery::{Object, Value, value};

/// Fields of a status that the node writes: what is not there any more is taken away.
const OWNED: [&str; 4] = ["reason", "message", "podIP", "podIPs"];
/// Lists that are merged by a key.
const KEYED: [(&str, &str); 3] = [("conditions", "type"), ("podIPs", "ip"), ("hostIPs", "ip")];

/// What has to change of `old` for the node's part of it to be `new`; `None` when nothing.
pub(crate) fn patch(old: &Value, new: &Value) -> Option<Value> {
    let mut changed = Object::new();
    for (field, wanted) in new.as_object()?.iter() {
        let have = old.get(field);
        if have == Some(wanted) {
            continue;
        }
        let keyed = KEYED.iter().find(|(name, _)| *name == field);
        let part = match (keyed, have, wanted) {
            (Some((_, key)), have, _) => keyed_list(have, wanted, key, field == "conditions"),
            (None, Some(have), Value::Object(_)) => members(have, wanted),
            _ => wanted.clone(),
        };
        if !matches!(&part, Value::Array(it) if it.is_empty()) {
            changed.insert(field, part);
        }
    }
    for field in OWNED {
        if new.get(field).is_none() && old.get(field).is_some() {
            changed.insert(field, Value::Null);
        }
    }
    (!changed.is_empty()).then(|| Value::Object(changed))
}

/// The newer of two states of an object: the watch's, and the answer to the last write, which may come before it.
pub(crate) fn newest<'o>(watched: &'o Value, answered: Option<&'o Value>) -> &'o Value {
    let version =
        |it: &Value| it.str_at(&["metadata", "resourceVersion"]).parse::<u64>().unwrap_or_default();
    answered.filter(|it| version(it) > version(watched)).unwrap_or(watched)
}

/// Elements that differ. Conditions of others stay; addresses that are not there any more go.
fn keyed_list(have: Option<&Value>, wanted: &Value, key: &str, keeps_others: bool) -> Value {
    let have = have.and_then(Value::as_array).unwrap_or_default();
    let wanted = wanted.as_array().unwrap_or_default();
    let find = |list: &[Value], it: &Value| {
        list.iter().find(|other| other.get(key) == it.get(key)).cloned()
    };
    let mut list: Vec<Value> = Vec::new();
    for it in wanted {
        match find(have, it) {
            Some(known) if known == *it => {}
            Some(known) => list.push(members(&known, it)),
            None => list.push(it.clone()),
        }
    }
    if !keeps_others {
        for gone in have.iter().filter(|it| find(wanted, it).is_none()) {
            let mut directive = value!({"$patch": "delete"});
            directive.set_at(&[key], gone.get(key).cloned().unwrap_or_default());
            list.push(directive);
        }
    }
    Value::Array(list)
}

/// The members of `wanted`, and null for those of `have` that it has not.
fn members(have: &Value, wanted: &Value) -> Value {
    let mut all = wanted.clone();
    let gone: Vec<String> = have
        .as_object()
        .into_iter()
        .flat_map(Object::keys)
        .filter(|it| wanted.get(it).is_none())
        .map(str::to_owned)
        .collect();
    for field in gone {
        all.set_at(&[field.as_str()], Value::Null);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: &str, new: &str, expected: &str) {
        let parse = |text: &str| apimachinery::json::parse(text.as_bytes()).unwrap();
        let got = patch(&parse(old), &parse(new));
        assert_eq!(got.map(|it| apimachinery::json::to_string(&it)).unwrap_or_default(), expected);
    }

    /// A write that was based on what the watch had left the reason of the write before it in place.
    #[test]
    fn what_was_written_last_counts_before_the_watch_has_it() {
        let at = |version: &str| value!({"metadata": {"resourceVersion": version}});
        let (old, new) = (at("9"), at("10"));
        assert_eq!(newest(&old, Some(&new)), &new);
        assert_eq!(newest(&new, Some(&old)), &new);
        assert_eq!(newest(&old, None), &old);
    }

    #[test]
    fn only_what_differs_is_written() {
        check(r#"{"phase":"Pending"}"#, r#"{"phase":"Pending"}"#, "");
        check(r#"{"phase":"Pending"}"#, r#"{"phase":"Running"}"#, r#"{"phase":"Running"}"#);
        check(
            r#"{"conditions":[{"type":"A","status":"False","reason":"R"},{"type":"X","status":"True"}]}"#,
            r#"{"conditions":[{"type":"A","status":"True"}]}"#,
            r#"{"conditions":[{"reason":null,"status":"True","type":"A"}]}"#,
        );
        check(
            r#"{"podIPs":[{"ip":"1"}],"podIP":"1"}"#,
            r#"{"podIPs":[{"ip":"2"}],"podIP":"2"}"#,
            r#"{"podIP":"2","podIPs":[{"ip":"2"},{"$patch":"delete","ip":"1"}]}"#,
        );
        check(
            r#"{"reason":"Evicted"}"#,
            r#"{"phase":"Running"}"#,
            r#"{"phase":"Running","reason":null}"#,
        );
    }
}
