//! LeaseCandidate: who would hold a lease that is given to the best of them.

use std::cmp::Ordering;

use apimachinery::{FieldErrors, Path, Value, validation};

use crate::declaration::{Alternative, Declaration, MetadataChecks};
use crate::rules;
use crate::{Rules, check};

const NO_VERSION: &str = "must be a valid semantic version";
const OLDEST: &str = "OldestEmulationVersion";

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "coordination.k8s.io",
        version: "v1beta1",
        resource: "leasecandidates",
        alternatives: const { &[Alternative::same("coordination.k8s.io", "v1alpha2")] },
        name: |name, _| validation::config_map_key(name),
        validate: |it, errors| validate(&it["spec"], &Path::new("spec"), errors),
        validate_update: |it, old, errors| {
            rules::immutable(&it["spec"], &old["spec"], "leaseName", &Path::new("spec"), errors);
        },
        metadata_checks: MetadataChecks::Update,
        row: |it, now| {
            let of = |member: &str| it.str_at(&["spec", member]).into();
            let name = it.str_at(&["metadata", "name"]).into();
            let versions = [of("leaseName"), of("binaryVersion"), of("emulationVersion")];
            [name].into_iter().chain(versions).chain([crate::table::created(it, now)]).collect()
        },
        rules: Rules {
            create_on_update: true,
            unconditional_update: false,
            ..Declaration::PLAIN.rules
        },
        ..Declaration::PLAIN
    }
}

fn validate(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::required_text(spec, "leaseName", path, errors);
    let (emulated, binary) = ("emulationVersion", "binaryVersion");
    let read = |member: &str, errors: &mut FieldErrors| {
        let text = spec.str_at(&[member]);
        let version = Semantic::parse(text);
        if version.is_none() && !text.is_empty() {
            errors.invalid_text(&path.child(member), text, NO_VERSION);
        }
        version
    };
    let emulates = read(emulated, errors);
    let is = match check::required_text(spec, binary, path, errors) {
        true => read(binary, errors),
        false => None,
    };
    if !spec.str_at(&[emulated]).is_empty() && is.as_ref() < emulates.as_ref() {
        let detail = "must be greater than or equal to `emulationVersion`";
        errors.invalid_text(&path.child(binary), spec.str_at(&[binary]), detail);
    }
    if !check::required_text(spec, "strategy", path, errors) {
        return;
    }
    let strategy = spec.str_at(&["strategy"]);
    let at = path.child("strategy");
    if strategy == OLDEST && spec.str_at(&[emulated]).is_empty() {
        let detail = "must be specified when `strategy` is 'OldestEmulationVersion'";
        errors.required(&path.child(emulated), detail);
    }
    if strategy.contains('/') {
        errors.invalid_all(&at, strategy, validation::qualified_name(strategy));
    } else {
        check::one_of(spec, "strategy", &[OLDEST], path, errors);
    }
}

/// A semantic version, in the order of versions: <https://semver.org>.
#[derive(Debug, PartialEq, Eq)]
pub struct Semantic {
    numbers: [u64; 3],
    pre: Vec<String>,
}

impl Semantic {
    /// `1.2.3-alpha.1+build`; what comes after `+` counts for nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (text, build) = text.split_once('+').map_or((text, None), |it| (it.0, Some(it.1)));
        let (numbers, pre) = text.split_once('-').map_or((text, None), |it| (it.0, Some(it.1)));
        let word = |it: &str| {
            !it.is_empty() && it.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-')
        };
        let digits = |it: &str| it.bytes().all(|it| it.is_ascii_digit());
        let plain = |it: &str| it == "0" || !it.starts_with('0');
        if build.is_some_and(|it| !it.split('.').all(word)) {
            return None;
        }
        let pre: Vec<&str> = pre.map_or_else(Vec::new, |it| it.split('.').collect());
        if !pre.iter().all(|it| word(it) && (!digits(it) || plain(it))) {
            return None;
        }
        let parts: Vec<&str> = numbers.split('.').collect();
        let [major, minor, patch] = parts[..] else { return None };
        let number =
            |it: &str| it.parse().ok().filter(|_| !it.is_empty() && digits(it) && plain(it));
        Some(Self {
            numbers: [number(major)?, number(minor)?, number(patch)?],
            pre: pre.into_iter().map(str::to_owned).collect(),
        })
    }
}

impl PartialOrd for Semantic {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Semantic {
    fn cmp(&self, other: &Self) -> Ordering {
        let pre = || match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let key =
                    |it: &String| (it.parse::<u64>().ok().map_or((1, 0), |n| (0, n)), it.clone());
                self.pre.iter().map(key).cmp(other.pre.iter().map(key))
            }
        };
        self.numbers.cmp(&other.numbers).then_with(pre)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_order() {
        let order = ["0.9.9", "1.0.0-alpha", "1.0.0-alpha.2", "1.0.0-alpha.10", "1.0.0", "1.37.0"];
        let all: Vec<Semantic> = order.iter().map(|it| Semantic::parse(it).unwrap()).collect();
        assert!(all.is_sorted(), "{all:?}");
        for bad in ["", "1", "1.2", "01.2.3", "1.2.3-", "1.2.x", "v1.2.3", "1.2.3+", "1.2.3-01"] {
            assert_eq!(Semantic::parse(bad), None, "{bad}");
        }
    }
}
