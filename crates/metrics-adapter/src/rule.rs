//! One rule: which series it is about, what metrics these are, and how they are asked.

use std::collections::BTreeMap;

use apimachinery::Value;
use apimachinery::labels::{Operator, Requirement, Selector};
use regex::Regex;

use crate::kinds::{Kind, Kinds};
use crate::prometheus::Labels;
use crate::template::{Argument, Arguments, Template};

const QUERY_NAMES: &[&str] =
    &["Series", "LabelMatchers", "LabelValuesByName", "GroupBy", "GroupBySlice"];
const LABEL_NAMES: &[&str] = &["Group", "Resource"];

/// A rule that was read.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Of external metrics.
    pub(crate) external: bool,
    series_query: String,
    /// What names of series must be like, and what not.
    filters: Vec<(Regex, bool)>,
    matches: Regex,
    named: String,
    query: Template,
    label: Option<Template>,
    /// Resources by label: group, and name.
    overrides: BTreeMap<String, (String, String)>,
    namespaced: bool,
}

/// What is asked about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    pub(crate) kind: &'a Kind,
    /// The core group's namespaces.
    pub(crate) namespaces: &'a Kind,
    /// Empty for what is in no namespace.
    pub(crate) namespace: &'a str,
    pub(crate) names: &'a [String],
}

impl Rule {
    /// Reads a rule.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(rule: &Value, external: bool) -> Result<Self, String> {
        let text = |path: &[&str]| rule.str_at(path).to_owned();
        let pattern = |text: &str| {
            Regex::new(text).map_err(|error| format!("unable to compile {text:?}: {error}"))
        };
        let series_query = text(&["seriesQuery"]);
        if series_query.is_empty() {
            return Err("it has no seriesQuery".into());
        }
        let mut filters = Vec::new();
        for filter in rule.items_at(&["seriesFilters"]) {
            match (filter.str_at(&["is"]), filter.str_at(&["isNot"])) {
                ("", not) if !not.is_empty() => filters.push((pattern(not)?, false)),
                (is, "") if !is.is_empty() => filters.push((pattern(is)?, true)),
                _ => return Err("a series filter has either is or isNot".into()),
            }
        }
        let matches = match text(&["name", "matches"]).as_str() {
            "" => pattern(".*")?,
            text => pattern(text)?,
        };
        let named = match (text(&["name", "as"]), matches.captures_len()) {
            (named, _) if !named.is_empty() => named,
            (_, 1) => "$0".to_owned(),
            (_, 2) => "$1".to_owned(),
            _ => {
                return Err(format!(
                    "must specify an 'as' value for name matcher {matches:?}",
                    matches = matches.as_str()
                ));
            }
        };
        let label = match text(&["resources", "template"]).as_str() {
            "" => None,
            text => Some(Template::parse(text, LABEL_NAMES)?),
        };
        let members = rule.at(&["resources", "overrides"]).and_then(Value::as_object);
        let members = members.into_iter().flat_map(apimachinery::Object::iter);
        let of =
            |it: &Value| (it.str_at(&["group"]).to_owned(), it.str_at(&["resource"]).to_owned());
        let overrides: BTreeMap<_, _> =
            members.map(|(label, it)| (label.to_owned(), of(it))).collect();
        if !external && label.is_none() && overrides.is_empty() {
            return Err("resources must have a template or overrides".into());
        }
        if let Some((label, _)) = overrides.iter().find(|(_, (_, resource))| resource.is_empty()) {
            return Err(format!("the override of label {label} names no resource"));
        }
        let namespaced = rule.at(&["resources", "namespaced"]).and_then(Value::as_bool);
        Ok(Self {
            external,
            series_query,
            filters,
            matches,
            named,
            query: match text(&["metricsQuery"]).as_str() {
                "" => return Err("it has no metricsQuery".into()),
                text => Template::parse(text, QUERY_NAMES)?,
            },
            label,
            overrides,
            namespaced: namespaced.unwrap_or(true),
        })
    }

    pub(crate) fn series_query(&self) -> &str {
        &self.series_query
    }

    /// What the metric of a series is called; `None` where the series is not of this rule.
    pub(crate) fn metric(&self, series: &str) -> Option<String> {
        if !self.filters.iter().all(|(pattern, wanted)| pattern.is_match(series) == *wanted) {
            return None;
        }
        let captures = self.matches.captures(series)?;
        let mut name = String::new();
        captures.expand(&self.named, &mut name);
        Some(name).filter(|it| !it.is_empty())
    }

    /// The resources that a series is about, by its labels.
    pub(crate) fn resources<'k>(&self, series: &Labels, kinds: &'k Kinds) -> Vec<&'k Kind> {
        let mut found: Vec<&Kind> = Vec::new();
        for label in series.keys() {
            let kind = match self.overrides.get(label) {
                Some((group, name)) => kinds.find(group, name),
                None => kinds.iter().find(|it| self.by_template(it).iter().any(|it| it == label)),
            };
            found.extend(kind.filter(|it| !found.contains(it)));
        }
        found
    }

    /// The labels that the template gives a resource: by its singular name first.
    fn by_template(&self, kind: &Kind) -> Vec<String> {
        let Some(template) = &self.label else { return Vec::new() };
        let group = kind.group.replace(['.', '-'], "_");
        let of = |name: &str| {
            let arguments = [("Group", group.as_str().into()), ("Resource", name.into())];
            template.execute(&Arguments::from(arguments))
        };
        vec![of(&kind.singular), of(&kind.plural)]
    }

    /// The label that tells which object of a resource a series is about.
    pub(crate) fn label_of(&self, kind: &Kind, kinds: &Kinds) -> Option<String> {
        let overridden =
            self.overrides.iter().find(|(_, (group, name))| kinds.find(group, name) == Some(kind));
        match overridden {
            Some((label, _)) => Some(label.clone()),
            None => self.by_template(kind).into_iter().next().filter(|it| !it.is_empty()),
        }
    }

    /// The query of a metric of objects.
    ///
    /// # Errors
    /// When there is no label for the resource, or a selector that Prometheus cannot be asked by.
    pub(crate) fn of_objects(
        &self,
        series: &str,
        about: About<'_>,
        selector: &Selector,
        kinds: &Kinds,
    ) -> Result<String, String> {
        let label = |kind: &Kind| {
            let label = self.label_of(kind, kinds);
            label.ok_or_else(|| {
                format!(
                    "no generic resource label form specified for this metric ({})",
                    kind.name()
                )
            })
        };
        let mut matchers = Matchers::of(selector)?;
        if !about.namespace.is_empty() {
            matchers.add(&label(about.namespaces)?, "=", about.namespace);
        }
        let own = label(about.kind)?;
        let operator = if about.names.len() > 1 { "=~" } else { "=" };
        matchers.add(&own, operator, &about.names.join("|"));
        self.filled(series, matchers, vec![own])
    }

    /// The query of an external metric.
    ///
    /// # Errors
    /// As [`Rule::of_objects`].
    pub(crate) fn of_external(
        &self,
        series: &str,
        namespace: &str,
        selector: &Selector,
        kinds: &Kinds,
    ) -> Result<String, String> {
        let mut matchers = Matchers::of(selector)?;
        if self.namespaced && !namespace.is_empty() {
            let label = kinds.find("", "namespaces").and_then(|it| self.label_of(it, kinds));
            let label = label.ok_or("no generic resource label form specified for this metric")?;
            matchers.add(&label, "=", namespace);
        }
        self.filled(series, matchers, Vec::new())
    }

    fn filled(&self, series: &str, matchers: Matchers, by: Vec<String>) -> Result<String, String> {
        let text = self.query.execute(&Arguments::from([
            ("Series", series.into()),
            ("LabelMatchers", matchers.expressions.join(",").as_str().into()),
            ("LabelValuesByName", Argument::Map(matchers.values)),
            ("GroupBy", by.join(",").as_str().into()),
            ("GroupBySlice", Argument::List(by)),
        ]));
        match text.is_empty() {
            true => Err("empty query produced by metrics query template".into()),
            false => Ok(text),
        }
    }
}

/// The part of a query between its braces.
#[derive(Debug, Default)]
struct Matchers {
    expressions: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Matchers {
    fn of(selector: &Selector) -> Result<Self, String> {
        let mut all = Self::default();
        for requirement in selector.requirements() {
            let (operator, value) = asked(requirement)?;
            all.add(requirement.key(), operator, &value);
        }
        Ok(all)
    }

    fn add(&mut self, label: &str, operator: &str, value: &str) {
        let quoted = apimachinery::json::to_string(&Value::from(value));
        self.expressions.push(format!("{label}{operator}{quoted}"));
        self.values.insert(label.to_owned(), value.to_owned());
    }
}

/// A requirement as Prometheus has it. A single value of `in` is a pattern there, as upstream.
fn asked(requirement: &Requirement) -> Result<(&'static str, String), String> {
    let values: Vec<&str> = requirement.values().iter().map(AsRef::as_ref).collect();
    let several = values.len() > 1;
    let operator = match requirement.operator() {
        Operator::Exists => "!=",
        Operator::DoesNotExist => "=",
        Operator::Equals | Operator::DoubleEquals if !several => "=",
        Operator::NotEquals if !several => "!=",
        Operator::Equals | Operator::DoubleEquals | Operator::In => "=~",
        Operator::NotEquals | Operator::NotIn => "!~",
        Operator::GreaterThan | Operator::LessThan => {
            return Err("operator not supported by prometheus query".into());
        }
    };
    Ok((operator, values.join("|")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Result<Rule, String> {
        Rule::new(&apimachinery::yaml::parse(text.as_bytes()).unwrap(), false)
    }

    const RATE: &str = r#"
seriesQuery: '{__name__=~"^http_.*",namespace!="",pod!=""}'
seriesFilters: [{isNot: "_seconds_total$"}]
resources: {template: "<<.Resource>>", overrides: {kube_ns: {resource: namespace}}}
name: {matches: "^(.*)_total$", as: "${1}_per_second"}
metricsQuery: 'sum(rate(<<.Series>>{<<.LabelMatchers>>}[1m])) by (<<.GroupBy>>)'
"#;

    #[test]
    fn series_become_metrics_of_resources() {
        let (rule, kinds) = (rule(RATE).unwrap(), Kinds::built_in());
        for (series, expected) in [
            ("http_requests_total", Some("http_requests_per_second")),
            ("http_busy_seconds_total", None),
            ("http_requests", None),
        ] {
            assert_eq!(rule.metric(series).as_deref(), expected, "{series}");
        }
        let labels = ["pod", "kube_ns", "code", "deployment"].map(|it| (it.into(), "x".into()));
        let found = rule.resources(&Labels::from(labels), &kinds);
        let names: Vec<String> = found.iter().map(|it| it.name()).collect();
        assert_eq!(names, ["deployments.apps", "namespaces", "pods"]);
    }

    #[test]
    fn queries_ask_for_objects_and_what_selectors_say() {
        let (rule, kinds) = (rule(RATE).unwrap(), Kinds::built_in());
        let (pods, namespaces) =
            (kinds.find("", "pods").unwrap(), kinds.find("", "namespaces").unwrap());
        for (names, selector, expected) in [
            (&["a", "b"][..], "", r#"kube_ns="n",pod=~"a|b""#),
            (&["a"], "code=200,!x", r#"code="200",x="",kube_ns="n",pod="a""#),
            (
                &["a"],
                "code in (200,201),verb notin (GET),y",
                r#"code=~"200|201",verb!~"GET",y!="",kube_ns="n",pod="a""#,
            ),
        ] {
            let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
            let about = About { kind: pods, namespaces, namespace: "n", names: &names };
            let selector = Selector::parse(selector).unwrap();
            let query = rule.of_objects("http_requests_total", about, &selector, &kinds).unwrap();
            let expected = format!("sum(rate(http_requests_total{{{expected}}}[1m])) by (pod)");
            assert_eq!(query, expected);
        }
        let selector = Selector::parse("code>5").unwrap();
        let about = About { kind: pods, namespaces, namespace: "n", names: &[] };
        assert!(rule.of_objects("s", about, &selector, &kinds).is_err());
    }

    #[test]
    fn rules_that_cannot_be_are_refused() {
        for (text, expected) in [
            ("metricsQuery: x", "no seriesQuery"),
            ("seriesQuery: x", "must have a template or overrides"),
            ("{seriesQuery: x, resources: {template: t}}", "no metricsQuery"),
            ("{seriesQuery: x, name: {matches: '(a)(b)'}}", "must specify an 'as' value"),
            ("{seriesQuery: x, name: {matches: '('}}", "unable to compile"),
            ("{seriesQuery: x, seriesFilters: [{is: a, isNot: b}]}", "either is or isNot"),
            ("{seriesQuery: x, resources: {template: '<<.Kind>>'}}", "is not understood here"),
        ] {
            let error = rule(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
