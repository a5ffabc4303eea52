//! JSON patch (RFC 6902) under Kubernetes' limits, with the leniencies of the library that upstream uses:
//! indices may be negative, a missing value is null, a missing member equals null in a test, is made by a
//! replacement, and is copied as null.

use super::PatchError;
use crate::json;
use crate::value::Value;

/// The most operations in a patch.
pub const OPERATIONS_MAX: usize = 10_000;
/// The most bytes that all `copy` operations of a patch may add.
pub const COPY_BYTES_MAX: usize = 3 * 1024 * 1024;

static NULL: Value = Value::Null;

/// The value after all operations.
///
/// # Errors
/// Where the patch is malformed, too long, or an operation does not apply.
pub fn apply(original: &Value, patch: &Value) -> Result<Value, PatchError> {
    let operations = match patch {
        Value::Null => &[],
        Value::Array(items) => items.as_slice(),
        other => return Err(undecodable(other, "jsonpatch.Patch")),
    };
    let no_operation = |it: &&Value| it.as_object().is_none() && !it.is_null();
    if let Some(other) = operations.iter().find(no_operation) {
        return Err(undecodable(other, "jsonpatch.Operation"));
    }
    if operations.len() > OPERATIONS_MAX {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.len()
        )));
    }
    let mut document = Document { root: original.clone(), copied: 0 };
    for operation in operations {
        document.perform(operation)?;
    }
    Ok(document.root)
}

/// Members of operations that mean nothing, as strict decoding names them: `json patch unknown field "[0].x"`.
#[must_use]
pub fn unknown_fields(patch: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    for (index, operation) in patch.as_array().unwrap_or_default().iter().enumerate() {
        for key in operation.as_object().into_iter().flat_map(|it| it.keys()) {
            if !matches!(key, "op" | "path" | "from" | "value") {
                unknown.push(format!("json patch unknown field \"[{index}].{key}\""));
            }
        }
    }
    unknown
}

/// What is wrong with the types of a patch where fields are validated; otherwise an operation that is no text does not
/// apply.
///
/// # Errors
/// Where it is no list of operations whose members are texts.
pub fn check(patch: &Value) -> Result<(), PatchError> {
    match patch {
        Value::Null => Ok(()),
        Value::Array(items) => items.iter().try_for_each(check_operation),
        other => Err(malformed(other, "value of type []handlers.jsonPatchOp")),
    }
}

fn undecodable(value: &Value, into: &str) -> PatchError {
    let kind = value.kind_name();
    PatchError::BadRequest(format!("json: cannot unmarshal {kind} into Go value of type {into}"))
}

fn malformed(value: &Value, into: &str) -> PatchError {
    let kind = value.kind_name();
    PatchError::BadRequest(format!(
        "error decoding patch: json: cannot unmarshal {kind} into Go {into}"
    ))
}

fn check_operation(operation: &Value) -> Result<(), PatchError> {
    if operation.as_object().is_none() && !operation.is_null() {
        return Err(malformed(operation, "value of type handlers.jsonPatchOp"));
    }
    for name in ["from", "op", "path"] {
        if let Some(value) = operation.get(name)
            && value.as_str().is_none()
        {
            let into = format!("struct field jsonPatchOp.{name} of type string");
            return Err(malformed(value, &into));
        }
    }
    Ok(())
}

struct Document {
    root: Value,
    copied: usize,
}

impl Document {
    fn perform(&mut self, operation: &Value) -> Result<(), PatchError> {
        let kind = operation.str_at(&["op"]);
        let text = |name: &str| {
            let member = operation.get(name).and_then(Value::as_str);
            member.ok_or_else(|| {
                let missing = format!("operation missing {name} field: {MISSING}");
                refused(format!("{kind} operation failed to decode {name}: {missing}"))
            })
        };
        let value = operation.get("value").unwrap_or(&NULL);
        match kind {
            "add" => self.add(text("path")?, value.clone(), &ADD),
            "remove" => self.remove(text("path")?, &REMOVE).map(drop),
            "replace" => self.replace(text("path")?, value),
            "move" => {
                let moved = self.remove(text("from")?, &MOVE_FROM)?;
                self.add(text("path")?, moved, &MOVE_TO)
            }
            "copy" => {
                let copied = self.found(text("from")?, &COPY_FROM)?.cloned().unwrap_or_default();
                self.copied += json::to_vec(&copied).len();
                if self.copied > COPY_BYTES_MAX {
                    return Err(refused(format!("copies add more than {COPY_BYTES_MAX} bytes")));
                }
                self.add(text("path")?, copied, &COPY_TO)
            }
            "test" => self.test(text("path")?, value),
            other => Err(refused(format!("Unexpected kind: {other}"))),
        }
    }

    /// Operations may put values deeper and deeper; the result must stay one that can be held.
    fn add(&mut self, path: &str, value: Value, words: &Words) -> Result<(), PatchError> {
        refuse_deep(path, &value)?;
        let (container, key) = self.container(path).ok_or_else(|| words.no_path(path))?;
        match container {
            Value::Array(items) if key == "-" => items.push(value),
            Value::Array(items) => {
                let at = index(&key, items.len() + 1).map_err(|why| words.at(path, &why))?;
                items.insert(at, value);
            }
            Value::Object(members) => {
                members.insert(key, value);
            }
            _ => return Err(words.no_path(path)),
        }
        Ok(())
    }

    fn remove(&mut self, path: &str, words: &Words) -> Result<Value, PatchError> {
        let (container, key) = self.container(path).ok_or_else(|| words.no_path(path))?;
        match container {
            Value::Array(items) => {
                let at = index(&key, items.len()).map_err(|why| words.at(path, &why))?;
                Ok(items.remove(at))
            }
            Value::Object(members) => members.remove(&key).ok_or_else(|| {
                words.at(path, &format!("Unable to remove nonexistent key: {key}: {MISSING}"))
            }),
            _ => Err(words.no_path(path)),
        }
    }

    /// A member that is not there is made; the whole document can be replaced, by an object or a list.
    fn replace(&mut self, path: &str, value: &Value) -> Result<(), PatchError> {
        refuse_deep(path, value)?;
        if path.is_empty() {
            if !matches!(value, Value::Object(_) | Value::Array(_)) {
                return Err(refused("replace operation value must be object or array".into()));
            }
            self.root = value.clone();
            return Ok(());
        }
        let (container, key) = self.container(path).ok_or_else(|| REPLACE.no_path(path))?;
        match container {
            Value::Array(items) => {
                let at = index(&key, items.len()).map_err(|_| REPLACE.no_key(path))?;
                items[at] = value.clone();
            }
            Value::Object(members) => {
                members.insert(key, value.clone());
            }
            _ => return Err(REPLACE.no_path(path)),
        }
        Ok(())
    }

    fn test(&mut self, path: &str, expected: &Value) -> Result<(), PatchError> {
        let found = if path.is_empty() { Some(&self.root) } else { self.found(path, &TEST)? };
        if found.unwrap_or(&NULL) == expected {
            Ok(())
        } else {
            Err(PatchError::TestFailed(format!("testing value {path} failed: test failed")))
        }
    }

    /// The value at a path; `None` where its last step is a member that is not there.
    fn found(&mut self, path: &str, words: &Words) -> Result<Option<&Value>, PatchError> {
        let (container, key) = self.container(path).ok_or_else(|| words.no_path(path))?;
        match container {
            Value::Array(items) => {
                Ok(items.get(index(&key, items.len()).map_err(|why| words.at(path, &why))?))
            }
            Value::Object(members) => Ok(members.get(&key)),
            _ => Err(words.no_path(path)),
        }
    }

    /// The list or object that the last step of a path is in, and that step.
    fn container(&mut self, path: &str) -> Option<(&mut Value, String)> {
        let (parents, last) = path.rsplit_once('/')?;
        let mut container = &mut self.root;
        // What stands before the first slash is not looked at.
        for step in parents.split('/').skip(1) {
            let step = unescape(step);
            container = match container {
                Value::Array(items) => {
                    let at = index(&step, items.len()).ok()?;
                    items.get_mut(at)
                }
                Value::Object(members) => members.get_mut(&step),
                _ => None,
            }?;
        }
        Some((container, unescape(last)))
    }
}

/// What upstream's library says of what is not there.
const MISSING: &str = "missing value";

/// How an operation tells that it does not apply, as upstream's library does (`evanphx/json-patch`).
struct Words {
    operation: &'static str,
    /// What is missing of the document.
    lacks: &'static str,
    /// Whether the path stands in quotes.
    quoted: bool,
    /// As what an error at a path is told.
    error: &'static str,
}

const fn words(operation: &'static str, lacks: &'static str, error: &'static str) -> Words {
    Words { operation, lacks, quoted: false, error }
}

const ADD: Words = Words { quoted: true, ..words("add", "doc is missing path", "add for path") };
const REMOVE: Words =
    Words { quoted: true, ..words("remove", "doc is missing path", "remove for path") };
const REPLACE: Words = words("replace", "doc is missing path", "remove for path");
const MOVE_FROM: Words = words("move", "doc is missing from path", "move for path");
const MOVE_TO: Words = words("move", "doc is missing destination path", "move for path");
const COPY_FROM: Words = words("copy", "doc is missing from path", "copy for from");
const COPY_TO: Words = words("copy", "doc is missing destination path", "copy for path");
const TEST: Words = words("test", "is missing path", "test for path");

impl Words {
    fn no_path(&self, path: &str) -> PatchError {
        let Self { operation, lacks, quoted, .. } = self;
        let path = if *quoted { format!("\"{path}\"") } else { path.to_owned() };
        refused(format!("{operation} operation does not apply: {lacks}: {path}: {MISSING}"))
    }

    fn no_key(&self, path: &str) -> PatchError {
        let operation = self.operation;
        refused(format!(
            "{operation} operation does not apply: doc is missing key: {path}: {MISSING}"
        ))
    }

    fn at(&self, path: &str, why: &str) -> PatchError {
        refused(format!("error in {}: '{path}': {why}", self.error))
    }
}

fn refused(why: String) -> PatchError {
    PatchError::Unprocessable(why)
}

fn refuse_deep(path: &str, value: &Value) -> Result<(), PatchError> {
    let above = path.matches('/').count();
    match json::MAX_DEPTH.checked_sub(above) {
        Some(levels) if !json::nests_deeper(value, levels) => Ok(()),
        _ => Err(refused(format!("values nest deeper than {}: {path}", json::MAX_DEPTH))),
    }
}

fn unescape(step: &str) -> String {
    if step.contains('~') { step.replace("~1", "/").replace("~0", "~") } else { step.to_owned() }
}

/// The place in a list of `length`; negative numbers count from its end.
fn index(step: &str, length: usize) -> Result<usize, String> {
    let invalid = || format!("Unable to access invalid index: {step}: invalid index referenced");
    let number: i64 = step.parse().map_err(|_| {
        let atoi = format!("strconv.Atoi: parsing {}: invalid syntax", crate::field::quote(step));
        format!("value was not a proper array index: '{step}': {atoi}")
    })?;
    let length = i64::try_from(length).map_err(|_| invalid())?;
    let from_start = if number < 0 { number + length } else { number };
    if (0..length).contains(&from_start) {
        usize::try_from(from_start).map_err(|_| invalid())
    } else {
        Err(invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(original: &str, patch: &str, expected: &str) {
        let parse = |text: &str| crate::json::parse(text.as_bytes()).unwrap();
        let checked = super::check(&parse(patch));
        let outcome = match checked.and_then(|()| apply(&parse(original), &parse(patch))) {
            Ok(value) => crate::json::to_string(&value),
            Err(error) => error.to_string(),
        };
        assert_eq!(outcome, expected, "{original} with {patch}");
    }

    #[test]
    fn operations_apply() {
        for (original, patch, expected) in [
            (r#"{"a":1}"#, r#"[{"op":"add","path":"/b","value":2}]"#, r#"{"a":1,"b":2}"#),
            (r#"{"a":[1,2]}"#, r#"[{"op":"add","path":"/a/1","value":9}]"#, r#"{"a":[1,9,2]}"#),
            (r#"{"a":[1]}"#, r#"[{"op":"add","path":"/a/-","value":9}]"#, r#"{"a":[1,9]}"#),
            (r#"{"a":[1]}"#, r#"[{"op":"add","path":"/a/-1","value":9}]"#, r#"{"a":[1,9]}"#),
            (r#"{"a":[1,2]}"#, r#"[{"op":"remove","path":"/a/-1"}]"#, r#"{"a":[1]}"#),
            (
                r#"{"a":1}"#,
                r#"[{"op":"replace","path":"/a","value":{"x":[]}}]"#,
                r#"{"a":{"x":[]}}"#,
            ),
            (r#"{"a":1}"#, r#"[{"op":"replace","path":"/a"}]"#, r#"{"a":null}"#),
            (
                r#"{"a":{"b":1}}"#,
                r#"[{"op":"move","from":"/a/b","path":"/c"}]"#,
                r#"{"a":{},"c":1}"#,
            ),
            (r#"{"a":[1,2]}"#, r#"[{"op":"move","from":"/a/0","path":"/a/1"}]"#, r#"{"a":[2,1]}"#),
            (r#"{"a":1}"#, r#"[{"op":"copy","from":"/a","path":"/b"}]"#, r#"{"a":1,"b":1}"#),
            (
                r#"{"a/b":1,"m~n":2}"#,
                r#"[{"op":"test","path":"/a~1b","value":1},{"op":"remove","path":"/m~0n"}]"#,
                r#"{"a/b":1}"#,
            ),
            (r#"{"":1}"#, r#"[{"op":"remove","path":"/"}]"#, "{}"),
            ("{}", r#"[{"op":"test","path":"/a","value":null}]"#, "{}"),
            ("{}", "[]", "{}"),
            ("{}", "null", "{}"),
            ("{}", r#"[{"op":"replace","path":"/a","value":1}]"#, r#"{"a":1}"#),
            ("{}", r#"[{"op":"copy","from":"/a","path":"/b"}]"#, r#"{"b":null}"#),
            (r#"{"a":1}"#, r#"[{"op":"replace","path":"","value":{"b":2}}]"#, r#"{"b":2}"#),
            (r#"{"a":1}"#, r#"[{"op":"test","path":"","value":{"a":1}}]"#, r#"{"a":1}"#),
        ] {
            check(original, patch, expected);
        }
    }

    #[test]
    fn what_cannot_be_replaced_says_why() {
        for (original, patch, expected) in [
            (
                r#"{"a":[]}"#,
                r#"[{"op":"replace","path":"/a/0","value":1}]"#,
                "replace operation does not apply: doc is missing key: /a/0: missing value",
            ),
            (
                "{}",
                r#"[{"op":"replace","path":"","value":1}]"#,
                "replace operation value must be object or array",
            ),
            (
                "{}",
                r#"[{"op":"test","path":"","value":{"a":1}}]"#,
                "testing value  failed: test failed",
            ),
        ] {
            check(original, patch, expected);
        }
    }

    #[test]
    fn operations_that_do_not_apply_say_why() {
        for (original, patch, expected) in [
            (
                "{}",
                r#"[{"op":"add","path":"/a/b","value":1}]"#,
                "add operation does not apply: doc is missing path: \"/a/b\": missing value",
            ),
            (
                "{}",
                r#"[{"op":"add","path":"","value":1}]"#,
                "add operation does not apply: doc is missing path: \"\": missing value",
            ),
            (
                r#"{"a":[]}"#,
                r#"[{"op":"add","path":"/a/1","value":1}]"#,
                "error in add for path: '/a/1': Unable to access invalid index: 1: invalid index referenced",
            ),
            (
                r#"{"a":[]}"#,
                r#"[{"op":"add","path":"/a/x","value":1}]"#,
                "error in add for path: '/a/x': value was not a proper array index: 'x': strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            (
                r#"{"a":[1]}"#,
                r#"[{"op":"remove","path":"/a/-2"}]"#,
                "error in remove for path: '/a/-2': Unable to access invalid index: -2: invalid index referenced",
            ),
            (
                "{}",
                r#"[{"op":"remove","path":"/a"}]"#,
                "error in remove for path: '/a': Unable to remove nonexistent key: a: missing value",
            ),
            (
                r#"{"a":1}"#,
                r#"[{"op":"test","path":"/a","value":1},{"op":"test","path":"/a","value":2}]"#,
                "testing value /a failed: test failed",
            ),
            ("{}", r#"[{"op":"bogus","path":"/a"}]"#, "Unexpected kind: bogus"),
            ("{}", r#"[{"path":"/a"}]"#, "Unexpected kind: "),
            (
                "{}",
                r#"[{"op":"add"}]"#,
                "add operation failed to decode path: operation missing path field: missing value",
            ),
            (
                "{}",
                r#"{"op":"x"}"#,
                "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
            ),
            (
                "{}",
                "[1]",
                "error decoding patch: json: cannot unmarshal number into Go value of type handlers.jsonPatchOp",
            ),
            (
                "{}",
                r#"[{"op":1}]"#,
                "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string",
            ),
        ] {
            check(original, patch, expected);
        }
    }

    #[test]
    fn a_patch_has_a_limit_of_operations_and_of_copies() {
        let many =
            format!("[{}]", vec![r#"{"op":"test","path":"/a"}"#; OPERATIONS_MAX + 1].join(","));
        check(
            "{}",
            &many,
            "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001",
        );
        // Each copy doubles the document.
        let bomb =
            format!("[{}]", vec![r#"{"op":"copy","from":"/a","path":"/a/-"}"#; 40].join(","));
        check(r#"{"a":["xxxxxxxxxxxxxxxx"]}"#, &bomb, "copies add more than 3145728 bytes");
    }

    #[test]
    fn a_patch_cannot_make_values_nest_without_end() {
        // Each copy doubles the depth.
        let step =
            r#"{"op":"copy","from":"/a","path":"/b"},{"op":"move","from":"/b","path":"PATH"}"#;
        let mut path = String::from("/a");
        let mut steps = Vec::new();
        for power in 0..12 {
            steps.push(step.replace("PATH", &format!("{path}/a")));
            path.push_str(&"/a".repeat(1 << power));
        }
        let outcome = apply(
            &json::parse(br#"{"a":{}}"#).unwrap(),
            &json::parse(format!("[{}]", steps.join(",")).as_bytes()).unwrap(),
        );
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("values nest deeper than 1000"), "{error}");
    }

    #[test]
    fn members_that_mean_nothing_are_named() {
        let patch = crate::json::parse(br#"[{"op":"add","path":"/a","x":1},{"Op":2}]"#).unwrap();
        assert_eq!(
            unknown_fields(&patch),
            ["json patch unknown field \"[0].x\"", "json patch unknown field \"[1].Op\""]
        );
    }
}
