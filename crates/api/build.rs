//! Packs the descriptions of the API's types and fields, so that `kubectl explain` has something to say.
//!
//! They are read from the sources of `k8s-openapi`, the very version that this build uses, and never committed. What
//! comes out is a table of compressed blocks, sorted by definition; `src/docs.rs` reads it. Knows the shape that the
//! crate's generator gives its schema functions, and fails the build when that shape is not found any more.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::{Compression, write::ZlibEncoder};

/// A block is closed once it holds this much text: the price of one look-up is inflating one block.
const BLOCK_BYTES: usize = 48 * 1024;
/// Fewer definitions than this, and the sources are not what this program thinks they are.
const DEFINITIONS_MIN: usize = 500;

/// The marks between the parts of a block; no description holds control characters.
const DEFINITION: char = '\u{1d}';
const FIELD: char = '\u{1e}';
const TEXT: char = '\u{1f}';

struct Definition {
    name: String,
    description: String,
    fields: Vec<(String, String)>,
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=Cargo.toml");
    let sources = k8s_openapi_sources();
    println!("cargo::rerun-if-changed={}", sources.display());
    let mut definitions = Vec::new();
    read_folder(&sources.join("src/v1_37"), &mut definitions);
    definitions.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(
        definitions.len() >= DEFINITIONS_MIN,
        "found only {} descriptions of types in {}",
        definitions.len(),
        sources.display()
    );
    let out = PathBuf::from(
        std::env::var_os("OUT_DIR").expect("cargo tells a build script where to write"),
    );
    write_blocks(&definitions, &out);
}

/// The folder of the `k8s-openapi` that this workspace resolves to, be it from a registry, vendored or patched.
fn k8s_openapi_sources() -> PathBuf {
    let cargo = std::env::var_os("CARGO").expect("cargo tells a build script where it is");
    let target = std::env::var_os("TARGET").expect("cargo tells a build script what it builds for");
    let output = std::process::Command::new(cargo)
        .args(["metadata", "--format-version=1", "--filter-platform"])
        .arg(target)
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("could not run cargo metadata");
    assert!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("cargo metadata writes UTF-8");
    let package = text
        .split_once(r#"{"name":"k8s-openapi","version":"#)
        .expect("this crate depends on k8s-openapi")
        .1;
    let manifest = package
        .split_once(r#""manifest_path":""#)
        .and_then(|(_, rest)| rest.split_once('"'))
        .expect("a package has a manifest path")
        .0;
    let manifest = PathBuf::from(unescape(manifest));
    manifest.parent().expect("a manifest lies in a folder").to_owned()
}

fn read_folder(folder: &Path, into: &mut Vec<Definition>) {
    let entries = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("could not read {}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder's entry can be read").path();
        if path.is_dir() {
            read_folder(&path, into);
        } else {
            let text = std::fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("could not read {}: {error}", path.display()));
            into.extend(definition(&text));
        }
    }
}

/// What a source file says about its type: the schema function holds the unabridged texts under their JSON names.
fn definition(source: &str) -> Option<Definition> {
    let name = source.strip_prefix("// Generated from definition ")?.lines().next()?;
    let (_, schema) = source.split_once("json_schema!({\n")?;
    let mut found =
        Definition { name: name.to_owned(), description: String::new(), fields: Vec::new() };
    let mut field = None;
    for line in schema.lines() {
        let depth = line.len() - line.trim_start().len();
        let line = line.trim_start();
        match depth {
            12 => {
                field = None;
                if let Some(text) = line.strip_prefix(r#""description": "#) {
                    found.description = literal(text);
                }
            }
            16 => field = line.strip_suffix("{").and_then(property_name),
            20 => {
                let text = line
                    .strip_prefix(r#""description": "#)
                    .or_else(|| line.split_once(r#"insert("description".into(), "#).map(|it| it.1));
                if let (Some(name), Some(text)) = (&field, text) {
                    found.fields.push((String::clone(name), literal(text)));
                }
            }
            _ => {}
        }
    }
    found.fields.sort();
    found.fields.dedup_by(|a, b| a.0 == b.0);
    Some(found)
}

/// `"name": ` or `"name": (`.
fn property_name(line: &str) -> Option<String> {
    let (name, _) = line.strip_prefix('"')?.split_once(r#"": "#)?;
    Some(name.to_owned())
}

/// The value of the string literal that `text` starts with.
fn literal(text: &str) -> String {
    let body = text.strip_prefix('"').expect("a description is a plain string literal");
    let mut end = 0;
    let bytes = body.as_bytes();
    while bytes[end] != b'"' {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    unescape(&body[..end])
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some(c @ ('"' | '\\' | '\'' | '/')) => c,
                other => panic!("an escape that is not known: {other:?} in {text}"),
            }),
            c => out.push(c),
        }
    }
    assert!(!out.contains([DEFINITION, FIELD, TEXT]), "a mark inside of a description: {out}");
    out
}

fn write_blocks(definitions: &[Definition], out: &Path) {
    let mut table = String::from("&[\n");
    let mut rest = definitions;
    while let Some(first) = rest.first() {
        let mut text = String::new();
        while text.len() < BLOCK_BYTES
            && let Some((definition, others)) = rest.split_first()
        {
            rest = others;
            append(definition, &mut text);
        }
        let file = out.join(format!("{}.docs", first.name));
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text.as_bytes()).expect("a vector takes what it is given");
        let packed = encoder.finish().expect("a vector takes what it is given");
        std::fs::write(&file, packed)
            .unwrap_or_else(|error| panic!("could not write {}: {error}", file.display()));
        writeln!(
            table,
            "    Block {{ first: {:?}, bytes: {}, packed: include_bytes!({file:?}) }},",
            first.name,
            text.len()
        )
        .expect("a string takes what it is given");
    }
    table.push(']');
    std::fs::write(out.join("docs.rs"), table).expect("could not write the table of blocks");
}

fn append(definition: &Definition, text: &mut String) {
    text.push(DEFINITION);
    text.push_str(&definition.name);
    text.push(TEXT);
    text.push_str(&definition.description);
    for (name, description) in &definition.fields {
        text.push(FIELD);
        text.push_str(name);
        text.push(TEXT);
        text.push_str(description);
    }
}
