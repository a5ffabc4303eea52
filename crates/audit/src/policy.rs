//! Which requests are recorded, and how much of them: `audit.k8s.io/v1` policies.
//!
//! The first rule that matches a request decides. Knows nothing of events.

use apimachinery::shape::{self, Shape};
use apimachinery::validation::dns1123_subdomain;
use apimachinery::{FieldErrors, Path, Value};

/// How much of a request is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what, when.
    Metadata,
    /// Its object too.
    Request,
    /// And that of the answer.
    RequestResponse,
}

const LEVELS: [Level; 4] = [Level::None, Level::Metadata, Level::Request, Level::RequestResponse];

impl Level {
    /// Upstream's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        LEVELS.into_iter().find(|it| it.as_str() == text)
    }
}

/// When a request is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It came, and nobody has worked on it.
    RequestReceived,
    /// The answer begins, and may take long.
    ResponseStarted,
    /// The answer is over.
    ResponseComplete,
    /// The server broke down over it.
    Panic,
}

const STAGES: [Stage; 4] =
    [Stage::RequestReceived, Stage::ResponseStarted, Stage::ResponseComplete, Stage::Panic];

impl Stage {
    /// Upstream's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// Some stages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stages(u8);

impl Stages {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// Whether a stage is among them.
    #[must_use]
    pub const fn contains(self, stage: Stage) -> bool {
        self.0 & (1 << stage as u8) != 0
    }

    fn of(names: &[Value]) -> Self {
        let names = || names.iter().filter_map(Value::as_str);
        let named = STAGES.into_iter().filter(|it| names().any(|name| name == it.as_str()));
        Self(named.fold(0, |bits, stage| bits | 1 << stage as u8))
    }
}

/// What a policy says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// How much is recorded.
    pub level: Level,
    /// Stages that are not.
    pub omit_stages: Stages,
    /// Whether objects are recorded without their managed fields.
    pub omit_managed_fields: bool,
}

/// A request, as policies see it.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a str,
    /// Their groups.
    pub groups: &'a [String],
    /// `get`, `list`, `create`, ...
    pub verb: &'a str,
    /// What is asked for; `None` for a path.
    pub resource: Option<Resource<'a>>,
    /// The path as it was sent.
    pub path: &'a str,
}

/// What a request is about.
#[derive(Debug, Clone, Copy)]
pub struct Resource<'a> {
    /// The group; empty for the core one.
    pub group: &'a str,
    /// The plural name.
    pub resource: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Empty for what is in none.
    pub namespace: &'a str,
    /// Empty for all.
    pub name: &'a str,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    omit_stages: Stages,
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    level: Level,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    paths: Vec<String>,
    omit_stages: Stages,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
}

const TEXTS: Shape = Shape::List(&Shape::Text);
const RULE: Shape = Shape::Object(&[
    ("level", Shape::Text),
    ("users", TEXTS),
    ("userGroups", TEXTS),
    ("verbs", TEXTS),
    (
        "resources",
        Shape::List(&Shape::Object(&[
            ("group", Shape::Text),
            ("resources", TEXTS),
            ("resourceNames", TEXTS),
        ])),
    ),
    ("namespaces", TEXTS),
    ("nonResourceURLs", TEXTS),
    ("omitStages", TEXTS),
    ("omitManagedFields", Shape::Bool),
]);
const POLICY: Shape = Shape::Object(&[
    ("apiVersion", Shape::Text),
    ("kind", Shape::Text),
    ("metadata", Shape::Any),
    ("rules", Shape::List(&RULE)),
    ("omitStages", TEXTS),
    ("omitManagedFields", Shape::Bool),
]);

impl Policy {
    /// Reads a policy in YAML or JSON.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let policy = shape::read(text, POLICY).map_err(|why| format!("failed decoding: {why}"))?;
        let (version, kind) = (policy.str_at(&["apiVersion"]), policy.str_at(&["kind"]));
        if kind.is_empty() {
            return Err("failed decoding: Object 'Kind' is missing".into());
        }
        if (version, kind) != ("audit.k8s.io/v1", "Policy") {
            return Err(format!(
                "failed decoding: no kind {kind:?} is registered for version {version:?}; an audit policy is a Policy of audit.k8s.io/v1"
            ));
        }
        let rules = policy.items_at(&["rules"]);
        let mut errors = FieldErrors::new();
        validate_rules(rules, &mut errors);
        if !errors.is_empty() {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return Err(if all.len() == 1 {
                all.concat()
            } else {
                format!("[{}]", all.join(", "))
            });
        }
        if rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".into());
        }
        let omit_stages = Stages::of(policy.items_at(&["omitStages"]));
        let omit_managed_fields = policy.bool_at(&["omitManagedFields"]);
        let rules = rules.iter().map(|it| Rule::of(it, omit_stages)).collect();
        Ok(Self { rules, omit_stages, omit_managed_fields })
    }

    /// What of a request is recorded.
    #[must_use]
    pub fn evaluate(&self, request: &Attributes<'_>) -> Decision {
        let rule = self.rules.iter().find(|rule| rule.matches(request));
        let (level, omit_stages) =
            rule.map_or((Level::None, self.omit_stages), |it| (it.level, it.omit_stages));
        let own = rule.and_then(|it| it.omit_managed_fields);
        let omit_managed_fields = own.unwrap_or(self.omit_managed_fields);
        Decision { level, omit_stages, omit_managed_fields }
    }
}

fn texts(value: &Value, member: &str) -> Vec<String> {
    let items = value.items_at(&[member]).iter();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|it| it == text)
}

impl Rule {
    /// Of a rule that was validated.
    fn of(rule: &Value, omitted: Stages) -> Self {
        let resources = rule.items_at(&["resources"]).iter().map(|it| GroupResources {
            group: it.str_at(&["group"]).to_owned(),
            resources: texts(it, "resources"),
            names: texts(it, "resourceNames"),
        });
        Self {
            level: Level::parse(rule.str_at(&["level"])).unwrap_or(Level::None),
            users: texts(rule, "users"),
            groups: texts(rule, "userGroups"),
            verbs: texts(rule, "verbs"),
            resources: resources.collect(),
            namespaces: texts(rule, "namespaces"),
            paths: texts(rule, "nonResourceURLs"),
            omit_stages: Stages(Stages::of(rule.items_at(&["omitStages"])).0 | omitted.0),
            omit_managed_fields: rule.get("omitManagedFields").and_then(Value::as_bool),
        }
    }

    fn matches(&self, request: &Attributes<'_>) -> bool {
        let any = |list: &[String], matches: &dyn Fn() -> bool| list.is_empty() || matches();
        let is_asked_by = any(&self.users, &|| has(&self.users, request.user))
            && any(&self.groups, &|| request.groups.iter().any(|it| has(&self.groups, it)))
            && any(&self.verbs, &|| has(&self.verbs, request.verb));
        if !is_asked_by {
            return false;
        }
        match (&request.resource, self.namespaces.is_empty() && self.resources.is_empty()) {
            (Some(resource), false) => self.covers(resource),
            (None, false) => false,
            (_, true) if self.paths.is_empty() => true,
            (Some(_), true) => false,
            (None, true) => self.paths.iter().any(|it| is_path(it, request.path)),
        }
    }

    fn covers(&self, resource: &Resource<'_>) -> bool {
        let namespace = self.namespaces.is_empty() || has(&self.namespaces, resource.namespace);
        let named = self.resources.is_empty() || self.resources.iter().any(|it| it.has(resource));
        namespace && named
    }
}

/// Whether a path is the wanted one, which may end in `*`.
fn is_path(wanted: &str, path: &str) -> bool {
    wanted == "*"
        || wanted == path
        || (wanted.ends_with('*') && path.starts_with(wanted.trim_end_matches('*')))
}

impl GroupResources {
    fn has(&self, asked: &Resource<'_>) -> bool {
        if self.group != asked.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let named = self.names.is_empty() || has(&self.names, asked.name);
        named && self.resources.iter().any(|it| is_resource(it, asked))
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/scale` or `*`.
fn is_resource(wanted: &str, asked: &Resource<'_>) -> bool {
    if wanted == "*" {
        return true;
    }
    match wanted.split_once('/') {
        Some(("*", subresource)) if !asked.subresource.is_empty() => {
            subresource == asked.subresource
        }
        Some((resource, "*")) => resource == asked.resource,
        Some((resource, subresource)) => {
            resource == asked.resource && subresource == asked.subresource
        }
        None => wanted == asked.resource && asked.subresource.is_empty(),
    }
}

fn validate_rules(rules: &[Value], errors: &mut FieldErrors) {
    let all = Path::new("rules");
    for (index, rule) in rules.iter().enumerate() {
        let path = all.index(index);
        let level = rule.str_at(&["level"]);
        if level.is_empty() {
            errors.required(&path.child("level"), "");
        } else if Level::parse(level).is_none() {
            let supported = LEVELS.map(Level::as_str);
            errors.not_supported(&path.child("level"), &Value::from(level), supported);
        }
        validate_paths(rule, &path.child("nonResourceURLs"), errors);
        validate_resources(rule, &path.child("resources"), errors);
        let stages = path.child("omitStages");
        for (index, stage) in texts(rule, "omitStages").iter().enumerate() {
            if !STAGES.iter().any(|it| it.as_str() == stage) {
                let allowed = STAGES.map(Stage::as_str).join(",");
                let detail = format!("allowed stages are {allowed}");
                errors.invalid_text(&stages.index(index), stage, &detail);
            }
        }
        let of_resources =
            ["resources", "namespaces"].iter().any(|it| !rule.items_at(&[it]).is_empty());
        let paths = rule.items_at(&["nonResourceURLs"]);
        if of_resources && !paths.is_empty() {
            errors.invalid(
                &path.child("nonResourceURLs"),
                &Value::Array(paths.to_vec()),
                "rules cannot apply to both regular resources and non-resource URLs",
            );
        }
    }
}

fn validate_paths(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (index, url) in texts(rule, "nonResourceURLs").iter().enumerate() {
        if url == "*" {
            continue;
        }
        let path = path.index(index);
        if !url.starts_with('/') {
            let detail = "non-resource URL rules must begin with a '/' character";
            errors.invalid_text(&path, url, detail);
        }
        if url.find('*').is_some_and(|at| at + 1 < url.len()) {
            let detail = "non-resource URL wildcards '*' must be the final character of the rule";
            errors.invalid_text(&path, url, detail);
        }
    }
}

fn validate_resources(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    // Upstream does not tell which of them.
    for resources in rule.items_at(&["resources"]) {
        let group = resources.str_at(&["group"]);
        let wrong = if group.is_empty() { Vec::new() } else { dns1123_subdomain(group) };
        if !wrong.is_empty() {
            errors.invalid_text(&path.child("group"), group, &wrong.join(","));
        }
        let names = resources.items_at(&["resourceNames"]);
        if !names.is_empty() && resources.items_at(&["resources"]).is_empty() {
            errors.invalid(
                &path.child("resourceNames"),
                &Value::Array(names.to_vec()),
                "using resourceNames requires at least one resource",
            );
        }
    }
}

#[cfg(test)]
mod tests;
