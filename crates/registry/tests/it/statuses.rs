//! Writes to statuses and other parts of objects.

use apimachinery::{Value, json};
use registry::Part;

use super::{prepared, words};

/// Checks what is told of a write to a part of an object; each change sets a member, by its path.
fn check(object: &str, part: Part<'_>, changes: &[(&[&str], &str)], expected: &[&str]) -> Value {
    let (resource, served, old) = prepared(object);
    let mut value = old.clone();
    for (path, to) in changes {
        value.set_at(path, json::parse(to.as_bytes()).unwrap());
    }
    resource.conform(&served, &mut value).unwrap();
    resource.default(&served, &mut value);
    resource.prepare_update(part, &mut value, &old);
    let errors = resource.validate_update(part, &value, &old);
    assert_eq!(words(&errors), expected.join("\n"), "for {changes:?} of {object}");
    value
}

/// Checks a write to the status.
fn status(object: &str, changes: &[(&[&str], &str)], expected: &[&str]) -> Value {
    check(object, Part::Status, changes, expected)
}

const BALANCER: &[&str] = &["status", "loadBalancer"];

#[test]
fn load_balancers() {
    let of = |kind: &str| {
        format!(
            r#"{{"kind":"Service","apiVersion":"v1","spec":{{"type":"{kind}","ports":[{{"port":80}}]}}}}"#
        )
    };
    let bad =
        r#"{"ingress":[{"ip":"bad"},{"hostname":"1.2.3.4"},{"hostname":"a","ipMode":"VIP"}]}"#;
    status(
        &of("ClusterIP"),
        &[(BALANCER, bad)],
        &[
            "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'",
        ],
    );
    let ip = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    let ip = format!("status.loadBalancer.ingress[0].ip: Invalid value: \"bad\": {ip}");
    let host = "status.loadBalancer.ingress[1].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address";
    status(
        &of("LoadBalancer"),
        &[(BALANCER, bad)],
        &[
            &ip,
            host,
            "status.loadBalancer.ingress[2].ipMode: Forbidden: may not be specified when `ip` is not set",
        ],
    );
    let fine = r#"{"ingress":[{"ip":"1.2.3.4"}]}"#;
    let service = status(&of("LoadBalancer"), &[(BALANCER, fine)], &[]);
    let ingress = &service.items_at(&["status", "loadBalancer", "ingress"])[0];
    assert_eq!(ingress.str_at(&["ipMode"]), "VIP");
    let ingress = r#"{"kind":"Ingress","apiVersion":"networking.k8s.io/v1","spec":{"defaultBackend":{"service":{"name":"s","port":{"number":80}}}}}"#;
    let bad = r#"{"ingress":[{"ip":"bad"},{"hostname":"1.2.3.4"}]}"#;
    status(ingress, &[(BALANCER, bad)], &[&ip, host]);
}

#[test]
fn nodes_and_claims() {
    status(
        r#"{"kind":"Node","apiVersion":"v1"}"#,
        &[
            (
                &["status", "addresses"],
                r#"[{"type":"InternalIP","address":"1.2.3.4"},{"type":"InternalIP","address":"1.2.3.4"}]"#,
            ),
            (&["status", "capacity"], r#"{"pods":"1500m"}"#),
            (&["status", "declaredFeatures"], r#"["B","A"]"#),
            (&["status", "config"], r#"{"active":{}}"#),
        ],
        &[
            "status.capacity.pods: Invalid value: \"1500m\": must be an integer",
            "status.allocatable.pods: Invalid value: \"1500m\": must be an integer",
            "status.declaredFeatures[1]: Invalid value: \"A\": list must be sorted alphabetically",
            "status.addresses[1]: Duplicate value: {\"Type\":\"InternalIP\",\"Address\":\"1.2.3.4\"}",
            "status.config.active: Invalid value: {\"ConfigMap\":null}: exactly one reference subfield must be non-nil",
        ],
    );
    status(
        r#"{"kind":"PersistentVolumeClaim","apiVersion":"v1","spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"2"}}}}"#,
        &[
            (&["status", "capacity"], r#"{"storage":"-1"}"#),
            (&["status", "allocatedResourceStatuses"], r#"{"storage":"Foo"}"#),
            (&["status", "allocatedResources"], r#"{"cpu":"1"}"#),
        ],
        &[
            "status.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
            "status.allocatedResourceStatuses: Unsupported value: \"storage\": supported values: \"ControllerResizeInProgress\", \"ControllerResizeInfeasible\", \"NodeResizeInProgress\", \"NodeResizeInfeasible\", \"NodeResizePending\"",
            "status.allocatedResources: Unsupported value: \"cpu\": supported values: \"storage\"",
        ],
    );
}

#[test]
fn what_a_status_leaves_alone() {
    let labels: (&[&str], &str) = (&["metadata", "labels"], r#"{"a":"b"}"#);
    for (object, kept) in [
        (
            r#"{"kind":"Deployment","apiVersion":"apps/v1","spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#,
            true,
        ),
        (
            r#"{"kind":"FlowSchema","apiVersion":"flowcontrol.apiserver.k8s.io/v1","spec":{"priorityLevelConfiguration":{"name":"x"}}}"#,
            true,
        ),
        (
            r#"{"kind":"CronJob","apiVersion":"batch/v1","spec":{"schedule":"* * * * *","jobTemplate":{"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}}}"#,
            false,
        ),
    ] {
        let value = status(object, &[labels], &[]);
        assert_eq!(value.at(&["metadata", "labels"]).is_none(), kept, "{object}");
    }
    status(
        r#"{"kind":"FlowSchema","apiVersion":"flowcontrol.apiserver.k8s.io/v1","spec":{"priorityLevelConfiguration":{"name":"x"}}}"#,
        &[(
            &["status", "conditions"],
            r#"[{"type":"A","status":"True"},{"type":"A","status":"True"}]"#,
        )],
        &["status.conditions[1].type: Duplicate value: \"A\""],
    );
    status(
        r#"{"kind":"Namespace","apiVersion":"v1"}"#,
        &[(&["status", "phase"], "\"Terminating\"")],
        &[
            "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty",
        ],
    );
}

#[test]
fn annotations_that_only_the_maker_sets() {
    let annotations = r#"{"kubernetes.io/config.mirror":"x"}"#;
    status(
        POD,
        &[(&["metadata", "annotations"], annotations)],
        &[
            "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation",
            "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set",
        ],
    );
}

#[test]
fn annotations_of_former_fields_go() {
    let annotations = r#"{"pod.beta.kubernetes.io/init-containers":"[]","a":"b"}"#;
    let pod = check(POD, Part::Main, &[(&["metadata", "annotations"], annotations)], &[]);
    assert_eq!(pod["metadata"]["annotations"], json::parse(br#"{"a":"b"}"#).unwrap());
}

const POD: &str = r#"{"kind":"Pod","apiVersion":"v1","spec":{"restartPolicy":"OnFailure","containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"1"}}}],"resourceClaims":[{"name":"r","resourceClaimName":"x"}]}}"#;

#[test]
fn pods() {
    status(
        POD,
        &[
            (
                &["metadata", "ownerReferences"],
                r#"[{"apiVersion":"v1","kind":"K","name":"n","uid":"u"}]"#,
            ),
            (&["status", "conditions"], r#"[{"type":"bad type","status":"True"}]"#),
            (&["status", "podIP"], "\"1.2.3.4\""),
            (&["status", "podIPs"], r#"[{"ip":"1.2.3.4"},{"ip":"1.2.3.5"}]"#),
            (&["status", "hostIPs"], r#"[{"ip":"1.2.3.4"}]"#),
            (&["status", "resourceClaimStatuses"], r#"[{"name":"zz"},{"name":"r"},{"name":"r"}]"#),
            (&["status", "observedGeneration"], "-1"),
            (
                &["status", "containerStatuses"],
                r#"[{"name":"c","user":{"linux":{"uid":-1,"gid":0}},"allocatedResourcesStatus":[{"name":"gpu","resources":[{"resourceID":"a","health":"Fine"}]}]}]"#,
            ),
        ],
        &[
            "status.conditions[0].Type: Invalid value: \"bad type\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "status.observedGeneration: Invalid value: -1: must be a non-negative integer",
            "status.resourceClaimStatuses[0].name: Invalid value: \"zz\": must match the name of an entry in `spec.resourceClaims`",
            "status.resourceClaimStatuses[2].name: Duplicate value: \"r\"",
            "status.podIPs: Invalid value: [{\"IP\":\"1.2.3.4\"},{\"IP\":\"1.2.3.5\"}]: may specify no more than one IP for each IP family",
            "status.hostIPs[0].ip: Invalid value: \"1.2.3.4\": must be equal to `hostIP`",
            "status.containerStatuses[0].user.linux.uid: Invalid value: -1: must be between 0 and 4294967295, inclusive",
            "status.containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: \"gpu\": must match one of the container's resource requests",
            "status.containerStatuses[0].allocatedResourcesStatus[0].resources[0].health: Unsupported value: \"Fine\": supported values: \"Healthy\", \"Unhealthy\", \"Unknown\"",
        ],
    );
}

#[test]
fn a_container_that_ended_stays_ended() {
    let (resource, _, mut old) = prepared(POD);
    let ended = |code: i64| {
        let text = format!(
            r#"[{{"name":"c","state":{{"terminated":{{"exitCode":{code}}}}}}},{{"name":"x","state":{{"terminated":{{"exitCode":1}}}}}}]"#
        );
        json::parse(text.as_bytes()).unwrap()
    };
    let told = |code, rules: &str, old: &mut Value| {
        old.set_at(&["status", "containerStatuses"], ended(code));
        let container = &mut old.items_at_mut(&["spec", "containers"])[0];
        container.set_at(&["restartPolicyRules"], json::parse(rules.as_bytes()).unwrap());
        container.set_at(&["restartPolicy"], "Never");
        let mut value = old.clone();
        value.set_at(
            &["status", "containerStatuses"],
            json::parse(br#"[{"name":"c","state":{"running":{}}},{"name":"x"}]"#).unwrap(),
        );
        let errors = resource.validate_update(Part::Status, &value, old);
        errors.iter().map(|it| it.field.clone()).collect::<Vec<String>>()
    };
    let (first, other) = ("status.containerStatuses[0].state", "status.containerStatuses[1].state");
    assert_eq!(told(1, "[]", &mut old), [first, other]);
    let rules = r#"[{"action":"Restart","exitCodes":{"operator":"In","values":[42]}}]"#;
    assert_eq!(told(42, rules, &mut old), [other]);
    assert_eq!(told(1, rules, &mut old), [first, other]);
    assert_eq!(told(1, r#"[{"action":"RestartAllContainers"}]"#, &mut old), [""; 0]);
}

#[test]
fn resizes() {
    let resize = Part::Other("resize");
    let container = |rest: &str| format!(r#"[{{"name":"c","image":"i",{rest}}}]"#);
    let spec: &[&str] = &["spec", "containers"];
    let resized = container(r#""resources":{"requests":{"cpu":"2"}}"#);
    let value = check(POD, resize, &[(spec, &resized)], &[]);
    let now = value.items_at(spec)[0].str_at(&["resources", "requests", "cpu"]).to_owned();
    assert_eq!(now, "2");
    check(
        POD,
        resize,
        &[(spec, &container(r#""resources":{"requests":{"memory":"2"}}"#))],
        &["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"],
    );
    let extended =
        r#""resources":{"requests":{"cpu":"1","a.example/x":"1"},"limits":{"a.example/x":"1"}}"#;
    check(
        POD,
        resize,
        &[(spec, &container(extended))],
        &["spec: Forbidden: only cpu and memory resources are mutable"],
    );
    let renamed = resized.replace("\"c\"", "\"d\"");
    check(
        POD,
        resize,
        &[(spec, &renamed)],
        &[
            "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize",
        ],
    );
    check(
        &POD.replace("\"restartPolicy\"", "\"os\":{\"name\":\"windows\"},\"restartPolicy\""),
        resize,
        &[(spec, &resized)],
        &[": Forbidden: windows pods cannot be resized"],
    );
}

#[test]
fn gated_pods_are_narrowed() {
    let pod = r#"{"kind":"Pod","apiVersion":"v1","spec":{"schedulingGates":[{"name":"g"}],"containers":[{"name":"c","image":"i"}],"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"a","operator":"Exists"}]}]}}}}}"#;
    let terms: &[&str] = &[
        "spec",
        "affinity",
        "nodeAffinity",
        "requiredDuringSchedulingIgnoredDuringExecution",
        "nodeSelectorTerms",
    ];
    let one = r#"{"key":"a","operator":"Exists"}"#;
    let other = r#"{"key":"b","operator":"Exists"}"#;
    let preferred: &[&str] =
        &["spec", "affinity", "nodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution"];
    check(
        pod,
        Part::Main,
        &[
            (terms, &format!(r#"[{{"matchExpressions":[{one},{other}]}}]"#)),
            (
                preferred,
                &format!(r#"[{{"weight":1,"preference":{{"matchExpressions":[{one}]}}}}]"#),
            ),
        ],
        &[],
    );
    let at = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let shown = r#"{"MatchExpressions":[{"Key":"b","Operator":"Exists","Values":null}],"MatchFields":null}"#;
    check(
        pod,
        Part::Main,
        &[(terms, &format!(r#"[{{"matchExpressions":[{other}]}}]"#))],
        &[&format!(
            "{at}[0]: Invalid value: {shown}: only additions are allowed (no mutations or deletions)"
        )],
    );
    check(
        pod,
        Part::Main,
        &[(terms, &format!(r#"[{{"matchExpressions":[{one}]}},{{"matchExpressions":[{one}]}}]"#))],
        &[&format!(
            "{at}: Invalid value: [{0},{0}]: no additions/deletions to non-empty NodeSelectorTerms list are allowed",
            shown.replace("\"b\"", "\"a\"")
        )],
    );
}

#[test]
fn a_count_through_scale_is_a_change_of_its_object() {
    let set = r#"{"kind":"ReplicaSet","apiVersion":"apps/v1","spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"c"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#;
    check(
        set,
        Part::Other("scale"),
        &[(&["spec", "replicas"], "3")],
        &[
            "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`",
        ],
    );
}

#[test]
fn what_of_a_volume_may_change() {
    let volume = r#"{"kind":"PersistentVolume","apiVersion":"v1","spec":{"capacity":{"storage":"1"},"accessModes":["ReadWriteOnce"],"volumeAttributesClassName":"c","csi":{"driver":"d","volumeHandle":"h"},"nodeAffinity":{"required":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"beta.kubernetes.io/os","operator":"Exists"}]}]}}}}"#;
    let terms: &[&str] = &["spec", "nodeAffinity", "required", "nodeSelectorTerms"];
    let keyed =
        |key: &str| format!(r#"[{{"matchExpressions":[{{"key":"{key}","operator":"Exists"}}]}}]"#);
    let secret: &[&str] = &["spec", "csi", "controllerExpandSecretRef"];
    check(
        volume,
        Part::Main,
        &[(terms, &keyed("kubernetes.io/os")), (secret, r#"{"name":"s","namespace":"n"}"#)],
        &[],
    );
    let shown = r#"{"Required":{"NodeSelectorTerms":[{"MatchExpressions":[{"Key":"a","Operator":"Exists","Values":null}],"MatchFields":null}]}}"#;
    check(
        volume,
        Part::Main,
        &[(terms, &keyed("a")), (&["spec", "volumeAttributesClassName"], "null")],
        &[
            &format!(
                "nodeAffinity: Invalid value: {shown}: field is immutable, except for updating from beta label to GA"
            ),
            "spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil is forbidden",
        ],
    );
}

#[test]
fn addresses_stay_as_they_were() {
    let service = r#"{"kind":"Service","apiVersion":"v1","spec":{"type":"LoadBalancer","externalTrafficPolicy":"Local","healthCheckNodePort":31000,"ports":[{"port":80}],"externalIPs":["010.1.1.1"],"loadBalancerSourceRanges":[" 10.0.0.5/8 "]}}"#;
    check(service, Part::Main, &[(&["metadata", "labels"], r#"{"a":"b"}"#)], &[]);
    check(
        service,
        Part::Main,
        &[
            (&["spec", "externalIPs"], r#"["010.1.1.2"]"#),
            (&["spec", "loadBalancerSourceRanges"], r#"["10.0.0.6/8"]"#),
            (&["spec", "healthCheckNodePort"], "31001"),
        ],
        &[
            "spec.externalIPs[0]: Invalid value: \"010.1.1.2\": must not have leading 0s",
            "spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.6/8\": must not have bits set beyond the prefix length",
            "spec.healthCheckNodePort: Forbidden: field is immutable",
        ],
    );
}

#[test]
fn what_a_cron_job_had_may_stay() {
    let job = |schedule: &str, zone: &str| {
        format!(
            r#"{{"kind":"CronJob","apiVersion":"batch/v1","metadata":{{"name":"{}"}},"spec":{{"schedule":"{schedule}","timeZone":"{zone}","jobTemplate":{{"spec":{{"template":{{"spec":{{"restartPolicy":"Never","containers":[{{"name":"c","image":"i"}}]}}}}}}}}}}}}"#,
            "n".repeat(53)
        )
    };
    let labels: (&[&str], &str) = (&["metadata", "labels"], r#"{"a":"b"}"#);
    check(&job("* * * * *", "Nowhere/Here"), Part::Main, &[labels], &[]);
    check(
        &job("TZ=UTC * * * * *", "UTC"),
        Part::Main,
        &[labels],
        &[
            "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use both timeZone field and TZ or CRON_TZ in schedule",
        ],
    );
    check(
        &job("* * * * *", "UTC"),
        Part::Main,
        &[(&["spec", "timeZone"], "\"europe/berlin\"")],
        &["spec.timeZone: Invalid value: \"europe/berlin\": unknown time zone europe/berlin"],
    );
}

#[test]
fn accepted_names_are_names() {
    let definition = r#"{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{"name":"as.x.io"},"spec":{"group":"x.io","scope":"Cluster","names":{"plural":"as","kind":"A"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]},"status":{"storedVersions":["v1"],"acceptedNames":{"plural":"as","kind":"A"}}}"#;
    status(
        definition,
        &[(&["status", "acceptedNames", "kind"], "\"1\"")],
        &[
            "status.acceptedNames.kind: Invalid value: \"1\": may have mixed case, but should otherwise match: a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
        ],
    );
}
