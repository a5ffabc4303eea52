//! Upstream's programs' flags, all of them, and how they are written: which are used here, which mean nothing here, and
//! which are not built. The table of a program stands beside what it runs.
//!
//! Does not know what a flag does: those that are used reach clap as `--NAME=VALUE`.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};
use apimachinery::duration::Duration;

use crate::{controller_manager, kube_apiserver, scheduler};

use Kind::{List, Number, Pairs, Repeated, Span, Switch, Text};
use Use::{Idle, NotBuilt, Used};

/// How the value of a flag is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything.
    Text,
    /// Yes where nothing else is said.
    Switch,
    /// A number.
    Number,
    /// A span of time.
    Span,
    /// Several, with commas, and further ones in further flags.
    List,
    /// One a flag.
    Repeated,
    /// `NAME=VALUE`, with commas.
    Pairs,
}

/// What a flag does here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// What it does upstream.
    Used,
    /// Nothing, for this reason: it is told so.
    Idle(&'static str),
    /// Nothing yet: another value than upstream's own is refused.
    NotBuilt,
}

/// A flag.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// What upstream takes where nobody says.
    pub(crate) default: &'static str,
    pub(crate) usage: Use,
}

pub(crate) const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    usage: Use,
) -> Flag {
    Flag { name, kind, default, usage }
}

/// Those of the programs that run alone.
pub(crate) static TABLES: [&Table; 3] =
    [&kube_apiserver::flags::TABLE, &controller_manager::TABLE, &scheduler::TABLE];

/// The flags of a program.
#[derive(Debug)]
pub(crate) struct Table {
    /// What the program is called.
    pub(crate) program: &'static str,
    /// Upstream's, in lists that are each in order.
    pub(crate) flags: &'static [&'static [Flag]],
    /// Those which upstream does not have.
    pub(crate) own: &'static [Flag],
    /// What upstream takes where nobody says, and clap would not, for flags that other commands have too.
    pub(crate) upstream: &'static [(&'static str, &'static str)],
}

impl Table {
    /// Upstream's.
    fn upstreams(&self) -> impl Iterator<Item = &'static Flag> {
        self.flags.iter().copied().flatten()
    }

    /// The flag of this name.
    pub(crate) fn find(&self, name: &str) -> Option<&'static Flag> {
        self.upstreams().chain(self.own).find(|it| it.name == name)
    }

    fn usage(&self, what: &str) -> String {
        format!("{what}\nSee '{} --help' for usage.", self.program)
    }
}

/// Where a program listens.
#[rustfmt::skip]
pub(crate) const SERVING: &[Flag] = &[
    flag("allow-metric-labels", Pairs, "", Idle("no label of a metric here can have any number of values")),
    flag("allow-metric-labels-manifest", Text, "", Idle("no label of a metric here can have any number of values")),
    flag("bind-address", Text, "0.0.0.0", Used),
    flag("client-ca-file", Text, "", Used),
    flag("disable-http2-serving", Switch, "false", Used),
    flag("disabled-metrics", List, "[]", Idle("metrics here cannot misbehave that way")),
    flag("http2-max-streams-per-connection", Number, "0", Used),
    flag("permit-address-sharing", Switch, "false", Idle("the port can be had again at once anyway")),
    flag("requestheader-allowed-names", List, "[]", Used),
    flag("requestheader-client-ca-file", Text, "", Used),
    flag("requestheader-uid-headers", List, "[]", Used),
    flag("show-hidden-metrics-for-version", Text, "", Idle("no metric is hidden")),
    flag("tls-cert-file", Text, "", Used),
    flag("tls-cipher-suites", List, "[]", Used),
    flag("tls-min-version", Text, "", Used),
    flag("tls-private-key-file", Text, "", Used),
];

/// Whom a program that is a client of the API server lets read from its port.
#[rustfmt::skip]
pub(crate) const DELEGATING: &[Flag] = &[
    flag("authentication-kubeconfig", Text, "", Used),
    flag("authentication-skip-lookup", Switch, "false", Used),
    flag("authentication-token-webhook-cache-ttl", Span, "10s", Used),
    flag("authorization-always-allow-paths", List, "[/healthz,/readyz,/livez]", Used),
    flag("authorization-kubeconfig", Text, "", Used),
    flag("authorization-webhook-cache-authorized-ttl", Span, "10s", Used),
    flag("authorization-webhook-cache-unauthorized-ttl", Span, "10s", Used),
    flag("cert-dir", Text, "", Used),
    flag("permit-port-sharing", Switch, "false", NotBuilt),
    flag("requestheader-extra-headers-prefix", List, "[x-remote-extra-]", Used),
    flag("requestheader-group-headers", List, "[x-remote-group]", Used),
    flag("requestheader-username-headers", List, "[x-remote-user]", Used),
    flag("tls-sni-cert-key", Repeated, "[]", NotBuilt),
];

/// The log and what else every program has.
#[rustfmt::skip]
pub(crate) const COMMON: &[Flag] = &[
    flag("contention-profiling", Switch, "false", Idle("there is no profile of contention")),
    flag("emulated-version", List, "[]", NotBuilt),
    flag("emulation-forward-compatible", Switch, "false", NotBuilt),
    flag("feature-gates", Pairs, "", Used),
    flag("log-flush-frequency", Span, "5s", Idle("the log is not kept back")),
    flag("log-json-info-buffer-size", Number, "0", Idle("the log is not kept back")),
    flag("log-json-split-stream", Switch, "false", Idle("the log goes to standard error")),
    flag("log-text-info-buffer-size", Number, "0", Idle("the log is not kept back")),
    flag("log-text-split-stream", Switch, "false", Idle("the log goes to standard error")),
    flag("logging-format", Text, "text", Used),
    flag("min-compatibility-version", List, "[]", NotBuilt),
    flag("v", Number, "2", Used),
    flag("vmodule", Text, "", Idle("the log goes by --v")),
];

/// The election and what else every program has that is a client of the API server.
#[rustfmt::skip]
pub(crate) const CLIENT: &[Flag] = &[
    flag("kube-api-content-type", Text, "application/vnd.kubernetes.protobuf", Idle("JSON is what is spoken")),
    flag("kubeconfig", Text, "", Used),
    flag("leader-elect", Switch, "true", Used),
    flag("leader-elect-lease-duration", Span, "15s", Used),
    flag("leader-elect-renew-deadline", Span, "10s", Used),
    flag("leader-elect-resource-lock", Text, "leases", Used),
    flag("leader-elect-resource-name", Text, "", Used),
    flag("leader-elect-resource-namespace", Text, "kube-system", Used),
    flag("leader-elect-retry-period", Span, "2s", Used),
    flag("master", Text, "", Used),
];

/// The flags that were given, in order.
#[derive(Debug)]
pub(crate) struct Given {
    table: &'static Table,
    values: Vec<(Flag, String)>,
    wants_help: bool,
}

impl Given {
    /// None of a program's.
    pub(crate) fn of(table: &'static Table) -> Self {
        Self { table, values: Vec::new(), wants_help: false }
    }

    /// Reads a command line as upstream's own would; whether more is asked for than the version.
    ///
    /// # Errors
    /// What is no flag, and what a flag cannot have, in upstream's words.
    pub(crate) fn read(&mut self, arguments: &[String]) -> Result<bool> {
        let table = self.table;
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let (name, value) = match table.written(argument)? {
                Written::Help => {
                    self.wants_help = true;
                    continue;
                }
                Written::Version => return Ok(false),
                Written::Flag(name, value) => (name, value),
            };
            let Some(flag) = table.find(&name) else {
                bail!("{}", table.usage(&format!("unknown flag: --{name}")));
            };
            let value = match value {
                Some(value) => value,
                None if flag.kind == Switch => "true".to_owned(),
                None => match arguments.next() {
                    Some(next) => next.clone(),
                    None => bail!("{}", table.usage(&format!("flag needs an argument: --{name}"))),
                },
            };
            let value = flag.checked(&value).map_err(|why| anyhow!(table.usage(&why)))?;
            self.values.push((*flag, value));
        }
        Ok(true)
    }

    /// Whether a flag was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.values.iter().any(|(flag, _)| flag.name == name)
    }

    /// What clap is to parse.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let used = self.values.iter().filter(|(flag, _)| flag.usage == Used);
        let mut all: Vec<String> =
            used.map(|(flag, value)| format!("--{}={value}", own_name(flag.name))).collect();
        for (name, value) in self.table.upstream.iter().filter(|(name, _)| !self.has(name)) {
            all.push(format!("--{name}={value}"));
        }
        if self.wants_help {
            all.push("--help".into());
        }
        all
    }

    /// What is to be told of flags that do nothing here.
    ///
    /// # Errors
    /// A flag that is not built, with another value than upstream's own.
    pub(crate) fn warnings(&self) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        for (flag, value) in &self.values {
            warnings.extend(flag.warning(value)?);
        }
        Ok(warnings)
    }

    /// Every flag with its value, by name, as `/flagz` tells them.
    pub(crate) fn all(&self) -> Vec<(String, String)> {
        let mut all: BTreeMap<&str, (Flag, Vec<&str>)> = BTreeMap::new();
        for (flag, value) in &self.values {
            let (_, values) = all.entry(flag.name).or_insert((*flag, Vec::new()));
            if !matches!(flag.kind, List | Repeated | Pairs) {
                values.clear();
            }
            values.push(value);
        }
        let told = |flag: &Flag| match all.get(flag.name) {
            Some((_, values)) => flag.shown(&values.join(",")),
            None => flag.default.to_owned(),
        };
        let told: BTreeMap<_, _> =
            self.table.upstreams().map(|flag| (flag.name.to_owned(), told(flag))).collect();
        told.into_iter().collect()
    }
}

impl Flag {
    /// What is to be told of a flag that does nothing here.
    ///
    /// # Errors
    /// It is not built, and has another value than upstream's own.
    pub(crate) fn warning(&self, value: &str) -> Result<Option<String>> {
        match self.usage {
            Used => Ok(None),
            Idle(why) => Ok(Some(format!("--{} has no meaning here: {why}", self.name))),
            NotBuilt if self.shown(value) == self.default => Ok(None),
            NotBuilt => bail!("--{}={value}: this is not built yet", self.name),
        }
    }

    /// A value as clap is to have it.
    ///
    /// # Errors
    /// What cannot be one, in upstream's words.
    pub(crate) fn checked(&self, value: &str) -> Result<String, String> {
        let invalid = |why: &str| {
            let name = self.name;
            Err(format!("invalid argument {value:?} for \"--{name}\" flag: {why}"))
        };
        match self.kind {
            Switch => match value {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok("true".into()),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok("false".into()),
                _ => {
                    let why = format!("strconv.ParseBool: parsing {value:?}: invalid syntax");
                    invalid(&why)
                }
            },
            Number if value.parse::<f64>().is_err() => {
                let why = format!("strconv.ParseInt: parsing {value:?}: invalid syntax");
                invalid(&why)
            }
            Span => match Duration::parse(value) {
                Ok(_) => Ok(value.to_owned()),
                Err(why) => invalid(&why.to_string()),
            },
            Text | Number | List | Repeated | Pairs => Ok(value.to_owned()),
        }
    }

    /// A value as upstream's flags print themselves.
    fn shown(&self, value: &str) -> String {
        match self.kind {
            List | Repeated => format!("[{value}]"),
            Span => Duration::parse(value).map_or_else(|_| value.to_owned(), |it| it.to_string()),
            Text | Switch | Number | Pairs => value.to_owned(),
        }
    }
}

/// Some flags have another name here.
pub(crate) fn own_name(name: &str) -> &str {
    match name {
        "logging-format" => "log-format",
        other => other,
    }
}

enum Written {
    Flag(String, Option<String>),
    Help,
    Version,
}

impl Table {
    /// An argument: `--name`, `--name=value`, `-v=2`.
    fn written(&self, argument: &str) -> Result<Written> {
        let split = |text: &str| match text.split_once('=') {
            // Underscores are as good, as upstream has it.
            Some((name, value)) => (name.replace('_', "-"), Some(value.to_owned())),
            None => (text.replace('_', "-"), None),
        };
        if let Some(long) = argument.strip_prefix("--").filter(|it| !it.is_empty()) {
            let (name, value) = split(long);
            return Ok(match (name.as_str(), value.as_deref()) {
                ("help", _) => Written::Help,
                ("version", None | Some("true" | "raw")) => Written::Version,
                _ => Written::Flag(name, value),
            });
        }
        match argument.strip_prefix('-') {
            Some("h") => Ok(Written::Help),
            Some(short) if short.starts_with('v') => {
                let value = short[1..].strip_prefix('=').unwrap_or(&short[1..]);
                let value = (!value.is_empty()).then(|| value.to_owned());
                Ok(Written::Flag("v".into(), value))
            }
            Some(short) if !short.is_empty() => {
                let first = short.chars().next().unwrap_or('-');
                bail!("{}", self.usage(&format!("unknown shorthand flag: {first:?} in -{short}")))
            }
            _ => bail!("unknown command {argument:?} for {:?}", self.program),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::*;
    fn read(line: &str) -> Result<Given, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut given = Given::of(TABLES[0]);
        let more = given.read(&words).map_err(|it| it.to_string())?;
        assert!(more);
        Ok(given)
    }

    #[test]
    fn every_flag_that_is_used_is_there_and_no_other() {
        let root = crate::Options::command();
        for table in TABLES {
            let command = root.find_subcommand(table.program).unwrap();
            let there: Vec<&str> = command.get_arguments().filter_map(|it| it.get_long()).collect();
            let known = table.upstreams().chain(table.own).filter(|it| it.usage == Used);
            let known: Vec<&str> = known.map(|it| own_name(it.name)).collect();
            for name in &known {
                assert!(there.contains(name), "--{name} is no flag of {}", table.program);
            }
            for name in there {
                let known = known.contains(&name) || name == "tls-san";
                assert!(known, "--{name} is not in the table of {}", table.program);
            }
        }
    }

    #[test]
    fn the_table_is_in_order_and_its_defaults_are_values() {
        for table in TABLES {
            for list in table.flags {
                let wrong = list.windows(2).find(|it| it[0].name >= it[1].name);
                assert_eq!(wrong.map(|it| it[1].name), None, "{}", table.program);
            }
            let names: BTreeSet<&str> = table.upstreams().map(|it| it.name).collect();
            assert_eq!(names.len(), table.upstreams().count(), "{}", table.program);
            for flag in table.upstreams().filter(|it| matches!(it.kind, Switch | Number | Span)) {
                flag.checked(flag.default).unwrap();
            }
        }
    }

    #[test]
    fn flags_are_written_as_upstream_s() {
        let line = "--secure_port 1 --anonymous-auth --event-ttl=2h --api-audiences=a,b -v=4 --api-audiences c";
        let given = read(line).unwrap();
        let arguments = given.arguments();
        for expected in ["--secure-port=1", "--anonymous-auth=true", "--event-ttl=2h", "--v=4"] {
            assert!(arguments.iter().any(|it| it == expected), "{expected}: {arguments:?}");
        }
        let all: BTreeMap<String, String> = given.all().into_iter().collect();
        assert_eq!(all["api-audiences"], "[a,b,c]");
        assert_eq!(
            (all["event-ttl"].as_str(), all["request-timeout"].as_str()),
            ("2h0m0s", "1m0s")
        );
        assert!(!Given::of(TABLES[0]).read(&["--version".to_owned()]).unwrap());
    }

    #[test]
    fn what_is_no_flag_is_refused_in_upstream_s_words() {
        for (line, expected) in [
            ("--nope=1", "unknown flag: --nope\nSee 'kube-apiserver --help' for usage."),
            ("-x", "unknown shorthand flag: 'x' in -x"),
            ("pods", "unknown command \"pods\" for \"kube-apiserver\""),
            ("--secure-port", "flag needs an argument: --secure-port"),
            (
                "--anonymous-auth=maybe",
                "invalid argument \"maybe\" for \"--anonymous-auth\" flag: strconv.ParseBool",
            ),
            ("--event-ttl=x", "time: invalid duration \"x\""),
        ] {
            let said = read(line).unwrap_err();
            assert!(said.starts_with(expected) || said.contains(expected), "{said}");
        }
    }

    #[test]
    fn what_does_nothing_is_told_and_what_is_not_built_is_refused() {
        let warned = read("--watch-cache-sizes=pods#5").unwrap().warnings().unwrap();
        assert_eq!(
            warned,
            ["--watch-cache-sizes has no meaning here: the cache has the size of what is in it"]
        );
        let refused = read("--peer-ca-file=x").unwrap().warnings().unwrap_err().to_string();
        assert_eq!(refused, "--peer-ca-file=x: this is not built yet");
        assert!(read("--enable-garbage-collector=true").unwrap().warnings().unwrap().is_empty());
    }
}
