//! Semantic versions.

use std::cmp::Ordering;

use super::opaque::Opaque;
use super::standard::no_overload;
use crate::decl::{Decl, f};
use crate::error::EvalError;
use crate::value::{Result, Val};

/// A semantic version. Build metadata is read and says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    major: u64,
    minor: u64,
    patch: u64,
    pre: Vec<Identifier>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Text(String),
}

type Parsed<T> = std::result::Result<T, String>;

impl Semver {
    pub(super) fn parse(text: &str) -> Parsed<Self> {
        if text.is_empty() {
            return Err("Version string empty".into());
        }
        let mut parts = text.splitn(3, '.');
        let (Some(major), Some(minor), Some(rest)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err("No Major.Minor.Patch elements found".into());
        };
        let (rest, build) =
            rest.split_once('+').map_or((rest, None), |(rest, build)| (rest, Some(build)));
        let (patch, pre) =
            rest.split_once('-').map_or((rest, None), |(patch, pre)| (patch, Some(pre)));
        for identifier in build.into_iter().flat_map(|it| it.split('.')) {
            check_identifier(identifier, "Build meta data", "build meta data")?;
        }
        let pre =
            pre.into_iter().flat_map(|it| it.split('.')).map(prerelease).collect::<Parsed<_>>()?;
        Ok(Self {
            major: number(major, "Major")?,
            minor: number(minor, "Minor")?,
            patch: number(patch, "Patch")?,
            pre,
        })
    }

    /// Reads `v1`, `1.2` and `01.02.03` too.
    fn parse_tolerant(text: &str) -> Parsed<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts = text.splitn(3, '.').map(without_zeros).collect::<Vec<_>>();
        if parts.len() < 3 {
            if parts.last().is_some_and(|it| it.contains(['+', '-'])) {
                return Err("short version cannot contain PreRelease/Build meta data".into());
            }
            parts.resize(3, "0".into());
        }
        Self::parse(&parts.join("."))
    }

    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let numbers = |it: &Self| (it.major, it.minor, it.patch);
        numbers(self).cmp(&numbers(other)).then_with(|| {
            match (self.pre.is_empty(), other.pre.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => self.pre.cmp(&other.pre),
            }
        })
    }
}

fn without_zeros(part: &str) -> String {
    if part.len() <= 1 {
        return part.to_owned();
    }
    let trimmed = part.trim_start_matches('0');
    if trimmed.starts_with(|it: char| it.is_ascii_digit()) {
        trimmed.into()
    } else {
        format!("0{trimmed}")
    }
}

fn number(text: &str, what: &str) -> Parsed<u64> {
    let shown = apimachinery::field::quote(text);
    if text.is_empty() || !text.bytes().all(|it| it.is_ascii_digit()) {
        return Err(format!(
            "Invalid character(s) found in {} number {shown}",
            what.to_lowercase()
        ));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!("{what} number must not contain leading zeroes {shown}"));
    }
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {shown}: value out of range"))
}

fn check_identifier(text: &str, what: &str, lower: &str) -> Parsed<()> {
    if text.is_empty() {
        return Err(format!("{what} is empty"));
    }
    if !text.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-') {
        let shown = apimachinery::field::quote(text);
        return Err(format!("Invalid character(s) found in {lower} {shown}"));
    }
    Ok(())
}

fn prerelease(text: &str) -> Parsed<Identifier> {
    check_identifier(text, "Prerelease", "prerelease")?;
    if !text.bytes().all(|it| it.is_ascii_digit()) {
        return Ok(Identifier::Text(text.into()));
    }
    let shown = apimachinery::field::quote(text);
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!("Numeric PreRelease version must not contain leading zeroes {shown}"));
    }
    text.parse()
        .map(Identifier::Number)
        .map_err(|_| format!("strconv.ParseUint: parsing {shown}: value out of range"))
}

fn read(args: &[Val<'_>]) -> Result<Parsed<Semver>> {
    match args {
        [Val::String(text)] | [Val::String(text), Val::Bool(false)] => Ok(Semver::parse(text)),
        [Val::String(text), Val::Bool(true)] => Ok(Semver::parse_tolerant(text)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn semver<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    read(args)?.map(|it| Val::opaque(Opaque::Semver(it))).map_err(EvalError::new)
}

fn is_semver<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    Ok(Val::Bool(read(args)?.is_ok()))
}

fn of<'a>(value: Option<&'a Val<'_>>) -> Result<&'a Semver> {
    match value {
        Some(Val::Opaque(it)) => match &**it {
            Opaque::Semver(version) => Ok(version),
            _ => Err(EvalError::no_such_overload()),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn compare(args: &[Val<'_>]) -> Result<Ordering> {
    Ok(of(args.first())?.compare(of(args.get(1))?))
}

fn part<'v>(args: &[Val<'v>], part: fn(&Semver) -> u64) -> Result<Val<'v>> {
    let number = i64::try_from(part(of(args.first())?));
    number.map_or_else(|_| no_overload(), |it| Ok(Val::Int(it)))
}

pub(super) const FUNCTIONS: &[Decl] = &[
    f("semver", "string_to_semver", "(string) -> kubernetes.Semver", semver),
    f("semver", "string_bool_to_semver", "(string, bool) -> kubernetes.Semver", semver),
    f("isSemver", "is_semver_string", "(string) -> bool", is_semver),
    f("isSemver", "is_semver_string_bool", "(string, bool) -> bool", is_semver),
    f(
        "isGreaterThan",
        "semver_is_greater_than",
        "kubernetes.Semver.(kubernetes.Semver) -> bool",
        |args| compare(args).map(|it| Val::Bool(it.is_gt())),
    ),
    f(
        "isLessThan",
        "semver_is_less_than",
        "kubernetes.Semver.(kubernetes.Semver) -> bool",
        |args| compare(args).map(|it| Val::Bool(it.is_lt())),
    ),
    f("compareTo", "semver_compare_to", "kubernetes.Semver.(kubernetes.Semver) -> int", |args| {
        compare(args).map(|it| Val::Int(it as i64))
    }),
    f("major", "semver_major", "kubernetes.Semver.() -> int", |args| part(args, |it| it.major)),
    f("minor", "semver_minor", "kubernetes.Semver.() -> int", |args| part(args, |it| it.minor)),
    f("patch", "semver_patch", "kubernetes.Semver.() -> int", |args| part(args, |it| it.patch)),
];
