//! How much of a device's capacity a request comes to. Upstream: `consumable_capacity.go`.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use compact_str::CompactString;

use crate::allocated::{Amounts, whole_name};
use crate::slice::{Capacity, Device, Policy};

/// What a request takes of a device, by the whole names of its capacities; `None` where the device does not do.
///
/// # Errors
/// Where what is asked for cannot be reckoned with: no device will do then.
pub(crate) fn consumed(
    requests: &BTreeMap<CompactString, Quantity>,
    device: &Device,
) -> Result<Option<Amounts>, String> {
    let has = by_whole_name(device);
    let mut asked = Amounts::new();
    for (name, amount) in requests {
        let whole = whole_name(name, &device.id.driver);
        if !has.contains_key(&whole) {
            return Ok(None);
        }
        if asked.insert(whole.clone(), *amount).is_some() {
            let (_, identifier) = whole.split_once('/').unwrap_or(("", &whole));
            return Err(format!(
                "capacity \"{identifier}\" requested both as \"{identifier}\" and as \"{whole}\""
            ));
        }
    }
    let mut taken = Amounts::new();
    for (name, capacity) in &has {
        let amount = amount(asked.get(name), capacity)
            .map_err(|why| format!("capacity \"{name}\": {why}"))?;
        if amount.sign() < 0 {
            return Err(format!("capacity \"{name}\": capacity value is negative"));
        }
        taken.insert(name.clone(), amount);
    }
    let fine = has.iter().all(|(name, capacity)| {
        capacity.policy.as_ref().is_none_or(|policy| allows(policy, taken[name]))
    });
    Ok(fine.then_some(taken))
}

/// Whether a device that one has alone does for any request without amounts: there is nothing to reckon.
pub(crate) fn is_plain(requests: &BTreeMap<CompactString, Quantity>, device: &Device) -> bool {
    let mut capacities = device.capacity.values();
    requests.is_empty()
        && !device.shared
        && capacities.all(|it| it.policy.is_none() && it.value.sign() >= 0)
}

/// Whether a device has so much left beside what is taken already.
pub(crate) fn fits(device: &Device, taken: &Amounts, more: &Amounts) -> bool {
    by_whole_name(device).iter().all(|(name, capacity)| {
        let zero = Quantity::new(0, capacity.value.format());
        let of = |amounts: &Amounts| amounts.get(name).copied().unwrap_or(zero);
        of(taken) + of(more) <= capacity.value
    })
}

/// The same amounts under the names that the device's slice has for them.
pub(crate) fn named_as_published(amounts: &Amounts, device: &Device) -> Amounts {
    let name = |whole: &CompactString| match whole.split_once('/') {
        Some((_, identifier)) if !device.capacity.contains_key(whole) => identifier.into(),
        _ => whole.clone(),
    };
    amounts.iter().map(|(whole, amount)| (name(whole), *amount)).collect()
}

/// A capacity that is named with its driver's domain comes before one of that name without.
fn by_whole_name(device: &Device) -> BTreeMap<CompactString, &Capacity> {
    let mut all = BTreeMap::new();
    for (name, capacity) in &device.capacity {
        let whole = whole_name(name, &device.id.driver);
        if name.contains('/') || !device.capacity.contains_key(&whole) {
            all.insert(whole, capacity);
        }
    }
    all
}

const NOT_REPRESENTABLE: &str =
    "capacity request cannot be represented in the device's range arithmetic";

fn amount(asked: Option<&Quantity>, capacity: &Capacity) -> Result<Quantity, String> {
    let policy = capacity.policy.as_ref();
    let Some(asked) = asked.copied() else {
        return Ok(policy.and_then(|it| it.default).unwrap_or(capacity.value));
    };
    let Some(policy) = policy else { return Ok(asked) };
    match policy.range {
        Some([Some(min), _, step]) => return round_up(asked, min, step),
        Some([None, ..]) => return Ok(asked),
        None => {}
    }
    Ok(policy.values.iter().find(|it| asked <= **it).copied().unwrap_or(asked))
}

/// The least amount that is not less, of those that are so many steps above the least one.
fn round_up(asked: Quantity, min: Quantity, step: Option<Quantity>) -> Result<Quantity, String> {
    if asked < min {
        return Ok(min);
    }
    let Some(step) = step.filter(|it| it.value() > 0) else { return Ok(asked) };
    if asked > Quantity::new(i64::MAX, asked.format()) {
        return Err(format!("{NOT_REPRESENTABLE}: request {asked} exceeds MaxInt64"));
    }
    let over = asked.value().saturating_sub(min.value());
    let steps = over / step.value() + i64::from(over % step.value() != 0);
    let rounded = step.value().checked_mul(steps).and_then(|it| it.checked_add(min.value()));
    let rounded = rounded.ok_or_else(|| {
        format!("{NOT_REPRESENTABLE}: rounding request {asked} up to the next step passes MaxInt64")
    })?;
    Ok(Quantity::new(rounded, step.format()))
}

fn allows(policy: &Policy, amount: Quantity) -> bool {
    if policy.default == Some(amount) {
        return true;
    }
    if let Some([min, max, step]) = policy.range {
        let over = max.is_some_and(|it| amount > it);
        let between = step.filter(|it| it.value() > 0).is_some_and(|step| {
            let min = min.map_or(0, |it| it.value());
            amount.value().saturating_sub(min) % step.value() != 0
        });
        return !over && !between;
    }
    policy.values.is_empty() || policy.values.contains(&amount)
}

#[cfg(test)]
mod tests {
    use apimachinery::{Value, value};

    use super::*;
    use crate::slice::Slice;

    fn check(capacity: &Value, asked: &Value, expected: Result<Option<&str>, &str>) {
        let slice = Slice::from_value(
            &value!({"spec": {"driver": "d", "pool": {"name": "p"}, "devices": [
            {"name": "x", "allowMultipleAllocations": true, "capacity": {"m": (capacity.clone())}}]}}),
        );
        let requests = crate::slice::quantities(Some(asked));
        let found = consumed(&requests, &slice.devices[0]);
        let found = found.map(|it| it.map(|it| it["d/m"].to_string()));
        assert_eq!(
            found,
            expected.map(|it| it.map(str::to_owned)).map_err(str::to_owned),
            "{asked:?} of {capacity:?}"
        );
    }

    #[test]
    fn a_request_is_rounded_up_to_what_the_device_allows() {
        let plain = value!({"value": "10Gi"});
        check(&plain, &value!({}), Ok(Some("10Gi")));
        check(&plain, &value!({"m": "2Gi"}), Ok(Some("2Gi")));
        check(&plain, &value!({"d/m": "2Gi"}), Ok(Some("2Gi")));
        check(&plain, &value!({"e/m": "2Gi"}), Ok(None));
        let range = |max: &str| value!({"value": "10Gi", "requestPolicy": {"default": "1Gi", "validRange": {"min": "1Gi", "max": max, "step": "1Gi"}}});
        check(&range("4Gi"), &value!({}), Ok(Some("1Gi")));
        check(&range("4Gi"), &value!({"m": "1"}), Ok(Some("1Gi")));
        check(&range("4Gi"), &value!({"m": "1500Mi"}), Ok(Some("2Gi")));
        check(&range("4Gi"), &value!({"m": "5Gi"}), Ok(None));
        let values = value!({"value": "8", "requestPolicy": {"default": "1", "validValues": ["1", "2", "4"]}});
        check(&values, &value!({"m": "3"}), Ok(Some("4")));
        check(&values, &value!({"m": "5"}), Ok(None));
        check(
            &plain,
            &value!({"m": "1", "d/m": "2"}),
            Err("capacity \"m\" requested both as \"m\" and as \"d/m\""),
        );
        check(&plain, &value!({"m": "-1"}), Err("capacity \"d/m\": capacity value is negative"));
    }
}
