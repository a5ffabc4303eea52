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

/// Checks a cell of an object's row, by the name of its column.
fn check(object: &str, column: &str, expected: &str) {
    let (resource, served, value) = super::prepared(object);
    let place = served.facts.columns.iter().position(|it| it.name == column).unwrap();
    let row = resource.row(&value, "2026-01-01T00:01:00Z".parse().unwrap());
    assert_eq!(row[place], Value::from(expected), "for {object}");
}

#[test]
fn cells_are_upstreams() {
    check(
        r#"{"kind":"Endpoints","apiVersion":"v1","subsets":[{"addresses":[{"ip":"10.0.0.1"},{"ip":"fd00::1"}],"ports":[{"name":"a","port":80},{"name":"b","port":81}]}]}"#,
        "Endpoints",
        "10.0.0.1:80,[fd00::1]:80,10.0.0.1:81 + 1 more...",
    );
    check(
        r#"{"kind":"PersistentVolumeClaim","apiVersion":"v1","spec":{"volumeName":"v"}}"#,
        "Capacity",
        "0",
    );
    let event = |said: &str| format!(r#"{{"kind":"Event","apiVersion":"v1",{said}}}"#);
    check(&event(r#""reportingComponent":"c","reportingInstance":"i""#), "Source", "c, i");
    check(&event(r#""source":{"host":"h"},"reportingInstance":"i""#), "Source", ", h");
    check(&event(r#""source":{"component":"c"}"#), "Source", "c");
}
