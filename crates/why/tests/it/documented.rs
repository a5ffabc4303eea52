//! The examples of `docs/why.md` are what is said.

use apimachinery::Value;
use why::text::{Style, render};
use why::what_if::{Action, play};
use why::{Explainer, Gathered};

use crate::cluster::{cluster, explain};

const PAGE: &str = include_str!("../../../../docs/why.md");

/// The text between ```` ```NAME ```` and the next fence.
fn block(name: &str) -> &'static str {
    let begin = format!("```{name}\n");
    let at = PAGE.find(&begin).unwrap_or_else(|| panic!("docs/why.md has no {name}")) + begin.len();
    PAGE[at..].split("\n```").next().unwrap()
}

fn documented() -> Gathered {
    cluster(block("yaml cluster"))
}

fn same(said: &Value, name: &str) {
    let said = render(said, Style::Plain);
    assert_eq!(said.trim_end(), block(name), "for {name}");
}

#[test]
fn the_examples_are_what_is_said() {
    let cluster = documented();
    same(&explain(&cluster, "Pod", "trainer"), "text pod");
    same(&explain(&cluster, "Service", "web"), "text service");
    let nodes = vec!["n1".to_owned()];
    for (action, name) in
        [(Action::Drain(nodes.clone()), "text drain"), (Action::Lose(nodes), "text lose")]
    {
        let report = play(&Explainer::default(), &cluster, &action).unwrap();
        same(&report.to_value(), name);
    }
}
