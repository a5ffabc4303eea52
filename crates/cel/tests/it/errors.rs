//! What is wrong with a text, in the words that clients of upstream read.

use std::sync::Arc;

use apimachinery::value;
use cel::{Activation, Budget, DeclType, Env, IssueKind, Library, Type, Val, Version};

fn env() -> Env {
    let schema = value!({"type": "object", "properties": {
        "size": {"type": "integer"}, "name": {"type": "string"},
        "spec": {"type": "object", "properties": {"a": {"type": "string"}}},
        "tags": {"type": "array", "items": {"type": "string"}},
    }});
    let decl = Arc::new(DeclType::from_schema(&schema, "selfType", true).unwrap());
    Env::kubernetes()
        .with_variable("self", decl)
        .with_variable("a", Type::Dyn)
        .with_variable("b", Type::Dyn)
        .with_variable("x", Type::Int)
}

fn check(env: &Env, text: &str, expected: &str) {
    match env.compile(text, &[Type::Bool]) {
        Ok(_) => panic!("compiles: {text}"),
        Err(issues) => assert_eq!(issues.to_string(), expected, "{text}"),
    }
}

#[test]
fn texts_that_do_not_parse_are_refused_in_upstreams_words() {
    let blocks = include_str!("syntax-errors.txt").trim_end().split("\n----\n");
    let mut count = 0;
    for block in blocks {
        let (text, expected) = block.split_once("\n=>\n").unwrap();
        check(&env(), text, expected);
        count += 1;
    }
    assert_eq!(count, 23);
    let nothing = env().compile("", &[]).unwrap_err().to_string();
    assert!(
        nothing
            .starts_with("ERROR: <input>:1:1: Syntax error: mismatched input '<EOF>' expecting {"),
        "{nothing}"
    );
}

#[test]
fn wide_characters_are_pointed_at_with_wide_dots() {
    let expected = "ERROR: <input>:1:5: undeclared reference to 'z' (in container '')\n | '\u{1f601}'+z\n | .\u{ff0e}..^";
    check(&env(), "'\u{1f601}'+z", expected);
}

#[test]
fn texts_that_do_not_type_check_are_refused_in_upstreams_words() {
    for (text, place, message, dots) in [
        ("y", "1:1", "undeclared reference to 'y' (in container '')", 0),
        ("self.y", "1:5", "undefined field 'y'", 4),
        ("self.size.y", "1:10", "type 'int' does not support field selection", 9),
        ("f(1)", "1:2", "undeclared reference to 'f' (in container '')", 1),
        ("self.size.f()", "1:12", "undeclared reference to 'f' (in container '')", 11),
        (
            "self.size == 'a'",
            "1:11",
            "found no matching overload for '_==_' applied to '(int, string)'",
            10,
        ),
        (
            "self.name.startsWith(1)",
            "1:21",
            "found no matching overload for 'startsWith' applied to 'string.(int)'",
            20,
        ),
        (
            "self.size && true",
            "1:11",
            "found no matching overload for '_&&_' applied to '(int, bool)'",
            10,
        ),
        (
            "size(self.tags, 1)",
            "1:5",
            "found no matching overload for 'size' applied to '(list(string), int)'",
            4,
        ),
        ("[1, 'a'] == [1]", "1:5", "expected type 'int' but found 'string'", 4),
        ("{'a': 1, 'b': true} == {}", "1:15", "expected type 'int' but found 'bool'", 14),
        (
            "self.size.all(i, true)",
            "1:5",
            "expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
            4,
        ),
        (
            "self.tags.all(i, 1)",
            "1:14",
            "found no matching overload for '_&&_' applied to '(bool, int)'",
            13,
        ),
        ("Foo{a: 1} == null", "1:4", "undeclared reference to 'Foo' (in container '')", 3),
        ("duration('x') > duration('1h')", "1:10", "invalid duration argument", 9),
        ("'a'.matches('(')", "1:13", "invalid matches argument", 12),
        ("matches('(', '(')", "1:14", "invalid matches argument", 13),
    ] {
        let dots = ".".repeat(dots);
        check(&env(), text, &format!("ERROR: <input>:{place}: {message}\n | {text}\n | {dots}^"));
    }
}

#[test]
fn results_and_constants_are_checked_too() {
    let refused = |text: &str| {
        let issues = env().compile(text, &[Type::Bool]).unwrap_err();
        (issues.0[0].kind, issues.to_string())
    };
    assert_eq!(refused("1"), (IssueKind::OutputType, "must evaluate to bool".into()));
    assert_eq!(refused("int('x') == 1").0, IssueKind::Instantiation);
    let issues = env().compile("1", &[Type::String, Type::Null]).unwrap_err();
    assert_eq!(issues.to_string(), "must evaluate to one of [string null_type]");
}

#[test]
fn depth_and_size_are_bounded_and_what_is_allowed_runs_on_a_small_stack() {
    let env = env();
    let no_place = |message: &str| format!("ERROR: <input>:-1:0: {message}");
    let nested = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    let sum = |n: usize| format!("x{}", " + x".repeat(n));
    let logic = |n: usize| format!("x == 1{}", " || x == 1".repeat(n));
    check(
        &env,
        &format!("{} == []", nested(250)),
        &no_place("expression recursion limit exceeded: 250"),
    );
    check(&env, &format!("{} == 1", sum(250)), &no_place("max recursion depth exceeded"));
    check(
        &env,
        &"a".repeat(100_001),
        &no_place("expression code point size exceeds limit: size: 100001, limit 100000"),
    );
    let work = move || {
        let deep = [
            format!("{} == {}", nested(249), nested(249)),
            format!("{} == 250", sum(249)),
            format!("{}true{}", "(".repeat(249), ")".repeat(249)),
            format!("{}true", "!!".repeat(2_000)),
            format!("{}x == 1{}", "[1].all(y, ".repeat(120), ")".repeat(120)),
            logic(5_000),
        ];
        for text in deep {
            let program = env
                .compile(&text, &[Type::Bool])
                .unwrap_or_else(|why| panic!("{text:.60}: {why:.200}"));
            let variables = Activation::new(&env).with(&env, "x", Val::Int(1));
            let result = program.eval(&variables, &mut Budget::new(u64::MAX));
            assert_eq!(result.unwrap().as_bool(), Some(true), "{text:.60}");
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn types_cannot_grow_without_end() {
    let text = format!("[1]{}.size() == 1", ".map(x, {x: x})".repeat(100));
    let issues = env().compile(&text, &[]).unwrap_err();
    assert!(issues.to_string().contains("type size limit exceeded"), "{issues}");
}

#[test]
fn of_very_many_errors_the_rest_is_counted() {
    let issues = env().compile(&"@\n".repeat(1000), &[]).unwrap_err();
    assert_eq!(issues.0.len(), 100);
    assert!(issues.to_string().ends_with("\n901 more errors were truncated"), "{issues}");
    let long = env().compile(&"@".repeat(100_000), &[]).unwrap_err().to_string();
    assert!(long.len() < 2 << 20, "{}", long.len());
}

#[test]
fn macros_that_copy_cannot_grow_a_text_without_end() {
    let text = format!("optional.of(1){}.hasValue()", ".optMap(y, y)".repeat(40));
    let issues = env().compile(&text, &[]).unwrap_err();
    assert_eq!(
        issues.to_string(),
        "ERROR: <input>:-1:0: expression node count exceeds limit: 200000"
    );
}

#[test]
fn libraries_come_with_their_version() {
    for (text, since) in [
        ("url('https://a/b').getHost() == 'a'", 0),
        ("[1].sum() == 1", 0),
        ("'a'.upperAscii() == 'A'", 0),
        ("1 < 1.5", 28),
        ("optional.of(1).hasValue()", 28),
        ("isQuantity('1')", 28),
        ("'%d'.format([1]) == '1'", 29),
        ("sets.contains([1], [1])", 29),
        ("isIP('1.1.1.1')", 30),
        ("isCIDR('1.1.1.1/8')", 30),
        ("format.named('uri').hasValue()", 31),
        ("[1].all(i, v, i == 0)", 32),
        ("isSemver('1.0.0')", 33),
        ("[2, 1].sort() == [1, 2]", 34),
    ] {
        assert!(
            Env::compatible_with(Version::v1(since)).compile(text, &[Type::Bool]).is_ok(),
            "{text}"
        );
        if since > 0 {
            let before = Env::compatible_with(Version::v1(since - 1)).compile(text, &[Type::Bool]);
            assert!(before.is_err(), "{text} before 1.{since}");
        }
        assert!(Env::kubernetes().compile(text, &[Type::Bool]).is_ok(), "{text} now");
    }
    for (text, library) in [
        ("cel.bind(a, 1, a == 1)", Library::Bindings),
        ("math.greatest(1, 2) == 2", Library::Math),
        ("base64.encode(b'a') == 'YQ=='", Library::Encoders),
        ("jsonpatch.escapeKey('a/b~') == 'a~1b~0'", Library::JsonPatch),
    ] {
        assert!(Env::kubernetes().compile(text, &[]).is_err(), "{text}");
        assert!(Env::kubernetes().with_library(library).compile(text, &[]).is_ok(), "{text}");
    }
}
