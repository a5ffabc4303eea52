//! What expressions cost, by upstream's numbers: by estimate, and when they run.

use std::sync::Arc;

use apimachinery::{Value, value};
use cel::library::{Attributes, Authorizer, Decision};
use cel::limits::PER_CALL_LIMIT;
use cel::{Activation, Budget, CostEstimate, DeclType, Env, EvalError, Type, Val};

#[derive(Debug)]
struct AllowsAll;

impl Authorizer for AllowsAll {
    fn authorize(&self, _: &Attributes) -> Decision {
        Decision { allowed: true, ..Decision::default() }
    }
}

/// Constants are paid for, as in upstream's own cost tests. Strings and bytes of unknown size have up to 12.
fn env() -> Env {
    Env::kubernetes()
        .without_folding()
        .with_mixed_literals()
        .with_variable("authorizer", Type::object("kubernetes.authorization.Authorizer"))
}

fn costs(env: &Env, text: &str) -> (u64, u64, u64) {
    let program = env.compile(text, &[]).unwrap_or_else(|why| panic!("{text}: {why}"));
    let variables =
        Activation::new(env).with(env, "authorizer", Val::authorizer(Arc::new(AllowsAll)));
    let mut budget = Budget::new(u64::MAX);
    program.eval(&variables, &mut budget).unwrap_or_else(|why| panic!("{text}: {why}"));
    let CostEstimate { min, max } = program.cost_estimate();
    (min, max, budget.last_cost())
}

#[test]
fn calls_of_libraries_cost_what_upstream_says() {
    let lines = include_str!("library-costs.tsv").lines().filter(|it| !it.starts_with('#'));
    let mut count = 0;
    for line in lines {
        let mut parts = line.split('\t');
        let text = parts.next().unwrap();
        let mut number = || parts.next().unwrap().parse::<u64>().unwrap();
        assert_eq!(costs(&env(), text), (number(), number(), number()), "{text}");
        count += 1;
    }
    assert_eq!(count, 53);
    // Where nothing bounds the text in a list, upstream's test bounds it by 12; here nothing does.
    let letters = "['aa', 'bb', 'cc', 'd', 'e', 'f', 'g', 'h', 'i', 'j']";
    let (min, _, actual) = costs(&env(), &format!("{letters}.join(' ')"));
    assert_eq!((min, actual), (11, 15));
}

/// The cost of a run, for variables in JSON.
fn run(text: &str, variables: &[(&str, Type, Value)]) -> u64 {
    let mut env = Env::kubernetes().without_folding();
    for (name, ty, _) in variables {
        env = env.with_variable(name, ty.clone());
    }
    let program = env.compile(text, &[]).unwrap_or_else(|why| panic!("{text}: {why}"));
    let mut activation = Activation::new(&env);
    for (name, _, value) in variables {
        activation = activation.with(&env, name, Val::plain(value));
    }
    let mut budget = Budget::new(u64::MAX);
    program.eval(&activation, &mut budget).unwrap_or_else(|why| panic!("{text}: {why}"));
    budget.last_cost()
}

/// An expression, its variables, what it costs.
type Run<'t> = (&'t str, Vec<(&'t str, Type, Value)>, u64);

fn check_runs(table: Vec<Run<'_>>) {
    for (text, variables, cost) in table {
        assert_eq!(run(text, &variables), cost, "{text}");
    }
}

#[test]
fn running_costs_what_upstream_says() {
    let strings = || Type::map(Type::String, Type::String);
    let nested = || Type::map(Type::String, Type::map(Type::String, Type::String));
    let long = "x".repeat(500);
    let list = || Type::list(Type::Int);
    let table: Vec<Run<'_>> = vec![
        ("input['key']", vec![("input", strings(), value!({"key": "v"}))], 2),
        ("input['ke' + 'y']", vec![("input", strings(), value!({"key": "v"}))], 3),
        ("input[3-3]", vec![("input", Type::list(Type::String), value!(["v"]))], 3),
        (
            "has(input.testAttr.nestedAttr)",
            vec![("input", nested(), value!({"testAttr": {"nestedAttr": "0"}}))],
            2,
        ),
        ("[1, 2, 3]", vec![], 10),
        ("{'a': 1, 'b': 2, 'c': 3}", vec![], 30),
        ("input.all(x, true)", vec![("input", list(), value!([]))], 2),
        ("[1, 2, 3].all(x, true)", vec![], 20),
        ("input.matches('[0-9]')", vec![("input", Type::String, Value::from(long.as_str()))], 103),
        ("'123'.matches('[0-9]')", vec![], 2),
        ("false || false", vec![], 0),
        ("2 in [1, 2, 3]", vec![], 13),
        ("true ? 1 : 2", vec![], 0),
        ("'12345678901234567890' == '123456789012345678901234567890'", vec![], 2),
        ("bytes(input)", vec![("input", Type::String, Value::from(long.as_str()))], 51),
        ("string(1)", vec![], 1),
        (
            "input.contains(arg)",
            vec![
                ("input", Type::String, Value::from(long.as_str())),
                ("arg", Type::String, Value::from(long.as_str())),
            ],
            2502,
        ),
        (
            "input.startsWith(arg)",
            vec![
                ("input", Type::String, value!("idc")),
                ("arg", Type::String, Value::from(long.as_str())),
            ],
            3,
        ),
        ("input.size()", vec![("input", Type::String, value!("500"))], 2),
    ];
    check_runs(table);
}

#[test]
fn running_loops_and_branches_costs_what_upstream_says() {
    let list = || Type::list(Type::Int);
    let table: Vec<Run<'_>> = vec![
        (
            "(x > 2 ? a : b).all(y, true)",
            vec![
                ("x", Type::Int, value!(1)),
                ("a", list(), value!([1])),
                ("b", list(), value!([1])),
            ],
            6,
        ),
        ("true ? false : 1 > 3", vec![], 0),
        ("false ? false : 1 > 3", vec![], 1),
        (
            "input.all(k, input[k].size > 3)",
            vec![(
                "input",
                Type::map(Type::String, Type::map(Type::String, Type::Int)),
                value!({"val": {"size": 1}}),
            )],
            9,
        ),
        ("(a + b).all(x, true)", vec![("a", list(), value!([])), ("b", list(), value!([]))], 4),
        (
            "'abcdefg'.contains(a + b)",
            vec![("a", Type::String, value!("val1")), ("b", Type::String, value!("val2222222"))],
            6,
        ),
        ("(1 > 2 ? 5 : 3) > 1", vec![], 2),
        ("(1 > 2 || 2 > 1) == true", vec![], 3),
        ("[{'k1': 1}, {'k2': 2}].all(x, true)", vec![], 77),
    ];
    check_runs(table);
}

#[test]
fn constants_are_folded_where_upstream_folds_them() {
    let env = Env::kubernetes().with_variable("x", Type::Int);
    for (text, cost) in
        [("[1, 2, 3].sum()", 3), ("x in [1, 2, 3]", 1), ("duration('1h') > duration('1m')", 1)]
    {
        let program = env.compile(text, &[]).unwrap();
        let mut budget = Budget::new(1000);
        program.eval(&Activation::new(&env).with(&env, "x", Val::Int(2)), &mut budget).unwrap();
        assert_eq!(budget.last_cost(), cost, "{text}");
        assert_eq!(budget.remaining(), 1000 - cost, "{text}");
    }
}

fn rule_estimate(schema: &Value, rule: &str) -> u64 {
    let decl = Arc::new(DeclType::from_schema(schema, "selfType", true).unwrap());
    let env = Env::kubernetes().with_variable("self", decl);
    env.compile(rule, &[Type::Bool])
        .unwrap_or_else(|why| panic!("{rule}: {why}"))
        .cost_estimate()
        .max
}

#[test]
fn limits_of_a_schema_bound_what_a_rule_may_cost() {
    let schema = value!({"type": "object", "properties": {
        "text": {"type": "string", "maxLength": 10},
        "free": {"type": "string"},
        "kind2": {"type": "string", "enum": ["a", "bcd"]},
        "list": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10}},
        "numbers": {"type": "array", "maxItems": 10, "items": {"type": "integer"}},
        "open": {"type": "array", "items": {"type": "integer"}},
        "map": {"type": "object", "maxProperties": 10, "additionalProperties": {"type": "string", "maxLength": 10}},
    }});
    for (rule, max) in [
        // Numbers have no size: comparing them is free beyond naming them.
        ("self.numbers[0] == 5", 3),
        ("self.numbers.all(x, x == 5)", 2 + 10 * (2 + 2) + 1),
        ("self.text == 'a'", 2 + 1),
        // A character may be four bytes.
        ("self.text == self.text + 'a'", 4 + 5 + 4),
        ("self.text.contains('a')", 2 + 4),
        ("self.free.contains('a')", 2 + 314_573),
        ("self.kind2 == self.kind2", 4 + 1),
        ("self.list.all(x, x.startsWith('a'))", 2 + 10 * (2 + 1 + 1 + 1) + 1),
        ("self.list.all(x, x.matches('a'))", 2 + 10 * (2 + 1 + 1 + 5) + 1),
        ("self.open.all(x, x == 5)", 2 + 1_572_863 * (2 + 2) + 1),
        ("self.map.all(k, self.map[k] == 'a')", 2 + 10 * (2 + 1 + 4 + 1) + 1),
        ("has(self.text)", 1),
    ] {
        assert_eq!(rule_estimate(&schema, rule), max, "{rule}");
    }
}

#[test]
fn what_has_no_limit_is_bounded_by_what_fits_into_a_request() {
    let estimate = |schema: Value, rule: &str| {
        let decl = Arc::new(DeclType::from_schema(&schema, "selfType", false).unwrap());
        let env = Env::kubernetes().with_variable("self", decl);
        env.compile(rule, &[Type::Bool]).unwrap().cost_estimate().max
    };
    let list = |item: &str| value!({"type": "array", "items": {"type": item}});
    let map = value!({"type": "object", "additionalProperties": {"type": "number"}});
    // Upstream's own numbers.
    assert_eq!(estimate(list("number"), "self.all(x, true)"), 4_718_591);
    assert_eq!(estimate(list("string"), "self.all(x, true)"), 3_145_727);
    assert_eq!(estimate(map, "self.all(key, true)"), 1_348_169);
    let bounded = value!({"type": "array", "maxItems": 10, "items": {"type": "number"}});
    assert_eq!(estimate(bounded, "self.all(x, true)"), 32);
}

#[test]
fn a_run_ends_at_its_limit_and_a_request_at_its_budget() {
    let env = Env::kubernetes().with_variable("list", Type::list(Type::Int));
    let program = env.compile("list.all(x, list.all(y, true)) || true", &[Type::Bool]).unwrap();
    let numbers: Value = (0..1000).map(Value::Int).collect();
    let variables = Activation::new(&env).with(&env, "list", Val::plain(&numbers));
    let mut budget = Budget::new(u64::MAX);
    let result = program.eval(&variables, &mut budget);
    assert_eq!(result.unwrap_err(), EvalError::CostLimitExceeded);
    assert!(budget.last_cost() >= PER_CALL_LIMIT);
    assert_eq!(
        EvalError::CostLimitExceeded.to_string(),
        "operation cancelled: actual cost limit exceeded"
    );

    let mut budget = Budget::new(2_500);
    let cheap = env.compile("list.all(x, true)", &[Type::Bool]).unwrap();
    assert_eq!(cheap.eval(&variables, &mut budget).unwrap_err(), EvalError::OutOfBudget);
    assert_eq!(budget.remaining(), 0);

    let never = || true;
    let mut budget = Budget::new(u64::MAX).with_interrupt(&never);
    assert_eq!(program.eval(&variables, &mut budget).unwrap_err(), EvalError::Interrupted);
}
