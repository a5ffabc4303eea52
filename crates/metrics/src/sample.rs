//! An agent's counters at one moment, read from the text that Prometheus reads too.

use std::collections::BTreeMap;

/// The most pods of a node that are looked at; an agent that tells of more is not one.
const MAX_PODS: usize = 10_000;

/// Counters of a node or a container at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Point {
    /// When, in milliseconds since the epoch.
    pub at_ms: i64,
    /// Processor time since the start, in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory that cannot be had back, in bytes.
    pub memory_bytes: u64,
    /// When it was started, in milliseconds since the epoch; 0 where nobody said.
    pub started_ms: i64,
}

/// What an agent told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// The node as a whole.
    pub node: Option<Point>,
    /// Containers by namespace and name of their pod, and their own name.
    pub pods: BTreeMap<(String, String), BTreeMap<String, Point>>,
}

impl Sample {
    /// Reads an agent's `/metrics/resource`. Lines that it does not know are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut sample = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(line) = Line::parse(line) {
                sample.take(&line);
            }
        }
        // What has no counter of processor time has not been measured.
        sample.node = sample.node.filter(|it| it.at_ms > 0);
        for containers in sample.pods.values_mut() {
            containers.retain(|_, it| it.at_ms > 0);
        }
        sample
    }

    fn take(&mut self, line: &Line<'_>) {
        let Some((whose, what)) = line.name.split_once('_') else { return };
        let point = match whose {
            "node" => self.node.get_or_insert_default(),
            "container" => {
                let label = |name| line.label(name);
                let (Some(namespace), Some(pod), Some(container)) =
                    (label("namespace"), label("pod"), label("container"))
                else {
                    return;
                };
                let key = (namespace, pod);
                if self.pods.len() >= MAX_PODS && !self.pods.contains_key(&key) {
                    return;
                }
                self.pods.entry(key).or_default().entry(container).or_default()
            }
            _ => return,
        };
        match what {
            "cpu_usage_seconds_total" => {
                point.cpu_nanos = whole(line.value * 1e9);
                point.at_ms = line.at_ms;
            }
            "memory_working_set_bytes" => point.memory_bytes = whole(line.value),
            "start_time_seconds" => {
                point.started_ms = i64::try_from(whole(line.value * 1e3)).unwrap_or_default();
            }
            _ => {}
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates, and a counter is not negative"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// `name{label="value",...} value milliseconds`
struct Line<'l> {
    name: &'l str,
    labels: &'l str,
    value: f64,
    at_ms: i64,
}

impl<'l> Line<'l> {
    fn parse(line: &'l str) -> Option<Self> {
        let (name, labels, rest) = match line.split_once('{') {
            Some((name, rest)) => {
                let end = rest.rfind('}')?;
                (name, &rest[..end], &rest[end + 1..])
            }
            None => {
                let (name, rest) = line.split_once(' ')?;
                (name, "", rest)
            }
        };
        let mut rest = rest.split_ascii_whitespace();
        let value = rest.next()?.parse().ok().filter(|it: &f64| it.is_finite())?;
        let at_ms = rest.next().and_then(|it| it.parse().ok()).unwrap_or_default();
        Some(Self { name, labels, value, at_ms })
    }

    /// The value of a label. Names of objects need no escapes, so that a comma ends nothing but a pair.
    fn label(&self, name: &str) -> Option<String> {
        let pairs = self.labels.split(',').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.into_iter().find(|(it, _)| it.trim() == name)?;
        Some(value.trim().trim_matches('"').to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_s_text_is_read() {
        let text = "# HELP x y\n\
            container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 1.5 2000\n\
            container_memory_working_set_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 4096 2000\n\
            container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 1 2000\n\
            container_memory_working_set_bytes{container=\"old\",namespace=\"n\",pod=\"p\"} 1 2000\n\
            node_cpu_usage_seconds_total 7.25 3000\n\
            node_memory_working_set_bytes 1.5e+06 3000\n\
            pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 9 2000\n\
            resource_scrape_error 0\n";
        let sample = Sample::parse(text);
        let node =
            Point { at_ms: 3000, cpu_nanos: 7_250_000_000, memory_bytes: 1_500_000, started_ms: 0 };
        assert_eq!(sample.node, Some(node));
        let container =
            Point { at_ms: 2000, cpu_nanos: 1_500_000_000, memory_bytes: 4096, started_ms: 1000 };
        let pod = &sample.pods[&("n".to_owned(), "p".to_owned())];
        assert_eq!(pod.iter().collect::<Vec<_>>(), [(&"c".to_owned(), &container)]);
    }

    #[test]
    fn what_is_no_metric_is_passed_over() {
        for text in [
            "",
            "{",
            "node_cpu_usage_seconds_total",
            "node_cpu_usage_seconds_total NaN 1",
            "container_cpu_usage_seconds_total{pod=\"p\"} 1 1",
            "}{ 1",
            "node_cpu{ 1 2",
        ] {
            assert_eq!(Sample::parse(text), Sample::default(), "{text}");
        }
    }
}
