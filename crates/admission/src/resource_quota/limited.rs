//! What may be used only where a quota covers it, by the configuration of the plugin.

use std::collections::BTreeSet;
use std::sync::Arc;

use apimachinery::obj::Obj;
use apimachinery::{FieldErrors, Object, Path, Status, Value, value};

use super::usage::Usage;
use crate::{Attributes, configuration};

/// A resource whose use is limited.
#[derive(Debug, Clone)]
pub(crate) struct Limited {
    group: String,
    resource: String,
    /// Parts of names of what is used.
    contains: Vec<String>,
    /// Selectors of scopes.
    scopes: Vec<Value>,
}

/// Reads the configuration.
pub(crate) fn of(value: &Value) -> Result<Vec<Limited>, String> {
    const NOW: &str = "apiserver.config.k8s.io/v1";
    const BEFORE: [&str; 2] =
        ["resourcequota.admission.k8s.io/v1beta1", "resourcequota.admission.k8s.io/v1alpha1"];
    if value.str_at(&["apiVersion"]) == NOW {
        configuration::of_kind(value, &[NOW], "ResourceQuotaConfiguration")?;
    } else {
        configuration::of_kind(value, &BEFORE, "Configuration")?;
    }
    configuration::members(value, "", &["limitedResources"])?;
    let path = Path::new("limitedResources");
    let mut errors = FieldErrors::new();
    let mut all = Vec::new();
    for (index, limited) in value.items_at(&["limitedResources"]).iter().enumerate() {
        let at = format!("limitedResources[{index}].");
        let known = ["apiGroup", "matchContains", "matchScopes", "resource"];
        configuration::members(limited, &at, &known)?;
        for (index, scope) in limited.items_at(&["matchScopes"]).iter().enumerate() {
            let at = format!("{at}matchScopes[{index}].");
            configuration::members(scope, &at, &["operator", "scopeName", "values"])?;
        }
        let resource = limited.str_at(&["resource"]);
        if resource.is_empty() {
            errors.required(&path.index(index).child("resource"), "");
        }
        let contains = limited.items_at(&["matchContains"]).iter().filter_map(Value::as_str);
        all.push(Limited {
            group: limited.str_at(&["apiGroup"]).to_owned(),
            resource: resource.to_owned(),
            contains: contains.map(str::to_owned).collect(),
            scopes: limited.items_at(&["matchScopes"]).to_vec(),
        });
    }
    match configuration::in_one(&errors) {
        Some(why) => Err(why),
        None => Ok(all),
    }
}

/// The selectors of a quota, those that are scopes alone too.
fn selectors(quota: &Value) -> Vec<Value> {
    let scopes = quota.items_at(&["spec", "scopes"]).iter().filter_map(Value::as_str);
    let alone = scopes.map(|it| value!({"scopeName": (it), "operator": "Exists"}));
    let given = quota.items_at(&["spec", "scopeSelector", "matchExpressions"]);
    alone.chain(given.iter().cloned()).collect()
}

/// A selector as upstream prints it.
fn shown(selector: &Value) -> String {
    let text = |member| selector.str_at(&[member]);
    let values: Vec<&str> =
        selector.items_at(&["values"]).iter().filter_map(Value::as_str).collect();
    format!("{{{} {} [{}]}}", text("scopeName"), text("operator"), values.join(" "))
}

/// Refuses what is limited and no quota covers.
pub(super) fn check(
    (limited, quotas): (&[Limited], &[Arc<Obj>]),
    attributes: &Attributes<'_>,
    usage: &Usage<'_>,
) -> Result<(), Status> {
    let concerned =
        |it: &&Limited| it.group == attributes.group && it.resource == attributes.resource;
    let concerned: Vec<&Limited> = limited.iter().filter(concerned).collect();
    if concerned.is_empty() {
        return Ok(());
    }
    let is_limited = |name: &&str| {
        concerned.iter().any(|it| it.contains.iter().any(|part| name.contains(part.as_str())))
    };
    let mut names: BTreeSet<&str> = usage.names().filter(is_limited).collect();
    let mut scopes: Vec<&Value> = concerned.iter().flat_map(|it| &it.scopes).collect();
    scopes.retain(|it| usage.selected(it));
    for quota in quotas {
        let quota = quota.value().map_err(Status::internal)?;
        for selector in selectors(&quota).iter().filter(|it| usage.selected(it)) {
            let scope = selector.str_at(&["scopeName"]);
            scopes.retain(|it| it.str_at(&["scopeName"]) != scope);
        }
        if usage.in_scope(&quota) {
            let hard = quota.at(&["status", "hard"]).and_then(Value::as_object);
            for (name, _) in hard.into_iter().flat_map(Object::iter) {
                names.remove(name);
            }
        }
    }
    if !names.is_empty() {
        let names: Vec<&str> = names.into_iter().collect();
        return Err(
            attributes.forbid(&format!("insufficient quota to consume: {}", names.join(",")))
        );
    }
    if !scopes.is_empty() {
        let scopes: Vec<String> = scopes.into_iter().map(shown).collect();
        return Err(Status::unexplained(format!(
            "insufficient quota to match these scopes: [{}]",
            scopes.join(" ")
        )));
    }
    Ok(())
}
