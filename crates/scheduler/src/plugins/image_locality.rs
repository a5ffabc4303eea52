//! ImageLocality: rather where the images are already.

use compact_str::{CompactString, format_compact};

use crate::framework::{Cycle, MAX_SCORE, Score};
use crate::node::Row;

const MEGABYTE: i64 = 1 << 20;
/// Less than this in images counts as nothing.
const MIN_BYTES: i64 = 23 * MEGABYTE;
/// As much as this for each image counts as everything.
const MAX_BYTES_EACH: i64 = 1_000 * MEGABYTE;

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct ImageLocality;

impl Score for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn is_local(&self, _cycle: Cycle<'_>) -> bool {
        // How many nodes hold an image counts too, and what is remembered goes when that changes.
        true
    }

    fn score(&self, cycle: Cycle<'_>, feasible: &[usize], scores: &mut [i64]) -> bool {
        scores.fill(0);
        let wanted = cycle.pod.ask.images.iter().map(|it| with_tag(it));
        let wanted: Vec<(CompactString, f64)> = wanted
            .map(|name| {
                let spread = spread(&cycle, &name);
                (name, spread)
            })
            .filter(|(_, spread)| *spread > 0.0)
            .collect();
        if wanted.is_empty() {
            return true;
        }
        let count = i64::try_from(cycle.pod.ask.images.len()).unwrap_or(1);
        for (index, score) in feasible.iter().zip(scores) {
            let bytes = bytes_there(&cycle.cluster.rows()[*index], &wanted);
            let max = MAX_BYTES_EACH * count;
            *score = MAX_SCORE * (bytes.clamp(MIN_BYTES, max) - MIN_BYTES) / (max - MIN_BYTES);
        }
        true
    }
}

/// The share of nodes that hold an image: one that is on one node only draws less, so that nodes do not heat up.
#[allow(clippy::cast_precision_loss, reason = "it is a share")]
fn spread(cycle: &Cycle<'_>, image: &str) -> f64 {
    cycle.cluster.nodes_with_image(image) as f64 / cycle.cluster.rows().len().max(1) as f64
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "images are smaller than 2^53 bytes"
)]
fn bytes_there(row: &Row, wanted: &[(CompactString, f64)]) -> i64 {
    let size = |name: &CompactString| {
        let found = row.node.images.binary_search_by(|(it, _)| it.cmp(name)).ok()?;
        Some(row.node.images[found].1)
    };
    let there =
        wanted.iter().filter_map(|(name, spread)| Some((size(name)? as f64 * spread) as i64));
    there.sum()
}

/// A name without a tag means the latest.
fn with_tag(name: &str) -> CompactString {
    if name.rfind(':') <= name.rfind('/') { format_compact!("{name}:latest") } else { name.into() }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;
    use crate::cluster::Cluster;
    use crate::node::NodeLite;
    use crate::pod::PodLite;

    #[test]
    fn images_that_are_volumes_count_like_those_of_containers() {
        let mut cluster = Cluster::default();
        for (name, bytes) in [("n1", 600 * MEGABYTE), ("n2", 0)] {
            cluster.set_node(NodeLite::from_value(&value!({"metadata": {"name": name},
                "status": {"images": [{"names": ["data:latest"], "sizeBytes": bytes}]}})));
        }
        let pod = PodLite::from_value(&value!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "image": "code"}],
            "volumes": [{"name": "v", "image": {"reference": "data"}}]}}));
        let mut scores = [0; 2];
        let cycle = Cycle { pod: &pod, cluster: &cluster };
        assert!(ImageLocality.score(cycle, &[0, 1], &mut scores));
        assert_eq!(scores, [100 * (600 - 23) / (2_000 - 23), 0]);
    }
}
