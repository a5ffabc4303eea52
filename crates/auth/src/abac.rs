//! Policies in a file, one a line. Upstream: `pkg/auth/authorizer/abac`.

use apimachinery::{Object, Status, Value, json, value};

use crate::user::{ALL_AUTHENTICATED, ALL_UNAUTHENTICATED};
use crate::{Attributes, Authorizer, Decision, Rules, UserInfo};

/// The largest policy file, in bytes.
const MAX_BYTES: usize = 64 << 20;
const VERSION: &str = "abac.authorization.kubernetes.io/v1beta1";

/// The policies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Abac(Vec<Policy>);

/// Who may do what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    path: String,
}

impl Abac {
    /// The policies of a file's text.
    ///
    /// # Errors
    /// The first line that cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("the policy file has more than {MAX_BYTES} bytes"));
        }
        let mut policies = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let told =
                |why: &str| format!("error reading policy file, line {number}: {line}: {why}");
            let value = json::parse(line.as_bytes()).map_err(|error| told(&error.to_string()))?;
            policies.push(Policy::of(&value).map_err(|why| told(&why))?);
        }
        Ok(Self(policies))
    }
}

/// Refuses members that are of another type than the policy's: one that were ignored could allow more than was meant, as
/// `"readonly": "yes"` would.
fn are_of_their_types(members: &Object) -> Result<(), String> {
    for name in ["user", "group", "apiGroup", "resource", "namespace", "nonResourcePath"] {
        if members.get(name).is_some_and(|it| !it.is_null() && it.as_str().is_none()) {
            return Err(format!("{name}: it is no string"));
        }
    }
    match members.get("readonly") {
        Some(it) if !it.is_null() && it.as_bool().is_none() => {
            Err("readonly: it is neither true nor false".into())
        }
        _ => Ok(()),
    }
}

impl Policy {
    fn of(value: &Value) -> Result<Self, String> {
        let object = value.as_object().ok_or("it is no object")?;
        match (value.str_at(&["apiVersion"]), value.str_at(&["kind"])) {
            ("", "") => {
                are_of_their_types(object)?;
                Ok(Self::legacy(object))
            }
            (VERSION, "Policy") => {
                let spec = &value["spec"];
                match spec {
                    Value::Null => {}
                    Value::Object(spec) => are_of_their_types(spec)?,
                    _ => return Err("spec: it is no object".into()),
                }
                Ok(Self::current(spec))
            }
            (version, kind) => {
                Err(format!("no kind {kind:?} is registered for version {version:?}"))
            }
        }
    }

    fn current(spec: &Value) -> Self {
        let text = |member| spec.str_at(&[member]).to_owned();
        Self {
            user: text("user"),
            group: text("group"),
            readonly: spec.bool_at(&["readonly"]),
            api_group: text("apiGroup"),
            resource: text("resource"),
            namespace: text("namespace"),
            path: text("nonResourcePath"),
        }
    }

    /// A line without a version: what it does not name it allows.
    fn legacy(object: &Object) -> Self {
        let text = |member| object.get(member).and_then(Value::as_str).unwrap_or_default();
        let or_any = |text: &str| if text.is_empty() { "*".to_owned() } else { text.to_owned() };
        let mut policy = Self {
            user: text("user").to_owned(),
            group: text("group").to_owned(),
            readonly: object.get("readonly").and_then(Value::as_bool).unwrap_or_default(),
            api_group: "*".into(),
            ..Self::default()
        };
        let (resource, namespace) = (text("resource"), text("namespace"));
        if policy.user.is_empty() && policy.group.is_empty() {
            // Of old nobody was unknown.
            policy.group = ALL_AUTHENTICATED.into();
        } else if policy.user == "*" {
            policy.user.clear();
            policy.group = ALL_AUTHENTICATED.into();
        }
        policy.resource = or_any(resource);
        policy.namespace = or_any(namespace);
        if resource.is_empty() && namespace.is_empty() {
            policy.path = "*".into();
        }
        policy
    }

    fn is_for_user(&self, user: &UserInfo) -> bool {
        if self.user.is_empty() && self.group.is_empty() {
            return false;
        }
        let known = || user.is_in(ALL_AUTHENTICATED) || user.is_in(ALL_UNAUTHENTICATED);
        let may_be = |policy: &str, own: bool| match policy {
            "" => true,
            "*" => known(),
            _ => own,
        };
        may_be(&self.user, self.user == user.name) && may_be(&self.group, user.is_in(&self.group))
    }

    fn allows(&self, asked: &Attributes<'_>) -> bool {
        let is = |policy: &str, asked: &str| policy == "*" || policy == asked;
        let read_only = matches!(asked.verb, "get" | "list" | "watch");
        if self.readonly && !read_only {
            return false;
        }
        if asked.is_resource() {
            return is(&self.namespace, asked.namespace)
                && is(&self.resource, asked.resource)
                && is(&self.api_group, asked.group);
        }
        match self.path.strip_suffix('*') {
            Some(start) => asked.path.starts_with(start),
            None => !self.path.is_empty() && self.path == asked.path,
        }
    }
}

impl Authorizer for Abac {
    fn decide(&self, attributes: &Attributes<'_>) -> Option<Decision> {
        let mut for_user = self.0.iter().filter(|it| it.is_for_user(attributes.user));
        Some(if for_user.any(|it| it.allows(attributes)) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion("No policy matched.".into())
        })
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Result<Rules, Status> {
        let mut rules = Rules::default();
        for policy in self.0.iter().filter(|it| it.is_for_user(user)) {
            let verbs: Value =
                if policy.readonly { value!(["get", "list", "watch"]) } else { value!(["*"]) };
            let here = policy.namespace == "*" || policy.namespace == namespace;
            if here && !policy.resource.is_empty() {
                let (group, resource) = (policy.api_group.as_str(), policy.resource.as_str());
                rules.resource.push(
                    value!({"verbs": (verbs.clone()), "apiGroups": [group], "resources": [resource]}),
                );
            }
            if !policy.path.is_empty() {
                let path = policy.path.as_str();
                rules.non_resource.push(value!({"verbs": verbs, "nonResourceURLs": [path]}));
            }
        }
        Ok(rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICIES: &str = r##"# who may what
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"alice","namespace":"*","resource":"*","apiGroup":"*"}}
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"bob","namespace":"a","resource":"pods","readonly":true}}
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"group":"system:authenticated","readonly":true,"nonResourcePath":"/api*"}}
{"user":"old","resource":"pods","readonly":true}
"##;

    #[test]
    fn a_line_allows_what_it_names() {
        let abac = Abac::parse(POLICIES).unwrap();
        for (user, verb, what, allowed) in [
            ("alice", "delete", "b pods apps", true),
            ("alice", "delete", "/x", false),
            ("bob", "list", "a pods ", true),
            ("bob", "list", "b pods ", false),
            ("bob", "list", "a pods apps", false),
            ("bob", "create", "a pods ", false),
            ("bob", "get", "/apis/x", true),
            ("bob", "post", "/apis/x", false),
            ("old", "get", "c pods apps", true),
            ("old", "get", "c secrets ", false),
            ("old", "get", "/metrics", false),
        ] {
            let user = UserInfo::new(user, &[]);
            let mut asked = Attributes { verb, ..Attributes::of(&user) };
            match what.split(' ').collect::<Vec<_>>().as_slice() {
                [namespace, resource, group] => {
                    asked = Attributes { namespace, resource, group, ..asked };
                }
                _ => asked.path = what,
            }
            let decision = abac.decide(&asked).unwrap();
            assert_eq!(decision.is_allowed(), allowed, "{} {verb} {what}", user.name);
        }
        let rules = abac.rules_for(&UserInfo::new("bob", &[]), "a").unwrap();
        assert_eq!((rules.resource.len(), rules.non_resource.len()), (1, 1));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        let error = Abac::parse("\n{\"kind\":\"Policy\",\"apiVersion\":\"v9\"}").unwrap_err();
        assert!(error.contains("line 2") && error.contains("\"v9\""), "{error}");
        assert!(Abac::parse("[]").is_err());
    }

    #[test]
    fn a_member_of_another_type_is_no_policy() {
        let current = |spec: &str| {
            Abac::parse(&format!(r#"{{"apiVersion":"{VERSION}","kind":"Policy","spec":{spec}}}"#))
        };
        for spec in [r#"{"user":"b","readonly":"yes"}"#, r#"{"user":"b","namespace":["a"]}"#, "[]"]
        {
            current(spec).unwrap_err();
        }
        Abac::parse(r#"{"user":"b","readonly":1}"#).unwrap_err();
        current(r#"{"user":"b","readonly":null,"unknown":1}"#).unwrap();
    }
}
