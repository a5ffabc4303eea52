//! APIService.

use apimachinery::{FieldErrors, Path, Value, validation, value};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;

use crate::declaration::Declaration;
use crate::rules::each;
use crate::{Rules, check, metadata, status, table};

const GROUP_PRIORITY_MAX: i64 = 20_000;
const VERSION_PRIORITY_MAX: i64 = 1_000;

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "apiregistration.k8s.io",
        resource: "apiservices",
        prefix: "apiregistration.k8s.io/apiservices",
        default: |it| {
            if it.at(&["spec", "service"]).is_some() {
                it.default_at(&["spec", "service", "port"], 443);
            }
        },
        name: metadata::whole_path_segment_name,
        prepare_create,
        prepare_status: |it, old| {
            let members = ["labels", "annotations", "finalizers", "ownerReferences"];
            status::keep_members(it, old, &members);
        },
        validate,
        validate_status: |it, _, errors| {
            each(&it["status"], "conditions", &Path::new("status"), errors, |it, at, errors| {
                check::one_of(it, "status", &["True", "False", "Unknown"], at, errors);
            });
        },
        row,
        rules: Rules { has_status: true, unconditional_update: false, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

/// What the server answers itself is available at once.
fn prepare_create(service: &mut Value) {
    if service.at(&["spec", "service"]).is_some() {
        return;
    }
    let since = service["metadata"]["creationTimestamp"].clone();
    let condition = value!({"type": "Available", "status": "True", "lastTransitionTime": since,
        "reason": "Local", "message": "Local APIServices are always available"});
    service.set_at(&["status", "conditions"], vec![condition]);
}

fn validate(service: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = &service["spec"];
    let (group, version) = (spec.str_at(&["group"]), spec.str_at(&["version"]));
    let wanted = format!("{version}.{group}");
    for member in ["generateName", "name"] {
        let name = service.str_at(&["metadata", member]);
        if !name.is_empty() && name != wanted && validation::path_segment_name(name).is_empty() {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            errors.invalid_text(&Path::new("metadata").child(member), name, &detail);
        }
    }
    if group.is_empty() && version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.required(&path.child("group"), detail);
    }
    check::optional_name(spec, "group", validation::dns1123_subdomain, &path, errors);
    let at = path.child("version");
    errors.invalid_all(&at, version, validation::dns1035_label(version));
    for (member, most) in
        [("groupPriorityMinimum", GROUP_PRIORITY_MAX), ("versionPriority", VERSION_PRIORITY_MAX)]
    {
        let number = spec.i64_at(&[member]).unwrap_or_default();
        if number <= 0 || number > most {
            let detail = format!("must be positive and less than {most}");
            errors.invalid(&path.child(member), &number.into(), &detail);
        }
    }
    endpoint(spec, &path, errors);
}

fn endpoint(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let bundle = !spec.str_at(&["caBundle"]).is_empty();
    let insecure = spec.bool_at(&["insecureSkipTLSVerify"]);
    let Some(service) = spec.get("service") else {
        if bundle {
            let bytes = BASE64_STANDARD.decode(spec.str_at(&["caBundle"])).unwrap_or_default();
            let shown = format!("{} bytes", bytes.len());
            let detail = "local APIServices may not have a caBundle";
            errors.invalid_text(&path.child("caBundle"), &shown, detail);
        }
        if insecure {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.invalid(&path.child("insecureSkipTLSVerify"), &true.into(), detail);
        }
        return;
    };
    let at = path.child("service");
    for member in ["namespace", "name"] {
        check::required_text(service, member, &at, errors);
    }
    if let Some(port) = service.i64_at(&["port"]) {
        for problem in validation::port_number(port) {
            let detail = format!("port is not valid: {problem}");
            errors.invalid(&at.child("port"), &port.into(), &detail);
        }
    }
    if insecure && bundle {
        let detail = "may not be true if caBundle is present";
        errors.invalid(&path.child("insecureSkipTLSVerify"), &true.into(), detail);
    }
}

fn row(service: &Value, now: Timestamp) -> Vec<Value> {
    let reference = match service.at(&["spec", "service"]) {
        Some(it) => format!("{}/{}", it.str_at(&["namespace"]), it.str_at(&["name"])),
        None => "Local".into(),
    };
    let available = service.items_at(&["status", "conditions"]).iter();
    let available = available.filter(|it| it.str_at(&["type"]) == "Available");
    let shown = available.map(|it| match it.str_at(&["status"]) {
        "True" => "True".to_owned(),
        status => format!("{status} ({})", it.str_at(&["reason"])),
    });
    vec![
        service.str_at(&["metadata", "name"]).into(),
        reference.into(),
        shown.into_iter().next().unwrap_or_else(|| "Unknown".into()).into(),
        table::created(service, now),
    ]
}
