//! The file of rules, in prometheus-adapter's own form.

use std::path::Path;

use apimachinery::{Value, yaml};

use crate::rule::Rule;

/// How many rules a file may have; each costs a request whenever it is asked which metrics there are.
const MAX_RULES: usize = 500;
/// How many bytes it may have.
const MAX_FILE_BYTES: usize = 1 << 20;

/// The rules of a file, those of custom metrics first.
#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("could not use the rules of {file}: {why}")]
pub struct RulesError {
    file: String,
    why: String,
}

impl Rules {
    /// Reads a file.
    ///
    /// # Errors
    /// The first that is wrong with it, and where.
    pub fn read(path: &Path) -> Result<Self, RulesError> {
        let failed = |why: String| RulesError { file: path.display().to_string(), why };
        let text = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        if text.len() > MAX_FILE_BYTES {
            return Err(failed(format!("it has more than {MAX_FILE_BYTES} bytes")));
        }
        Self::parse(&text).map_err(failed)
    }

    /// Reads the rules of a text.
    ///
    /// # Errors
    /// The first that is wrong with it, and where.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let config = yaml::parse(text).map_err(|error| error.to_string())?;
        known(&config, "", &["rules", "externalRules", "resourceRules"])?;
        if config.get("resourceRules").is_some_and(|it| !it.is_null()) {
            tracing::warn!(
                "resourceRules are not used: nodes' agents tell what nodes and pods use"
            );
        }
        let mut rules = Vec::new();
        for (list, external) in [("rules", false), ("externalRules", true)] {
            for (nth, rule) in config.items_at(&[list]).iter().enumerate() {
                let place = format!("{list}[{nth}]");
                rules.push(
                    checked(rule, &place, external).map_err(|why| format!("{place}: {why}"))?,
                );
            }
        }
        if rules.len() > MAX_RULES {
            return Err(format!("there are more than {MAX_RULES} rules"));
        }
        Ok(Self(rules))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    pub(crate) fn get(&self, place: usize) -> Option<&Rule> {
        self.0.get(place)
    }
}

fn checked(rule: &Value, place: &str, external: bool) -> Result<Rule, String> {
    known(rule, place, &["seriesQuery", "seriesFilters", "resources", "name", "metricsQuery"])?;
    known(&rule["name"], &format!("{place}.name"), &["matches", "as"])?;
    let resources = &rule["resources"];
    known(resources, &format!("{place}.resources"), &["template", "overrides", "namespaced"])?;
    for filter in rule.items_at(&["seriesFilters"]) {
        known(filter, &format!("{place}.seriesFilters"), &["is", "isNot"])?;
    }
    Rule::new(rule, external)
}

/// A member that nobody knows is a mistake: a rule that is silently another one scales something.
fn known(value: &Value, place: &str, names: &[&str]) -> Result<(), String> {
    let members = match (value.as_object(), value.is_null()) {
        (Some(members), _) => members,
        (None, true) => return Ok(()),
        (None, false) => return Err(format!("{place:?} is no mapping")),
    };
    match members.keys().find(|it| !names.contains(it)) {
        Some(name) => Err(format!("field {name} is not known in {place:?}")),
        None => Ok(()),
    }
}
