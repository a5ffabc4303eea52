//! What the claims of a token make of a user.

use apimachinery::{Object, Value};
use cel::Val;

use crate::config::authentication::{Expression, Jwt, Mapping, Rule};
use crate::{UserInfo, expressions, user};

/// The user of verified claims.
pub(super) fn user(jwt: &Jwt, claims: &Value) -> Result<UserInfo, String> {
    let mut found = UserInfo {
        name: username(&jwt.username, claims)?,
        groups: groups(&jwt.groups, claims)?,
        uid: uid(&jwt.uid, claims)?,
        ..UserInfo::default()
    };
    // What tells the token from others, where it says so.
    let id = claims.str_at(&["jti"]);
    if !id.is_empty() {
        found.extra.insert(user::CREDENTIAL_ID_KEY.into(), vec![format!("JTI={id}")]);
    }
    for (key, expression) in &jwt.extra {
        let values = eval(expression, claims)?;
        let values = strings(&values).map_err(|why| {
            let text = &expression.text;
            format!("error evaluating extra claim expression: {text}: {why}")
        })?;
        if !values.is_empty() {
            found.extra.insert(key.clone(), values);
        }
    }
    check_required(&jwt.required, claims)?;
    for rule in &jwt.claim_rules {
        let env = (&*expressions::CLAIMS, "claims");
        check(rule, env, claims)
            .map_err(|why| format!("error evaluating claim validation expression: {why}"))?;
    }
    if !jwt.user_rules.is_empty() {
        let info = seen(&found);
        for rule in &jwt.user_rules {
            let env = (&*expressions::USER, "user");
            check(rule, env, &info)
                .map_err(|why| format!("error evaluating user info validation rule: {why}"))?;
        }
    }
    user::complete(&mut found);
    Ok(found)
}

/// A point in time; issuers write fractions, too.
pub(super) fn whole_seconds(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let text = apimachinery::json::to_string(value);
        text.split(['.', 'e', 'E']).next().filter(|_| !text.contains(['e', 'E']))?.parse().ok()
    })
}

fn eval<'v>(expression: &'v Expression, claims: &'v Value) -> Result<Val<'v>, String> {
    let env = (&*expressions::CLAIMS, "claims");
    expressions::eval(env, (&expression.text, &expression.program), claims)
}

/// A claim that is a text.
fn text<'v>(claims: &'v Value, claim: &str) -> Result<&'v str, String> {
    let value = claims.get(claim).ok_or("claim not present")?;
    let kind = value.kind_name();
    value.as_str().ok_or_else(|| {
        format!(
            "json: cannot unmarshal {} into Go value of type string",
            format!("{kind:?}").to_lowercase()
        )
    })
}

fn username(mapping: &Mapping, claims: &Value) -> Result<String, String> {
    let (claim, prefix) = match mapping {
        Mapping::None => return Err("no username mapping".into()),
        Mapping::Expression(expression) => {
            let told = |why: &str| format!("error evaluating username claim expression: {why}");
            let value = eval(expression, claims).map_err(|why| told(&why))?;
            return match value.as_str() {
                Some("") => Err("empty username via CEL expression is not allowed".into()),
                Some(name) => Ok(name.to_owned()),
                None => Err(told("username claim expression must return a string")),
            };
        }
        Mapping::Claim { claim, prefix } => (claim, prefix),
    };
    let name =
        text(claims, claim).map_err(|why| format!("parse username claims {claim:?}: {why}"))?;
    if claim == "email"
        && let Some(verified) = claims.get("email_verified")
    {
        match verified.as_bool() {
            Some(true) => {}
            Some(false) => return Err("email not verified".into()),
            None => return Err("parse 'email_verified' claim: it is not true or false".into()),
        }
    }
    Ok(format!("{prefix}{name}"))
}

fn groups(mapping: &Mapping, claims: &Value) -> Result<Vec<String>, String> {
    match mapping {
        Mapping::None => Ok(Vec::new()),
        Mapping::Expression(expression) => {
            let told = |why: String| format!("error evaluating group claim expression: {why}");
            let value = eval(expression, claims).map_err(told)?;
            strings(&value).map_err(told)
        }
        Mapping::Claim { claim, prefix } => {
            let Some(value) = claims.get(claim) else { return Ok(Vec::new()) };
            // Some issuers have a role where others have a list of groups.
            let items = match value {
                Value::String(one) => Some(vec![one.to_string()]),
                other => other.as_array().and_then(|items| {
                    items.iter().map(|it| it.as_str().map(str::to_owned)).collect()
                }),
            };
            let items: Vec<String> = items.ok_or_else(|| {
                format!(
                    "parse groups claim {claim:?}: it is neither a string nor a list of strings"
                )
            })?;
            Ok(items.into_iter().map(|it| format!("{prefix}{it}")).collect())
        }
    }
}

fn uid(mapping: &Mapping, claims: &Value) -> Result<String, String> {
    match mapping {
        Mapping::None => Ok(String::new()),
        Mapping::Claim { claim, .. } => {
            let uid = text(claims, claim);
            uid.map(str::to_owned).map_err(|why| format!("parse uid claim {claim:?}: {why}"))
        }
        Mapping::Expression(expression) => {
            let told = |why: &str| format!("error evaluating uid claim expression: {why}");
            let value = eval(expression, claims).map_err(|why| told(&why))?;
            let uid = value.as_str().map(str::to_owned);
            uid.ok_or_else(|| told("uid claim expression must return a string"))
        }
    }
}

/// A string, or a list of them, without those that are empty.
fn strings(value: &Val<'_>) -> Result<Vec<String>, String> {
    const WHY: &str = "expression must return a string or a list of strings";
    let mut found = Vec::new();
    match value {
        Val::Null => {}
        Val::String(one) => found.push(one.to_string()),
        Val::List(list) => {
            for item in list.iter() {
                let item = item.map_err(|error| error.to_string())?;
                found.push(item.as_str().ok_or(WHY)?.to_owned());
            }
        }
        _ => return Err(WHY.into()),
    }
    found.retain(|it| !it.is_empty());
    Ok(found)
}

fn check_required(required: &[(String, String)], claims: &Value) -> Result<(), String> {
    for (claim, wanted) in required {
        if claims.get(claim).is_none() {
            return Err(format!("required claim {claim} not present in ID token"));
        }
        let got = text(claims, claim).map_err(|why| format!("parse claim {claim}: {why}"))?;
        if got != wanted {
            return Err(format!(
                "required claim {claim} value does not match. Got = {got}, want = {wanted}"
            ));
        }
    }
    Ok(())
}

fn check(rule: &Rule, env: (&cel::Env, &str), value: &Value) -> Result<(), String> {
    let Expression { text, program } = &rule.expression;
    let holds = expressions::eval(env, (text, program), value)?;
    match holds.as_bool() {
        Some(true) => Ok(()),
        Some(false) => Err(format!("validation expression '{text}' failed: {}", rule.message)),
        None => Err("validation expression must return a boolean".into()),
    }
}

/// A user as expressions see one.
fn seen(user: &UserInfo) -> Value {
    let list = |all: &[String]| all.iter().map(String::as_str).collect::<Value>();
    let extra = user.extra.iter().map(|(key, values)| (key.as_str(), list(values)));
    let mut info = Object::new();
    info.insert("extra", Object::from_iter(extra));
    info.insert("username", user.name.as_str());
    // As upstream writes its type: what is empty is left out, but for extra values.
    if !user.groups.is_empty() {
        info.insert("groups", list(&user.groups));
    }
    if !user.uid.is_empty() {
        info.insert("uid", user.uid.as_str());
    }
    Value::Object(info)
}
