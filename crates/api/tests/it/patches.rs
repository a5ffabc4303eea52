//! Patches that were recorded, applied to the object they were made for.

use apimachinery::Value;
use apimachinery::patch::{PatchError, json_patch, merge, strategic};

use crate::recorded::{exchanges, type_of};

const SERVER_REFUSED: &str = "the server rejected our request due to an error in our request";

/// The object that all patches of the topic start from: a patch that changed nothing of it answered with it.
fn original(all: &[Value]) -> Option<Value> {
    all.iter().map(|it| it["answer"].clone()).find(|answer| {
        answer.str_at(&["kind"]) == "Deployment"
            && answer.str_at(&["metadata", "name"]) == "patchme"
            && answer.i64_at(&["metadata", "generation"]) == Some(1)
            && answer.at(&["metadata", "labels"]).is_none()
            && answer.at(&["metadata", "finalizers"]).is_none()
    })
}

#[test]
fn recorded_patches_make_the_recorded_objects() {
    let all = exchanges("patches");
    let Some(original) = original(&all) else { return };
    let node = type_of(&original).unwrap();
    let (mut right, mut of, mut wrong) = (0, 0, Vec::new());
    for exchange in &all {
        let patch = &exchange["body"];
        let outcome = match exchange.str_at(&["headers", "Content-Type"]) {
            _ if patch.is_null() => continue,
            "application/strategic-merge-patch+json" => {
                strategic::apply(&original, patch, api::schema(), node)
            }
            "application/merge-patch+json" => merge::apply(&original, patch),
            "application/json-patch+json" => {
                json_patch::check(patch).and_then(|()| json_patch::apply(&original, patch))
            }
            _ => continue,
        };
        let fits = match (&outcome, exchange["status"].as_i64()) {
            (Ok(patched), Some(200)) => holds(&exchange["answer"], patched),
            (Err(error), Some(400..)) => {
                let expected = exchange.str_at(&["answer", "message"]);
                match error {
                    PatchError::Unprocessable(_) | PatchError::TestFailed(_) => {
                        expected == SERVER_REFUSED
                    }
                    other => expected == other.to_string(),
                }
            }
            // What a patch makes may still be refused: by its type, its name or validation.
            (Ok(_), Some(400 | 422)) => exchange.str_at(&["answer", "message"]) != SERVER_REFUSED,
            _ => false,
        };
        of += 1;
        right += usize::from(fits);
        if !fits {
            wrong.push(format!("{}: {outcome:?}", exchange.str_at(&["id"])));
        }
    }
    eprintln!("{right} of {of}");
    assert_eq!(right, of, "{wrong:#?}");
}

/// Whether the spec and the labels of a patched object are in the answer, which has defaults besides.
fn holds(answer: &Value, patched: &Value) -> bool {
    let parts = [&["spec"][..], &["metadata", "labels"], &["metadata", "finalizers"]];
    parts.iter().all(|part| match (answer.at(part), patched.at(part)) {
        (Some(answer), Some(patched)) => covers(answer, patched),
        (_, None) => true,
        // Empty is written as absent.
        (None, Some(patched)) => patched == &Value::object(),
    })
}

fn covers(answer: &Value, patched: &Value) -> bool {
    match (answer, patched) {
        (Value::Object(answer), Value::Object(patched)) => patched.iter().all(|(name, member)| {
            name == "bogus"
                || member.is_null()
                || answer.get(name).is_some_and(|it| covers(it, member))
        }),
        (Value::Array(answer), Value::Array(patched)) => {
            answer.len() == patched.len()
                && answer.iter().zip(patched).all(|(answer, patched)| covers(answer, patched))
        }
        (answer, patched) => answer == patched,
    }
}
