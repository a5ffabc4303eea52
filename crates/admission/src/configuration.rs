//! The file of `--admission-control-config-file`: what plugins are told besides flags. Read strictly, in upstream's words.
//! Upstream: `k8s.io/apiserver/pkg/apis/apiserver` and `k8s.io/pod-security-admission/admission/api`.

use std::collections::BTreeSet;

use apimachinery::validation::dns1123_subdomain;
use apimachinery::{FieldErrors, Path, Value, validation, yaml};

use crate::pod_security::policy::{Level, LevelVersion, Policy, Version};

const GROUP: &str = "apiserver.config.k8s.io/v1";
const POD_SECURITY_VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];
const POD_SECURITY_GROUP: &str = "pod-security.admission.config.k8s.io";

/// What plugins are told.
#[derive(Debug, Clone, Default)]
pub struct AdmissionConfiguration {
    pub(crate) pod_security: Option<PodSecurityConfiguration>,
}

/// What namespaces get that say nothing, and who is exempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PodSecurityConfiguration {
    pub(crate) defaults: Policy,
    pub(crate) usernames: BTreeSet<String>,
    pub(crate) namespaces: BTreeSet<String>,
    pub(crate) runtime_classes: BTreeSet<String>,
}

impl AdmissionConfiguration {
    /// Reads a file's text; `read` gives those of files that it names.
    ///
    /// # Errors
    /// What is no such configuration, and what is not built.
    pub fn parse(
        text: &[u8],
        read: impl Fn(&str) -> Result<Vec<u8>, String>,
    ) -> Result<Self, String> {
        let value = parsed(text)?;
        of_kind(&value, &[GROUP], "AdmissionConfiguration")?;
        members(&value, "", &["plugins"])?;
        let mut made = Self::default();
        let mut seen = BTreeSet::new();
        for (index, plugin) in value.items_at(&["plugins"]).iter().enumerate() {
            members(plugin, &format!("plugins[{index}]."), &["configuration", "name", "path"])?;
            let name = plugin.str_at(&["name"]);
            if !seen.insert(name) {
                return Err(format!("plugin {name:?} is configured twice"));
            }
            let path = plugin.str_at(&["path"]);
            let configuration = match plugin.get("configuration") {
                Some(_) if !path.is_empty() => {
                    return Err(format!("plugin {name:?}: path and configuration are both set"));
                }
                Some(given) => given.clone(),
                None if path.is_empty() => Value::Null,
                None => parsed(&read(path)?)?,
            };
            match name {
                "PodSecurity" if configuration.is_null() => {}
                "PodSecurity" => {
                    let made_of = PodSecurityConfiguration::of(&configuration);
                    made.pod_security = Some(made_of.map_err(|why| format!("{name}: {why}"))?);
                }
                _ if configuration.is_null() => {}
                _ => return Err(format!("a configuration of plugin {name:?} is not built yet")),
            }
        }
        Ok(made)
    }
}

fn parsed(text: &[u8]) -> Result<Value, String> {
    let (value, repeated) = yaml::parse_reporting(text).map_err(|error| error.to_string())?;
    match yaml::strict_error(&repeated) {
        Some(problem) => Err(problem),
        None => Ok(value),
    }
}

fn of_kind(value: &Value, versions: &[&str], kind: &str) -> Result<(), String> {
    let (version, given) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    if given == kind && versions.contains(&version) {
        return Ok(());
    }
    Err(format!("no kind {given:?} is registered for version {version:?}"))
}

fn members(value: &Value, at: &str, known: &[&str]) -> Result<(), String> {
    let Some(object) = value.as_object() else {
        return Err(format!("{}: must be an object", at.trim_end_matches('.')));
    };
    let always = |name: &str| at.is_empty() && matches!(name, "apiVersion" | "kind");
    match object.iter().find(|(name, _)| !always(name) && !known.contains(name)) {
        Some((name, _)) => {
            Err(format!("strict decoding error: unknown field {:?}", format!("{at}{name}")))
        }
        None => Ok(()),
    }
}

impl PodSecurityConfiguration {
    fn of(value: &Value) -> Result<Self, String> {
        const MODES: [&str; 6] =
            ["audit", "audit-version", "enforce", "enforce-version", "warn", "warn-version"];
        let versions = POD_SECURITY_VERSIONS.map(|it| format!("{POD_SECURITY_GROUP}/{it}"));
        let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
        of_kind(value, &versions, "PodSecurityConfiguration")?;
        members(value, "", &["defaults", "exemptions"])?;
        let empty = Value::object();
        let or_empty = |member| value.get(member).filter(|it| !it.is_null()).unwrap_or(&empty);
        let (defaults, exemptions) = (or_empty("defaults"), or_empty("exemptions"));
        members(defaults, "defaults.", &MODES)?;
        members(exemptions, "exemptions.", &["namespaces", "runtimeClasses", "usernames"])?;
        let mut errors = FieldErrors::new();
        let path = Path::new("defaults");
        let mode = |level: &str, version: &str, errors: &mut FieldErrors| LevelVersion {
            level: level_of(defaults, level, &path, errors),
            version: version_of(defaults, version, &path, errors),
        };
        let defaults = Policy {
            enforce: mode("enforce", "enforce-version", &mut errors),
            warn: mode("warn", "warn-version", &mut errors),
            audit: mode("audit", "audit-version", &mut errors),
        };
        let path = Path::new("exemptions");
        let label = |it: &str| validation::dns1123_label(it);
        let named = |it: &str| {
            if it.is_empty() { vec!["username must not be empty".to_owned()] } else { Vec::new() }
        };
        let made = Self {
            defaults,
            usernames: names(exemptions, "usernames", named, &path, &mut errors),
            namespaces: names(exemptions, "namespaces", label, &path, &mut errors),
            runtime_classes: names(
                exemptions,
                "runtimeClasses",
                dns1123_subdomain,
                &path,
                &mut errors,
            ),
        };
        if errors.is_empty() {
            return Ok(made);
        }
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Err(if all.len() == 1 { all.concat() } else { format!("[{}]", all.join(", ")) })
    }
}

fn level_of(value: &Value, name: &str, path: &Path<'_>, errors: &mut FieldErrors) -> Level {
    match value.str_at(&[name]) {
        "" => Level::Privileged,
        text => Level::parse(text).unwrap_or_else(|| {
            let why = "must be one of privileged, baseline, restricted";
            errors.invalid_text(&path.child(name), text, why);
            Level::Restricted
        }),
    }
}

fn version_of(value: &Value, name: &str, path: &Path<'_>, errors: &mut FieldErrors) -> Version {
    match value.str_at(&[name]) {
        "" => Version::Latest,
        text => Version::parse(text).unwrap_or_else(|| {
            errors.invalid_text(&path.child(name), text, "must be \"latest\" or \"v1.x\"");
            Version::Latest
        }),
    }
}

fn names(
    value: &Value,
    member: &str,
    problems: impl Fn(&str) -> Vec<String>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) -> BTreeSet<String> {
    let list = path.child(member);
    let mut all = BTreeSet::new();
    for (index, name) in value.items_at(&[member]).iter().enumerate() {
        let (name, at) = (name.as_str().unwrap_or_default(), list.index(index));
        errors.invalid_all(&at, name, problems(name));
        if !all.insert(name.to_owned()) {
            errors.duplicate(&at, &name.into());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(plugins: &str, expected: &str) {
        let text =
            format!("apiVersion: {GROUP}\nkind: AdmissionConfiguration\nplugins:\n{plugins}");
        let read = |path: &str| {
            match path {
            "there.yaml" => Ok(format!("apiVersion: {POD_SECURITY_GROUP}/v1\nkind: PodSecurityConfiguration\ndefaults: {{warn: baseline}}").into_bytes()),
            other => Err(format!("{other} is not there")),
        }
        };
        let got = match AdmissionConfiguration::parse(text.as_bytes(), read) {
            Err(why) => why,
            Ok(made) => made.pod_security.map_or_else(String::new, |it| {
                let Policy { enforce, audit, warn } = it.defaults;
                let exempt = it.namespaces.into_iter().chain(it.usernames);
                format!("{enforce} {audit} {warn} {}", exempt.collect::<Vec<_>>().join(","))
            }),
        };
        assert_eq!(got, expected, "{plugins}");
    }

    #[test]
    fn defaults_and_exemptions_are_read_strictly() {
        let of = |rest: &str| {
            format!(
                "- name: PodSecurity\n  configuration: {{apiVersion: {POD_SECURITY_GROUP}/v1, kind: PodSecurityConfiguration, {rest}}}"
            )
        };
        check("- name: PodSecurity\n", "");
        check(
            &of("defaults: {enforce: baseline, enforce-version: v1.30, audit: restricted}"),
            "baseline:v1.30 restricted:latest privileged:latest ",
        );
        check(
            &of("exemptions: {namespaces: [kube-system], usernames: [me]}"),
            "privileged:latest privileged:latest privileged:latest kube-system,me",
        );
        check(
            &of("defaults: {enforce: much}"),
            "PodSecurity: defaults.enforce: Invalid value: \"much\": must be one of privileged, baseline, restricted",
        );
        check(
            &of("exemptions: {namespaces: [a, a]}"),
            "PodSecurity: exemptions.namespaces[1]: Duplicate value: \"a\"",
        );
        check(&of("exempt: {}"), "PodSecurity: strict decoding error: unknown field \"exempt\"");
        check(
            "- name: PodSecurity\n  path: there.yaml\n",
            "privileged:latest privileged:latest baseline:latest ",
        );
        check("- name: PodSecurity\n  path: away.yaml\n", "away.yaml is not there");
        check(
            "- name: EventRateLimit\n  configuration: {kind: Configuration}\n",
            "a configuration of plugin \"EventRateLimit\" is not built yet",
        );
    }
}
