//! New objects.

use apimachinery::Value;

use super::{prepared, words};

/// Checks that an object is told what is wrong with it; nothing, where nothing is.
fn check(object: &str, expected: &[&str]) {
    let (resource, served, value) = prepared(object);
    assert_eq!(words(&resource.validate(&served, &value)), expected.join("\n"), "for {object}");
}

#[test]
fn services() {
    check(
        r#"{"kind":"Service","apiVersion":"v1","spec":{"type":"NodePort","clusterIP":"None","ports":[{"port":80}]}}"#,
        &[
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
        ],
    );
    check(
        r#"{"kind":"Service","apiVersion":"v1","spec":{"ports":[{"port":0},{"port":0,"name":"a"}]}}"#,
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[1].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":0,\"TargetPort\":0,\"NodePort\":0}",
        ],
    );
    check(
        r#"{"kind":"Service","apiVersion":"v1","spec":{"clusterIP":"x","selector":{"":""}}}"#,
        &[
            "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ],
    );
    check(
        r#"{"kind":"Service","apiVersion":"v1","spec":{"type":"ExternalName","externalName":"a.example."}}"#,
        &[],
    );
}

#[test]
fn core_kinds() {
    check(
        r#"{"kind":"Secret","apiVersion":"v1","type":"kubernetes.io/basic-auth"}"#,
        &["data[username]: Required value", "data[password]: Required value"],
    );
    check(
        r#"{"kind":"Secret","apiVersion":"v1","type":"kubernetes.io/dockerconfigjson","stringData":{".dockerconfigjson":"{"}}"#,
        &[
            "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": unexpected end of JSON input",
        ],
    );
    check(
        r#"{"kind":"Node","apiVersion":"v1","spec":{"taints":[{"key":"k","effect":"x"}],"podCIDRs":["10.0.0.0/24","10.0.1.0/24"]}}"#,
        &[
            "metadata.taints[0].effect: Unsupported value: \"x\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one CIDR for each IP family",
        ],
    );
    check(
        r#"{"kind":"LimitRange","apiVersion":"v1","spec":{"limits":[{"type":"Container","max":{"cpu":"1"},"min":{"cpu":"2"},"maxLimitRequestRatio":{"cpu":"500m"}}]}}"#,
        &[
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            "spec.limits[0].defaultRequest[cpu]: Invalid value: \"1\": min value 2 is greater than default request value 1",
            "spec.limits[0].default[cpu]: Invalid value: \"1\": min value 2 is greater than default value 1",
            "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
        ],
    );
    check(
        r#"{"kind":"ResourceQuota","apiVersion":"v1","spec":{"hard":{"pods":"1.5","services":"1"},"scopes":["BestEffort"]}}"#,
        &[
            "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
            "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
        ],
    );
    check(
        r#"{"kind":"Endpoints","apiVersion":"v1","subsets":[{"addresses":[{"ip":"127.0.0.1"}]}]}"#,
        &[
            "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ],
    );
    check(
        r#"{"kind":"PersistentVolume","apiVersion":"v1","spec":{"capacity":{"storage":"0"},"accessModes":["ReadWriteOnce"],"local":{"path":"/a/../b"},"nfs":{"server":"s","path":"/"}}}"#,
        &[
            "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
            "spec.local: Forbidden: may not specify more than 1 volume type",
        ],
    );
}

#[test]
fn networking() {
    check(
        r#"{"kind":"NetworkPolicy","apiVersion":"networking.k8s.io/v1","spec":{"ingress":[{"from":[{},{"ipBlock":{"cidr":"10.0.0.0/24","except":["10.0.1.0/25"]}}],"ports":[{"endPort":1}]}]}}"#,
        &[
            "spec.ingress[0].ports[0].endPort: Invalid value: 1: may not be specified when `port` is not specified",
            "spec.ingress[0].from[0]: Required value: must specify a peer",
            "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"10.0.1.0/25\": must be a strict subset of `cidr`",
        ],
    );
    check(
        r#"{"kind":"Ingress","apiVersion":"networking.k8s.io/v1","spec":{"rules":[{"host":"10.0.0.1","http":{"paths":[{"path":"/a//b","pathType":"Exact","backend":{}}]}}]}}"#,
        &[
            "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
            "spec.rules[0].http.paths[0].path: Invalid value: \"/a//b\": must not contain '//'",
            "spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service backend is required",
        ],
    );
    check(
        r#"{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","addressType":"IPv6","endpoints":[{"addresses":["10.0.0.1"]}],"ports":[{},{}]}"#,
        &[
            "endpoints[0].addresses[0]: Invalid value: \"10.0.0.1\": must be an IPv6 address",
            "ports[1].name: Duplicate value: \"\"",
        ],
    );
    check(
        r#"{"kind":"IPAddress","apiVersion":"networking.k8s.io/v1","metadata":{"name":"2001:DB8::1"},"spec":{"parentRef":{"resource":"services","name":"s"}}}"#,
        &[
            "metadata.name: Invalid value: \"2001:DB8::1\": must be in canonical form (\"2001:db8::1\")",
        ],
    );
}

#[test]
fn access_and_admission() {
    check(
        r#"{"kind":"RoleBinding","apiVersion":"rbac.authorization.k8s.io/v1","roleRef":{"kind":"Role","name":"r"},"subjects":[{"kind":"User","name":"u"},{"kind":"ServiceAccount","name":"s","apiGroup":"x"}]}"#,
        &["subjects[1].apiGroup: Unsupported value: \"x\": supported values: \"\""],
    );
    check(
        r#"{"kind":"Role","apiVersion":"rbac.authorization.k8s.io/v1","rules":[{"verbs":["get"],"nonResourceURLs":["/x"]}]}"#,
        &[
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
        ],
    );
    check(
        r#"{"kind":"ValidatingWebhookConfiguration","apiVersion":"admissionregistration.k8s.io/v1","webhooks":[{"name":"a.b.c","admissionReviewVersions":["v1"],"sideEffects":"None","timeoutSeconds":31,"clientConfig":{"url":"http://u@h/p?q#f"},"rules":[{"operations":["*","CREATE"],"apiGroups":[""],"apiVersions":["v1"],"resources":["pods/*","pods/status"]}]}]}"#,
        &[
            "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
            "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify pods/status",
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
            "webhooks[0].clientConfig.url: Invalid value: \"u\": user information is not permitted in the URL",
            "webhooks[0].clientConfig.url: Invalid value: \"f\": fragments are not permitted in the URL",
            "webhooks[0].clientConfig.url: Invalid value: \"q\": query parameters are not permitted in the URL",
        ],
    );
    check(
        r#"{"kind":"ValidatingAdmissionPolicyBinding","apiVersion":"admissionregistration.k8s.io/v1","spec":{"policyName":"p","validationActions":["Deny","Deny"],"paramRef":{"name":"n"}}}"#,
        &[
            "spec.paramRef.parameterNotFoundAction: Required value",
            "spec.validationActions[1]: Duplicate value: \"Deny\"",
        ],
    );
    check(
        r#"{"kind":"FlowSchema","apiVersion":"flowcontrol.apiserver.k8s.io/v1","spec":{"priorityLevelConfiguration":{"name":"p"},"rules":[{"subjects":[{"kind":"User","group":{"name":"g"}}],"nonResourceRules":[{"verbs":["*","get"],"nonResourceURLs":["/a*b"]}]}]}}"#,
        &[
            "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
            "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
            "spec.rules[0].nonResourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs",
            "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"/a*b\": wildcard can only do suffix matching",
        ],
    );
    check(
        r#"{"kind":"APIService","apiVersion":"apiregistration.k8s.io/v1","metadata":{"name":"v1.a.example"},"spec":{"group":"a.example","version":"v1","groupPriorityMinimum":1,"versionPriority":1,"insecureSkipTLSVerify":true}}"#,
        &[
            "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
        ],
    );
}

#[test]
fn storage_and_devices() {
    check(
        r#"{"kind":"StorageClass","apiVersion":"storage.k8s.io/v1","provisioner":"A b","reclaimPolicy":"Recycle"}"#,
        &[
            "provisioner: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
        ],
    );
    check(
        r#"{"kind":"CSINode","apiVersion":"storage.k8s.io/v1","spec":{"drivers":[{"name":"d","nodeID":""},{"name":"d","nodeID":"n"}]}}"#,
        &["spec.drivers[0].nodeID: Required value", "spec.drivers[1].name: Duplicate value: \"d\""],
    );
    check(
        r#"{"kind":"ResourceClaim","apiVersion":"resource.k8s.io/v1","spec":{"devices":{"requests":[{"name":"a"},{"name":"a","exactly":{"deviceClassName":"c","count":-1}}],"constraints":[{"requests":["b"],"matchAttribute":"x/y"}]}}}"#,
        &[
            "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
            "spec.devices.requests[1].name: Duplicate value: \"a\"",
            "spec.devices.requests[1].exactly.count: Invalid value: -1: must be greater than zero",
            "spec.devices.constraints[0].requests[0]: Invalid value: \"b\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
        ],
    );
}

#[test]
fn definitions_of_custom_resources() {
    let with = |schema: &str| {
        format!(
            r#"{{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{{"name":"ws.e.example"}},"spec":{{"group":"e.example","scope":"Cluster","names":{{"plural":"ws","kind":"W"}},"versions":[{{"name":"v1","served":true,"storage":true,"schema":{{"openAPIV3Schema":{schema}}}}}]}}}}"#
        )
    };
    check(&with(r#"{"type":"object"}"#), &[]);
    check(
        &with(
            r#"{"type":"object","properties":{"b":{"type":"string","default":1},"c":{"type":"string","maxLength":1,"default":"xx"}}}"#,
        ),
        &[
            "spec.validation.openAPIV3Schema.properties[b].default: Invalid value: \"integer\":  in body must be of type string: \"integer\"",
            "spec.validation.openAPIV3Schema.properties[c].default: Too long: may not be more than 1 bytes",
        ],
    );
}

#[test]
fn what_upstream_calls_by_other_names() {
    check(
        r#"{"kind":"ResourceQuota","apiVersion":"v1","spec":{"hard":{"pods":"1","services":"1"},"scopeSelector":{"matchExpressions":[{"scopeName":"BestEffort","operator":"In","values":["a"]},{"scopeName":"x","operator":"y"}]}}}"#,
        &[
            "spec.scopeSelector.matchExpressions: Invalid value: {\"MatchExpressions\":[{\"ScopeName\":\"BestEffort\",\"Operator\":\"In\",\"Values\":[\"a\"]},{\"ScopeName\":\"x\",\"Operator\":\"y\",\"Values\":null}]}: unsupported scope applied to resource",
            "spec.scopeSelector.matchExpressions.operator: Invalid value: \"In\": must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            "spec.scopeSelector.matchExpressions.scopeName: Invalid value: \"x\": unsupported scope",
            "spec.scopeSelector.matchExpressions: Invalid value: {\"MatchExpressions\":[{\"ScopeName\":\"BestEffort\",\"Operator\":\"In\",\"Values\":[\"a\"]},{\"ScopeName\":\"x\",\"Operator\":\"y\",\"Values\":null}]}: unsupported scope applied to resource",
            "spec.scopeSelector.matchExpressions.operator: Invalid value: \"y\": not a valid selector operator",
        ],
    );
    check(
        r#"{"kind":"RuntimeClass","apiVersion":"node.k8s.io/v1","handler":"h","overhead":{"podFixed":{"x":"1"}}}"#,
        &[
            "overhead.limits[x]: Invalid value: \"x\": must be a standard resource type or fully qualified",
            "overhead.limits[x]: Invalid value: \"x\": must be a standard resource for containers",
        ],
    );
    check(
        r#"{"kind":"Deployment","apiVersion":"apps/v1","spec":{"selector":{"matchLabels":{"a":"b"}},"strategy":{"type":"x","rollingUpdate":{"maxSurge":3,"maxUnavailable":"y"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#,
        &[
            "spec.strategy: Unsupported value: {\"Type\":\"x\",\"RollingUpdate\":{\"MaxUnavailable\":\"y\",\"MaxSurge\":3}}: supported values: \"Recreate\", \"RollingUpdate\"",
        ],
    );
    check(
        r#"{"kind":"CSIDriver","apiVersion":"storage.k8s.io/v1","spec":{"nodeAllocatableUpdatePeriodSeconds":9,"volumeLifecycleModes":["x"]}}"#,
        &[
            "spec.volumeLifecycleModes: Unsupported value: \"x\": supported values: \"Persistent\", \"Ephemeral\"",
            "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds",
        ],
    );
    check(
        r#"{"kind":"VolumeAttachment","apiVersion":"storage.k8s.io/v1","spec":{"attacher":"a","nodeName":"n","source":{"persistentVolumeName":""}}}"#,
        &[
            "spec.source.persistentVolumeName: Required value: must specify non empty persistentVolumeName",
            "spec.source.persistentVolumeName: Invalid value: \"\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ],
    );
    check(
        r#"{"kind":"PriorityClass","apiVersion":"scheduling.k8s.io/v1","preemptionPolicy":"x"}"#,
        &[
            "preemptionPolicy: Unsupported value: \"x\": supported values: \"PreemptLowerPriority\", \"Never\"",
        ],
    );
}

#[test]
fn backends_of_ingresses() {
    check(
        r#"{"kind":"Ingress","apiVersion":"networking.k8s.io/v1","spec":{"defaultBackend":{"service":{"name":"1s","port":{}}},"rules":[{"http":{"paths":[{"backend":{}}]}}]}}"#,
        &[
            "spec.defaultBackend: Required value: port name or number is required",
            "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
        ],
    );
}

#[test]
fn metrics_of_autoscalers_and_selectors_of_roles() {
    check(
        r#"{"kind":"HorizontalPodAutoscaler","apiVersion":"autoscaling/v2","spec":{"maxReplicas":1,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"k","name":"n"},"metrics":[{"type":"Resource","pods":{"metric":{"name":"m"},"target":{"type":"AverageValue","averageValue":"1"}},"resource":{"name":"cpu"}}]}}"#,
        &["spec.metrics[0].pods: Forbidden: must populate the given metric source only"],
    );
    check(
        r#"{"kind":"ClusterRole","apiVersion":"rbac.authorization.k8s.io/v1","aggregationRule":{"clusterRoleSelectors":[{"matchExpressions":[{"key":"a","operator":"x"}]}]}}"#,
        &[
            "aggregationRule.clusterRoleSelectors[0].matchExpressions[0].operator: Invalid value: \"x\": not a valid selector operator",
            "aggregationRule.clusterRoleSelectors[0]: Invalid value: null: invalid label selector.",
        ],
    );
}

#[test]
fn projected_volumes() {
    check(
        r#"{"kind":"Pod","apiVersion":"v1","spec":{"serviceAccountName":"s","containers":[{"name":"c","image":"i"}],"volumes":[{"name":"v","projected":{"sources":[{"serviceAccountToken":{}},{"configMap":{"name":"c","items":[{"key":"a","path":"p"}]}},{"secret":{"name":"s","items":[{"key":"a","path":"p"}]},"downwardAPI":{}}]}}]}}"#,
        &[
            "spec.volumes[0].projected.path: Required value",
            "spec.volumes[0].projected: Invalid value: \"s\": conflicting duplicate paths",
            "spec.volumes[0].projected.sources[2]: Forbidden: may not specify more than 1 volume type",
        ],
    );
}

#[test]
fn what_upstream_does_not_look_at() {
    check(
        r#"{"kind":"ResourceClaim","apiVersion":"resource.k8s.io/v1","spec":{"devices":{"requests":[{"name":"r","exactly":{},"firstAvailable":[{}]}]}}}"#,
        &[
            "spec.devices.requests[0]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        ],
    );
    check(
        r#"{"kind":"HorizontalPodAutoscaler","apiVersion":"autoscaling/v2","spec":{"maxReplicas":1,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"k","name":"n"},"metrics":[{"type":"Object","object":{"describedObject":{"apiVersion":"v9","kind":"k","name":"n"},"metric":{"name":"m","selector":{"matchExpressions":[{"key":"k","operator":"x"}]}},"target":{"type":"Value","value":"1"}}}]}}"#,
        &[],
    );
    check(
        r#"{"kind":"HorizontalPodAutoscaler","apiVersion":"autoscaling/v2","spec":{"maxReplicas":1,"scaleTargetRef":{"apiVersion":"a/b/c","kind":"k","name":"n"},"metrics":[{"type":"ContainerResource","containerResource":{"name":"x","container":"A","target":{"type":"Utilization","averageUtilization":1}}}]}}"#,
        &[
            "spec.scaleTargetRef.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
            "spec.metrics[0].containerResource.name: Invalid value: \"x\": must be a standard resource type or fully qualified",
            "spec.metrics[0].containerResource.name: Invalid value: \"x\": must be a standard resource for containers",
            "spec.metrics[0].containerResource.container: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ],
    );
}

#[test]
fn annotations_of_pods() {
    let wrong = r#"{"container.apparmor.security.beta.kubernetes.io/c":"x","container.apparmor.security.beta.kubernetes.io/z":"unconfined","container.seccomp.security.alpha.kubernetes.io/c":"localhost/../a","controller.kubernetes.io/pod-deletion-cost":"+1","seccomp.security.alpha.kubernetes.io/pod":"x"}"#;
    let told = |at: &str| {
        [
            format!(
                "{at}[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+1\": must be a 32bit integer"
            ),
            format!(
                "{at}.seccomp.security.alpha.kubernetes.io/pod: Invalid value: \"x\": must be a valid seccomp profile"
            ),
            format!(
                "{at}.container.seccomp.security.alpha.kubernetes.io/c: Invalid value: \"../a\": must not contain '..'"
            ),
            format!(
                "{at}[container.apparmor.security.beta.kubernetes.io/c]: Invalid value: \"x\": invalid AppArmor profile name: \"x\""
            ),
            format!(
                "{at}[container.apparmor.security.beta.kubernetes.io/z]: Invalid value: \"z\": container not found"
            ),
        ]
    };
    let template = format!(
        r#"{{"metadata":{{"labels":{{"a":"b"}},"annotations":{wrong}}},"spec":{{"containers":[{{"name":"c","image":"i"}}]}}}}"#
    );
    let pod = format!(r#"{{"kind":"Pod","apiVersion":"v1",{}"#, &template[1..]);
    let expected = told("metadata.annotations");
    check(&pod, &expected.each_ref().map(String::as_str));
    let deployment = format!(
        r#"{{"kind":"Deployment","apiVersion":"apps/v1","spec":{{"selector":{{"matchLabels":{{"a":"b"}}}},"template":{template}}}}}"#
    );
    let expected = told("spec.template.annotations");
    check(&deployment, &expected.each_ref().map(String::as_str));
    check(
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{"annotations":{"seccomp.security.alpha.kubernetes.io/pod":"docker/default","container.seccomp.security.alpha.kubernetes.io/c":"unconfined","container.apparmor.security.beta.kubernetes.io/c":"localhost/a","controller.kubernetes.io/pod-deletion-cost":"-10"}},"spec":{"securityContext":{"seccompProfile":{"type":"RuntimeDefault"}},"containers":[{"name":"c","image":"i","securityContext":{"seccompProfile":{"type":"Localhost","localhostProfile":"b"},"appArmorProfile":{"type":"Localhost","localhostProfile":"b"}}}]}}"#,
        &[
            "spec.containers[0].securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match",
            "spec.containers[0].securityContext.appArmorProfile.localhostProfile: Forbidden: apparmor profile in annotation and field must match",
        ],
    );
}

#[test]
fn gated_pods_say_since_when() {
    let pod = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z"},"spec":{"schedulingGates":[{"name":"g"}]}}"#;
    let (_, _, pod) = prepared(pod);
    let condition = &pod.items_at(&["status", "conditions"])[0];
    assert_eq!(condition.str_at(&["lastTransitionTime"]), "2026-01-01T00:00:00Z");
    assert_eq!(condition.str_at(&["reason"]), "SchedulingGated");
}

/// A persistent volume of one source.
fn check_volume(source: &str, expected: &[&str]) {
    let object = format!(
        r#"{{"kind":"PersistentVolume","apiVersion":"v1","metadata":{{"name":"v"}},"spec":{{"accessModes":["ReadWriteOnce"],"capacity":{{"storage":"1Gi"}},{source}}}}}"#
    );
    check(&object, expected);
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

#[test]
fn sources_of_persistent_volumes() {
    check_volume(
        r#""iscsi":{"targetPortal":"p","iqn":"x","chapAuthSession":true,"initiatorName":"eui.1"}"#,
        &[
            "spec.iscsi.iqn: Invalid value: \"x\": must be valid format",
            "spec.iscsi.secretRef: Required value",
            "spec.iscsi.initiatorname: Invalid value: \"eui.1\": must be valid format",
        ],
    );
    check_volume(
        r#""iscsi":{"targetPortal":"p","iqn":"iqn.2001-04.com.example:s","initiatorName":"eui.0123456789abcdef"}"#,
        &[],
    );
    check_volume(
        r#""csi":{"driver":"d","volumeHandle":"h","nodePublishSecretRef":{"name":"n","namespace":"N"}}"#,
        &[&format!("spec.csi.nodePublishSecretRef.namespace: Invalid value: \"N\": {LABEL}")],
    );
    check_volume(
        r#""storageos":{"volumeName":"v","secretRef":{"name":"n"}}"#,
        &["spec.storageos.secretRef.namespace: Required value"],
    );
    check_volume(
        r#""cephfs":{},"gcePersistentDisk":{"pdName":"d","partition":256}"#,
        &[
            "spec.persistentDisk.partition: Invalid value: 256: must be between 1 and 255, inclusive",
            "spec.cephFS: Forbidden: may not specify more than 1 volume type",
        ],
    );
    check_volume(
        r#""azureDisk":{"diskName":"d","diskURI":"x","kind":"Managed"}"#,
        &[
            "spec.azureDisk.diskURI: Unsupported value: \"x\": supported values: \"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}\"",
        ],
    );
    check_volume(
        r#""quobyte":{"registry":"a:1,b","volume":"v"}"#,
        &[
            "spec.quobyte.registry: Invalid value: \"a:1,b\": must be a host:port pair or multiple pairs separated by commas",
        ],
    );
    check_volume(
        r#""flexVolume":{"driver":"d","options":{"a.K8s.io/x":"y"}}"#,
        &[
            "spec.flexVolume.options[a.K8s.io/x]: Invalid value: \"a.K8s.io/x\": kubernetes.io and k8s.io namespaces are reserved",
        ],
    );
}

#[test]
fn terms_of_topologies_differ() {
    check(
        r#"{"kind":"StorageClass","apiVersion":"storage.k8s.io/v1","provisioner":"p","allowedTopologies":[{"matchLabelExpressions":[{"key":"a","values":["x","x"]}]},{"matchLabelExpressions":[{"key":"a","values":["x"]}]}]}"#,
        &[
            "allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"x\"",
            "allowedTopologies[1].matchLabelExpressions: Duplicate value: \"\"",
        ],
    );
    check(
        r#"{"kind":"StorageClass","apiVersion":"storage.k8s.io/v1","provisioner":"p","allowedTopologies":[{}]}"#,
        &["allowedTopologies[0].matchLabelExpressions: Duplicate value: \"\""],
    );
    check(
        r#"{"kind":"CSINode","apiVersion":"storage.k8s.io/v1","spec":{"drivers":[{"name":"d","nodeID":"n","topologyKeys":["a","a"]}]}}"#,
        &["spec.drivers[0]: Duplicate value: \"a\""],
    );
}

#[test]
fn amounts_are_rounded_to_thousandths_in_every_list() {
    for (object, path, expected) in [
        (
            r#"{"kind":"ResourceQuota","apiVersion":"v1","spec":{"hard":{"cpu":"1n"}}}"#,
            &["spec", "hard", "cpu"][..],
            "1m",
        ),
        (
            r#"{"kind":"PersistentVolume","apiVersion":"v1","spec":{"capacity":{"storage":"0.5m"}}}"#,
            &["spec", "capacity", "storage"],
            "1m",
        ),
        (
            r#"{"kind":"PersistentVolumeClaim","apiVersion":"v1","spec":{"resources":{"requests":{"storage":"1u"}}}}"#,
            &["spec", "resources", "requests", "storage"],
            "1m",
        ),
        (
            r#"{"kind":"ResourceQuota","apiVersion":"v1","spec":{"hard":{"cpu":"1E"}}}"#,
            &["spec", "hard", "cpu"],
            "1E",
        ),
    ] {
        let (_, _, value) = prepared(object);
        assert_eq!(value.str_at(path), expected, "{object}");
    }
    check(
        r#"{"kind":"ResourceQuota","apiVersion":"v1","spec":{"hard":{"pods":"1E","services":"9223372036854775807"}}}"#,
        &[],
    );
}

#[test]
fn pointers_to_empty_texts_are_checked() {
    check(
        r#"{"kind":"Service","apiVersion":"v1","spec":{"ports":[{"port":1,"targetPort":1,"appProtocol":""}]}}"#,
        &[
            "spec.ports[0].appProtocol: Invalid value: \"\": name part must be non-empty",
            "spec.ports[0].appProtocol: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ],
    );
}

#[test]
fn names_in_fields() {
    check(
        r#"{"kind":"APIService","apiVersion":"apiregistration.k8s.io/v1","metadata":{"generateName":"x","name":"v1.g"},"spec":{"group":"g","version":"v1","groupPriorityMinimum":1,"versionPriority":1}}"#,
        &[
            "metadata.generateName: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v1.g\"",
        ],
    );
    check(
        r#"{"kind":"Namespace","apiVersion":"v1","spec":{"finalizers":["/"]}}"#,
        &[
            "spec.finalizers: Invalid value: \"/\": prefix part must be non-empty",
            "spec.finalizers: Invalid value: \"/\": name part must be non-empty",
            "spec.finalizers: Invalid value: \"/\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ],
    );
}

#[test]
fn selectors_of_jobs_that_are_said_not_to_be_manual() {
    check(
        r#"{"kind":"Job","apiVersion":"batch/v1","metadata":{"name":"j"},"spec":{"manualSelector":false,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}"#,
        &[
            "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"batch.kubernetes.io/controller-uid\":\"\"}}: `selector` not auto-generated",
        ],
    );
}

#[test]
fn wildcards_bear_on_what_follows_them() {
    let webhook = |resources: &str| {
        format!(
            r#"{{"kind":"ValidatingWebhookConfiguration","apiVersion":"admissionregistration.k8s.io/v1","webhooks":[{{"name":"a.b.c","admissionReviewVersions":["v1"],"sideEffects":"None","clientConfig":{{"url":"https://a"}},"rules":[{{"operations":["*"],"apiGroups":["*"],"apiVersions":["*"],"resources":{resources}}}]}}]}}"#
        )
    };
    check(&webhook(r#"["pods","*"]"#), &[]);
    check(&webhook(r#"["pods/a","pods/*"]"#), &[]);
    check(
        &webhook(r#"["pods/*","pods/a"]"#),
        &[
            "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/a\": if 'pods/*' is present, must not specify pods/a",
        ],
    );
    check(
        &webhook(r#"["*","pods"]"#),
        &[
            "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
        ],
    );
}

#[test]
fn what_is_given_empty_is_not_absent() {
    check(
        r#"{"kind":"PriorityClass","apiVersion":"scheduling.k8s.io/v1","value":1,"preemptionPolicy":""}"#,
        &["preemptionPolicy: Required value"],
    );
    check(
        r#"{"kind":"Service","apiVersion":"v1","spec":{"type":"ExternalName","externalName":"a","clusterIP":"10.96.0.9"}}"#,
        &["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
    );
    check(
        r#"{"kind":"Secret","apiVersion":"v1","type":"kubernetes.io/tls","data":{"tls.crt":null,"tls.key":null}}"#,
        &[],
    );
    let node = r#"{"kind":"Node","apiVersion":"v1","status":{"capacity":{"cpu":"1"}}}"#;
    let (_, _, value) = prepared(node);
    assert_eq!(value.str_at(&["status", "allocatable", "cpu"]), "1");
}

#[test]
fn pods_have_no_defaults_in_ranges() {
    check(
        r#"{"kind":"LimitRange","apiVersion":"v1","spec":{"limits":[{"type":"Pod","min":{"cpu":"50m"},"default":{"cpu":"-1"}}]}}"#,
        &["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"],
    );
}

#[test]
fn extended_resources_are_counted_whole() {
    let class = "gold.storageclass.storage.k8s.io/requests.storage";
    let quota = |amount: &str| {
        format!(
            r#"{{"kind":"ResourceQuota","apiVersion":"v1","spec":{{"hard":{{"{class}":"{amount}"}}}}}}"#
        )
    };
    let told = format!("spec.hard[{class}]: Invalid value: \"1500m\": must be an integer");
    check(&quota("1500m"), &[&told]);
    check(&quota("9223372036854775807"), &[]);
    let amounts = r#"{"example.com/d":"9223372036854775807"}"#;
    check(
        &format!(
            r#"{{"kind":"Pod","apiVersion":"v1","spec":{{"containers":[{{"name":"c","image":"i","resources":{{"limits":{amounts},"requests":{amounts}}}}}]}}}}"#
        ),
        &[],
    );
}

#[test]
fn volumes_with_something_wrong_take_no_name() {
    check(
        r#"{"kind":"Pod","apiVersion":"v1","spec":{"containers":[{"name":"c","image":"i"}],"volumes":[{"name":"v","emptyDir":{},"cephfs":{"monitors":["m"]}},{"name":"v","emptyDir":{}}]}}"#,
        &["spec.volumes[0].cephFS: Forbidden: may not specify more than 1 volume type"],
    );
    let portal = "p".repeat(64);
    check(
        &format!(
            r#"{{"kind":"Pod","apiVersion":"v1","spec":{{"containers":[{{"name":"c","image":"i"}}],"volumes":[{{"name":"v","iscsi":{{"targetPortal":"{portal}","iqn":"iqn.2001-04.com.example:s","initiatorName":"eui.0123456789abcdef"}}}}]}}}}"#
        ),
        &[
            "spec.volumes[0].name: Invalid value: \"v\": Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.",
        ],
    );
}

#[test]
fn rules_of_autoscalers_without_policies() {
    let scaler = |rules: &str| {
        format!(
            r#"{{"kind":"HorizontalPodAutoscaler","apiVersion":"autoscaling/v2","spec":{{"maxReplicas":2,"scaleTargetRef":{{"kind":"Deployment","name":"d","apiVersion":"apps/v1"}},"behavior":{{"scaleUp":{rules}}}}}}}"#
        )
    };
    check(&scaler(r#"{"policies":null}"#), &[]);
    check(
        &scaler(r#"{"policies":[]}"#),
        &["spec.behavior.scaleUp.policies: Required value: must specify at least one Policy"],
    );
}

#[test]
fn tolerations_of_runtime_classes_differ() {
    check(
        r#"{"kind":"RuntimeClass","apiVersion":"node.k8s.io/v1","handler":"h","scheduling":{"tolerations":[{"key":"a","operator":"Exists"},{"key":"a","operator":"Exists","effect":"NoSchedule"},{"key":"a","operator":"Exists"}]}}"#,
        &[
            "scheduling.tolerations[2]: Duplicate value: {\"Key\":\"a\",\"Operator\":\"Exists\",\"Value\":\"\",\"Effect\":\"\",\"TolerationSeconds\":null}",
        ],
    );
}

#[test]
fn no_bytes_are_empty_ones() {
    let (_, _, value) = prepared(r#"{"kind":"Secret","apiVersion":"v1","data":{"a":null}}"#);
    assert_eq!(value.at(&["data", "a"]), Some(&Value::from("")));
}

#[test]
fn templates_of_claims_are_claims() {
    let (_, _, set) = prepared(
        r#"{"kind":"StatefulSet","apiVersion":"apps/v1","spec":{"volumeClaimTemplates":[{"kind":"ConfigMap","apiVersion":"x/v2"}]}}"#,
    );
    let claim = &set.items_at(&["spec", "volumeClaimTemplates"])[0];
    let said = (claim.str_at(&["apiVersion"]), claim.str_at(&["kind"]));
    assert_eq!(said, ("v1", "PersistentVolumeClaim"));
}
