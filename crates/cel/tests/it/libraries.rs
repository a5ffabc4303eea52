//! What the functions of Kubernetes' libraries answer. Each line is an expression that holds.

use std::sync::{Arc, Mutex};

use cel::library::{
    AUTHORIZER_TYPE, Attributes, Authorizer, Decision, MutationTypes, RESOURCE_CHECK_TYPE,
    ServiceAccount,
};
use cel::{Activation, Budget, Env, Library, Type, Val};

fn env() -> Env {
    [Library::Bindings, Library::JsonPatch].into_iter().fold(Env::kubernetes(), Env::with_library)
}

#[track_caller]
fn eval(env: &Env, text: &str) -> Result<String, String> {
    let program = env.compile(text, &[]).map_err(|it| it.to_string())?;
    let result = program.eval(&Activation::new(env), &mut Budget::new(u64::MAX));
    result.map(|it| format!("{it:?}")).map_err(|it| it.to_string())
}

#[test]
fn expressions_hold() {
    let lines = include_str!("libraries.txt").lines();
    let (mut count, mut wrong) = (0, Vec::new());
    for line in lines.filter(|it| !it.is_empty() && !it.starts_with('#')) {
        match eval(&env(), line) {
            Ok(it) if it == "Bool(true)" => count += 1,
            other => wrong.push(format!("{line}\n    {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(count, 169);
}

#[test]
fn expressions_fail_with_upstreams_words() {
    let mut wrong = Vec::new();
    for (text, why) in [
        ("[1, 2][5]", "index out of bounds: 5"),
        ("{'a': 1}['b']", "no such key: b"),
        ("{'a': 1}.b", "no such key: b"),
        ("1 / 0", "division by zero"),
        ("1 % 0", "modulus by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("0u - 1u", "unsigned integer overflow"),
        ("dyn(1) + dyn('a')", "no such overload"),
        ("size(dyn(1))", "no such overload: size(int)"),
        ("[].min() == 1", "min called on empty list"),
        ("optional.none().value() == 1", "optional.none() dereference"),
        ("quantity('1mm').sign()", "unable to parse quantity's suffix"),
        ("quantity('1.5').asInteger()", "cannot convert value to integer"),
        ("semver('1')", "No Major.Minor.Patch elements found"),
        ("'abc'.charAt(9)", "index out of range: 9"),
        ("'abc'.substring(2, 1)", "invalid substring range. start: 2, end: 1"),
        (
            "url('a b').getHost()",
            "URL parse error during conversion from string: parse \"a b\": invalid URI for request",
        ),
        ("{'a': 1, 'a': 2}", "Failed with repeated key: a"),
        (
            "'%d'.format(['a'])",
            "error during formatting: decimal clause can only be used on integers, was given string",
        ),
        ("[1, 2].transformMapEntry(i, v, {'a': v})", "insert failed: key already exists: a"),
        ("[1].slice(0, 2)", "cannot slice(0, 2), list is length 1"),
        (
            "[1].slice(1, 0)",
            "cannot slice(1, 0), start index must be less than or equal to end index",
        ),
        ("lists.range(-1)", "lists.range: size must be non-negative, got -1"),
        ("lists.range(10000000)", "operation cancelled: actual cost limit exceeded"),
        ("'a'.find('(')", "error parsing regexp: missing closing ): `(`"),
    ] {
        match eval(&env(), text) {
            Err(it) if it == why => {}
            other => wrong.push(format!("{text}\n    {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_a_call_can_make_is_bounded() {
    let grow = |what: &str| {
        format!("cel.bind(a, {what}, cel.bind(b, a.replace('', a), b.replace('', b).size() > 0))")
    };
    let text = grow(&format!("'{}'", "x".repeat(400)));
    assert_eq!(eval(&env(), &text), Err("string size limit exceeded".into()));
    let doubled =
        (0..30).fold("size(l) > 0".to_owned(), |text, _| format!("cel.bind(l, l + l, {text})"));
    let text = format!("cel.bind(l, [1, 2], {doubled})");
    assert_eq!(eval(&env(), &text), Ok("Bool(true)".into()), "lists of lists are not copied");
    // Each turn doubles what there is by naming it twice.
    let nested = format!("[[1]]{}", ".map(x, [x, x])".repeat(100));
    let limit = Err("operation cancelled: actual cost limit exceeded".to_owned());
    assert_eq!(eval(&env(), &format!("{nested} == {nested}")), limit);
    assert_eq!(eval(&env(), &format!("dyn({nested}).indexOf(dyn(1)) == 0")), limit);
    assert_eq!(
        eval(&env(), &format!("'%s'.format({nested}) == ''")),
        Err("string size limit exceeded".into())
    );
    let flat = format!("dyn({nested}).flatten(200).size() == 1");
    assert_eq!(eval(&env(), &flat), Err("list size limit exceeded".into()));
}

/// Remembers what it was asked, and allows what begins with `allowed`.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<Attributes>>);

impl Authorizer for Recorder {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        self.0.lock().unwrap().push(attributes.clone());
        let allowed = attributes.name.starts_with("allowed");
        let error = attributes.label_selector.as_ref().and_then(|it| it.1.clone());
        Decision { allowed, reason: format!("asked {}", attributes.verb), error }
    }
}

#[test]
fn the_authorizer_is_asked_what_the_expression_says() {
    let env = Env::kubernetes()
        .with_variable("authorizer", Type::object("kubernetes.authorization.Authorizer"));
    let recorder = Arc::new(Recorder::default());
    let ask = |text: &str| {
        let program = env.compile(text, &[]).unwrap_or_else(|why| panic!("{why}"));
        let authorizer = Val::authorizer(Arc::clone(&recorder) as Arc<dyn Authorizer>);
        let variables = Activation::new(&env).with(&env, "authorizer", authorizer);
        let result = program.eval(&variables, &mut Budget::new(u64::MAX));
        result.map(|it| format!("{it:?}")).map_err(|it| it.to_string())
    };
    let resource = "authorizer.group('apps').resource('deployments').subresource('scale').namespace('ns').name('allowed-1')";
    assert_eq!(ask(&format!("{resource}.check('update').allowed()")), Ok("Bool(true)".into()));
    assert_eq!(
        ask(&format!("{resource}.check('get').reason()")),
        Ok("\"asked get\"".into()).map(|it: String| format!("String({it})"))
    );
    assert_eq!(
        ask("authorizer.serviceAccount('ns', 'sa').path('/healthz').check('get').allowed()"),
        Ok("Bool(false)".into())
    );
    assert_eq!(
        ask(
            "authorizer.group('').resource('pods').labelSelector('a in (').check('list').errored()"
        ),
        Ok("Bool(true)".into())
    );
    assert!(
        ask("authorizer.serviceAccount('ns', 'Not Valid').path('/a').check('get').allowed()")
            .is_err()
    );
    let asked = recorder.0.lock().unwrap();
    let scale = Attributes {
        verb: "update".into(),
        group: "apps".into(),
        resource: "deployments".into(),
        subresource: "scale".into(),
        namespace: "ns".into(),
        name: "allowed-1".into(),
        ..Attributes::default()
    };
    assert_eq!(asked[0], scale);
    assert_eq!(
        asked[2].service_account,
        Some(ServiceAccount { namespace: "ns".into(), name: "sa".into() })
    );
    assert_eq!(asked[2].path.as_deref(), Some("/healthz"));
}

#[test]
fn the_request_itself_can_be_checked() {
    let env = Env::kubernetes()
        .with_variable("authorizer", Type::object(AUTHORIZER_TYPE))
        .with_variable("authorizer.requestResource", Type::object(RESOURCE_CHECK_TYPE));
    let recorder = Arc::new(Recorder::default());
    let request =
        Attributes { resource: "pods".into(), name: "allowed".into(), ..Attributes::default() };
    let authorizer = Arc::clone(&recorder) as Arc<dyn Authorizer>;
    let value = Val::authorizer_for(authorizer, request.clone());
    let variables = Activation::new(&env).with(&env, "authorizer.requestResource", value);
    let program = env
        .compile("authorizer.requestResource.check('approve').allowed()", &[Type::Bool])
        .unwrap();
    assert_eq!(
        program.eval(&variables, &mut Budget::new(1_000_000)).unwrap().as_bool(),
        Some(true)
    );
    assert_eq!(*recorder.0.lock().unwrap(), [Attributes { verb: "approve".into(), ..request }]);
}

#[test]
fn mutations_are_objects_that_become_json() {
    let env = env().with_provider(Arc::new(MutationTypes));
    let json = |text: &str| {
        let program = env.compile(text, &[]).unwrap_or_else(|why| panic!("{why}"));
        let result = program.eval(&Activation::new(&env), &mut Budget::new(u64::MAX));
        format!("{:?}", result.unwrap().to_json().unwrap())
    };
    assert_eq!(
        json(
            "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: {'x': 1}}]"
        ),
        r#"[{"op":"add","path":"/metadata/labels/a~1b","value":{"x":1}}]"#
    );
    assert_eq!(
        json("Object{spec: Object.spec{replicas: 3, ?paused: optional.none()}}"),
        r#"{"spec":{"replicas":3}}"#
    );
    let issues = env.compile("JSONPatch{operation: 'add'}", &[]).unwrap_err();
    assert!(issues.to_string().contains("undefined field 'operation'"), "{issues}");
}
