//! `AuthenticationConfiguration`: which issuers of tokens are believed, and what their claims make of a user.

use std::collections::BTreeSet;

use apimachinery::{FieldErrors, Path, Value};
use cel::{Env, IssueKind, Program, Type};

use super::{Shape, domain_prefixed_path, joined, read, texts};
use crate::anonymous::Anonymous;
use crate::expressions;

/// How many issuers there may be.
const MAX_ISSUERS: usize = 64;

const EXPRESSION: Shape =
    Shape::Object(&[("claim", Shape::Text), ("expression", Shape::Text), ("prefix", Shape::Text)]);
const JWT: Shape = Shape::Object(&[
    (
        "issuer",
        Shape::Object(&[
            ("url", Shape::Text),
            ("discoveryURL", Shape::Text),
            ("certificateAuthority", Shape::Text),
            ("audiences", Shape::List(&Shape::Text)),
            ("audienceMatchPolicy", Shape::Text),
            ("egressSelectorType", Shape::Text),
        ]),
    ),
    (
        "claimValidationRules",
        Shape::List(&Shape::Object(&[
            ("claim", Shape::Text),
            ("requiredValue", Shape::Text),
            ("expression", Shape::Text),
            ("message", Shape::Text),
        ])),
    ),
    (
        "claimMappings",
        Shape::Object(&[
            ("username", EXPRESSION),
            ("groups", EXPRESSION),
            ("uid", Shape::Object(&[("claim", Shape::Text), ("expression", Shape::Text)])),
            (
                "extra",
                Shape::List(&Shape::Object(&[
                    ("key", Shape::Text),
                    ("valueExpression", Shape::Text),
                ])),
            ),
        ]),
    ),
    (
        "userValidationRules",
        Shape::List(&Shape::Object(&[("expression", Shape::Text), ("message", Shape::Text)])),
    ),
]);
const MEMBERS: &[(&str, Shape)] = &[
    ("jwt", Shape::List(&JWT)),
    (
        "anonymous",
        Shape::Object(&[
            ("enabled", Shape::Bool),
            ("conditions", Shape::List(&Shape::Object(&[("path", Shape::Text)]))),
        ]),
    ),
];

/// The whole file.
#[derive(Debug)]
pub struct AuthenticationConfiguration {
    /// The issuers.
    pub jwt: Vec<Jwt>,
    /// Whether somebody without credentials may ask, and for what; `None` where the file does not say.
    pub anonymous: Option<Anonymous>,
}

/// An issuer, and what its claims mean.
#[derive(Debug)]
pub struct Jwt {
    /// Who makes the tokens.
    pub issuer: Issuer,
    /// Claims that must have this value.
    pub required: Vec<(String, String)>,
    /// What must hold for the claims.
    pub claim_rules: Vec<Rule>,
    /// The user's name.
    pub username: Mapping,
    /// Its groups.
    pub groups: Mapping,
    /// Its uid.
    pub uid: Mapping,
    /// Its extra values, by key.
    pub extra: Vec<(String, Expression)>,
    /// What must hold for the user.
    pub user_rules: Vec<Rule>,
}

/// Who makes tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// As the claim `iss` has it.
    pub url: String,
    /// Where its keys are told, if not below its own URL.
    pub discovery_url: String,
    /// Its authorities, in PEM; the machine's where it is empty.
    pub certificate_authority: String,
    /// One of these must be in the token.
    pub audiences: Vec<String>,
}

/// Where something of a user comes from.
#[derive(Debug)]
pub enum Mapping {
    /// Nowhere.
    None,
    /// From a claim, behind a prefix.
    Claim {
        /// The claim.
        claim: String,
        /// What is put before it.
        prefix: String,
    },
    /// From an expression over all claims.
    Expression(Expression),
}

/// An expression, compiled.
#[derive(Debug)]
pub struct Expression {
    /// As it was written.
    pub text: String,
    /// What it does.
    pub program: Program,
}

/// What must hold.
#[derive(Debug)]
pub struct Rule {
    /// The condition.
    pub expression: Expression,
    /// What is said where it does not hold.
    pub message: String,
}

impl AuthenticationConfiguration {
    /// The configuration of a file's text. None of `disallowed` may be an issuer: those of service accounts' tokens.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &[u8], disallowed: &[String]) -> Result<Self, String> {
        let versions = ["v1", "v1beta1", "v1alpha1"];
        let value = read(text, "AuthenticationConfiguration", &versions, MEMBERS)?;
        Self::of(&value, disallowed)
    }

    /// The same of what was read, or made of flags.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn of(value: &Value, disallowed: &[String]) -> Result<Self, String> {
        let mut errors = FieldErrors::new();
        let jwt = issuers(value, disallowed, &mut errors);
        let anonymous = anonymous(value, &mut errors);
        if !errors.is_empty() {
            return Err(joined(&errors));
        }
        Ok(Self { jwt, anonymous })
    }
}

fn issuers(value: &Value, disallowed: &[String], errors: &mut FieldErrors) -> Vec<Jwt> {
    let root = Path::new("jwt");
    let all = value.items_at(&["jwt"]);
    if all.len() > MAX_ISSUERS {
        errors.too_many(&root, all.len(), MAX_ISSUERS);
        return Vec::new();
    }
    let (mut urls, mut discoveries) = (BTreeSet::new(), BTreeSet::new());
    let mut found = Vec::new();
    for (index, it) in all.iter().enumerate() {
        let at = root.index(index);
        found.extend(Reader { disallowed, errors }.jwt(it, &at));
        let issuer = at.child("issuer");
        let url = it.str_at(&["issuer", "url"]);
        if !urls.insert(url) {
            errors.duplicate(&issuer.child("url"), &Value::from(url));
        }
        let discovery = it.str_at(&["issuer", "discoveryURL"]);
        if !discovery.is_empty() && !discoveries.insert(discovery) {
            errors.duplicate(&issuer.child("discoveryURL"), &Value::from(discovery));
        }
    }
    found
}

fn anonymous(value: &Value, errors: &mut FieldErrors) -> Option<Anonymous> {
    let given = value.get("anonymous").filter(|it| !it.is_null())?;
    let enabled = given.bool_at(&["enabled"]);
    let conditions = given.items_at(&["conditions"]);
    if !enabled && !conditions.is_empty() {
        let root = Path::new("anonymous");
        let list = Value::Array(conditions.to_vec());
        let why = "enabled should be set to true when conditions are defined";
        errors.invalid(&root.child("conditions"), &list, why);
    }
    let paths = conditions.iter().map(|it| it.str_at(&["path"]).to_owned()).collect();
    Some(Anonymous::of(enabled, paths))
}

/// Reads one issuer, and collects what is wrong.
struct Reader<'e> {
    disallowed: &'e [String],
    errors: &'e mut FieldErrors,
}

/// Which claims about mail the expressions read.
#[derive(Default)]
struct Email {
    address: bool,
    verified: bool,
}

impl Reader<'_> {
    fn jwt(mut self, value: &Value, at: &Path<'_>) -> Option<Jwt> {
        let before = self.errors.len();
        let none = Value::Null;
        let member = |name| value.get(name).unwrap_or(&none);
        let issuer = self.issuer(member("issuer"), &at.child("issuer"));
        let mut email = Email::default();
        let rules_at = at.child("claimValidationRules");
        let (required, claim_rules) =
            self.claim_rules(member("claimValidationRules"), &rules_at, &mut email);
        let maps_at = at.child("claimMappings");
        let mappings = member("claimMappings");
        let username = self.mapping(mappings, "username", &maps_at, true);
        if let Some(Mapping::Expression(it)) = &username {
            email.note(it, true);
        }
        let groups = self.mapping(mappings, "groups", &maps_at, false);
        let uid = self.uid(mappings, &maps_at);
        let extra = self.extra(mappings, &maps_at, &mut email);
        if email.address && !email.verified {
            let username = maps_at.child("username");
            let text = mappings.str_at(&["username", "expression"]);
            self.errors.invalid_text(&username.child("expression"), text,
                "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression");
        }
        let rules_at = at.child("userValidationRules");
        let user_rules = self.user_rules(member("userValidationRules"), &rules_at);
        if self.errors.len() > before {
            return None;
        }
        let (username, groups, uid) = (username?, groups?, uid?);
        Some(Jwt { issuer, required, claim_rules, username, groups, uid, extra, user_rules })
    }

    fn issuer(&mut self, value: &Value, at: &Path<'_>) -> Issuer {
        let text = |member| value.str_at(&[member]).to_owned();
        let issuer = Issuer {
            url: text("url"),
            discovery_url: text("discoveryURL"),
            certificate_authority: text("certificateAuthority"),
            audiences: texts(value, "audiences"),
        };
        if issuer.url.is_empty() {
            self.errors.required(&at.child("url"), "");
        } else {
            self.url(&issuer.url, &at.child("url"), true);
        }
        if !issuer.discovery_url.is_empty() {
            let at = at.child("discoveryURL");
            let bare = |it: &str| it.trim_end_matches('/').to_owned();
            if bare(&issuer.url) == bare(&issuer.discovery_url) {
                let why = "discoveryURL must be different from URL";
                self.errors.invalid_text(&at, &issuer.discovery_url, why);
            }
            self.url(&issuer.discovery_url, &at, false);
        }
        self.audiences(&issuer.audiences, value.str_at(&["audienceMatchPolicy"]), at);
        let authority = issuer.certificate_authority.as_bytes();
        if !authority.is_empty() && !crate::x509::holds_certificates(authority) {
            let why = "data does not contain any valid RSA or ECDSA certificates";
            self.errors.invalid_text(&at.child("certificateAuthority"), "<omitted>", why);
        }
        let egress = text("egressSelectorType");
        match egress.as_str() {
            "" => {}
            "controlplane" | "cluster" => {
                let why = "egress selectors are not supported by this server";
                self.errors.invalid_text(&at.child("egressSelectorType"), &egress, why);
            }
            other => {
                let why = "egress selector must be either controlplane or cluster";
                self.errors.invalid_text(&at.child("egressSelectorType"), other, why);
            }
        }
        issuer
    }

    fn url(&mut self, text: &str, at: &Path<'_>, is_issuer: bool) {
        if is_issuer && self.disallowed.iter().any(|it| it == text) {
            let mut disallowed = self.disallowed.to_vec();
            disallowed.sort_unstable();
            let list = disallowed.join(" ");
            let why = format!("URL must not overlap with disallowed issuers: [{list}]");
            self.errors.invalid_text(at, text, &why);
        }
        let (before_fragment, fragment) = text.split_once('#').unwrap_or((text, ""));
        let uri: http::Uri = match before_fragment.parse() {
            Ok(uri) => uri,
            Err(error) => {
                self.errors.invalid_text(at, text, &format!("parse {text:?}: {error}"));
                return;
            }
        };
        let has_user = uri.authority().is_some_and(|it| it.as_str().contains('@'));
        let problems = [
            (uri.scheme_str() != Some("https"), "URL scheme must be https"),
            (has_user, "URL must not contain a username or password"),
            (uri.query().is_some_and(|it| !it.is_empty()), "URL must not contain a query"),
            (!fragment.is_empty(), "URL must not contain a fragment"),
        ];
        for (_, why) in problems.into_iter().filter(|it| it.0) {
            self.errors.invalid_text(at, text, why);
        }
    }

    fn audiences(&mut self, audiences: &[String], policy: &str, at: &Path<'_>) {
        let list = at.child("audiences");
        if audiences.is_empty() {
            self.errors.required(&list, &format!("at least one {list} is required"));
            return;
        }
        let mut seen = BTreeSet::new();
        for (index, audience) in audiences.iter().enumerate() {
            if audience.is_empty() {
                self.errors.required(&list.index(index), "");
            }
            if !seen.insert(audience) {
                self.errors.duplicate(&list.index(index), &Value::from(audience.as_str()));
            }
        }
        let at = at.child("audienceMatchPolicy");
        let why = match (audiences.len(), policy) {
            (_, "MatchAny") | (1, "") => return,
            (1, _) => "audienceMatchPolicy must be empty or MatchAny for single audience",
            (_, _) => "audienceMatchPolicy must be MatchAny for multiple audiences",
        };
        self.errors.invalid_text(&at, policy, why);
    }

    fn claim_rules(
        &mut self,
        rules: &Value,
        at: &Path<'_>,
        email: &mut Email,
    ) -> (Vec<(String, String)>, Vec<Rule>) {
        let (mut required, mut compiled) = (Vec::new(), Vec::new());
        let (mut claims, mut expressions) = (BTreeSet::new(), BTreeSet::new());
        for (index, rule) in rules.as_array().unwrap_or_default().iter().enumerate() {
            let at = at.index(index);
            let text = |member| rule.str_at(&[member]);
            let (claim, expression, message) = (text("claim"), text("expression"), text("message"));
            match (claim.is_empty(), expression.is_empty()) {
                (false, false) => {
                    let why = "claim and expression can't both be set";
                    self.errors.invalid_text(&at, claim, why);
                }
                (true, true) => self.errors.required(&at, "claim or expression is required"),
                (false, true) => {
                    if !message.is_empty() {
                        let why = "may not be specified when claim is set";
                        self.errors.invalid_text(&at.child("message"), message, why);
                    }
                    if !claims.insert(claim) {
                        self.errors.duplicate(&at.child("claim"), &Value::from(claim));
                    }
                    required.push((claim.to_owned(), text("requiredValue").to_owned()));
                }
                (true, false) => {
                    let value = text("requiredValue");
                    if !value.is_empty() {
                        let why = "may not be specified when expression is set";
                        self.errors.invalid_text(&at.child("requiredValue"), value, why);
                    }
                    let at = at.child("expression");
                    if !expressions.insert(expression) {
                        self.errors.duplicate(&at, &Value::from(expression));
                        continue;
                    }
                    let types = &[Type::Bool];
                    let env = &expressions::CLAIMS;
                    if let Some(expression) = self.compile(env, expression, types, &at) {
                        email.note(&expression, false);
                        compiled.push(Rule { expression, message: message.to_owned() });
                    }
                }
            }
        }
        (required, compiled)
    }

    /// `username` or `groups`.
    fn mapping(
        &mut self,
        mappings: &Value,
        member: &str,
        at: &Path<'_>,
        is_required: bool,
    ) -> Option<Mapping> {
        let at = at.child(member);
        let of = mappings.get(member).unwrap_or(&Value::Null);
        let (claim, expression) = (of.str_at(&["claim"]), of.str_at(&["expression"]));
        let prefix = of.get("prefix").and_then(Value::as_str);
        match (claim.is_empty(), expression.is_empty()) {
            (false, false) => {
                self.errors.invalid_text(&at, "", "claim and expression can't both be set");
                None
            }
            (true, true) if is_required => {
                self.errors.required(&at, "claim or expression is required");
                None
            }
            (true, true) => Some(Mapping::None),
            (true, false) => {
                if let Some(prefix) = prefix {
                    let why = "may not be specified when expression is set";
                    self.errors.invalid_text(&at.child("prefix"), prefix, why);
                }
                let at = at.child("expression");
                let compiled = self.compile(&expressions::CLAIMS, expression, &[], &at);
                compiled.map(Mapping::Expression)
            }
            (false, true) => {
                if prefix.is_none() {
                    let why = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                    self.errors.required(&at.child("prefix"), why);
                }
                let prefix = prefix.unwrap_or_default().to_owned();
                Some(Mapping::Claim { claim: claim.to_owned(), prefix })
            }
        }
    }

    fn uid(&mut self, mappings: &Value, at: &Path<'_>) -> Option<Mapping> {
        let at = at.child("uid");
        let text = |member| mappings.str_at(&["uid", member]);
        match (text("claim"), text("expression")) {
            ("", "") => Some(Mapping::None),
            (claim, "") => Some(Mapping::Claim { claim: claim.to_owned(), prefix: String::new() }),
            ("", expression) => {
                let at = at.child("expression");
                let compiled = self.compile(&expressions::CLAIMS, expression, &[], &at);
                compiled.map(Mapping::Expression)
            }
            _ => {
                self.errors.invalid_text(&at, "", "claim and expression can't both be set");
                None
            }
        }
    }

    fn extra(
        &mut self,
        mappings: &Value,
        at: &Path<'_>,
        email: &mut Email,
    ) -> Vec<(String, Expression)> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        let list = at.child("extra");
        for (index, mapping) in mappings.items_at(&["extra"]).iter().enumerate() {
            let at = list.index(index);
            let key_at = at.child("key");
            let (key, text) = (mapping.str_at(&["key"]), mapping.str_at(&["valueExpression"]));
            domain_prefixed_path(&key_at, key, self.errors);
            if key != key.to_lowercase() {
                self.errors.invalid_text(&key_at, key, "must be lowercase");
            }
            if is_reserved(key) {
                let why =
                    "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
                self.errors.invalid_text(&key_at, key, why);
            }
            if !seen.insert(key) {
                self.errors.duplicate(&key_at, &Value::from(key));
                continue;
            }
            let at = at.child("valueExpression");
            if text.is_empty() {
                self.errors.required(&at, "");
                continue;
            }
            if let Some(expression) = self.compile(&expressions::CLAIMS, text, &[], &at) {
                email.note(&expression, false);
                found.push((key.to_owned(), expression));
            }
        }
        found
    }

    fn user_rules(&mut self, rules: &Value, at: &Path<'_>) -> Vec<Rule> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for (index, rule) in rules.as_array().unwrap_or_default().iter().enumerate() {
            let item = at.index(index);
            let at = item.child("expression");
            let text = rule.str_at(&["expression"]);
            if text.is_empty() {
                self.errors.required(&at, "");
            } else if !seen.insert(text) {
                self.errors.duplicate(&at, &Value::from(text));
            } else {
                let compiled = self.compile(&expressions::USER, text, &[Type::Bool], &at);
                let message = rule.str_at(&["message"]).to_owned();
                found.extend(compiled.map(|expression| Rule { expression, message }));
            }
        }
        found
    }

    fn compile(
        &mut self,
        env: &Env,
        text: &str,
        types: &[Type],
        at: &Path<'_>,
    ) -> Option<Expression> {
        match env.compile(text, types) {
            Ok(program) => Some(Expression { text: text.to_owned(), program }),
            Err(issues) => {
                let of_type = issues.0.iter().any(|it| it.kind == IssueKind::OutputType);
                let why = if of_type {
                    issues.to_string()
                } else {
                    format!("compilation failed: {issues}")
                };
                self.errors.invalid_text(at, text, &why);
                None
            }
        }
    }
}

impl Email {
    fn note(&mut self, expression: &Expression, is_username: bool) {
        let reads = |field| expressions::CLAIMS.selects(&expression.text, "claims", field);
        self.address |= is_username && reads("email");
        self.verified |= reads("email_verified");
    }
}

fn is_reserved(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |it| it.0);
    ["kubernetes.io", "k8s.io"].iter().any(|reserved| {
        domain.strip_suffix(reserved).is_some_and(|it| it.is_empty() || it.ends_with('.'))
    })
}

#[cfg(test)]
mod tests;
