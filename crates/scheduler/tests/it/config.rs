//! Configurations: what they come to, and what is said of those that cannot be.

use apimachinery::value;
use scheduler::config::{Configuration, Features};
use scheduler::framework::Profile;

fn parse(text: &str) -> Result<Configuration, String> {
    let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
    Configuration::parse(format!("{head}{text}").as_bytes())
}

fn profiles(text: &str) -> Result<Vec<Profile>, String> {
    parse(text)?.profiles()
}

/// The plugins of a profile by extension point, as text.
fn plugins(text: &str) -> String {
    let profile = profiles(text).unwrap().remove(0);
    let filters: Vec<&str> = profile.filters.iter().map(|it| it.name()).collect();
    let scores: Vec<String> =
        profile.scores.iter().map(|(it, weight)| format!("{}={weight}", it.name())).collect();
    format!("{} | {}", filters.join(" "), scores.join(" "))
}

#[test]
fn nothing_said_is_upstreams_default() {
    let config = parse("").unwrap();
    assert_eq!(config.parallelism, 16);
    assert_eq!(config.profiles[0].scheduler_name, "default-scheduler");
    assert_eq!(config.leader_election.resource_name, "kube-scheduler");
    assert_eq!(config.leader_election.lease_duration.as_secs(), 15);
    assert_eq!((config.pod_initial_backoff_seconds, config.pod_max_backoff_seconds), (1, 10));
    assert_eq!(
        plugins(""),
        "NodeUnschedulable NodeName TaintToleration NodeAffinity NodePorts NodeResourcesFit VolumeRestrictions \
         NodeVolumeLimits VolumeBinding VolumeZone PodTopologySpread InterPodAffinity DynamicResources \
         NodeDeclaredFeatures | \
         TaintToleration=3 NodeAffinity=2 NodeResourcesFit=1 VolumeBinding=1 PodTopologySpread=2 InterPodAffinity=2 \
         DynamicResources=2 NodeResourcesBalancedAllocation=1 ImageLocality=1"
    );
}

#[test]
fn plugins_are_added_replaced_and_left_out() {
    for (sets, expected) in [
        (
            "multiPoint: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit, weight: 4}, \
             {name: PrioritySort}, {name: DefaultBinder}]}",
            "NodeResourcesFit | NodeResourcesFit=4",
        ),
        (
            "filter: {disabled: [{name: '*'}], enabled: [{name: NodePorts}, {name: NodeName}]}, \
             score: {disabled: [{name: '*'}], enabled: [{name: ImageLocality, weight: 9}]}",
            "NodePorts NodeName | ImageLocality=9",
        ),
        (
            "filter: {disabled: [{name: '*'}]}, score: {enabled: [{name: ImageLocality, weight: 7}], \
             disabled: [{name: NodeAffinity}, {name: PodTopologySpread}]}",
            " | ImageLocality=7 TaintToleration=3 NodeResourcesFit=1 VolumeBinding=1 InterPodAffinity=2 \
             DynamicResources=2 NodeResourcesBalancedAllocation=1",
        ),
    ] {
        assert_eq!(plugins(&format!("profiles: [{{plugins: {{{sets}}}}}]")), expected);
    }
}

#[test]
fn what_cannot_be_is_told_in_upstreams_words() {
    for (text, expected) in [
        (
            "parallelism: x",
            "json: cannot unmarshal string into Go struct field KubeSchedulerConfiguration.parallelism of type int32",
        ),
        (
            "nope: 1\nprofiles: [{nah: 2}]",
            "strict decoding error: unknown field \"profiles[0].nah\", unknown field \"nope\"",
        ),
        (
            "parallelism: 0",
            "parallelism: Invalid value: 0: should be an integer value greater than zero",
        ),
        (
            "percentageOfNodesToScore: 101",
            "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]",
        ),
        (
            "podInitialBackoffSeconds: 0\npodMaxBackoffSeconds: -1",
            "[podInitialBackoffSeconds: Invalid value: 0: must be greater than 0, podMaxBackoffSeconds: Invalid value: -1: \
             must be greater than or equal to PodInitialBackoffSeconds]",
        ),
        ("profiles: [{}, {schedulerName: a}]", "profiles[0].schedulerName: Required value"),
        ("profiles: [{schedulerName: ''}]", "profiles[0].schedulerName: Required value"),
        (
            "profiles: [{schedulerName: a}, {schedulerName: a}]",
            "profiles[1].schedulerName: Duplicate value: \"profiles[0].schedulerName\"",
        ),
        (
            "leaderElection: {leaderElect: true, leaseDuration: 5s, renewDeadline: 10s}",
            "leaderElection.leaseDuration: Invalid value: \"10s\": LeaseDuration must be greater than RenewDeadline",
        ),
        (
            "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]}]",
            "profiles[0].pluginConfig[0].args.hardPodAffinityWeight: Invalid value: 101: not in valid range [0, 100]",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Best}}}]}]",
            "profiles[0].pluginConfig[0].args.scoringStrategy.type: Unsupported value: \"Best\": supported values: \
             \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\"",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeAffinity, args: {addedAffinty: {}}}]}]",
            "decoding .profiles[0].pluginConfig[0]: decoding args for plugin NodeAffinity: strict decoding error: \
             unknown field \"addedAffinty\"",
        ),
        (
            "profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultConstraints: [{maxSkew: 0, topologyKey: z, \
             whenUnsatisfiable: Never}], defaultingType: List}}]}]",
            "[profiles[0].pluginConfig[0].args.defaultConstraints[0].maxSkew: Invalid value: 0: not in valid range (0, inf), \
             profiles[0].pluginConfig[0].args.defaultConstraints[0].whenUnsatisfiable: Unsupported value: \"Never\": \
             supported values: \"DoNotSchedule\", \"ScheduleAnyway\"]",
        ),
        (
            "extenders: [{urlPrefix: 'http://x', prioritizeVerb: p}]",
            "extenders[0].weight: Invalid value: 0: must have a positive weight applied to it",
        ),
        (
            "extenders: [{urlPrefix: 'http://x', managedResources: [{name: cpu}]}]",
            "extenders[0].managedResources[0].name: Invalid value: \"cpu\": is an invalid extended resource name",
        ),
    ] {
        assert_eq!(parse(text).map(|_| ()).unwrap_err(), expected);
    }
    let version =
        "apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration";
    assert_eq!(
        Configuration::parse(version.as_bytes()).map(|_| ()).unwrap_err(),
        "no kind \"KubeSchedulerConfiguration\" is registered for version \"kubescheduler.config.k8s.io/v1beta3\" in scheme"
    );
}

#[test]
fn placements_of_groups_need_their_feature() {
    let scores = |sets: &str, topology: bool| {
        let features = Features { pod_groups: true, topology, ..Features::default() };
        let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        let text = format!("{head}profiles: [{{plugins: {{{sets}}}}}]");
        let config = Configuration::parse_with(text.as_bytes(), features)?;
        let placements = config.profiles()?.remove(0).placements;
        let scores = placements.scores.iter().map(|(it, weight)| format!("{}={weight}", it.name()));
        let scores: Vec<String> = scores.collect();
        Ok::<_, String>(format!("{} {}", placements.by_topology, scores.join(" ")))
    };
    let only =
        "placementScore: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit, weight: 3}]}";
    let none = "placementGenerate: {disabled: [{name: TopologyPlacementGenerator}]}";
    for (sets, topology, expected) in [
        ("", true, "true NodeResourcesFit=1 PodGroupPodsCount=1"),
        ("", false, "false "),
        (only, true, "true NodeResourcesFit=3"),
        (none, true, "false NodeResourcesFit=1 PodGroupPodsCount=1"),
    ] {
        assert_eq!(scores(sets, topology).unwrap(), expected);
    }
    let error = scores(only, false).unwrap_err();
    let expected = "plugins at placementScore need the feature TopologyAwareWorkloadScheduling";
    assert!(error.ends_with(expected), "{error}");
    let error = scores("placementScore: {enabled: [{name: NodeName}]}", true).unwrap_err();
    let expected = "plugin \"NodeName\" does not extend PlacementScorePlugin plugin";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn a_shape_of_room_needs_its_feature() {
    let text = format!(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n{}",
        "profiles: [{pluginConfig: [{name: VolumeBinding, args: {shape: [{utilization: 0, score: 1}]}}]}]"
    );
    let wrong = "profiles: [{pluginConfig: [{name: VolumeBinding, args: {shape: [{utilization: 0, score: 11}, \
        {utilization: 0}]}}]}]";
    assert_eq!(
        parse(wrong).map(drop).unwrap_err(),
        "[profiles[0].pluginConfig[0].args.shape[1].utilization: Invalid value: 0: values must be sorted in increasing \
         order, profiles[0].pluginConfig[0].args.shape[0].score: Invalid value: 11: not in valid range [0, 10]]"
    );
    let off = Features { storage_capacity_scoring: false, ..Features::default() };
    assert!(Configuration::parse(text.as_bytes()).is_ok());
    let error = Configuration::parse_with(text.as_bytes(), off).map(drop).unwrap_err();
    let rule =
        "unexpected field `shape`, remove it or turn on the feature gate StorageCapacityScoring";
    assert!(error.ends_with(rule), "{error}");
    let scored = |features: Features| {
        let config = Configuration { features, ..Configuration::default() };
        let scores = config.profiles().unwrap().remove(0).scores;
        scores.iter().any(|(it, _)| it.name() == "VolumeBinding")
    };
    assert!(scored(Features::default()) && !scored(off));
}

#[test]
fn plugins_that_cannot_be_asked_are_told() {
    for (sets, expected) in [
        ("score: {enabled: [{name: Nope}]}", "ScorePlugin \"Nope\" does not exist"),
        (
            "score: {enabled: [{name: NodeName}]}",
            "plugin \"NodeName\" does not extend ScorePlugin plugin",
        ),
        (
            "filter: {enabled: [{name: NodeName}, {name: NodeName}]}",
            "plugin \"NodeName\" already registered as \"FilterPlugin\"",
        ),
        (
            "bind: {disabled: [{name: '*'}]}",
            "at least one bind plugin is needed for profile with scheduler name \"default-scheduler\"",
        ),
        (
            "queueSort: {disabled: [{name: '*'}]}",
            "no queue sort plugin registered for profile with scheduler name \"default-scheduler\"",
        ),
        (
            "permit: {enabled: [{name: NodeName}]}",
            "plugin \"NodeName\" does not extend PermitPlugin plugin",
        ),
    ] {
        let error = profiles(&format!("profiles: [{{plugins: {{{sets}}}}}]")).unwrap_err();
        let head = "initializing profiles: creating profile for scheduler name default-scheduler: ";
        assert_eq!(error, format!("{head}{expected}"));
    }
}

/// The configurations that documents under test show are of a version that upstream has dropped: they are read as of the
/// one that is left.
#[test]
fn configurations_of_documents_are_read() {
    let mut at = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let found = loop {
        if !at.pop() {
            println!("no documents beside the repository: skipped");
            return;
        }
        let place = at.join("shared/requirements/corpus");
        if place.exists() {
            break place;
        }
    };
    let mut read = 0;
    for entry in std::fs::read_dir(found).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().contains("KubeSchedulerConfiguration") {
            continue;
        }
        let mut document = apimachinery::yaml::parse(&std::fs::read(&path).unwrap()).unwrap();
        document.set_at(&["apiVersion"], "kubescheduler.config.k8s.io/v1");
        let config = Configuration::from_value(&document, Features::default());
        let config = config.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        config.profiles().unwrap();
        read += 1;
    }
    assert_eq!(read, 3);
}

#[test]
fn added_affinity_holds_for_the_pods_of_its_profile_alone() {
    use scheduler::framework::Cycle;
    use scheduler::{Cluster, Decision, NodeLite, PodLite, decide};
    let text = "profiles: [{schedulerName: default-scheduler}, {schedulerName: foo-scheduler, pluginConfig: [{name: \
        NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: \
        [{matchExpressions: [{key: scheduler-profile, operator: In, values: [foo]}]}]}}}}]}]";
    let all = profiles(text).unwrap();
    let mut cluster = Cluster::default();
    for (name, labels) in [("n1", value!({})), ("n2", value!({"scheduler-profile": "foo"}))] {
        cluster.set_node(NodeLite::from_value(&value!({
            "metadata": {"name": name, "labels": labels},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}})));
    }
    let pod =
        PodLite::from_value(&value!({"metadata": {"name": "p", "namespace": "d", "uid": "p"},
        "spec": {"containers": [{"name": "c"}]}}));
    let cycle = Cycle { pod: &pod, cluster: &cluster };
    let Decision::Place(any) = decide(cycle, &all[0], Default::default()) else { panic!() };
    assert_eq!(any.feasible, 2);
    let Decision::Place(foo) = decide(cycle, &all[1], Default::default()) else { panic!() };
    assert_eq!((foo.feasible, foo.node.as_str()), (1, "n2"));
    let verdicts = scheduler::decide::verdicts(cycle, &all[1]);
    let (plugin, reasons) = verdicts[0].refused.clone().unwrap();
    assert_eq!(plugin, "NodeAffinity");
    assert_eq!(reasons, ["node(s) didn't match scheduler-enforced node affinity"]);
    assert_eq!(verdicts[1].refused, None);
}

#[test]
fn a_pod_goes_only_where_its_node_declares_what_it_needs_and_its_disks_are_free() {
    use scheduler::framework::Cycle;
    use scheduler::{Cluster, Decision, NodeLite, PodLite, Profile, decide};
    let mut cluster = Cluster::default();
    let able = value!(["RestartAllContainersOnContainerExits"]);
    for (name, features) in [("n1", value!([])), ("n2", able)] {
        cluster.set_node(NodeLite::from_value(&value!({"metadata": {"name": name}, "status": {
            "declaredFeatures": features, "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}})));
    }
    let pod =
        |name: &str, node: &str, container: apimachinery::Value, volumes: apimachinery::Value| {
            PodLite::from_value(&value!({"metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"nodeName": node, "containers": [container], "volumes": volumes}}))
        };
    let disk = value!([{"name": "v", "awsElasticBlockStore": {"volumeID": "x"}}]);
    let rules = value!({"name": "c", "restartPolicyRules": [{"action": "RestartAllContainers"}]});
    let profile = Profile::default();
    let choose = |cluster: &Cluster, pod: &PodLite| match decide(
        Cycle { pod, cluster },
        &profile,
        Default::default(),
    ) {
        Decision::Place(it) => it.node.to_string(),
        Decision::Reject(it) => it.message,
        Decision::Fail(error) => error,
    };
    let picky = pod("picky", "", rules.clone(), value!([]));
    assert_eq!(choose(&cluster, &picky), "n2");
    cluster.set_pod(std::sync::Arc::new(pod("first", "n2", value!({"name": "c"}), disk.clone())));
    assert_eq!(choose(&cluster, &pod("second", "", value!({"name": "c"}), disk.clone())), "n1");
    let message = choose(&cluster, &pod("third", "", rules, disk));
    let expected = "0/2 nodes are available: 1 node declared features check failed - unsatisfied requirements: \
        RestartAllContainersOnContainerExits, 1 node(s) had no available disk.";
    assert!(message.starts_with(expected), "{message}");
}
