//! The names and labels that a node may give itself: what the API server would refuse for good is told at the start.

use apimachinery::validation;

/// Labels of upstream's own domains that a node may give itself.
const OWN_LABELS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// Domains of which a node may give itself every label.
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Checks the name of a node.
///
/// # Errors
/// Why the API server would refuse it.
pub fn check_node_name(name: &str) -> Result<(), String> {
    let problems = validation::dns1123_subdomain(name);
    if problems.is_empty() { Ok(()) } else { Err(problems.join(", ")) }
}

/// Checks a label that a node is to give itself.
///
/// # Errors
/// Why it may not, in upstream's words.
pub fn check_node_label(key: &str, value: &str) -> Result<(), String> {
    let domain = key.split_once('/').map_or("", |it| it.0);
    let is_of = |wanted: &str| {
        domain.strip_suffix(wanted).is_some_and(|it| it.is_empty() || it.ends_with('.'))
    };
    let is_reserved = is_of("kubernetes.io") || is_of("k8s.io");
    if is_reserved && !OWN_LABELS.contains(&key) && !OWN_DOMAINS.iter().any(|it| is_of(it)) {
        return Err(format!(
            "unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{key}]\n\
             --node-labels in the 'kubernetes.io' namespace must begin with an allowed prefix ({}) \
             or be in the specifically allowed set ({})",
            OWN_DOMAINS.join(", "),
            OWN_LABELS.join(", ")
        ));
    }
    let invalid = |of: &str, problems: Vec<String>| {
        if problems.is_empty() {
            return Ok(());
        }
        Err(format!("invalid node labels: '{of}' - {}", problems.join(", ")))
    };
    invalid(key, validation::qualified_name(key))?;
    invalid(value, validation::label_value(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gives_itself_only_labels_that_the_server_takes() {
        for key in [
            "a",
            "example.com/a",
            "kubernetes.io/hostname",
            "node.kubernetes.io/pool",
            "x.kubelet.kubernetes.io/a",
            "notkubernetes.io/a",
        ] {
            assert_eq!(check_node_label(key, "b"), Ok(()), "{key}");
        }
        for key in ["kubernetes.io/foo", "node-role.kubernetes.io/worker", "x.k8s.io/a"] {
            let error = check_node_label(key, "").unwrap_err();
            let expected = format!(
                "unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{key}]\n"
            );
            assert!(error.starts_with(&expected), "{error}");
        }
        for (key, value, expected) in [
            ("a b", "", "invalid node labels: 'a b' - name part must consist of "),
            ("a", "b c", "invalid node labels: 'b c' - a valid label must be an empty string"),
        ] {
            let error = check_node_label(key, value).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_node_has_a_name_that_the_server_takes() {
        assert_eq!(check_node_name("n-1.example.com"), Ok(()));
        let error = check_node_name("bad_name!").unwrap_err();
        assert!(error.starts_with("a lowercase RFC 1123 subdomain must consist of"), "{error}");
    }
}
