//! The table of Go's names that show in the errors of its decoder: `go-names.tsv`, spread over the fields it means.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};

use super::Definition;

const NAMES: &str = include_str!("go-names.tsv");

#[derive(Default)]
struct Names {
    ty: &'static str,
    via: &'static str,
}

/// The text of the table: struct, field, named type, embedded struct; sorted.
pub(super) fn render(definitions: &BTreeMap<String, Definition>) -> Result<String> {
    let mut table: BTreeMap<(String, String), Names> = BTreeMap::new();
    for line in NAMES.lines().filter(|line| !line.starts_with('#')) {
        let [word, name, rest] = line.split('\t').collect::<Vec<_>>()[..] else {
            bail!("no three columns in {line}")
        };
        match word {
            "type" => {
                for field in rest.split(' ') {
                    let (of, field) = field.split_once('.').context("a field has a struct")?;
                    table.entry((of.into(), field.into())).or_default().ty = name;
                }
            }
            "embeds" => {
                let (of, via) = name.split_once(' ').context("an embedding has two structs")?;
                let own: Vec<&str> = rest.split(' ').collect();
                for field in fields_of(definitions, of).filter(|it| !own.contains(it)) {
                    table.entry((of.into(), field.into())).or_default().via = via;
                }
            }
            odd => bail!("{odd} is not known in go-names.tsv"),
        }
    }
    // The operations of a rule lie one embedding less deep than the rule.
    let operations = ("NamedRuleWithOperations".to_owned(), "operations".to_owned());
    table.entry(operations).or_default().via = "RuleWithOperations";
    let mut out = String::from(
        "/// What Go calls the types of fields and what it embeds: struct, field, type, embedded struct; sorted.\n\
         static GO_NAMES: &[GoName] = &[\n",
    );
    for ((of, field), Names { ty, via }) in table {
        writeln!(
            out,
            "    GoName {{ of: Cow::Borrowed({of:?}), field: Cow::Borrowed({field:?}), ty: Cow::Borrowed({ty:?}), via: Cow::Borrowed({via:?}) }},"
        )?;
    }
    out.push_str("];\n\n");
    Ok(out)
}

fn fields_of<'d>(
    definitions: &'d BTreeMap<String, Definition>,
    of: &'d str,
) -> impl Iterator<Item = &'d str> {
    let of_type =
        move |name: &str| name.starts_with("io.k8s") && name.rsplit('.').next() == Some(of);
    let found = definitions.iter().filter(move |(name, _)| of_type(name));
    found.flat_map(|(_, definition)| definition.fields.iter().map(|row| row.name.as_str()))
}
