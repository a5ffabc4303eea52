//! What a version does not know is dropped, and nulls that nothing allows; then defaults are set.

use apimachinery::conform::{ConformError, conform};
use apimachinery::{FieldErrors, Object, Path, Value};

use super::schema::{Additional, Node};

/// The members that every object has, whatever its schema says.
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Drops what the schema does not know; the paths of it come back: those of metadata, the others, those of metadata of
/// objects within. Metadata becomes what its type makes of it.
///
/// # Errors
/// The first member of metadata that is of a wrong type.
pub(super) fn prune(root: &Node, value: &mut Value) -> Result<Vec<String>, ConformError> {
    let mut unknown = metadata(value, "metadata")?;
    let mut pruner = Pruner::default();
    pruner.object_or_list(root, true, value);
    if let Some(error) = pruner.error {
        return Err(error);
    }
    for mut found in [pruner.unknown, pruner.in_metadata] {
        found.sort();
        unknown.extend(found);
    }
    Ok(unknown)
}

/// Whether a value has members that a schema does not know.
pub(super) fn knows_not(node: &Node, value: &Value) -> bool {
    let mut pruner = Pruner::default();
    pruner.object_or_list(node, node.embedded, &mut value.clone());
    !pruner.unknown.is_empty()
}

/// The same for an object within another, of which it is told where it stands.
fn embedded(value: &mut Value, path: &str) -> Result<Vec<String>, ConformError> {
    let wrong = |member: &str, found: &Value, detail: &str| {
        let mut errors = FieldErrors::new();
        errors.invalid(&Path::new(path).child(member), found, detail);
        let told = errors.iter().next().map(ToString::to_string);
        ConformError::Text(told.unwrap_or_default())
    };
    for member in ["apiVersion", "kind"] {
        if let Some(found) = value.get(member).filter(|it| it.as_str().is_none()) {
            return Err(wrong(member, found, "must be a string"));
        }
    }
    let before = value.get("metadata").cloned().unwrap_or_default();
    metadata(value, &format!("{path}.metadata"))
        .map_err(|error| wrong("metadata", &before, &error.to_string()))
}

/// Makes metadata what its type makes of it.
fn metadata(value: &mut Value, path: &str) -> Result<Vec<String>, ConformError> {
    let Some(metadata) = value.get_mut("metadata") else { return Ok(Vec::new()) };
    let Some(node) = api::type_of_definition(OBJECT_META) else { return Ok(Vec::new()) };
    let unknown = conform(api::schema(), node, metadata)?;
    Ok(unknown.into_iter().map(|it| format!("{path}.{it}")).collect())
}

#[derive(Debug, Default)]
struct Pruner {
    path: String,
    unknown: Vec<String>,
    /// What is not known of metadata of objects within.
    in_metadata: Vec<String>,
    error: Option<ConformError>,
}

impl Pruner {
    fn below(&mut self, step: &str, act: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if !self.path.is_empty() && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        act(self);
        self.path.truncate(length);
    }

    fn object_or_list(&mut self, node: &Node, is_root: bool, value: &mut Value) {
        match value {
            Value::Object(object) => self.object(node, is_root, object),
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    let kept = node.preserve_unknown;
                    if node.items.is_none() && kept {
                        continue;
                    }
                    self.below(&format!("[{index}]"), |it| match &node.items {
                        Some(of) => it.embedded_or(of, item),
                        None => it.empty(item),
                    });
                }
            }
            _ => {}
        }
    }

    /// A value, which may be an object with metadata of its own.
    fn embedded_or(&mut self, node: &Node, value: &mut Value) {
        if node.embedded && value.as_object().is_some() {
            match embedded(value, &self.path) {
                Ok(unknown) => self.in_metadata.extend(unknown),
                Err(error) => self.error = self.error.take().or(Some(error)),
            }
        }
        self.object_or_list(node, node.embedded, value);
    }

    fn object(&mut self, node: &Node, is_root: bool, object: &mut Object) {
        let mut gone: Vec<String> = Vec::new();
        for (name, member) in object.iter_mut() {
            let known = node.property(name);
            if is_root && META.contains(&name) {
                continue;
            }
            match (known, &node.additional) {
                (Some(of), _) => self.below(name, |it| it.embedded_or(of, member)),
                (None, Additional::Of(of)) => self.below(name, |it| it.embedded_or(of, member)),
                (None, Additional::Anything) => {}
                (None, Additional::Unsaid | Additional::Nothing) if node.preserve_unknown => {}
                (None, Additional::Unsaid | Additional::Nothing) => gone.push(name.to_owned()),
            }
        }
        for name in gone {
            object.remove(&name);
            self.below(&name, |it| it.unknown.push(it.path.clone()));
        }
    }

    /// Members of which nothing is known.
    fn empty(&mut self, value: &mut Value) {
        match value {
            Value::Object(object) => {
                let names: Vec<String> = object.keys().map(str::to_owned).collect();
                for name in names {
                    object.remove(&name);
                    self.below(&name, |it| it.unknown.push(it.path.clone()));
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|it| self.empty(it)),
            _ => {}
        }
    }
}

/// Drops nulls that are neither allowed nor replaced, then sets defaults.
pub(super) fn default(node: &Node, value: &mut Value) {
    drop_nulls(node, value);
    fill(node, value);
}

/// Sets the default of one member that is not there; the others stay as they are.
pub(super) fn default_member(node: &Node, name: &str, value: &mut Value) {
    let of = node.property(name).and_then(|of| of.default.as_ref().map(|it| (of, it)));
    let (Some((of, default)), Some(object)) = (of, value.as_object_mut()) else { return };
    if object.get(name).is_some() {
        return;
    }
    let mut member = default.clone();
    fill(of, &mut member);
    object.insert(name, member);
}

fn is_unwanted_null(value: &Value, node: &Node) -> bool {
    value.is_null() && !node.nullable
}

fn drop_nulls(node: &Node, value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|name, member| {
                let Some(of) = node.member(name) else { return true };
                if is_unwanted_null(member, of) && of.default.is_none() {
                    return false;
                }
                drop_nulls(of, member);
                true
            });
        }
        Value::Array(items) => {
            if let Some(of) = &node.items {
                items.iter_mut().for_each(|it| drop_nulls(of, it));
            }
        }
        _ => {}
    }
}

fn fill(node: &Node, value: &mut Value) {
    match value {
        Value::Object(object) => {
            for place in &node.defaulted {
                let (name, of) = &node.properties[*place];
                let Some(default) = &of.default else { continue };
                let missing = object.get(name).is_none_or(|it| is_unwanted_null(it, of));
                if missing {
                    object.insert(name.as_str(), default.clone());
                }
            }
            for (name, member) in object.iter_mut() {
                let Some(of) = node.member(name) else { continue };
                fill_item(of, member);
            }
        }
        Value::Array(items) => {
            if let Some(of) = &node.items {
                items.iter_mut().for_each(|it| fill_item(of, it));
            }
        }
        _ => {}
    }
}

fn fill_item(of: &Node, member: &mut Value) {
    if let Some(default) = of.default.as_ref().filter(|_| is_unwanted_null(member, of)) {
        *member = default.clone();
    }
    fill(of, member);
}
