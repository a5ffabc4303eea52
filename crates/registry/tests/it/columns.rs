//! Every kind's row fits its columns, which are upstream's.

use apimachinery::{Value, value};
use registry::Registry;

/// Kinds whose rows have cells beyond their columns, as upstream's have.
const LONGER: [(&str, usize); 1] = [("ipaddresses", 1)];

#[test]
fn every_row_has_a_cell_of_the_right_type_for_each_column() {
    let mut wrong = Vec::new();
    for resource in Registry::built_in().resources() {
        let served = resource.served()[0];
        let facts = served.facts;
        let mut value =
            value!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        resource.conform(&served, &mut value).unwrap();
        resource.default(&served, &mut value);
        let row = resource.row(&value, "2026-01-01T00:01:00Z".parse().unwrap());
        // Without columns of its own a kind shows name and creation time.
        let columns = if facts.columns.is_empty() { 2 } else { facts.columns.len() };
        let more = LONGER.iter().find(|(name, _)| *name == facts.resource).map_or(0, |it| it.1);
        if row.len() != columns + more {
            wrong.push(format!("{}: {} cells for {columns} columns", facts.resource, row.len()));
        }
        for (column, cell) in facts.columns.iter().zip(&row) {
            let fits = match column.kind {
                "integer" => matches!(cell, Value::Int(_)),
                // Some of upstream's are text.
                "boolean" => match cell {
                    Value::Bool(_) => true,
                    other => matches!(other.as_str(), Some("True" | "False" | "<unset>")),
                },
                _ => !cell.is_null(),
            };
            if !fits {
                wrong.push(format!(
                    "{} {}: {cell:?} is no {}",
                    facts.resource, column.name, column.kind
                ));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
