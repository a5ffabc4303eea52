//! ServiceAccount: nothing but metadata is checked; references to secrets keep their names only.

use apimachinery::{Value, value};

use crate::declaration::Declaration;
use crate::{Rules, table};

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "serviceaccounts",
        prepare_create: names_only,
        prepare_update: |it, _| names_only(it),
        row: |it, now| vec![it.str_at(&["metadata", "name"]).into(), table::created(it, now)],
        rules: Rules { returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn names_only(account: &mut Value) {
    for secret in account.items_at_mut(&["secrets"]) {
        let name = secret.str_at(&["name"]).to_owned();
        *secret = value!({ "name": name });
    }
}
