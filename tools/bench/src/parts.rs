//! Parts that have a program of their own to measure them: its figures are read from what it prints.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::Options;
use crate::table::{Bar, Figure};

fn run(options: &Options, program: &str) -> Result<String> {
    let output = Command::new(options.examples.join(program))
        .output()
        .with_context(|| format!("could not start {program}"))?;
    if !output.status.success() {
        bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The word before `after`, or the word after `before`, in what was printed.
fn word_before(text: &str, after: &str) -> Result<f64> {
    let (head, _) = text.split_once(after).with_context(|| format!("no {after:?} in {text:?}"))?;
    let word = head.split_whitespace().next_back().context("nothing before it")?;
    word.parse().with_context(|| format!("{word:?} is no number"))
}

/// Milliseconds of a duration as Rust prints it.
fn milliseconds(text: &str) -> Result<f64> {
    let text = text.trim().trim_end_matches(',');
    for (unit, factor) in [("ms", 1.0), ("µs", 1e-3), ("ns", 1e-6), ("s", 1e3)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    bail!("{text:?} is no duration")
}

pub(crate) fn dns(options: &Options) -> Result<Vec<Figure>> {
    let answers = word_before(&run(options, "load")?, " answers a second")?;
    Ok(vec![Figure::new("DNS answers", answers, "/s", Bar::AtLeast(60_000.0))])
}

pub(crate) fn proxy(options: &Options) -> Result<Vec<Figure>> {
    let text = run(options, "service_figures")?;
    let line = text.lines().find(|it| it.starts_with("one change of endpoints"));
    let p99 = line.and_then(|it| it.split_once("p99 ")).context("no change in what it printed")?;
    let p99 = milliseconds(p99.1.split(' ').next().unwrap_or_default())?;
    Ok(vec![Figure::new(
        "10,000 services: 99 of 100 changes active within",
        p99,
        "ms",
        Bar::AtMost(10.0),
    )])
}

pub(crate) fn scheduler(options: &Options) -> Result<Vec<Figure>> {
    let took = word_before(&run(options, "throughput")?, " us a pod")?;
    Ok(vec![Figure::new("5,000 nodes: a pod decided in", took, "us", Bar::AtMost(20.0))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_what_is_printed() {
        assert_eq!(word_before("x\n812 pods/s, 12.5 us a pod\n", " us a pod").unwrap(), 12.5);
        assert!(word_before("nothing", " us a pod").is_err());
        assert!((milliseconds("520.5µs,").unwrap() - 0.5205).abs() < 1e-9);
        assert!((milliseconds("1.5s").unwrap() - 1500.0).abs() < 1e-9);
        assert!(milliseconds("soon").is_err());
    }
}
