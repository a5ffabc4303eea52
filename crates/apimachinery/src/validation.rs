//! Rules for names and small values: what is wrong with a text, in upstream's words.
//!
//! Each rule answers with everything that is wrong; no answer means the text is fine. Where the text stands
//! in an object is the caller's to say.

mod net;

pub use net::{
    cidr, cidr_warnings, interface_address, ip, ip_warnings, ipv4, ipv6, parse_cidr, parse_ip,
};

use crate::value::Object;

/// The longest DNS label, port name excepted, and the longest label value.
pub const LABEL_LENGTH_MAX: usize = 63;
/// The longest DNS subdomain.
pub const SUBDOMAIN_LENGTH_MAX: usize = 253;
/// The most bytes that all annotations of an object may take, keys and values.
pub const ANNOTATIONS_SIZE_MAX: usize = 256 * 1024;
const PORT_NAME_LENGTH_MAX: usize = 15;

const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FORMAT: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// What is wrong; empty where nothing is.
pub type Problems = Vec<String>;

/// `must be no more than 63 characters`
#[must_use]
pub fn max_length(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

/// `must be between 1 and 65535, inclusive`
#[must_use]
pub fn inclusive_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// What a text that must match a format is told.
#[must_use]
pub fn pattern(message: &str, format: &str, examples: &[&str]) -> String {
    let mut text = message.to_owned();
    text.push_str(" (");
    for (index, example) in examples.iter().enumerate() {
        text.push_str(if index == 0 { "e.g. '" } else { " or '" });
        text.push_str(example);
        text.push_str("', ");
    }
    text.push_str("regex used for validation is '");
    text.push_str(format);
    text.push_str("')");
    text
}

/// The name of a DNS label (RFC 1123): `my-name`.
#[must_use]
pub fn dns1123_label(value: &str) -> Problems {
    let mut problems = length(value, LABEL_LENGTH_MAX);
    if !is_label(value) {
        problems.push(if is_subdomain(value) {
            "must not contain dots".into()
        } else {
            pattern(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
                 '-', and must start and end with an alphanumeric character",
                LABEL_FORMAT,
                &["my-name", "123-abc"],
            )
        });
    }
    problems
}

/// The name of a DNS subdomain (RFC 1123): `example.com`.
#[must_use]
pub fn dns1123_subdomain(value: &str) -> Problems {
    let mut problems = length(value, SUBDOMAIN_LENGTH_MAX);
    problems.extend(subdomain_pattern(value));
    problems
}

fn subdomain_pattern(value: &str) -> Option<String> {
    (!is_subdomain(value)).then(|| {
        pattern(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN_FORMAT,
            &["example.com"],
        )
    })
}

/// A DNS subdomain whose labels may hold underscores, as service search domains do.
#[must_use]
pub fn dns1123_subdomain_with_underscore(value: &str) -> Problems {
    let mut problems = length(value, SUBDOMAIN_LENGTH_MAX);
    let fine = value.split('.').all(|label| {
        let label = label.strip_prefix('_').unwrap_or(label);
        framed(label, lower_or_digit, |b| lower_or_digit(b) || b == b'-' || b == b'_')
    });
    if !fine {
        problems.push(pattern(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '_', '-' or '.', and must start and end with an alphanumeric character",
            r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    problems
}

/// A DNS label that starts with a letter (RFC 1035): `abc-123`.
#[must_use]
pub fn dns1035_label(value: &str) -> Problems {
    let mut problems = length(value, LABEL_LENGTH_MAX);
    if !is_label(value) || !value.starts_with(|c: char| c.is_ascii_lowercase()) {
        problems.push(pattern(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start \
             with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    problems
}

/// A DNS subdomain under a wildcard: `*.example.com`.
#[must_use]
pub fn wildcard_dns1123_subdomain(value: &str) -> Problems {
    let mut problems = length(value, SUBDOMAIN_LENGTH_MAX);
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        problems.push(pattern(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
             subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and \
             end with an alphanumeric character",
            &format!(r"\*\.{SUBDOMAIN_FORMAT}"),
            &["*.example.com"],
        ));
    }
    problems
}

/// Whether a resource is Kubernetes' own: `cpu`, `kubernetes.io/batteries`.
#[must_use]
pub fn is_native_resource(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a resource is neither Kubernetes' own nor what quotas count: `example.com/gpu`.
#[must_use]
pub fn is_extended_resource(name: &str) -> bool {
    !is_native_resource(name)
        && !name.starts_with("requests.")
        && qualified_name(&format!("requests.{name}")).is_empty()
}

/// A label's key, and most things that are named like one: `example.com/MyName`.
#[must_use]
pub fn qualified_name(value: &str) -> Problems {
    let (prefix, name) = match value.split_once('/') {
        None => (None, value),
        Some((prefix, name)) => (Some(prefix), name),
    };
    let told = || {
        pattern(
            "must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
             with an alphanumeric character",
            QUALIFIED_FORMAT,
            &["MyName", "my.name", "123-abc"],
        )
    };
    if name.contains('/') {
        return vec![format!(
            "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. \
             'example.com/MyName')",
            told()
        )];
    }
    let mut problems = prefix.map(prefix_part).unwrap_or_default();
    if name.is_empty() {
        problems.push("name part must be non-empty".into());
    } else if name.len() > LABEL_LENGTH_MAX {
        problems.push(format!("name part must be no more than {LABEL_LENGTH_MAX} bytes"));
    }
    if !is_qualified(name) {
        problems.push(format!("name part {}", told()));
    }
    problems
}

fn prefix_part(prefix: &str) -> Problems {
    if prefix.is_empty() {
        return vec!["prefix part must be non-empty".into()];
    }
    let mut problems = Vec::new();
    if prefix.len() > SUBDOMAIN_LENGTH_MAX {
        problems.push(format!("prefix part must be no more than {SUBDOMAIN_LENGTH_MAX} bytes"));
    }
    problems.extend(subdomain_pattern(prefix).map(|problem| format!("prefix part {problem}")));
    problems
}

/// The key of an annotation; unlike a label's, its prefix may have upper-case letters.
#[must_use]
pub fn annotation_key(value: &str) -> Problems {
    qualified_name(&value.to_lowercase())
}

/// A label key with a prefix: `example.com/key`.
#[must_use]
pub fn prefixed_label_key(value: &str) -> Problems {
    let problems = qualified_name(value);
    if problems.is_empty() && !value.contains('/') {
        return vec!["must include a prefix (e.g. 'example.com/key')".into()];
    }
    problems
}

/// The name of a finalizer. Core kinds demand a prefix besides; see [`core_finalizer_name`].
#[must_use]
pub fn finalizer_name(value: &str) -> Problems {
    qualified_name(value)
}

/// The name of a finalizer of a core kind: one of the standard ones, or with a prefix.
#[must_use]
pub fn core_finalizer_name(value: &str) -> Problems {
    let mut problems = qualified_name(value);
    let standard = ["kubernetes", "orphan", "foregroundDeletion"];
    if !value.contains('/') && !standard.contains(&value) {
        problems.push("name is neither a standard finalizer name nor is it fully qualified".into());
    }
    problems
}

/// The value of a label.
#[must_use]
pub fn label_value(value: &str) -> Problems {
    let mut problems = Vec::new();
    if value.len() > LABEL_LENGTH_MAX {
        problems.push(format!("must be no more than {LABEL_LENGTH_MAX} bytes"));
    }
    if !value.is_empty() && !is_qualified(value) {
        problems.push(pattern(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', \
             '_' or '.', and must start and end with an alphanumeric character",
            &format!("({QUALIFIED_FORMAT})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    problems
}

/// An identifier of the language C: `my_name`.
#[must_use]
pub fn c_identifier(value: &str) -> Problems {
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    let fine = value.bytes().next().is_some_and(letter)
        && value.bytes().all(|b| letter(b) || b.is_ascii_digit());
    one_if(!fine, || {
        pattern(
            "a valid C identifier must start with alphabetic character or '_', followed by a \
             string of alphanumeric characters or '_'",
            "[A-Za-z_][A-Za-z0-9_]*",
            &["my_name", "MY_NAME", "MyName"],
        )
    })
}

/// A key of a config map or secret.
#[must_use]
pub fn config_map_key(value: &str) -> Problems {
    let mut problems = length(value, SUBDOMAIN_LENGTH_MAX);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if value.is_empty() || !value.bytes().all(allowed) {
        problems.push(pattern(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    problems.extend(leaves_directory(value));
    problems
}

/// The name of an environment variable that shells can read.
#[must_use]
pub fn env_var_name(value: &str) -> Problems {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let fine =
        value.bytes().next().is_some_and(|b| !b.is_ascii_digit()) && value.bytes().all(allowed);
    let mut problems = one_if(!fine, || {
        pattern(
            "a valid environment variable name must consist of alphabetic characters, digits, \
             '_', '-', or '.', and must not start with a digit",
            "[-._a-zA-Z][-._a-zA-Z0-9]*",
            &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
        )
    });
    problems.extend(leaves_directory(value));
    problems
}

/// The name of an environment variable as containers take it: printable and without `=`.
#[must_use]
pub fn relaxed_env_var_name(value: &str) -> Problems {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".into()];
    }
    one_if(!value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'='), || {
        "a valid environment variable name must consist only of printable ASCII characters other \
         than '='"
            .into()
    })
}

/// A port.
#[must_use]
pub fn port_number(port: i64) -> Problems {
    in_range(port, 1, 65535)
}

/// A number between two others, both included.
#[must_use]
pub fn in_range(value: i64, low: i64, high: i64) -> Problems {
    one_if(!(low..=high).contains(&value), || inclusive_range(low, high))
}

/// A user or group of Unix.
#[must_use]
pub fn unix_id(id: i64) -> Problems {
    in_range(id, 0, i64::from(u32::MAX))
}

/// The name of a port: `http`.
#[must_use]
pub fn port_name(value: &str) -> Problems {
    let mut problems = length(value, PORT_NAME_LENGTH_MAX);
    let mut unless = |fine: bool, problem: &str| {
        if !fine {
            problems.push(problem.to_owned());
        }
    };
    unless(
        !value.is_empty() && value.bytes().all(|b| lower_or_digit(b) || b == b'-'),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    unless(value.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)");
    unless(!value.contains("--"), "must not contain consecutive hyphens");
    unless(!value.starts_with('-') && !value.ends_with('-'), "must not begin or end with a hyphen");
    problems
}

/// A percentage: `93%`.
#[must_use]
pub fn percent(value: &str) -> Problems {
    let number = value.strip_suffix('%').unwrap_or_default();
    one_if(number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()), || {
        pattern(
            "a valid percent string must be a numeric string followed by an ending '%'",
            "[0-9]+%",
            &["1%", "93%"],
        )
    })
}

/// The name of an HTTP header.
#[must_use]
pub fn http_header_name(value: &str) -> Problems {
    let fine = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    one_if(!fine, || {
        pattern(
            "a valid HTTP header must consist of alphanumeric characters or '-'",
            "[-A-Za-z0-9]+",
            &["X-Header-Name"],
        )
    })
}

/// What stands behind the slash of a domain-prefixed path.
#[must_use]
pub fn http_path(value: &str) -> Problems {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    one_if(value.is_empty() || !value.bytes().all(allowed), || {
        pattern("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[])
    })
}

/// A name that can stand as one segment of a path, which roles and the like have.
#[must_use]
pub fn path_segment_name(value: &str) -> Problems {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    path_segment_prefix(value)
}

/// The beginning of such a name.
#[must_use]
pub fn path_segment_prefix(value: &str) -> Problems {
    let found = ['/', '%'].into_iter().filter(|c| value.contains(*c));
    found.map(|c| format!("may not contain '{c}'")).collect()
}

/// What generated names are made from is checked as a name would be: a last hyphen is fine.
#[must_use]
pub fn name_or_prefix(value: &str, is_prefix: bool, rule: fn(&str) -> Problems) -> Problems {
    match value.strip_suffix('-').filter(|rest| is_prefix && !rest.is_empty()) {
        Some(rest) => {
            let mut kept = rest.to_owned();
            kept.pop();
            rule(&(kept + "a"))
        }
        None => rule(value),
    }
}

/// Whether the keys and values of annotations are small enough together.
#[must_use]
pub fn annotations_fit(annotations: &Object) -> bool {
    let sizes =
        annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len));
    sizes.sum::<usize>() <= ANNOTATIONS_SIZE_MAX
}

/// A unique identifier in the form servers make them: lower-case hexadecimal with hyphens.
#[must_use]
pub fn is_uid(value: &str) -> bool {
    value.len() == 36
        && value.bytes().enumerate().all(|(index, b)| match index {
            8 | 13 | 18 | 23 => b == b'-',
            _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
        })
}

fn one_if(wrong: bool, problem: impl FnOnce() -> String) -> Problems {
    if wrong { vec![problem()] } else { Vec::new() }
}

fn length(value: &str, limit: usize) -> Problems {
    one_if(value.len() > limit, || max_length(limit))
}

fn leaves_directory(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".into()),
        ".." => Some("must not be '..'".into()),
        _ => value.starts_with("..").then(|| "must not start with '..'".into()),
    }
}

fn lower_or_digit(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Whether the text has `outer` at both ends and `inner` between.
fn framed(value: &str, outer: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            outer(*first) && outer(*last) && bytes.iter().all(|b| inner(*b))
        }
        _ => false,
    }
}

fn is_label(value: &str) -> bool {
    framed(value, lower_or_digit, |b| lower_or_digit(b) || b == b'-')
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(is_label)
}

fn is_qualified(value: &str) -> bool {
    let outer = |b: u8| b.is_ascii_alphanumeric();
    framed(value, outer, |b| outer(b) || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&str) -> Problems, good: &[&str], bad: &[(&str, &str)]) {
        for value in good {
            assert_eq!(rule(value), Problems::new(), "{value:?}");
        }
        for (value, expected) in bad {
            let problems = rule(value).join("; ");
            assert!(problems.contains(expected) && !problems.is_empty(), "{value:?}: {problems}");
        }
    }

    #[test]
    fn names_of_dns() {
        let long = "x".repeat(64);
        let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
        let bad = [
            ("", label),
            ("A", label),
            ("-a", label),
            ("a-", label),
            ("a_b", label),
            ("a.b", "must not contain dots"),
            (&long, "must be no more than 63 characters"),
        ];
        check(dns1123_label, &["a", "0", "a-b", "a--b"], &bad);
        let subdomain = r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        check(
            dns1123_subdomain,
            &["a.b", &long],
            &[("a..b", subdomain), (".a", subdomain), ("a.", subdomain), ("", subdomain)],
        );
        check(
            dns1035_label,
            &["a", "a-1"],
            &[("1a", "a DNS-1035 label must"), ("", "(e.g. 'my-name',  or 'abc-123', regex")],
        );
        check(
            wildcard_dns1123_subdomain,
            &["*.a.b"],
            &[("*", "a wildcard"), ("*.*.a", r"is '\*\.[a-z0-9]")],
        );
        check(
            dns1123_subdomain_with_underscore,
            &["_a.b_c"],
            &[("a_", "'_', '-' or '.'"), ("__a", "'_'")],
        );
    }

    #[test]
    fn keys_and_values_of_labels() {
        let long = "x".repeat(64);
        let bad = [
            ("", "name part must be non-empty"),
            ("/a", "prefix part must be non-empty"),
            ("a/", "name part must be non-empty"),
            ("a/b/c", "a valid label key must consist of"),
            ("A/b", "prefix part a lowercase RFC 1123 subdomain"),
            (&long, "name part must be no more than 63 bytes"),
            (
                "-a",
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ),
        ];
        check(qualified_name, &["a", "A.b_c-d", "example.com/X"], &bad);
        check(
            label_value,
            &["", "a", "A_b.c-1"],
            &[
                ("-", "a valid label must be an empty string or"),
                (&long, "must be no more than 63 bytes"),
            ],
        );
        check(annotation_key, &["EXAMPLE.com/a"], &[("a b", "name part")]);
        check(
            core_finalizer_name,
            &["kubernetes", "a.b/c", "orphan"],
            &[("x", "name is neither a standard finalizer name nor is it fully qualified")],
        );
        check(prefixed_label_key, &["a.b/c"], &[("c", "must include a prefix")]);
    }

    #[test]
    fn keys_variables_ports_and_the_rest() {
        check(
            config_map_key,
            &["a", ".a", "A_b"],
            &[
                ("", "a valid config key"),
                (".", "must not be '.'"),
                ("..", "must not be '..'"),
                ("..a", "must not start with '..'"),
                ("a b", "a valid config key"),
            ],
        );
        check(
            env_var_name,
            &["A", "_a", "a.b-c"],
            &[
                ("1a", "must not start with a digit"),
                ("", "a valid environment"),
                ("..", "must not be '..'"),
            ],
        );
        check(
            relaxed_env_var_name,
            &["1 a", "~"],
            &[
                ("", "environment variable name must be non-empty"),
                ("a=b", "other than '='"),
                ("é", "printable ASCII"),
            ],
        );
        check(
            c_identifier,
            &["_a1"],
            &[("1", "a valid C identifier"), ("", "'MyName', regex"), ("a-b", "C identifier")],
        );
        check(
            port_name,
            &["http", "a-1"],
            &[
                ("1", "at least one letter"),
                ("a--b", "consecutive"),
                ("-a", "begin or end"),
                ("abcdefghijklmnop", "no more than 15"),
                ("A", "must contain only"),
            ],
        );
        check(
            percent,
            &["0%", "120%"],
            &[
                ("%", "a valid percent"),
                ("1", "(e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"),
                ("-1%", "percent"),
            ],
        );
        check(http_header_name, &["X-A"], &[("", "a valid HTTP header"), ("a b", "X-Header-Name")]);
        check(
            path_segment_name,
            &["a:b", "..."],
            &[("..", "may not be '..'"), ("a/b%", "may not contain '/'; may not contain '%'")],
        );
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert_eq!(port_number(65535), Problems::new());
        assert_eq!(unix_id(-1), ["must be between 0 and 4294967295, inclusive"]);
        assert!(is_uid("144d5264-92d6-4019-af7b-353aa57da882") && !is_uid("144d5264"));
    }

    #[test]
    fn prefixes_of_generated_names_may_end_in_a_hyphen() {
        assert_eq!(name_or_prefix("web-", true, dns1123_label), Problems::new());
        assert_eq!(name_or_prefix("web-", false, dns1123_label).len(), 1);
        assert_eq!(name_or_prefix("-", true, dns1123_label).len(), 1);
        assert_eq!(name_or_prefix("wéb-", true, dns1123_label).len(), 1);
    }
}
