//! One version of a custom resource, as the server sees any resource.

use std::borrow::Cow;
use std::sync::Arc;

use api::ResourceFacts;
use apimachinery::conform::ConformError;
use apimachinery::field::{ErrorType, FieldError};
use apimachinery::schema::Schema;
use apimachinery::{FieldErrors, Path, Value, validation};
use compact_str::CompactString;
use jiff::Timestamp;

use super::{Compiled, Shared, Version, cells, check, lists, prune, rules, scale, served_of};
use crate::{AnyResource, Part, Rules, Served, metadata};

/// Finalizers that need no domain in their name.
const STANDARD_FINALIZERS: [&str; 3] = ["foregroundDeletion", "kubernetes", "orphan"];
const UNCHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";

/// A version of a custom resource. Values are of the storage version, as everywhere; they are looked at as this version
/// looks at them.
pub struct CustomResource {
    pub(super) shared: Arc<Shared>,
    place: usize,
    served: Vec<Served>,
}

impl std::fmt::Debug for CustomResource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ResourceFacts { resource, group, version, .. } = self.facts();
        write!(f, "CustomResource({resource}.{group}/{version})")
    }
}

impl CustomResource {
    pub(super) fn new(shared: Arc<Shared>, place: usize) -> Self {
        Self { served: served_of(&shared, place), shared, place }
    }

    fn version(&self) -> &Version {
        &self.shared.versions[self.place]
    }

    fn compiled(&self) -> &Compiled {
        self.shared.compiled(self.place)
    }

    /// Names, verbs and columns of this version.
    #[must_use]
    pub fn facts(&self) -> &'static ResourceFacts {
        self.version().facts
    }

    /// What OpenAPI calls its kind, and its lists.
    #[must_use]
    pub fn definition_names(&self) -> (&'static str, &'static str) {
        self.version().definitions
    }

    /// The kind of its lists.
    #[must_use]
    pub fn list_kind_name(&self) -> &str {
        &self.shared.list_kind
    }

    /// The schema as the definition has it.
    #[must_use]
    pub fn openapi(&self) -> Value {
        self.shared.schema(self.place)
    }

    /// This version.
    #[must_use]
    pub fn own(&self) -> Served {
        Served { facts: self.facts(), node: 0 }
    }

    /// Whether this version and the stored one differ in nothing but their name. Where a webhook converts them, values
    /// are of this version.
    fn converts_by_name(&self) -> bool {
        self.place != self.shared.storage && !self.shared.has_webhook
    }

    /// What the schema, the scale subresource and the rules object to.
    fn check(&self, part: Part<'_>, value: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        let root = &self.compiled().root;
        check::check(root, value, old, errors);
        if let Some(of) = &self.version().rules.scale {
            if part != Part::Status {
                scale::check_spec(of, value, errors);
            }
            scale::check_status(of, value, errors);
        }
        lists::embedded(root, value, &Path::new(""), errors);
        // What was wrong already may stay so.
        if !old.is_some_and(|old| lists::has_repeated(root, old)) {
            lists::check(root, value, errors);
        }
        if !root.below.rules {
            return;
        }
        if errors.iter().any(|it| blocks_rules(it.kind)) {
            let body = format!("Invalid value: null: {UNCHECKED}");
            let field = "<nil>".to_owned();
            errors.push(FieldError { kind: ErrorType::Invalid, field, body });
        } else {
            let began = self.shared.stopwatch.as_ref().map(|it| it.now());
            rules::run(root, value, old, errors);
            self.shared.timed(began, |watch, took| watch.evaluated(took));
        }
    }
}

/// Whether rules are not run on a value with such an error.
fn blocks_rules(kind: ErrorType) -> bool {
    match kind {
        ErrorType::NotSupported
        | ErrorType::Required
        | ErrorType::TooLong
        | ErrorType::TooMany
        | ErrorType::TypeInvalid => true,
        ErrorType::NotFound
        | ErrorType::Duplicate
        | ErrorType::Invalid
        | ErrorType::Forbidden
        | ErrorType::InternalError => false,
    }
}

impl AnyResource for CustomResource {
    fn served(&self) -> &[Served] {
        &self.served
    }

    fn storage_prefix(&self) -> &str {
        &self.shared.prefix
    }

    fn conform(&self, _served: &Served, value: &mut Value) -> Result<Vec<String>, ConformError> {
        prune::prune(&self.compiled().root, value)
    }

    fn default(&self, _served: &Served, value: &mut Value) {
        prune::default(&self.compiled().root, value);
    }

    fn to_storage(&self, _served: &Served, value: &mut Value) {
        if self.converts_by_name() {
            value.set_at(&["apiVersion"], self.served[0].facts.api_version());
        }
    }

    fn from_storage(&self, _served: &Served, value: &mut Value) {
        if self.converts_by_name() {
            value.set_at(&["apiVersion"], self.facts().api_version());
            // What is stored was pruned and defaulted by another schema.
            let root = &self.compiled().root;
            if prune::prune(root, value).is_ok() {
                prune::default(root, value);
            }
        }
    }

    fn prepare_create(&self, value: &mut Value) {
        if self.version().rules.has_status {
            value.remove_at(&["status"]);
            // Who reads what is stored gets the default of a status that is not there.
            prune::default_member(&self.compiled().root, "status", value);
        }
    }

    fn prepare_update(&self, part: Part<'_>, value: &mut Value, old: &Value) {
        match part {
            Part::Status => {
                let written = std::mem::replace(value, old.clone());
                member(value, &["status"], &written);
                member(value, &["metadata", "managedFields"], &written);
            }
            Part::Main | Part::Other(_) => {
                if self.version().rules.has_status {
                    member(value, &["status"], old);
                }
            }
        }
    }

    fn validate(&self, _served: &Served, value: &Value) -> FieldErrors {
        let mut errors = FieldErrors::new();
        metadata::validate(value, self.facts().namespaced, metadata::subdomain_name, &mut errors);
        self.check(Part::Main, value, None, &mut errors);
        errors
    }

    fn validate_update(&self, part: Part<'_>, value: &Value, old: &Value) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let namespaced = self.facts().namespaced;
        metadata::validate(value, namespaced, metadata::path_segment_name, &mut errors);
        for _ in 0..2 {
            metadata::validate_update(value, old, &mut errors);
        }
        self.check(part, value, Some(old), &mut errors);
        errors
    }

    fn warnings(&self, value: &Value, old: Option<&Value>) -> Vec<String> {
        let path = ["metadata", "finalizers"];
        let before = old.map(|old| old.items_at(&path)).unwrap_or_default();
        let mut added: Vec<&str> = value
            .items_at(&path)
            .iter()
            .filter(|it| !before.contains(it))
            .filter_map(Value::as_str)
            .collect();
        added.sort_unstable();
        added.dedup();
        added.into_iter().flat_map(finalizer_warnings).collect()
    }

    fn field_values(&self, value: &Value) -> Box<[CompactString]> {
        self.shared.fields.iter().map(|(_, path)| cells::field(path, value)).collect()
    }

    fn selectable_fields(&self) -> &[CompactString] {
        &self.version().fields
    }

    fn row(&self, value: &Value, now: Timestamp) -> Vec<Value> {
        let own = self.version().columns.iter().zip(self.facts().columns.iter().skip(1));
        let cells = own.map(|(column, shown)| cells::cell(&column.path, shown.kind, value, now));
        std::iter::once(Value::from(value.str_at(&["metadata", "name"]))).chain(cells).collect()
    }

    fn rules(&self) -> &Rules {
        &self.version().rules
    }

    fn types(&self, _served: &Served) -> &Schema {
        &self.compiled().types
    }

    fn column_description(&self, served: &Served, place: usize, column: &str) -> Cow<'_, str> {
        let own = place.checked_sub(1).and_then(|place| self.version().columns.get(place));
        match own.map(|it| it.description.as_str()) {
            None | Some("") => Cow::Borrowed(api::columns::description(served.facts, column)),
            Some(text) => Cow::Borrowed(text),
        }
    }

    fn is_custom(&self) -> bool {
        true
    }

    fn ingest(&self, value: &mut Value) -> bool {
        let before = value.clone();
        let of = if self.shared.has_webhook {
            // Only the webhook makes another version of it.
            match self.shared.place_of(value.str_at(&["apiVersion"])) {
                Some(place) => place,
                None => return false,
            }
        } else {
            value.set_at(&["apiVersion"], self.facts().api_version());
            self.place
        };
        let root = &self.shared.compiled(of).root;
        // Metadata that is none is left alone: the object is still to be read, and to be deleted.
        if prune::prune(root, value).is_err() {
            *value = before;
            return false;
        }
        prune::default(root, value);
        *value != before
    }

    fn list_kind(&self, _served: &Served) -> Cow<'_, str> {
        Cow::Borrowed(self.list_kind_name())
    }

    fn deprecation(&self, _served: &Served) -> Option<Cow<'_, str>> {
        self.version().deprecation.as_deref().map(Cow::Borrowed)
    }
}

/// Makes a member what it is in another value.
fn member(value: &mut Value, path: &[&str], from: &Value) {
    match from.at(path) {
        Some(other) => value.set_at(path, other.clone()),
        None => {
            value.remove_at(path);
        }
    }
}

fn finalizer_warnings(name: &str) -> Vec<String> {
    let shown = apimachinery::field::quote(name);
    let mut warnings: Vec<String> = validation::qualified_name(name)
        .iter()
        .map(|problem| format!("metadata.finalizers: {shown}: {problem}"))
        .collect();
    if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        warnings.push(format!(
            "metadata.finalizers: {shown}: prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers"
        ));
    }
    warnings
}
