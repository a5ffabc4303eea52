//! What a namespace asks for: a level and a version a mode, read from its labels. Knows nothing of pods.

use std::fmt;

use apimachinery::field::{FieldErrors, Path};

/// How much pods may do, from everything to little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        })
    }
}

/// As of which release the levels are meant. Versions that are still to come mean the same as the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// `v1.N`
    Minor(i64),
    Latest,
}

impl Version {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::Latest);
        }
        let digits = text.strip_prefix("v1.")?;
        let plain = digits.bytes().all(|it| it.is_ascii_digit())
            && (digits == "0" || !digits.starts_with('0'));
        digits.parse().ok().filter(|_| plain).map(Self::Minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minor(minor) => write!(f, "v1.{minor}"),
            Self::Latest => f.write_str("latest"),
        }
    }
}

/// What one mode judges by: `restricted:v1.30`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LevelVersion {
    pub(crate) level: Level,
    pub(crate) version: Version,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level, self.version)
    }
}

/// What a namespace asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Pods that violate it are refused.
    pub(crate) enforce: LevelVersion,
    /// The audit is told of what violates it.
    pub(crate) audit: LevelVersion,
    /// Whoever writes something that violates it is warned.
    pub(crate) warn: LevelVersion,
}

impl Default for Policy {
    /// Upstream's: everything may be done.
    fn default() -> Self {
        let all = LevelVersion { level: Level::Privileged, version: Version::Latest };
        Self { enforce: all, audit: all, warn: all }
    }
}

impl fmt::Display for Policy {
    /// What of it does not let everything be done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let modes = [("enforce", self.enforce), ("audit", self.audit), ("warn", self.warn)];
        let modes = modes.iter().filter(|(_, it)| it.level != Level::Privileged);
        let told: Vec<String> = modes.map(|(mode, it)| format!("{mode}={it}")).collect();
        f.write_str(&told.join(", "))
    }
}

/// A mode's two labels.
struct Labels {
    level: &'static str,
    version: &'static str,
}

const ENFORCE: Labels = Labels {
    level: "pod-security.kubernetes.io/enforce",
    version: "pod-security.kubernetes.io/enforce-version",
};
const AUDIT: Labels = Labels {
    level: "pod-security.kubernetes.io/audit",
    version: "pod-security.kubernetes.io/audit-version",
};
const WARN: Labels = Labels {
    level: "pod-security.kubernetes.io/warn",
    version: "pod-security.kubernetes.io/warn-version",
};

/// What the two labels of a mode say.
struct Given {
    /// `Some(None)` is a label that means nothing.
    level: Option<Option<Level>>,
    /// One that means nothing is the latest.
    version: Option<Version>,
}

impl Policy {
    /// The policy of labels, and what is wrong with them. A policy comes out in any case: where the level to enforce
    /// is not understood, the strictest is.
    pub(crate) fn of<'l>(
        label: impl Fn(&str) -> Option<&'l str>,
        defaults: &Self,
    ) -> (Self, FieldErrors) {
        let mut errors = FieldErrors::new();
        let enforce = read(&ENFORCE, &label, &mut errors);
        let audit = read(&AUDIT, &label, &mut errors);
        let warn = read(&WARN, &label, &mut errors);
        let mut policy = Self {
            enforce: enforce.or(defaults.enforce, Level::Restricted),
            audit: audit.or(defaults.audit, Level::Privileged),
            warn: warn.or(defaults.warn, Level::Privileged),
        };
        // Whoever enforces is warned too, of templates whose pods will be refused.
        let enforced = enforce.level.flatten().unwrap_or(Level::Privileged);
        if warn.level.is_none() && enforced > policy.warn.level {
            policy.warn.level = enforced;
            if warn.version.is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    /// Whether pods may do everything, and nobody wants to hear of it.
    pub(crate) fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|it| it.level == Level::Privileged)
    }
}

impl Given {
    /// The cluster's defaults where nothing is given; this level where it is not understood.
    fn or(&self, defaults: LevelVersion, otherwise: Level) -> LevelVersion {
        LevelVersion {
            level: self.level.map_or(defaults.level, |it| it.unwrap_or(otherwise)),
            version: self.version.unwrap_or(defaults.version),
        }
    }
}

fn read<'l>(
    labels: &Labels,
    label: &impl Fn(&str) -> Option<&'l str>,
    errors: &mut FieldErrors,
) -> Given {
    let metadata = Path::new("metadata");
    let at = metadata.child("labels");
    let level = label(labels.level).map(|text| {
        let level = Level::parse(text);
        if level.is_none() {
            let why = "must be one of privileged, baseline, restricted";
            errors.invalid_text(&at.key(labels.level), text, why);
        }
        level
    });
    let version = label(labels.version).map(|text| {
        Version::parse(text).unwrap_or_else(|| {
            let why = "must be \"latest\" or \"v1.x\"";
            errors.invalid_text(&at.key(labels.version), text, why);
            Version::Latest
        })
    });
    Given { level, version }
}
