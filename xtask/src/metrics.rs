//! Which of upstream's metrics are told: each either stands in a source, or with its reason in `docs/metrics-missing.tsv`.
//!
//! Names are looked for as they are registered: whole, without `_total`, or as a prefix and what follows in the same file. Whether
//! one moves when it should is the business of the tests beside it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::command::output;

/// What is missing, and why: a name, or the beginning of some and `*`, and the reason.
const MISSING: &str = "docs/metrics-missing.tsv";

/// Labels that upstream's table does not name, since they always have the same value.
const CONSTANT: [(&str, &str); 1] =
    [("apiserver_flowcontrol_priority_level_seat_utilization", "phase")];

/// The names that a file tells.
#[derive(Debug)]
struct Source {
    /// All literals that could be a part of a name.
    literals: BTreeSet<String>,
    /// Those that are put before others.
    prefixes: Vec<String>,
    /// Names that stand in lines of the text form.
    written: BTreeSet<String>,
}

/// What is not as the list says.
pub(crate) fn problems(reference: &Path, root: &Path) -> Result<Vec<String>> {
    let sources = sources(root)?;
    let table = fs::read_to_string(reference.join("metrics.tsv")).context("metrics.tsv")?;
    let list = fs::read_to_string(root.join(MISSING)).context(MISSING)?;
    let listed: Vec<&str> = list.lines().filter_map(|it| Some(it.split_once('\t')?.0)).collect();
    let mut unused: BTreeSet<&str> = listed.iter().copied().collect();
    let mut problems = Vec::new();
    for name in table.lines().skip(1).filter_map(|it| it.split('\t').next()) {
        let of = |it: &&&str| it.strip_suffix('*').map_or(**it == name, |it| name.starts_with(it));
        let entry = listed.iter().find(of);
        match (is_told(name, &sources), entry) {
            (false, None) => {
                problems.push(format!(
                    "the metric {name} is missing: tell it, or say in {MISSING} why not"
                ));
            }
            (true, Some(entry)) if !entry.ends_with('*') => {
                problems.push(format!("the metric {name} is told, and stands in {MISSING}"));
            }
            (_, Some(entry)) => {
                unused.remove(entry);
            }
            (true, None) => {}
        }
    }
    let none = |it| format!("{MISSING}: {it} is no metric of upstream's, or is told");
    let gone = unused.into_iter().filter(|it| it.ends_with('*') || !table.contains(*it));
    problems.extend(gone.map(none));
    Ok(problems)
}

/// What of a served page is not as upstream's is: kinds, labels, bounds of histograms.
pub(crate) fn shapes(reference: &Path, served: &str) -> Result<Vec<String>> {
    let table = fs::read_to_string(reference.join("metrics.tsv")).context("metrics.tsv")?;
    Ok(table.lines().skip(1).filter_map(|row| shape(row, served)).flatten().collect())
}

/// The same of one metric, where the page has it.
fn shape(row: &str, served: &str) -> Option<Vec<String>> {
    let mut columns = row.split('\t');
    let (name, kind) = (columns.next()?, columns.next()?);
    let (labels, bounds) = (columns.nth(1)?, columns.next().unwrap_or_default());
    let served_kind = served
        .lines()
        .find_map(|it| it.strip_prefix("# TYPE ")?.strip_prefix(name)?.strip_prefix(' '))?;
    let kind = match kind {
        "TimingRatioHistogram" => "histogram".to_owned(),
        "Custom" => served_kind.to_owned(),
        other => other.to_lowercase(),
    };
    let mut problems = BTreeSet::new();
    if kind != served_kind {
        problems.insert(format!("{name} is a {served_kind}, and upstream's a {kind}"));
    }
    let wanted: BTreeSet<&str> = labels.split(',').filter(|it| !it.is_empty()).collect();
    let mut served_bounds = BTreeSet::new();
    for (sample, labels) in served.lines().filter_map(sample) {
        let suffixes = ["", "_bucket", "_sum", "_count"];
        if !sample.strip_prefix(name).is_some_and(|it| suffixes.contains(&it)) {
            continue;
        }
        let named = labels.iter().map(|(label, _)| *label);
        let named = named.filter(|it| !matches!(*it, "le" | "quantile"));
        let told: BTreeSet<&str> = named.filter(|it| !CONSTANT.contains(&(name, *it))).collect();
        if told != wanted {
            problems.insert(format!("{name} has the labels {told:?}, and upstream's {wanted:?}"));
        }
        let bound = labels.iter().find(|(label, _)| *label == "le");
        served_bounds.extend(bound.map(|(_, bound)| number(bound)).filter(|it| it != "inf"));
    }
    let bounds: BTreeSet<String> =
        bounds.split(',').filter(|it| !it.is_empty()).map(number).collect();
    if !bounds.is_empty() && !served_bounds.is_empty() && bounds != served_bounds {
        problems
            .insert(format!("{name} has the bounds {served_bounds:?}, and upstream's {bounds:?}"));
    }
    Some(problems.into_iter().collect())
}

/// A number of the text form, as this program writes it; of those that are not exact the first digits.
fn number(text: &str) -> String {
    text.parse::<f64>().map_or_else(
        |_| text.to_owned(),
        |it| {
            if it.is_infinite() { "inf".to_owned() } else { format!("{it:.9e}") }
        },
    )
}

/// The name of a sample, and its labels with their values.
fn sample(line: &str) -> Option<(&str, Vec<(&str, &str)>)> {
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = (&line[..end], line[end..].strip_prefix('{').unwrap_or_default());
    let mut labels = Vec::new();
    while let Some((label, after)) = rest.split_once("=\"") {
        let end = (0..after.len())
            .find(|at| after[*at..].starts_with('"') && !after[..*at].ends_with('\\'))?;
        labels.push((label.trim_start_matches(','), &after[..end]));
        rest = &after[end + 1..];
        if rest.starts_with('}') {
            break;
        }
    }
    Some((name, labels))
}

fn sources(root: &Path) -> Result<Vec<Source>> {
    let files = output("git", &["ls-files", "crates/*.rs", "cmd/*.rs"], root)?;
    let of_tests = |it: &&str| it.contains("/tests/") || it.ends_with("/tests.rs");
    let files = files.lines().filter(|it| !of_tests(it));
    Ok(files
        .filter_map(|it| fs::read_to_string(root.join(it)).ok())
        .map(|it| source(&it))
        .collect())
}

fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '{' | '}')
}

fn source(text: &str) -> Source {
    let mut literals = BTreeSet::new();
    let mut prefixes = Vec::new();
    for (at, _) in text.match_indices('"') {
        let rest = &text[at + 1..];
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        if end > 0 && rest[end..].starts_with('"') {
            literals.insert(rest[..end].to_owned());
            let before = text[..at].trim_end();
            let ends = ["sub_registry_with_prefix(", "(format!(", ": &str ="];
            if ends.iter().any(|it| before.ends_with(it)) {
                prefixes.push(rest[..end].to_owned());
            }
        }
    }
    let mut written = BTreeSet::new();
    for mark in ["# HELP ", "# TYPE "] {
        for (at, _) in text.match_indices(mark) {
            let rest = &text[at + mark.len()..];
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            written.insert(rest[..end].to_owned());
        }
    }
    Source { literals, prefixes, written }
}

fn is_told(name: &str, sources: &[Source]) -> bool {
    let base = name.strip_suffix("_total").unwrap_or(name);
    sources.iter().any(|source| [name, base].iter().any(|it| source.tells(it)))
}

impl Source {
    fn tells(&self, name: &str) -> bool {
        self.literals.contains(name)
            || self.written.contains(name)
            || self.literals.iter().any(|it| self.fills(it, name).is_some_and(str::is_empty))
            || self.prefixes.iter().any(|it| self.continues(it, name))
    }

    /// What is left of a name behind a literal, whose one gap is filled with another literal of the file.
    fn fills<'n>(&self, literal: &str, name: &'n str) -> Option<&'n str> {
        let (head, rest) = literal.split_once('{')?;
        let (_, tail) = rest.split_once('}')?;
        if head.len() < 6 || tail.contains('{') {
            return None;
        }
        let rest = name.strip_prefix(head)?;
        let ends = rest.match_indices('_').map(|it| it.0).chain([rest.len()]);
        let filled = ends.filter(|end| self.literals.contains(&rest[..*end]));
        filled.filter_map(|end| rest[end..].strip_prefix(tail)).next_back()
    }

    /// Whether a name is a prefix, and another literal.
    fn continues(&self, prefix: &str, name: &str) -> bool {
        let rest = match prefix.contains('{') {
            true => self.fills(prefix, name),
            false => name.strip_prefix(prefix),
        };
        // Where the prefix is a constant, what follows may stand with its name.
        let behind = |it: &String, rest: &str| {
            it.starts_with('{') && it.split_once('}').is_some_and(|(_, behind)| behind == rest)
        };
        rest.filter(|it| it.starts_with('_')).is_some_and(|rest| {
            self.literals.contains(&rest[1..]) || self.literals.iter().any(|it| behind(it, rest))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_compared_with_what_upstream_serves() {
        let page = "# TYPE a_total counter\na_total{x=\"1,\\\"y=\"} 1\n\
            # TYPE b histogram\nb_bucket{le=\"0.5\",x=\"\"} 1\nb_bucket{le=\"+Inf\",x=\"\"} 1\nb_sum{x=\"\"} 1\n";
        for (row, expected) in [
            ("a_total\tCounter\tALPHA\tx\t", vec![]),
            ("a_total\tGauge\tALPHA\tx\t", vec!["a_total is a counter, and upstream's a gauge"]),
            (
                "a_total\tCounter\tALPHA\tx,y\t",
                vec!["a_total has the labels {\"x\"}, and upstream's {\"x\", \"y\"}"],
            ),
            ("b\tHistogram\tALPHA\tx\t5e-1", vec![]),
            (
                "b\tHistogram\tALPHA\tx\t1",
                vec!["b has the bounds {\"5.000000000e-1\"}, and upstream's {\"1.000000000e0\"}"],
            ),
        ] {
            assert_eq!(shape(row, page).unwrap(), expected);
        }
        assert_eq!(shape("c\tGauge\tALPHA\t\t", page), None);
    }

    #[test]
    fn names_are_found_as_they_are_registered() {
        let text = r##"
            registry.register("whole_name", "Help", a.clone());
            let of = registry.sub_registry_with_prefix("some_prefix");
            of.register("rest_seconds", "Help", b);
            let name = format!("apiserver_flowcontrol_{name}");
            family("used");
            let of = registry.sub_registry_with_prefix(format!("apiserver_delegated_{what}"));
            of.register("request", "authn");
            const OWN: &str = "own_prefix";
            registry.register(format!("{OWN}_rest"), "Help", c);
            "# HELP written_one What\n# TYPE written_one gauge"
        "##;
        let sources = [source(text)];
        for (name, told) in [
            ("whole_name_total", true),
            ("whole_name_seconds", false),
            ("some_prefix_rest_seconds", true),
            ("some_prefix_other", false),
            ("apiserver_flowcontrol_used", true),
            ("apiserver_flowcontrol_unused", false),
            ("apiserver_delegated_authn_request_total", true),
            ("apiserver_delegated_authz_request_total", false),
            ("own_prefix_rest_total", true),
            ("written_one", true),
        ] {
            assert_eq!(is_told(name, &sources), told, "{name}");
        }
    }
}
