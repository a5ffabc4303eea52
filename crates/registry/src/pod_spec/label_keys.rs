//! `matchLabelKeys` and `mismatchLabelKeys`: keys of labels whose values a pod brings itself. They narrow the selector of a
//! term of affinity, or of a spreading constraint, by what the pod's own labels say (KEP-3633, KEP-3243).

use apimachinery::{FieldErrors, Path, Value, validation, value};

use super::scheduling::{PREFERRED, REQUIRED};

/// Writes into the selectors of a new pod what its keys come to, where everybody sees it, and the scheduler.
pub(crate) fn merge(pod: &mut Value) {
    let labels = pod.at(&["metadata", "labels"]).cloned().unwrap_or_default();
    let Some(spec) = pod.at_mut(&["spec"]) else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        for term in spec.items_at_mut(&["affinity", kind, REQUIRED]) {
            narrow(term, &labels);
        }
        for weighted in spec.items_at_mut(&["affinity", kind, PREFERRED]) {
            if let Some(term) = weighted.get_mut("podAffinityTerm") {
                narrow(term, &labels);
            }
        }
    }
    for constraint in spec.items_at_mut(&["topologySpreadConstraints"]) {
        narrow(constraint, &labels);
    }
}

fn narrow(term: &mut Value, labels: &Value) {
    let mut more = Vec::new();
    for (member, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term.items_at(&[member]).iter().filter_map(Value::as_str) {
            if let Some(text) = labels.get(key).and_then(Value::as_str) {
                more.push(value!({"key": key, "operator": operator, "values": [text]}));
            }
        }
    }
    // Who selects nothing goes on selecting nothing.
    if let Some(selector) = term.get_mut("labelSelector").filter(|_| !more.is_empty()) {
        let mut all = selector.items_at(&["matchExpressions"]).to_vec();
        all.append(&mut more);
        selector.set_at(&["matchExpressions"], all);
    }
}

/// Checks the keys of a term or of a constraint, after [`merge`] where that applies: what stands in the selector a second
/// time was there already.
pub(super) fn check(term: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let selector = term.get("labelSelector").filter(|it| !it.is_null());
    for member in ["matchLabelKeys", "mismatchLabelKeys"] {
        let list = path.child(member);
        let keys = term.items_at(&[member]);
        if !keys.is_empty() && selector.is_none() {
            errors.forbidden(&list, "must not be specified when labelSelector is not set");
            continue;
        }
        for (index, key) in keys.iter().enumerate() {
            let text = key.as_str().unwrap_or_default();
            errors.invalid_all(&list.index(index), text, validation::qualified_name(text));
        }
    }
    let keys = term.items_at(&["matchLabelKeys"]);
    if let Some(selector) = selector.filter(|_| !keys.is_empty()) {
        let labels = selector.get("matchLabels").and_then(Value::as_object);
        let mut seen: Vec<&str> =
            labels.into_iter().flat_map(|it| it.iter()).map(|it| it.0).collect();
        for expression in selector.items_at(&["matchExpressions"]) {
            let key = expression.str_at(&["key"]);
            let place = keys.iter().rposition(|it| it.as_str() == Some(key));
            if let Some(index) = place.filter(|_| seen.contains(&key)) {
                // Upstream names the term, and a place within it.
                let detail = "exists in both matchLabelKeys and labelSelector";
                errors.invalid_text(&path.index(index), key, detail);
            }
            seen.push(key);
        }
    }
    let list = path.child("matchLabelKeys");
    for (index, key) in keys.iter().enumerate() {
        if term.items_at(&["mismatchLabelKeys"]).contains(key) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.invalid(&list.index(index), key, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_own_labels_narrow_its_selectors() {
        let selector = value!({"matchLabels": {"app": "a"}});
        let term = value!({"topologyKey": "zone", "labelSelector": (selector.clone()),
            "matchLabelKeys": ["hash", "absent"], "mismatchLabelKeys": ["tenant"]});
        let nothing = value!({"topologyKey": "zone", "matchLabelKeys": ["hash"]});
        let spread = value!({"labelSelector": (selector), "matchLabelKeys": ["hash"]});
        let mut pod = value!({"metadata": {"labels": {"app": "a", "hash": "1", "tenant": "t"}},
            "spec": {"topologySpreadConstraints": [(spread)], "affinity": {
                "podAffinity": {(REQUIRED): [(term.clone()), (nothing)]},
                "podAntiAffinity": {(PREFERRED): [{"podAffinityTerm": (term)}]}}}});
        merge(&mut pod);
        let hash = value!({"key": "hash", "operator": "In", "values": ["1"]});
        let tenant = value!({"key": "tenant", "operator": "NotIn", "values": ["t"]});
        let spec = &pod["spec"];
        let of = |term: &Value| term.items_at(&["labelSelector", "matchExpressions"]).to_vec();
        let required = spec.items_at(&["affinity", "podAffinity", REQUIRED]);
        assert_eq!(of(&required[0]), [hash.clone(), tenant.clone()]);
        assert!(required[1].get("labelSelector").is_none());
        let preferred = spec.items_at(&["affinity", "podAntiAffinity", PREFERRED]);
        assert_eq!(of(&preferred[0]["podAffinityTerm"]), [hash.clone(), tenant]);
        assert_eq!(of(&spec.items_at(&["topologySpreadConstraints"])[0]), [hash]);
    }

    #[test]
    fn a_key_that_the_selector_has_already_is_refused() {
        let found = |term: &Value| {
            let mut errors = FieldErrors::new();
            check(term, &Path::new("term"), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let twice = value!({"labelSelector": {"matchLabels": {"a": "1"},
            "matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, "matchLabelKeys": ["a"]});
        let both = "exists in both matchLabelKeys and labelSelector";
        assert_eq!(found(&twice), [format!("term[0]: Invalid value: \"a\": {both}")]);
        // In a template nothing is merged yet.
        let once = value!({"labelSelector": {"matchLabels": {"a": "1"}}, "matchLabelKeys": ["a"]});
        assert!(found(&once).is_empty());
    }
}
