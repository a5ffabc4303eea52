//! Upstream's flags of `kube-apiserver`, all of them, and how they are written: which are used here, which mean nothing
//! here, and which are not built.
//!
//! Does not know what a flag does: those that are used reach clap as `--NAME=VALUE`.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use apimachinery::duration::Duration;

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

const fn flag(name: &'static str, kind: Kind, default: &'static str, usage: Use) -> Flag {
    Flag { name, kind, default, usage }
}

/// By name.
#[rustfmt::skip]
pub(crate) const FLAGS: &[Flag] = &[
    flag("admission-control", List, "[]", NotBuilt),
    flag("admission-control-config-file", Text, "", Used),
    flag("advertise-address", Text, "", Used),
    flag("aggregator-reject-forwarding-redirect", Switch, "true", NotBuilt),
    flag("allow-metric-labels", Pairs, "", Idle("no label of a metric here can have any number of values")),
    flag("allow-metric-labels-manifest", Text, "", Idle("no label of a metric here can have any number of values")),
    flag("allow-privileged", Switch, "false", Used),
    flag("anonymous-auth", Switch, "true", Used),
    flag("api-audiences", List, "[]", Used),
    flag("apiserver-count", Number, "1", Idle("the servers that live are told from their leases")),
    flag("audit-log-batch-buffer-size", Number, "10000", Used),
    flag("audit-log-batch-max-size", Number, "1", Used),
    flag("audit-log-batch-max-wait", Span, "0s", Used),
    flag("audit-log-batch-throttle-burst", Number, "0", Used),
    flag("audit-log-batch-throttle-enable", Switch, "false", Used),
    flag("audit-log-batch-throttle-qps", Number, "0", Used),
    flag("audit-log-compress", Switch, "false", Used),
    flag("audit-log-format", Text, "json", Used),
    flag("audit-log-maxage", Number, "366", Used),
    flag("audit-log-maxbackup", Number, "100", Used),
    flag("audit-log-maxsize", Number, "100", Used),
    flag("audit-log-mode", Text, "blocking", Used),
    flag("audit-log-path", Text, "", Used),
    flag("audit-log-truncate-enabled", Switch, "false", Used),
    flag("audit-log-truncate-max-batch-size", Number, "10485760", Used),
    flag("audit-log-truncate-max-event-size", Number, "102400", Used),
    flag("audit-log-version", Text, "audit.k8s.io/v1", Used),
    flag("audit-policy-file", Text, "", Used),
    flag("audit-webhook-batch-buffer-size", Number, "10000", Used),
    flag("audit-webhook-batch-max-size", Number, "400", Used),
    flag("audit-webhook-batch-max-wait", Span, "30s", Used),
    flag("audit-webhook-batch-throttle-burst", Number, "15", Used),
    flag("audit-webhook-batch-throttle-enable", Switch, "true", Used),
    flag("audit-webhook-batch-throttle-qps", Number, "10", Used),
    flag("audit-webhook-config-file", Text, "", Used),
    flag("audit-webhook-initial-backoff", Span, "10s", Used),
    flag("audit-webhook-mode", Text, "batch", Used),
    flag("audit-webhook-truncate-enabled", Switch, "false", Used),
    flag("audit-webhook-truncate-max-batch-size", Number, "10485760", Used),
    flag("audit-webhook-truncate-max-event-size", Number, "102400", Used),
    flag("audit-webhook-version", Text, "audit.k8s.io/v1", Used),
    flag("authentication-config", Text, "", Used),
    flag("authentication-token-webhook-cache-ttl", Span, "2m0s", Used),
    flag("authentication-token-webhook-config-file", Text, "", Used),
    flag("authentication-token-webhook-version", Text, "v1beta1", Used),
    flag("authorization-config", Text, "", Used),
    flag("authorization-mode", List, "[]", Used),
    flag("authorization-policy-file", Text, "", Used),
    flag("authorization-webhook-cache-authorized-ttl", Span, "5m0s", Used),
    flag("authorization-webhook-cache-unauthorized-ttl", Span, "30s", Used),
    flag("authorization-webhook-config-file", Text, "", Used),
    flag("authorization-webhook-version", Text, "v1beta1", Used),
    flag("bind-address", Text, "0.0.0.0", Used),
    flag("cert-dir", Text, "/var/run/kubernetes", Used),
    flag("client-ca-file", Text, "", Used),
    flag("contention-profiling", Switch, "false", Idle("there is no profile of contention")),
    flag("coordinated-leadership-lease-duration", Span, "15s", Used),
    flag("coordinated-leadership-renew-deadline", Span, "10s", Used),
    flag("coordinated-leadership-retry-period", Span, "2s", Used),
    flag("cors-allowed-origins", List, "[]", Used),
    flag("debug-socket-path", Text, "", NotBuilt),
    flag("default-not-ready-toleration-seconds", Number, "300", Used),
    flag("default-unreachable-toleration-seconds", Number, "300", Used),
    flag("default-watch-cache-size", Number, "100", Idle("the cache has the size of what is in it")),
    flag("delete-collection-workers", Number, "1", Idle("objects of a collection are deleted together")),
    flag("disable-admission-plugins", List, "[]", Used),
    flag("disable-http2-serving", Switch, "false", Used),
    flag("disabled-metrics", List, "[]", Idle("metrics here cannot misbehave that way")),
    flag("egress-selector-config-file", Text, "", NotBuilt),
    flag("emulated-version", List, "[]", NotBuilt),
    flag("emulation-forward-compatible", Switch, "false", NotBuilt),
    flag("enable-admission-plugins", List, "[]", Used),
    flag("enable-aggregator-routing", Switch, "false", NotBuilt),
    flag("enable-bootstrap-token-auth", Switch, "false", Used),
    flag("enable-garbage-collector", Switch, "true", NotBuilt),
    flag("enable-logs-handler", Switch, "false", Used),
    flag("enable-priority-and-fairness", Switch, "true", Used),
    flag("encryption-provider-config", Text, "", Used),
    flag("encryption-provider-config-automatic-reload", Switch, "false", Used),
    flag("endpoint-reconciler-type", Text, "lease", Used),
    flag("etcd-cafile", Text, "", Used),
    flag("etcd-certfile", Text, "", Used),
    flag("etcd-compaction-interval", Span, "5m0s", Used),
    flag("etcd-count-metric-poll-period", Span, "1m0s", Idle("objects are counted where they are kept in memory")),
    flag("etcd-db-metric-poll-interval", Span, "30s", Used),
    flag("etcd-healthcheck-timeout", Span, "2s", Used),
    flag("etcd-keyfile", Text, "", Used),
    flag("etcd-prefix", Text, "/registry", Used),
    flag("etcd-readycheck-timeout", Span, "2s", NotBuilt),
    flag("etcd-servers", List, "[]", Used),
    flag("etcd-servers-overrides", List, "[]", NotBuilt),
    flag("event-ttl", Span, "1h0m0s", Used),
    flag("external-hostname", Text, "", Used),
    flag("feature-gates", Pairs, "", Used),
    flag("goaway-chance", Number, "0", Used),
    flag("http2-max-streams-per-connection", Number, "0", Used),
    flag("kubelet-certificate-authority", Text, "", Used),
    flag("kubelet-client-certificate", Text, "", Used),
    flag("kubelet-client-key", Text, "", Used),
    flag("kubelet-preferred-address-types", List, "[Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP]", Used),
    flag("kubelet-timeout", Span, "5s", Idle("streams to nodes have no limit, and connecting has its own")),
    flag("kubernetes-service-node-port", Number, "0", NotBuilt),
    flag("lease-reuse-duration-seconds", Number, "60", NotBuilt),
    flag("livez-grace-period", Span, "0s", Idle("the server listens once it is ready")),
    flag("log-flush-frequency", Span, "5s", Idle("the log is not kept back")),
    flag("log-text-info-buffer-size", Number, "0", Idle("the log is not kept back")),
    flag("log-text-split-stream", Switch, "false", Idle("the log goes to standard error")),
    flag("logging-format", Text, "text", Used),
    flag("max-connection-bytes-per-sec", Number, "0", Used),
    flag("max-mutating-requests-inflight", Number, "200", Used),
    flag("max-requests-inflight", Number, "400", Used),
    flag("min-compatibility-version", List, "[]", NotBuilt),
    flag("min-request-timeout", Number, "1800", Used),
    flag("oidc-ca-file", Text, "", Used),
    flag("oidc-client-id", Text, "", Used),
    flag("oidc-groups-claim", Text, "", Used),
    flag("oidc-groups-prefix", Text, "", Used),
    flag("oidc-issuer-url", Text, "", Used),
    flag("oidc-required-claim", Pairs, "", Used),
    flag("oidc-signing-algs", List, "[RS256]", Used),
    flag("oidc-username-claim", Text, "sub", Used),
    flag("oidc-username-prefix", Text, "", Used),
    flag("peer-advertise-ip", Text, "", NotBuilt),
    flag("peer-advertise-port", Text, "", NotBuilt),
    flag("peer-ca-file", Text, "", NotBuilt),
    flag("permit-address-sharing", Switch, "false", Idle("the port can be had again at once anyway")),
    flag("permit-port-sharing", Switch, "false", Used),
    flag("profiling", Switch, "true", Used),
    flag("proxy-client-cert-file", Text, "", Used),
    flag("proxy-client-key-file", Text, "", Used),
    flag("request-timeout", Span, "1m0s", Used),
    flag("requestheader-allowed-names", List, "[]", Used),
    flag("requestheader-client-ca-file", Text, "", Used),
    flag("requestheader-extra-headers-prefix", List, "[]", Used),
    flag("requestheader-group-headers", List, "[]", Used),
    flag("requestheader-uid-headers", List, "[]", Used),
    flag("requestheader-username-headers", List, "[]", Used),
    flag("runtime-config", Pairs, "", Used),
    flag("runtime-config-emulation-forward-compatible", Switch, "false", NotBuilt),
    flag("secure-port", Number, "6443", Used),
    flag("service-account-extend-token-expiration", Switch, "true", Used),
    flag("service-account-issuer", Repeated, "[]", Used),
    flag("service-account-jwks-uri", Text, "", Used),
    flag("service-account-key-file", Repeated, "[]", Used),
    flag("service-account-lookup", Switch, "true", Used),
    flag("service-account-max-token-expiration", Span, "0s", Used),
    flag("service-account-signing-endpoint", Text, "", Used),
    flag("service-account-signing-key-file", Text, "", Used),
    flag("service-cluster-ip-range", Text, "", Used),
    flag("service-node-port-range", Text, "30000-32767", Used),
    flag("show-hidden-metrics-for-version", Text, "", Idle("no metric is hidden")),
    flag("shutdown-delay-duration", Span, "0s", Used),
    flag("shutdown-send-retry-after", Switch, "false", Used),
    flag("shutdown-watch-termination-grace-period", Span, "0s", Used),
    flag("storage-backend", Text, "", NotBuilt),
    flag("storage-initialization-timeout", Span, "1m0s", Idle("the server listens once its caches are filled")),
    flag("storage-media-type", Text, "application/vnd.kubernetes.protobuf", Used),
    flag("strict-transport-security-directives", List, "[]", Used),
    flag("tls-cert-file", Text, "", Used),
    flag("tls-cipher-suites", List, "[]", Used),
    flag("tls-min-version", Text, "", Used),
    flag("tls-private-key-file", Text, "", Used),
    flag("tls-sni-cert-key", Repeated, "[]", Used),
    flag("token-auth-file", Text, "", Used),
    flag("tracing-config-file", Text, "", Used),
    flag("v", Number, "2", Used),
    flag("vmodule", Text, "", Idle("the log goes by --v")),
    flag("watch-cache", Switch, "true", Idle("there is no server here without the cache")),
    flag("watch-cache-sizes", List, "[]", Idle("the cache has the size of what is in it")),
];

/// Flags which upstream does not have: of the embedded store, of memory, and of the metrics of Prometheus and ScaledObjects.
#[rustfmt::skip]
const OWN: &[Flag] = &[
    flag("data-dir", Text, "", Used),
    flag("memory-budget", Text, "", Used),
    flag("metrics-adapter-config", Text, "", Used),
    flag("metrics-relist-interval", Span, "10m0s", Used),
    flag("prometheus-ca-file", Text, "", Used),
    flag("prometheus-max-response-bytes", Number, "", Used),
    flag("prometheus-timeout", Span, "10s", Used),
    flag("prometheus-token-file", Text, "", Used),
    flag("prometheus-url", Text, "", Used),
    flag("scaledobject-metrics", Switch, "false", Used),
];

/// What upstream takes where nobody says, and clap would not, for the flags that other commands have too.
const UPSTREAM: [(&str, &str); 5] = [
    ("requestheader-allowed-names", ""),
    ("requestheader-username-headers", ""),
    ("requestheader-uid-headers", ""),
    ("requestheader-group-headers", ""),
    ("requestheader-extra-headers-prefix", ""),
];

/// The flags that were given, in order.
#[derive(Debug, Default)]
pub(crate) struct Given {
    values: Vec<(Flag, String)>,
    wants_help: bool,
}

impl Given {
    /// Reads a command line as upstream's own would; nothing, where only the version is asked for.
    ///
    /// # Errors
    /// What is no flag, and what a flag cannot have, in upstream's words.
    pub(crate) fn read(arguments: &[String]) -> Result<Option<Self>> {
        let mut given = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let (name, value) = match written(argument)? {
                Written::Help => {
                    given.wants_help = true;
                    continue;
                }
                Written::Version => return Ok(None),
                Written::Flag(name, value) => (name, value),
            };
            let Some(flag) = FLAGS.iter().chain(OWN).find(|it| it.name == name) else {
                bail!("{}", usage(&format!("unknown flag: --{name}")));
            };
            let value = match value {
                Some(value) => value,
                None if flag.kind == Switch => "true".to_owned(),
                None => match arguments.next() {
                    Some(next) => next.clone(),
                    None => bail!("{}", usage(&format!("flag needs an argument: --{name}"))),
                },
            };
            given.values.push((*flag, flag.checked(&value)?));
        }
        Ok(Some(given))
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
        for (name, value) in UPSTREAM.iter().filter(|(name, _)| !self.has(name)) {
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
            match flag.usage {
                Used => {}
                Idle(why) => {
                    warnings.push(format!("--{} has no meaning here: {why}", flag.name));
                }
                NotBuilt if flag.shown(value) == flag.default => {}
                NotBuilt => bail!("--{}={value}: this is not built yet", flag.name),
            }
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
        FLAGS.iter().map(|flag| (flag.name.to_owned(), told(flag))).collect()
    }
}

impl Flag {
    fn checked(&self, value: &str) -> Result<String> {
        let invalid = |why: &str| {
            let name = self.name;
            usage(&format!("invalid argument {value:?} for \"--{name}\" flag: {why}"))
        };
        match self.kind {
            Switch => match value {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok("true".into()),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok("false".into()),
                _ => {
                    let why = format!("strconv.ParseBool: parsing {value:?}: invalid syntax");
                    bail!("{}", invalid(&why))
                }
            },
            Number if value.parse::<f64>().is_err() => {
                let why = format!("strconv.ParseInt: parsing {value:?}: invalid syntax");
                bail!("{}", invalid(&why))
            }
            Span => match Duration::parse(value) {
                Ok(_) => Ok(value.to_owned()),
                Err(why) => bail!("{}", invalid(&why.to_string())),
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
fn own_name(name: &str) -> &str {
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

/// An argument: `--name`, `--name=value`, `-v=2`.
fn written(argument: &str) -> Result<Written> {
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
            bail!("{}", usage(&format!("unknown shorthand flag: {first:?} in -{short}")))
        }
        _ => bail!("unknown command {argument:?} for \"kube-apiserver\""),
    }
}

fn usage(what: &str) -> String {
    format!("{what}\nSee 'kube-apiserver --help' for usage.")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn read(line: &str) -> Result<Given, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Given::read(&words).map(Option::unwrap).map_err(|it| it.to_string())
    }

    #[test]
    fn every_flag_that_is_used_is_there_and_no_other() {
        let command = crate::Options::command();
        let command = command.find_subcommand(super::super::NAME).unwrap();
        let there: Vec<&str> = command.get_arguments().filter_map(|it| it.get_long()).collect();
        let known = FLAGS.iter().chain(OWN).filter(|it| it.usage == Used);
        let known: Vec<&str> = known.map(|it| own_name(it.name)).collect();
        for name in &known {
            assert!(there.contains(name), "--{name} is no flag of the command");
        }
        for name in there {
            assert!(known.contains(&name) || name == "tls-san", "--{name} is not in the table");
        }
    }

    #[test]
    fn the_table_is_in_order_and_its_defaults_are_values() {
        assert!(FLAGS.is_sorted_by(|a, b| a.name < b.name));
        for flag in FLAGS.iter().filter(|it| matches!(it.kind, Switch | Number | Span)) {
            flag.checked(flag.default).unwrap();
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
        assert!(Given::read(&["--version".to_owned()]).unwrap().is_none());
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
