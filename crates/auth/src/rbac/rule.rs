//! Policy rules, compiled: what they allow and what they cover.

use apimachinery::field::quote;
use apimachinery::{Object, Value};
use compact_str::CompactString;

use crate::Attributes;

const ALL: &str = "*";

/// One `PolicyRule`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// `get`, `*`
    pub verbs: Vec<CompactString>,
    /// `apps`, `*`
    pub groups: Vec<CompactString>,
    /// `pods`, `pods/log`, `*/scale`, `*`
    pub resources: Vec<CompactString>,
    /// Names of objects; empty for all.
    pub names: Vec<CompactString>,
    /// `/healthz`, `/apis/*`
    pub urls: Vec<CompactString>,
}

fn has(list: &[CompactString], wanted: &str) -> bool {
    list.iter().any(|it| it == wanted)
}

fn has_or_all(list: &[CompactString], wanted: &str) -> bool {
    list.iter().any(|it| it == wanted || it == ALL)
}

impl Rule {
    /// The rule of a `PolicyRule`.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        let list = |member| -> Vec<CompactString> {
            value.items_at(&[member]).iter().filter_map(Value::as_str).map(Into::into).collect()
        };
        Self {
            verbs: list("verbs"),
            groups: list("apiGroups"),
            resources: list("resources"),
            names: list("resourceNames"),
            urls: list("nonResourceURLs"),
        }
    }

    /// The rules of a role.
    #[must_use]
    pub fn all_of(role: &Value) -> Vec<Self> {
        role.items_at(&["rules"]).iter().map(Self::of).collect()
    }

    /// Whether it allows what is asked.
    #[must_use]
    pub fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !has_or_all(&self.verbs, asked.verb) {
            return false;
        }
        if !asked.is_resource() {
            return self.urls.iter().any(|url| url_covers(url, asked.path));
        }
        has_or_all(&self.groups, asked.group)
            && self.matches_resource(asked.resource, asked.subresource)
            && (self.names.is_empty() || has(&self.names, asked.name))
    }

    fn matches_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|rule| match rule.split_once('/') {
            None => rule == ALL || (subresource.is_empty() && rule == resource),
            Some((of, sub)) => {
                !subresource.is_empty() && sub == subresource && (of == ALL || of == resource)
            }
        })
    }

    /// Whether everything that the simple rule `other` allows is allowed here.
    fn covers(&self, other: &Self) -> bool {
        let all = |own: &[CompactString], others: &[CompactString]| {
            has(own, ALL) || others.iter().all(|it| has(own, it))
        };
        all(&self.verbs, &other.verbs)
            && all(&self.groups, &other.groups)
            && other.resources.iter().all(|it| self.covers_resource(it))
            && other.urls.iter().all(|it| self.urls.iter().any(|own| url_covers(own, it)))
            && (self.names.is_empty()
                || (!other.names.is_empty() && other.names.iter().all(|it| has(&self.names, it))))
    }

    fn covers_resource(&self, resource: &str) -> bool {
        if has_or_all(&self.resources, resource) {
            return true;
        }
        let Some((_, sub)) = resource.split_once('/') else { return false };
        self.resources.iter().any(|own| own.strip_prefix("*/") == Some(sub))
    }

    /// The rules of one verb and one resource or URL that together allow the same.
    fn break_down(&self, out: &mut Vec<Self>) {
        let one = |text: &CompactString| vec![text.clone()];
        for group in &self.groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let rule = Self {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        ..Self::default()
                    };
                    if self.names.is_empty() {
                        out.push(rule);
                        continue;
                    }
                    let named = self.names.iter().map(|it| Self { names: one(it), ..rule.clone() });
                    out.extend(named);
                }
            }
        }
        for url in &self.urls {
            let rules = self.verbs.iter().map(|it| Self {
                verbs: one(it),
                urls: one(url),
                ..Self::default()
            });
            out.extend(rules);
        }
    }

    /// The rule as a `PolicyRule`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let members = [
            ("verbs", &self.verbs),
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ];
        let members =
            members.into_iter().filter(|(name, items)| *name == "verbs" || !items.is_empty());
        let members = members.map(|(name, items)| {
            (name, items.iter().map(CompactString::as_str).collect::<Value>())
        });
        Value::Object(Object::from_iter(members))
    }

    /// As the review of one's own rules shows it: the resource part or the other part.
    #[must_use]
    pub fn to_review(&self) -> (bool, Value) {
        let is_resource = !self.resources.is_empty();
        let mut shown = self.clone();
        if is_resource {
            shown.urls.clear();
        } else {
            (shown.groups, shown.names) = (Vec::new(), Vec::new());
        }
        (is_resource, shown.to_value())
    }
}

/// As upstream's refusals show a rule.
impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        let parts = parts.iter().filter(|(_, items)| !items.is_empty()).map(|(name, items)| {
            let items: Vec<String> = items.iter().map(|it| quote(it)).collect();
            format!("{name}:[{}]", items.join(" "))
        });
        let parts: Vec<String> = parts.collect();
        write!(f, "{{{}}}", parts.join(", "))
    }
}

fn url_covers(own: &str, wanted: &str) -> bool {
    own == wanted || own.ends_with('*') && wanted.starts_with(own.trim_end_matches('*'))
}

/// The simple rules of `wanted` that no rule of `owned` covers, joined again where they differ in their verbs only.
#[must_use]
pub fn missing(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut simple = Vec::new();
    wanted.iter().for_each(|rule| rule.break_down(&mut simple));
    let mut missing: Vec<Rule> = Vec::new();
    for rule in simple {
        if owned.iter().any(|own| own.covers(&rule)) {
            continue;
        }
        let same = |it: &&mut Rule| {
            rule.urls.is_empty()
                && (&it.groups, &it.resources, &it.names, &it.urls)
                    == (&rule.groups, &rule.resources, &rule.names, &rule.urls)
        };
        match missing.iter_mut().find(same) {
            Some(joined) => joined.verbs.extend(rule.verbs),
            None => missing.push(rule),
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserInfo;
    use apimachinery::json;

    fn rule(text: &str) -> Rule {
        Rule::of(&json::parse(text.as_bytes()).unwrap())
    }

    /// `asked` is `verb group resource/subresource name`, or `verb /path`.
    fn check(rule: &str, asked: &str, expected: bool) {
        let user = UserInfo::default();
        let mut attributes = Attributes::of(&user);
        let words: Vec<&str> = asked.split(' ').collect();
        match words.as_slice() {
            [verb, path] => (attributes.verb, attributes.path) = (verb, path),
            [verb, group, resource, name] => {
                (attributes.verb, attributes.group, attributes.name) = (verb, group, name);
                (attributes.resource, attributes.subresource) =
                    resource.split_once('/').unwrap_or((resource, ""));
            }
            _ => panic!("odd case {asked}"),
        }
        assert_eq!(self::rule(rule).allows(&attributes), expected, "{rule} for {asked}");
    }

    #[test]
    fn rules_allow_what_they_say() {
        let pods = r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}"#;
        check(pods, "get  pods p", true);
        check(pods, "list  pods ", false);
        check(pods, "get  pods/log p", false);
        check(pods, "get apps pods p", false);
        check(pods, "get /pods", false);
        let scale = r#"{"verbs":["*"],"apiGroups":["*"],"resources":["*/scale"]}"#;
        check(scale, "patch apps deployments/scale d", true);
        check(scale, "patch apps deployments d", false);
        let all = r#"{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}"#;
        check(all, "delete apps deployments/scale d", true);
        check(all, "get /healthz", false);
        let log = r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods/log"]}"#;
        check(log, "get  pods/log p", true);
        check(log, "get  pods p", false);
        let named = r#"{"verbs":["get","list"],"apiGroups":[""],"resources":["secrets"],"resourceNames":["a"]}"#;
        check(named, "get  secrets a", true);
        check(named, "get  secrets b", false);
        check(named, "list  secrets ", false);
        let urls = r#"{"verbs":["get"],"nonResourceURLs":["/healthz","/apis/*"]}"#;
        check(urls, "get /healthz", true);
        check(urls, "get /healthz/etcd", false);
        check(urls, "get /apis/apps", true);
        check(urls, "post /apis/apps", false);
        check(urls, "get  pods p", false);
        check(r#"{"verbs":["get"],"nonResourceURLs":["*"]}"#, "get /anything", true);
    }

    fn check_missing(owned: &[&str], wanted: &str, expected: &[&str]) {
        let owned: Vec<Rule> = owned.iter().map(|it| rule(it)).collect();
        let missing: Vec<String> =
            missing(&owned, &[rule(wanted)]).iter().map(ToString::to_string).collect();
        assert_eq!(missing, expected, "{owned:?} against {wanted}");
    }

    #[test]
    fn what_is_not_covered_is_told() {
        let secrets =
            r#"{"verbs":["get","list"],"apiGroups":[""],"resources":["secrets","pods/log"]}"#;
        check_missing(
            &[],
            secrets,
            &[
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}"#,
                r#"{APIGroups:[""], Resources:["pods/log"], Verbs:["get" "list"]}"#,
            ],
        );
        let get = r#"{"verbs":["get"],"apiGroups":["*"],"resources":["*"]}"#;
        let list = r#"{"verbs":["list"],"apiGroups":[""],"resources":["secrets","*/log"]}"#;
        check_missing(&[get, list], secrets, &[]);
        check_missing(
            &[r#"{"verbs":["*"],"apiGroups":[""],"resources":["secrets"],"resourceNames":["a"]}"#],
            r#"{"verbs":["get"],"apiGroups":[""],"resources":["secrets"],"resourceNames":["a","b"]}"#,
            &[r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["b"], Verbs:["get"]}"#],
        );
        check_missing(
            &[r#"{"verbs":["get"],"nonResourceURLs":["/apis/*"]}"#],
            r#"{"verbs":["get"],"nonResourceURLs":["/apis/x","/metrics"]}"#,
            &[r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#],
        );
        // All names are more than some.
        check_missing(
            &[r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods"],"resourceNames":["a"]}"#],
            r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}"#,
            &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#],
        );
    }
}
