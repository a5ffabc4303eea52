//! `cargo xtask tidy`: what no compiler checks.

#![allow(clippy::print_stdout, reason = "this is a program for people")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::output;
use crate::{Places, codegen, metrics};

/// The longest source file, in lines. Older ones that are longer are listed in `tidy-allowed.txt`.
const MAX_LINES: usize = 1_000;

/// Everything that is wrong.
#[derive(Debug, Default)]
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, problem: String) {
        self.0.push(problem);
    }
}

/// Checks everything and lists what is wrong.
pub(crate) fn run(places: &Places) -> Result<()> {
    let mut problems = Problems::default();
    arrows(places, &mut problems)?;
    sources(places, &mut problems)?;
    generated(places, &mut problems)?;
    if places.has_reference() {
        problems.0.extend(metrics::problems(&places.reference, &places.root)?);
    }
    if problems.0.is_empty() {
        return Ok(());
    }
    problems.0.iter().for_each(|problem| println!("tidy: {problem}"));
    bail!("{} things are not tidy", problems.0.len());
}

/// The arrows between crates are those of `layers.toml`.
fn arrows(places: &Places, problems: &mut Problems) -> Result<()> {
    let layers: toml::Table =
        fs::read_to_string(places.root.join("layers.toml"))?.parse().context("layers.toml")?;
    let allowed = lists(&layers, "layers");
    let forbidden = lists(&layers, "forbidden");
    let metadata =
        output("cargo", &["metadata", "--format-version", "1", "--no-deps"], &places.root)?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let names: BTreeSet<&str> = packages.iter().filter_map(|it| it["name"].as_str()).collect();
    for package in &packages {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        check_lints(name, Path::new(manifest), problems)?;
        if !manifest.contains("/crates/") {
            continue;
        }
        let Some(layer) = allowed.get(name) else {
            problems.add(format!("crate {name} is not in layers.toml"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"].as_str() == Some("dev");
            if names.contains(other) && !for_tests && !layer.contains(other) && !layer.contains("*")
            {
                problems.add(format!("{name} may not depend on {other}: see layers.toml"));
            }
            if !for_tests && forbidden.get(name).is_some_and(|it| it.contains(other)) {
                problems.add(format!("{name} must not see {other}"));
            }
        }
    }
    Ok(())
}

fn lists(table: &toml::Table, key: &str) -> BTreeMap<String, BTreeSet<String>> {
    let section = table.get(key).and_then(toml::Value::as_table);
    let strings = |value: &toml::Value| {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|it| it.as_str().map(str::to_owned))
            .collect()
    };
    section.into_iter().flatten().map(|(name, value)| (name.clone(), strings(value))).collect()
}

fn check_lints(name: &str, manifest: &Path, problems: &mut Problems) -> Result<()> {
    let text: toml::Table = fs::read_to_string(manifest)?.parse()?;
    let workspace =
        text.get("lints").and_then(|it| it.get("workspace")).and_then(toml::Value::as_bool)
            == Some(true);
    // These two say `unsafe`, and so have to repeat the list.
    if !workspace && !matches!(name, "sys" | "runtime") {
        problems.add(format!("{name} does not take the workspace's lints"));
    }
    Ok(())
}

/// Sizes, first lines, names of modules.
fn sources(places: &Places, problems: &mut Problems) -> Result<()> {
    let listed = output("git", &["ls-files", "*.rs"], &places.root)?;
    let allowed =
        fs::read_to_string(places.root.join("xtask/tidy-allowed.txt")).unwrap_or_default();
    for name in listed.lines().filter(|name| !name.contains("/generated/")) {
        let Ok(text) = fs::read_to_string(places.root.join(name)) else { continue };
        let lines = text.lines().count();
        if lines > MAX_LINES && !allowed.lines().any(|it| it == name) {
            problems.add(format!("{name} has {lines} lines, {MAX_LINES} are enough"));
        }
        let tests = name.ends_with("/tests.rs");
        if !tests && !text.starts_with("//!") && !text.starts_with("#!") {
            problems.add(format!("{name} does not say in its first line what it is"));
        }
        let stem = Path::new(name).file_stem().and_then(|it| it.to_str()).unwrap_or_default();
        if matches!(stem, "utils" | "util" | "common" | "misc" | "helpers") {
            problems.add(format!("{name}: find a name that says what is in it"));
        }
    }
    Ok(())
}

/// Generated files are what the generator makes of today's tables.
fn generated(places: &Places, problems: &mut Problems) -> Result<()> {
    if !places.has_reference() {
        println!(
            "tidy: {} is not there, generated files are not checked",
            places.reference.display()
        );
        return Ok(());
    }
    for (name, text) in codegen::generate(&places.reference)? {
        let path = places.root.join("crates/api/src/generated").join(name);
        if fs::read_to_string(&path).unwrap_or_default() != text {
            problems.add(format!(
                "crates/api/src/generated/{name} is not fresh: run `cargo xtask codegen`"
            ));
        }
    }
    Ok(())
}
