//! Upstream's cases of the replica calculator, in its terms.

use super::*;

use apimachinery::value;
use k8s_openapi::api::core::v1::Pod;

const NOW: i64 = 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// `r` running and ready, `u` running and never ready, `p` pending, `f` failed, `n` started just now and ready.
fn pod(index: usize, state: char, request: &str) -> Arc<Pod> {
    let time = |seconds| apimachinery::time::format_time(at(seconds)).to_string();
    let (phase, ready, started, since) = match state {
        'r' => ("Running", "True", NOW - 3600, NOW - 3600),
        'u' => ("Running", "False", NOW - 3600, NOW - 3600),
        'n' => ("Running", "True", NOW - 10, NOW - 5),
        'p' => ("Pending", "False", NOW - 3600, NOW - 3600),
        _ => ("Failed", "False", NOW - 3600, NOW - 3600),
    };
    let pod = value!({
        "metadata": {"name": (format!("p{index}"))},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": request}}}]},
        "status": {"phase": phase, "startTime": (time(started)), "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": (time(since))}]}
    });
    Arc::new(serde_json::from_str(&apimachinery::json::to_string(&pod)).unwrap())
}

fn pods(states: &str) -> Vec<Arc<Pod>> {
    states.chars().enumerate().map(|(index, state)| pod(index, state, "1000m")).collect()
}

fn setting(pods: &[Arc<Pod>], current: i32) -> Setting<'_> {
    Setting {
        pods,
        current,
        tolerances: Tolerances { up: 0.1, down: 0.1 },
        now: at(NOW),
        cpu_initialization: SignedDuration::from_mins(5),
        readiness_delay: SignedDuration::from_secs(30),
    }
}

fn measured(values: &[i64]) -> PodMetrics {
    let metric = |value| PodMetric { value, at: at(NOW), window: SignedDuration::from_secs(60) };
    values.iter().enumerate().map(|(index, value)| (format!("p{index}"), metric(*value))).collect()
}

fn check_cpu(states: &str, values: &[i64], current: i32, target: i32, expected: Result<i32, &str>) {
    let pods = pods(states);
    let requests = requests(&pods, None, "cpu").unwrap();
    let target = PodTarget::Utilization(target, &requests);
    let got = of_pods(&setting(&pods, current), measured(values), target, true);
    let got = got.map(|it| it.replicas);
    assert_eq!(got, expected.map_err(str::to_owned), "{states} {values:?}");
}

#[test]
fn cpu_utilization() {
    check_cpu("rrr", &[300, 500, 700], 3, 30, Ok(5));
    check_cpu("rrrrr", &[100, 300, 500, 250, 250], 5, 50, Ok(3));
    // Within the tolerance.
    check_cpu("rrr", &[1020, 1020, 1020], 3, 100, Ok(3));
    check_cpu("rrr", &[1110, 1110, 1110], 3, 100, Ok(4));
    // A pod without metrics counts as nothing when it goes up, as all when it goes down.
    check_cpu("rrr", &[900, 900], 3, 50, Ok(4));
    check_cpu("rrrr", &[400, 400, 400], 4, 50, Ok(4));
    check_cpu("rrrrr", &[100, 100, 100, 100], 5, 50, Ok(3));
    // What has never been ready, and what waits, counts as nothing when it goes up.
    check_cpu("rru", &[600, 1000, 1000], 3, 30, Ok(6));
    check_cpu("rrp", &[600, 1000], 3, 30, Ok(6));
    check_cpu("rrn", &[600, 1000, 9000], 3, 30, Ok(6));
    // What failed counts for nothing at all.
    check_cpu("rrff", &[500, 700], 2, 50, Ok(3));
    check_cpu("", &[], 1, 50, Err(NO_PODS));
    let none = "did not receive metrics for targeted pods (pods might be unready)";
    check_cpu("uu", &[100, 100], 2, 50, Err(none));
    check_cpu("rr", &[], 2, 50, Err(none));
}

#[test]
fn plain_values() {
    let check = |states: &str, values: &[i64], current, target, expected: (i32, i64)| {
        let pods = pods(states);
        let got =
            of_pods(&setting(&pods, current), measured(values), PodTarget::Value(target), false);
        let got = got.unwrap();
        assert_eq!((got.replicas, got.usage), expected, "{states} {values:?}");
    };
    check("rrr", &[20_000, 10_000, 30_000], 3, 15_000, (4, 20_000));
    check("rrr", &[12_000, 12_000, 12_000], 3, 20_000, (2, 12_000));
    // Readiness does not matter to them, waiting does.
    check("uuu", &[50_000, 10_000, 30_000], 3, 15_000, (6, 30_000));
    check("rrp", &[50_000, 10_000], 3, 15_000, (4, 30_000));
    check("rrrr", &[10_000, 10_000, 10_000], 4, 20_000, (3, 10_000));
}

#[test]
fn one_value_for_all() {
    let check = |states: &str, usage, target, current, expected: Result<i32, String>| {
        let pods = pods(states);
        let got = of_value(&setting(&pods, current), usage, target).map(|it| it.replicas);
        assert_eq!(got, expected, "{states} {usage}/{target}");
    };
    check("rrr", 20_000, 15_000, 3, Ok(4));
    check("rrr", 15_500, 15_000, 3, Ok(3));
    check("rru", 20_000, 10_000, 3, Ok(4));
    check("", 20_000, 15_000, 0, Ok(2));
    check("", 0, 15_000, 0, Ok(0));
    check("", 20_000, 15_000, 1, Err(format!("unable to calculate ready pods: {NO_PODS}")));
    let tolerances = Tolerances { up: 0.1, down: 0.1 };
    let average = |usage, target, status| {
        let it = of_average(tolerances, usage, target, status);
        (it.replicas, it.usage)
    };
    assert_eq!(average(8_600, 2_000, 3), (5, 2_867));
    assert_eq!(average(6_000, 2_000, 3), (3, 2_000));
    assert_eq!(average(0, 2_000, 3), (0, 0));
}

#[test]
fn a_tolerance_each_way() {
    let pods = pods("rrr");
    let with = |up, down, value: i64| {
        let setting = Setting { tolerances: Tolerances { up, down }, ..setting(&pods, 3) };
        of_pods(&setting, measured(&[value; 3]), PodTarget::Value(1000), false).unwrap().replicas
    };
    assert_eq!(with(0.0, 0.5, 1050), 4);
    assert_eq!(with(0.1, 0.5, 1050), 3);
    assert_eq!(with(0.0, 0.5, 600), 3);
    assert_eq!(with(0.0, 0.1, 600), 2);
}

#[test]
fn what_requests_nothing_is_told() {
    let pods = [pod(0, 'r', "500m")];
    let missing = requests(&pods, None, "memory");
    assert_eq!(missing, Err("missing request for memory in container c of Pod p0".into()));
    assert_eq!(requests(&pods, Some("c"), "cpu").unwrap()["p0"], 500);
}
