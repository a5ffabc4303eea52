//! Types of versions that are served no more (`removed.tsv`): what their protobuf messages hold, where that differs from
//! today's. Nothing but reading and writing such messages knows them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::{Definition, FieldRow};

const TABLE: &str = include_str!("removed.tsv");
/// What the names of their definitions begin with.
pub(super) const PREFIX: &str = "removed.";

/// A field of a message.
pub(super) struct Numbered {
    pub(super) message: String,
    pub(super) field: String,
    pub(super) ty: String,
    pub(super) number: u16,
}

#[derive(Default)]
pub(super) struct Removed {
    pub(super) definitions: BTreeMap<String, Definition>,
    /// How fields are held, by definition and field: words of `presence.tsv`.
    pub(super) presence: BTreeMap<String, &'static str>,
    pub(super) numbers: Vec<Numbered>,
    /// Group, version and kind of definitions.
    pub(super) kinds: BTreeMap<(&'static str, &'static str, &'static str), &'static str>,
}

pub(super) fn read() -> Result<Removed> {
    let mut removed = Removed::default();
    for line in TABLE.lines().filter(|it| !it.starts_with('#')).skip(1) {
        let [definition, field, ty, presence, number] = line.split('\t').collect::<Vec<_>>()[..]
        else {
            bail!("no five columns in {line}")
        };
        if field == "-" {
            let [group, version, kind] = ty.split('/').collect::<Vec<_>>()[..] else {
                bail!("no kind in {line}")
            };
            removed.kinds.insert((group, version, kind), definition);
            continue;
        }
        if !number.is_empty() {
            removed.numbers.push(Numbered {
                message: definition.to_owned(),
                field: field.to_owned(),
                ty: ty.to_owned(),
                number: number.parse().with_context(|| format!("the number in {line}"))?,
            });
        }
        if presence == "inline" {
            continue;
        }
        if ["pointer", "value"].contains(&presence) {
            removed.presence.insert(format!("{definition}.{field}"), presence);
        }
        let row = FieldRow {
            name: field.to_owned(),
            ty: ty.to_owned(),
            required: presence == "yes",
            list_type: String::new(),
            list_keys: String::new(),
            map_type: String::new(),
            strategy: String::new(),
            merge_key: String::new(),
        };
        removed.definitions.entry(definition.to_owned()).or_default().fields.push(row);
    }
    Ok(removed)
}
