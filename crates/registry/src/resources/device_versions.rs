//! What `resource.k8s.io/v1beta1` calls otherwise than the stored version: a request for devices had no `exactly`, a device
//! a `basic`. Later versions differ in their name alone.

use apimachinery::{Object, Value};

use super::devices::GROUP;
use crate::declaration::Alternative;

/// What a request had itself.
const OF_REQUEST: &[&str] = &[
    "adminAccess",
    "allocationMode",
    "capacity",
    "count",
    "derivedAttributes",
    "deviceClassName",
    "selectors",
    "tolerations",
];

pub(super) const SAME: &[Alternative] =
    &[Alternative::same(GROUP, "v1beta2"), Alternative::same(GROUP, "v1beta1")];
pub(super) const TAINT_RULE: &[Alternative] =
    &[Alternative::same(GROUP, "v1beta2"), Alternative::same(GROUP, "v1alpha3")];

pub(super) const CLAIM: &[Alternative] = &[
    Alternative::same(GROUP, "v1beta2"),
    Alternative {
        default: Some(|it| spec(it, &["spec"], default_request)),
        to_storage: |it| spec(it, &["spec"], nest),
        from_storage: |it| spec(it, &["spec"], flatten),
        ..Alternative::same(GROUP, "v1beta1")
    },
];

pub(super) const TEMPLATE: &[Alternative] = &[
    Alternative::same(GROUP, "v1beta2"),
    Alternative {
        default: Some(|it| spec(it, &["spec", "spec"], default_request)),
        to_storage: |it| spec(it, &["spec", "spec"], nest),
        from_storage: |it| spec(it, &["spec", "spec"], flatten),
        ..Alternative::same(GROUP, "v1beta1")
    },
];

pub(super) const SLICE: &[Alternative] = &[
    Alternative::same(GROUP, "v1beta2"),
    Alternative {
        to_storage: |it| it.items_at_mut(&["spec", "devices"]).iter_mut().for_each(without_basic),
        from_storage: |it| it.items_at_mut(&["spec", "devices"]).iter_mut().for_each(with_basic),
        ..Alternative::same(GROUP, "v1beta1")
    },
];

/// Does something to each request of a claim.
fn spec(claim: &mut Value, at: &[&str], act: fn(&mut Value)) {
    if let Some(spec) = claim.at_mut(at) {
        spec.items_at_mut(&["devices", "requests"]).iter_mut().for_each(act);
    }
}

/// One device, where nothing is said and there are no alternatives.
fn default_request(request: &mut Value) {
    if request.items_at(&["firstAvailable"]).is_empty() {
        super::devices::one_device(request);
    }
    request.items_at_mut(&["firstAvailable"]).iter_mut().for_each(super::devices::one_device);
}

/// Is there something of the request's own, it is what is asked for exactly.
fn nest(request: &mut Value) {
    let mut own = Object::new();
    for member in OF_REQUEST {
        if let Some(value) = request.remove_at(&[member]) {
            own.insert(*member, value);
        }
    }
    let said = own.iter().any(|(name, value)| match value {
        Value::String(text) => !text.is_empty(),
        Value::Int(number) => name != "count" || *number != 0,
        Value::Null => false,
        _ => true,
    });
    if said {
        request.set_at(&["exactly"], own);
    }
}

fn flatten(request: &mut Value) {
    let Some(Value::Object(own)) = request.remove_at(&["exactly"]) else { return };
    for (name, value) in own.iter() {
        request.set_at(&[name], value.clone());
    }
}

fn without_basic(device: &mut Value) {
    if let Some(Value::Object(basic)) = device.remove_at(&["basic"]) {
        for (name, value) in basic.iter() {
            device.set_at(&[name], value.clone());
        }
    }
}

fn with_basic(device: &mut Value) {
    let Some(object) = device.as_object_mut() else { return };
    let mut basic = Object::new();
    let moved: Vec<String> = object.keys().filter(|it| *it != "name").map(str::to_owned).collect();
    for name in moved {
        if let Some(value) = object.remove(&name) {
            basic.insert(name.as_str(), value);
        }
    }
    object.insert("basic", basic);
}

#[cfg(test)]
mod tests {
    use apimachinery::json;

    use super::*;

    fn check(alternatives: &[Alternative], old: &str, stored: &str) {
        let (old, stored) = (json::parse(old.as_bytes()), json::parse(stored.as_bytes()));
        let (old, stored) = (old.unwrap(), stored.unwrap());
        let version = &alternatives[1];
        let mut value = old.clone();
        (version.to_storage)(&mut value);
        assert_eq!(value, stored);
        (version.from_storage)(&mut value);
        assert_eq!(value, old);
    }

    #[test]
    fn requests_and_devices_come_back_as_they_were() {
        check(
            CLAIM,
            r#"{"spec":{"devices":{"requests":[{"name":"a","deviceClassName":"gpu","allocationMode":"ExactCount","count":2},{"name":"b","firstAvailable":[{"name":"c","deviceClassName":"x"}]}]}}}"#,
            r#"{"spec":{"devices":{"requests":[{"name":"a","exactly":{"deviceClassName":"gpu","allocationMode":"ExactCount","count":2}},{"name":"b","firstAvailable":[{"name":"c","deviceClassName":"x"}]}]}}}"#,
        );
        check(
            SLICE,
            r#"{"spec":{"devices":[{"name":"a","basic":{"attributes":{"x":{"int":1}},"nodeName":"n"}}]}}"#,
            r#"{"spec":{"devices":[{"name":"a","attributes":{"x":{"int":1}},"nodeName":"n"}]}}"#,
        );
    }

    #[test]
    fn a_request_asks_for_one_device_in_the_old_version_too() {
        let text = r#"{"spec":{"devices":{"requests":[{"name":"a","deviceClassName":"gpu"}]}}}"#;
        let mut claim = json::parse(text.as_bytes()).unwrap();
        CLAIM[1].default.unwrap()(&mut claim);
        let request = &claim.items_at(&["spec", "devices", "requests"])[0];
        assert_eq!(
            (request.str_at(&["allocationMode"]), request.i64_at(&["count"])),
            ("ExactCount", Some(1))
        );
    }
}
