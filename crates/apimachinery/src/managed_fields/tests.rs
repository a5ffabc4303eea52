use super::*;
use crate::schema::{Field, List, ListKind, Map, Node, Patch, Presence, Struct};

/// `{apiVersion, metadata: {labels, name, annotations}, spec (always): {n (always), args (atomic), ports: keyed, set, sel (atomic, always)}, status}`
fn schema() -> Schema {
    let field = |name: &'static str, node, presence| Field {
        name: name.into(),
        node,
        presence,
        patch: Patch::REPLACE,
        merge_key: "".into(),
    };
    let record = |name: &'static str, atomic, fields: Vec<Field>| {
        let (name, package, fields) = (name.into(), "v1".into(), fields.into());
        Node::Struct(Struct { name, package, atomic, preserve_unknown: false, fields })
    };
    let list = |item, kind, keys: Vec<&'static str>| {
        let keys = keys.into_iter().map(Into::into).collect();
        Node::List(List { item, kind, keys, defaults: None })
    };
    use Presence::{Always, OmitEmpty, Pointer};
    let nodes = vec![
        record(
            "Thing",
            false,
            vec![
                field("apiVersion", 4, OmitEmpty),
                field("metadata", 1, Pointer),
                field("spec", 3, Always),
                field("status", 9, Always),
            ],
        ),
        record(
            "Meta",
            false,
            vec![
                field("annotations", 2, OmitEmpty),
                field("labels", 2, OmitEmpty),
                field("name", 4, OmitEmpty),
            ],
        ),
        Node::Map(Map { value: 4, atomic: false }),
        record(
            "Spec",
            false,
            vec![
                field("args", 5, OmitEmpty),
                field("n", 6, Always),
                field("ports", 7, Always),
                field("sel", 10, Always),
                field("set", 8, OmitEmpty),
            ],
        ),
        Node::String,
        list(4, ListKind::Atomic, vec![]),
        Node::Int32,
        list(11, ListKind::Map, vec!["port", "protocol"]),
        list(4, ListKind::Set, vec![]),
        record("Status", false, vec![field("n", 6, OmitEmpty)]),
        record("Selector", true, vec![field("labels", 2, OmitEmpty)]),
        record(
            "Port",
            false,
            vec![
                field("name", 4, OmitEmpty),
                field("port", 6, Always),
                field("protocol", 4, OmitEmpty),
            ],
        ),
    ];
    Schema { nodes: nodes.into(), go_names: (&[]).into() }
}

fn parse(text: &str) -> Value {
    crate::json::parse(text.as_bytes()).unwrap()
}

fn check(old: Option<&str>, new: &str, changed: &str, removed: &str) {
    let old = old.map(parse);
    let found = compare(&schema(), 0, old.as_ref(), &parse(new));
    let text = |set: FieldSet| crate::json::to_string(&set.into_value());
    assert_eq!(text(found.changed), changed, "changed by {new}");
    assert_eq!(text(found.removed), removed, "removed by {new}");
}

#[test]
fn fields_of_a_new_object_are_those_that_differ_from_zero() {
    for (new, changed) in [
        ("{}", "{}"),
        (r#"{"spec":{"n":0,"ports":null,"sel":{}}}"#, "{}"),
        (r#"{"spec":{"n":1}}"#, r#"{"f:spec":{"f:n":{}}}"#),
        (r#"{"spec":{"sel":{"labels":{"a":"b"}}}}"#, r#"{"f:spec":{"f:sel":{}}}"#),
        (
            r#"{"metadata":{"labels":{"a":"b"}}}"#,
            r#"{"f:metadata":{".":{},"f:labels":{".":{},"f:a":{}}}}"#,
        ),
        (
            r#"{"spec":{"args":["a"],"set":["x","a"]}}"#,
            r#"{"f:spec":{"f:args":{},"f:set":{".":{},"v:\"a\"":{},"v:\"x\"":{}}}}"#,
        ),
        (
            r#"{"spec":{"ports":[{"port":80},{"port":0,"protocol":"UDP"}]}}"#,
            r#"{"f:spec":{"f:ports":{"k:{\"port\":0,\"protocol\":\"UDP\"}":{".":{},"f:port":{},"f:protocol":{}},"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{}}}}}"#,
        ),
        (r#"{"spec":{"ports":[]}}"#, r#"{"f:spec":{"f:ports":{}}}"#),
    ] {
        check(None, new, changed, "{}");
    }
}

#[test]
fn changes_and_removals_are_told_apart() {
    let old = r#"{"metadata":{"labels":{"a":"1","b":"2"}},"spec":{"n":1,"ports":[{"port":80,"protocol":"TCP","name":"x"},{"port":81,"protocol":"TCP"}],"set":["a","b"]}}"#;
    check(Some(old), old, "{}", "{}");
    check(
        Some(old),
        r#"{"metadata":{"labels":{"a":"3","c":"4"}},"spec":{"n":1,"ports":[{"port":82,"protocol":"TCP"},{"port":80,"protocol":"TCP","name":"y"}],"set":["b","c"]}}"#,
        r#"{"f:metadata":{"f:labels":{"f:a":{},"f:c":{}}},"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{"f:name":{}},"k:{\"port\":82,\"protocol\":\"TCP\"}":{".":{},"f:port":{},"f:protocol":{}}},"f:set":{"v:\"c\"":{}}}}"#,
        r#"{"f:metadata":{"f:labels":{"f:b":{}}},"f:spec":{"f:ports":{"k:{\"port\":81,\"protocol\":\"TCP\"}":{".":{},"f:port":{},"f:protocol":{}}},"f:set":{"v:\"a\"":{}}}}"#,
    );
    check(
        Some(old),
        r#"{"spec":{"n":0}}"#,
        r#"{"f:spec":{"f:n":{}}}"#,
        r#"{"f:metadata":{".":{},"f:labels":{".":{},"f:a":{},"f:b":{}}},"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{},"f:protocol":{}},"k:{\"port\":81,\"protocol\":\"TCP\"}":{".":{},"f:port":{},"f:protocol":{}}},"f:set":{".":{},"v:\"a\"":{},"v:\"b\"":{}}}}"#,
    );
    // Moving items changes nothing.
    check(Some(r#"{"spec":{"set":["a","b"]}}"#), r#"{"spec":{"set":["b","a"]}}"#, "{}", "{}");
    // Of duplicates only the fact that there are some is tracked.
    check(
        Some(r#"{"spec":{"set":["a"]}}"#),
        r#"{"spec":{"set":["a","a"]}}"#,
        r#"{"f:spec":{"f:set":{"v:\"a\"":{}}}}"#,
        r#"{"f:spec":{"f:set":{"v:\"a\"":{}}}}"#,
    );
}

struct Story {
    schema: Schema,
    live: Option<Value>,
}

impl Story {
    fn write(&mut self, manager: &str, subresource: &str, now: &str, object: &str) -> String {
        let reset: &[&[&str]] = if subresource.is_empty() { &[&["status"]] } else { &[&["spec"]] };
        let write = Write {
            schema: &self.schema,
            node: 0,
            manager,
            api_version: "v1",
            subresource,
            now,
            reset,
        };
        let mut object = parse(object);
        update(&write, self.live.as_ref(), &mut object);
        let entries = decode(
            object
                .at(&["metadata", "managedFields"])
                .cloned()
                .unwrap_or_else(|| Value::Array(vec![])),
        )
        .unwrap();
        self.live = Some(object);
        let shown = |it: Entry| {
            let fields = crate::json::to_string(&it.fields.into_value());
            format!("{} {} {}{fields}", it.manager, it.time.unwrap_or_default(), it.subresource)
        };
        entries.into_iter().map(shown).collect::<Vec<_>>().join("; ")
    }
}

#[test]
fn fields_go_to_who_wrote_them_last() {
    let mut story = Story { schema: schema(), live: None };
    assert_eq!(
        story.write(
            "a",
            "",
            "1",
            r#"{"metadata":{"name":"x"},"spec":{"n":1,"args":["x"]},"status":{"n":9}}"#
        ),
        r#"a 1 {"f:spec":{"f:args":{},"f:n":{}}}"#
    );
    // Nothing changes: not even the time.
    assert_eq!(
        story.write("a", "", "2", r#"{"metadata":{"name":"x"},"spec":{"n":1,"args":["x"]}}"#),
        r#"a 1 {"f:spec":{"f:args":{},"f:n":{}}}"#
    );
    assert_eq!(
        story.write("b", "", "3", r#"{"metadata":{"name":"x"},"spec":{"n":2,"args":["x"]}}"#),
        r#"a 1 {"f:spec":{"f:args":{}}}; b 3 {"f:spec":{"f:n":{}}}"#
    );
    assert_eq!(
        story.write(
            "c",
            "status",
            "4",
            r#"{"metadata":{"name":"x"},"spec":{"n":2,"args":["x"]},"status":{"n":1}}"#
        ),
        r#"a 1 {"f:spec":{"f:args":{}}}; b 3 {"f:spec":{"f:n":{}}}; c 4 status{"f:status":{"f:n":{}}}"#
    );
    // A removal takes from the owner and gives to nobody; an owner of nothing goes.
    assert_eq!(
        story.write("b", "", "5", r#"{"metadata":{"name":"x"},"spec":{"n":2},"status":{"n":1}}"#),
        r#"b 3 {"f:spec":{"f:n":{}}}; c 4 status{"f:status":{"f:n":{}}}"#
    );
    // One empty entry forgets all of it, and it stays forgotten.
    assert_eq!(
        story.write(
            "b",
            "",
            "6",
            r#"{"metadata":{"name":"x","managedFields":[{}]},"spec":{"n":3}}"#
        ),
        ""
    );
    assert_eq!(story.write("b", "", "7", r#"{"metadata":{"name":"x"},"spec":{"n":4}}"#), "");
}

#[test]
fn the_oldest_updates_are_merged_when_there_are_many() {
    let mut story = Story { schema: schema(), live: None };
    let mut last = String::new();
    for index in 10..25 {
        let labels: Vec<_> = (10..=index).map(|i| format!(r#""l{i}":"x""#)).collect();
        let object =
            format!(r#"{{"metadata":{{"labels":{{{}}}}},"spec":{{"n":1}}}}"#, labels.join(","));
        last = story.write(&format!("m{index}"), "", &index.to_string(), &object);
    }
    let managers: Vec<&str> = last.split("; ").map(|it| it.split(' ').next().unwrap()).collect();
    assert_eq!(
        managers,
        ["ancient-changes", "m16", "m17", "m18", "m19", "m20", "m21", "m22", "m23", "m24"]
    );
    assert!(
        last.starts_with(r#"ancient-changes 15 {"f:metadata":{"f:labels":{".":{},"f:l10":{}"#),
        "{last}"
    );
}

#[test]
fn malformed_entries_are_told() {
    let mut errors = FieldErrors::new();
    let list = parse(
        r#"[{"operation":"Bogus","fieldsType":"V2","manager":"a\u0007"},{"operation":"Update"}]"#,
    );
    validate(&list, &Path::new("metadata").child("managedFields"), &mut errors);
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        all,
        [
            "metadata.managedFields[0].operation: Invalid value: \"Bogus\": must be `Apply` or `Update`",
            "metadata.managedFields[0].fieldsType: Invalid value: \"V2\": must be `FieldsV1`",
            "metadata.managedFields[0].manager: Invalid value: \"a\\a\": invalid character U+0007 (at position 1)",
        ]
    );
    assert_eq!(decode(list).unwrap_err(), "operation must be `Apply` or `Update`");
    for (entry, why) in [
        (r#"{"operation":"Apply","fieldsType":"FieldsV1"}"#, "apiVersion must not be empty"),
        (
            r#"{"operation":"Apply","apiVersion":"v1"}"#,
            "missing fieldsType in managed fields entry 0",
        ),
        (
            r#"{"operation":"Apply","apiVersion":"v1","fieldsType":"V2"}"#,
            "invalid fieldsType \"V2\" in managed fields entry 0",
        ),
    ] {
        assert_eq!(decode(parse(&format!("[{entry}]"))).unwrap_err(), why);
    }
}

fn applied(story: &mut Story, manager: &str, force: bool, object: &str) -> String {
    let write = Write {
        schema: &story.schema,
        node: 0,
        manager,
        api_version: "v1",
        subresource: "",
        now: "5",
        reset: &[&["status"]],
    };
    match apply(&write, story.live.as_ref(), &parse(object), force) {
        Err(error) => error.to_string(),
        Ok(None) => "the same".into(),
        Ok(Some(mut object)) => {
            story.live = Some(object.clone());
            object.remove_at(&["metadata", "managedFields"]);
            if object.at(&["metadata"]) == Some(&Value::object()) {
                object.remove_at(&["metadata"]);
            }
            crate::json::to_string(&object)
        }
    }
}

#[test]
fn applying_takes_shares_and_lets_go() {
    let mut story = Story { schema: schema(), live: None };
    let mut check = |manager: &str, force: bool, object: &str, expected: &str| {
        let object = format!(r#"{{"apiVersion":"v1",{}"#, &object[1..]).replace(",}", "}");
        let expected = expected.replacen('{', r#"{"apiVersion":"v1","#, 1);
        assert_eq!(applied(&mut story, manager, force, &object), expected, "{manager} {object}");
    };
    let port = |n: u16| format!(r#"{{"port":{n},"protocol":"TCP"}}"#);
    let ports = |list: &[u16]| list.iter().map(|n| port(*n)).collect::<Vec<_>>().join(",");
    let of = |n: i32, list: &[u16]| format!(r#"{{"spec":{{"n":{n},"ports":[{}]}}}}"#, ports(list));
    check("a", false, &of(1, &[80, 81]), &of(1, &[80, 81]));
    check("a", false, &of(1, &[80, 81]), "the same");
    check(
        "b",
        false,
        r#"{"spec":{"n":2}}"#,
        r#"Apply failed with 1 conflict: conflict with "a": .spec.n"#,
    );
    check("b", true, r#"{"spec":{"n":2}}"#, &of(2, &[80, 81]));
    // The applied order rules among the shared; what is another's stays where it was.
    check(
        "c",
        false,
        &format!(r#"{{"spec":{{"ports":[{}]}}}}"#, ports(&[82, 81])),
        &of(2, &[80, 82, 81]),
    );
    check("a", false, &format!(r#"{{"spec":{{"ports":[{}]}}}}"#, ports(&[81])), &of(2, &[82, 81]));
    check(
        "c",
        false,
        r#"{"metadata":{"labels":{"x":"1"}}}"#,
        &format!(r#"{{"metadata":{{"labels":{{"x":"1"}}}},{}"#, &of(2, &[81])[1..]),
    );
    check("c", false, "{}", &of(2, &[81]));
}

#[test]
fn what_has_become_one_field_is_owned_as_a_whole() {
    let parts = |story: &mut Story| {
        let of = |n: i32| {
            format!(
                r#"{{"apiVersion":"v1","metadata":{{"labels":{{"l{n}":"v"}}}},"spec":{{"set":["s{n}"]}}}}"#
            )
        };
        for (n, manager) in [(1, "a"), (2, "b")] {
            applied(story, manager, false, &of(n));
        }
        of(1)
    };
    let labels = |atomic| Node::Map(Map { value: 4, atomic });
    let set = |kind| Node::List(List { item: 4, kind, keys: [].as_slice().into(), defaults: None });
    let mut story = Story { schema: schema(), live: None };
    let first = parts(&mut story);
    let nodes = story.schema.nodes.to_mut();
    (nodes[2], nodes[8]) = (labels(true), set(ListKind::Atomic));
    assert_eq!(
        applied(&mut story, "a", false, &first),
        "Apply failed with 2 conflicts: conflicts with \"b\":\n- .metadata.labels\n- .spec.set"
    );
    let mut update = story.live.clone().unwrap();
    update.set_at(&["spec", "n"], Value::from(7));
    super::update(&write(&story.schema, "c"), story.live.as_ref(), &mut update);
    let whole = r#""f:metadata":{"f:labels":{}},"f:spec":{"f:set":{}}"#;
    let owners = crate::json::to_string(update.at(&["metadata", "managedFields"]).unwrap());
    assert_eq!(owners.matches(whole).count(), 2, "{owners}");
    // Not back: the parts of what was a whole are nobody's.
    story.live = Some(update);
    story.schema = schema();
    let third = r#"{"apiVersion":"v1","metadata":{"labels":{"l1":"w"}}}"#;
    assert!(applied(&mut story, "d", false, third).contains(r#""labels":{"l1":"w","l2":"v"}"#));
}

#[test]
fn what_does_not_fit_its_type_is_not_applied() {
    let mut story = Story { schema: schema(), live: None };
    for (object, problem) in [
        (r#"{"spec":{"bogus":1}}"#, ".spec.bogus: field not declared in schema"),
        (r#"{"spec":{"n":"x"}}"#, ".spec.n: expected numeric (int or float), got string"),
        (r#"{"spec":{"set":["a","a"]}}"#, r#".spec.set: duplicate entries for key [="a"]"#),
        (
            r#"{"spec":{"ports":[1]}}"#,
            ".spec.ports: element 0: associative list with keys may not have non-map elements",
        ),
        (
            r#"{"spec":{"ports":[{"bogus":"x"},null]}}"#,
            "errors:\n  .spec.ports[port=0,protocol=\"TCP\"].bogus: field not declared in schema\n  .spec.ports: element 1: associative list with keys may not have a null element",
        ),
        (
            r#"{"spec":{"set":[{}]}}"#,
            ".spec.set: element 0: associative list without keys has an element that's a map type",
        ),
        (
            r#"{"spec":1,"x":1}"#,
            "errors:\n  .spec: expected map, got &{1}\n  .x: field not declared in schema",
        ),
    ] {
        // The schema of these tests has no type fields; upstream's has.
        let problem = format!("failed to create typed patch object (/; /, Kind=): {problem}");
        let write = Write {
            schema: &story.schema,
            node: 0,
            manager: "m",
            api_version: "",
            subresource: "",
            now: "1",
            reset: &[],
        };
        let error = apply(&write, story.live.as_ref(), &parse(object), false).unwrap_err();
        assert_eq!(error.to_string(), problem, "{object}");
    }
    story.live = None;
    assert_eq!(
        applied(&mut story, "m", false, r#"{"apiVersion":"v2"}"#),
        "Incorrect version specified in apply patch. Specified patch version: v2, expected: v1"
    );
}

#[test]
fn kubectl_takes_over_what_it_applied_from_the_client() {
    let mut story = Story { schema: schema(), live: None };
    let annotation = r#"{\"apiVersion\":\"v1\",\"spec\":{\"n\":1}}"#;
    let object = |n: i32| {
        format!(
            r#"{{"apiVersion":"v1","metadata":{{"annotations":{{"kubectl.kubernetes.io/last-applied-configuration":"{annotation}"}}}},"spec":{{"n":{n}}}}}"#
        )
    };
    story.write("kubectl-client-side-apply", "", "1", &object(1));
    let next = r#"{"apiVersion":"v1","spec":{"n":2}}"#;
    let conflict = r#"Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using v1: .spec.n"#;
    assert_eq!(applied(&mut story, "other", false, next), conflict);
    let after = applied(&mut story, "kubectl", false, next);
    assert_eq!(
        after,
        r#"{"apiVersion":"v1","metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"apiVersion\":\"v1\",\"spec\":{\"n\":2}}\n"}},"spec":{"n":2}}"#
    );
    // A value that somebody else changed since is theirs.
    let mut story = Story { schema: schema(), live: None };
    story.write("edit", "", "1", &object(7));
    assert_eq!(
        applied(&mut story, "kubectl", false, next),
        conflict.replace("kubectl-client-side-apply", "edit")
    );
}

fn write<'w>(schema: &'w Schema, manager: &'w str) -> Write<'w> {
    let (api_version, subresource, reset) = ("v1", "", &[][..]);
    Write { schema, node: 0, manager, api_version, subresource, now: "1", reset }
}

#[test]
fn an_applied_item_takes_the_place_of_all_live_ones_of_its_name() {
    let schema = schema();
    let live = parse(
        r#"{"spec":{"ports":[{"name":"a","port":1},{"name":"b","port":1},{"name":"c","port":2}]}}"#,
    );
    let config = parse(r#"{"apiVersion":"v1","spec":{"ports":[{"port":1}]}}"#);
    let merged = apply(&write(&schema, "m"), Some(&live), &config, true).unwrap().unwrap();
    assert_eq!(merged["spec"], parse(r#"{"ports":[{"port":1},{"name":"c","port":2}]}"#));
}

#[test]
fn what_is_emptied_is_null_where_somebody_owns_it() {
    let schema = schema();
    let mut live = parse(r#"{"apiVersion":"v1","metadata":{"labels":{}},"spec":{"n":1}}"#);
    update(&write(&schema, "u"), None, &mut live);
    let config = |labels: &str| {
        parse(&format!(r#"{{"apiVersion":"v1","metadata":{{"name":"x"{labels}}}}}"#))
    };
    let first = apply(&write(&schema, "m"), Some(&live), &config(r#","labels":{"a":"b"}"#), false);
    let first = first.unwrap().unwrap();
    let second = apply(&write(&schema, "m"), Some(&first), &config(""), false).unwrap().unwrap();
    assert!(second["metadata"].as_object().unwrap().get("labels").unwrap().is_null());
}

#[test]
fn conflicts_are_told_level_by_level() {
    let schema = schema();
    let mut live = parse(
        r#"{"metadata":{"labels":{"a":"b"}},"spec":{"n":1,"sel":{"labels":{"a":"b"}},"set":["x"]}}"#,
    );
    update(&write(&schema, "u"), None, &mut live);
    let config = r#"{"apiVersion":"v1","metadata":{"labels":{"a":"c"}},"spec":{"n":2,"sel":{}}}"#;
    let error = apply(&write(&schema, "m"), Some(&live), &parse(config), false).unwrap_err();
    let ApplyError::Conflicts(conflicts) = error else { panic!("{error}") };
    let fields: Vec<&str> = conflicts.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(fields, [".metadata.labels.a", ".spec.n", ".spec.sel"]);
    let set = parse(r#"{"f:z":{},"f:a":{"f:c":{"f:d":{}},"f:e":{}}}"#);
    let mut paths = Vec::new();
    FieldSet::from_value(set).unwrap().each_path(&mut |path| paths.push(path_text(path)));
    assert_eq!(paths, [".z", ".a.e", ".a.c.d"]);
}

#[test]
fn nothing_is_tracked_where_an_item_has_no_name() {
    let schema = schema();
    let mut object = parse(r#"{"spec":{"set":[{"a":1}]}}"#);
    update(&write(&schema, "u"), None, &mut object);
    assert!(object.at(&["metadata", "managedFields"]).is_none());
}
