use super::*;

fn policy(rules: &str) -> Policy {
    Policy::parse(format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}").as_bytes()).unwrap()
}

/// A request in words: `verb group/resource/subresource namespace name` (group `core`: none) or `verb /path`.
fn level(policy: &Policy, user: &str, request: &str) -> &'static str {
    let (user, group) = user.split_once(' ').unwrap_or((user, ""));
    let groups = [group.to_owned()];
    let words: Vec<&str> = request.split(' ').collect();
    let is_path = words[1].starts_with('/');
    let what: Vec<&str> = words[1].split('/').collect();
    let at = |list: &[&'static str], index: usize| list.get(index).copied().unwrap_or_default();
    let leak = |text: &str| -> &'static str { text.to_owned().leak() };
    let what: Vec<&'static str> = what.into_iter().map(leak).collect();
    let words: Vec<&'static str> = words.into_iter().map(leak).collect();
    let resource = (!is_path).then(|| Resource {
        group: if what[0] == "core" { "" } else { what[0] },
        resource: at(&what, 1),
        subresource: at(&what, 2),
        namespace: at(&words, 2),
        name: at(&words, 3),
    });
    let attributes =
        Attributes { user, groups: &groups, verb: words[0], resource, path: at(&words, 1) };
    policy.evaluate(&attributes).level.as_str()
}

#[test]
fn the_first_rule_that_matches_decides() {
    let policy = policy(
        "rules:
- {level: None, users: [robot], verbs: [get, list]}
- {level: Metadata, userGroups: [auditors]}
- level: RequestResponse
  resources: [{group: '', resources: [secrets, pods/log]}, {group: apps, resources: ['*/scale']}]
- {level: Request, resources: [{group: '', resources: [configmaps], resourceNames: [one]}]}
- {level: Request, resources: [{group: batch}]}
- {level: Metadata, resources: [{group: '', resources: ['nodes/*']}], namespaces: ['']}
- {level: None, nonResourceURLs: ['/healthz*', /version]}
- {level: Request, namespaces: [deep]}
- {level: Metadata, nonResourceURLs: ['*']}",
    );
    for (user, request, expected) in [
        ("robot", "get core/secrets ns s", "None"),
        ("robot", "create core/secrets ns s", "RequestResponse"),
        ("jane auditors", "get core/secrets ns s", "Metadata"),
        ("jane", "get core/pods/log ns p", "RequestResponse"),
        ("jane", "get core/pods ns p", "None"),
        ("jane", "update apps/deployments/scale ns d", "RequestResponse"),
        ("jane", "update apps/deployments ns d", "None"),
        ("jane", "update core/configmaps ns one", "Request"),
        ("jane", "update core/configmaps ns two", "None"),
        ("jane", "delete batch/jobs/status ns j", "Request"),
        ("jane", "get core/nodes/proxy  n", "Metadata"),
        ("jane", "get core/nodes  n", "Metadata"),
        ("jane", "get /healthz/ping", "None"),
        ("jane", "get /versions", "Metadata"),
        ("jane", "list core/services deep", "Request"),
        ("jane", "list core/services shallow", "None"),
    ] {
        assert_eq!(level(&policy, user, request), expected, "{user}: {request}");
    }
}

#[test]
fn omissions_of_a_rule_add_to_those_of_the_policy() {
    let policy = policy(
        "omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: Metadata, users: [a], omitStages: [Panic], omitManagedFields: false}
- {level: Metadata, users: [b]}",
    );
    let of = |user: &str| {
        let request = Attributes { user, groups: &[], verb: "get", resource: None, path: "/" };
        let it = policy.evaluate(&request);
        let stages = STAGES.into_iter().filter(|stage| it.omit_stages.contains(*stage));
        (stages.map(Stage::as_str).collect::<Vec<_>>().join(" "), it.omit_managed_fields)
    };
    assert_eq!(of("a"), ("RequestReceived Panic".into(), false));
    assert_eq!(of("b"), ("RequestReceived".into(), true));
    assert_eq!(of("c"), ("RequestReceived".into(), true), "a request without rule");
}

#[test]
fn bad_policies_are_refused_and_told_why() {
    let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
    for (text, expected) in [
        ("", "failed decoding: Object 'Kind' is missing"),
        ("- a", "failed decoding: the file is array, and must be an object"),
        (
            "kind: Policy\napiVersion: audit.k8s.io/v1beta1",
            "failed decoding: no kind \"Policy\" is registered for version \"audit.k8s.io/v1beta1\"; an audit policy is a Policy of audit.k8s.io/v1",
        ),
        ("{HEAD}rules: []", "loaded illegal policy with 0 rules"),
        ("{HEAD}rules: [{}]", "rules[0].level: Required value"),
        (
            "{HEAD}rules: [{level: Everything}]",
            "rules[0].level: Unsupported value: \"Everything\": supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\"",
        ),
        (
            "{HEAD}rules: [{level: None, verb: [get]}]",
            "failed decoding: strict decoding error: unknown field \"rules[0].verb\"",
        ),
        (
            "{HEAD}rules: [{level: None, verbs: get}]",
            "failed decoding: rules[0].verbs is string, and must be a list",
        ),
        (
            "{HEAD}rules: [{level: None, nonResourceURLs: [x, '/a*b']}]",
            "[rules[0].nonResourceURLs[0]: Invalid value: \"x\": non-resource URL rules must begin with a '/' character, rules[0].nonResourceURLs[1]: Invalid value: \"/a*b\": non-resource URL wildcards '*' must be the final character of the rule]",
        ),
        (
            "{HEAD}rules: [{level: None, omitStages: [Never]}]",
            "rules[0].omitStages[0]: Invalid value: \"Never\": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic",
        ),
        (
            "{HEAD}rules: [{level: None, namespaces: [a], nonResourceURLs: [/a]}]",
            "rules[0].nonResourceURLs: Invalid value: [\"/a\"]: rules cannot apply to both regular resources and non-resource URLs",
        ),
        (
            "{HEAD}rules: [{level: None, resources: [{group: apps/v1}]}]",
            "rules[0].resources.group: Invalid value: \"apps/v1\": a lowercase RFC 1123 subdomain must consist of",
        ),
        (
            "{HEAD}rules: [{level: None, resources: [{resourceNames: [a]}]}]",
            "rules[0].resources.resourceNames: Invalid value: [\"a\"]: using resourceNames requires at least one resource",
        ),
    ] {
        let error = Policy::parse(text.replace("{HEAD}", head).as_bytes()).unwrap_err();
        assert!(error.starts_with(expected), "{text}:\n{error}");
    }
}
