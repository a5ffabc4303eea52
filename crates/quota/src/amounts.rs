//! What a pod asks for: the sum over its containers, or what its start needs if that is more.

use std::collections::BTreeMap;

use apimachinery::Value;
use apimachinery::quantity::Quantity;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// The amounts of a resource list. What is no quantity was refused before.
#[must_use]
pub fn amounts(list: &Value) -> Amounts {
    let members = list.as_object().into_iter().flat_map(apimachinery::Object::iter);
    members.filter_map(|(name, value)| Some((name.to_owned(), quantity(value)?))).collect()
}

/// A quantity as text or number.
#[must_use]
pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        other => Quantity::parse(&apimachinery::json::to_string(other)).ok(),
    }
}

/// Adds amounts to others.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        match to.get_mut(name) {
            Some(sum) => *sum += *amount,
            None => {
                to.insert(name.clone(), *amount);
            }
        }
    }
}

fn raise(to: &mut Amounts, others: &Amounts) {
    for (name, amount) in others {
        let highest = to.entry(name.clone()).or_insert(*amount);
        if *amount > *highest {
            *highest = *amount;
        }
    }
}

/// What the whole pod asks for in `requests` or `limits`.
#[must_use]
pub fn of_pod(pod: &Value, member: &str) -> Amounts {
    let of = |container: &Value| amounts(&container["resources"][member]);
    let mut running = Amounts::new();
    for container in pod.items_at(&["spec", "containers"]) {
        add(&mut running, &of(container));
    }
    // Init containers run one after the other, beside those before them that stay.
    let (mut staying, mut starting) = (Amounts::new(), Amounts::new());
    for container in pod.items_at(&["spec", "initContainers"]) {
        let own = of(container);
        let mut now = staying.clone();
        add(&mut now, &own);
        raise(&mut starting, &now);
        if container.str_at(&["restartPolicy"]) == "Always" {
            staying = now;
            add(&mut running, &own);
        }
    }
    raise(&mut running, &starting);
    // What is said for the pod as a whole counts instead.
    let own = amounts(&pod["spec"]["resources"][member]);
    running.extend(own);
    for (name, overhead) in amounts(&pod["spec"]["overhead"]) {
        match running.get_mut(&name) {
            Some(sum) => *sum += overhead,
            None if member == "requests" => {
                running.insert(name, overhead);
            }
            None => {}
        }
    }
    running
}
