//! The containers of a pod, of all three lists.

use apimachinery::Value;

/// The lists, in the order in which upstream goes through them.
pub(crate) const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Every container with the list that it is in and its place there.
pub(crate) fn all(pod: &Value) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    LISTS.into_iter().flat_map(move |list| {
        let containers = pod.items_at(&["spec", list]).iter().enumerate();
        containers.map(move |(index, container)| (list, index, container))
    })
}
