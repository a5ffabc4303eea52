//! Explanations and reports for people: made of their JSON, so that a server's answer reads like one's own.

use apimachinery::Value;

/// How text is emphasised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Not at all.
    Plain,
    /// For terminals, by escape sequences.
    Coloured,
}

/// What a piece of text is.
#[derive(Clone, Copy)]
enum Role {
    Heading,
    Good,
    Bad,
    Faint,
}

impl Style {
    fn paint(self, role: Role, text: &str) -> String {
        let code = match role {
            Role::Heading => "1",
            Role::Good => "32",
            Role::Bad => "31",
            Role::Faint => "2",
        };
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        }
    }
}

/// An `Explanation` or a `WhatIf` as text.
#[must_use]
pub fn render(value: &Value, style: Style) -> String {
    let mut page = Page { style, text: String::new() };
    match value.str_at(&["kind"]) {
        "WhatIf" => page.what_if(value),
        _ => page.explanation(value),
    }
    page.text
}

struct Page {
    style: Style,
    text: String,
}

impl Page {
    fn line(&mut self, text: &str) {
        self.text.push_str(text.trim_end());
        self.text.push('\n');
    }

    fn heading(&mut self, text: &str) {
        let painted = self.style.paint(Role::Heading, text);
        self.text.push('\n');
        self.line(&painted);
    }

    fn explanation(&mut self, value: &Value) {
        let role = match value.str_at(&["state"]) {
            "Settled" | "Progressing" | "Ended" => Role::Good,
            _ => Role::Bad,
        };
        let state = self.style.paint(role, value.str_at(&["state"]));
        self.line(&format!("{state}: {}", value.str_at(&["summary"])));
        let findings = value.items_at(&["findings"]);
        if !findings.is_empty() {
            self.heading("FOUND");
            self.findings(findings, 1);
        }
        if let Some(scheduling) = value.get("scheduling") {
            self.scheduling(scheduling);
        }
    }

    fn findings(&mut self, findings: &[Value], depth: usize) {
        for it in findings {
            let message = it.str_at(&["message"]);
            self.line(&format!("{}- {message}", "  ".repeat(depth)));
            self.findings(it.items_at(&["because"]), depth + 1);
        }
    }

    fn scheduling(&mut self, it: &Value) {
        self.heading("NODES");
        let group = |group: &Value| {
            let count = group.i64_at(&["count"]).unwrap_or_default();
            let nodes = strings(group, "nodes");
            let more = usize::try_from(count).unwrap_or_default().saturating_sub(nodes.len());
            let mut named = nodes.join(", ");
            if more > 0 {
                named.push_str(&format!(" and {more} more"));
            }
            vec![
                count.to_string(),
                group.str_at(&["plugin"]).to_owned(),
                strings(group, "reasons").join(", "),
                named,
            ]
        };
        let rows: Vec<Vec<String>> = it.items_at(&["groups"]).iter().map(group).collect();
        self.table(&["COUNT", "PLUGIN", "REASON", "NODES"], &rows);
        let suggestions = it.items_at(&["suggestions"]);
        self.heading("WHAT WOULD HELP");
        if suggestions.is_empty() {
            self.line("  no change of up to three things that was tried makes it fit");
        }
        for (nth, it) in suggestions.iter().enumerate() {
            let fits = it.i64_at(&["fits"]).unwrap_or_default();
            let what = self.style.paint(Role::Good, it.str_at(&["summary"]));
            let nodes = self.style.paint(
                Role::Faint,
                &format!("(fits on {fits}: {})", strings(it, "nodes").join(", ")),
            );
            self.line(&format!("  {}. {what} {nodes}", nth + 1));
        }
        if let Some(it) = it.get("preemption") {
            self.preemption(it);
        }
    }

    fn preemption(&mut self, it: &Value) {
        self.heading("PREEMPTION");
        let victims: Vec<String> = it.items_at(&["victims"]).iter().map(pod_name).collect();
        let priority = it.i64_at(&["priority"]).unwrap_or_default();
        let who = match (it.bool_at(&["hasPriority"]), it.str_at(&["priorityClassName"])) {
            (true, _) => format!("its priority {priority}"),
            (false, "") => format!("a priority of {priority}"),
            (false, class) => format!("a priority of {priority} (class {class})"),
        };
        let node = it.str_at(&["node"]);
        self.line(&format!("  {who} lets it push off node {node}: {}", victims.join(", ")));
        let broken = it.i64_at(&["budgetViolations"]).unwrap_or_default();
        if broken > 0 {
            let text = format!("  {broken} of them against their disruption budgets");
            let text = self.style.paint(Role::Bad, &text);
            self.line(&text);
        }
    }

    fn what_if(&mut self, value: &Value) {
        self.line(value.str_at(&["summary"]));
        let text = |it: &Value, member: &str| match it.str_at(&[member]) {
            "" => "-".to_owned(),
            text => text.to_owned(),
        };
        let moves =
            |it: &Value| vec![pod_name(it), text(it, "owner"), text(it, "node"), text(it, "to")];
        self.section(value, ("moves", "PLACED"), &["POD", "OWNER", "FROM", "TO"], moves);
        let waits = |it: &Value| {
            vec![
                pod_name(it),
                text(it, "owner"),
                text(it, "node"),
                // Of the scheduler's message the part about nodes.
                text(it, "why").split(". ").next().unwrap_or_default().to_owned(),
                text(it, "help"),
            ]
        };
        self.section(
            value,
            ("waits", "WAITING"),
            &["POD", "OWNER", "FROM", "WHY", "WHAT WOULD HELP"],
            waits,
        );
        let noted = |it: &Value| vec![pod_name(it), text(it, "node"), text(it, "note")];
        let budget = |it: &Value| {
            let count = |name: &str| it.i64_at(&[name]).unwrap_or_default().to_string();
            vec![pod_name(it), count("wanted"), count("least"), count("then")]
        };
        self.section(value, ("blocked", "KEPT BY THEIR BUDGETS"), &["POD", "NODE", "WHY"], noted);
        self.section(
            value,
            ("budgets", "BROKEN BUDGETS"),
            &["BUDGET", "WANTED", "LEAST", "THEN"],
            budget,
        );
        self.section(value, ("lost", "NOT MADE AGAIN"), &["POD", "NODE", "WHY"], noted);
        self.section(value, ("preempted", "PUSHED AWAY"), &["POD", "NODE", "BY"], noted);
        self.section(value, ("warnings", "WARNINGS"), &["POD", "NODE", "WARNING"], noted);
        self.section(value, ("ignored", "LEFT ALONE"), &["OBJECT", "NODE", "WHY"], noted);
    }

    fn section(
        &mut self,
        value: &Value,
        (member, heading): (&str, &str),
        columns: &[&str],
        row: impl Fn(&Value) -> Vec<String>,
    ) {
        let items = value.items_at(&[member]);
        if !items.is_empty() {
            self.heading(heading);
            let rows: Vec<Vec<String>> = items.iter().map(row).collect();
            self.table(columns, &rows);
        }
    }

    fn table(&mut self, columns: &[&str], rows: &[Vec<String>]) {
        let width = |place: usize| {
            let cells = rows.iter().map(|row| row[place].chars().count());
            cells.chain([columns[place].len()]).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns.len()).map(width).collect();
        let padded = |cells: &mut dyn Iterator<Item = &str>| {
            let cells = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            format!("  {}", cells.collect::<Vec<_>>().join("   "))
        };
        let head = self.style.paint(Role::Faint, padded(&mut columns.iter().copied()).trim_end());
        self.line(&head);
        for row in rows {
            self.line(&padded(&mut row.iter().map(String::as_str)));
        }
    }
}

fn strings(value: &Value, member: &str) -> Vec<String> {
    let items = value.items_at(&[member]).iter();
    items.filter_map(|it| it.as_str().map(str::to_owned)).collect()
}

fn pod_name(it: &Value) -> String {
    match it.str_at(&["namespace"]) {
        "" => it.str_at(&["name"]).to_owned(),
        namespace => format!("{namespace}/{}", it.str_at(&["name"])),
    }
}
