//! Figures, what they should be, and the page they are kept on.

use std::fmt;
use std::time::Duration;

/// What a figure should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
    /// It stands in the table to compare by.
    None,
}

/// One figure.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    what: String,
    value: Option<f64>,
    unit: &'static str,
    bar: Bar,
    /// What the trivial server does under the same load.
    reference: Option<f64>,
}

impl Figure {
    /// A figure with what it should be.
    pub(crate) fn new(what: &str, value: f64, unit: &'static str, bar: Bar) -> Self {
        Self { what: what.into(), value: Some(value), unit, bar, reference: None }
    }

    /// A duration in milliseconds that should be at most this many.
    pub(crate) fn ms(what: &str, value: Duration, at_most: f64) -> Self {
        Self::new(what, value.as_secs_f64() * 1e3, "ms", Bar::AtMost(at_most))
    }

    /// A duration in seconds that should be at most this many.
    pub(crate) fn seconds(what: &str, value: Duration, at_most: f64) -> Self {
        Self::new(what, value.as_secs_f64(), "s", Bar::AtMost(at_most))
    }

    /// One that could not be measured, and why.
    pub(crate) fn missing(why: &str) -> Self {
        let what = why.lines().next().unwrap_or_default().replace('|', "/");
        Self { what, value: None, unit: "", bar: Bar::None, reference: None }
    }

    /// With what the trivial server does.
    pub(crate) fn beside(mut self, reference: f64) -> Self {
        self.reference = Some(reference);
        self
    }

    fn is_met(&self) -> Option<bool> {
        match (self.value?, self.bar) {
            (value, Bar::AtLeast(bar)) => Some(value >= bar),
            (value, Bar::AtMost(bar)) => Some(value <= bar),
            (_, Bar::None) => None,
        }
    }

    fn row(&self, scenario: &str) -> String {
        let number = |it: Option<f64>| it.map(round).unwrap_or_default();
        let bar = match self.bar {
            Bar::AtLeast(bar) => format!(">= {}", round(bar)),
            Bar::AtMost(bar) => format!("<= {}", round(bar)),
            Bar::None => String::new(),
        };
        let ratio = self.value.zip(self.reference).map(|(value, it)| format!("{:.2}", value / it));
        let met = match self.is_met() {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        format!(
            "| {scenario} | {} | {} {} | {bar} | {met} | {} | {} |",
            self.what,
            number(self.value),
            self.unit,
            number(self.reference),
            ratio.unwrap_or_default()
        )
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(value) = self.value else { return write!(f, "{}", self.what) };
        write!(f, "{}: {} {}", self.what, round(value), self.unit)?;
        match (self.bar, self.is_met()) {
            (Bar::AtLeast(bar) | Bar::AtMost(bar), Some(false)) => {
                write!(f, " (should be {})", round(bar))
            }
            _ => Ok(()),
        }
    }
}

/// Three digits that matter.
fn round(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// The page.
pub(crate) fn document(figures: &[(&str, Figure)]) -> String {
    let rows: Vec<String> = figures.iter().map(|(scenario, it)| it.row(scenario)).collect();
    format!(
        "# Benchmarks\n\n\
         Written by `cargo xtask bench`, which runs server and load on the same cores. The reference is a server with\n\
         the same TLS and HTTP that answers 1 KiB and does nothing else, under the same load: the ratio says what\n\
         being an API server costs, and holds on machines where the figures do not.\n\n\
         Machine: {}.\n\n\
         | scenario | what | measured | should be | met | reference | ratio |\n\
         |---|---|---|---|---|---|---|\n{}\n",
        machine(),
        rows.join("\n")
    )
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|it| it.split_once(':')).map(|(_, it)| it.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let model = field(&read("/proc/cpuinfo"), "model name").unwrap_or_default();
    let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{cores} cores ({model}), memory {memory}, Linux {}, load average at the end {load} (of which about {cores} are \
         the measurement's own)",
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_whether_the_bar_is_met() {
        let check = |figure: &Figure, expected: &str| assert_eq!(figure.row("s"), expected);
        let figure = Figure::new("creates", 5000.0, "/s", Bar::AtLeast(10_000.0));
        check(
            &figure.clone().beside(20_000.0),
            "| s | creates | 5000 /s | >= 10000 | no | 20000 | 0.25 |",
        );
        check(&figure, "| s | creates | 5000 /s | >= 10000 | no |  |  |");
        check(
            &Figure::ms("p99", Duration::from_millis(9), 15.0),
            "| s | p99 | 9.0 ms | <= 15.0 | yes |  |  |",
        );
        check(&Figure::missing("a | b"), "| s | a / b |   |  |  |  |  |");
    }
}
