//! Which families of addresses a service has, by what it says, what it had, and what the cluster has. Pure.
//! Upstream: `initIPFamilyFields` of `pkg/registry/core/service/storage/alloc.go` and `validateUpgradeDowngrade*`.

use std::net::IpAddr;

use apimachinery::validation::parse_ip;
use apimachinery::{FieldErrors, Object, Path, Value};

use super::{EXTERNAL_NAME, HEADLESS};

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";
const SET_ONCE: &str = "may not change once set";

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::V4, Self::V6].into_iter().find(|it| it.as_str() == text)
    }

    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

fn kind(service: &Value) -> &str {
    service.str_at(&["spec", "type"])
}

fn policy(service: &Value) -> &str {
    service.str_at(&["spec", "ipFamilyPolicy"])
}

/// `clusterIPs` or `ipFamilies`.
pub(super) fn texts<'v>(service: &'v Value, member: &str) -> Vec<&'v str> {
    service.items_at(&["spec", member]).iter().filter_map(Value::as_str).collect()
}

pub(super) fn is_headless(service: &Value) -> bool {
    match texts(service, "clusterIPs").first() {
        Some(first) => *first == HEADLESS,
        None => service.str_at(&["spec", "clusterIP"]) == HEADLESS,
    }
}

fn has_no_selector(service: &Value) -> bool {
    let selector = service.at(&["spec", "selector"]).and_then(Value::as_object);
    selector.is_none_or(Object::is_empty)
}

fn same(service: &Value, old: &Value, member: &str) -> bool {
    texts(service, member) == texts(old, member)
}

/// A service that prefers two families keeps what it has when the cluster gets another one, until somebody changes it.
fn is_left_alone(service: &Value, old: &Value) -> bool {
    let prefers = |it: &Value| policy(it) == PREFER;
    kind(service) == kind(old)
        && matches!(kind(service), "ClusterIP" | "NodePort" | "LoadBalancer")
        && prefers(service)
        && (policy(old).is_empty() || prefers(old))
        && same(service, old, "clusterIPs")
        && same(service, old, "ipFamilies")
}

/// Whether nothing about a service's addresses is to be done.
pub(super) fn is_settled(service: &Value, old: Option<&Value>) -> bool {
    kind(service) == EXTERNAL_NAME || old.is_some_and(|old| is_left_alone(service, old))
}

/// Fills in families and their policy.
///
/// # Errors
/// What cannot be had.
pub(super) fn settle(
    service: &mut Value,
    old: Option<&Value>,
    configured: &[Family],
) -> Result<(), FieldErrors> {
    if is_settled(service, old) {
        return Ok(());
    }
    if policy(service).is_empty() {
        let chosen = chosen_policy(service, old).to_owned();
        service.set_at(&["spec", "ipFamilyPolicy"], chosen);
    }
    let mut errors = FieldErrors::new();
    if let Some(old) = old {
        shrink(service, old, &mut errors);
    }
    check_single(service, &mut errors);
    let mut families = inferred(service, configured, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    let is_single = policy(service) == SINGLE;
    let selects_nothing =
        service.str_at(&["spec", "clusterIP"]) == HEADLESS && has_no_selector(service);
    if !selects_nothing {
        check_configured(service, &families, configured, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
    }
    if families.is_empty() {
        families.extend(configured.first());
    }
    // Nobody chooses endpoints for a service without addresses and selector: it may have families that the cluster lacks.
    if let [only] = families[..]
        && !is_single
        && (selects_nothing || configured.len() == 2)
    {
        families.push(only.other());
    }
    let families: Value = families.into_iter().map(Family::as_str).collect();
    service.set_at(&["spec", "ipFamilies"], families);
    Ok(())
}

fn chosen_policy<'v>(service: &Value, old: Option<&'v Value>) -> &'v str {
    match old.map(policy) {
        Some(before) if !before.is_empty() => before,
        _ if service.str_at(&["spec", "clusterIP"]) == HEADLESS && has_no_selector(service) => {
            REQUIRE
        }
        _ => SINGLE,
    }
}

/// Where one family is wanted the second of what was there goes; otherwise it may not.
fn shrink(service: &mut Value, old: &Value, errors: &mut FieldErrors) {
    for (member, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let count = service.items_at(&["spec", member]).len();
        if policy(service) == SINGLE {
            if count > 1 && same(service, old, member) {
                let first: Value = texts(service, member).into_iter().take(1).collect();
                service.set_at(&["spec", member], first);
            }
        } else if count > 0 && count < old.items_at(&["spec", member]).len() {
            let detail = format!("must be 'SingleStack' to release the secondary {what}");
            refuse_policy(service, &detail, errors);
        }
    }
}

fn refuse_policy(service: &Value, detail: &str, errors: &mut FieldErrors) {
    let spec = Path::new("spec");
    errors.invalid_text(&spec.child("ipFamilyPolicy"), policy(service), detail);
}

fn check_single(service: &Value, errors: &mut FieldErrors) {
    if policy(service) != SINGLE {
        return;
    }
    for (member, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        if service.items_at(&["spec", member]).len() == 2 {
            let detail = format!(
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
            );
            refuse_policy(service, &detail, errors);
        }
    }
}

/// The families that are said, and those of addresses beyond them.
fn inferred(service: &Value, configured: &[Family], errors: &mut FieldErrors) -> Vec<Family> {
    let mut families: Vec<Family> =
        texts(service, "ipFamilies").into_iter().filter_map(Family::parse).collect();
    let (spec, shown) = (Path::new("spec"), service["spec"]["clusterIPs"].clone());
    let list = spec.child("clusterIPs");
    for (index, ip) in texts(service, "clusterIPs").into_iter().enumerate() {
        let Some(address) = parse_ip(ip) else { break };
        if index < families.len() {
            continue;
        }
        let family = Family::of(&address);
        if configured.contains(&family) {
            families.push(family);
        } else {
            let detail = format!("{} is not configured on this cluster", family.as_str());
            errors.invalid(&list.index(index), &shown, &detail);
        }
    }
    families
}

fn check_configured(
    service: &Value,
    families: &[Family],
    configured: &[Family],
    errors: &mut FieldErrors,
) {
    if policy(service) == REQUIRE && configured.len() < 2 {
        refuse_policy(service, "this cluster is not configured for dual-stack services", errors);
    }
    let spec = Path::new("spec");
    let list = spec.child("ipFamilies");
    for (index, family) in families.iter().enumerate() {
        if !configured.contains(family) {
            let detail = "not configured on this cluster";
            errors.invalid_text(&list.index(index), family.as_str(), detail);
        }
    }
}

/// What may not change: the first address and family, and the second unless it comes or goes.
///
/// # Errors
/// What changed all the same.
pub(super) fn check_change(service: &Value, old: &Value) -> Result<(), FieldErrors> {
    let mut errors = FieldErrors::new();
    if [service, old].iter().any(|it| kind(it) == EXTERNAL_NAME) {
        return Ok(());
    }
    let (now, before) = (is_headless(service), is_headless(old));
    if !(now && before) {
        check_list(service, old, ("clusterIPs", "clusterIP"), &mut errors);
    }
    if !now && !before {
        check_list(service, old, ("ipFamilies", "ipFamily"), &mut errors);
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn check_list(service: &Value, old: &Value, (member, one): (&str, &str), errors: &mut FieldErrors) {
    let spec = Path::new("spec");
    let (at, shown) = (spec.child(member), &service["spec"][member]);
    let (now, before) = (texts(service, member), texts(old, member));
    for (index, (new, old)) in now.iter().zip(&before).enumerate() {
        // Of families the first is named, whichever changed.
        let place = if member == "ipFamilies" { 0 } else { index };
        if new != old && (index == 0 || now.len() == before.len()) {
            errors.invalid(&at.index(place), shown, SET_ONCE);
        }
    }
    if now.len() >= before.len() {
        return;
    }
    if now.is_empty() {
        errors.invalid(&at.index(0), shown, &format!("primary {one} can not be unset"));
    } else if policy(service) != SINGLE {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        refuse_policy(service, &detail, errors);
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::json;

    use super::*;

    const V4: [Family; 1] = [Family::V4];
    const BOTH: [Family; 2] = [Family::V4, Family::V6];

    fn service(spec: &str) -> Value {
        let mut service = json::parse(format!(r#"{{"spec":{spec}}}"#).as_bytes()).unwrap();
        service.default_at(&["spec", "type"], "ClusterIP");
        super::super::normalize(&mut service);
        service
    }

    /// Policy and families, or what is wrong.
    fn check(configured: &[Family], spec: &str, old: Option<&str>, expected: &str) {
        let (mut new, old) = (service(spec), old.map(service));
        let done = settle(&mut new, old.as_ref(), configured);
        let done = done.and_then(|()| old.as_ref().map_or(Ok(()), |old| check_change(&new, old)));
        let got = match done {
            Ok(()) => format!("{} {}", policy(&new), texts(&new, "ipFamilies").join(",")),
            Err(errors) => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        };
        assert_eq!(got, expected, "{spec}");
    }

    #[test]
    fn a_new_service_gets_the_families_it_asks_for() {
        check(&V4, "{}", None, "SingleStack IPv4");
        check(&BOTH, "{}", None, "SingleStack IPv4");
        check(&BOTH, r#"{"ipFamilyPolicy":"PreferDualStack"}"#, None, "PreferDualStack IPv4,IPv6");
        check(&V4, r#"{"ipFamilyPolicy":"PreferDualStack"}"#, None, "PreferDualStack IPv4");
        check(&BOTH, r#"{"ipFamilies":["IPv6"]}"#, None, "SingleStack IPv6");
        check(&BOTH, r#"{"clusterIP":"fd00::7"}"#, None, "SingleStack IPv6");
        let dual = r#"{"ipFamilyPolicy":"RequireDualStack","ipFamilies":["IPv6"]}"#;
        check(&BOTH, dual, None, "RequireDualStack IPv6,IPv4");
        check(
            &V4,
            dual,
            None,
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services; \
             spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
        );
        check(&V4, r#"{"clusterIP":"None"}"#, None, "RequireDualStack IPv4,IPv6");
        check(&V4, r#"{"clusterIP":"None","selector":{"a":"b"}}"#, None, "SingleStack IPv4");
        check(&V4, r#"{"type":"ExternalName"}"#, None, " ");
        check(
            &BOTH,
            r#"{"clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1","fd00::1"]}"#,
            None,
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple \
             cluster IPs are specified",
        );
        check(
            &V4,
            r#"{"clusterIP":"fd00::1"}"#,
            None,
            "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster",
        );
    }

    #[test]
    fn a_second_family_comes_and_goes_by_the_policy() {
        let single =
            r#"{"clusterIP":"10.0.0.1","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack"}"#;
        let two = r#"{"clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1","fd00::1"],"ipFamilies":["IPv4","IPv6"],"ipFamilyPolicy":"POLICY"}"#;
        let with = |policy: &str| two.replace("POLICY", policy);
        let preferring = single.replace("Single", "PreferDual");
        check(&BOTH, &preferring, Some(single), "PreferDualStack IPv4,IPv6");
        check(&BOTH, &preferring, Some(&preferring), "PreferDualStack IPv4");
        let required = with("RequireDualStack");
        check(&BOTH, &with("SingleStack"), Some(&required), "SingleStack IPv4");
        let less = r#"{"clusterIP":"10.0.0.1","ipFamilies":["IPv4"]}"#;
        check(
            &BOTH,
            less,
            Some(&required),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary cluster IP; \
             spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary IP family",
        );
        let swapped = r#"{"clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1","fd00::2"],"ipFamilies":["IPv4","IPv6"],"ipFamilyPolicy":"RequireDualStack"}"#;
        check(
            &BOTH,
            swapped,
            Some(&required),
            "spec.clusterIPs[1]: Invalid value: [\"10.0.0.1\",\"fd00::2\"]: may not change once set",
        );
    }
}
