//! What was used between two samples. Upstream: metrics-server's `pkg/storage`.

use std::collections::BTreeMap;

use crate::sample::{Point, Sample};

/// How long a container that the sample before did not have must run before its start stands for that sample.
const FRESH_MS_MIN: i64 = 10_000;

/// Use over a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Where the time ends, in milliseconds since the epoch.
    pub at_ms: i64,
    /// How long it is, in milliseconds.
    pub window_ms: i64,
    /// Billionths of a processor.
    pub nano_cores: u64,
    /// Bytes in use at its end.
    pub memory_bytes: u64,
}

/// What a node used.
#[must_use]
pub fn node_use(before: &Sample, now: &Sample) -> Option<Use> {
    between(before.node.as_ref()?, now.node.as_ref()?)
}

/// What the containers of a pod used; `None` where one of them cannot be told yet.
#[must_use]
pub fn pod_use(
    before: &Sample,
    now: &Sample,
    namespace: &str,
    name: &str,
) -> Option<BTreeMap<String, Use>> {
    let key = (namespace.to_owned(), name.to_owned());
    let containers = now.pods.get(&key).filter(|it| !it.is_empty())?;
    let earlier = before.pods.get(&key);
    let one = |(name, point): (&String, &Point)| {
        let earlier = earlier.and_then(|it| it.get(name));
        Some((name.clone(), of_container(earlier, point)?))
    };
    containers.iter().map(one).collect()
}

fn of_container(before: Option<&Point>, now: &Point) -> Option<Use> {
    // One that was started anew counts from zero again.
    let same = before.filter(|it| it.started_ms == now.started_ms);
    if let Some(it) = same {
        return between(it, now);
    }
    let age = now.at_ms - now.started_ms;
    let start = Point { at_ms: now.started_ms, ..Point::default() };
    (now.started_ms > 0 && age >= FRESH_MS_MIN).then(|| between(&start, now)).flatten()
}

fn between(before: &Point, now: &Point) -> Option<Use> {
    let window_ms = now.at_ms - before.at_ms;
    let used = now.cpu_nanos.checked_sub(before.cpu_nanos)?;
    let window = u128::try_from(window_ms).ok().filter(|it| *it > 0)?;
    let nano_cores = u64::try_from(u128::from(used) * 1_000 / window).ok()?;
    Some(Use { at_ms: now.at_ms, window_ms, nano_cores, memory_bytes: now.memory_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at_ms: i64, cpu_nanos: u64, started_ms: i64) -> Point {
        Point { at_ms, cpu_nanos, memory_bytes: 7, started_ms }
    }

    fn check(before: Option<Point>, now: Point, expected: Option<(i64, u64)>) {
        let told = of_container(before.as_ref(), &now).map(|it| (it.window_ms, it.nano_cores));
        assert_eq!(told, expected, "{before:?} {now:?}");
    }

    #[test]
    fn use_is_the_rate_between_two_samples() {
        let second = 1_000_000_000;
        check(Some(point(1000, 0, 1)), point(3000, second, 1), Some((2000, second / 2)));
        // No time has passed, or the counter went back.
        check(Some(point(3000, 0, 1)), point(3000, second, 1), None);
        check(Some(point(1000, second, 1)), point(3000, 0, 1), None);
        // New: its start stands for the sample before, once it has run for a while.
        check(None, point(21_000, second, 1000), Some((20_000, second / 20)));
        check(None, point(9_000, second, 1000), None);
        check(None, point(9_000, second, 0), None);
        // Started anew meanwhile.
        check(
            Some(point(20_000, 9 * second, 1)),
            point(40_000, second, 30_000),
            Some((10_000, second / 10)),
        );
    }

    #[test]
    fn a_pod_is_told_of_when_all_its_containers_can_be() {
        let key = ("n".to_owned(), "p".to_owned());
        let sample = |containers: &[(&str, Point)]| Sample {
            node: None,
            pods: BTreeMap::from([(
                key.clone(),
                containers.iter().map(|(name, it)| ((*name).to_owned(), *it)).collect(),
            )]),
        };
        let before = sample(&[("a", point(1000, 0, 1))]);
        let now = sample(&[("a", point(2000, 5, 1)), ("b", point(2000, 5, 1500))]);
        assert_eq!(pod_use(&before, &now, "n", "p"), None);
        assert!(pod_use(&now, &sample(&[("a", point(3000, 5, 1))]), "n", "p").is_some());
        assert_eq!(pod_use(&before, &now, "n", "other"), None);
    }
}
