//! Upstream's recorded answers, where they are at hand.

use std::path::{Path, PathBuf};

use apimachinery::Value;

/// The exchanges of one topic; none, and a line that says so, where the recordings are not here.
pub(crate) fn exchanges(topic: &str) -> Vec<Value> {
    let Some(folder) = folder() else {
        eprintln!("skipped: shared/reference/recorded is not beside the project");
        return Vec::new();
    };
    let text = std::fs::read(folder.join(format!("{topic}.jsonl"))).unwrap();
    let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| apimachinery::json::parse(line).unwrap()).collect()
}

fn folder() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().map(|it| it.join("shared/reference/recorded")).find(|it| it.is_dir())
}

/// The type of a recorded object.
pub(crate) fn type_of(object: &Value) -> Option<apimachinery::schema::NodeId> {
    let api_version = object.str_at(&["apiVersion"]);
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    api::type_of_kind(group, version, object.str_at(&["kind"]))
}
