//! Admission policies, through the whole server.

use apimachinery::{Value, value};

use crate::cluster::{Cluster, admin};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A policy for config maps.
fn policy(kind: &str, name: &str, spec: &Value) -> Value {
    let mut whole = spec.clone();
    whole.default_at(
        &["matchConstraints"],
        value!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]}),
    );
    value!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        "metadata": {"name": name}, "spec": (whole)})
}

fn binding(kind: &str, name: &str, spec: &Value) -> Value {
    let mut whole = spec.clone();
    whole.set_at(&["policyName"], name);
    value!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": (format!("{kind}Binding")),
        "metadata": {"name": (format!("{name}-b"))}, "spec": (whole)})
}

async fn validating(cluster: &Cluster, name: &str, spec: &Value, bound: &Value) {
    let kind = "ValidatingAdmissionPolicy";
    let path = format!("POST {GROUP}/validatingadmissionpolicies");
    cluster.done(&path, Some(&policy(kind, name, spec))).await;
    let path = format!("POST {GROUP}/validatingadmissionpolicybindings");
    cluster.done(&path, Some(&binding(kind, name, bound))).await;
}

async fn mutating(cluster: &Cluster, name: &str, spec: &Value) {
    let kind = "MutatingAdmissionPolicy";
    let path = format!("POST {GROUP}/mutatingadmissionpolicies");
    cluster.done(&path, Some(&policy(kind, name, spec))).await;
    let path = format!("POST {GROUP}/mutatingadmissionpolicybindings");
    cluster.done(&path, Some(&binding(kind, name, &value!({})))).await;
}

fn map(name: &str, data: &Value) -> Value {
    value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": (data.clone())})
}

async fn create(cluster: &Cluster, name: &str, data: &Value) -> (u16, Value) {
    cluster.send(&admin(), &format!("POST {MAPS}"), Some(&map(name, data))).await
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "a table")]
async fn what_a_policy_says_of_a_request() {
    let cluster = Cluster::start().await;
    let deny = value!({"validationActions": ["Deny"]});
    let validation = |it: Value| value!({"validations": [(it)]});
    let denied = |name: &str, why: &str| {
        format!(
            "configmaps \"m\" is forbidden: ValidatingAdmissionPolicy '{name}' with binding '{name}-b' denied request: {why}"
        )
    };
    let ignoring =
        |text: &str| value!({"failurePolicy": "Ignore", "validations": [{"expression": text}]});
    let cases = [
        (validation(value!({"expression": "object.data.a == 'x'"})), 201, ""),
        (
            validation(value!({"expression": "object.data.a == 'y'"})),
            422,
            "failed expression: object.data.a == 'y'",
        ),
        (
            validation(value!({"expression": "false", "message": " no ", "reason": "Forbidden"})),
            403,
            "no",
        ),
        (
            validation(
                value!({"expression": "false", "reason": "RequestEntityTooLarge", "messageExpression": "'a is ' + object.data.a"}),
            ),
            413,
            "a is x",
        ),
        (
            validation(value!({"expression": "object.data.b == 'y'"})),
            422,
            "expression 'object.data.b == 'y'' resulted in error: no such key: b",
        ),
        (ignoring("object.data.b == 'y'"), 201, ""),
        (
            validation(
                value!({"expression": "oldObject == null && request.operation == 'CREATE' && namespaceObject.metadata.name == 'default'"}),
            ),
            201,
            "",
        ),
        (
            validation(
                value!({"expression": "authorizer.requestResource.check('create').allowed()"}),
            ),
            201,
            "",
        ),
        (
            value!({"variables": [{"name": "a", "expression": "object.data.a"}, {"name": "b", "expression": "variables.a + variables.a"}],
            "validations": [{"expression": "variables.b == 'x'", "messageExpression": "string(variables.b)"}]}),
            422,
            "xx",
        ),
        (
            value!({"matchConditions": [{"name": "n", "expression": "object.data.a == 'z'"}], "validations": [{"expression": "false"}]}),
            201,
            "",
        ),
        (
            value!({"matchConditions": [{"name": "n", "expression": "object.data.q == 'z'"}], "validations": [{"expression": "true"}]}),
            422,
            "expression 'object.data.q == 'z'' resulted in error: no such key: q",
        ),
    ];
    for (index, (spec, code, why)) in cases.into_iter().enumerate() {
        let name = format!("p{index}");
        validating(&cluster, &name, &spec, &deny).await;
        let (found, answer) = create(&cluster, "m", &value!({"a": "x"})).await;
        assert_eq!(found, code, "{spec:?}: {answer:?}");
        if code == 201 {
            cluster.done(&format!("DELETE {MAPS}/m"), None).await;
        } else {
            assert_eq!(answer.str_at(&["message"]), denied(&name, why));
        }
        cluster.done(&format!("DELETE {GROUP}/validatingadmissionpolicies/{name}"), None).await;
    }
    let (_, metrics) = cluster.send(&admin(), "GET /metrics", None).await;
    let metrics = metrics.as_str().unwrap();
    for what in ["seconds_count", "errors_total"] {
        let name =
            format!("apiserver_admission_match_condition_evaluation_{what}{{kind=\"policy\",");
        let labels = "operation=\"CREATE\",type=\"validate\"} 1";
        assert!(metrics.lines().any(|it| it.starts_with(&name) && it.ends_with(labels)), "{name}");
    }
}

#[tokio::test]
async fn a_binding_may_warn_and_has_bounds() {
    let cluster = Cluster::start().await;
    let spec = value!({"validations": [{"expression": "false", "message": "odd"}]});
    let bound = value!({"validationActions": ["Warn", "Audit"], "matchResources": {
        "objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]}}});
    validating(&cluster, "p", &spec, &bound).await;
    let warned = cluster.warnings(&format!("POST {MAPS}"), &map("a", &value!({}))).await;
    let expected =
        "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'p-b': odd\"";
    assert_eq!(warned, [expected]);
    let mut skipped = map("b", &value!({}));
    skipped.set_at(&["metadata", "labels", "skip"], "yes");
    let warned = cluster.warnings(&format!("POST {MAPS}"), &skipped).await;
    assert!(warned.is_empty(), "{warned:?}");
    let (_, metrics) = cluster.send(&admin(), "GET /metrics", None).await;
    let line = "apiserver_validating_admission_policy_check_total{enforcement_action=\"audit\",error_type=\"no_error\",policy=\"p\",policy_binding=\"p-b\"} 1";
    assert!(metrics.as_str().unwrap().contains(line));
}

#[tokio::test]
async fn parameters_are_found_by_name_and_by_labels() {
    let cluster = Cluster::start().await;
    let spec = value!({
        "paramKind": {"apiVersion": "v1", "kind": "Secret"},
        "validations": [{"expression": "object.data.a != params.metadata.labels.bad", "messageExpression": "'not ' + params.metadata.name"}]});
    let bound = value!({"validationActions": ["Deny"], "paramRef": {"selector":
        {"matchExpressions": [{"key": "bad", "operator": "Exists"}]}, "parameterNotFoundAction": "Deny"}});
    validating(&cluster, "p", &spec, &bound).await;
    let (code, answer) = create(&cluster, "m", &value!({"a": "x"})).await;
    let message = answer.str_at(&["message"]);
    let why = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert!(code == 422 && message.ends_with(why), "{message}");
    for (name, bad) in [("s1", "x"), ("s2", "y")] {
        let secret = value!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "labels": {"bad": bad}}});
        cluster.done("POST /api/v1/namespaces/default/secrets", Some(&secret)).await;
    }
    cluster.server.hub().catch_up().await.unwrap();
    for (value, code, why) in [("x", 422, "not s1"), ("y", 422, "not s2"), ("z", 201, "")] {
        let (found, answer) = create(&cluster, "m", &value!({"a": value})).await;
        let message = answer.str_at(&["message"]);
        assert!(found == code && message.ends_with(why), "{value}: {message}");
    }
    let spec = value!({"paramKind": {"apiVersion": "no.example/v1", "kind": "Rule"},
        "validations": [{"expression": "true"}]});
    let bound = value!({"validationActions": ["Deny"], "paramRef": {"name": "r", "parameterNotFoundAction": "Allow"}});
    validating(&cluster, "q", &spec, &bound).await;
    let (code, answer) = create(&cluster, "n", &value!({"a": "z"})).await;
    let message = answer.str_at(&["message"]);
    let why = "failed to configure policy: failed to find resource referenced by paramKind: 'no.example/v1, Kind=Rule'";
    assert!(code == 422 && message.ends_with(why), "{message}");
}

#[tokio::test]
async fn a_policy_costs_no_more_than_it_may() {
    let cluster = Cluster::start().await;
    let list = (0..200).map(|it| it.to_string()).collect::<Vec<_>>().join(",");
    let text = format!("[{list}].all(a, [{list}].all(b, [{list}].all(c, a + b + c >= 0)))");
    let spec = value!({"validations": [{"expression": (text)}]});
    validating(&cluster, "p", &spec, &value!({"validationActions": ["Deny"]})).await;
    let (code, answer) = create(&cluster, "m", &value!({})).await;
    let message = answer.str_at(&["message"]);
    assert!(code == 422 && message.contains("actual cost limit exceeded"), "{message}");
}

#[tokio::test]
async fn mutating_policies_change_the_object_and_see_it_again() {
    let cluster = Cluster::start().await;
    let patch = "[JSONPatch{op: 'add', path: '/data/first', value: has(object.data.second) ? 'saw' : 'alone'}]";
    let first = value!({"reinvocationPolicy": "IfNeeded", "failurePolicy": "Fail",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}]});
    mutating(&cluster, "a", &first).await;
    let configuration =
        "Object{metadata: Object.metadata{labels: {'by': 'policy'}}, data: {'second': 'here'}}";
    let second = value!({"reinvocationPolicy": "Never", "failurePolicy": "Fail",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": configuration}}]});
    mutating(&cluster, "b", &second).await;
    let (code, made) = create(&cluster, "m", &value!({"own": "1"})).await;
    assert_eq!(code, 201, "{made:?}");
    assert_eq!(made["data"], value!({"own": "1", "first": "saw", "second": "here"}));
    assert_eq!(made.str_at(&["metadata", "labels", "by"]), "policy");
    let bad = value!({"reinvocationPolicy": "Never", "failurePolicy": "Fail",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'remove', path: '/data/none'}]"}}]});
    mutating(&cluster, "c", &bad).await;
    let (code, answer) = create(&cluster, "n", &value!({"own": "1"})).await;
    let message = answer.str_at(&["message"]);
    assert_eq!((code, answer.str_at(&["reason"])), (403, "Invalid"), "{answer:?}");
    assert!(message.starts_with("policy 'c' with binding 'c-b' denied request: "), "{message}");
    // The first was asked again, by what the second had made, each time.
    let of = |policy: &str, error: &str, count: u32| {
        format!(
            "apiserver_mutating_admission_policy_check_total{{error_type=\"{error}\",policy=\"{policy}\",policy_binding=\"{policy}-b\"}} {count}"
        )
    };
    cluster.counts(&[&of("b", "no_error", 2), &of("c", "invalid_error", 1)]).await;
}

#[tokio::test]
async fn a_mutation_that_does_not_fit_leaves_the_others() {
    let cluster = Cluster::start().await;
    let spec = |name: &str, failure: &str, expressions: &[&str]| {
        let mutations = expressions.iter().map(|it| {
            value!({"patchType": "JSONPatch", "jsonPatch": {"expression": (format!("[JSONPatch{{{it}}}]"))}})
        });
        let mutations: Value = mutations.collect();
        value!({"reinvocationPolicy": "Never", "failurePolicy": failure, "mutations": mutations,
            "matchConditions": [{"name": "own", "expression": (format!("object.data.of == '{name}'"))}]})
    };
    let fine = "op: 'add', path: '/metadata/annotations', value: {'a': 'b'}}, \
        JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('a/b'), value: 'x'";
    let untested = "op: 'test', path: '/data/of', value: 'other'}, JSONPatch{op: 'add', path: '/data/no', value: 'x'";
    let cases = [
        ("tested", "Fail", vec![untested, fine], 201, "a/b=x"),
        ("ignored", "Ignore", vec!["op: 'remove', path: '/data/none'", fine], 201, "a/b=x"),
        (
            "refused",
            "Fail",
            vec!["op: 'remove', path: '/data/none'", fine],
            403,
            "denied request: JSONPath: error in remove for path: '/data/none': Unable to remove nonexistent key: none: missing value",
        ),
        (
            "kind",
            "Ignore",
            vec!["op: 'replace', path: '/kind', value: 'Secret'"],
            500,
            "failed to convert object: v1, Kind=Secret",
        ),
        (
            "field",
            "Ignore",
            vec!["op: 'add', path: '/nope', value: 'x'"],
            500,
            "strict decoding error: unknown field \"nope\"",
        ),
    ];
    for (name, failure, expressions, ..) in &cases {
        mutating(&cluster, name, &spec(name, failure, expressions)).await;
    }
    for (name, _, _, code, expected) in cases {
        let (got, answer) = create(&cluster, name, &value!({"of": name})).await;
        let told = match answer.get("data") {
            Some(data) => {
                let annotation = answer.str_at(&["metadata", "annotations", "a/b"]);
                format!("a/b={annotation} no={}", data.str_at(&["no"]))
            }
            None => answer.str_at(&["message"]).to_owned(),
        };
        assert!(
            got == code && told.contains(expected) && !told.contains("no=x"),
            "{name}: {got} {told}"
        );
    }
}

#[tokio::test]
async fn what_mutations_make_is_called_after_its_place_and_sets_no_whole() {
    let cluster = Cluster::start().await;
    let configured = |text: &str| value!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": text}});
    let patched =
        |text: &str| value!({"patchType": "JSONPatch", "jsonPatch": {"expression": text}});
    let cases = [
        (
            "named",
            configured("Object{metadata: Object.wrong{labels: {'a': 'b'}}}"),
            "type mismatch: unexpected type name \"Object.wrong\", expected \"Object.metadata\", which matches field name path from root Object type",
        ),
        (
            "patch",
            patched(
                "[JSONPatch{op: 'add', path: '/metadata', value: Object.metadata{labels: Object.metadata.nope{}}}]",
            ),
            "type mismatch: unexpected type name \"Object.metadata.nope\", expected \"Object.metadata.labels\", which matches field name path from root Object type",
        ),
        (
            "field",
            configured("Object{metadata: Object.metadata{nope: 'x'}}"),
            "error applying patch: failed to convert patch object to typed object: .metadata.nope: field not declared in schema",
        ),
        (
            "whole",
            configured(
                "Object{metadata: Object.metadata{ownerReferences: [Object.metadata.ownerReferences{apiVersion: 'v1', kind: 'Pod', name: 'p', uid: 'u'}]}}",
            ),
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .metadata.ownerReferences[0]",
        ),
    ];
    for (name, mutation, _) in &cases {
        let spec = value!({"reinvocationPolicy": "Never", "failurePolicy": "Fail", "mutations": [(mutation.clone())],
            "matchConditions": [{"name": "own", "expression": (format!("object.data.of == '{name}'"))}]});
        mutating(&cluster, name, &spec).await;
    }
    for (name, _, expected) in cases {
        let (code, answer) = create(&cluster, name, &value!({"of": name})).await;
        let message = answer.str_at(&["message"]);
        assert!(code == 403 && message.ends_with(expected), "{name}: {code} {message}");
    }
}

/// Not a test of speed: it prints what a policy of 50 rules costs, for the record.
#[tokio::test]
#[ignore = "measures"]
async fn what_a_policy_costs() {
    let cluster = Cluster::start().await;
    let measure = async |name: &str| {
        let mut took = Vec::new();
        for index in 0..2_000 {
            let began = tokio::time::Instant::now();
            let (code, _) = create(&cluster, &format!("{name}{index}"), &value!({"a": "x"})).await;
            took.push(began.elapsed());
            assert_eq!(code, 201);
        }
        took.sort();
        took[1_000]
    };
    let without = measure("a").await;
    let rules: Value = (0..50)
        .map(|index| {
            let text =
                format!("!has(object.data.k{index}) || object.data.k{index}.startsWith('x')");
            value!({"expression": (text)})
        })
        .collect();
    let spec = value!({"validations": (rules)});
    validating(&cluster, "p", &spec, &value!({"validationActions": ["Deny"]})).await;
    let with = measure("b").await;
    println!("p50 without {without:?}, with {with:?}");
}
