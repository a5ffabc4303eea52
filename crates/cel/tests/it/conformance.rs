//! The conformance cases of CEL itself. Those that do not apply to Kubernetes are listed, with why, in
//! `not-applicable.tsv`: file, section, case, reason; `*` stands for all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cel::library::Library;
use cel::value::Text;
use cel::{Activation, Budget, Env, Program, Type, Val};

use crate::textproto::{self, Node};

/// How many cases there are, and how many of them do not apply.
const CASES: usize = 2456;
const NOT_APPLICABLE: usize = 728;

fn cases() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().map(|it| it.join("shared/reference/cel-spec")).find(|it| it.is_dir())
}

struct Row {
    pattern: [String; 3],
    used: usize,
}

fn not_applicable() -> Vec<Row> {
    let lines = include_str!("not-applicable.tsv").lines().filter(|it| !it.starts_with('#'));
    let row = |line: &str| {
        let mut parts = line.split('\t').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_else(|| panic!("four columns: {line}"));
        let pattern = [part(), part(), part()];
        assert!(!part().is_empty(), "a reason: {line}");
        Row { pattern, used: 0 }
    };
    lines.map(row).collect()
}

#[test]
fn the_cases_of_the_language_pass() {
    let Some(at) = cases() else {
        eprintln!("skipped: shared/reference/cel-spec is not beside the project");
        return;
    };
    let mut rows = not_applicable();
    let mut failures = Vec::new();
    let (mut count, mut passed, mut left_out) = (0, 0, 0);
    let mut files: Vec<_> = std::fs::read_dir(at).unwrap().map(|it| it.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|it| it.extension().is_some_and(|it| it == "textproto")) {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let cases = textproto::read(&std::fs::read_to_string(file).unwrap());
        for section in cases.all("section") {
            for case in section.all("test") {
                count += 1;
                let id = [name.clone(), section.text_of("name"), case.text_of("name")];
                let fits = |row: &&mut Row| {
                    row.pattern
                        .iter()
                        .zip(&id)
                        .all(|(pattern, part)| pattern == "*" || pattern == part)
                };
                if let Some(row) = rows.iter_mut().find(fits) {
                    row.used += 1;
                    left_out += 1;
                    continue;
                }
                match run(case) {
                    Ok(()) => passed += 1,
                    Err(why) => failures.push(format!(
                        "{} {:.160}\n    {why}",
                        id.join("\t"),
                        case.text_of("expr")
                    )),
                }
            }
        }
    }
    eprintln!("{count} cases: {passed} pass, {left_out} do not apply, {} fail", failures.len());
    let unused =
        rows.iter().filter(|it| it.used == 0).map(|it| it.pattern.join(" ")).collect::<Vec<_>>();
    assert!(unused.is_empty(), "rows that leave nothing out: {unused:#?}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!((count, left_out), (CASES, NOT_APPLICABLE));
}

fn env(case: &Node) -> Result<Env, String> {
    let mut env = Env::kubernetes()
        .with_library(Library::Math)
        .with_library(Library::Encoders)
        .with_library(Library::Bindings)
        .with_library(Library::StringsReverse)
        .with_mixed_literals()
        .with_escaped_names()
        .with_container(&case.text_of("container"));
    for decl in case.all("type_env") {
        let ident = decl.get("ident").ok_or("functions are not declared by cases")?;
        env = env.with_variable(&decl.text_of("name"), ty(ident.get("type").unwrap())?);
    }
    Ok(env)
}

fn compile(env: &Env, case: &Node) -> Result<Program, String> {
    let text = case.text_of("expr");
    let program = if case.is_true("disable_check") {
        env.compile_unchecked(&text)
    } else {
        env.compile(&text, &[])
    };
    program.map_err(|it| it.to_string())
}

fn run(case: &Node) -> Result<(), String> {
    let env = env(case)?;
    let fails = case.get("eval_error").is_some() || case.get("any_eval_errors").is_some();
    let program = match compile(&env, case) {
        Ok(program) => program,
        Err(_) if fails => return Ok(()),
        Err(why) => return Err(why),
    };
    let typed = case.get("typed_result");
    if let Some(expected) = typed.and_then(|it| it.get("deduced_type")) {
        let (expected, found) = (ty(expected)?, program.output_type());
        if expected != *found {
            return Err(format!("is of type {found}, not {expected}"));
        }
    }
    if case.is_true("check_only") {
        return Ok(());
    }
    let mut variables = Activation::new(&env);
    for binding in case.all("bindings") {
        let value = value(binding.get("value").unwrap().get("value").unwrap())?;
        variables = variables.with(&env, &binding.text_of("key"), value);
    }
    let result = program.eval(&variables, &mut Budget::new(u64::MAX));
    let expected = case.get("value").or_else(|| typed.and_then(|it| it.get("result")));
    match (result, expected) {
        (Err(_), _) if fails => Ok(()),
        (Err(why), _) => Err(why.to_string()),
        (Ok(found), _) if fails => Err(format!("is {found:?}, not an error")),
        (Ok(found), expected) => {
            let truth = Node::Message(vec![("bool_value".into(), Node::Word("true".into()))]);
            let expected = expected.unwrap_or(&truth);
            match same(expected, &found)? {
                true => Ok(()),
                false => Err(format!("is {found:?}, not {expected:?}")),
            }
        }
    }
}

fn number<T: std::str::FromStr>(node: &Node) -> T {
    let text = node.text();
    let text = match text.as_str() {
        "infinity" => "inf",
        "-infinity" => "-inf",
        other => other,
    };
    text.parse().unwrap_or_else(|_| panic!("a number: {text}"))
}

fn value(node: &Node) -> Result<Val<'static>, String> {
    let Some((kind, inner)) = node.only() else { return Ok(Val::Null) };
    Ok(match kind {
        "null_value" => Val::Null,
        "bool_value" => Val::Bool(inner.text() == "true"),
        "int64_value" => Val::Int(number(inner)),
        "uint64_value" => Val::Uint(number(inner)),
        "double_value" => Val::Double(number(inner)),
        "string_value" => Val::String(Text::Shared(inner.text().into())),
        "bytes_value" => match inner {
            Node::Text(bytes) => Val::Bytes(bytes.as_slice().into()),
            other => return Err(format!("bytes: {other:?}")),
        },
        "list_value" => Val::list(inner.all("values").map(value).collect::<Result<_, _>>()?),
        "map_value" => {
            let entry =
                |it: &Node| Ok((value(it.get("key").unwrap())?, value(it.get("value").unwrap())?));
            let entries = inner.all("entries").map(entry).collect::<Result<Vec<_>, String>>()?;
            Val::map(entries).map_err(|it| it.to_string())?
        }
        "object_value" => object(inner)?,
        other => return Err(format!("a value of kind {other}")),
    })
}

/// A time or duration; other messages are none of ours.
fn object(node: &Node) -> Result<Val<'static>, String> {
    let (name, fields) = node.only().unwrap();
    let seconds = fields.get("seconds").map_or(0, number::<i64>);
    let nanos = fields.get("nanos").map_or(0, number::<i32>);
    match name.rsplit('/').next().unwrap() {
        "google.protobuf.Timestamp" => {
            let env = Env::kubernetes();
            let text = format!("timestamp({seconds}) + duration('{nanos}ns')");
            let program = env.compile(&text, &[]).unwrap();
            match program.eval(&Activation::new(&env), &mut Budget::new(u64::MAX)).unwrap() {
                Val::Timestamp(at) => Ok(Val::Timestamp(at)),
                other => Err(format!("{other:?}")),
            }
        }
        "google.protobuf.Duration" => {
            let all = seconds * 1_000_000_000 + i64::from(nanos);
            Ok(Val::Duration(apimachinery::duration::Duration::from_nanos(all)))
        }
        other => Err(format!("a message {other}")),
    }
}

fn same(expected: &Node, found: &Val<'_>) -> Result<bool, String> {
    let (kind, inner) = expected.only().unwrap();
    if kind == "type_value" {
        return Ok(matches!(found, Val::Type(ty) if ty.name() == inner.text()));
    }
    Ok(equal(&value(expected)?, found))
}

/// Whether two values are the same, of the same type.
fn equal(a: &Val<'_>, b: &Val<'_>) -> bool {
    match (a, b) {
        (Val::Double(a), Val::Double(b)) => a == b || a.is_nan() && b.is_nan(),
        (Val::List(a), Val::List(b)) => {
            a.len() == b.len()
                && a.iter().zip(b.iter()).all(|(a, b)| equal(&a.unwrap(), &b.unwrap()))
        }
        (Val::Map(a), Val::Map(b)) => {
            let entries = |it: &cel::value::Map<'_>| {
                let entries = it.entries().unwrap().into_iter();
                entries
                    .map(|(key, value)| (format!("{key:?}"), format!("{value:?}")))
                    .collect::<BTreeMap<_, _>>()
            };
            entries(a) == entries(b)
        }
        _ => format!("{a:?}") == format!("{b:?}"),
    }
}

fn ty(node: &Node) -> Result<Type, String> {
    let Some((kind, inner)) = node.only() else { return Ok(Type::Dyn) };
    Ok(match kind {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "primitive" => match inner.text().as_str() {
            "BOOL" => Type::Bool,
            "INT64" => Type::Int,
            "UINT64" => Type::Uint,
            "DOUBLE" => Type::Double,
            "STRING" => Type::String,
            "BYTES" => Type::Bytes,
            other => return Err(format!("a primitive type {other}")),
        },
        "well_known" => match inner.text().as_str() {
            "TIMESTAMP" => Type::Timestamp,
            "DURATION" => Type::Duration,
            other => return Err(format!("a well-known type {other}")),
        },
        "list_type" => Type::list(inner.get("elem_type").map_or(Ok(Type::Dyn), ty)?),
        "map_type" => {
            let part = |name: &str| inner.get(name).map_or(Ok(Type::Dyn), ty);
            Type::map(part("key_type")?, part("value_type")?)
        }
        "abstract_type" => match inner.text_of("name").as_str() {
            "optional_type" => Type::optional(ty(inner.get("parameter_types").unwrap())?),
            other => Type::opaque(other),
        },
        "type" => Type::type_of(ty(inner)?),
        "message_type" => match inner.text().as_str() {
            "google.protobuf.Duration" => Type::Duration,
            "google.protobuf.Timestamp" => Type::Timestamp,
            other => Type::object(other),
        },
        other => return Err(format!("a type of kind {other}")),
    })
}
