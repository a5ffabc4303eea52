//! What a configuration may not say, in upstream's words.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::Value;
use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{is_extended_resource, label_value, qualified_name};

use super::args::Given;
use super::{Configuration, ExtenderConfig, Features, LeaderElection, ProfileConfig};

/// Plugins that were removed.
const REMOVED: [&str; 4] = ["AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits"];

/// Everything that is wrong.
pub(super) fn validate(config: &Configuration) -> FieldErrors {
    let mut errors = FieldErrors::new();
    if config.client_connection.burst < 0 {
        let path = Path::new("clientConnection");
        let burst = Value::Int(config.client_connection.burst);
        errors.invalid(&path.child("burst"), &burst, "must be non-negative");
    }
    leader_election(&config.leader_election, &mut errors);
    if config.parallelism <= 0 {
        let (path, value) = (Path::new("parallelism"), Value::Int(config.parallelism));
        errors.invalid(&path, &value, "should be an integer value greater than zero");
    }
    let profiles = Path::new("profiles");
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, profile) in config.profiles.iter().enumerate() {
        let path = profiles.index(index);
        validate_profile(profile, config.features, &path, &mut errors);
        if let Some(first) = names.insert(&profile.scheduler_name, index) {
            let text = profiles.index(first);
            let text = text.child("schedulerName").to_string();
            errors.duplicate(&path.child("schedulerName"), &text.as_str().into());
        }
    }
    common_queue_sort(config, &profiles, &mut errors);
    percentage(
        Some(config.percentage_of_nodes_to_score),
        &Path::new("percentageOfNodesToScore"),
        &mut errors,
    );
    let (first, longest) = (config.pod_initial_backoff_seconds, config.pod_max_backoff_seconds);
    if first <= 0 {
        let path = Path::new("podInitialBackoffSeconds");
        errors.invalid(&path, &Value::Int(first), "must be greater than 0");
    }
    if longest < first {
        let path = Path::new("podMaxBackoffSeconds");
        let rule = "must be greater than or equal to PodInitialBackoffSeconds";
        errors.invalid(&path, &Value::Int(longest), rule);
    }
    extenders(&config.extenders, &mut errors);
    errors
}

fn leader_election(election: &LeaderElection, errors: &mut FieldErrors) {
    if election.leader_elect == Some(false) {
        return;
    }
    let path = Path::new("leaderElection");
    let shown = |it: std::time::Duration| Value::from(go_duration(it).as_str());
    let durations = [
        ("leaseDuration", election.lease_duration),
        ("renewDeadline", election.renew_deadline),
        ("retryPeriod", election.retry_period),
    ];
    for (name, duration) in durations.into_iter().filter(|(_, it)| it.is_zero()) {
        errors.invalid(&path.child(name), &shown(duration), "must be greater than zero");
    }
    if election.lease_duration <= election.renew_deadline {
        let rule = "LeaseDuration must be greater than RenewDeadline";
        errors.invalid(&path.child("leaseDuration"), &shown(election.renew_deadline), rule);
    }
    if election.renew_deadline <= election.retry_period {
        let rule = "RenewDeadline must be greater than RetryPeriod";
        errors.invalid(&path.child("renewDeadline"), &shown(election.renew_deadline), rule);
    }
    if election.resource_lock != "leases" {
        let rule = "resourceLock value must be \"leases\"";
        errors.invalid_text(&path.child("resourceLock"), &election.resource_lock, rule);
    }
}

/// As Go prints a metav1.Duration.
fn go_duration(it: std::time::Duration) -> String {
    let nanos = i64::try_from(it.as_nanos()).unwrap_or(i64::MAX);
    apimachinery::duration::Duration::from_nanos(nanos).to_string()
}

fn percentage(value: Option<i64>, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(value) = value.filter(|it| !(0..=100).contains(it)) {
        errors.invalid(path, &Value::Int(value), "not in valid range [0-100]");
    }
}

fn was_removed(path: &Path<'_>, name: &str, errors: &mut FieldErrors) -> bool {
    let removed = REMOVED.contains(&name);
    if removed {
        let version = super::VERSION;
        let text = format!(
            "was invalid in version \"{version}\" (KubeSchedulerConfiguration is version \"{version}\")"
        );
        errors.invalid_text(path, name, &text);
    }
    removed
}

fn validate_profile(
    profile: &ProfileConfig,
    features: Features,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if profile.scheduler_name.is_empty() {
        errors.required(&path.child("schedulerName"), "");
    }
    let share = path.child("percentageOfNodesToScore");
    percentage(profile.percentage_of_nodes_to_score, &share, errors);
    let plugins = path.child("plugins");
    for (point, set) in &profile.plugins.0 {
        let at = plugins.child(point);
        let at = at.child("enabled");
        for (index, plugin) in set.enabled.iter().enumerate() {
            was_removed(&at.index(index), &plugin.name, errors);
        }
    }
    let mut seen = BTreeSet::new();
    let configs = path.child("pluginConfig");
    for (index, given) in profile.args.given.iter().enumerate() {
        let at = configs.index(index);
        if !seen.insert(given.plugin.as_str()) {
            errors.duplicate(&at, &given.plugin.as_str().into());
        }
        if !was_removed(&at, &given.plugin, errors) {
            validate_args(given, features, &at.child("args"), errors);
        }
    }
}

fn validate_args(given: &Given, features: Features, path: &Path<'_>, errors: &mut FieldErrors) {
    match given.plugin.as_str() {
        "DefaultPreemption" => preemption(&given.args, path, errors),
        "InterPodAffinity" => {
            let weight = given.args.i64_at(&["hardPodAffinityWeight"]).unwrap_or(1);
            range(weight, (0, 100), &path.child("hardPodAffinityWeight"), errors);
        }
        "NodeAffinity" => node_affinity(&given.args, path, errors),
        "NodeResourcesBalancedAllocation" => balanced(&given.args, path, errors),
        "NodeResourcesFit" => fit(&given.args, path, errors),
        "PodTopologySpread" => spread(&given.args, path, errors),
        "VolumeBinding" => volume_binding(&given.args, features, path, errors),
        "DynamicResources" => dynamic_resources(&given.args, path, errors),
        _ => {}
    }
}

fn range(value: i64, (low, high): (i64, i64), path: &Path<'_>, errors: &mut FieldErrors) {
    if !(low..=high).contains(&value) {
        let text = format!("not in valid range [{low}, {high}]");
        errors.invalid(path, &Value::Int(value), &text);
    }
}

fn preemption(args: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (share, number) = ("minCandidateNodesPercentage", "minCandidateNodesAbsolute");
    let percentage = args.i64_at(&[share]).unwrap_or(10);
    let absolute = args.i64_at(&[number]).unwrap_or(100);
    let (share_path, number_path) = (path.child(share), path.child(number));
    range(percentage, (0, 100), &share_path, errors);
    if absolute < 0 {
        errors.invalid(&number_path, &Value::Int(absolute), "not in valid range [0, inf)");
    }
    if percentage == 0 && absolute == 0 {
        let rule = |other: &str| format!("cannot be zero at the same time as {other}");
        errors.invalid(&share_path, &Value::Int(0), &rule(number));
        errors.invalid(&number_path, &Value::Int(0), &rule(share));
    }
}

fn node_affinity(args: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("addedAffinity");
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let at = path.child(required);
    let at = at.child("nodeSelectorTerms");
    let terms = args.items_at(&["addedAffinity", required, "nodeSelectorTerms"]);
    for (index, term) in terms.iter().enumerate() {
        node_term(term, &at.index(index), errors);
    }
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let at = path.child(preferred);
    for (index, item) in args.items_at(&["addedAffinity", preferred]).iter().enumerate() {
        if let Some(term) = item.at(&["preference"]) {
            node_term(term, &at.index(index), errors);
        }
    }
}

fn node_term(term: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let expressions = path.child("matchExpressions");
    for (index, it) in term.items_at(&["matchExpressions"]).iter().enumerate() {
        let path = expressions.index(index);
        let values = it.items_at(&["values"]);
        let shown = it.at(&["values"]).cloned().unwrap_or(Value::Array(Vec::new()));
        let problem = match it.str_at(&["operator"]) {
            "In" | "NotIn" => values
                .is_empty()
                .then_some("for 'in', 'notin' operators, values set can't be empty"),
            "Exists" | "DoesNotExist" => (!values.is_empty())
                .then_some("values set must be empty for exists and does not exist"),
            "Gt" | "Lt" => (values.len() != 1)
                .then_some("for 'Gt', 'Lt' operators, exactly one value is required"),
            other => {
                let rule = "not a valid selector operator";
                errors.invalid_text(&path.child("operator"), other, rule);
                None
            }
        };
        if let Some(problem) = problem {
            errors.invalid(&path.child("values"), &shown, problem);
        }
        errors.invalid_all(
            &path.child("key"),
            it.str_at(&["key"]),
            qualified_name(it.str_at(&["key"])),
        );
        for (index, value) in values.iter().enumerate() {
            let text = value.as_str().unwrap_or_default();
            errors.invalid_all(&path.child("values").index(index), text, label_value(text));
        }
    }
    let fields = path.child("matchFields");
    for (index, it) in term.items_at(&["matchFields"]).iter().enumerate() {
        let path = fields.index(index);
        if !matches!(it.str_at(&["operator"]), "In" | "NotIn") {
            let rule = "not a valid selector operator";
            errors.invalid_text(&path.child("operator"), it.str_at(&["operator"]), rule);
        } else if it.items_at(&["values"]).len() != 1 {
            errors.required(&path.child("values"), "must have one element");
        }
    }
}

fn balanced(args: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    let list = path.child("resources");
    for (index, resource) in args.items_at(&["resources"]).iter().enumerate() {
        let (path, name) = (list.index(index), resource.str_at(&["name"]));
        if !seen.insert(name) {
            errors.duplicate(&path.child("name"), &name.into());
        }
        let weight = resource.i64_at(&["weight"]).unwrap_or_default();
        if !matches!(weight, 0 | 1) {
            errors.invalid(&path.child("weight"), &Value::Int(weight), "must be 1");
        }
    }
}

fn shape(points: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    if points.is_empty() {
        return errors.required(path, "at least one point must be specified");
    }
    let utilization = |it: &Value| it.i64_at(&["utilization"]).unwrap_or_default();
    let unsorted = points.windows(2).position(|it| utilization(&it[0]) >= utilization(&it[1]));
    if let Some(index) = unsorted {
        let (path, value) = (path.index(index + 1), Value::Int(utilization(&points[index + 1])));
        let rule = "values must be sorted in increasing order";
        errors.invalid(&path.child("utilization"), &value, rule);
    }
    for (index, point) in points.iter().enumerate() {
        let path = path.index(index);
        range(utilization(point), (0, 100), &path.child("utilization"), errors);
        let score = point.i64_at(&["score"]).unwrap_or_default();
        range(score, (0, 10), &path.child("score"), errors);
    }
}

fn fit(args: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("ignoredResources");
    for (index, name) in args.items_at(&["ignoredResources"]).iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        errors.invalid_all(&list.index(index), name, qualified_name(name));
    }
    let list = path.child("ignoredResourceGroups");
    for (index, name) in args.items_at(&["ignoredResourceGroups"]).iter().enumerate() {
        let (path, name) = (list.index(index), name.as_str().unwrap_or_default());
        if name.contains('/') {
            errors.invalid_text(&path, name, "resource group name can't contain '/'");
        }
        errors.invalid_all(&path, name, qualified_name(name));
    }
    let Some(strategy) = args.at(&["scoringStrategy"]).filter(|it| !it.is_null()) else { return };
    let path = path.child("scoringStrategy");
    let kind = strategy.str_at(&["type"]);
    let known = ["LeastAllocated", "MostAllocated", "RequestedToCapacityRatio"];
    if !known.contains(&kind) {
        errors.not_supported(&path.child("type"), &kind.into(), known);
    }
    let list = path.child("resources");
    for (index, resource) in strategy.items_at(&["resources"]).iter().enumerate() {
        let weight = resource.i64_at(&["weight"]).unwrap_or_default();
        // Zero is the same as not given.
        if !(0..=100).contains(&weight) {
            let name = resource.str_at(&["name"]);
            let text = format!("resource weight of {name} not in valid range (0, 100]");
            errors.invalid(&list.index(index).child("weight"), &Value::Int(weight), &text);
        }
    }
    let ratio = strategy.at(&["requestedToCapacityRatio"]).filter(|it| !it.is_null());
    let path = path.child("requestedToCapacityRatio");
    match (kind == "RequestedToCapacityRatio", ratio) {
        (true, None) => {
            errors.required(&path, "must be specified when type is RequestedToCapacityRatio");
        }
        (true, Some(ratio)) => shape(ratio.items_at(&["shape"]), &path.child("shape"), errors),
        (false, Some(_)) => {
            errors.forbidden(&path, "must be nil when type is not RequestedToCapacityRatio");
        }
        (false, None) => {}
    }
}

fn spread(args: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let constraints = args.items_at(&["defaultConstraints"]);
    let kind = args.str_at(&["defaultingType"]);
    let kind = if kind.is_empty() { "System" } else { kind };
    let at = path.child("defaultingType");
    if !matches!(kind, "System" | "List") {
        errors.not_supported(&at, &kind.into(), ["System", "List"]);
    } else if kind == "System" && !constraints.is_empty() {
        errors.invalid_text(&at, kind, "when .defaultConstraints are not empty");
    }
    let list = path.child("defaultConstraints");
    for (index, it) in constraints.iter().enumerate() {
        let path = list.index(index);
        let skew = it.i64_at(&["maxSkew"]).unwrap_or_default();
        if skew <= 0 {
            let value = Value::Int(skew);
            errors.invalid(&path.child("maxSkew"), &value, "not in valid range (0, inf)");
        }
        let (key, action) = (it.str_at(&["topologyKey"]), it.str_at(&["whenUnsatisfiable"]));
        match key {
            "" => errors.required(&path.child("topologyKey"), "can not be empty"),
            key => errors.invalid_all(&path.child("topologyKey"), key, qualified_name(key)),
        }
        match action {
            "" => errors.required(&path.child("whenUnsatisfiable"), "can not be empty"),
            "DoNotSchedule" | "ScheduleAnyway" => {}
            other => {
                let known = ["DoNotSchedule", "ScheduleAnyway"];
                errors.not_supported(&path.child("whenUnsatisfiable"), &other.into(), known);
            }
        }
        if it.at(&["labelSelector"]).is_some_and(|it| !it.is_null()) {
            let rule = "constraint must not define a selector, as they deduced for each pod";
            errors.forbidden(&path.child("labelSelector"), rule);
        }
        let same = |other: &Value| {
            other.str_at(&["topologyKey"]) == key && other.str_at(&["whenUnsatisfiable"]) == action
        };
        if constraints[..index].iter().any(same) {
            errors.duplicate(&path, &format!("{{{key}, {action}}}").as_str().into());
        }
    }
}

fn volume_binding(args: &Value, features: Features, path: &Path<'_>, errors: &mut FieldErrors) {
    let seconds = args.i64_at(&["bindTimeoutSeconds"]).unwrap_or_default();
    if seconds < 0 {
        let rule = "invalid BindTimeoutSeconds, should not be a negative value";
        errors.invalid(&path.child("bindTimeoutSeconds"), &Value::Int(seconds), rule);
    }
    if let Some(points) = args.at(&["shape"]).filter(|it| !it.is_null()) {
        let path = path.child("shape");
        if !features.storage_capacity_scoring {
            let rule = "unexpected field `shape`, remove it or turn on the feature gate StorageCapacityScoring";
            return errors.invalid(&path, points, rule);
        }
        // None at all stand for the default.
        let points = args.items_at(&["shape"]);
        if !points.is_empty() {
            shape(points, &path, errors);
        }
    }
}

fn dynamic_resources(args: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (name, least, rule) in [
        ("filterTimeout", 0, "must be zero or positive"),
        ("bindingTimeout", 1_000_000_000, "must be at least 1 second"),
    ] {
        let text = args.str_at(&[name]);
        let parsed = apimachinery::duration::Duration::parse(text);
        if parsed.is_ok_and(|it| it.as_nanos() < least) {
            errors.invalid_text(&path.child(name), text, rule);
        }
    }
}

fn common_queue_sort(config: &Configuration, profiles: &Path<'_>, errors: &mut FieldErrors) {
    let sort = |profile: &ProfileConfig| {
        let set = profile.plugins.0.get("queueSort").cloned().unwrap_or_default();
        set.enabled.into_iter().map(|it| it.name).collect::<Vec<String>>()
    };
    let Some(first) = config.profiles.first().map(sort) else { return };
    if first.len() > 1 {
        let path = profiles.index(0);
        let count = i64::try_from(first.len()).unwrap_or(i64::MAX);
        let rule = "only one queue sort plugin can be enabled";
        errors.invalid(
            &path.child("plugins").child("queueSort").child("Enabled"),
            &Value::Int(count),
            rule,
        );
    }
    for (index, profile) in config.profiles.iter().enumerate().skip(1) {
        let own = sort(profile);
        if own != first {
            let path = profiles.index(index);
            let shown = own.join(",");
            let rule = "must be the same for all profiles";
            errors.invalid_text(&path.child("plugins").child("queueSort"), &shown, rule);
        }
    }
}

fn extenders(extenders: &[ExtenderConfig], errors: &mut FieldErrors) {
    let root = Path::new("extenders");
    let mut managed = BTreeSet::new();
    for (index, extender) in extenders.iter().enumerate() {
        let path = root.index(index);
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            let rule = "must have a positive weight applied to it";
            errors.invalid(&path.child("weight"), &Value::Int(extender.weight), rule);
        }
        let list = path.child("managedResources");
        for (index, resource) in extender.managed_resources.iter().enumerate() {
            let path = list.index(index);
            let path = path.child("name");
            let problems = qualified_name(&resource.name);
            if problems.is_empty() && !is_extended_resource(&resource.name) {
                errors.invalid_text(&path, &resource.name, "is an invalid extended resource name");
            }
            errors.invalid_all(&path, &resource.name, problems);
            if !managed.insert(resource.name.as_str()) {
                let rule = "duplicate extender managed resource name";
                errors.invalid_text(&path, &resource.name, rule);
            }
        }
    }
    let binders = extenders.iter().filter(|it| !it.bind_verb.is_empty()).count();
    if binders > 1 {
        let text = format!("found {binders} extenders implementing bind");
        errors.invalid_text(&root, &text, "only one extender can implement bind");
    }
}
