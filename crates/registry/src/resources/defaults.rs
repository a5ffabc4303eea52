//! Resources of which only the defaults are their own so far; validation is that of metadata (docs/gaps.md).

use apimachinery::{Object, Value};

use crate::Rules;
use crate::declaration::{Declaration, Generation};

/// The declarations of this file.
pub(super) const ALL: &[fn() -> Declaration] = &[
    persistent_volume_claim,
    persistent_volume,
    storage_class,
    csi_driver,
    endpoints,
    endpoint_slice,
    network_policy,
    priority_class,
    resource_claim,
    resource_claim_template,
    validating_admission_policy,
    mutating_webhooks,
    validating_webhooks,
    custom_resource_definition,
];

fn persistent_volume_claim() -> Declaration {
    Declaration {
        resource: "persistentvolumeclaims",
        default: |it| {
            it.default_at(&["spec", "volumeMode"], "Filesystem");
            it.default_at(&["status", "phase"], "Pending");
        },
        prepare_create: |it| it.set_at(&["status", "phase"], "Pending"),
        rules: Rules { has_status: true, returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn persistent_volume() -> Declaration {
    Declaration {
        resource: "persistentvolumes",
        default: |it| {
            it.default_at(&["spec", "persistentVolumeReclaimPolicy"], "Retain");
            it.default_at(&["spec", "volumeMode"], "Filesystem");
            it.default_at(&["status", "phase"], "Pending");
            if it.at(&["spec", "hostPath"]).is_some() {
                it.default_at(&["spec", "hostPath", "type"], "");
            }
        },
        prepare_create: |it| it.set_at(&["status", "phase"], "Pending"),
        rules: Rules { has_status: true, returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn storage_class() -> Declaration {
    Declaration {
        group: "storage.k8s.io",
        resource: "storageclasses",
        default: |it| {
            it.default_at(&["reclaimPolicy"], "Delete");
            it.default_at(&["volumeBindingMode"], "Immediate");
        },
        rules: Rules { returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn csi_driver() -> Declaration {
    Declaration {
        group: "storage.k8s.io",
        resource: "csidrivers",
        default: |it| {
            it.default_at(&["spec", "attachRequired"], true);
            for member in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"]
            {
                it.default_at(&["spec", member], false);
            }
            it.default_at(&["spec", "fsGroupPolicy"], "ReadWriteOnceWithFSType");
            it.default_at(&["spec", "volumeLifecycleModes"], Value::from_iter(["Persistent"]));
        },
        rules: Rules { returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn endpoints() -> Declaration {
    Declaration {
        resource: "endpoints",
        prefix: "services/endpoints",
        default: |it| {
            for subset in it.items_at_mut(&["subsets"]) {
                for port in subset.items_at_mut(&["ports"]) {
                    port.default_at(&["protocol"], "TCP");
                }
            }
        },
        rules: Rules { create_on_update: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn endpoint_slice() -> Declaration {
    Declaration {
        group: "discovery.k8s.io",
        resource: "endpointslices",
        default: |it| {
            for port in it.items_at_mut(&["ports"]) {
                port.default_at(&["name"], "");
                port.default_at(&["protocol"], "TCP");
            }
        },
        rules: Rules { generation: Generation::Spec, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn network_policy() -> Declaration {
    Declaration {
        group: "networking.k8s.io",
        resource: "networkpolicies",
        default: |it| {
            for direction in ["ingress", "egress"] {
                for rule in it.items_at_mut(&["spec", direction]) {
                    for port in rule.items_at_mut(&["ports"]) {
                        port.default_at(&["protocol"], "TCP");
                    }
                }
            }
            let egress = !it.items_at(&["spec", "egress"]).is_empty();
            let types = if egress { &["Ingress", "Egress"][..] } else { &["Ingress"] };
            it.default_at(&["spec", "policyTypes"], types.iter().copied().collect::<Value>());
        },
        rules: Rules { generation: Generation::Spec, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn priority_class() -> Declaration {
    Declaration {
        group: "scheduling.k8s.io",
        resource: "priorityclasses",
        default: |it| {
            it.default_at(&["preemptionPolicy"], "PreemptLowerPriority");
        },
        rules: Rules { generation: Generation::Spec, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

/// A request for devices asks for one where it does not say how many.
fn device_requests(spec: &mut Value) {
    for request in spec.items_at_mut(&["devices", "requests"]) {
        if let Some(exactly) = request.get_mut("exactly") {
            one_device(exactly);
        }
        request.items_at_mut(&["firstAvailable"]).iter_mut().for_each(one_device);
    }
}

fn one_device(request: &mut Value) {
    request.default_at(&["allocationMode"], "ExactCount");
    if request.str_at(&["allocationMode"]) == "ExactCount" {
        request.default_at(&["count"], 1);
    }
}

fn resource_claim() -> Declaration {
    Declaration {
        group: "resource.k8s.io",
        resource: "resourceclaims",
        default: |it| {
            if let Some(spec) = it.get_mut("spec") {
                device_requests(spec);
            }
        },
        rules: Rules { has_status: true, returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn resource_claim_template() -> Declaration {
    Declaration {
        group: "resource.k8s.io",
        resource: "resourceclaimtemplates",
        default: |it| {
            if let Some(spec) = it.at_mut(&["spec", "spec"]) {
                device_requests(spec);
            }
        },
        rules: Rules { returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

/// The defaults of what says which requests are meant.
fn match_resources(it: &mut Value) {
    it.default_at(&["matchPolicy"], "Equivalent");
    it.default_at(&["namespaceSelector"], Object::new());
    it.default_at(&["objectSelector"], Object::new());
    for rules in ["resourceRules", "excludeResourceRules", "rules"] {
        for rule in it.items_at_mut(&[rules]) {
            rule.default_at(&["scope"], "*");
        }
    }
}

fn validating_admission_policy() -> Declaration {
    Declaration {
        group: "admissionregistration.k8s.io",
        resource: "validatingadmissionpolicies",
        default: |it| {
            it.default_at(&["spec", "failurePolicy"], "Fail");
            if let Some(constraints) = it.at_mut(&["spec", "matchConstraints"]) {
                match_resources(constraints);
            }
        },
        rules: Rules { generation: Generation::Spec, has_status: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn webhooks(value: &mut Value, mutating: bool) {
    for hook in value.items_at_mut(&["webhooks"]) {
        hook.default_at(&["failurePolicy"], "Fail");
        match_resources(hook);
        hook.default_at(&["timeoutSeconds"], 10);
        if mutating {
            hook.default_at(&["reinvocationPolicy"], "Never");
        }
        if hook.at(&["clientConfig", "service"]).is_some() {
            hook.default_at(&["clientConfig", "service", "port"], 443);
        }
    }
}

fn mutating_webhooks() -> Declaration {
    Declaration {
        group: "admissionregistration.k8s.io",
        resource: "mutatingwebhookconfigurations",
        default: |it| webhooks(it, true),
        rules: Rules { generation: Generation::Spec, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn validating_webhooks() -> Declaration {
    Declaration {
        group: "admissionregistration.k8s.io",
        resource: "validatingwebhookconfigurations",
        default: |it| webhooks(it, false),
        rules: Rules { generation: Generation::Spec, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn custom_resource_definition() -> Declaration {
    Declaration {
        group: "apiextensions.k8s.io",
        resource: "customresourcedefinitions",
        default: |it| {
            let kind = it.str_at(&["spec", "names", "kind"]).to_owned();
            if !kind.is_empty() {
                it.default_at(&["spec", "names", "singular"], kind.to_lowercase());
                it.default_at(&["spec", "names", "listKind"], format!("{kind}List"));
            }
            it.default_at(&["spec", "conversion", "strategy"], "None");
        },
        rules: Rules {
            generation: Generation::Spec,
            has_status: true,
            returns_deleted: true,
            ..Declaration::PLAIN.rules
        },
        ..Declaration::PLAIN
    }
}
