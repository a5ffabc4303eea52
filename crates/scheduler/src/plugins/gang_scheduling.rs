//! GangScheduling: pods of a group are not looked at before there are enough of them. That they get their nodes together is
//! [`crate::run`]'s part.

use client::ObjectKey;

use crate::cluster::Cluster;
use crate::framework::PreEnqueue;
use crate::pod::PodLite;

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct GangScheduling;

impl PreEnqueue for GangScheduling {
    fn name(&self) -> &'static str {
        "GangScheduling"
    }

    fn blocks(&self, cluster: &Cluster, pod: &PodLite) -> Option<String> {
        let key: ObjectKey = pod.group()?;
        let group = cluster.groups.get(&key);
        let Some((group, spec)) = group.and_then(|it| Some((it, it.spec.as_ref()?))) else {
            return Some(format!(
                "waiting for pod's pod group \"{}\" to appear in scheduling queue",
                key.name
            ));
        };
        let wanted = usize::try_from(spec.min_count?).unwrap_or_default();
        (group.count() < wanted).then(|| {
            "waiting for minCount pods from a gang to appear in scheduling queue".to_owned()
        })
    }
}
