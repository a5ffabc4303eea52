//! The form in which a built-in resource is declared: a plain struct literal.

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;

use api::ResourceFacts;
use apimachinery::conform::{self, ConformError};
use apimachinery::{FieldErrors, Value};
use compact_str::CompactString;
use jiff::Timestamp;

use crate::apis::Features;
use crate::removed::{self, Removed};
use crate::{AnyResource, Part, Rules, Served, gated, metadata, rules};

/// When `metadata.generation` moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// It is not kept.
    None,
    /// It starts at 1 and moves with every change outside metadata and status.
    Spec,
    /// It moves with the labels too.
    SpecAndLabels,
    /// There is none before the first such change.
    Changes,
    /// It is 1, whatever changes.
    Fixed,
}

/// How objects of a resource are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletionRule {
    /// At once, unless finalizers hold them.
    Background,
    /// After a grace period (pods).
    Graceful,
    /// Through the spec's own finalizers (namespaces).
    Namespace,
}

/// Where the scale subresource finds things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// The path of the wanted count.
    pub spec_replicas: &'static [&'static str],
    /// The path of the present count.
    pub status_replicas: &'static [&'static str],
    /// The path of the selector: a label selector, or a plain map.
    pub selector: &'static [&'static str],
}

impl Scale {
    /// Where most kinds have them.
    pub const REPLICAS: Self = Self {
        spec_replicas: &["spec", "replicas"],
        status_replicas: &["status", "replicas"],
        selector: &["spec", "selector"],
    };
}

/// A selectable field: its name and how its value is read.
#[derive(Debug, Clone, Copy)]
pub struct FieldLabel {
    /// `spec.nodeName`
    pub name: &'static str,
    /// Its value as text; empty where it is absent.
    pub value: fn(&Value) -> CompactString,
}

impl FieldLabel {
    /// A field whose value is the text at the path its name spells.
    #[must_use]
    pub const fn new(name: &'static str, value: fn(&Value) -> CompactString) -> Self {
        Self { name, value }
    }
}

/// Another group or version in which the same stored objects are served.
#[derive(Debug, Clone, Copy)]
pub struct Alternative {
    /// Its group.
    pub group: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Sets its defaults, where they are not those of the storage version.
    pub default: Option<fn(&mut Value)>,
    /// What else is wrong with a new object that was written in this version; the object is of the storage version.
    pub validate: fn(&Value, &mut FieldErrors),
    /// Converts it to the storage version.
    pub to_storage: fn(&mut Value),
    /// Converts the storage version to it.
    pub from_storage: fn(&mut Value),
    /// What its selectable fields are called in the storage version, where they have other names; no others can be
    /// selected by then.
    pub labels: Option<&'static [(&'static str, &'static str)]>,
}

impl Alternative {
    /// A version whose objects look as the stored ones do.
    #[must_use]
    pub const fn same(group: &'static str, version: &'static str) -> Self {
        Self {
            group,
            version,
            default: None,
            validate: |_, _| {},
            to_storage: |_| {},
            from_storage: |_| {},
            labels: None,
        }
    }
}

/// Alpha and beta versions that are to go, all kinds of a version or one: group, version, plural name, the minor releases
/// since which it is deprecated and without it. Upstream: three and six releases after a version came.
const GOING: &[(&str, &str, &str, u16, u16)] = &[
    ("admissionregistration.k8s.io", "v1alpha1", "", 35, 38),
    ("admissionregistration.k8s.io", "v1beta1", "", 37, 40),
    ("certificates.k8s.io", "v1beta1", "clustertrustbundles", 36, 39),
    ("coordination.k8s.io", "v1alpha2", "", 35, 38),
    ("coordination.k8s.io", "v1beta1", "leasecandidates", 36, 39),
    ("resource.k8s.io", "v1alpha3", "devicetaintrules", 36, 39),
    ("resource.k8s.io", "v1beta1", "", 35, 38),
    ("resource.k8s.io", "v1beta2", "deviceclasses", 36, 39),
    ("resource.k8s.io", "v1beta2", "resourceclaims", 36, 39),
    ("resource.k8s.io", "v1beta2", "resourceclaimtemplates", 36, 39),
    ("resource.k8s.io", "v1beta2", "resourceslices", 36, 39),
];

/// When a version goes that is served today.
fn going(facts: &ResourceFacts) -> Option<(u16, u16)> {
    let same = |it: &&(&str, &str, &str, u16, u16)| {
        (it.0, it.1) == (facts.group, facts.version) && (it.2.is_empty() || it.2 == facts.resource)
    };
    GOING.iter().find(same).map(|it| (it.3, it.4))
}

/// Kinds of the core group that upstream warns of: version, kind, warning.
const DEPRECATED: &[(&str, &str, &str)] = &[
    (
        "v1",
        "Endpoints",
        "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    ),
    ("v1", "ComponentStatus", "v1 ComponentStatus is deprecated in v1.19+"),
];

/// A built-in resource.
#[derive(Clone, Copy)]
pub struct Declaration {
    /// The group of the storage version; empty for the core one.
    pub group: &'static str,
    /// The storage version.
    pub version: &'static str,
    /// The plural name.
    pub resource: &'static str,
    /// The part of the storage key after `/registry/`, where it is not the plural name.
    pub prefix: &'static str,
    /// Other groups and versions that serve the same objects.
    pub alternatives: &'static [Alternative],
    /// Why it cannot be converted, whatever its types are: in the words of upstream's conversion.
    pub convertible: fn(&Value) -> Result<(), String>,
    /// Sets the defaults.
    pub default: fn(&mut Value),
    /// Sets those that features bring which are on, after the others.
    pub default_gated: fn(Features, &mut Value),
    /// What is wrong with a name.
    pub name: fn(&str, NameUse) -> Vec<String>,
    /// Clears what a create may not set, beyond status.
    pub prepare_create: fn(&mut Value),
    /// Restores what an update may not change, beyond status.
    pub prepare_update: fn(&mut Value, &Value),
    /// Restores what a status update may not change, beyond everything outside status.
    pub prepare_status: fn(&mut Value, &Value),
    /// Drops what only features that are off would write into a status that does not have it yet.
    pub drop_from_status: fn(Features, &mut Value, &Value),
    /// Restores what another subresource's update may not change.
    pub prepare_subresource: fn(&str, &mut Value, &Value),
    /// Notes when something changed, after all that an update may not change was restored.
    pub stamp: fn(Part<'_>, &mut Value, &Value, Timestamp),
    /// What a delete does to an object before anything else.
    pub prepare_delete: fn(&mut Value, Timestamp),
    /// Everything wrong with an object outside metadata.
    pub validate: fn(&Value, &mut FieldErrors),
    /// What is wrong with an object, new or changed from another, where that depends on features.
    pub validate_gated: fn(Features, &Value, Option<&Value>, &mut FieldErrors),
    /// What else is wrong with a new object.
    pub validate_create: fn(&Value, &mut FieldErrors),
    /// What is wrong with a change, beyond [`Declaration::validate`] of the new object.
    pub validate_update: fn(&Value, &Value, &mut FieldErrors),
    /// What is wrong with a change of status.
    pub validate_status: fn(&Value, &Value, &mut FieldErrors),
    /// What is wrong with a change through another subresource.
    pub validate_subresource: fn(&str, &Value, &Value, &mut FieldErrors),
    /// What to warn a client of.
    pub warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    /// What to warn a client of in a new object, before it is prepared.
    pub warnings_as_sent: fn(&Value) -> Vec<String>,
    /// What to warn a client of as long as features are off or on.
    pub warnings_gated: fn(Features, &Value, Option<&Value>) -> Vec<String>,
    /// The selectable fields.
    pub fields: &'static [FieldLabel],
    /// The cells of its row.
    pub row: fn(&Value, Timestamp) -> Vec<Value>,
    /// How often the metadata of a changed object is checked again.
    pub metadata_checks: MetadataChecks,
    /// Whether what creates an object may say its status (nodes do).
    pub created_with_status: bool,
    /// Plain facts.
    pub rules: Rules,
}

/// How often upstream checks the metadata of a changed object, besides twice for every kind. Clients see what is wrong
/// as often. (What the kinds' `ValidateUpdate` call.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataChecks {
    /// Not again.
    None,
    /// As a change.
    Update,
    /// As a new object.
    New,
    /// As a change and as a new object.
    Both,
    /// As a new object, two times, and all else of it too.
    NewTwice,
}

/// What a name is checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameUse {
    /// To be an object's name.
    Name,
    /// To begin one (`generateName`).
    Prefix,
}

impl Declaration {
    /// A resource with nothing of its own: no defaults, nothing wrong, metadata's rules only.
    pub const PLAIN: Self = Self {
        group: "",
        version: "v1",
        resource: "",
        prefix: "",
        alternatives: &[],
        convertible: |_| Ok(()),
        default: |_| {},
        default_gated: |_, _| {},
        name: metadata::subdomain_name,
        prepare_create: |_| {},
        prepare_update: |_, _| {},
        prepare_status: |_, _| {},
        drop_from_status: |_, _, _| {},
        prepare_subresource: |_, _, _| {},
        stamp: |_, _, _, _| {},
        prepare_delete: |_, _| {},
        validate: |_, _| {},
        validate_gated: |_, _, _, _| {},
        validate_create: |_, _| {},
        validate_update: |_, _, _| {},
        validate_status: |_, _, _| {},
        validate_subresource: |_, _, _, _| {},
        warnings: |_, _| Vec::new(),
        warnings_as_sent: |_| Vec::new(),
        warnings_gated: |_, _, _| Vec::new(),
        fields: &[],
        row: crate::table::name_and_creation,
        metadata_checks: MetadataChecks::Both,
        created_with_status: false,
        rules: Rules {
            generation: Generation::None,
            create_on_update: false,
            unconditional_update: true,
            deletion: DeletionRule::Background,
            scale: None,
            ttl_seconds: 0,
            has_status: false,
            orphans: false,
            orphan_warning: "",
            returns_deleted: false,
        },
    };

    /// [`Declaration::PLAIN`] for an object with spec, status and generation.
    pub const SPEC_AND_STATUS: Self = Self {
        rules: Rules { generation: Generation::Spec, has_status: true, ..Self::PLAIN.rules },
        ..Self::PLAIN
    };
}

impl fmt::Debug for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Declaration({}.{}/{})", self.resource, self.group, self.version)
    }
}

/// A declaration with the facts that belong to it.
#[derive(Debug)]
pub struct BuiltIn {
    declaration: Declaration,
    served: Vec<Served>,
    /// The last of those that are served: of versions that are no more, each with the one that stands in for it.
    removed: Vec<(&'static Removed, Served)>,
    prefix: String,
    fields: Vec<CompactString>,
    /// Fields of features that are off: written anew they are dropped.
    dropped: &'static [&'static [&'static str]],
    features: Features,
    /// What Go writes for an object of which nothing is set.
    zero: OnceLock<Value>,
}

/// The facts of a resource in the table.
fn facts(group: &str, version: &str, resource: &str) -> Option<&'static ResourceFacts> {
    api::all_resources()
        .find(|it| it.group == group && it.version == version && it.resource == resource)
}

impl BuiltIn {
    /// The declaration joined with the generated tables; `None` where they do not know it.
    #[must_use]
    pub fn new(declaration: Declaration, features: Features) -> Option<Self> {
        let own = (declaration.group, declaration.version);
        let others = declaration.alternatives.iter().map(|it| (it.group, it.version));
        let served = std::iter::once(own).chain(others).map(|(group, version)| {
            let facts = facts(group, version, declaration.resource)?;
            Some(Served { facts, node: api::type_of_kind(group, version, facts.kind)? })
        });
        let served: Option<Vec<Served>> = served.collect();
        let name =
            if declaration.prefix.is_empty() { declaration.resource } else { declaration.prefix };
        Some(Self {
            served: served?,
            removed: Vec::new(),
            prefix: format!("/registry/{name}/"),
            fields: declaration.fields.iter().map(|field| field.name.into()).collect(),
            dropped: gated::dropped(declaration.group, declaration.resource, features),
            features,
            zero: OnceLock::new(),
            declaration,
        })
    }

    /// Serves it in the versions of it too that are no more.
    #[must_use]
    pub fn with_removed(mut self) -> Self {
        for (removed, facts) in removed::ALL.iter().zip(removed::facts()) {
            let now = |it: &&Served| {
                (it.facts.group, it.facts.resource) == (removed.now, removed.resource)
            };
            let Some((now, facts)) = self.served.iter().find(now).copied().zip(facts.as_ref())
            else {
                continue;
            };
            self.served.push(Served { facts, node: now.node });
            self.removed.push((removed, now));
        }
        self
    }

    /// What a version that is no more is about, and the version that stands in for it.
    fn removed(&self, served: &Served) -> Option<(&'static Removed, &Served)> {
        let same = |it: &&(&Removed, Served)| {
            (it.0.group, it.0.version) == (served.facts.group, served.facts.version)
        };
        self.removed.iter().find(same).map(|(removed, now)| (*removed, now))
    }

    fn alternative(&self, served: &Served) -> Option<&Alternative> {
        let served = self.removed(served).map_or(served, |it| it.1);
        let same = |it: &&Alternative| {
            it.group == served.facts.group && it.version == served.facts.version
        };
        self.declaration.alternatives.iter().find(same)
    }

    fn is_stored(&self, served: &Served) -> bool {
        std::ptr::eq(served.facts, self.served[0].facts)
    }

    /// Which part is changed: a count that is written through `scale` is a change of the object itself.
    fn written<'p>(&self, part: Part<'p>) -> Part<'p> {
        match part {
            Part::Other("scale") if self.declaration.rules.scale.is_some() => Part::Main,
            other => other,
        }
    }

    fn set_version(value: &mut Value, served: &Served) {
        value.set_at(&["apiVersion"], served.facts.api_version());
        value.set_at(&["kind"], served.facts.kind);
    }
}

impl AnyResource for BuiltIn {
    fn served(&self) -> &[Served] {
        &self.served
    }

    fn storage_prefix(&self) -> &str {
        &self.prefix
    }

    fn conform(&self, served: &Served, value: &mut Value) -> Result<Vec<String>, ConformError> {
        let unknown = conform::conform(api::schema(), served.node, value)?;
        (self.declaration.convertible)(value).map_err(ConformError::Conversion)?;
        Ok(unknown)
    }

    fn default(&self, served: &Served, value: &mut Value) {
        if let Some((removed, _)) = self.removed(served) {
            (removed.shape.default)(value);
        }
        let own = self.alternative(served).and_then(|it| it.default);
        own.unwrap_or(self.declaration.default)(value);
        (self.declaration.default_gated)(self.features, value);
    }

    fn to_storage(&self, served: &Served, value: &mut Value) {
        if let Some(alternative) = self.alternative(served) {
            (alternative.to_storage)(value);
        }
        if !self.is_stored(served) {
            Self::set_version(value, &self.served[0]);
        }
    }

    fn from_storage(&self, served: &Served, value: &mut Value) {
        if let Some(alternative) = self.alternative(served) {
            (alternative.from_storage)(value);
        }
        if !self.is_stored(served) {
            Self::set_version(value, served);
        }
    }

    fn from_removed(&self, served: &Served, value: &mut Value) {
        if let Some((removed, _)) = self.removed(served) {
            (removed.shape.read)(value);
        }
    }

    fn to_removed(&self, served: &Served, value: &mut Value) {
        if let Some((removed, _)) = self.removed(served) {
            (removed.shape.show)(value);
        }
    }

    fn deprecation(&self, served: &Served) -> Option<Cow<'_, str>> {
        let facts = served.facts;
        if let Some((removed, now)) = self.removed(served) {
            return Some(removed.warning(facts.kind, &now.facts.api_version()).into());
        }
        if let Some((deprecated, removed)) = going(facts) {
            let (version, kind) = (facts.api_version(), facts.kind);
            let warning = format!(
                "{version} {kind} is deprecated in v1.{deprecated}+, unavailable in v1.{removed}+"
            );
            return Some(warning.into());
        }
        let known = DEPRECATED.iter().find(|it| (it.0, it.1) == (facts.version, facts.kind));
        known.filter(|_| facts.group.is_empty()).map(|it| it.2.into())
    }

    fn removed_in(&self, served: &Served) -> Option<&'static str> {
        self.removed(served).map(|(removed, _)| removed.since.1)
    }

    fn prepare_create(&self, value: &mut Value) {
        gated::drop_new(self.dropped, value);
        conform::empty_lists_are_null(api::schema(), self.served[0].node, value);
        if self.declaration.rules.has_status && !self.declaration.created_with_status {
            let zero = || conform::zero(api::schema(), self.served[0].node);
            reset(value, "status", self.zero.get_or_init(zero));
        }
        (self.declaration.prepare_create)(value);
    }

    fn prepare_update(&self, part: Part<'_>, value: &mut Value, old: &Value) {
        let part = self.written(part);
        conform::empty_lists_are_null(api::schema(), self.served[0].node, value);
        match part {
            Part::Main => {
                gated::drop_changed(self.dropped, value, old);
                if self.declaration.rules.has_status {
                    reset(value, "status", old);
                }
                (self.declaration.prepare_update)(value, old);
            }
            Part::Status => {
                keep_all_but_status(value, old);
                (self.declaration.drop_from_status)(self.features, value, old);
                (self.declaration.prepare_status)(value, old);
            }
            Part::Other(name) => (self.declaration.prepare_subresource)(name, value, old),
        }
    }

    fn stamp(&self, part: Part<'_>, value: &mut Value, old: &Value, now: Timestamp) {
        (self.declaration.stamp)(part, value, old, now);
    }

    fn prepare_delete(&self, value: &mut Value, now: Timestamp) {
        (self.declaration.prepare_delete)(value, now);
    }

    fn validate(&self, served: &Served, value: &Value) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let namespaced = self.served[0].facts.namespaced;
        metadata::validate(value, namespaced, self.declaration.name, &mut errors);
        (self.declaration.validate)(value, &mut errors);
        (self.declaration.validate_gated)(self.features, value, None, &mut errors);
        (self.declaration.validate_create)(value, &mut errors);
        if let Some(alternative) = self.alternative(served) {
            (alternative.validate)(value, &mut errors);
        }
        errors
    }

    fn validate_update(&self, part: Part<'_>, value: &Value, old: &Value) -> FieldErrors {
        let part = self.written(part);
        let mut errors = FieldErrors::new();
        let namespaced = self.served[0].facts.namespaced;
        metadata::validate(value, namespaced, metadata::path_segment_name, &mut errors);
        metadata::validate_update(value, old, &mut errors);
        if part == Part::Main {
            let again = self.declaration.metadata_checks;
            if matches!(again, MetadataChecks::Update | MetadataChecks::Both) {
                metadata::validate_update(value, old, &mut errors);
            }
            let anew = match again {
                MetadataChecks::None | MetadataChecks::Update => 0,
                MetadataChecks::New | MetadataChecks::Both => 1,
                MetadataChecks::NewTwice => 2,
            };
            for _ in 0..anew {
                metadata::validate(value, namespaced, self.declaration.name, &mut errors);
            }
            if again == MetadataChecks::NewTwice {
                (self.declaration.validate)(value, &mut errors);
            }
        }
        match part {
            Part::Main => {
                (self.declaration.validate)(value, &mut errors);
                (self.declaration.validate_gated)(self.features, value, Some(old), &mut errors);
                rules::forgive_addresses(old, &mut errors);
                (self.declaration.validate_update)(value, old, &mut errors);
            }
            Part::Status => (self.declaration.validate_status)(value, old, &mut errors),
            Part::Other(name) => {
                (self.declaration.validate_subresource)(name, value, old, &mut errors)
            }
        }
        errors
    }

    fn warnings(&self, value: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = (self.declaration.warnings)(value, old);
        warnings.extend((self.declaration.warnings_gated)(self.features, value, old));
        warnings
    }

    fn warnings_as_sent(&self, value: &Value) -> Vec<String> {
        (self.declaration.warnings_as_sent)(value)
    }

    fn field_values(&self, value: &Value) -> Box<[CompactString]> {
        self.declaration.fields.iter().map(|field| (field.value)(value)).collect()
    }

    fn selectable_fields(&self) -> &[CompactString] {
        &self.fields
    }

    fn selectable_field(&self, served: &Served, label: &str) -> Option<usize> {
        let labels = self.alternative(served).and_then(|it| it.labels);
        let stored = match labels {
            Some(labels) => labels.iter().find(|it| it.0 == label)?.1,
            None => label,
        };
        self.fields.iter().position(|it| it == stored)
    }

    fn row(&self, value: &Value, now: Timestamp) -> Vec<Value> {
        (self.declaration.row)(value, now)
    }

    fn rules(&self) -> &Rules {
        &self.declaration.rules
    }
}

/// Makes a member what it is in another value.
fn reset(value: &mut Value, key: &str, from: &Value) {
    match from.get(key) {
        Some(other) => value.set_at(&[key], other.clone()),
        None => {
            value.remove_at(&[key]);
        }
    }
}

/// A status write changes status, and of the rest metadata only: what else it brings is not looked at.
fn keep_all_but_status(value: &mut Value, old: &Value) {
    let written = std::mem::replace(value, old.clone());
    for key in ["metadata", "status"] {
        reset(value, key, &written);
    }
}
