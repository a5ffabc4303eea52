//! What a FlowSchema says, and which requests it is about. Upstream: `apihelpers` and `flowcontrol/rule.go`.

use apimachinery::Value;
use compact_str::CompactString;

/// A request, as far as schemas look at it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The user's name.
    pub user: &'a str,
    /// The user's groups.
    pub groups: &'a [String],
    /// `get`, `list`, ...
    pub verb: &'a str,
    /// Whether it is about a resource, and not a path.
    pub is_resource: bool,
    /// The API group.
    pub group: &'a str,
    /// The plural name.
    pub resource: &'a str,
    /// `status`, or nothing.
    pub subresource: &'a str,
    /// The namespace; empty at the cluster scope.
    pub namespace: &'a str,
    /// The path.
    pub path: &'a str,
}

/// What tells the flows of a schema apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distinguisher {
    /// All are one flow.
    Nothing,
    /// Each user is a flow.
    User,
    /// Each namespace is one.
    Namespace,
}

impl Distinguisher {
    /// What is different of a request's flow.
    #[must_use]
    pub fn of<'a>(self, asked: &Asked<'a>) -> &'a str {
        match self {
            Self::Nothing => "",
            Self::User => asked.user,
            Self::Namespace => asked.namespace,
        }
    }
}

/// A flow schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowSchema {
    /// What it is called.
    pub name: CompactString,
    /// That of its object; empty where there is none.
    pub uid: CompactString,
    /// Schemas of lower numbers come first.
    pub precedence: i64,
    /// The level of its requests.
    pub level: CompactString,
    /// What tells its flows apart.
    pub distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resources>,
    paths: Vec<Paths>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    User(CompactString),
    Group(CompactString),
    /// The whole name, or what all of a namespace begin with.
    Account(CompactString),
    Accounts(CompactString),
}

/// Some names, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Names {
    all: bool,
    names: Vec<CompactString>,
}

impl Names {
    fn of(list: &Value, member: &str) -> Self {
        let names: Vec<CompactString> =
            list.items_at(&[member]).iter().filter_map(|it| it.as_str().map(Into::into)).collect();
        Self { all: names.iter().any(|it| it == "*"), names }
    }

    fn has(&self, name: &str) -> bool {
        self.all || self.names.iter().any(|it| it == name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Resources {
    verbs: Names,
    groups: Names,
    resources: Names,
    namespaces: Names,
    cluster_scope: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Paths {
    verbs: Names,
    paths: Names,
}

impl FlowSchema {
    /// What an object says.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        let spec = &object["spec"];
        let distinguisher = match spec.str_at(&["distinguisherMethod", "type"]) {
            "ByUser" => Distinguisher::User,
            "ByNamespace" => Distinguisher::Namespace,
            _ => Distinguisher::Nothing,
        };
        Self {
            name: object.str_at(&["metadata", "name"]).into(),
            uid: object.str_at(&["metadata", "uid"]).into(),
            precedence: spec.i64_at(&["matchingPrecedence"]).unwrap_or(1_000),
            level: spec.str_at(&["priorityLevelConfiguration", "name"]).into(),
            distinguisher,
            rules: spec.items_at(&["rules"]).iter().map(Rule::of).collect(),
        }
    }

    /// Whether it is about this request.
    #[must_use]
    pub fn matches(&self, asked: &Asked<'_>) -> bool {
        self.rules.iter().any(|it| it.matches(asked))
    }
}

impl Rule {
    fn of(rule: &Value) -> Self {
        let resources = rule.items_at(&["resourceRules"]).iter().map(|it| Resources {
            verbs: Names::of(it, "verbs"),
            groups: Names::of(it, "apiGroups"),
            resources: Names::of(it, "resources"),
            namespaces: Names::of(it, "namespaces"),
            cluster_scope: it.bool_at(&["clusterScope"]),
        });
        let paths = rule.items_at(&["nonResourceRules"]).iter().map(|it| Paths {
            verbs: Names::of(it, "verbs"),
            paths: Names::of(it, "nonResourceURLs"),
        });
        Self {
            subjects: rule.items_at(&["subjects"]).iter().filter_map(Subject::of).collect(),
            resources: resources.collect(),
            paths: paths.collect(),
        }
    }

    fn matches(&self, asked: &Asked<'_>) -> bool {
        if !self.subjects.iter().any(|it| it.matches(asked)) {
            return false;
        }
        if asked.is_resource {
            self.resources.iter().any(|it| it.matches(asked))
        } else {
            self.paths.iter().any(|it| it.matches(asked))
        }
    }
}

impl Subject {
    fn of(subject: &Value) -> Option<Self> {
        match subject.str_at(&["kind"]) {
            "User" => Some(Self::User(subject.str_at(&["user", "name"]).into())),
            "Group" => Some(Self::Group(subject.str_at(&["group", "name"]).into())),
            "ServiceAccount" => {
                let account = &subject["serviceAccount"];
                let (namespace, name) = (account.str_at(&["namespace"]), account.str_at(&["name"]));
                let all = format!("system:serviceaccount:{namespace}:");
                Some(match name {
                    "*" => Self::Accounts(all.into()),
                    name => Self::Account((all + name).into()),
                })
            }
            _ => None,
        }
    }

    fn matches(&self, asked: &Asked<'_>) -> bool {
        match self {
            Self::User(name) => name == "*" || name == asked.user,
            Self::Group(name) => name == "*" || asked.groups.iter().any(|it| it == name.as_str()),
            Self::Account(name) => name == asked.user,
            Self::Accounts(prefix) => asked.user.starts_with(prefix.as_str()),
        }
    }
}

impl Resources {
    fn matches(&self, asked: &Asked<'_>) -> bool {
        self.verbs.has(asked.verb)
            && self.groups.has(asked.group)
            && self.has_resource(asked)
            && if asked.namespace.is_empty() {
                self.cluster_scope
            } else {
                self.namespaces.has(asked.namespace)
            }
    }

    fn has_resource(&self, asked: &Asked<'_>) -> bool {
        if asked.subresource.is_empty() {
            return self.resources.has(asked.resource);
        }
        self.resources.all
            || self
                .resources
                .names
                .iter()
                .any(|it| it.split_once('/') == Some((asked.resource, asked.subresource)))
    }
}

impl Paths {
    fn matches(&self, asked: &Asked<'_>) -> bool {
        self.verbs.has(asked.verb)
            && (self.paths.all
                || self.paths.names.iter().any(|it| match it.strip_suffix('*') {
                    Some(prefix) => asked.path.starts_with(prefix),
                    None => it == asked.path,
                }))
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::json;

    use super::*;

    fn schema(rules: &str) -> FlowSchema {
        let text = format!(r#"{{"metadata":{{"name":"s"}},"spec":{{"rules":[{rules}]}}}}"#);
        FlowSchema::of(&json::parse(text.as_bytes()).unwrap())
    }

    /// `user groups verb group/resource/subresource namespace`, or a path instead of the last two.
    fn check(schema: &FlowSchema, asked: &str, expected: bool) {
        let words: Vec<&str> = asked.split(' ').collect();
        let groups: Vec<String> = words[1].split(',').map(str::to_owned).collect();
        let is_resource = !words[3].starts_with('/');
        let mut parts = words[3].split(':');
        let mut part = || parts.next().unwrap_or_default();
        let (group, resource, subresource) = (part(), part(), part());
        let asked = Asked {
            user: words[0],
            groups: &groups,
            verb: words[2],
            is_resource,
            group,
            resource,
            subresource,
            namespace: words.get(4).copied().unwrap_or_default(),
            path: if is_resource { "" } else { words[3] },
        };
        assert_eq!(schema.matches(&asked), expected, "{asked:?}");
    }

    #[test]
    fn requests_are_told_apart() {
        let pods = schema(
            r#"{"subjects":[{"kind":"Group","group":{"name":"g"}},{"kind":"ServiceAccount","serviceAccount":{"namespace":"n","name":"*"}},
                {"kind":"ServiceAccount","serviceAccount":{"namespace":"m","name":"a"}}],
              "resourceRules":[{"verbs":["get","list"],"apiGroups":[""],"resources":["pods","pods/status"],"namespaces":["x"]}]}"#,
        );
        for (asked, expected) in [
            ("u g get :pods: x", true),
            ("u g,h list :pods:status x", true),
            ("u h get :pods: x", false),
            ("u g get :pods: y", false),
            ("u g get :pods:", false),
            ("u g get :pods:log x", false),
            ("u g watch :pods: x", false),
            ("u g get apps:pods: x", false),
            ("u g get /healthz", false),
            ("system:serviceaccount:n:any h get :pods: x", true),
            ("system:serviceaccount:m:a h get :pods: x", true),
            ("system:serviceaccount:m:ab h get :pods: x", false),
        ] {
            check(&pods, asked, expected);
        }
        let all = schema(
            r#"{"subjects":[{"kind":"User","user":{"name":"u"}}],
              "resourceRules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"],"namespaces":["*"],"clusterScope":true}],
              "nonResourceRules":[{"verbs":["get"],"nonResourceURLs":["/healthz","/livez/*"]}]}"#,
        );
        for (asked, expected) in [
            ("u h delete a:b:c n", true),
            ("u h delete a:b:", true),
            ("v h delete a:b:", false),
            ("u h get /healthz", true),
            ("u h get /livez/ping", true),
            ("u h get /livez", false),
            ("u h post /healthz", false),
        ] {
            check(&all, asked, expected);
        }
    }
}
