//! Shapes that checks share: a list walked with its paths, resource names, addresses, CEL-less parts of selectors.

use std::net::IpAddr;

use apimachinery::quantity::Quantity;
use apimachinery::validation::{self, Problems};
use apimachinery::{FieldErrors, Path, Value};

/// Keeps a text and the first of the list that came to stand beside it the same: where they differ, the text is what an
/// older client meant. `member` is where the items of the list have it, if they are objects.
pub(crate) fn first_of(of: &mut Value, one: &str, all: &str, member: Option<&str>) {
    let of_item = |item: &Value| match member {
        Some(member) => item.str_at(&[member]).to_owned(),
        None => item.as_str().unwrap_or_default().to_owned(),
    };
    let text = of.str_at(&[one]).to_owned();
    let first = of.items_at(&[all]).first().map(of_item);
    match first {
        Some(first) if text.is_empty() && !first.is_empty() => of.set_at(&[one], first),
        Some(first) if first == text => {}
        _ if text.is_empty() => {}
        _ => {
            let mut item = Value::from(text.as_str());
            if let Some(member) = member {
                item = Value::object();
                item.set_at(&[member], text);
            }
            of.set_at(&[all], vec![item]);
        }
    }
}

/// Checks each item of a list under its own path.
pub(crate) fn each(
    of: &Value,
    member: &str,
    path: &Path<'_>,
    errors: &mut FieldErrors,
    mut check: impl FnMut(&Value, &Path<'_>, &mut FieldErrors),
) {
    let list = path.child(member);
    for (index, item) in of.items_at(&[member]).iter().enumerate() {
        check(item, &list.index(index), errors);
    }
}

/// Checks each text of a list under its own path.
pub(crate) fn each_text(
    of: &Value,
    member: &str,
    rule: fn(&str) -> Problems,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    each(of, member, path, errors, |item, at, errors| {
        let text = item.as_str().unwrap_or_default();
        errors.invalid_all(at, text, rule(text));
    });
}

/// Each text of a list is one of those supported.
pub(crate) fn each_one_of(
    of: &Value,
    member: &str,
    supported: &[&str],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    each(of, member, path, errors, |item, at, errors| {
        if !supported.contains(&item.as_str().unwrap_or_default()) {
            errors.not_supported(at, item, supported.iter().copied());
        }
    });
}

/// A text that must be there and be one of those supported.
pub(crate) fn required_one_of(
    of: &Value,
    member: &str,
    supported: &[&str],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if crate::check::required_text(of, member, path, errors) {
        crate::check::one_of(of, member, supported, path, errors);
    }
}

/// The entries of a map of quantities.
pub(crate) fn quantities<'v>(
    of: &'v Value,
    member: &str,
) -> impl Iterator<Item = (&'v str, &'v str)> {
    let map = of.get(member).and_then(Value::as_object);
    map.into_iter()
        .flat_map(apimachinery::Object::iter)
        .map(|(key, value)| (key, value.as_str().unwrap_or_default()))
}

/// Resources that containers may ask for by a plain name.
pub(crate) fn is_container_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

/// Resources that have a plain name.
fn is_standard_resource(name: &str) -> bool {
    is_quota_resource(name) || is_container_resource(name) || name == "storage"
}

/// Resources that quotas may limit by a plain name.
pub(crate) fn is_quota_resource(name: &str) -> bool {
    is_container_resource(name)
        || matches!(
            name,
            "requests.cpu"
                | "requests.memory"
                | "requests.storage"
                | "requests.ephemeral-storage"
                | "limits.cpu"
                | "limits.memory"
                | "limits.ephemeral-storage"
                | "pods"
                | "resourcequotas"
                | "services"
                | "replicationcontrollers"
                | "secrets"
                | "persistentvolumeclaims"
                | "configmaps"
                | "services.nodeports"
                | "services.loadbalancers"
        )
        || name.starts_with("requests.hugepages-")
}

/// The name of a resource that a map of quantities has as a key.
pub(crate) fn resource_name(name: &str) -> Problems {
    named_resource(
        name,
        is_standard_resource,
        "must be a standard resource type or fully qualified",
    )
}

/// The name of a resource that a container may ask for.
pub(crate) fn container_resource_name(name: &str) -> Problems {
    let otherwise = "must be a standard resource for containers";
    let mut problems = of_a_sort(name, is_container_resource, otherwise);
    let domain = name.contains('/') && !validation::is_native_resource(name);
    if domain && !validation::is_extended_resource(name) {
        problems.push("doesn't follow extended resource name standard".into());
    }
    problems
}

/// The name of a resource that a quota may limit.
pub(crate) fn quota_resource_name(name: &str) -> Problems {
    of_a_sort(name, is_quota_resource, "must be a standard resource for quota")
}

fn of_a_sort(name: &str, fits: fn(&str) -> bool, otherwise: &str) -> Problems {
    let mut problems = resource_name(name);
    if !name.contains('/') && !fits(name) {
        problems.push(otherwise.into());
    }
    problems
}

fn named_resource(name: &str, standard: fn(&str) -> bool, otherwise: &str) -> Problems {
    let problems = validation::qualified_name(name);
    if !problems.is_empty() || name.contains('/') || standard(name) {
        return problems;
    }
    vec![otherwise.into()]
}

/// Whether amounts of this resource are whole numbers.
pub(crate) fn is_integer_resource(name: &str) -> bool {
    name.starts_with("count/")
        || matches!(
            name,
            "pods"
                | "services"
                | "replicationcontrollers"
                | "resourcequotas"
                | "secrets"
                | "configmaps"
                | "persistentvolumeclaims"
                | "services.nodeports"
                | "services.loadbalancers"
        )
}

/// The amount of a resource: not negative, and whole where only whole ones make sense.
pub(crate) fn amount(name: &str, text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    crate::check::non_negative_quantity(text, path, errors);
    let whole = Quantity::parse(text).is_ok_and(|it| it.rounded(0) == it);
    if !whole && (is_integer_resource(name) || validation::is_extended_resource(name)) {
        errors.invalid_text(path, text, "must be an integer");
    }
}

/// An address that traffic may be sent to: none of the special ones.
pub(crate) fn ordinary_ip(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(address) = validation::parse_ip(text) else {
        errors.invalid_text(path, text, "must be a valid IP address");
        return;
    };
    let link_local = match address {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0) == 0xfe80,
    };
    let local_multicast = match address {
        std::net::IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        std::net::IpAddr::V6(v6) => (v6.segments()[0] & 0xff0f) == 0xff02,
    };
    if address.is_unspecified() {
        errors.invalid_text(path, text, &format!("may not be unspecified ({address})"));
    }
    if address.is_loopback() {
        errors.invalid_text(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        let detail = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
        errors.invalid_text(path, text, detail);
    }
    if local_multicast {
        let detail = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        errors.invalid_text(path, text, detail);
    }
}

const LEADING_ZEROS: &str = "must not have leading 0s";
const MAPPED: &str = "must not be an IPv4-mapped IPv6 address";
const LEADING_ZEROS_IN_CIDR: &str = "must not have leading 0s in IP or prefix length";
const MAPPED_IN_CIDR: &str = "must not have an IPv4-mapped IPv6 address";
const MORE_BITS: &str = "must not have bits set beyond the prefix length";
/// What may stay as it was, in fields that took it once (upstream: `StrictIPCIDRValidation`).
const ONCE_FINE: [&str; 5] =
    [LEADING_ZEROS, MAPPED, LEADING_ZEROS_IN_CIDR, MAPPED_IN_CIDR, MORE_BITS];

/// An address, written as one: older fields took leading zeros and IPv4 within IPv6.
pub(crate) fn ip(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    errors.invalid_all(path, text, validation::ip(text));
    if validation::parse_ip(text).is_none() {
        return;
    }
    match text.parse::<IpAddr>() {
        Err(_) => errors.invalid_text(path, text, LEADING_ZEROS),
        Ok(ip) if ip.to_canonical() != ip => errors.invalid_text(path, text, MAPPED),
        Ok(_) => {}
    }
}

/// A network, written as one.
pub(crate) fn network(text: &str) -> Problems {
    let problems = validation::cidr(text);
    let Some((address, bits)) = validation::parse_cidr(text) else { return problems };
    let (ip, size) = text.split_once('/').unwrap_or_default();
    let detail = match ip.parse::<IpAddr>() {
        Ok(_) if size.len() > 1 && size.starts_with('0') => LEADING_ZEROS_IN_CIDR,
        Err(_) => LEADING_ZEROS_IN_CIDR,
        Ok(ip) if ip.to_canonical() != ip => MAPPED_IN_CIDR,
        Ok(_) if has_more_bits(address, bits) => MORE_BITS,
        Ok(_) => return problems,
    };
    vec![detail.into()]
}

fn has_more_bits(address: IpAddr, bits: u8) -> bool {
    let bits = u32::from(bits);
    match address {
        IpAddr::V4(it) => u32::from(it).checked_shl(bits).is_some_and(|it| it != 0),
        IpAddr::V6(it) => u128::from(it).checked_shl(bits).is_some_and(|it| it != 0),
    }
}

/// Takes back what is told of addresses that an object had before in a form which is not taken any more.
pub(crate) fn forgive_addresses(old: &Value, errors: &mut FieldErrors) {
    let strict = |body: &str| ONCE_FINE.iter().any(|it| body.ends_with(it));
    if !errors.iter().any(|it| strict(&it.body)) {
        return;
    }
    let had = |body: &str| {
        let told = body.split("Invalid value: \"").nth(1).and_then(|it| it.split('"').next());
        told.is_some_and(|it| holds_text(old, it))
    };
    let kept = std::mem::take(errors);
    for error in kept.iter().filter(|it| !strict(&it.body) || !had(&it.body)) {
        errors.push(error.clone());
    }
}

fn holds_text(value: &Value, text: &str) -> bool {
    match value {
        Value::String(it) => it.trim() == text,
        Value::Array(items) => items.iter().any(|it| holds_text(it, text)),
        Value::Object(members) => members.iter().any(|it| holds_text(it.1, text)),
        _ => false,
    }
}

/// An address that may stay if it was there before, whatever is said of it today.
pub(crate) fn kept_ip(text: &str, before: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    if !before.contains(&text) {
        ip(text, path, errors);
    }
}

/// A reference with a group, a kind and a name.
pub(crate) fn optional_group(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    crate::check::optional_name(of, "apiGroup", validation::dns1123_subdomain, path, errors);
}

/// A member that an update may not change, checked under its own path.
pub(crate) fn immutable(
    value: &Value,
    old: &Value,
    member: &str,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    crate::check::immutable(value.get(member), old.get(member), &path.child(member), errors);
}

/// The same of a text: one that is gone is shown as an empty one.
pub(crate) fn immutable_text(
    value: &Value,
    old: &Value,
    member: &str,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if value.str_at(&[member]) != old.str_at(&[member]) {
        let text = value.str_at(&[member]);
        errors.invalid_text(&path.child(member), text, "field is immutable");
    }
}

/// Text that Go compares with others of its kind in lower case: names of drivers.
pub(crate) fn driver_name(text: &str) -> Problems {
    validation::qualified_name(&text.to_lowercase())
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn addresses_are_written_as_such_unless_they_were_not_before() {
        let told = |text: &str| {
            let mut errors = FieldErrors::new();
            ip(text, &Path::new("ip"), &mut errors);
            errors.iter().map(|it| it.body.clone()).collect::<Vec<String>>()
        };
        assert_eq!(told("10.1.1.1"), [""; 0]);
        assert_eq!(told("::1"), [""; 0]);
        assert_eq!(told("010.1.1.1"), ["Invalid value: \"010.1.1.1\": must not have leading 0s"]);
        let mapped = "Invalid value: \"::ffff:1.2.3.4\": must not be an IPv4-mapped IPv6 address";
        assert_eq!(told("::ffff:1.2.3.4"), [mapped]);
        for (text, expected) in [
            ("10.0.0.0/8", None),
            ("::/0", None),
            ("10.1.2.3/32", None),
            ("010.0.0.0/8", Some(LEADING_ZEROS_IN_CIDR)),
            ("10.0.0.0/08", Some(LEADING_ZEROS_IN_CIDR)),
            ("10.0.0.5/8", Some(MORE_BITS)),
            ("fd00::1/64", Some(MORE_BITS)),
            ("x", Some("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")),
        ] {
            let expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(network(text), expected, "{text}");
        }
        let mut errors = FieldErrors::new();
        ip("010.1.1.1", &Path::new("a"), &mut errors);
        ip("010.1.1.2", &Path::new("b"), &mut errors);
        forgive_addresses(&value!({"ips": ["010.1.1.1"]}), &mut errors);
        assert_eq!(errors.iter().map(|it| it.field.as_str()).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_text_and_the_first_of_its_list_are_the_same() {
        for (given, expected) in [
            (value!({}), value!({})),
            (value!({"a": "1"}), value!({"a": "1", "all": ["1"]})),
            (value!({"all": ["1", "2"]}), value!({"a": "1", "all": ["1", "2"]})),
            (value!({"a": "1", "all": ["1", "2"]}), value!({"a": "1", "all": ["1", "2"]})),
            (value!({"a": "3", "all": ["1", "2"]}), value!({"a": "3", "all": ["3"]})),
        ] {
            let mut value = given.clone();
            first_of(&mut value, "a", "all", None);
            assert_eq!(value, expected, "{given:?}");
        }
        let mut value = value!({"a": "3", "all": [{"ip": "1"}]});
        first_of(&mut value, "a", "all", Some("ip"));
        assert_eq!(value, value!({"a": "3", "all": [{"ip": "3"}]}));
    }
}
