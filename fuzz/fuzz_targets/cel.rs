//! Bytes as an expression: what compiles can be run, within its limits, and means the same when it is compiled again.

#![no_main]

use std::sync::{Arc, LazyLock};

use apimachinery::{Value, value};
use cel::{Activation, Budget, DeclType, Env, Library, Type, Val, limits};
use libfuzzer_sys::fuzz_target;

static ENV: LazyLock<Env> = LazyLock::new(|| {
    let schema = value!({"type": "object", "properties": {
        "size": {"type": "integer"}, "name": {"type": "string"}, "at": {"type": "string", "format": "date-time"},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
    }});
    let decl = DeclType::from_schema(&schema, "selfType", true).expect("because it describes an object");
    let libraries = [Library::Bindings, Library::Math, Library::Encoders, Library::JsonPatch, Library::StringsReverse];
    libraries
        .into_iter()
        .fold(Env::kubernetes(), Env::with_library)
        .with_variable("self", Arc::new(decl))
        .with_variable("object", Type::Dyn)
});

static OBJECT: LazyLock<Value> = LazyLock::new(|| {
    value!({
        "size": 3, "name": "web-1", "at": "2024-01-01T00:00:00Z", "tags": ["a", "b"], "map": {"x": 1},
        "nested": {"list": [1, "two", 3.5, null, {"k": true}]},
    })
});

fuzz_target!(|text: &str| {
    let checked = ENV.compile(text, &[]);
    if let Err(issues) = &checked {
        assert!(!issues.0.is_empty());
        let _ = issues.to_string();
    }
    let program = match checked {
        Ok(program) => {
            let estimate = program.cost_estimate();
            assert!(estimate.min <= estimate.max, "{estimate:?}");
            program
        }
        Err(_) => match ENV.compile_unchecked(text) {
            Ok(program) => program,
            Err(_) => return,
        },
    };
    let variables = Activation::new(&ENV)
        .with_json(&ENV, "self", &OBJECT)
        .expect("because it is what the schema says")
        .with(&ENV, "object", Val::plain(&OBJECT));
    let run = || {
        let mut budget = Budget::new(limits::RUNTIME_COST_BUDGET).with_call_limit(limits::PER_CALL_LIMIT / 10);
        let result = program.eval(&variables, &mut budget);
        (result.map(|it| it.size()), budget.last_cost())
    };
    assert_eq!(run(), run(), "an expression has one meaning");
});
