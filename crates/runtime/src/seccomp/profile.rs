//! A seccomp profile, as OCI and Docker write it in JSON.

use serde::Deserialize;

use crate::service::capability_number;

/// The most conditions of one rule: more than a call has arguments.
const MAX_CONDITIONS: usize = 12;

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Errno(u16),
    KillProcess,
    KillThread,
    Trap,
    Trace(u16),
    Log,
}

impl Action {
    /// As the kernel takes it.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Allow => 0x7fff_0000,
            Self::Log => 0x7ffc_0000,
            Self::Trace(data) => 0x7ff0_0000 | u32::from(data),
            Self::Errno(number) => 0x0005_0000 | u32::from(number),
            Self::Trap => 0x0003_0000,
            Self::KillThread => 0,
            Self::KillProcess => 0x8000_0000,
        }
    }
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Equal(u64),
    GreaterOrEqual(u64),
    Greater(u64),
    /// With the first as a mask it equals the second.
    Masked(u64, u64),
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) index: u8,
    pub(super) compare: Compare,
}

/// What happens to a system call whose conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) action: Action,
    /// All of these.
    pub(super) conditions: Vec<Condition>,
}

/// A profile: the first rule that holds counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) default_action: Action,
    pub(super) rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawProfile {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Option<Vec<RawRule>>,
    listener_path: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRule {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<RawCondition>>,
    #[serde(default)]
    includes: Option<RawFilter>,
    #[serde(default)]
    excludes: Option<RawFilter>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCondition {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// When a rule counts. Other fields speak of other machines and older kernels.
#[derive(Debug, Deserialize)]
struct RawFilter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
}

impl Profile {
    /// Reads one; rules that ask for capabilities are judged by `capabilities`.
    pub(super) fn parse(text: &[u8], capabilities: u64) -> Result<Self, String> {
        let raw: RawProfile = serde_json::from_slice(text).map_err(|e| format!("decode: {e}"))?;
        if raw.listener_path.is_some_and(|path| !path.is_empty()) {
            return Err("a listener is not supported".into());
        }
        let default_action = action(&raw.default_action, raw.default_errno_ret)?;
        let mut rules = Vec::new();
        for rule in raw.syscalls.unwrap_or_default() {
            let included = rule.includes.as_ref().is_none_or(|f| f.holds_all(capabilities));
            let excluded = rule.excludes.as_ref().is_some_and(|f| f.holds_any(capabilities));
            if !included || excluded {
                continue;
            }
            let act = action(&rule.action, rule.errno_ret)?;
            let args = rule.args.unwrap_or_default();
            if args.len() > MAX_CONDITIONS {
                return Err(format!("a rule has more than {MAX_CONDITIONS} conditions"));
            }
            let conditions = args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
            let names = rule.names.into_iter().chain(Some(rule.name).filter(|n| !n.is_empty()));
            rules.extend(names.map(|name| Rule {
                name,
                action: act,
                conditions: conditions.clone(),
            }));
        }
        Ok(Self { default_action, rules })
    }
}

impl RawFilter {
    fn caps(&self, capabilities: u64) -> impl Iterator<Item = bool> {
        self.caps
            .iter()
            .flatten()
            .map(move |name| capability_number(name).is_some_and(|n| capabilities & (1 << n) != 0))
    }

    fn here(&self) -> bool {
        let here = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        self.arches.iter().flatten().any(|arch| arch == here)
    }

    fn holds_all(&self, capabilities: u64) -> bool {
        self.caps(capabilities).all(|has| has)
            && (self.arches.as_ref().is_none_or(Vec::is_empty) || self.here())
    }

    fn holds_any(&self, capabilities: u64) -> bool {
        self.caps(capabilities).any(|has| has) || self.here()
    }
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, String> {
    const EPERM: u16 = 1;
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(errno.unwrap_or(EPERM)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_TRACE" => Action::Trace(errno.unwrap_or(EPERM)),
        "SCMP_ACT_LOG" => Action::Log,
        other => return Err(format!("action {other:?} is not supported")),
    })
}

fn condition(raw: &RawCondition) -> Result<Condition, String> {
    if raw.index > 5 {
        return Err(format!("argument {} is out of range", raw.index));
    }
    let compare = match raw.op.as_str() {
        "SCMP_CMP_NE" => Compare::NotEqual(raw.value),
        "SCMP_CMP_LT" => Compare::Less(raw.value),
        "SCMP_CMP_LE" => Compare::LessOrEqual(raw.value),
        "SCMP_CMP_EQ" => Compare::Equal(raw.value),
        "SCMP_CMP_GE" => Compare::GreaterOrEqual(raw.value),
        "SCMP_CMP_GT" => Compare::Greater(raw.value),
        "SCMP_CMP_MASKED_EQ" => Compare::Masked(raw.value, raw.value_two),
        other => return Err(format!("comparison {other:?} is not known")),
    };
    Ok(Condition { index: raw.index, compare })
}
