//! Kinds that are stored and do nothing yet: whoever writes one is told, so that nothing fails open in silence.

use api::ResourceFacts;

/// Group and resource of each.
const UNBUILT: &[(&str, &[&str])] = &[
    ("networking.k8s.io", &["networkpolicies"]),
    ("storage.k8s.io", &["csidrivers", "volumeattributesclasses"]),
];

/// What to warn whoever creates or changes an object of a resource.
pub(crate) fn warning(facts: &ResourceFacts) -> Option<String> {
    let (_, resources) = UNBUILT.iter().find(|(group, _)| *group == facts.group)?;
    let unbuilt = resources.contains(&facts.resource);
    unbuilt.then(|| {
        format!("{} is kept and has no effect: what it asks for is not built yet", facts.kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_in_the_list_is_one() {
        for (group, resources) in UNBUILT {
            for resource in *resources {
                let facts = api::resources()
                    .iter()
                    .find(|it| it.group == *group && it.resource == *resource)
                    .unwrap_or_else(|| panic!("{group}/{resource}"));
                assert!(warning(facts).is_some_and(|it| it.starts_with(facts.kind)));
            }
        }
        let built = api::resources().iter().find(|it| it.resource == "pods").expect("a resource");
        assert_eq!(warning(built), None);
    }
}
