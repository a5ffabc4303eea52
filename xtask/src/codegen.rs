//! `cargo xtask codegen`: turns the tables of facts beside the project into `crates/api/src/generated`.
//!
//! The tables say what types exist and how they merge; `presence.tsv` says what Go writes for zero values, which
//! no table tells. The output is committed; `tidy` checks that it is fresh where the tables are at hand.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};

mod bootstrap;
mod go_names;
mod openapi;
mod proto;
mod removed;
mod resources;

const PRESENCE: &str = include_str!("codegen/presence.tsv");

struct FieldRow {
    name: String,
    ty: String,
    required: bool,
    list_type: String,
    list_keys: String,
    map_type: String,
    strategy: String,
    merge_key: String,
}

#[derive(Default)]
struct Definition {
    atomic: bool,
    scalar: Option<String>,
    /// `x-kubernetes-unions`, as JSON.
    unions: String,
    fields: Vec<FieldRow>,
}

/// Writes the generated files below `root`, from the tables in `reference`.
pub(crate) fn run(root: &Path, reference: &Path) -> Result<()> {
    let out = root.join("crates/api/src/generated");
    std::fs::create_dir_all(&out)?;
    for (name, text) in generate(reference)? {
        let path = out.join(name);
        std::fs::write(&path, text)
            .with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

/// The generated files by name.
pub(crate) fn generate(reference: &Path) -> Result<Vec<(&'static str, String)>> {
    let mut definitions = read_definitions(&reference.join("openapi-facts.tsv"))?;
    let mut presence = Presence::parse(PRESENCE)?;
    let mut removed = removed::read()?;
    definitions.append(&mut removed.definitions);
    presence.0.append(&mut removed.presence);
    let kinds = std::fs::read_to_string(reference.join("kinds.tsv"))?;
    let mut builder = Builder::new(&definitions, &presence);
    for name in definitions.keys() {
        builder.definition(name)?;
    }
    Ok(vec![
        ("schema.rs", builder.render(&kinds, &removed)?),
        ("openapi.rs", openapi::generate(&builder)?),
        ("protobuf.rs", proto::generate(reference, &builder, &removed)?),
        ("resources.rs", resources::generate(reference)?),
        ("bootstrap.jsonl", bootstrap::generate(reference)?),
    ])
}

fn read_definitions(path: &Path) -> Result<BTreeMap<String, Definition>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("could not read {}", path.display()))?;
    let mut definitions: BTreeMap<String, Definition> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let mut columns = line.split('\t').map(str::to_owned);
        let mut next = || columns.next().unwrap_or_default();
        let (definition, name, ty, required) = (next(), next(), next(), next());
        let entry = definitions.entry(definition).or_default();
        let row = FieldRow {
            name,
            ty,
            required: required == "yes",
            list_type: next(),
            list_keys: next(),
            map_type: next(),
            strategy: next(),
            merge_key: next(),
        };
        if row.name == "-" {
            entry.unions = next();
            entry.atomic = row.map_type == "atomic";
            if row.ty != "object" {
                entry.scalar = Some(row.ty);
            }
        } else {
            entry.fields.push(row);
        }
    }
    Ok(definitions)
}

/// The exceptions of `presence.tsv`.
struct Presence(BTreeMap<String, &'static str>);

impl Presence {
    fn parse(text: &'static str) -> Result<Self> {
        let mut map = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let Some((word, names)) = line.split_once('\t') else { bail!("no tab in {line}") };
            for name in names.split_whitespace() {
                map.insert(name.to_owned(), word);
            }
        }
        Ok(Self(map))
    }

    /// How a field is held of the type whose definition has this name: what is said of it with its group and version comes
    /// before what is said of all types of its name.
    fn of(&self, definition: &str, row: &FieldRow) -> &'static str {
        let mut dots = definition.rmatch_indices('.').map(|(at, _)| &definition[at + 1..]);
        let type_name = dots.next().unwrap_or(definition);
        let qualified = dots.nth(1).unwrap_or(definition);
        let exception = self
            .0
            .get(&format!("{definition}.{}", row.name))
            .or_else(|| self.0.get(&format!("{qualified}.{}", row.name)))
            .or_else(|| self.0.get(&format!("{type_name}.{}", row.name)))
            .or_else(|| self.0.get(&format!("*.{}", row.name)))
            .or_else(|| {
                type_name
                    .ends_with("List")
                    .then(|| self.0.get(&format!("*List.{}", row.name)))
                    .flatten()
            });
        match exception {
            Some(&"value") => "OmitEmpty",
            Some(&"always") => "Always",
            Some(&"pointer") => "Pointer",
            Some(&"null") => "Null",
            _ if row.required => "Always",
            _ => match row.ty.as_str() {
                ty if ty.starts_with("string") || ty.starts_with('[') || ty.starts_with("map[") => {
                    "OmitEmpty"
                }
                _ if row.name == "apiVersion" || row.name == "kind" => "OmitEmpty",
                _ => "Pointer",
            },
        }
    }
}

struct Builder<'d> {
    definitions: &'d BTreeMap<String, Definition>,
    presence: &'d Presence,
    ids: BTreeMap<String, usize>,
    nodes: Vec<String>,
}

impl<'d> Builder<'d> {
    fn new(definitions: &'d BTreeMap<String, Definition>, presence: &'d Presence) -> Self {
        Self { definitions, presence, ids: BTreeMap::new(), nodes: Vec::new() }
    }

    /// The index of the node with this key, made by `render` where it is new.
    fn intern(
        &mut self,
        key: &str,
        render: impl FnOnce(&mut Self) -> Result<String>,
    ) -> Result<usize> {
        if let Some(id) = self.ids.get(key) {
            return Ok(*id);
        }
        let id = self.nodes.len();
        self.ids.insert(key.to_owned(), id);
        self.nodes.push(String::new());
        self.nodes[id] = render(self)?;
        Ok(id)
    }

    fn scalar(&mut self, node: &str) -> Result<usize> {
        self.intern(&format!("!{node}"), |_| Ok(format!("Node::{node}")))
    }

    fn definition(&mut self, name: &str) -> Result<usize> {
        let short = name.rsplit('.').next().unwrap_or(name);
        match name.trim_start_matches("io.k8s.") {
            "apimachinery.pkg.apis.meta.v1.Time" => return self.scalar("Time"),
            "apimachinery.pkg.apis.meta.v1.MicroTime" => return self.scalar("MicroTime"),
            "apimachinery.pkg.apis.meta.v1.Duration" => return self.scalar("Duration"),
            "apimachinery.pkg.apis.meta.v1.FieldsV1" => return self.scalar("FieldsV1"),
            "apimachinery.pkg.runtime.RawExtension" => return self.scalar("RawExtension"),
            "apimachinery.pkg.api.resource.Quantity" => return self.scalar("Quantity"),
            "apimachinery.pkg.util.intstr.IntOrString" => return self.scalar("IntOrString"),
            "apimachinery.pkg.apis.meta.v1.Patch" => return self.scalar("Any"),
            "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON" => return self.scalar("Any"),
            _ => {}
        }
        if let Some(union) = short.strip_prefix("JSONSchemaPropsOr") {
            let variant = match union {
                "Bool" => "SchemaOrBool",
                "Array" => "SchemaOrArray",
                _ => "SchemaOrStrings",
            };
            let base = name.replace(short, "JSONSchemaProps");
            let id = self.definition(&base)?;
            return self.intern(name, |_| Ok(format!("Node::{variant}({id})")));
        }
        self.intern(name, |this| this.render_struct(name, short))
    }

    fn render_struct(&mut self, name: &str, short: &str) -> Result<String> {
        let definitions = self.definitions;
        let definition = definitions.get(name).with_context(|| format!("no definition {name}"))?;
        if let Some(scalar) = &definition.scalar {
            bail!("{name} is a {scalar}: say in codegen.rs which node that is");
        }
        let mut parts = name.rsplit('.');
        let (_, package) = (parts.next(), parts.next().unwrap_or_default());
        let mut rows: Vec<&FieldRow> = definition.fields.iter().collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        let mut fields = String::new();
        for row in rows {
            let node = self.field_type(row)?;
            let presence = self.presence.of(name, row);
            let (merge, retain) =
                (row.strategy.contains("merge"), row.strategy.contains("retainKeys"));
            write!(
                fields,
                "f!({:?}, {node}, {presence}, {merge}, {retain}, {:?}), ",
                row.name, row.merge_key
            )?;
        }
        Ok(format!(
            "s!({short:?}, {package:?}, {}, &[{}])",
            definition.atomic,
            fields.trim_end_matches(", ")
        ))
    }

    fn field_type(&mut self, row: &FieldRow) -> Result<usize> {
        self.type_of(&row.ty, row)
    }

    fn type_of(&mut self, ty: &str, row: &FieldRow) -> Result<usize> {
        if let Some(item) = ty.strip_prefix('[').and_then(|ty| ty.strip_suffix(']')) {
            let id = self.type_of(item, row)?;
            let kind = match row.list_type.as_str() {
                "map" => "Map",
                "set" => "Set",
                _ => "Atomic",
            };
            let keys = row
                .list_keys
                .split(',')
                .filter(|key| !key.is_empty())
                .map(|key| format!("Cow::Borrowed({key:?})"));
            let keys = keys.collect::<Vec<_>>().join(", ");
            let text = format!("l!({id}, {kind}, &[{keys}])");
            return self.intern(&text.clone(), |_| Ok(text));
        }
        if let Some(value) = ty.strip_prefix("map[").and_then(|ty| ty.strip_suffix(']')) {
            let id = self.type_of(value, row)?;
            let text =
                format!("Node::Map(Map {{ value: {id}, atomic: {} }})", row.map_type == "atomic");
            return self.intern(&text.clone(), |_| Ok(text));
        }
        match ty {
            "string" => self.scalar("String"),
            "string/byte" => self.scalar("Bytes"),
            "string/date-time" => self.scalar("Time"),
            "boolean" => self.scalar("Bool"),
            "integer/int32" => self.scalar("Int32"),
            "integer/int64" | "integer" => self.scalar("Int64"),
            "number/double" | "number" => self.scalar("Float64"),
            "any" | "object" => self.scalar("Any"),
            definition
                if definition.starts_with("io.k8s") || definition.starts_with(removed::PREFIX) =>
            {
                self.definition(definition)
            }
            other => bail!("field type {other} is not known"),
        }
    }

    fn render(&self, kinds: &str, removed: &removed::Removed) -> Result<String> {
        let mut out = String::from(
            "//! Generated by `cargo xtask codegen` from the tables of facts. Do not edit.\n\nuse std::borrow::Cow;\n\n\
             use apimachinery::schema::{Field, GoName, List, ListKind, Map, Node, NodeId, Patch, Presence, Schema, Struct};\n\n\
             macro_rules! f {\n    ($name:literal, $node:literal, $presence:ident, $merge:literal, $retain:literal, $key:literal) => {\n\
             \x20       Field { name: Cow::Borrowed($name), node: $node, presence: Presence::$presence, patch: Patch { merge: $merge, retain_keys: $retain }, merge_key: Cow::Borrowed($key) }\n    };\n}\n\n\
             macro_rules! s {\n    ($name:literal, $package:literal, $atomic:literal, $fields:expr) => {\n\
             \x20       Node::Struct(Struct { name: Cow::Borrowed($name), package: Cow::Borrowed($package), atomic: $atomic, preserve_unknown: false, fields: Cow::Borrowed($fields) })\n    };\n}\n\n\
             macro_rules! l {\n    ($item:literal, $kind:ident, $keys:expr) => {\n        Node::List(List { item: $item, kind: ListKind::$kind, keys: Cow::Borrowed($keys), defaults: None })\n    };\n}\n\n",
        );
        writeln!(
            out,
            "/// Every type of the built-in API.\npub static SCHEMA: Schema = Schema {{ nodes: Cow::Borrowed(NODES), go_names: Cow::Borrowed(GO_NAMES) }};\n"
        )?;
        writeln!(out, "static NODES: &[Node] = &[")?;
        for (id, node) in self.nodes.iter().enumerate() {
            writeln!(out, "    /* {id} */ {node},")?;
        }
        writeln!(out, "];\n")?;
        out.push_str(&go_names::render(self.definitions)?);
        writeln!(out, "/// The types of kinds: group, version, kind, type; sorted.")?;
        writeln!(out, "pub static KINDS: &[(&str, &str, &str, NodeId)] = &[")?;
        let mut rows = Vec::new();
        for line in kinds.lines().skip(1) {
            let columns: Vec<&str> = line.split('\t').collect();
            let [definition, group, version, kind] = columns[..] else { bail!("odd row {line}") };
            if let Some(id) = self.ids.get(definition) {
                rows.push((group, version, kind, *id));
            }
        }
        rows.sort_unstable();
        rows.dedup();
        for (group, version, kind, id) in rows {
            writeln!(out, "    ({group:?}, {version:?}, {kind:?}, {id}),")?;
        }
        writeln!(
            out,
            "];\n\n/// The types of kinds of versions that are served no more, where their messages are not today's; sorted."
        )?;
        writeln!(out, "pub static REMOVED_KINDS: &[(&str, &str, &str, NodeId)] = &[")?;
        for ((group, version, kind), definition) in &removed.kinds {
            let id = self.ids.get(*definition).with_context(|| format!("no type {definition}"))?;
            writeln!(out, "    ({group:?}, {version:?}, {kind:?}, {id}),")?;
        }
        writeln!(
            out,
            "];\n\n/// Types by the last two parts of their definition's name (`v1.PodSpec` of `core`); sorted."
        )?;
        writeln!(out, "pub static DEFINITIONS: &[(&str, NodeId)] = &[")?;
        for (name, id) in self.ids.iter().filter(|(name, _)| name.starts_with("io.k8s")) {
            writeln!(out, "    ({name:?}, {id}),")?;
        }
        writeln!(out, "];")?;
        Ok(out)
    }
}
