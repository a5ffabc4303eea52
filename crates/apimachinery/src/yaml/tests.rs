use super::*;

fn check(text: &str, expected: &str) {
    let outcome = match parse_reporting(text.as_bytes()) {
        Ok((value, repeated)) => {
            let text = crate::json::to_string(&value);
            strict_error(&repeated).map_or(text.clone(), |error| format!("{text} {error}"))
        }
        Err(error) => error.to_string(),
    };
    assert_eq!(outcome, expected, "for {text:?}");
}

#[test]
fn scalars_mean_what_go_takes_them_for() {
    for (text, expected) in [
        ("", "null"),
        ("~", "null"),
        ("# only a comment", "null"),
        ("null", "null"),
        ("yes", "true"),
        ("y", "true"),
        ("Off", "false"),
        ("n", "false"),
        ("'yes'", "\"yes\""),
        ("!!str yes", "\"yes\""),
        ("1", "1"),
        ("-1", "-1"),
        ("+1", "1"),
        ("0x1F", "31"),
        ("5e9999", "\"5e9999\""),
        ("-0.0", "0"),
        ("0o17", "15"),
        ("017", "15"),
        ("0644", "420"),
        ("08", "8"),
        ("0b11", "3"),
        ("1_000", "1000"),
        ("1.5", "1.5"),
        ("1.", "1"),
        (".5", "0.5"),
        ("1e3", "1000"),
        (".", "\".\""),
        ("-", "[null]"),
        ("1.2.3", "\"1.2.3\""),
        ("9223372036854775808", "9223372036854776000"),
        ("-9223372036854775809", "-9223372036854776000"),
        ("2001-01-01", "\"2001-01-01\""),
        ("2001-12-14t21:59:43.10-05:00", "\"2001-12-14t21:59:43.10-05:00\""),
        ("10.0.0.1", "\"10.0.0.1\""),
        ("1:30", "\"1:30\""),
        ("!custom 1", "\"1\""),
        ("!!int '3'", "3"),
        ("!!binary aGk=", "\"hi\""),
        (".inf", "json: unsupported value: +Inf"),
        ("!!int x", "yaml: line 1: cannot decode !!str `x` as a !!int"),
    ] {
        check(text, expected);
    }
}

#[test]
fn documents_become_values() {
    for (text, expected) in [
        ("a: 1\nb:\n- x\n- {c: d, e: [1, 2]}\n", r#"{"a":1,"b":["x",{"c":"d","e":[1,2]}]}"#),
        (
            "on: x\n1: y\n1.5: z\ntrue: w\n",
            "{\"1\":true,\"1.5\":\"z\",\"true\":\"w\"} yaml: unmarshal errors:\n  line 4: key \"true\" already set in map",
        ),
        ("a: |\n  x\n  y\nb: >\n  x\n  y\n", r#"{"a":"x\ny\n","b":"x y\n"}"#),
        (
            "a: &x {k: 1}\nb: *x\nc:\n  <<: *x\n  l: 2\n",
            r#"{"a":{"k":1},"b":{"k":1},"c":{"k":1,"l":2}}"#,
        ),
        (
            "a: &x {k: 1}\nb: &y {k: 2, m: 3}\nc: {<<: [*x, *y], z: 0}\n",
            r#"{"a":{"k":1},"b":{"k":2,"m":3},"c":{"k":1,"m":3,"z":0}}"#,
        ),
        ("a: 1\n---\nb: [\n", r#"{"a":1}"#),
        ("---\na: 1\n...\n", r#"{"a":1}"#),
        ("{\"a\": \"\\u00e9\"}", r#"{"a":"é"}"#),
        (
            "data: {a: x}\ndata: {b: z}\n",
            "{\"data\":{\"b\":\"z\"}} yaml: unmarshal errors:\n  line 2: key \"data\" already set in map",
        ),
        (
            "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
            r#"{"a":["x","x"],"b":[["x","x"],["x","x"]],"c":[[["x","x"],["x","x"]],[["x","x"],["x","x"]]]}"#,
        ),
    ] {
        check(text, expected);
    }
}

#[test]
fn what_is_no_yaml_is_refused() {
    for (text, expected) in [
        ("a: [", "yaml: line 1: did not find expected node content"),
        ("\tx", "yaml: found character that cannot start any token"),
        ("a: b: c", "yaml: mapping values are not allowed in this context"),
        ("a: 1\nb: c: d", "yaml: line 2: mapping values are not allowed in this context"),
        ("a: *x", "yaml: line 1: unknown anchor referenced"),
        ("a: \"x", "yaml: found unexpected end of stream"),
        ("a: &x [*x]", "yaml: line 1: anchor value contains itself"),
        (
            "[a]: b",
            "yaml: line 1: unsupported map key: only text, numbers and booleans can be keys",
        ),
        ("<<: 1", "yaml: line 1: map merge requires map or sequence of maps as the value"),
    ] {
        check(text, expected);
    }
    assert_eq!(parse(b"\xff"), Err(YamlError::Utf8));
}

#[test]
fn aliases_and_depth_have_limits() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..20 {
        let items = vec![format!("*a{}", level - 1); 10].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    assert_eq!(parse(bomb.as_bytes()), Err(YamlError::Aliases));
    let too_deep = Err(YamlError::Depth { line: 1 });
    assert_eq!(parse("[".repeat(100_000).as_bytes()), too_deep);
    assert_eq!(parse("- ".repeat(100_000).as_bytes()), too_deep);
    assert_eq!(parse(format!("{}{}", "- ".repeat(300), "[".repeat(300)).as_bytes()), too_deep);
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(parse(nested(DEPTH_MAX).as_bytes()).is_ok());
    // Aliases in one another nest deeper than any text of theirs.
    let chained = format!("- &a {}\n- &b {}\n", nested(150), nested(100).replace("[]", "[*a]"));
    assert_eq!(parse(chained.as_bytes()), Err(YamlError::Depth { line: 2 }));
    // Anchors in one another are copies of one another.
    let text = "x".repeat(1 << 20);
    let anchors: String = (0..100).map(|number| format!("[&a{number} ")).collect();
    let many = format!("{anchors}{text}{}", "]".repeat(100));
    assert_eq!(parse(many.as_bytes()).err(), Some(YamlError::Aliases));
}

/// Checks what a JSON value is as text; it has to be read as the same value.
fn check_written(json: &str, expected: &str) {
    let value = crate::json::parse(json.as_bytes()).unwrap();
    let text = to_string(&value);
    assert_eq!(text, expected, "of {json}");
    assert_eq!(parse(text.as_bytes()), Ok(value), "from {text}");
}

#[test]
fn values_are_written_as_go_writes_them() {
    for (json, expected) in [
        (
            r#"{"b":1,"a":[{"x":null,"y":true},{}],"c":{}}"#,
            "a:\n- x: null\n  \"y\": true\n- {}\nb: 1\nc: {}\n",
        ),
        (r#"[["a","b"],[]]"#, "- - a\n  - b\n- []\n"),
        (
            r#"{"f:metadata":{".":{},"f:labels":{"k:{\"name\":\"c\"}":{}}}}"#,
            "f:metadata:\n  .: {}\n  f:labels:\n    k:{\"name\":\"c\"}: {}\n",
        ),
        // Names: others before letters, numbers by their size.
        (r#"{"a10":1,"a9":2,"a-b":3,"aB":4,"A":5}"#, "A: 5\na-b: 3\na9: 2\na10: 1\naB: 4\n"),
        // What would be something else has double quotes.
        (
            r#"["","~","on","n","1","0x1f","1e3","1:30","2024-01-02","2024-01-02T03:04:05Z","<<",".5","true","x"]"#,
            "- \"\"\n- \"~\"\n- \"on\"\n- \"n\"\n- \"1\"\n- \"0x1f\"\n- \"1e3\"\n- \"1:30\"\n- \"2024-01-02\"\n- \"2024-01-02T03:04:05Z\"\n- \"<<\"\n- \".5\"\n- \"true\"\n- x\n",
        ),
        // What cannot be plain has single ones.
        (
            r##"["# a","a: b","a #b","a:b","- a","-a"," a","a ","*","a'b","'a","{}","a,b","a\tb","ü","a:"]"##,
            "- '# a'\n- 'a: b'\n- 'a #b'\n- a:b\n- '- a'\n- -a\n- ' a'\n- 'a '\n- '*'\n- a'b\n- '''a'\n- '{}'\n- a,b\n- \"a\\tb\"\n- ü\n- 'a:'\n",
        ),
        (
            r#"{"a":"x\ny\n","b":"x","c":"x\ny","d":"x\n\n","e":" x\n","f":"x \ny"}"#,
            "a: |\n  x\n  y\nb: x\nc: |-\n  x\n  y\nd: |+\n  x\n\ne: |2\n   x\nf: \"x \\ny\"\n",
        ),
        (
            r#"[0.5,1e21,1234567.5,100000.5,0.00001]"#,
            "- 0.5\n- 1e+21\n- 1.2345675e+06\n- 100000.5\n- 1e-05\n",
        ),
    ] {
        check_written(json, expected);
    }
    let words = "word ".repeat(30);
    check_written(
        &format!(r#"{{"a":{{"text":"{}","quoted":"{}: x"}}}}"#, words.trim(), words.trim()),
        &format!(
            "a:\n  quoted: '{}\n    {}: x'\n  text: {}\n    {}\n",
            "word ".repeat(15).trim(),
            "word ".repeat(15).trim(),
            "word ".repeat(15).trim(),
            "word ".repeat(15).trim(),
        ),
    );
    let key = "k".repeat(130);
    check_written(
        &format!(r#"{{"{key}":{{"a":1,"b":2}}}}"#),
        &format!("? {key}\n: a: 1\n  b: 2\n"),
    );
    // An order in circles does no harm.
    let names: Vec<String> = (0..40).flat_map(|it| [format!("a{it}"), format!("a{it}b")]).collect();
    let members: Vec<String> = names.iter().map(|it| format!("{it:?}:1")).collect();
    let value = crate::json::parse(format!("{{{}}}", members.join(",")).as_bytes()).unwrap();
    assert_eq!(parse(to_string(&value).as_bytes()), Ok(value));
}
