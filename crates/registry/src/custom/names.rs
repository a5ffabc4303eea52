//! What becomes of a definition's names, and the conditions that say so. Upstream: the naming, establishing, approval and
//! finalizing controllers of the API extensions server.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::field::quote;
use apimachinery::{Object, Value, time};
use jiff::Timestamp;

/// Holds a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Says who approved a definition in a group of the community.
pub(crate) const APPROVED: &str = "api-approved.kubernetes.io";

/// A condition to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

impl Condition {
    /// That a condition holds, or does not.
    #[must_use]
    pub fn new(kind: &'static str, holds: bool, reason: &str, message: &str) -> Self {
        let status = if holds { "True" } else { "False" };
        Self { kind, status, reason: reason.into(), message: message.into() }
    }

    /// Sets it; the time is that of the last change of its status.
    pub fn set(&self, definition: &mut Value, now: Timestamp) {
        let conditions = definition.object_at_mut(&["status"]).entry("conditions");
        if conditions.as_array().is_none() {
            *conditions = Value::Array(Vec::new());
        }
        let Some(list) = conditions.as_array_mut() else { return };
        let mut condition = Object::new();
        condition.insert("type", self.kind);
        condition.insert("status", self.status);
        condition.insert("lastTransitionTime", time::format_time(now));
        condition.insert("reason", self.reason.as_str());
        condition.insert("message", self.message.as_str());
        match list.iter_mut().find(|it| it.str_at(&["type"]) == self.kind) {
            Some(old) => {
                if old.str_at(&["status"]) == self.status {
                    let since = old.get("lastTransitionTime").cloned();
                    condition.insert("lastTransitionTime", since);
                }
                *old = Value::Object(condition);
            }
            None => list.push(Value::Object(condition)),
        }
    }
}

/// Whether a definition's condition holds.
#[must_use]
pub fn holds(definition: &Value, kind: &str) -> bool {
    let conditions = definition.items_at(&["status", "conditions"]).iter();
    conditions.clone().any(|it| it.str_at(&["type"]) == kind && it.str_at(&["status"]) == "True")
}

/// The names in use in a group: of resources (plural, singular and short ones) and of kinds; each with the definitions
/// that have it.
#[derive(Debug, Clone, Default)]
pub struct Used {
    resources: Owners,
    kinds: Owners,
}

type Owners = BTreeMap<String, BTreeSet<String>>;

/// The names of resources and of kinds that a definition has been given.
fn given(definition: &Value) -> (Vec<&str>, Vec<&str>) {
    let names = &definition["status"]["acceptedNames"];
    let short = names.items_at(&["shortNames"]).iter().filter_map(Value::as_str);
    let resources = [names.str_at(&["plural"]), names.str_at(&["singular"])];
    let kinds = vec![names.str_at(&["kind"]), names.str_at(&["listKind"])];
    (resources.into_iter().chain(short).collect(), kinds)
}

impl Used {
    /// Adds the names that a definition has been given.
    pub fn add(&mut self, owner: &str, definition: &Value) {
        let (resources, kinds) = given(definition);
        for (all, names) in [(&mut self.resources, resources), (&mut self.kinds, kinds)] {
            for name in names {
                all.entry(name.to_owned()).or_default().insert(owner.to_owned());
            }
        }
    }

    /// Takes them away again.
    pub fn remove(&mut self, owner: &str, definition: &Value) {
        let (resources, kinds) = given(definition);
        for (all, names) in [(&mut self.resources, resources), (&mut self.kinds, kinds)] {
            for name in names {
                let Some(owners) = all.get_mut(name) else { continue };
                owners.remove(owner);
                if owners.is_empty() {
                    all.remove(name);
                }
            }
        }
    }
}

/// Whether another definition than this one has a name.
fn is_taken(all: &Owners, name: &str, owner: &str) -> bool {
    all.get(name).is_some_and(|owners| owners.iter().any(|it| it != owner))
}

/// What a definition's names and conditions should be.
#[derive(Debug, Clone)]
pub struct Decision {
    accepted: Value,
    conditions: Vec<Condition>,
    /// Whether its objects are to be served.
    pub is_served: bool,
}

/// Gives a definition the names that it wants and no other has; `used` are those in use in its group.
#[must_use]
pub fn decide(definition: &Value, used: &Used) -> Decision {
    let owner = definition.str_at(&["metadata", "name"]);
    let wanted = &definition["spec"]["names"];
    let had = &definition["status"]["acceptedNames"];
    let mut conflict: Option<(&str, String)> = None;
    let mut accepted = Object::new();
    let mut one = |member: &'static str, reason: &'static str, taken: &Owners| {
        let (name, own) = (wanted.str_at(&[member]), had.str_at(&[member]));
        if name == own || !is_taken(taken, name, owner) {
            accepted.insert(member, name);
        } else {
            conflict = Some((reason, format!("{} is already in use", quote(name))));
            accepted.insert(member, own);
        }
    };
    one("plural", "PluralConflict", &used.resources);
    one("singular", "SingularConflict", &used.resources);
    let (short, problems) = short_names(wanted, had, used, owner);
    let short_conflict = problems.map(|it| ("ShortNamesConflict", it));
    one("kind", "KindConflict", &used.kinds);
    one("listKind", "ListKindConflict", &used.kinds);
    // The last conflict is told; those of short names stand before those of kinds.
    let kinds = conflict.as_ref().is_some_and(|(reason, _)| reason.contains("Kind"));
    let conflict = if kinds { conflict } else { short_conflict.or(conflict) };
    for (member, list) in [("shortNames", short), ("categories", wanted.get("categories"))] {
        if let Some(list) = list.filter(|it| it.as_array().is_some_and(|it| !it.is_empty())) {
            accepted.insert(member, list.clone());
        }
    }
    let established = holds(definition, "Established");
    let is_served = established || conflict.is_none();
    let mut conditions = vec![match &conflict {
        Some((reason, message)) => Condition::new("NamesAccepted", false, reason, message),
        None => Condition::new("NamesAccepted", true, "NoConflicts", "no conflicts found"),
    }];
    if !established {
        conditions.push(if is_served {
            let message = "the initial names have been accepted";
            Condition::new("Established", true, "InitialNamesAccepted", message)
        } else {
            Condition::new("Established", false, "NotAccepted", "not all names are accepted")
        });
    }
    conditions.extend(approval(definition));
    Decision { accepted: Value::Object(accepted), conditions, is_served }
}

/// The short names a definition gets, and why it does not get those it wants.
fn short_names<'v>(
    wanted: &'v Value,
    had: &'v Value,
    used: &Used,
    owner: &str,
) -> (Option<&'v Value>, Option<String>) {
    let own = had.items_at(&["shortNames"]);
    let problems: Vec<String> = wanted
        .items_at(&["shortNames"])
        .iter()
        .filter(|it| !own.contains(it))
        .filter_map(Value::as_str)
        .filter(|it| is_taken(&used.resources, it, owner))
        .map(|it| format!("{} is already in use", quote(it)))
        .collect();
    match problems.as_slice() {
        [] => (wanted.get("shortNames"), None),
        [one] => (had.get("shortNames"), Some(one.clone())),
        many => (had.get("shortNames"), Some(format!("[{}]", many.join(", ")))),
    }
}

impl Decision {
    /// Writes it into the definition's status; says whether that changed anything.
    pub fn write(&self, definition: &mut Value, now: Timestamp) -> bool {
        let before = definition.get("status").cloned();
        definition.set_at(&["status", "acceptedNames"], self.accepted.clone());
        self.conditions.iter().for_each(|it| it.set(definition, now));
        definition.get("status") != before.as_ref()
    }

    /// Says that the objects cannot be served after all.
    pub fn refuse(&mut self, why: &str) {
        self.is_served = false;
        self.conditions.retain(|it| it.kind != "Established");
        self.conditions.push(Condition::new("Established", false, "Installing", why));
    }
}

/// Whether a group is one of the community's, where definitions need its approval.
#[must_use]
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|it| group.strip_suffix(it).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// What the annotation says: the reason of the condition, and a message.
fn approval_of(definition: &Value) -> (bool, &'static str, String) {
    const SEE: &str = "https://github.com/kubernetes/enhancements/pull/1111";
    let text = definition.str_at(&["metadata", "annotations", APPROVED]);
    let is_url = text.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/')
    });
    let name = quote(APPROVED);
    match text {
        "" => {
            let why = format!("protected groups must have approval annotation {name}, see {SEE}");
            (false, "MissingAnnotation", why)
        }
        it if it.starts_with("unapproved") => {
            (false, "UnapprovedAnnotation", format!("not approved: {}", quote(it)))
        }
        it if is_url => (true, "ApprovedAnnotation", format!("approved in {it}")),
        _ => {
            let why = format!(
                "protected groups must have approval annotation {name} with either a URL or a reason starting with \"unapproved\", see {SEE}"
            );
            (false, "InvalidAnnotation", why)
        }
    }
}

fn approval(definition: &Value) -> Option<Condition> {
    const KIND: &str = "KubernetesAPIApprovalPolicyConformant";
    is_protected(definition.str_at(&["spec", "group"])).then(|| {
        let (holds, reason, message) = approval_of(definition);
        Condition::new(KIND, holds, reason, &message)
    })
}

/// What is wrong with the approval of a new definition.
pub(crate) fn approval_problem(definition: &Value) -> Option<String> {
    let protected = is_protected(definition.str_at(&["spec", "group"]));
    let (_, reason, message) = approval_of(definition);
    (protected && matches!(reason, "MissingAnnotation" | "InvalidAnnotation")).then_some(message)
}

/// The first delete of a definition: its objects go first.
pub(crate) fn begin_deletion(definition: &mut Value, now: Timestamp) {
    if definition.at(&["metadata", "deletionTimestamp"]).is_some() {
        return;
    }
    let mut finalizers = definition.items_at(&["metadata", "finalizers"]).to_vec();
    if !finalizers.iter().any(|it| it.as_str() == Some(CLEANUP)) {
        finalizers.push(CLEANUP.into());
    }
    definition.set_at(&["metadata", "finalizers"], Value::Array(finalizers));
    definition.set_at(&["metadata", "deletionTimestamp"], time::format_time(now));
    let message =
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    Condition::new("Terminating", true, "InstanceDeletionPending", message).set(definition, now);
}

/// Whether a definition is being deleted and its objects are to go.
#[must_use]
pub fn is_ending(definition: &Value) -> bool {
    definition.at(&["metadata", "deletionTimestamp"]).is_some()
        && definition
            .items_at(&["metadata", "finalizers"])
            .iter()
            .any(|it| it.as_str() == Some(CLEANUP))
}

/// The definition's objects are gone: so may it be.
pub fn end_deletion(definition: &mut Value, now: Timestamp) {
    let message = "removed all instances";
    Condition::new("Terminating", false, "InstanceDeletionCompleted", message).set(definition, now);
    let mut finalizers = definition.items_at(&["metadata", "finalizers"]).to_vec();
    finalizers.retain(|it| it.as_str() != Some(CLEANUP));
    definition.set_at(&["metadata", "finalizers"], Value::Array(finalizers));
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::value;

    fn definition(kind: &str, plural: &str, short: &[&str]) -> Value {
        let short: Value = short.iter().copied().collect();
        value!({"metadata": {"name": (format!("{plural}.ex.example"))}, "spec": {"group": "ex.example", "names": {"plural": plural,
            "singular": (kind.to_lowercase()), "kind": kind, "listKind": (format!("{kind}List")),
            "shortNames": short}}, "status": {"acceptedNames": {"plural": "", "kind": ""}}})
    }

    fn conditions(definition: &Value) -> Vec<String> {
        let text = |it: &Value| {
            let part = |member| it.str_at(&[member]).to_owned();
            [part("type"), part("status"), part("reason"), part("message")].join("|")
        };
        definition.items_at(&["status", "conditions"]).iter().map(text).collect()
    }

    #[test]
    fn names_go_to_who_comes_first() {
        let now = Timestamp::UNIX_EPOCH;
        let (mut first, mut second) =
            (definition("Widget", "widgets", &["wi"]), definition("Gadget", "gadgets", &["wi"]));
        let mut used = Used::default();
        assert!(decide(&first, &used).write(&mut first, now));
        assert_eq!(
            conditions(&first),
            [
                "NamesAccepted|True|NoConflicts|no conflicts found",
                "Established|True|InitialNamesAccepted|the initial names have been accepted",
            ]
        );
        used.add("widgets.ex.example", &first);
        assert!(!decide(&first, &used).write(&mut first, now), "its own names are no conflict");
        let decision = decide(&second, &used);
        assert!(!decision.is_served);
        decision.write(&mut second, now);
        assert_eq!(
            conditions(&second),
            [
                "NamesAccepted|False|ShortNamesConflict|\"wi\" is already in use",
                "Established|False|NotAccepted|not all names are accepted",
            ]
        );
        assert_eq!(second.str_at(&["status", "acceptedNames", "kind"]), "Gadget");
        let mut free = used.clone();
        free.remove("widgets.ex.example", &first);
        assert!(decide(&second, &free).is_served);
        let third = definition("Widget", "others", &[]);
        let mut told = third.clone();
        decide(&third, &used).write(&mut told, now);
        assert_eq!(
            conditions(&told)[0],
            "NamesAccepted|False|ListKindConflict|\"WidgetList\" is already in use"
        );
    }

    #[test]
    fn groups_of_the_community_need_approval() {
        for (group, annotation, expected) in [
            ("a.example", "", None),
            ("a.k8s.io", "", Some("MissingAnnotation")),
            (
                "a.k8s.io",
                "https://github.com/kubernetes/kubernetes/pull/1",
                Some("ApprovedAnnotation"),
            ),
            ("kubernetes.io", "unapproved, an experiment", Some("UnapprovedAnnotation")),
            ("a.k8s.io", "yes", Some("InvalidAnnotation")),
            ("notk8s.io", "", None),
        ] {
            let mut it = value!({"spec": {"group": group}, "metadata": {"annotations": {}}});
            it.set_at(&["metadata", "annotations", APPROVED], annotation);
            assert_eq!(approval(&it).map(|it| it.reason).as_deref(), expected, "{group}");
        }
    }

    #[test]
    fn a_definition_waits_for_its_objects() {
        let now = Timestamp::UNIX_EPOCH;
        let mut it = definition("Widget", "widgets", &[]);
        begin_deletion(&mut it, now);
        assert!(is_ending(&it));
        assert!(holds(&it, "Terminating"));
        end_deletion(&mut it, now);
        assert!(!is_ending(&it));
        assert!(!holds(&it, "Terminating"));
    }
}
