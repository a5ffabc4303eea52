//! The file of `--admission-control-config-file`: what plugins are told besides flags. Read strictly, in upstream's words.
//! Upstream: `k8s.io/apiserver/pkg/apis/apiserver` and `k8s.io/pod-security-admission/admission/api`.

use std::collections::BTreeSet;
use std::path::Path as FilePath;
use std::sync::Arc;

use apimachinery::validation::dns1123_subdomain;
use apimachinery::{FieldErrors, Path, Value, validation, yaml};
use component_base::{Clock, ShutdownSignal};

use webhook::Credentials;

use crate::event_rate_limit::{self, Limit};
use crate::image_policy::ImagePolicy;
use crate::manifests::Manifests;
use crate::pod_node_selector::Selectors;
use crate::pod_security::policy::{Level, LevelVersion, Policy, Version};
use crate::pod_tolerations::Tolerations;
use crate::resource_quota::limited::{self, Limited};

const GROUP: &str = "apiserver.config.k8s.io/v1";
const OLD_GROUP: &str = "apiserver.config.k8s.io/v1alpha1";
const POD_SECURITY_VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];
const POD_SECURITY_GROUP: &str = "pod-security.admission.config.k8s.io";

/// What plugins are told.
#[derive(Debug, Clone, Default)]
pub struct AdmissionConfiguration {
    pub(crate) pod_security: Option<PodSecurityConfiguration>,
    pub(crate) node_selectors: Selectors,
    pub(crate) tolerations: Tolerations,
    pub(crate) event_limits: Option<Vec<Limit>>,
    pub(crate) image_policy: Option<ImagePolicy>,
    pub(crate) limited: Vec<Limited>,
    pub(crate) mutating_credentials: Option<Arc<Credentials>>,
    pub(crate) validating_credentials: Option<Arc<Credentials>>,
    pub(crate) manifests: Manifests,
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
            if !configuration.is_null() {
                made.learn(name, &configuration).map_err(|why| format!("{name}: {why}"))?;
            }
        }
        Ok(made)
    }

    fn learn(&mut self, name: &str, given: &Value) -> Result<(), String> {
        match name {
            "PodSecurity" => self.pod_security = Some(PodSecurityConfiguration::of(given)?),
            "PodNodeSelector" => self.node_selectors = Selectors::of(given)?,
            "PodTolerationRestriction" => self.tolerations = Tolerations::of(given)?,
            "EventRateLimit" => self.event_limits = Some(event_rate_limit::limits(given)?),
            "ImagePolicyWebhook" => self.image_policy = Some(ImagePolicy::of(given)?),
            "ResourceQuota" => self.limited = limited::of(given)?,
            "MutatingAdmissionWebhook" => {
                self.mutating_credentials = credentials(given)?;
                self.manifests.note(name, given.str_at(&["staticManifestsDir"]));
            }
            "ValidatingAdmissionWebhook" => {
                self.validating_credentials = credentials(given)?;
                self.manifests.note(name, given.str_at(&["staticManifestsDir"]));
            }
            "MutatingAdmissionPolicy" | "ValidatingAdmissionPolicy" => {
                of_kind(given, &[GROUP], &format!("{name}Configuration"))?;
                members(given, "", &["staticManifestsDir"])?;
                self.manifests.note(name, given.str_at(&["staticManifestsDir"]));
            }
            _ => return Err("a configuration of this plugin is not built yet".into()),
        }
        Ok(())
    }

    /// Reads policies and webhooks of files, where there may be some (the gate `ManifestBasedAdmissionControlConfig`).
    ///
    /// # Errors
    /// What is wrong with them, and with which plugin's.
    pub fn load_manifests(&mut self, allowed: bool) -> Result<(), String> {
        self.manifests.load(allowed)
    }

    /// Reads them again when they change, until the stop. `server` is the hash by which metrics call this server.
    ///
    /// # Errors
    /// When a directory cannot be watched.
    pub fn follow_manifests(
        &self,
        server: &str,
        clock: &Arc<dyn Clock>,
        stop: &ShutdownSignal,
    ) -> std::io::Result<()> {
        self.manifests.follow(server, clock, stop)
    }

    /// Whether plugins that are on have what they cannot be without.
    ///
    /// # Errors
    /// Which plugin lacks what, in upstream's words.
    pub fn check(&self, on: &[String]) -> Result<(), String> {
        let is_on = |name: &str| on.iter().any(|it| it == name);
        let lacks =
            |name: &str, why: &str| Err(format!("couldn't init admission plugin {name:?}: {why}"));
        if self.event_limits.is_none() && is_on("EventRateLimit") {
            return lacks("EventRateLimit", "limits: Invalid value: null: must not be empty");
        }
        if self.image_policy.is_none() && is_on("ImagePolicyWebhook") {
            return lacks("ImagePolicyWebhook", "no config specified");
        }
        Ok(())
    }
}

fn parsed(text: &[u8]) -> Result<Value, String> {
    let (value, repeated) = yaml::parse_reporting(text).map_err(|error| error.to_string())?;
    match yaml::strict_error(&repeated) {
        Some(problem) => Err(problem),
        None => Ok(value),
    }
}

/// As whom webhooks are called, where that is said.
fn credentials(value: &Value) -> Result<Option<Arc<Credentials>>, String> {
    let old = value.str_at(&["apiVersion"]) == OLD_GROUP;
    let kind = if old { "WebhookAdmission" } else { "WebhookAdmissionConfiguration" };
    of_kind(value, &[GROUP, OLD_GROUP], kind)?;
    members(value, "", &["kubeConfigFile", "staticManifestsDir"])?;
    let file = value.str_at(&["kubeConfigFile"]);
    if file.is_empty() && !value.str_at(&["staticManifestsDir"]).is_empty() {
        return Ok(None);
    }
    if !FilePath::new(file).is_absolute() {
        return Err(format!(
            "kubeConfigFile: Invalid value: {file:?}: must be an absolute file path"
        ));
    }
    Credentials::read(FilePath::new(file)).map(|it| Some(Arc::new(it)))
}

/// Several errors as one text.
pub(crate) fn in_one(errors: &FieldErrors) -> Option<String> {
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match all.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

pub(crate) fn of_kind(value: &Value, versions: &[&str], kind: &str) -> Result<(), String> {
    let (version, given) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    if given == kind && versions.contains(&version) {
        return Ok(());
    }
    Err(format!("no kind {given:?} is registered for version {version:?}"))
}

pub(crate) fn members(value: &Value, at: &str, known: &[&str]) -> Result<(), String> {
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
        match in_one(&errors) {
            Some(why) => Err(why),
            None => Ok(made),
        }
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
            "- name: Priority\n  configuration: {kind: Configuration}\n",
            "Priority: a configuration of this plugin is not built yet",
        );
    }
}
