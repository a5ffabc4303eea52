//! Named formats of text: `format.dns1123Label().validate("x")`.

use apimachinery::validation;

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
}

/// A prefix of a name is checked as if the name went on.
fn prefix(text: &str, rule: fn(&str) -> Vec<String>) -> Vec<String> {
    match text.strip_suffix('-') {
        Some(before) if before.len() > 1 => rule(&format!("{before}a")),
        _ => rule(text),
    }
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

fn dns1123_label(text: &str) -> Vec<String> {
    validation::dns1123_label(text).into_iter().collect()
}

fn dns1123_subdomain(text: &str) -> Vec<String> {
    validation::dns1123_subdomain(text).into_iter().collect()
}

fn dns1035_label(text: &str) -> Vec<String> {
    validation::dns1035_label(text).into_iter().collect()
}

static FORMATS: [NamedFormat; 13] = [
    NamedFormat { name: "dns1123Label", check: dns1123_label },
    NamedFormat { name: "dns1123Subdomain", check: dns1123_subdomain },
    NamedFormat { name: "dns1035Label", check: dns1035_label },
    NamedFormat {
        name: "qualifiedName",
        check: |it| validation::qualified_name(it).into_iter().collect(),
    },
    NamedFormat { name: "dns1123LabelPrefix", check: |it| prefix(it, dns1123_label) },
    NamedFormat { name: "dns1123SubdomainPrefix", check: |it| prefix(it, dns1123_subdomain) },
    NamedFormat { name: "dns1035LabelPrefix", check: |it| prefix(it, dns1035_label) },
    NamedFormat {
        name: "labelValue",
        check: |it| validation::label_value(it).into_iter().collect(),
    },
    NamedFormat { name: "uri", check: |it| Url::parse(it).err().into_iter().collect() },
    NamedFormat {
        name: "uuid",
        check: |it| problems(is_uuid(it), "does not match the UUID format"),
    },
    NamedFormat {
        name: "byte",
        check: |it| problems(encoders::decode(it).is_ok(), "invalid base64"),
    },
    NamedFormat {
        name: "date",
        check: |it| problems(it.len() == 10 && time::date(it).is_ok(), "invalid date"),
    },
    NamedFormat {
        name: "datetime",
        check: |it| problems(time::timestamp(it).is_ok(), "invalid datetime"),
    },
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
