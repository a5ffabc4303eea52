//! Checks of what pods and containers ask of Windows.

use std::sync::LazyLock;

use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};
use regex::Regex;

/// The longest credential spec of a group managed account, in KiB.
const CREDENTIALS_KIB_MAX: usize = 64;
/// How long a domain has to stay below, and the longest name of a user, in bytes.
const DOMAIN_LIMIT: usize = 256;
const USER_MAX: usize = 104;
/// What no name of a user has in it.
const ODD: &str = "\"/\\:;|=,+*?<>@[]";

/// Names of domains, as NetBIOS and as DNS have them.
#[expect(clippy::unwrap_used, reason = "the patterns are fixed")]
static DOMAINS: LazyLock<[Regex; 2]> = LazyLock::new(|| {
    let label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?";
    [
        Regex::new(r#"^[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}$"#).unwrap(),
        Regex::new(&format!(r"^{label}(?:\.{label})*$")).unwrap(),
    ]
});

/// Upstream: `validateWindowsSecurityContextOptions`.
pub(super) fn options(options: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let given = |member: &str| options.get(member).and_then(Value::as_str);
    if let Some(name) = given("gmsaCredentialSpecName") {
        let problems = validation::dns1123_subdomain(name);
        errors.invalid_all(&path.child("gmsaCredentialSpecName"), name, problems);
    }
    if let Some(spec) = given("gmsaCredentialSpec") {
        let at = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid_text(&at, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > CREDENTIALS_KIB_MAX * 1024 {
            let detail = format!("gmsaCredentialSpec size must be under {CREDENTIALS_KIB_MAX} KiB");
            errors.invalid_text(&at, spec, &detail);
        }
    }
    if let Some(name) = given("runAsUserName") {
        let at = path.child("runAsUserName");
        for problem in user_name(name) {
            errors.invalid_text(&at, name, &problem);
        }
    }
}

/// `DOMAIN\user`, or the user alone.
fn user_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".into()];
    }
    if name.chars().any(|it| it.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".into()];
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, rest)) if rest.contains('\\') => {
            return vec!["runAsUserName cannot contain more than one backslash".into()];
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let mut problems = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN_LIMIT {
            problems.push(format!(
                "runAsUserName's Domain length must be under {DOMAIN_LIMIT} characters"
            ));
        }
        if !DOMAINS.iter().any(|it| it.is_match(domain)) {
            let detail = "runAsUserName's Domain doesn't match the NetBios nor the DNS format";
            problems.push(detail.into());
        }
    }
    if user.is_empty() {
        problems.push("runAsUserName's User cannot be empty".into());
    } else if user.len() > USER_MAX {
        problems.push(format!(
            "runAsUserName's User length must not be longer than {USER_MAX} characters"
        ));
    }
    if !user.is_empty() && user.chars().all(|it| matches!(it, '.' | ' ')) {
        problems.push("runAsUserName's User cannot contain only periods or spaces".into());
    }
    if user.contains(|it| ODD.contains(it)) {
        problems.push(format!(
            "runAsUserName's User cannot contain the following characters: {}",
            r#""/\:;|=,+*?<>@[]"#
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users() {
        for (name, problems) in [
            ("ContainerAdministrator", 0),
            (r"NT AUTHORITY\SYSTEM", 0),
            (r"example.com\user", 0),
            ("", 1),
            ("a\tb", 1),
            (r"a\b\c", 1),
            (r"\user", 1),
            (r"domain\", 1),
            (". .", 1),
            ("a/b", 1),
        ] {
            assert_eq!(user_name(name).len(), problems, "{name:?}: {:?}", user_name(name));
        }
    }
}
