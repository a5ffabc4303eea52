//! Removing images that nothing uses when the disk fills up, those unused for longest first.

use std::collections::{BTreeMap, BTreeSet};

use cri::{ContainerFilter, Image, ImageSpec};
use jiff::{SignedDuration, Timestamp};

use crate::config::Config;
use crate::node::Usage;
use crate::shared::Shared;

/// Images younger than this stay: a pod may be about to use them.
const MIN_AGE: SignedDuration = SignedDuration::from_mins(2);

/// When images were first seen and last used, by id. Begins anew with the process.
#[derive(Debug, Default)]
pub(crate) struct History(BTreeMap<String, (Timestamp, Timestamp)>);

impl History {
    fn note(&mut self, images: &[Image], used: &BTreeSet<String>, now: Timestamp) {
        self.0.retain(|id, _| images.iter().any(|it| it.id == *id));
        for image in images {
            let entry = self.0.entry(image.id.clone()).or_insert((now, now));
            if used.contains(&image.id) {
                entry.1 = now;
            }
        }
    }

    /// The images to remove until so much is free, in order.
    fn choose(
        &self,
        images: &[Image],
        used: &BTreeSet<String>,
        mut bytes: i64,
        now: Timestamp,
    ) -> Vec<String> {
        let seen = |it: &Image| self.0.get(&it.id).copied().unwrap_or((now, now));
        let mut unused: Vec<&Image> = images
            .iter()
            .filter(|it| !it.pinned && !used.contains(&it.id))
            .filter(|it| now.duration_since(seen(it).0) >= MIN_AGE)
            .collect();
        unused.sort_by_key(|it| (seen(it).1, seen(it).0));
        let mut chosen = Vec::new();
        for image in unused {
            if bytes <= 0 {
                break;
            }
            bytes = bytes.saturating_sub(i64::try_from(image.size).unwrap_or(i64::MAX));
            chosen.push(image.id.clone());
        }
        chosen
    }
}

/// How much has to go, if anything: collecting begins at the high mark and ends at the low one.
fn excess(usage: Usage, config: &Config) -> Option<i64> {
    let used = usage.disk_bytes - usage.disk_available;
    let percent = usage.disk_bytes / 100;
    (usage.disk_bytes > 0 && used > percent * config.image_gc_high_percent)
        .then(|| used - percent * config.image_gc_low_percent)
}

/// Looks at the disk, and removes images if it is too full.
pub(crate) async fn check(shared: &Shared, history: &mut History, usage: Usage) {
    let (Ok(images), Ok(containers)) = (
        shared.images.list_images(None).await,
        shared.runtime.list_containers(&ContainerFilter::default()).await,
    ) else {
        return;
    };
    let used: BTreeSet<String> = containers.into_iter().map(|it| it.image_id).collect();
    let now = shared.clock.now();
    history.note(&images, &used, now);
    let Some(bytes) = excess(usage, &shared.config) else { return };
    for id in history.choose(&images, &used, bytes, now) {
        match shared.images.remove_image(&ImageSpec::new(id.clone())).await {
            Ok(()) => tracing::info!(image = id, "an unused image was removed: the disk is full"),
            Err(error) => tracing::warn!(image = id, %error, "could not remove an unused image"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_unused_for_longest_go_first() {
        let image = |id: &str, size: u64| Image { id: id.into(), size, ..Image::default() };
        let images = [image("old", 10), image("used", 10), image("recent", 10), image("new", 10)];
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let used = BTreeSet::from(["used".to_owned()]);
        let mut history = History::default();
        history.note(&images[..3], &used, at(0));
        history.note(&images[..3], &BTreeSet::from(["recent".to_owned()]), at(500));
        history.note(&images, &used, at(1000));
        assert_eq!(history.choose(&images, &used, 5, at(1000)), ["old"]);
        assert_eq!(history.choose(&images, &used, 500, at(1000)), ["old", "recent"]);
        assert!(history.choose(&images, &used, 0, at(1000)).is_empty());
    }

    #[test]
    fn collecting_begins_at_the_high_mark_and_ends_at_the_low_one() {
        let usage =
            |available| Usage { memory_available: 0, disk_bytes: 1000, disk_available: available };
        let config = Config::new("n", std::path::Path::new("/tmp"));
        assert_eq!(excess(usage(200), &config), None);
        assert_eq!(excess(usage(100), &config), Some(100));
        assert_eq!(excess(Usage::default(), &config), None);
    }
}
