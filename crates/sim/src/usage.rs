//! What pods use, modelled: what a metrics server would tell of them. It answers `metrics.k8s.io` in place of one.

use apimachinery::labels::Selector;
use apimachinery::{Value, time, value};
use jiff::Timestamp;

use crate::observer::{Observer, Place};
use crate::rules::is_active;

/// What autoscalers aim at, in percent of what pods ask for.
pub(crate) const TARGET_PERCENT: i64 = 50;
const PATH: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/";
/// How long a load stays as it is.
const SPELL_SECONDS: i64 = 45;

/// Whether a path is answered from here.
pub(crate) fn is_told(path: &str) -> bool {
    path.starts_with(PATH)
}

/// What the pods of `path` (with `query`) use now; while nothing is `bad`, just what autoscalers aim at.
pub(crate) fn told(
    observer: &Observer,
    path: &str,
    query: &str,
    now: Timestamp,
    bad: bool,
) -> Value {
    let namespace = path.trim_start_matches(PATH).trim_end_matches("/pods");
    let selector = query.trim_start_matches("labelSelector=");
    let selector = percent_encoding::percent_decode_str(selector).decode_utf8_lossy();
    let selector = Selector::parse(&selector).unwrap_or(Selector::NOTHING);
    let items = observer.with(|state| -> Vec<Value> {
        let pods = state.all("Pod").filter(|(place, pod)| {
            place.namespace == namespace
                && is_active(pod)
                && pod.str_at(&["status", "phase"]) == "Running"
                && selector
                    .matches_labels(pod.at(&["metadata", "labels"]).and_then(Value::as_object))
        });
        pods.map(|(place, pod)| one(place, pod, now, bad)).collect()
    });
    value!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items})
}

fn one(place: &Place, pod: &Value, now: Timestamp, bad: bool) -> Value {
    let asked = crate::demand::Demand::of(pod).cpu_milli;
    let percent = if bad { load(pod, now) } else { TARGET_PERCENT };
    let used = format!("{}m", asked * percent / 100);
    value!({"metadata": {"name": (place.name.as_str()), "namespace": (place.namespace.as_str())},
        "timestamp": (time::format_time(now)), "window": "15s",
        "containers": [{"name": "c", "usage": {"cpu": (used.as_str()), "memory": "32Mi"}}]})
}

/// How busy the pods of a workload are, in percent of what they ask for: another spell, another load.
fn load(pod: &Value, now: Timestamp) -> i64 {
    let app = pod.str_at(&["metadata", "labels", "app"]);
    let spell = now.as_second() / SPELL_SECONDS;
    let hash = app.bytes().fold(spell, |hash, byte| {
        hash.wrapping_mul(1_103_515_245).wrapping_add(i64::from(byte)) & 0xffff_ffff
    });
    5 + (hash >> 7) % 140
}
