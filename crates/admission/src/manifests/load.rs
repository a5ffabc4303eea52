//! What a directory of manifests holds, read strictly: objects of the plugin's kinds, with defaults and checked as the API
//! does, that name nothing outside of their directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use apimachinery::{Value, yaml};
use registry::{AnyResource, Registry, Served};

use super::{Of, metrics};
use crate::configuration::in_one;
use crate::followed::GROUP;

/// How the names of all objects of files end, and no others.
const SUFFIX: &str = ".static.k8s.io";
const VERSION: &str = "admissionregistration.k8s.io/v1";

/// Without the features that keep objects of such names out.
static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::built_in);

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Policies or configurations, by name.
    pub(crate) objects: Vec<Value>,
    /// What puts policies in force, by name.
    pub(crate) bindings: Vec<Value>,
    /// Of all files, `sha256:...`; empty where they are empty.
    pub(crate) hash: String,
}

/// Reads the files of a directory, not those of others in it.
///
/// # Errors
/// The first thing that is wrong, with the file.
pub(super) fn directory(of: Of, path: &Path) -> Result<Loaded, String> {
    let failed = |error| {
        format!("failed to read manifest directory {:?}: {error}", path.display().to_string())
    };
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let ending = file.extension().map(|it| it.to_ascii_lowercase());
        let ending = ending.as_deref().and_then(|it| it.to_str()).unwrap_or_default();
        if !matches!(ending, "yaml" | "yml" | "json") || file.is_dir() {
            continue;
        }
        let shown = file.display().to_string();
        let text = std::fs::read(&file);
        let text = text.map_err(|error| format!("failed to read file {shown:?}: {error}"))?;
        files.insert(shown, text);
    }
    files_of(of, &files)
}

/// Reads files by their names.
fn files_of(of: Of, files: &BTreeMap<String, Vec<u8>>) -> Result<Loaded, String> {
    let mut reader = Reader { of, seen: BTreeMap::new(), loaded: Loaded::default() };
    let mut all = Vec::new();
    for (file, text) in files.iter().filter(|it| !it.1.is_empty()) {
        all.extend_from_slice(text);
        all.push(0);
        for document in documents(text) {
            let read = reader.document(file, &document);
            read.map_err(|why| format!("error loading {file}: {why}"))?;
        }
    }
    let mut loaded = reader.loaded;
    let name = |it: &Value| it.str_at(&["metadata", "name"]).to_owned();
    for binding in &loaded.bindings {
        let policy = binding.str_at(&["spec", "policyName"]);
        if !loaded.objects.iter().any(|it| name(it) == policy) {
            return Err(format!(
                "binding {:?} references policy {policy:?} which does not exist in the manifest directory",
                name(binding)
            ));
        }
    }
    loaded.objects.sort_by_key(name);
    loaded.bindings.sort_by_key(name);
    if !all.is_empty() {
        loaded.hash = metrics::hash(&all);
    }
    Ok(loaded)
}

/// The documents of a file, which lines of three dashes part.
fn documents(text: &[u8]) -> Vec<Vec<u8>> {
    let mut documents = vec![Vec::new()];
    for line in text.split_inclusive(|it| *it == b'\n') {
        match line.strip_prefix(b"---") {
            Some(rest) if rest.trim_ascii().is_empty() => documents.push(Vec::new()),
            _ => {
                documents.last_mut().expect("because there is one at first").extend_from_slice(line)
            }
        }
    }
    documents.retain(|it| !it.trim_ascii().is_empty());
    documents
}

struct Reader {
    of: Of,
    /// The file of each name, by kind and name.
    seen: BTreeMap<(&'static str, String), String>,
    loaded: Loaded,
}

impl Reader {
    fn document(&mut self, file: &str, text: &[u8]) -> Result<(), String> {
        let (value, repeated) = yaml::parse_reporting(text).map_err(|error| error.to_string())?;
        if let Some(problem) = yaml::strict_error(&repeated) {
            return Err(problem);
        }
        // Nothing but remarks.
        if value.is_null() { Ok(()) } else { self.value(file, value) }
    }

    fn value(&mut self, file: &str, value: Value) -> Result<(), String> {
        let (version, kind) =
            (value.str_at(&["apiVersion"]).to_owned(), value.str_at(&["kind"]).to_owned());
        let own = [Some(self.of.kind), self.of.binding].into_iter().flatten();
        let own = own.filter(|_| version == VERSION);
        for (known, resource) in own.clone() {
            if kind == known {
                return self.object(file, (known, resource), value);
            }
        }
        let is_list = (version.as_str(), kind.as_str()) == ("v1", "List")
            || own.map(|it| it.0).any(|it| kind.strip_suffix("List") == Some(it));
        if !is_list {
            return Err(format!("unsupported resource type {version}, Kind={kind}"));
        }
        for mut item in value.items_at(&["items"]).iter().cloned() {
            if version == VERSION {
                item.default_at(&["apiVersion"], version.as_str());
                item.default_at(&["kind"], kind.trim_end_matches("List"));
            }
            self.value(file, item)?;
        }
        Ok(())
    }

    fn object(
        &mut self,
        file: &str,
        (kind, resource): (&'static str, &str),
        mut value: Value,
    ) -> Result<(), String> {
        let (of, served) = declared(resource);
        let unknown = of.conform(&served, &mut value).map_err(|error| error.to_string())?;
        if let Some(path) = unknown.first() {
            return Err(format!("strict decoding error: unknown field {path:?}"));
        }
        let name = value.str_at(&["metadata", "name"]).to_owned();
        self.name(file, kind, &name)?;
        of.default(&served, &mut value);
        if let Some(why) = in_one(&of.validate(&served, &value)) {
            return Err(format!("{kind} {name:?} is invalid: {why}"));
        }
        contained(kind, &name, &value)?;
        if self.of.kind.0 == kind {
            self.loaded.objects.push(value);
        } else {
            self.loaded.bindings.push(value);
        }
        Ok(())
    }

    fn name(&mut self, file: &str, kind: &'static str, name: &str) -> Result<(), String> {
        if name.is_empty() {
            return Err(format!("configuration in file {file:?} must have a name"));
        }
        if !name.ends_with(SUFFIX) {
            return Err(format!(
                "configuration {name:?} in file {file:?} must have a name ending with {SUFFIX:?}"
            ));
        }
        match self.seen.insert((kind, name.to_owned()), file.to_owned()) {
            None => Ok(()),
            Some(before) => Err(format!(
                "duplicate configuration name {name:?} in file {file:?}: it is in {before:?} already"
            )),
        }
    }
}

fn declared(resource: &str) -> (&'static dyn AnyResource, Served) {
    let (index, served) = REGISTRY
        .find(GROUP, "v1", resource)
        .expect("because the registry has every kind that configures admission");
    (REGISTRY.resources()[index].as_ref(), served)
}

/// Whether an object names nothing that only a cluster has.
fn contained(kind: &str, name: &str, value: &Value) -> Result<(), String> {
    let spec = &value["spec"];
    match kind {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            for hook in value.items_at(&["webhooks"]) {
                let (config, hook) = (&hook["clientConfig"], hook.str_at(&["name"]));
                if config.get("service").is_some() {
                    return Err(format!(
                        "webhook {hook:?} in {name:?}: clientConfig.service is not supported for static manifests; use clientConfig.url instead"
                    ));
                }
                if config.str_at(&["url"]).is_empty() {
                    return Err(format!(
                        "webhook {hook:?} in {name:?}: clientConfig.url is required for static manifests"
                    ));
                }
            }
            Ok(())
        }
        "MutatingAdmissionPolicy" | "ValidatingAdmissionPolicy" => match spec.get("paramKind") {
            Some(_) => Err(format!(
                "{kind} {name:?}: spec.paramKind is not supported for static manifests"
            )),
            None => Ok(()),
        },
        _ => {
            let policy = spec.str_at(&["policyName"]);
            if !policy.ends_with(SUFFIX) {
                return Err(format!(
                    "binding {name:?}: spec.policyName {policy:?} must end with {SUFFIX:?}"
                ));
            }
            match spec.get("paramRef") {
                Some(_) => Err(format!(
                    "binding {name:?}: spec.paramRef is not supported for static manifests"
                )),
                None => Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
