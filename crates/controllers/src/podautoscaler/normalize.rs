//! From what metrics ask for to what is done: recent recommendations, rates of change, and the limits of the spec.
//! Upstream: the second half of `pkg/controller/podautoscaler/horizontal.go`.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// How many moments are remembered of each sort at most: an hour of the shortest period.
const MAX_REMEMBERED: usize = 3_600;

/// What is remembered of an autoscaler between two looks.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    recommendations: Vec<(Timestamp, i32)>,
    ups: Vec<(Timestamp, i32)>,
    downs: Vec<(Timestamp, i32)>,
}

/// A wish and its limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    /// How many there are.
    pub current: i32,
    /// How many are wanted.
    pub desired: i32,
    /// `spec.minReplicas`
    pub min: i32,
    /// `spec.maxReplicas`
    pub max: i32,
}

/// A condition's reason and message.
pub(super) type Why = (&'static str, &'static str);

/// What is done of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    /// How many replicas.
    pub replicas: i32,
    /// Why `AbleToScale` is true.
    pub able: Why,
    /// Whether the wish was limited, and why or why not.
    pub limited: (bool, Why),
}

const READY: Why = ("ReadyForNewScale", "recommended size matches current size");
const DOWN_STABILIZED: Why = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_STABILIZED: Why = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const WITHIN: Why = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FEW: Why =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_MANY: Why =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const UP_LIMIT: Why =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Why = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);

fn seconds_before(now: Timestamp, seconds: i64) -> Timestamp {
    now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)
}

fn remember(moments: &mut Vec<(Timestamp, i32)>, now: Timestamp, value: i32, oldest: Timestamp) {
    moments.retain(|(at, _)| *at >= oldest);
    if moments.len() >= MAX_REMEMBERED {
        moments.remove(0);
    }
    moments.push((now, value));
}

fn sum_since(moments: &[(Timestamp, i32)], cutoff: Timestamp) -> i32 {
    let since = moments.iter().filter(|(at, _)| *at > cutoff);
    since.fold(0_i32, |sum, (_, change)| sum.saturating_add(*change))
}

impl History {
    /// What there is when it is first seen stands for a recommendation, so that nothing is taken down at once.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    /// Remembers that it was scaled.
    pub(super) fn scaled(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        from: i32,
        to: i32,
        now: Timestamp,
    ) {
        let Some(behavior) = behavior else { return };
        let (moments, rules) = if to > from {
            (&mut self.ups, &behavior.scale_up)
        } else {
            (&mut self.downs, &behavior.scale_down)
        };
        let policies = rules.iter().flat_map(|it| it.policies.iter().flatten());
        let longest = policies.map(|it| it.period_seconds).max().unwrap_or_default();
        remember(moments, now, (to - from).abs(), seconds_before(now, i64::from(longest)));
    }

    /// What is done of a wish. `down_seconds` is how long a lower recommendation waits where the spec does not say.
    pub(super) fn normalize(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        wish: Wish,
        down_seconds: i64,
        now: Timestamp,
    ) -> Done {
        match behavior {
            None => self.plainly(wish, down_seconds, now),
            Some(behavior) => self.by_behavior(behavior, wish, down_seconds, now),
        }
    }

    fn plainly(&mut self, wish: Wish, down_seconds: i64, now: Timestamp) -> Done {
        let cutoff = seconds_before(now, down_seconds);
        let recent = self.recommendations.iter().filter(|(at, _)| *at > cutoff);
        let stable = recent.map(|(_, it)| *it).fold(wish.desired, i32::max);
        remember(&mut self.recommendations, now, wish.desired, cutoff);
        let able = if stable == wish.desired { READY } else { DOWN_STABILIZED };
        let rate = wish.current.saturating_mul(2).max(4);
        let (most, why) = if wish.max > rate { (rate, UP_LIMIT) } else { (wish.max, TOO_MANY) };
        let (replicas, why) = match stable {
            it if it < wish.min => (wish.min, TOO_FEW),
            it if it > most => (most, why),
            it => (it, WITHIN),
        };
        Done { replicas, able, limited: (replicas != stable, why) }
    }

    fn by_behavior(
        &mut self,
        behavior: &HorizontalPodAutoscalerBehavior,
        wish: Wish,
        down_seconds: i64,
        now: Timestamp,
    ) -> Done {
        let window = |rules: &Option<HPAScalingRules>, default| {
            let own = rules.as_ref().and_then(|it| it.stabilization_window_seconds);
            own.map_or(default, i64::from)
        };
        let up = seconds_before(now, window(&behavior.scale_up, 0));
        let down = seconds_before(now, window(&behavior.scale_down, down_seconds));
        let since = |cutoff| {
            let recent = self.recommendations.iter().filter(move |(at, _)| *at > cutoff);
            recent.map(|(_, it)| *it)
        };
        let lowest = since(up).fold(wish.desired, i32::min);
        let highest = since(down).fold(wish.desired, i32::max);
        // Bring the size there is within what was recommended of late.
        let stable = wish.current.max(lowest).min(highest);
        remember(&mut self.recommendations, now, wish.desired, up.min(down));
        let able = match stable == wish.desired {
            true => READY,
            false if wish.desired >= wish.current => UP_STABILIZED,
            false => DOWN_STABILIZED,
        };
        let (replicas, why) = self.at_rate(behavior, Wish { desired: stable, ..wish }, now);
        Done { replicas, able, limited: (replicas != stable, why) }
    }

    fn at_rate(
        &self,
        behavior: &HorizontalPodAutoscalerBehavior,
        wish: Wish,
        now: Timestamp,
    ) -> (i32, Why) {
        let Wish { current, desired, min, max } = wish;
        if desired > current {
            let limit = match &behavior.scale_up {
                Some(rules) => self.up_limit(rules, current, now).max(current),
                None => max,
            };
            let (most, why) = if max > limit { (limit, UP_LIMIT) } else { (max, TOO_MANY) };
            if desired > most {
                return (most, why);
            }
        } else if desired < current {
            let limit = match &behavior.scale_down {
                Some(rules) => self.down_limit(rules, current, now).min(current),
                None => min,
            };
            let (least, why) = if min < limit { (limit, DOWN_LIMIT) } else { (min, TOO_FEW) };
            if desired < least {
                return (least, why);
            }
        }
        (desired, WITHIN)
    }

    fn period_start(&self, period_seconds: i32, current: i32, now: Timestamp) -> i32 {
        let cutoff = seconds_before(now, i64::from(period_seconds));
        let added = sum_since(&self.ups, cutoff);
        let removed = sum_since(&self.downs, cutoff);
        current.saturating_sub(added).saturating_add(removed)
    }

    #[allow(clippy::cast_possible_truncation, reason = "the conversion saturates")]
    fn up_limit(&self, rules: &HPAScalingRules, current: i32, now: Timestamp) -> i32 {
        let select = rules.select_policy.as_deref().unwrap_or("Max");
        if select == "Disabled" {
            return current;
        }
        let limits = rules.policies.iter().flatten().map(|policy| {
            let start = self.period_start(policy.period_seconds, current, now);
            match policy.type_.as_str() {
                "Pods" => start.saturating_add(policy.value),
                // Rounded up: it would never change a small count otherwise.
                _ => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
            }
        });
        if select == "Min" { limits.min() } else { limits.max() }.unwrap_or(current)
    }

    #[allow(clippy::cast_possible_truncation, reason = "the conversion saturates")]
    fn down_limit(&self, rules: &HPAScalingRules, current: i32, now: Timestamp) -> i32 {
        let select = rules.select_policy.as_deref().unwrap_or("Max");
        if select == "Disabled" {
            return current;
        }
        let limits = rules.policies.iter().flatten().map(|policy| {
            let start = self.period_start(policy.period_seconds, current, now);
            match policy.type_.as_str() {
                "Pods" => start.saturating_sub(policy.value),
                _ => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
            }
        });
        // The least change is the highest floor.
        if select == "Min" { limits.max() } else { limits.min() }.unwrap_or(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn behavior(text: &str) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_str(text).unwrap()
    }

    fn wish(current: i32, desired: i32) -> Wish {
        Wish { current, desired, min: 1, max: 100 }
    }

    fn told(done: Done) -> (i32, &'static str, &'static str) {
        (done.replicas, done.able.0, done.limited.1.0)
    }

    #[test]
    fn without_behavior_the_rate_is_twofold_and_lower_ones_wait() {
        let mut history = History::default();
        history.begin(3, at(0));
        let mut go = |current, desired, seconds| {
            told(history.normalize(None, wish(current, desired), 300, at(seconds)))
        };
        assert_eq!(go(3, 20, 0), (6, "ReadyForNewScale", "ScaleUpLimit"));
        assert_eq!(go(6, 2, 15), (12, "ScaleDownStabilized", "ScaleUpLimit"));
        assert_eq!(go(12, 2, 301), (2, "ReadyForNewScale", "DesiredWithinRange"));
        assert_eq!(go(2, 0, 700), (1, "ReadyForNewScale", "TooFewReplicas"));
        assert_eq!(go(80, 200, 1100), (100, "ReadyForNewScale", "TooManyReplicas"));
    }

    #[test]
    fn policies_bound_the_change_within_their_period() {
        let rules = behavior(
            r#"{"scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
                {"type": "Pods", "value": 4, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 60}]},
              "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Min", "policies": [
                {"type": "Pods", "value": 2, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 60}]}}"#,
        );
        let mut history = History::default();
        let mut go = |current, desired, seconds| {
            let done = history.normalize(Some(&rules), wish(current, desired), 300, at(seconds));
            history.scaled(Some(&rules), current, done.replicas, at(seconds));
            told(done)
        };
        assert_eq!(go(10, 50, 0), (15, "ReadyForNewScale", "ScaleUpLimit"));
        assert_eq!(go(15, 50, 15), (15, "ReadyForNewScale", "ScaleUpLimit"));
        assert_eq!(go(15, 50, 61), (23, "ReadyForNewScale", "ScaleUpLimit"));
        assert_eq!(go(23, 1, 200), (21, "ReadyForNewScale", "ScaleDownLimit"));
        assert_eq!(go(21, 20, 261), (20, "ReadyForNewScale", "DesiredWithinRange"));
    }

    #[test]
    fn disabled_is_no_change_and_windows_hold() {
        let rules = behavior(
            r#"{"scaleDown": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0}}"#,
        );
        let mut history = History::default();
        let done = history.normalize(Some(&rules), wish(5, 2), 300, at(0));
        assert_eq!(told(done), (5, "ReadyForNewScale", "ScaleDownLimit"));
        let rules = behavior(
            r#"{"scaleUp": {"stabilizationWindowSeconds": 60, "policies": [{"type": "Pods", "value": 100, "periodSeconds": 15}]},
              "scaleDown": {"stabilizationWindowSeconds": 30, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}}"#,
        );
        let mut history = History::default();
        history.begin(5, at(0));
        let mut go = |current, desired, seconds| {
            told(history.normalize(Some(&rules), wish(current, desired), 300, at(seconds)))
        };
        assert_eq!(go(5, 9, 1), (5, "ScaleUpStabilized", "DesiredWithinRange"));
        assert_eq!(go(5, 9, 61), (9, "ReadyForNewScale", "DesiredWithinRange"));
        assert_eq!(go(9, 2, 70), (9, "ScaleDownStabilized", "DesiredWithinRange"));
        assert_eq!(go(9, 2, 92), (2, "ReadyForNewScale", "DesiredWithinRange"));
    }
}
