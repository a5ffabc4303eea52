//! Roles by name, and bindings by whom they bind.

use std::collections::BTreeMap;
use std::ops::Bound as Edge;
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::obj::Obj;
use compact_str::CompactString;

use super::{GROUP, RoleRef, Rule};
use crate::UserInfo;
use crate::objects::{Key, key_of};
use crate::user::SERVICE_ACCOUNT_PREFIX;

/// The four resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    ClusterRole,
    Role,
    ClusterRoleBinding,
    RoleBinding,
}

impl Sort {
    pub(super) const ALL: [Self; 4] =
        [Self::ClusterRole, Self::Role, Self::ClusterRoleBinding, Self::RoleBinding];

    pub(super) fn resource(self) -> &'static str {
        match self {
            Self::ClusterRole => "clusterroles",
            Self::Role => "roles",
            Self::ClusterRoleBinding => "clusterrolebindings",
            Self::RoleBinding => "rolebindings",
        }
    }

    /// Whether an index key is of this sort: those of cluster-wide objects have no namespace.
    fn owns(self, key: &Key) -> bool {
        matches!(self, Self::ClusterRole | Self::ClusterRoleBinding) == key.0.is_empty()
    }
}

/// A binding.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) namespace: CompactString,
    pub(super) name: CompactString,
    pub(super) role_kind: CompactString,
    pub(super) role_name: CompactString,
    subjects: Vec<Subject>,
}

/// Whom a binding binds.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) kind: CompactString,
    pub(super) name: CompactString,
    /// Of a service account; its binding's where it has none itself.
    pub(super) namespace: CompactString,
}

/// A user or group as bindings are looked up by; a service account is the user of its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    User(CompactString),
    Group(CompactString),
}

/// A binding and the subject in it that was looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound<'i> {
    key: &'i Key,
    pub(super) binding: &'i Binding,
    pub(super) subject: &'i Subject,
}

/// Everything compiled.
#[derive(Debug, Default)]
pub(super) struct Index {
    roles: BTreeMap<Key, Vec<Rule>>,
    bindings: BTreeMap<Key, Arc<Binding>>,
    /// Bindings and the place of the subject in each, by subject.
    by_subject: BTreeMap<Who, BTreeMap<Key, usize>>,
}

impl Subject {
    fn of(value: &Value, binding_namespace: &str) -> Self {
        let kind: CompactString = value.str_at(&["kind"]).into();
        let given = value.str_at(&["namespace"]);
        let namespace = match (kind.as_str(), given) {
            ("ServiceAccount", "") => binding_namespace.into(),
            ("ServiceAccount", given) => given.into(),
            _ => CompactString::default(),
        };
        Self { kind, name: value.str_at(&["name"]).into(), namespace }
    }

    fn who(&self) -> Option<Who> {
        match self.kind.as_str() {
            "User" => Some(Who::User(self.name.clone())),
            "Group" => Some(Who::Group(self.name.clone())),
            "ServiceAccount" if !self.namespace.is_empty() => {
                let (namespace, name) = (&self.namespace, &self.name);
                let name =
                    compact_str::format_compact!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}");
                Some(Who::User(name))
            }
            _ => None,
        }
    }
}

impl Binding {
    fn of(key: &Key, value: &Value) -> Self {
        let subjects = value.items_at(&["subjects"]).iter();
        Self {
            namespace: key.0.clone(),
            name: key.1.clone(),
            role_kind: value.str_at(&["roleRef", "kind"]).into(),
            role_name: value.str_at(&["roleRef", "name"]).into(),
            subjects: subjects.map(|it| Subject::of(it, &key.0)).collect(),
        }
    }
}

impl Index {
    /// Everything of one sort anew.
    pub(super) fn replace(&mut self, sort: Sort, objects: &[Arc<Obj>]) {
        match sort {
            Sort::ClusterRole | Sort::Role => self.roles.retain(|key, _| !sort.owns(key)),
            Sort::ClusterRoleBinding | Sort::RoleBinding => {
                let keys: Vec<Key> =
                    self.bindings.keys().filter(|key| sort.owns(key)).cloned().collect();
                keys.iter().for_each(|key| self.unbind(key));
            }
        }
        objects.iter().for_each(|object| self.apply(sort, object, false));
    }

    /// One object that changed.
    pub(super) fn apply(&mut self, sort: Sort, object: &Obj, deleted: bool) {
        let key = key_of(object);
        // An object that cannot be decoded grants nothing.
        let value = if deleted { None } else { object.to_value().ok() };
        match (sort, value) {
            (Sort::ClusterRole | Sort::Role, Some(value)) => {
                self.roles.insert(key, Rule::all_of(&value));
            }
            (Sort::ClusterRole | Sort::Role, None) => {
                self.roles.remove(&key);
            }
            (Sort::ClusterRoleBinding | Sort::RoleBinding, value) => {
                self.unbind(&key);
                if let Some(value) = value {
                    self.bind(key, &value);
                }
            }
        }
    }

    fn bind(&mut self, key: Key, value: &Value) {
        let binding = Binding::of(&key, value);
        for (place, subject) in binding.subjects.iter().enumerate() {
            if let Some(who) = subject.who() {
                self.by_subject.entry(who).or_default().entry(key.clone()).or_insert(place);
            }
        }
        self.bindings.insert(key, Arc::new(binding));
    }

    fn unbind(&mut self, key: &Key) {
        let Some(binding) = self.bindings.remove(key) else { return };
        for who in binding.subjects.iter().filter_map(Subject::who) {
            if let Some(keys) = self.by_subject.get_mut(&who) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_subject.remove(&who);
                }
            }
        }
    }

    /// The bindings that may matter to a user: cluster-wide ones first, then those of the namespace. One that binds
    /// the user in several ways comes several times.
    pub(super) fn candidates<'i>(
        &'i self,
        user: &UserInfo,
        namespace: &str,
    ) -> impl Iterator<Item = Bound<'i>> {
        let user_name = std::iter::once(Who::User(user.name.as_str().into()));
        let groups = user.groups.iter().map(|group| Who::Group(group.as_str().into()));
        let sets: Vec<&'i BTreeMap<Key, usize>> =
            user_name.chain(groups).filter_map(|who| self.by_subject.get(&who)).collect();
        let namespaces = [CompactString::default(), namespace.into()];
        let count = if namespace.is_empty() { 1 } else { 2 };
        namespaces.into_iter().take(count).flat_map(move |namespace| {
            sets.clone().into_iter().flat_map(move |set| self.in_namespace(set, &namespace))
        })
    }

    fn in_namespace<'i>(
        &'i self,
        set: &'i BTreeMap<Key, usize>,
        namespace: &CompactString,
    ) -> impl Iterator<Item = Bound<'i>> + use<'i> {
        let first = (namespace.clone(), CompactString::default());
        let namespace = namespace.clone();
        set.range((Edge::Included(first), Edge::Unbounded))
            .take_while(move |(key, _)| key.0 == namespace)
            .filter_map(|(key, place)| {
                let binding = self.bindings.get(key)?;
                Some(Bound { key, binding, subject: binding.subjects.get(*place)? })
            })
    }

    /// The same, each binding once.
    pub(super) fn bindings_of<'i>(
        &'i self,
        user: &UserInfo,
        namespace: &str,
    ) -> impl Iterator<Item = Bound<'i>> {
        let mut unique: BTreeMap<&'i Key, Bound<'i>> = BTreeMap::new();
        for bound in self.candidates(user, namespace) {
            unique.entry(bound.key).or_insert(bound);
        }
        unique.into_values()
    }

    /// The rules of a binding's role.
    pub(super) fn role_of(&self, binding: &Binding) -> Result<&[Rule], String> {
        self.role(RoleRef {
            kind: &binding.role_kind,
            name: &binding.role_name,
            namespace: &binding.namespace,
        })
    }

    /// The rules of a role.
    pub(super) fn role(&self, role: RoleRef<'_>) -> Result<&[Rule], String> {
        let (namespace, word) = match role.kind {
            "ClusterRole" => ("", "clusterrole"),
            "Role" => (role.namespace, "role"),
            other => return Err(format!("unsupported role reference kind: {other:?}")),
        };
        let key = (namespace.into(), role.name.into());
        match self.roles.get(&key) {
            Some(rules) => Ok(rules),
            None => Err(format!("{word}.{GROUP} \"{}\" not found", role.name)),
        }
    }
}
