use super::*;

const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";

fn with(body: &str) -> Result<AuthenticationConfiguration, String> {
    AuthenticationConfiguration::parse(format!("{HEAD}{body}").as_bytes(), &["https://me".into()])
}

/// One issuer, of which this is changed.
fn changed(issuer: &str, rest: &str) -> String {
    format!("jwt:\n- issuer: {issuer}\n{rest}")
}

const ISSUER: &str = "{url: https://a.example, audiences: [k]}";
const SUB: &str = "  claimMappings: {username: {claim: sub, prefix: ''}}";

/// Whole files.
const FILES: &[(&str, &str)] = &[
    ("jwt: {}", "strict decoding error: jwt: must be a list"),
    ("other: 1", "strict decoding error: unknown field \"other\""),
    (
        "anonymous: {enabled: false, conditions: [{path: /a}]}",
        "anonymous.conditions: Invalid value: [{\"path\":\"/a\"}]: enabled should be set to true when conditions are defined",
    ),
];

/// Issuers.
const ISSUERS: &[(&str, &str)] = &[
    ("{audiences: [k]}", "jwt[0].issuer.url: Required value"),
    (
        "{url: 'http://a', audiences: [k]}",
        "jwt[0].issuer.url: Invalid value: \"http://a\": URL scheme must be https",
    ),
    (
        "{url: 'https://u:p@a', audiences: [k]}",
        "jwt[0].issuer.url: Invalid value: \"https://u:p@a\": URL must not contain a username or password",
    ),
    (
        "{url: 'https://a?b=c', audiences: [k]}",
        "jwt[0].issuer.url: Invalid value: \"https://a?b=c\": URL must not contain a query",
    ),
    (
        "{url: 'https://a#b', audiences: [k]}",
        "jwt[0].issuer.url: Invalid value: \"https://a#b\": URL must not contain a fragment",
    ),
    (
        "{url: 'https://me', audiences: [k]}",
        "jwt[0].issuer.url: Invalid value: \"https://me\": URL must not overlap with disallowed issuers: [https://me]",
    ),
    (
        "{url: 'https://a', discoveryURL: 'https://a/', audiences: [k]}",
        "jwt[0].issuer.discoveryURL: Invalid value: \"https://a/\": discoveryURL must be different from URL",
    ),
    (
        "{url: 'https://a'}",
        "jwt[0].issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required",
    ),
    (
        "{url: 'https://a', audiences: [k, k]}",
        "[jwt[0].issuer.audiences[1]: Duplicate value: \"k\", jwt[0].issuer.audienceMatchPolicy: Invalid value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences]",
    ),
    (
        "{url: 'https://a', audiences: [k], audienceMatchPolicy: All}",
        "jwt[0].issuer.audienceMatchPolicy: Invalid value: \"All\": audienceMatchPolicy must be empty or MatchAny for single audience",
    ),
    (
        "{url: 'https://a', audiences: [k], certificateAuthority: x}",
        "jwt[0].issuer.certificateAuthority: Invalid value: \"<omitted>\": data does not contain any valid RSA or ECDSA certificates",
    ),
    (
        "{url: 'https://a', audiences: [k], egressSelectorType: moon}",
        "jwt[0].issuer.egressSelectorType: Invalid value: \"moon\": egress selector must be either controlplane or cluster",
    ),
];

/// Other members.
const MEMBERS_OF_ONE: &[(&str, &str)] =
    &[("  claimMapping: {}", "strict decoding error: unknown field \"jwt[0].claimMapping\"")];

/// Rules for claims.
const RULES: &[(&str, &str)] = &[
    (
        "{claim: a, expression: 'true'}",
        "jwt[0].claimValidationRules[0]: Invalid value: \"a\": claim and expression can't both be set",
    ),
    ("{}", "jwt[0].claimValidationRules[0]: Required value: claim or expression is required"),
    (
        "{claim: a, message: m}",
        "jwt[0].claimValidationRules[0].message: Invalid value: \"m\": may not be specified when claim is set",
    ),
    ("{claim: a}, {claim: a}", "jwt[0].claimValidationRules[1].claim: Duplicate value: \"a\""),
    (
        "{expression: 'true', requiredValue: v}",
        "jwt[0].claimValidationRules[0].requiredValue: Invalid value: \"v\": may not be specified when expression is set",
    ),
    (
        "{expression: '1'}",
        "jwt[0].claimValidationRules[0].expression: Invalid value: \"1\": must evaluate to bool",
    ),
    (
        "{expression: 'clam.a'}",
        "jwt[0].claimValidationRules[0].expression: Invalid value: \"clam.a\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'clam' (in container '')",
    ),
];

/// What claims mean.
const MAPPINGS: &[(&str, &str)] = &[
    ("{}", "jwt[0].claimMappings.username: Required value: claim or expression is required"),
    (
        "{username: {claim: sub}}",
        "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing",
    ),
    (
        "{username: {expression: claims.a, prefix: x}}",
        "jwt[0].claimMappings.username.prefix: Invalid value: \"x\": may not be specified when expression is set",
    ),
    (
        "{username: {expression: claims.email}}",
        "jwt[0].claimMappings.username.expression: Invalid value: \"claims.email\": claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression",
    ),
    (
        "{username: {expression: claims.a}, uid: {claim: a, expression: b}}",
        "jwt[0].claimMappings.uid: Invalid value: \"\": claim and expression can't both be set",
    ),
    (
        "{username: {expression: claims.a}, extra: [{key: a, valueExpression: claims.b}]}",
        "jwt[0].claimMappings.extra[0].key: Invalid value: \"a\": must be a domain-prefixed path (such as \"acme.io/foo\")",
    ),
    (
        "{username: {expression: claims.a}, extra: [{key: x.k8s.io/a, valueExpression: claims.b}]}",
        "jwt[0].claimMappings.extra[0].key: Invalid value: \"x.k8s.io/a\": k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use",
    ),
    (
        "{username: {expression: claims.a}, extra: [{key: a.io/b}]}",
        "jwt[0].claimMappings.extra[0].valueExpression: Required value",
    ),
];

/// Rules for users.
const USERS: &[(&str, &str)] = &[
    ("{}", "jwt[0].userValidationRules[0].expression: Required value"),
    (
        "{expression: 'user.name == \"\"'}",
        "jwt[0].userValidationRules[0].expression: Invalid value: \"user.name == \\\"\\\"\": compilation failed: ERROR: <input>:1:5: undefined field 'name'",
    ),
];

#[test]
fn what_is_wrong_is_told_in_upstreams_words() {
    let rest = |it: &str| changed(ISSUER, it);
    let check = |cases: &[(&str, &str)], file: &dyn Fn(&str) -> String| {
        for (text, expected) in cases {
            let body = file(text);
            let told = with(&body).map(drop).expect_err(&body);
            assert!(told.starts_with(expected), "{body}\n{told}\nshould be\n{expected}");
        }
    };
    check(FILES, &|it| it.to_owned());
    check(ISSUERS, &|it| changed(it, SUB));
    check(MEMBERS_OF_ONE, &|it| rest(it));
    check(RULES, &|it| rest(&format!("{SUB}\n  claimValidationRules: [{it}]")));
    check(MAPPINGS, &|it| rest(&format!("  claimMappings: {it}")));
    check(USERS, &|it| rest(&format!("{SUB}\n  userValidationRules: [{it}]")));
    let twice = format!("{}\n- issuer: {ISSUER}\n{SUB}", changed(ISSUER, SUB));
    let told = with(&twice).map(drop).unwrap_err();
    assert_eq!(told, "jwt[1].issuer.url: Duplicate value: \"https://a.example\"");
}

#[test]
fn a_good_file_is_read() {
    let body = "jwt:\n- issuer: {url: 'https://a', audiences: [k, l], audienceMatchPolicy: MatchAny}\n  claimValidationRules: [{claim: hd, requiredValue: x}, {expression: claims.email_verified}]\n  claimMappings:\n    username: {expression: claims.?email.orValue('none')}\n    groups: {claim: g, prefix: 'p:'}\n    extra: [{key: a.io/b, valueExpression: claims.b}]\nanonymous: {enabled: true, conditions: [{path: /livez}]}";
    // What is dynamic is no bool until it is compared.
    let told = with(body).map(drop).unwrap_err();
    assert!(told.contains("\"claims.email_verified\": must evaluate to bool"), "{told}");
    let body = body.replace("claims.email_verified}", "claims.email_verified == true}");
    let read = with(&body).unwrap();
    assert_eq!(read.jwt[0].required, [("hd".to_owned(), "x".to_owned())]);
    assert!(matches!(&read.jwt[0].groups, Mapping::Claim { prefix, .. } if prefix == "p:"));
    let anonymous = read.anonymous.unwrap();
    assert!(anonymous.is_allowed("/livez") && !anonymous.is_allowed("/readyz"));
}
