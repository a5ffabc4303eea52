//! Named formats of text: `format.dns1123Label().validate("x")`.

use apimachinery::validation::{self, name_or_prefix};

use super::opaque::Opaque;
use super::standard::no_overload;
use super::urls::Url;
use super::{encoders, time};
use crate::decl::{Decl, f};
use crate::error::EvalError;
use crate::value::{Result, Val};

/// What upstream takes for the length of the longest pattern of names.
pub(crate) const REGEX_BYTES_MAX: u64 = 128;
/// What upstream takes for the size of a format when two are compared.
pub(crate) const FORMAT_SIZE_MAX: u64 = 64;

/// A named format.
#[derive(Debug)]
pub struct NamedFormat {
    /// Its name.
    pub name: &'static str,
    check: fn(&str) -> Vec<String>,
    /// How long upstream's pattern for it is, by which a check is paid for.
    pub(crate) pattern_bytes: u64,
}

fn problems(valid: bool, problem: &str) -> Vec<String> {
    if valid { Vec::new() } else { vec![problem.to_owned()] }
}

fn is_uuid(text: &str) -> bool {
    let groups = text.split('-').collect::<Vec<_>>();
    let is_hex = |it: &str| it.bytes().all(|byte| byte.is_ascii_hexdigit());
    match groups.as_slice() {
        [all] => all.len() == 32 && is_hex(all),
        [a, b, c, d, e] => {
            [a.len(), b.len(), c.len(), d.len(), e.len()] == [8, 4, 4, 4, 12]
                && groups.iter().all(|it| is_hex(it))
        }
        _ => false,
    }
}

/// Base64 in full groups of four, padded.
fn is_base64(text: &str) -> bool {
    !text.is_empty() && text.len().is_multiple_of(4) && encoders::decode(text).is_ok()
}

fn uri(text: &str) -> Vec<String> {
    Url::parse(text).err().into_iter().collect()
}

fn uuid(text: &str) -> Vec<String> {
    problems(is_uuid(text), "does not match the UUID format")
}

fn byte(text: &str) -> Vec<String> {
    problems(is_base64(text), "invalid base64")
}

fn date(text: &str) -> Vec<String> {
    problems(text.len() == 10 && time::date(text).is_ok(), "invalid date")
}

fn datetime(text: &str) -> Vec<String> {
    problems(time::timestamp(text).is_ok(), "invalid datetime")
}

const fn format(
    name: &'static str,
    pattern_bytes: u64,
    check: fn(&str) -> Vec<String>,
) -> NamedFormat {
    NamedFormat { name, check, pattern_bytes }
}

static FORMATS: [NamedFormat; 13] = [
    format("dns1123Label", 30, validation::dns1123_label),
    format("dns1123Subdomain", 60, validation::dns1123_subdomain),
    format("dns1035Label", 30, validation::dns1035_label),
    format("qualifiedName", 60, validation::qualified_name),
    format("dns1123LabelPrefix", 30, |it| name_or_prefix(it, true, validation::dns1123_label)),
    format("dns1123SubdomainPrefix", 60, |it| {
        name_or_prefix(it, true, validation::dns1123_subdomain)
    }),
    format("dns1035LabelPrefix", 30, |it| name_or_prefix(it, true, validation::dns1035_label)),
    format("labelValue", 40, validation::label_value),
    format("uri", REGEX_BYTES_MAX, uri),
    format("uuid", 85, uuid),
    format("byte", 84, byte),
    format("date", REGEX_BYTES_MAX, date),
    format("datetime", REGEX_BYTES_MAX, datetime),
];

fn constant<'v>(name: &str) -> Result<Val<'v>> {
    let found = FORMATS.iter().find(|it| it.name == name);
    found.map_or_else(no_overload, |it| Ok(Val::opaque(Opaque::Format(it))))
}

fn named<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let [Val::String(name)] = args else { return no_overload() };
    let found = FORMATS.iter().find(|it| it.name == &**name);
    Ok(found.map_or(Val::Optional(None), |it| Val::some(Val::opaque(Opaque::Format(it)))))
}

fn validate<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let [Val::Opaque(format), Val::String(text)] = args else { return no_overload() };
    let Opaque::Format(format) = &**format else { return Err(EvalError::no_such_overload()) };
    let problems = (format.check)(text);
    if problems.is_empty() {
        return Ok(Val::Optional(None));
    }
    Ok(Val::some(Val::list(problems.iter().map(|it| Val::string(it)).collect())))
}

const CONSTANT: &str = "() -> kubernetes.NamedFormat";

pub(super) const FUNCTIONS: &[Decl] = &[
    f("format.named", "format-named", "(string) -> optional(kubernetes.NamedFormat)", named),
    f(
        "validate",
        "format-validate",
        "kubernetes.NamedFormat.(string) -> optional(list(string))",
        validate,
    ),
    f("format.dns1123Label", "constant-dns1123Label", CONSTANT, |_| constant("dns1123Label")),
    f("format.dns1123Subdomain", "constant-dns1123Subdomain", CONSTANT, |_| {
        constant("dns1123Subdomain")
    }),
    f("format.dns1035Label", "constant-dns1035Label", CONSTANT, |_| constant("dns1035Label")),
    f("format.qualifiedName", "constant-qualifiedName", CONSTANT, |_| constant("qualifiedName")),
    f("format.dns1123LabelPrefix", "constant-dns1123LabelPrefix", CONSTANT, |_| {
        constant("dns1123LabelPrefix")
    }),
    f("format.dns1123SubdomainPrefix", "constant-dns1123SubdomainPrefix", CONSTANT, |_| {
        constant("dns1123SubdomainPrefix")
    }),
    f("format.dns1035LabelPrefix", "constant-dns1035LabelPrefix", CONSTANT, |_| {
        constant("dns1035LabelPrefix")
    }),
    f("format.labelValue", "constant-labelValue", CONSTANT, |_| constant("labelValue")),
    f("format.uri", "constant-uri", CONSTANT, |_| constant("uri")),
    f("format.uuid", "constant-uuid", CONSTANT, |_| constant("uuid")),
    f("format.byte", "constant-byte", CONSTANT, |_| constant("byte")),
    f("format.date", "constant-date", CONSTANT, |_| constant("date")),
    f("format.datetime", "constant-datetime", CONSTANT, |_| constant("datetime")),
];
