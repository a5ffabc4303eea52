//! Rules on objects: types from a schema, JSON read by it, and variables that are made of expressions.

use std::sync::Arc;

use apimachinery::{Value, value};
use cel::schema::escape;
use cel::{Activation, Budget, DeclType, Env, EvalError, Type, Val};

fn schema() -> Value {
    value!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "properties": {
            "replicas": {"type": "integer"},
            "ratio": {"type": "number"},
            "created": {"type": "string", "format": "date-time"},
            "day": {"type": "string", "format": "date"},
            "ttl": {"type": "string", "format": "duration"},
            "data": {"type": "string", "format": "byte"},
            "port": {"x-kubernetes-int-or-string": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "names": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "my-field": {"type": "string"}, "namespace": {"type": "string"}, "a__b": {"type": "string"},
            "nothing": {"type": "string", "nullable": true},
        }},
    }})
}

fn object() -> Value {
    value!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "labels": {"a": "b"}}, "spec": {
        "replicas": 3, "ratio": 2, "created": "2024-01-01T00:00:00Z", "day": "2024-01-02", "ttl": "1h30m",
        "data": "aGVsbG8=", "port": "80%", "names": ["a", "b"],
        "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53}],
        "labels": {"x": "y"}, "my-field": "f", "namespace": "n", "a__b": "u", "nothing": null,
    }})
}

fn env() -> Env {
    let decl = Arc::new(DeclType::from_schema(&schema(), "selfType", true).unwrap());
    Env::kubernetes().with_variable("self", Arc::clone(&decl)).with_variable("oldSelf", decl)
}

#[test]
fn rules_read_objects_by_their_schema() {
    let (env, object) = (env(), object());
    let mut old = object.clone();
    old.set_at(&["spec", "names"], ["b", "a"].into_iter().collect::<Value>());
    let variables = Activation::new(&env).with_json(&env, "self", &object).unwrap();
    let variables = variables.with_json(&env, "oldSelf", &old).unwrap();
    for rule in [
        "self.spec.replicas == 3 && type(self.spec.replicas) == int",
        "self.spec.ratio == 2.0 && type(self.spec.ratio) == double",
        "self.spec.created + self.spec.ttl == timestamp('2024-01-01T01:30:00Z')",
        "self.spec.day.getDate() == 2",
        "self.spec.data == b'hello'",
        "type(self.spec.port) == string && self.spec.port == '80%'",
        "self.spec.names == oldSelf.spec.names",
        "self.spec.names + ['b', 'c'] == ['c', 'b', 'a']",
        "(self.spec.ports + oldSelf.spec.ports).size() == 2",
        "self.spec.ports.exists(p, p.name == 'dns' && p.port == 53)",
        "self.spec.ports.all(p, p in oldSelf.spec.ports)",
        "self.spec.labels.x == 'y' && self.spec.labels['x'] == 'y' && !('z' in self.spec.labels)",
        "self.spec.my__dash__field == 'f' && self.spec.__namespace__ == 'n' && self.spec.a__underscores__b == 'u'",
        "has(self.spec.replicas) && !has(self.spec.free)",
        "self.metadata.name == 'w' && self.kind == 'Widget' && self.apiVersion.startsWith('example.com/')",
        "self.?spec.?replicas.orValue(0) == 3",
        "self.spec == oldSelf.spec",
        "self.spec.labels.all(k, v, k == 'x' && v == 'y')",
    ] {
        let program =
            env.compile(rule, &[Type::Bool]).unwrap_or_else(|why| panic!("{rule}: {why}"));
        let result = program.eval(&variables, &mut Budget::new(u64::MAX));
        assert_eq!(
            result.unwrap_or_else(|why| panic!("{rule}: {why}")).as_bool(),
            Some(true),
            "{rule}"
        );
    }
    for hidden in ["self.metadata.labels == {}", "self.spec.free.x == 1", "self.status == null"] {
        let issues = env.compile(hidden, &[Type::Bool]).unwrap_err();
        assert!(issues.to_string().contains("undefined field"), "{hidden}: {issues}");
    }
}

#[test]
fn a_rule_for_updates_is_one_that_reads_the_old_object() {
    let env = env();
    let reads = |rule: &str| env.compile(rule, &[Type::Bool]).unwrap().reads(&env, "oldSelf");
    assert!(reads("self.spec.replicas >= oldSelf.spec.replicas"));
    assert!(!reads("self.spec.replicas > 0"));
}

#[test]
fn an_old_object_that_may_be_missing_is_an_optional_one() {
    let decl = Arc::new(DeclType::from_schema(&schema(), "selfType", true).unwrap());
    let env = Env::kubernetes()
        .with_variable("self", Arc::clone(&decl))
        .with_variable("oldSelf", Type::optional(decl.ty().clone()));
    let rule = "oldSelf.optMap(old, old.spec.replicas <= self.spec.replicas).orValue(true)";
    let rule = env.compile(rule, &[Type::Bool]).unwrap_or_else(|why| panic!("{why}"));
    let (old, new) = (value!({"spec": {"replicas": 5}}), object());
    for (old, holds) in [(Some(&old), false), (Some(&new), true), (None, true)] {
        let old = old.map(|it| Val::json(it, Some(&decl)).unwrap());
        let variables = Activation::new(&env).with_json(&env, "self", &new).unwrap().with(
            &env,
            "oldSelf",
            Val::Optional(old.map(Arc::new)),
        );
        let result = rule.eval(&variables, &mut Budget::new(1000));
        assert_eq!(result.unwrap().as_bool(), Some(holds));
    }
}

#[test]
fn values_that_the_schema_forbids_are_errors_and_not_panics() {
    let (env, object) =
        (env(), value!({"spec": {"created": "yesterday", "replicas": "many", "names": "a"}}));
    let variables = Activation::new(&env).with_json(&env, "self", &object).unwrap();
    for rule in [
        "self.spec.created < timestamp(0)",
        "self.spec.replicas == 1",
        "self.spec.names.size() == 1",
    ] {
        let program = env.compile(rule, &[Type::Bool]).unwrap();
        assert!(
            matches!(program.eval(&variables, &mut Budget::new(1000)), Err(EvalError::Failed(_))),
            "{rule}"
        );
    }
}

#[test]
fn objects_become_json_under_their_own_names_and_not_without_end() {
    let (env, object) = (env(), object());
    let variables = Activation::new(&env).with_json(&env, "self", &object).unwrap();
    let json = |text: &str| {
        let program = env.compile(text, &[]).unwrap();
        program.eval(&variables, &mut Budget::new(u64::MAX)).unwrap().to_json()
    };
    assert_eq!(json("self.spec").unwrap(), object["spec"]);
    assert_eq!(json("[self.spec.ports]").unwrap(), value!([(object["spec"]["ports"].clone())]));
    let many = format!("[self]{}", ".map(x, [x, x])".repeat(30));
    assert_eq!(json(&many).unwrap_err().to_string(), "value size limit exceeded");
}

#[test]
fn properties_have_names_in_expressions_where_they_can() {
    for (property, name) in [
        ("a", Some("a")),
        ("a-b", Some("a__dash__b")),
        ("a.b/c", Some("a__dot__b__slash__c")),
        ("a__b", Some("a__underscores__b")),
        ("in", Some("__in__")),
        ("1a", None),
        ("a b", None),
        ("", None),
    ] {
        assert_eq!(escape(property).as_deref(), name, "{property}");
    }
}

fn policy() -> Env {
    ["object", "oldObject", "request", "params"]
        .into_iter()
        .fold(Env::kubernetes(), |env, name| env.with_variable(name, Type::Dyn))
}

#[test]
fn variables_are_evaluated_when_needed_and_once() {
    let mut composition = policy().compose();
    composition.define("containers", "object.spec.containers").unwrap();
    composition.define("count", "size(variables.containers)").unwrap();
    composition.define("broken", "object.spec.missing").unwrap();
    assert!(
        composition
            .define("wrong", "variables.later")
            .unwrap_err()
            .to_string()
            .contains("undefined field 'later'")
    );
    assert!(
        composition.define("typed", "variables.count == 'a'").is_err(),
        "what is known is checked"
    );

    let rule = |text: &str| composition.env().compile(text, &[Type::Bool]).unwrap();
    let (twice, unused, broken) = (
        rule("variables.count == 2 && variables.count < 3"),
        rule("true || variables.broken"),
        rule("variables.broken == 1"),
    );
    assert!(rule("has(variables.count)").output_type() == &Type::Bool);
    let object = value!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
    let variables = Activation::new(composition.env())
        .with(composition.env(), "object", Val::plain(&object))
        .with_composition(&composition);
    let mut budget = Budget::new(1000);
    assert_eq!(twice.eval(&variables, &mut budget).unwrap().as_bool(), Some(true));
    // The rule itself, `count` and `containers`; a second run pays for the rule only.
    assert_eq!((budget.last_cost(), budget.remaining()), (6, 1000 - 6 - 3 - 3));
    assert_eq!(twice.eval(&variables, &mut budget).unwrap().as_bool(), Some(true));
    assert_eq!(budget.remaining(), 1000 - 12 - 6);
    assert_eq!(unused.eval(&variables, &mut budget).unwrap().as_bool(), Some(true));
    assert_eq!(
        broken.eval(&variables, &mut budget).unwrap_err().to_string(),
        "no such key: missing"
    );
}

#[test]
fn what_is_not_set_is_an_error() {
    let env = policy();
    let program = env.compile("params.limit > 1", &[Type::Bool]).unwrap();
    let result = program.eval(&Activation::new(&env), &mut Budget::new(1000));
    assert_eq!(result.unwrap_err().to_string(), "no such attribute(s): params");
}

/// What fifty rules of policies as people write them may take together, in a release build:
/// `cargo test --release -p cel -- --ignored --nocapture fifty`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_types, reason = "a measurement")]
fn fifty_rules_take_fifty_microseconds() {
    let rules = [
        "object.spec.replicas <= 5",
        "has(object.metadata.labels) && 'app' in object.metadata.labels",
        "object.metadata.name.startsWith('web')",
        "object.spec.template.spec.containers.all(c, has(c.resources) && has(c.resources.limits))",
        "object.spec.template.spec.containers.all(c, c.image.startsWith('registry.example.com/'))",
        "!has(object.spec.template.spec.hostNetwork) || object.spec.template.spec.hostNetwork == false",
        "object.spec.template.spec.containers.exists(c, c.name == 'main')",
        "request.operation in ['CREATE', 'UPDATE'] && request.userInfo.username != 'nobody'",
        "object.metadata.?annotations['example.com/owner'].orValue('') != ''",
        "object.spec.template.spec.containers.filter(c, c.name.matches('^[a-z-]+$')).size() == 3",
    ];
    let env = policy();
    let start = std::time::Instant::now();
    let programs: Vec<_> =
        (0..50).map(|n| env.compile(rules[n % rules.len()], &[Type::Bool]).unwrap()).collect();
    eprintln!("fifty compilations: {:?}", start.elapsed());
    let container = |name: &str| value!({"name": name, "image": "registry.example.com/a:1", "resources": (value!({"limits": {"cpu": "1"}}))});
    let containers: Value = ["main", "side-car", "proxy"].map(container).into_iter().collect();
    let object = value!({
        "metadata": {"name": "web-1", "labels": {"app": "web"}, "annotations": {"example.com/owner": "me"}},
        "spec": {"replicas": 3, "template": {"spec": {"containers": containers}}},
    });
    let request = value!({"operation": "CREATE", "userInfo": {"username": "me"}});
    let mut best = std::time::Duration::MAX;
    for _ in 0..2000 {
        let start = std::time::Instant::now();
        let variables = Activation::new(&env).with(&env, "object", Val::plain(&object)).with(
            &env,
            "request",
            Val::plain(&request),
        );
        let mut budget = Budget::new(cel::limits::RUNTIME_COST_BUDGET);
        for program in &programs {
            assert_eq!(program.eval(&variables, &mut budget).unwrap().as_bool(), Some(true));
        }
        best = best.min(start.elapsed());
    }
    eprintln!("fifty rules: {best:?}");
    assert!(best.as_micros() <= 50, "{best:?}");
}
