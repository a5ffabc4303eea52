//! The table of protobuf field numbers: which number each field of each type has, and which fields lie in a message
//! that JSON does not show (Go embeds the struct: `volumeSource`, `handler`, `localObjectReference`, ...).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::removed::{self, Removed};
use super::{Builder, Definition};

/// Stands for a field's place where a message is inlined instead.
const INLINE: u16 = u16::MAX;
/// Beside a field's place: what JSON shows as a list is a message with its items (`Verbs`).
const LISTED: u16 = 1 << 15;

/// Kind and version are in the envelope.
const JSON_ONLY: &[&str] = &["kind", "apiVersion"];
/// Fields that 1.37 added after the table of numbers was made: protobuf is without them until it tells them.
const NOT_NUMBERED: &[&str] =
    &["runningInUserNamespace", "compatibilityGroups", "derivedAttributes"];

struct Row {
    name: String,
    number: u16,
    ty: String,
    is_repeated: bool,
}

type Messages = BTreeMap<String, Vec<Row>>;

/// The text of `protobuf.rs`.
pub(super) fn generate(
    reference: &Path,
    builder: &Builder<'_>,
    removed: &Removed,
) -> Result<String> {
    let mut messages = read(&reference.join("proto-facts.tsv"))?;
    for it in &removed.numbers {
        let (name, ty) = (it.field.clone(), it.ty.clone());
        let row = Row { name, number: it.number, is_repeated: ty.starts_with('['), ty };
        messages.entry(it.message.clone()).or_default().push(row);
    }
    messages.values_mut().for_each(|rows| rows.sort_by_key(|row| row.number));
    let mut words: Vec<u16> = vec![0];
    let mut at = vec![0_usize; builder.nodes.len()];
    let mut silent = Vec::new();
    for (definition, id) in builder.ids.iter().filter(is_type) {
        if !builder.nodes[*id].starts_with("s!") {
            continue;
        }
        let Some(rows) = messages.get(&message_of(definition)) else { continue };
        let fields = &builder.definitions[definition];
        at[*id] = words.len();
        let mut seen = Vec::new();
        write_message(&messages, rows, &Fields::of(fields), &mut words, &mut seen)
            .with_context(|| format!("the message of {definition}"))?;
        let missing: Vec<&str> = fields
            .fields
            .iter()
            .map(|row| row.name.as_str())
            .filter(|name| !seen.iter().any(|it| it == name))
            .filter(|name| !JSON_ONLY.contains(name) && !NOT_NUMBERED.contains(name))
            .collect();
        if !missing.is_empty() {
            silent.push(format!("{definition}: {}", missing.join(" ")));
        }
    }
    if !silent.is_empty() {
        bail!("fields without number: {silent:#?}");
    }
    render(&at, &words)
}

fn is_type((name, _): &(&String, &usize)) -> bool {
    name.starts_with("io.k8s") || name.starts_with(removed::PREFIX)
}

/// `io.k8s.apiextensions-apiserver.x` is the message `k8s.io.apiextensions_apiserver.x`.
fn message_of(definition: &str) -> String {
    definition.replacen("io.k8s", "k8s.io", 1).replace('-', "_")
}

fn read(path: &Path) -> Result<Messages> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("could not read {}", path.display()))?;
    let mut messages = Messages::new();
    for line in text.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [message, name, number, label, ty] = columns[..] else { bail!("odd row {line}") };
        if name.is_empty() {
            messages.entry(message.to_owned()).or_default();
            continue;
        }
        let number = number.parse().with_context(|| format!("the number in {line}"))?;
        let is_repeated = label == "repeated";
        let row = Row { name: name.to_owned(), number, ty: ty.to_owned(), is_repeated };
        messages.entry(message.to_owned()).or_default().push(row);
    }
    Ok(messages)
}

/// The places of a definition's fields by the name that protobuf calls them.
struct Fields<'d>(BTreeMap<String, (u16, &'d str)>);

impl<'d> Fields<'d> {
    fn of(definition: &'d Definition) -> Self {
        let mut names: Vec<&str> = definition.fields.iter().map(|row| row.name.as_str()).collect();
        names.sort_unstable();
        let places = (0_u16..).zip(names).map(|(place, name)| (proto_name(name), (place, name)));
        Self(places.collect())
    }
}

/// `x-kubernetes-list-type` is `xKubernetesListType`, `$ref` is `ref`.
///
/// Some of upstream's are capitalised by mistake (`Webhooks`), so case does not count.
fn proto_name(name: &str) -> String {
    name.trim_start_matches('$').replace('-', "").to_lowercase()
}

/// Writes how many fields follow, then number and place of each; a message inside follows its place.
fn write_message<'d>(
    messages: &Messages,
    rows: &[Row],
    fields: &Fields<'d>,
    words: &mut Vec<u16>,
    seen: &mut Vec<&'d str>,
) -> Result<()> {
    let count_at = words.len();
    words.push(0);
    let mut count = 0;
    for row in rows {
        if let Some((place, name)) = fields.0.get(&row.name.to_lowercase()) {
            let listed = !row.is_repeated && is_list(messages, &row.ty);
            words.extend([row.number, *place | if listed { LISTED } else { 0 }]);
            seen.push(name);
        } else if let Some(inner) = messages.get(&row.ty) {
            words.extend([row.number, INLINE]);
            write_message(messages, inner, fields, words, seen)?;
        } else {
            // A field that JSON does not have at all.
            continue;
        }
        count += 1;
    }
    words[count_at] = count;
    Ok(())
}

/// Whether a message is Go's list type of a name of its own, which can be told from none at all.
fn is_list(messages: &Messages, ty: &str) -> bool {
    matches!(messages.get(ty).map(Vec::as_slice), Some([only]) if only.name == "items" && only.is_repeated)
}

fn render(at: &[usize], words: &[u16]) -> Result<String> {
    let mut out = String::from(
        "//! Generated by `cargo xtask codegen` from the table of protobuf fields. Do not edit.\n\n\
         use apimachinery::protobuf::Tags;\n\n\
         /// The field numbers of every type of the built-in API.\n\
         pub static TAGS: Tags = Tags { at: AT, words: WORDS };\n\n",
    );
    write!(out, "static AT: &[u16] = &[")?;
    for (index, at) in at.iter().enumerate() {
        out.push_str(if index % 24 == 0 { "\n    " } else { " " });
        write!(out, "{},", u16::try_from(*at).context("the table has outgrown its index")?)?;
    }
    write!(out, "\n];\n\nstatic WORDS: &[u16] = &[")?;
    for (index, word) in words.iter().enumerate() {
        out.push_str(if index % 24 == 0 { "\n    " } else { " " });
        write!(out, "{word},")?;
    }
    out.push_str("\n];\n");
    Ok(out)
}
