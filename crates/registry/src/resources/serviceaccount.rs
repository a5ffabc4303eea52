//! ServiceAccount: nothing but metadata is checked; references to secrets keep their names only.

use apimachinery::{Value, value};

use crate::declaration::Declaration;
use crate::{Rules, table};

/// Says of an account that its pods use no secrets but those that it lists.
const ENFORCED: &str = "kubernetes.io/enforce-mountable-secrets";

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "serviceaccounts",
        prepare_create: names_only,
        prepare_update: |it, _| names_only(it),
        warnings,
        row: |it, now| vec![it.str_at(&["metadata", "name"]).into(), table::created(it, now)],
        rules: Rules { returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn names_only(account: &mut Value) {
    for secret in account.items_at_mut(&["secrets"]) {
        let name = secret.str_at(&["name"]).to_owned();
        *secret = if name.is_empty() { value!({}) } else { value!({ "name": name }) };
    }
}

/// Who begins to use what is on its way out is told.
fn warnings(account: &Value, old: Option<&Value>) -> Vec<String> {
    let has = |it: &Value| it.at(&["metadata", "annotations", ENFORCED]).is_some();
    if !has(account) || old.is_some_and(has) {
        return Vec::new();
    }
    vec![format!(
        "metadata.annotations[{ENFORCED}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_begins_to_bound_secrets_by_accounts_is_warned() {
        let plain = || value!({"metadata": {"name": "a"}});
        let mut bounded = plain();
        bounded.set_at(&["metadata", "annotations", ENFORCED], "true");
        for (account, old, count) in [
            (&bounded, None, 1),
            (&bounded, Some(plain()), 1),
            (&bounded, Some(bounded.clone()), 0),
            (&plain(), None, 0),
        ] {
            assert_eq!(warnings(account, old.as_ref()).len(), count, "{account:?} {old:?}");
        }
    }
}
