//! Two appliers that apply configurations in any order, with and without force. What was applied is there, applying it again
//! changes nothing, an apply without force takes nothing from the other one, and what nobody applies any more is gone.

#![no_main]

use std::sync::OnceLock;

use apimachinery::schema::NodeId;
use apimachinery::{Value, conform, json, managed_fields, value};
use libfuzzer_sys::fuzz_target;

/// How many configurations are applied at most.
const STEPS_MAX: usize = 24;
const MANAGERS: [&str; 2] = ["one", "two"];

fn node() -> NodeId {
    static NODE: OnceLock<NodeId> = OnceLock::new();
    *NODE.get_or_init(|| api::type_of_kind("", "v1", "Pod").expect("because pods are built in"))
}

fn write(manager: usize) -> managed_fields::Write<'static> {
    managed_fields::Write {
        schema: api::schema(),
        node: node(),
        manager: MANAGERS[manager],
        api_version: "v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
        reset: &[&["status"]],
    }
}

/// What to apply, made of bytes.
struct Choices<'b>(&'b [u8]);

impl Choices<'_> {
    fn next(&mut self, below: u8) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first % below
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    fn configuration(&mut self) -> Value {
        let mut pod = nothing();
        for key in ["a", "b"] {
            if let value @ 1.. = self.next(4) {
                pod.set_at(&["metadata", "labels", key], format!("{value}"));
            }
        }
        if self.next(3) == 1 {
            let all = ["x.example/f", "x.example/g", "x.example/h"];
            let some = all.iter().filter(|_| self.next(2) == 1).map(|it| Value::from(*it));
            set_list(&mut pod, &["metadata", "finalizers"], some.collect());
        }
        if self.next(3) == 1 {
            pod.set_at(&["spec", "priorityClassName"], format!("p{}", self.next(3)));
        }
        let names = ["m", "n", "o"];
        let some: Vec<&str> = names.into_iter().filter(|_| self.next(2) == 1).collect();
        let mut containers: Vec<Value> = some.iter().map(|name| self.container(name)).collect();
        if self.next(2) == 1 {
            containers.reverse();
        }
        set_list(&mut pod, &["spec", "containers"], containers);
        pod
    }

    fn container(&mut self, name: &str) -> Value {
        let mut container = value!({"name": name});
        if let image @ 1.. = self.next(4) {
            container.set_at(&["image"], format!("i{image}"));
        }
        // A list that is owned as one.
        if let count @ 1.. = self.next(4) {
            container.set_at(
                &["args"],
                (0..count).map(|it| Value::from(format!("{it}"))).collect::<Value>(),
            );
        }
        if self.next(2) == 1 {
            let port = |number: i64, choices: &mut Self| {
                let mut port = value!({"containerPort": number, "protocol": "TCP"});
                if let host @ 1.. = choices.next(4) {
                    port.set_at(&["hostPort"], i64::from(host));
                }
                port
            };
            let ports: Vec<Value> = [80, 81].into_iter().map(|it| port(it, self)).collect();
            let some: Vec<Value> = ports.into_iter().filter(|_| self.next(2) == 1).collect();
            set_list(&mut container, &["ports"], some);
        }
        if self.next(2) == 1 {
            container.set_at(&["securityContext", "privileged"], self.next(2) == 1);
        }
        container
    }
}

/// Sets a list that is not empty: an empty one takes the place of what others have cleared at the second apply, not at the first.
fn set_list(of: &mut Value, path: &[&str], items: Vec<Value>) {
    if !items.is_empty() {
        of.set_at(path, items);
    }
}

/// A configuration of nothing.
fn nothing() -> Value {
    value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}})
}

/// Sorts the lists whose items have keys.
fn sort(pod: &mut Value) {
    let by_text = |items: &mut Value| {
        if let Some(items) = items.as_array_mut() {
            items.sort_by_key(json::to_string);
        }
    };
    pod.at_mut(&["metadata", "finalizers"]).into_iter().for_each(by_text);
    for container in pod.items_at_mut(&["spec", "containers"]) {
        container.at_mut(&["ports"]).into_iter().for_each(by_text);
    }
    pod.at_mut(&["spec", "containers"]).into_iter().for_each(by_text);
}

/// The object after an apply, conformed as the server does; what it was where the apply changes nothing.
fn applied(live: Option<&Value>, manager: usize, what: &Value, force: bool) -> Option<Value> {
    let mut object = match managed_fields::apply(&write(manager), live, what, force) {
        Ok(Some(object)) => object,
        Ok(None) => return live.cloned(),
        Err(_) => return None,
    };
    conform::conform(api::schema(), node(), &mut object).expect("because configurations conform");
    Some(object)
}

/// Whether an apply leaves everything as it is. Who applies says in which order things stand, which `sorted` disregards.
fn changes_nothing(live: &Value, manager: usize, what: &Value, sorted: bool) -> bool {
    let again = managed_fields::apply(&write(manager), Some(live), what, false);
    match again {
        Ok(None) => true,
        Ok(Some(mut again)) => {
            let _ = conform::conform(api::schema(), node(), &mut again);
            let mut live = live.clone();
            if sorted {
                sort(&mut live);
                sort(&mut again);
            }
            json::to_string(&again) == json::to_string(&live)
        }
        Err(_) => false,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let mut live: Option<Value> = None;
    // What each has applied, as long as the other has taken nothing of it.
    let mut standing: [Option<Value>; 2] = [None, None];
    for _ in 0..STEPS_MAX {
        if choices.is_over() {
            break;
        }
        let manager = usize::from(choices.next(2));
        let force = choices.next(4) == 0;
        let what = choices.configuration();
        let Some(object) = applied(live.as_ref(), manager, &what, force) else { continue };
        let shown = || format!("{} applied {what:?} to {live:?}", MANAGERS[manager]);
        assert!(changes_nothing(&object, manager, &what, false), "again: {object:?}; {}", shown());
        let other = 1 - manager;
        if force {
            standing[other] = None;
        }
        if let Some(theirs) = &standing[other] {
            assert!(
                changes_nothing(&object, other, theirs, true),
                "taken: {theirs:?}; {}",
                shown()
            );
        }
        standing[manager] = Some(what);
        live = Some(object);
    }
    let Some(mut object) = live else { return };
    for manager in [0, 1] {
        object = applied(Some(&object), manager, &nothing(), true).expect("because it is forced");
    }
    object.remove_at(&["metadata", "managedFields"]);
    let mut bare = nothing();
    conform::conform(api::schema(), node(), &mut bare).expect("because it conforms");
    for object in [&mut object, &mut bare] {
        drop_empty(object);
    }
    assert_eq!(json::to_string(&object), json::to_string(&bare), "something is left");
});

/// Takes away what holds nothing: Go's zero values are no fields that somebody left.
fn drop_empty(value: &mut Value) {
    let Value::Object(object) = value else { return };
    object.retain(|_, value| {
        drop_empty(value);
        !matches!(value, Value::Null)
            && !value.as_object().is_some_and(apimachinery::Object::is_empty)
            && !value.as_array().is_some_and(<[Value]>::is_empty)
    });
}
