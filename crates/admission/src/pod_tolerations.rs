//! PodTolerationRestriction: the pods of a namespace get the tolerations that its annotation, or the configuration, names,
//! and have only those that are permitted there.

use std::sync::Arc;

use apimachinery::{FieldErrors, Object, Path, Status, Value, json, value};
use async_trait::async_trait;

use crate::namespace_exists::find;
use crate::{Attributes, Objects, Operation, Plugin, configuration};

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const PERMITTED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";
const MEMBERS: [&str; 5] = ["key", "operator", "value", "effect", "tolerationSeconds"];

/// What holds where a namespace says nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tolerations {
    default: Vec<Value>,
    permitted: Vec<Value>,
}

impl Tolerations {
    pub(crate) fn of(value: &Value) -> Result<Self, String> {
        const VERSION: &str = "podtolerationrestriction.admission.k8s.io/v1alpha1";
        configuration::of_kind(value, &[VERSION], "Configuration")?;
        configuration::members(value, "", &["default", "whitelist"])?;
        let root = Path::new("podtolerationrestriction");
        let mut errors = FieldErrors::new();
        let mut list = |member: &str| {
            let given = value.items_at(&[member]);
            for (index, toleration) in given.iter().enumerate() {
                configuration::members(toleration, &format!("{member}[{index}]."), &MEMBERS)?;
            }
            registry::check_tolerations(given, &root.child(member), &mut errors);
            Ok::<_, String>(given.to_vec())
        };
        let made = Self { default: list("default")?, permitted: list("whitelist")? };
        match configuration::in_one(&errors) {
            Some(why) => Err(why),
            None => Ok(made),
        }
    }
}

/// A toleration as others compare it.
#[derive(PartialEq)]
struct Seen<'v> {
    key: &'v str,
    operator: &'v str,
    value: &'v str,
    effect: &'v str,
    seconds: Option<i64>,
}

impl<'v> Seen<'v> {
    fn of(it: &'v Value) -> Self {
        let text = |member| it.str_at(&[member]);
        Self {
            key: text("key"),
            operator: text("operator"),
            value: text("value"),
            effect: text("effect"),
            seconds: it.i64_at(&["tolerationSeconds"]),
        }
    }

    /// Whether this tolerates all that another does.
    fn covers(&self, other: &Self) -> bool {
        if self == other {
            return true;
        }
        let every_key = self.key.is_empty() && self.operator == "Exists";
        if self.key != other.key && !every_key
            || self.effect != other.effect && !self.effect.is_empty()
        {
            return false;
        }
        if self.effect == "NoExecute"
            && let Some(seconds) = self.seconds
            && other.seconds.is_none_or(|it| it > seconds)
        {
            return false;
        }
        match self.operator {
            "Equal" | "" => other.operator == "Equal" && other.value == self.value,
            other => other == "Exists",
        }
    }
}

/// Both lists without what others of them cover.
fn merge(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (index, toleration) in all.iter().enumerate() {
        let seen = Seen::of(toleration);
        let mut later = all[index + 1..].iter().map(|it| Seen::of(it));
        let covered = merged.iter().any(|it| Seen::of(it).covers(&seen))
            || later.any(|it| it != seen && it.covers(&seen));
        if !covered {
            merged.push(Value::clone(toleration));
        }
    }
    merged
}

/// What an annotation of a namespace says; `None` where there is none.
fn annotated(namespace: &Value, name: &str) -> Result<Option<Vec<Value>>, Status> {
    let text = namespace.at(&["metadata", "annotations", name]).and_then(Value::as_str);
    let Some(text) = text else { return Ok(None) };
    if text.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let list = json::parse(text.as_bytes()).map_err(|it| Status::unexplained(it.to_string()))?;
    let Some(list) = list.as_array() else {
        let why = "json: cannot unmarshal into Go value of type []v1.Toleration";
        return if list.is_null() { Ok(None) } else { Err(Status::unexplained(why)) };
    };
    list.iter().map(known).collect::<Result<_, _>>().map(Some)
}

/// The members of a toleration that there are, if they are what they have to be.
fn known(toleration: &Value) -> Result<Value, Status> {
    let mut made = Object::new();
    for member in MEMBERS {
        let Some(given) = toleration.get(member).filter(|it| !it.is_null()) else { continue };
        let fits = match member {
            "tolerationSeconds" => given.as_i64().is_some(),
            _ => given.as_str().is_some(),
        };
        if !fits {
            let why = format!("json: cannot unmarshal into Go struct field Toleration.{member}");
            return Err(Status::unexplained(why));
        }
        made.insert(member, given.clone());
    }
    Ok(Value::Object(made))
}

#[derive(Debug)]
pub(crate) struct PodTolerationRestriction {
    objects: Arc<dyn Objects>,
    configuration: Tolerations,
}

impl PodTolerationRestriction {
    pub(crate) fn new(objects: Arc<dyn Objects>, configuration: Tolerations) -> Self {
        Self { objects, configuration }
    }

    async fn namespace(&self, name: &str) -> Result<Value, Status> {
        let of = apimachinery::status::GroupResource { group: "", resource: "namespaces" };
        let found = find(self.objects.as_ref(), name).await?;
        found.ok_or_else(|| Status::not_found(of, name))?.to_value().map_err(Status::internal)
    }
}

#[async_trait]
impl Plugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        matches!(attributes.operation, Operation::Create | Operation::Update)
            && attributes.is("", "pods")
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let mut more = Vec::new();
        if attributes.operation == Operation::Create {
            let namespace = self.namespace(attributes.namespace).await?;
            let defaults = annotated(&namespace, DEFAULTS)?;
            more = defaults.unwrap_or_else(|| self.configuration.default.clone());
        }
        // Pods that say what they need are not what a node under pressure is kept from.
        if !quota::is_best_effort(attributes.object) {
            more.push(value!({
                "key": "node.kubernetes.io/memory-pressure",
                "operator": "Exists",
                "effect": "NoSchedule"
            }));
        }
        if !more.is_empty() {
            let own = attributes.object.items_at(&["spec", "tolerations"]);
            let merged = merge(own, &more);
            attributes.object.set_at(&["spec", "tolerations"], merged);
        }
        self.validate(attributes).await
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let tolerations = attributes.object.items_at(&["spec", "tolerations"]);
        if tolerations.is_empty() {
            return Ok(());
        }
        let namespace = self.namespace(attributes.namespace).await?;
        let permitted = annotated(&namespace, PERMITTED)?;
        let permitted = permitted.unwrap_or_else(|| self.configuration.permitted.clone());
        let is_permitted = |toleration: &Value| {
            let seen = Seen::of(toleration);
            permitted.iter().any(|it| Seen::of(it).covers(&seen))
        };
        if permitted.is_empty() || tolerations.iter().all(is_permitted) {
            return Ok(());
        }
        Err(Status::unexplained(
            "pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_toleration_covers_is_left_out() {
        let list = |text: &str| json::parse(text.as_bytes()).unwrap().as_array().unwrap().to_vec();
        let check = |first: &str, second: &str, expected: &str| {
            let merged: Value = merge(&list(first), &list(second)).into();
            assert_eq!(json::to_string(&merged), expected, "{first} and {second}");
        };
        let a = r#"{"key":"a","operator":"Exists"}"#;
        let one = r#"{"effect":"NoSchedule","key":"a","operator":"Equal","value":"1"}"#;
        let soon = r#"{"effect":"NoExecute","key":"a","operator":"Exists","tolerationSeconds":5}"#;
        let late = r#"{"effect":"NoExecute","key":"a","operator":"Exists","tolerationSeconds":9}"#;
        check(&format!("[{a}]"), &format!("[{a}]"), &format!("[{a}]"));
        check(&format!("[{one}]"), &format!("[{a}]"), &format!("[{a}]"));
        check(&format!("[{a}]"), &format!("[{one},{late}]"), &format!("[{a}]"));
        check(&format!("[{late}]"), &format!("[{soon}]"), &format!("[{late}]"));
        check(&format!("[{one}]"), &format!("[{soon}]"), &format!("[{one},{soon}]"));
        let all = r#"{"operator":"Exists"}"#;
        check(&format!("[{one},{soon}]"), &format!("[{all}]"), &format!("[{all}]"));
    }
}
