use super::*;

const HEAD: &str =
    "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n";

fn parse(body: &str) -> Result<AuthorizationConfiguration, String> {
    AuthorizationConfiguration::parse(format!("{HEAD}{body}").as_bytes())
}

/// A webhook of which one line is replaced.
fn webhook(name: &str, line: &str) -> String {
    let lines = [
        ("timeout", "timeout: 3s"),
        ("authorizedTTL", "authorizedTTL: 5m"),
        ("unauthorizedTTL", "unauthorizedTTL: 30s"),
        ("subjectAccessReviewVersion", "subjectAccessReviewVersion: v1"),
        ("failurePolicy", "failurePolicy: Deny"),
        ("connectionInfo", "connectionInfo: {type: KubeConfigFile, kubeConfigFile: /etc/hostname}"),
        ("others", ""),
    ];
    let lines = lines.map(|(it, text)| format!("    {}\n", if it == name { line } else { text }));
    format!("- type: Webhook\n  name: w\n  webhook:\n{}", lines.concat())
}

/// Whole lists of authorizers.
const FILES: &[(&str, &str)] = &[
    ("  []", "authorizers: Required value: at least one authorization mode must be defined"),
    ("- name: a", "authorizers[0].type: Required value"),
    (
        "- {type: Guess, name: a}",
        "authorizers[0].type: Unsupported value: \"Guess\": supported values: \"AlwaysAllow\", \"AlwaysDeny\", \"Node\", \"RBAC\", \"Webhook\"",
    ),
    (
        "- {type: RBAC, name: a}\n- {type: RBAC, name: b}",
        "authorizers[1].type: Duplicate value: \"RBAC\"",
    ),
    ("- {type: RBAC}", "authorizers[0].name: Required value"),
    (
        "- {type: RBAC, name: a}\n- {type: Node, name: a}",
        "authorizers[1].name: Duplicate value: \"a\"",
    ),
    (
        "- {type: RBAC, name: A}",
        "authorizers[0].name: Invalid value: \"A\": authorizer name is invalid: a lowercase RFC 1123 subdomain",
    ),
    (
        "- {type: RBAC, name: a, webhook: {}}",
        "authorizers[0].webhook: Invalid value: \"non-null\": may only be specified when type=Webhook",
    ),
    (
        "- {type: Webhook, name: a}",
        "authorizers[0].webhook: Required value: required when type=Webhook",
    ),
];

/// Lines of a webhook, and by what each is replaced.
const WEBHOOKS: &[(&str, &str, &str)] = &[
    ("timeout", "", "authorizers[0].timeout: Required value"),
    (
        "timeout",
        "timeout: 31s",
        "authorizers[0].timeout: Invalid value: \"31s\": must be > 0s and <= 30s",
    ),
    (
        "timeout",
        "timeout: -1s",
        "authorizers[0].timeout: Invalid value: \"-1s\": must be > 0s and <= 30s",
    ),
    (
        "authorizedTTL",
        "authorizedTTL: soon",
        "authorizers[0].authorizedTTL: Invalid value: \"soon\": time: invalid duration \"soon\"",
    ),
    (
        "unauthorizedTTL",
        "unauthorizedTTL: -1s",
        "authorizers[0].unauthorizedTTL: Invalid value: \"-1s\": must be > 0s",
    ),
    (
        "subjectAccessReviewVersion",
        "subjectAccessReviewVersion: v2",
        "authorizers[0].subjectAccessReviewVersion: Unsupported value: \"v2\": supported values: \"v1\", \"v1beta1\"",
    ),
    (
        "failurePolicy",
        "failurePolicy: Allow",
        "authorizers[0].failurePolicy: Unsupported value: \"Allow\": supported values: \"NoOpinion\", \"Deny\"",
    ),
    ("connectionInfo", "", "authorizers[0].connectionInfo.type: Required value"),
    (
        "connectionInfo",
        "connectionInfo: {type: KubeConfigFile, kubeConfigFile: a}",
        "authorizers[0].connectionInfo.kubeConfigFile: Invalid value: \"a\": must be an absolute path",
    ),
    (
        "connectionInfo",
        "connectionInfo: {type: KubeConfigFile, kubeConfigFile: /nowhere}",
        "authorizers[0].connectionInfo.kubeConfigFile: Invalid value: \"/nowhere\": error loading file: stat /nowhere: no such file or directory",
    ),
    (
        "connectionInfo",
        "connectionInfo: {type: KubeConfigFile, kubeConfigFile: /etc}",
        "authorizers[0].connectionInfo.kubeConfigFile: Invalid value: \"/etc\": must be a regular file",
    ),
    (
        "others",
        "matchConditions: [{expression: 'true'}]",
        "authorizers[0].matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified",
    ),
    ("others", "other: 1", "strict decoding error: unknown field \"authorizers[0].webhook.other\""),
];

/// Conditions of a webhook.
const CONDITIONS: &[(&str, &str)] = &[
    ("{expression: ''}", "authorizers[0].matchConditions[0].expression: Required value"),
    (
        "{expression: 'true'}, {expression: 'true'}",
        "authorizers[0].matchConditions[1].expression: Duplicate value: \"true\"",
    ),
    (
        "{expression: request.user}",
        "authorizers[0].matchConditions[0].expression: Invalid value: \"request.user\": must evaluate to bool but got string",
    ),
    (
        "{expression: request.who == ''}",
        "authorizers[0].matchConditions[0].expression: Invalid value: \"request.who == ''\": compilation failed: ERROR: <input>:1:8: undefined field 'who'",
    ),
];

#[test]
fn what_is_wrong_is_told_in_upstreams_words() {
    let check = |body: &str, expected: &str| {
        let told = parse(body).map(drop).expect_err(body);
        assert!(told.starts_with(expected), "{body}\n{told}\nshould be\n{expected}");
    };
    FILES.iter().for_each(|(body, expected)| check(body, expected));
    for (name, line, expected) in WEBHOOKS {
        check(&webhook(name, line), expected);
    }
    for (list, expected) in CONDITIONS {
        let line =
            format!("matchConditions: [{list}]\n    matchConditionSubjectAccessReviewVersion: v1");
        check(&webhook("others", &line), expected);
    }
}

#[test]
fn times_of_which_nothing_is_said_are_upstreams() {
    for line in ["", "authorizedTTL: 0s"] {
        let body = webhook("authorizedTTL", line).replace("    unauthorizedTTL: 30s\n", "");
        let read = parse(&body).unwrap();
        let Kind::Webhook(webhook) = &read.authorizers[0].kind else { panic!("it is a webhook") };
        assert_eq!(webhook.authorized_ttl, Duration::from_secs(300));
        assert_eq!(webhook.unauthorized_ttl, Duration::from_secs(30));
    }
}

#[test]
fn a_good_file_is_read_in_its_order() {
    let body = format!(
        "{}- {{type: Node, name: nodes}}\n",
        webhook("others", "cacheAuthorizedRequests: false")
    );
    let read = parse(&body).unwrap();
    let names: Vec<_> =
        read.authorizers.iter().map(|it| (it.name.as_str(), it.kind.name())).collect();
    assert_eq!(names, [("w", "Webhook"), ("nodes", "Node")]);
    let Kind::Webhook(webhook) = &read.authorizers[0].kind else { panic!("it is a webhook") };
    assert_eq!(webhook.authorized_ttl, Duration::ZERO);
    assert_eq!(webhook.unauthorized_ttl, Duration::from_secs(30));
}
