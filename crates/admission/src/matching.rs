//! Which requests a webhook or policy is for. Upstream: `pkg/admission/plugin/webhook/generic` and
//! `pkg/admission/plugin/policy/matching`.

use api::ResourceFacts;
use apimachinery::labels::Selector;
use apimachinery::status::GroupResource;
use apimachinery::{Status, Value};

use crate::followed::GROUP;
use crate::{Attributes, Objects, Operation};

const NAMESPACES: &str = "namespaces";

/// What configures admission is never subject to it, so that a bad configuration can be taken away.
pub(crate) fn is_exempt(attributes: &Attributes<'_>) -> bool {
    attributes.group == GROUP
        && matches!(
            attributes.resource,
            "validatingwebhookconfigurations"
                | "mutatingwebhookconfigurations"
                | "validatingadmissionpolicies"
                | "validatingadmissionpolicybindings"
                | "mutatingadmissionpolicies"
                | "mutatingadmissionpolicybindings"
        )
}

/// Questions about tokens and rights: policies never see them (webhooks do), as upstream has it.
pub(crate) fn is_review(attributes: &Attributes<'_>) -> bool {
    matches!(
        (attributes.group, attributes.resource),
        ("authentication.k8s.io", "selfsubjectreviews" | "tokenreviews")
            | (
                "authorization.k8s.io",
                "localsubjectaccessreviews"
                    | "selfsubjectaccessreviews"
                    | "selfsubjectrulesreviews"
                    | "subjectaccessreviews"
            )
    )
}

/// The namespace a request is in; that of a namespace is itself.
pub(crate) fn namespace_of<'a>(attributes: &'a Attributes<'_>) -> &'a str {
    if attributes.group.is_empty() && attributes.resource == NAMESPACES {
        attributes.object_name()
    } else {
        attributes.namespace
    }
}

/// The name of an operation in rules and reviews.
pub(crate) fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// `matchResources` of a policy or binding, or the same members of a webhook.
#[derive(Debug)]
pub(crate) struct Constraints {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    is_equivalent: bool,
    /// Without rules everything is meant.
    all_without_rules: bool,
    namespaces: Result<Selector, String>,
    objects: Result<Selector, String>,
}

#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resources with their subresources.
    resources: Vec<(String, String)>,
    names: Vec<String>,
    scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    Cluster,
    Namespaced,
}

impl Constraints {
    /// Those of a webhook.
    pub(crate) fn of_webhook(hook: &Value) -> Self {
        Self { rules: rules(hook, "rules"), all_without_rules: false, ..Self::of_policy(hook) }
    }

    /// Those of a policy or of a binding.
    pub(crate) fn of_policy(resources: &Value) -> Self {
        let selector = |member: &str| {
            let empty = Value::object();
            let given = resources.get(member).unwrap_or(&empty);
            Selector::from_value(Some(given)).map_err(|error| error.to_string())
        };
        Self {
            rules: rules(resources, "resourceRules"),
            excluded: rules(resources, "excludeResourceRules"),
            is_equivalent: resources.str_at(&["matchPolicy"]) != "Exact",
            all_without_rules: true,
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// The version of the request's resource in which it is meant; `None` where it is not.
    ///
    /// # Errors
    /// When it is meant as far as can be told, and a selector cannot be applied.
    pub(crate) async fn find(
        &self,
        attributes: &Attributes<'_>,
        objects: &dyn Objects,
    ) -> Result<Option<&'static ResourceFacts>, Status> {
        // Rules first: they are the cheapest to ask, and mostly say no.
        if !self.excluded.is_empty() && self.by_rules(&self.excluded, attributes).is_some() {
            return Ok(None);
        }
        let found = if self.rules.is_empty() && self.all_without_rules {
            attributes.context.versions().first().copied()
        } else {
            self.by_rules(&self.rules, attributes)
        };
        let Some(found) = found else { return Ok(None) };
        let in_namespace = self.by_namespace(attributes, objects).await;
        if matches!(in_namespace, Ok(false)) {
            return Ok(None);
        }
        if !self.by_labels(attributes)? {
            return Ok(None);
        }
        in_namespace.map(|_| Some(found))
    }

    fn by_rules(
        &self,
        rules: &[Rule],
        attributes: &Attributes<'_>,
    ) -> Option<&'static ResourceFacts> {
        let likely = |rule: &&Rule| rule.may_mean(attributes);
        if !rules.iter().any(|it| likely(&it)) {
            return None;
        }
        let versions = attributes.context.versions();
        let (own, others) = versions.split_first()?;
        if rules.iter().any(|it| it.means(attributes, own)) {
            return Some(own);
        }
        if !self.is_equivalent {
            return None;
        }
        let equivalent = |rule: &Rule| others.iter().find(|it| rule.means(attributes, it)).copied();
        rules.iter().find_map(equivalent)
    }

    async fn by_namespace(
        &self,
        attributes: &Attributes<'_>,
        objects: &dyn Objects,
    ) -> Result<bool, Status> {
        let name = namespace_of(attributes);
        let is_namespace = attributes.group.is_empty() && attributes.resource == NAMESPACES;
        if name.is_empty() && !is_namespace {
            return Ok(true);
        }
        let selector = self.namespaces.as_ref().map_err(Status::internal)?;
        if selector.is_everything() {
            return Ok(true);
        }
        let written = matches!(attributes.operation, Operation::Create | Operation::Update);
        if is_namespace && attributes.subresource.is_empty() && written {
            return Ok(selects(selector, attributes.object));
        }
        let found = match objects.get("", NAMESPACES, "", name) {
            Some(found) => Some(found),
            None => objects.get_live("", NAMESPACES, "", name).await?,
        };
        let of = GroupResource { group: "", resource: NAMESPACES };
        let found = found.ok_or_else(|| Status::not_found(of, name))?;
        Ok(selector.matches(|key| found.facts.label(key)))
    }

    fn by_labels(&self, attributes: &Attributes<'_>) -> Result<bool, Status> {
        let selector = self.objects.as_ref().map_err(Status::internal)?;
        if selector.is_everything() {
            return Ok(true);
        }
        if attributes.subresource == "scale" {
            // A `Scale` has no labels, whatever it is the scale of.
            return Ok(selector.matches(|_| None));
        }
        // What a stream goes into is not its object.
        let old = attributes.old.filter(|_| attributes.operation != Operation::Connect);
        Ok(selects(selector, attributes.object) || old.is_some_and(|old| selects(selector, old)))
    }
}

fn selects(selector: &Selector, object: &Value) -> bool {
    let labels = object.at(&["metadata", "labels"]).and_then(Value::as_object);
    !object.is_null() && selector.matches_labels(labels)
}

fn rules(of: &Value, member: &str) -> Vec<Rule> {
    of.items_at(&[member]).iter().map(Rule::new).collect()
}

/// Whether a list has a value, or all.
fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|it| it == "*" || it == value)
}

impl Rule {
    fn new(rule: &Value) -> Self {
        let texts = |member: &str| -> Vec<String> {
            let items = rule.items_at(&[member]).iter();
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let split = |text: String| match text.split_once('/') {
            Some((resource, subresource)) => (resource.to_owned(), subresource.to_owned()),
            None => (text, String::new()),
        };
        Self {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources").into_iter().map(split).collect(),
            names: texts("resourceNames"),
            scope: match rule.str_at(&["scope"]) {
                "Cluster" => Scope::Cluster,
                "Namespaced" => Scope::Namespaced,
                _ => Scope::All,
            },
        }
    }

    /// Whether it could be for a request, in whatever group and version.
    fn may_mean(&self, attributes: &Attributes<'_>) -> bool {
        has(&self.operations, operation(attributes.operation))
            && self.resources.iter().any(|(resource, subresource)| {
                (resource == "*" || resource == attributes.resource)
                    && (subresource == "*" || subresource == attributes.subresource)
            })
    }

    fn means(&self, attributes: &Attributes<'_>, version: &ResourceFacts) -> bool {
        let name = attributes.name;
        self.may_mean(attributes)
            && has(&self.groups, version.group)
            && has(&self.versions, version.version)
            && self.is_in_scope(attributes)
            && (self.names.is_empty() || self.names.iter().any(|it| it == name))
    }

    fn is_in_scope(&self, attributes: &Attributes<'_>) -> bool {
        match self.scope {
            Scope::All => true,
            Scope::Cluster => attributes.namespace.is_empty(),
            Scope::Namespaced => !attributes.namespace.is_empty(),
        }
    }
}
