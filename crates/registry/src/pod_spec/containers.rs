//! Checks of containers: those of a pod, those before them, and those added to debug it.

use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use super::{env, mounts, probes, resource_checks, security};
use crate::check;

/// The most rules by which a container may be started again.
const RESTART_RULES_MAX: usize = 20;
/// The most exit codes of such a rule.
const EXIT_CODES_MAX: usize = 255;
/// What a container that is added to debug a pod may not have.
const NOT_EPHEMERAL: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];
const NO_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";

/// What the containers of a pod are checked against.
pub(super) struct Pod<'s> {
    spec: &'s Value,
    volumes: Vec<&'s Value>,
    claims: Vec<&'s str>,
    grace_period: i64,
}

impl<'s> Pod<'s> {
    pub(super) fn new(spec: &'s Value, volumes: Vec<&'s Value>) -> Self {
        Self {
            spec,
            volumes,
            claims: spec
                .items_at(&["resourceClaims"])
                .iter()
                .map(|it| it.str_at(&["name"]))
                .collect(),
            grace_period: spec.i64_at(&["terminationGracePeriodSeconds"]).unwrap_or_default(),
        }
    }

    /// The names of the claims a container may use.
    pub(super) fn claims(&self) -> &[&'s str] {
        &self.claims
    }

    /// Checks every container.
    pub(super) fn containers(&self, path: &Path<'_>, errors: &mut FieldErrors) {
        self.regular(&path.child("containers"), errors);
        self.before(&path.child("initContainers"), errors);
        self.ephemeral(&path.child("ephemeralContainers"), errors);
    }

    fn regular(&self, path: &Path<'_>, errors: &mut FieldErrors) {
        let list = self.spec.items_at(&["containers"]);
        if list.is_empty() {
            errors.required(path, "");
        }
        let mut names: Vec<&str> = Vec::new();
        for (index, container) in list.iter().enumerate() {
            let at = path.index(index);
            self.shared(container, &at, errors);
            unique_name(container, &mut names, &at, errors);
            probes::probes_and_hooks(container, self.grace_period, &at, errors);
            restart_policy(container, &at, errors);
        }
        host_ports(list, path, errors);
    }

    fn before(&self, path: &Path<'_>, errors: &mut FieldErrors) {
        let mut names = self.names(&["containers"]);
        for (index, container) in self.spec.items_at(&["initContainers"]).iter().enumerate() {
            let at = path.index(index);
            self.shared(container, &at, errors);
            unique_name(container, &mut names, &at, errors);
            restart_policy(container, &at, errors);
            host_ports(std::slice::from_ref(container), path, errors);
            if container.str_at(&["restartPolicy"]) == "Always" {
                probes::probes_and_hooks(container, self.grace_period, &at, errors);
                continue;
            }
            for member in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if container.get(member).is_some() {
                    let detail = "may not be set for init containers without restartPolicy=Always";
                    errors.forbidden(&at.child(member), detail);
                }
            }
        }
    }

    fn ephemeral(&self, path: &Path<'_>, errors: &mut FieldErrors) {
        let others = self.names(&["containers", "initContainers"]);
        let mut names = others.clone();
        let list = self.spec.items_at(&["ephemeralContainers"]);
        for (index, container) in list.iter().enumerate() {
            let at = path.index(index);
            self.shared(container, &at, errors);
            image_without_spaces(container, &at, errors);
            unique_name(container, &mut names, &at, errors);
            let target = container.str_at(&["targetContainerName"]);
            if !target.is_empty() && !others.contains(&target) {
                errors.not_found(&at.child("targetContainerName"), &target.into());
            }
            for member in NOT_EPHEMERAL {
                let empty = |it: &Value| it.as_object().is_some_and(apimachinery::Object::is_empty);
                if container.get(member).is_some_and(|it| member != "resources" || !empty(it)) {
                    errors.forbidden(&at.child(member), NO_EPHEMERAL);
                }
            }
            let mounts = at.child("volumeMounts");
            for (index, mount) in container.items_at(&["volumeMounts"]).iter().enumerate() {
                for member in ["subPath", "subPathExpr"] {
                    if !mount.str_at(&[member]).is_empty() {
                        errors.forbidden(&mounts.index(index).child(member), NO_EPHEMERAL);
                    }
                }
            }
        }
    }

    fn names(&self, lists: &[&str]) -> Vec<&'s str> {
        let containers = lists.iter().flat_map(|list| self.spec.items_at(&[list]));
        containers.map(|it| it.str_at(&["name"])).collect()
    }

    /// What is checked of every container.
    fn shared(&self, container: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
        check::required_name(container, "name", validation::dns1123_label, path, errors);
        check::required_text(container, "image", path, errors);
        if check::required_text(container, "terminationMessagePolicy", path, errors) {
            let policies = ["File", "FallbackToLogsOnError"];
            check::one_of(container, "terminationMessagePolicy", &policies, path, errors);
        }
        ports(container.items_at(&["ports"]), &path.child("ports"), errors);
        env::variables(container.items_at(&["env"]), &path.child("env"), errors);
        self.file_variables(container, &path.child("env"), errors);
        env::sources(container.items_at(&["envFrom"]), &path.child("envFrom"), errors);
        mounts::mounts_and_devices(container, &self.volumes, path, errors);
        if check::required_text(container, "imagePullPolicy", path, errors) {
            let policies = ["Always", "IfNotPresent", "Never"];
            check::one_of(container, "imagePullPolicy", &policies, path, errors);
        }
        if let Some(resources) = container.get("resources") {
            resource_checks::container(resources, &self.claims, &path.child("resources"), errors);
        }
        resize_policies(
            container.items_at(&["resizePolicy"]),
            self.spec.str_at(&["restartPolicy"]),
            &path.child("resizePolicy"),
            errors,
        );
        if let Some(context) = container.get("securityContext") {
            let host_users = self.spec.get("hostUsers").and_then(Value::as_bool).unwrap_or(true);
            security::container(context, host_users, &path.child("securityContext"), errors);
        }
    }

    /// Variables that are read from a file of a volume name a volume that is there.
    fn file_variables(&self, container: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
        for (index, variable) in container.items_at(&["env"]).iter().enumerate() {
            let Some(file) = variable.at(&["valueFrom", "fileKeyRef"]) else { continue };
            let name = file.str_at(&["volumeName"]);
            let (at, known) = (path.index(index), |it: &Value| it.str_at(&["name"]) == name);
            let source = at.child("valueFrom");
            let reference = source.child("fileKeyRef");
            let place = reference.child("volumeName");
            match self.volumes.iter().find(|it| known(it)) {
                None => errors.not_found(&place, &name.into()),
                Some(volume) if volume.get("emptyDir").is_none() => {
                    let detail = "referenced volume must be of type emptyDir";
                    errors.invalid_text(&place, name, detail);
                }
                Some(_) => {}
            }
        }
    }
}

/// An image of a pod, unlike one of a template, may not have spaces around it.
pub(crate) fn image_without_spaces(container: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let image = container.str_at(&["image"]);
    if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.invalid_text(&path.child("image"), image, detail);
    }
}

fn unique_name<'c>(
    container: &'c Value,
    names: &mut Vec<&'c str>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let name = container.str_at(&["name"]);
    if names.contains(&name) {
        errors.duplicate(&path.child("name"), &name.into());
    } else {
        names.push(name);
    }
}

fn ports(list: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    let mut names: Vec<&str> = Vec::new();
    for (index, port) in list.iter().enumerate() {
        let at = path.index(index);
        let name = port.str_at(&["name"]);
        if !name.is_empty() {
            let problems = validation::port_name(name);
            if !problems.is_empty() {
                errors.invalid_all(&at.child("name"), name, problems);
            } else if names.contains(&name) {
                errors.duplicate(&at.child("name"), &name.into());
            } else {
                names.push(name);
            }
        }
        match port.i64_at(&["containerPort"]).unwrap_or_default() {
            0 => errors.required(&at.child("containerPort"), ""),
            number => check::port_number(number, &at.child("containerPort"), errors),
        }
        if let Some(number) = port.i64_at(&["hostPort"]).filter(|it| *it != 0) {
            check::port_number(number, &at.child("hostPort"), errors);
        }
        if check::required_text(port, "protocol", &at, errors) {
            check::one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at, errors);
        }
    }
}

/// No two ports of these containers take the same port of the host.
fn host_ports(list: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    let mut taken: Vec<String> = Vec::new();
    for (index, container) in list.iter().enumerate() {
        let at = path.index(index);
        let ports = at.child("ports");
        for (index, port) in container.items_at(&["ports"]).iter().enumerate() {
            let Some(number) = port.i64_at(&["hostPort"]).filter(|it| *it != 0) else { continue };
            let (protocol, ip) = (port.str_at(&["protocol"]), port.str_at(&["hostIP"]));
            let text = format!("{protocol}/{ip}/{number}");
            if taken.contains(&text) {
                errors.duplicate(&ports.index(index).child("hostPort"), &text.as_str().into());
            }
            taken.push(text);
        }
    }
}

fn restart_policy(container: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let rules = container.items_at(&["restartPolicyRules"]);
    if container.get("restartPolicy").is_some() {
        let policies = ["Always", "Never", "OnFailure"];
        check::one_of(container, "restartPolicy", &policies, path, errors);
    } else if !rules.is_empty() {
        let detail = "must specify restartPolicy when restart rules are used";
        errors.required(&path.child("restartPolicy"), detail);
    }
    let list = path.child("restartPolicyRules");
    if rules.len() > RESTART_RULES_MAX {
        errors.too_many(&list, rules.len(), RESTART_RULES_MAX);
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = list.index(index);
        check::one_of(rule, "action", &["Restart", "RestartAllContainers"], &at, errors);
        let codes = at.child("exitCodes");
        let Some(exit_codes) = rule.get("exitCodes") else {
            errors.required(&codes, "must be specified");
            continue;
        };
        check::one_of(exit_codes, "operator", &["In", "NotIn"], &codes, errors);
        let count = exit_codes.items_at(&["values"]).len();
        if count > EXIT_CODES_MAX {
            errors.too_many(&codes.child("values"), count, EXIT_CODES_MAX);
        }
    }
}

fn resize_policies(list: &[Value], pod_restarts: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, policy) in list.iter().enumerate() {
        let name = policy.str_at(&["resourceName"]);
        let restarts = policy.str_at(&["restartPolicy"]);
        if seen.contains(&name) {
            errors.duplicate(&path.index(index), &name.into());
        }
        seen.push(name);
        match name {
            "cpu" | "memory" => {}
            "" => errors.required(path, ""),
            odd => errors.not_supported(path, &odd.into(), ["cpu", "memory"]),
        }
        match restarts {
            "NotRequired" | "RestartContainer" => {}
            "" => errors.required(path, ""),
            odd => errors.not_supported(path, &odd.into(), ["NotRequired", "RestartContainer"]),
        }
        if pod_restarts == "Never" && restarts != "NotRequired" {
            errors.invalid_text(
                path,
                restarts,
                "must be 'NotRequired' when `restartPolicy` is 'Never'",
            );
        }
    }
}
