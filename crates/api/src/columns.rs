//! What the columns of tables mean: the texts of the fields they show, or a few words of our own where a column shows
//! no single field.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::docs::Docs;
use crate::resource::ResourceFacts;

/// Where a column's text comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// A field: its definition without `io.k8s.`, and its name.
    Field(&'static str, &'static str),
    /// Our own words.
    Words(&'static str),
}

use Source::{Field, Words};

const META: &str = "apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Columns that mean the same in every table.
const COMMON: &[(&str, Source)] = &[
    ("Name", Field(META, "name")),
    ("Age", Field(META, "creationTimestamp")),
    ("Created At", Field(META, "creationTimestamp")),
    ("Containers", Words("The names of the template's containers.")),
    ("Images", Words("The images of the template's containers.")),
];

/// Columns of one resource, by its plural name.
const COLUMNS: &[(&str, &str, Source)] = &[
    ("apiservices", "Service", Words("The service behind this part of the API.")),
    ("apiservices", "Available", Words("Whether the service can be reached.")),
    (
        "certificatesigningrequests",
        "SignerName",
        Field("api.certificates.v1.CertificateSigningRequestSpec", "signerName"),
    ),
    (
        "certificatesigningrequests",
        "Requestor",
        Field("api.certificates.v1.CertificateSigningRequestSpec", "username"),
    ),
    (
        "certificatesigningrequests",
        "RequestedDuration",
        Field("api.certificates.v1.CertificateSigningRequestSpec", "expirationSeconds"),
    ),
    (
        "certificatesigningrequests",
        "Condition",
        Field("api.certificates.v1.CertificateSigningRequestStatus", "conditions"),
    ),
    ("clusterrolebindings", "Role", Field("api.rbac.v1.ClusterRoleBinding", "roleRef")),
    ("clusterrolebindings", "Users", Words("The users it grants to.")),
    ("clusterrolebindings", "Groups", Words("The groups it grants to.")),
    ("clusterrolebindings", "ServiceAccounts", Words("The service accounts it grants to.")),
    ("componentstatuses", "Status", Words("Whether the component is healthy.")),
    ("componentstatuses", "Message", Words("What the component says of itself.")),
    ("componentstatuses", "Error", Words("Why the component cannot be asked.")),
    ("configmaps", "Data", Field("api.core.v1.ConfigMap", "data")),
    ("controllerrevisions", "Controller", Words("What the revision belongs to.")),
    ("controllerrevisions", "Revision", Field("api.apps.v1.ControllerRevision", "revision")),
    ("cronjobs", "Schedule", Field("api.batch.v1.CronJobSpec", "schedule")),
    ("cronjobs", "Timezone", Field("api.batch.v1.CronJobSpec", "timeZone")),
    ("cronjobs", "Suspend", Field("api.batch.v1.CronJobSpec", "suspend")),
    ("cronjobs", "Active", Field("api.batch.v1.CronJobStatus", "active")),
    ("cronjobs", "Last Schedule", Field("api.batch.v1.CronJobStatus", "lastScheduleTime")),
    ("cronjobs", "Selector", Field("api.batch.v1.JobSpec", "selector")),
    ("csidrivers", "AttachRequired", Field("api.storage.v1.CSIDriverSpec", "attachRequired")),
    ("csidrivers", "PodInfoOnMount", Field("api.storage.v1.CSIDriverSpec", "podInfoOnMount")),
    ("csidrivers", "StorageCapacity", Field("api.storage.v1.CSIDriverSpec", "storageCapacity")),
    ("csidrivers", "TokenRequests", Field("api.storage.v1.CSIDriverSpec", "tokenRequests")),
    ("csidrivers", "RequiresRepublish", Field("api.storage.v1.CSIDriverSpec", "requiresRepublish")),
    ("csidrivers", "Modes", Field("api.storage.v1.CSIDriverSpec", "volumeLifecycleModes")),
    ("csinodes", "Drivers", Words("How many drivers the node has.")),
    ("daemonsets", "Desired", Field("api.apps.v1.DaemonSetStatus", "desiredNumberScheduled")),
    ("daemonsets", "Current", Field("api.apps.v1.DaemonSetStatus", "currentNumberScheduled")),
    ("daemonsets", "Ready", Field("api.apps.v1.DaemonSetStatus", "numberReady")),
    ("daemonsets", "Up-to-date", Field("api.apps.v1.DaemonSetStatus", "updatedNumberScheduled")),
    ("daemonsets", "Available", Field("api.apps.v1.DaemonSetStatus", "numberAvailable")),
    ("daemonsets", "Node Selector", Field("api.core.v1.PodSpec", "nodeSelector")),
    ("daemonsets", "Selector", Field("api.apps.v1.DaemonSetSpec", "selector")),
    ("deployments", "Ready", Words("How many pods are ready, of how many.")),
    ("deployments", "Up-to-date", Field("api.apps.v1.DeploymentStatus", "updatedReplicas")),
    ("deployments", "Available", Field("api.apps.v1.DeploymentStatus", "availableReplicas")),
    ("deployments", "Selector", Field("api.apps.v1.DeploymentSpec", "selector")),
    ("endpoints", "Endpoints", Field("api.core.v1.Endpoints", "subsets")),
    ("endpointslices", "AddressType", Field("api.discovery.v1.EndpointSlice", "addressType")),
    ("endpointslices", "Ports", Field("api.discovery.v1.EndpointSlice", "ports")),
    ("endpointslices", "Endpoints", Field("api.discovery.v1.EndpointSlice", "endpoints")),
    ("events", "Last Seen", Field("api.core.v1.Event", "lastTimestamp")),
    ("events", "Type", Field("api.core.v1.Event", "type")),
    ("events", "Reason", Field("api.core.v1.Event", "reason")),
    ("events", "Object", Field("api.core.v1.Event", "involvedObject")),
    ("events", "Subobject", Field("api.core.v1.ObjectReference", "fieldPath")),
    ("events", "Source", Field("api.core.v1.Event", "source")),
    ("events", "Message", Field("api.core.v1.Event", "message")),
    ("events", "First Seen", Field("api.core.v1.Event", "firstTimestamp")),
    ("events", "Count", Field("api.core.v1.Event", "count")),
    (
        "flowschemas",
        "PriorityLevel",
        Field("api.flowcontrol.v1.PriorityLevelConfigurationReference", "name"),
    ),
    (
        "flowschemas",
        "MatchingPrecedence",
        Field("api.flowcontrol.v1.FlowSchemaSpec", "matchingPrecedence"),
    ),
    (
        "flowschemas",
        "DistinguisherMethod",
        Field("api.flowcontrol.v1.FlowSchemaSpec", "distinguisherMethod"),
    ),
    ("flowschemas", "MissingPL", Words("Whether the priority level it names is missing.")),
    (
        "horizontalpodautoscalers",
        "Reference",
        Field("api.autoscaling.v2.HorizontalPodAutoscalerSpec", "scaleTargetRef"),
    ),
    (
        "horizontalpodautoscalers",
        "Targets",
        Field("api.autoscaling.v2.HorizontalPodAutoscalerSpec", "metrics"),
    ),
    (
        "horizontalpodautoscalers",
        "MinPods",
        Field("api.autoscaling.v2.HorizontalPodAutoscalerSpec", "minReplicas"),
    ),
    (
        "horizontalpodautoscalers",
        "MaxPods",
        Field("api.autoscaling.v2.HorizontalPodAutoscalerSpec", "maxReplicas"),
    ),
    (
        "horizontalpodautoscalers",
        "Replicas",
        Field("api.autoscaling.v2.HorizontalPodAutoscalerStatus", "currentReplicas"),
    ),
    ("ingressclasses", "Controller", Words("What looks after ingresses of this class.")),
    ("ingressclasses", "Parameters", Words("What else configures the class.")),
    ("ingresses", "Class", Words("The class that looks after this ingress.")),
    ("ingresses", "Hosts", Words("The hosts whose requests it takes.")),
    ("ingresses", "Address", Words("Where the load balancer can be reached.")),
    ("ingresses", "Ports", Words("The ports it takes requests on.")),
    ("ipaddresses", "ParentRef", Field("api.networking.v1.IPAddressSpec", "parentRef")),
    ("jobs", "Status", Words("How far the job has come.")),
    ("jobs", "Completions", Field("api.batch.v1.JobStatus", "succeeded")),
    ("jobs", "Duration", Words("How long the job took, or has taken so far.")),
    ("jobs", "Selector", Field("api.batch.v1.JobSpec", "selector")),
    ("leases", "Holder", Field("api.coordination.v1.LeaseSpec", "holderIdentity")),
    ("mutatingadmissionpolicies", "Mutations", Words("How many mutations the policy makes.")),
    ("mutatingadmissionpolicies", "ParamKind", Words("The kind of its parameters.")),
    ("mutatingadmissionpolicybindings", "PolicyName", Words("The policy that is put into force.")),
    ("mutatingadmissionpolicybindings", "ParamRef", Words("Where the policy's parameters are.")),
    ("mutatingwebhookconfigurations", "Webhooks", Words("How many webhooks it configures.")),
    ("namespaces", "Status", Words("Whether the namespace is active or going.")),
    (
        "networkpolicies",
        "Pod-Selector",
        Field("api.networking.v1.NetworkPolicySpec", "podSelector"),
    ),
    ("nodes", "Status", Words("Whether the node is ready and takes pods.")),
    ("nodes", "Roles", Words("The roles its labels give the node.")),
    ("nodes", "Version", Field("api.core.v1.NodeSystemInfo", "kubeletVersion")),
    ("nodes", "Internal-IP", Field("api.core.v1.NodeStatus", "addresses")),
    ("nodes", "External-IP", Field("api.core.v1.NodeStatus", "addresses")),
    ("nodes", "OS-Image", Field("api.core.v1.NodeSystemInfo", "osImage")),
    ("nodes", "Kernel-Version", Field("api.core.v1.NodeSystemInfo", "kernelVersion")),
    ("nodes", "Container-Runtime", Field("api.core.v1.NodeSystemInfo", "containerRuntimeVersion")),
    ("persistentvolumeclaims", "Status", Field("api.core.v1.PersistentVolumeClaimStatus", "phase")),
    (
        "persistentvolumeclaims",
        "Volume",
        Field("api.core.v1.PersistentVolumeClaimSpec", "volumeName"),
    ),
    (
        "persistentvolumeclaims",
        "Capacity",
        Field("api.core.v1.PersistentVolumeClaimStatus", "capacity"),
    ),
    (
        "persistentvolumeclaims",
        "Access Modes",
        Field("api.core.v1.PersistentVolumeClaimStatus", "accessModes"),
    ),
    ("persistentvolumeclaims", "StorageClass", Words("The storage class of the claim.")),
    (
        "persistentvolumeclaims",
        "VolumeAttributesClass",
        Words("The class of the volume's attributes."),
    ),
    (
        "persistentvolumeclaims",
        "VolumeMode",
        Field("api.core.v1.PersistentVolumeClaimSpec", "volumeMode"),
    ),
    ("persistentvolumes", "Capacity", Field("api.core.v1.PersistentVolumeSpec", "capacity")),
    ("persistentvolumes", "Access Modes", Field("api.core.v1.PersistentVolumeSpec", "accessModes")),
    (
        "persistentvolumes",
        "Reclaim Policy",
        Field("api.core.v1.PersistentVolumeSpec", "persistentVolumeReclaimPolicy"),
    ),
    ("persistentvolumes", "Status", Field("api.core.v1.PersistentVolumeStatus", "phase")),
    ("persistentvolumes", "Claim", Field("api.core.v1.PersistentVolumeSpec", "claimRef")),
    ("persistentvolumes", "StorageClass", Words("The storage class of the volume.")),
    ("persistentvolumes", "VolumeAttributesClass", Words("The class of the volume's attributes.")),
    ("persistentvolumes", "Reason", Field("api.core.v1.PersistentVolumeStatus", "reason")),
    ("persistentvolumes", "VolumeMode", Field("api.core.v1.PersistentVolumeSpec", "volumeMode")),
    ("poddisruptionbudgets", "Min Available", Words("How many pods must stay available.")),
    ("poddisruptionbudgets", "Max Unavailable", Words("How many pods may be unavailable.")),
    ("poddisruptionbudgets", "Allowed Disruptions", Words("How many pods may be disrupted now.")),
    ("pods", "Ready", Words("How many containers are ready, of how many.")),
    ("pods", "Status", Words("What the pod's containers are doing.")),
    ("pods", "Restarts", Words("How often containers were restarted, and when last.")),
    ("pods", "IP", Field("api.core.v1.PodStatus", "podIP")),
    ("pods", "Node", Field("api.core.v1.PodSpec", "nodeName")),
    ("pods", "Nominated Node", Field("api.core.v1.PodStatus", "nominatedNodeName")),
    ("pods", "Readiness Gates", Field("api.core.v1.PodSpec", "readinessGates")),
    ("podtemplates", "Pod Labels", Words("The labels of the template's pods.")),
    ("priorityclasses", "Value", Field("api.scheduling.v1.PriorityClass", "value")),
    (
        "priorityclasses",
        "Global-Default",
        Field("api.scheduling.v1.PriorityClass", "globalDefault"),
    ),
    (
        "priorityclasses",
        "PreemptionPolicy",
        Field("api.scheduling.v1.PriorityClass", "preemptionPolicy"),
    ),
    (
        "prioritylevelconfigurations",
        "Type",
        Field("api.flowcontrol.v1.PriorityLevelConfigurationSpec", "type"),
    ),
    (
        "prioritylevelconfigurations",
        "NominalConcurrencyShares",
        Field("api.flowcontrol.v1.LimitedPriorityLevelConfiguration", "nominalConcurrencyShares"),
    ),
    (
        "prioritylevelconfigurations",
        "Queues",
        Field("api.flowcontrol.v1.QueuingConfiguration", "queues"),
    ),
    (
        "prioritylevelconfigurations",
        "HandSize",
        Field("api.flowcontrol.v1.QueuingConfiguration", "handSize"),
    ),
    (
        "prioritylevelconfigurations",
        "QueueLengthLimit",
        Field("api.flowcontrol.v1.QueuingConfiguration", "queueLengthLimit"),
    ),
    ("replicasets", "Desired", Field("api.apps.v1.ReplicaSetSpec", "replicas")),
    ("replicasets", "Current", Field("api.apps.v1.ReplicaSetStatus", "replicas")),
    ("replicasets", "Ready", Field("api.apps.v1.ReplicaSetStatus", "readyReplicas")),
    ("replicasets", "Selector", Field("api.apps.v1.ReplicaSetSpec", "selector")),
    (
        "replicationcontrollers",
        "Desired",
        Field("api.core.v1.ReplicationControllerSpec", "replicas"),
    ),
    (
        "replicationcontrollers",
        "Current",
        Field("api.core.v1.ReplicationControllerStatus", "replicas"),
    ),
    (
        "replicationcontrollers",
        "Ready",
        Field("api.core.v1.ReplicationControllerStatus", "readyReplicas"),
    ),
    (
        "replicationcontrollers",
        "Selector",
        Field("api.core.v1.ReplicationControllerSpec", "selector"),
    ),
    ("resourceclaims", "State", Words("Whether devices are allocated and reserved.")),
    ("resourcequotas", "Request", Words("What is requested, of what may be.")),
    ("resourcequotas", "Limit", Words("The sum of limits, of what may be.")),
    ("resourceslices", "Node", Field("api.resource.v1.ResourceSliceSpec", "nodeName")),
    ("resourceslices", "Driver", Field("api.resource.v1.ResourceSliceSpec", "driver")),
    ("resourceslices", "Pool", Field("api.resource.v1.ResourcePool", "name")),
    ("rolebindings", "Role", Field("api.rbac.v1.RoleBinding", "roleRef")),
    ("rolebindings", "Users", Words("The users it grants to.")),
    ("rolebindings", "Groups", Words("The groups it grants to.")),
    ("rolebindings", "ServiceAccounts", Words("The service accounts it grants to.")),
    // Upstream says nothing of this one.
    ("runtimeclasses", "Handler", Words("")),
    ("secrets", "Type", Field("api.core.v1.Secret", "type")),
    ("secrets", "Data", Field("api.core.v1.Secret", "data")),
    ("servicecidrs", "CIDRs", Field("api.networking.v1.ServiceCIDRSpec", "cidrs")),
    ("services", "Type", Field("api.core.v1.ServiceSpec", "type")),
    ("services", "Cluster-IP", Field("api.core.v1.ServiceSpec", "clusterIP")),
    ("services", "External-IP", Field("api.core.v1.ServiceSpec", "externalIPs")),
    ("services", "Port(s)", Field("api.core.v1.ServiceSpec", "ports")),
    ("services", "Selector", Field("api.core.v1.ServiceSpec", "selector")),
    ("statefulsets", "Ready", Words("How many pods are ready, of how many.")),
    ("storageclasses", "Provisioner", Field("api.storage.v1.StorageClass", "provisioner")),
    ("storageclasses", "ReclaimPolicy", Field("api.storage.v1.StorageClass", "reclaimPolicy")),
    (
        "storageclasses",
        "VolumeBindingMode",
        Field("api.storage.v1.StorageClass", "volumeBindingMode"),
    ),
    (
        "storageclasses",
        "AllowVolumeExpansion",
        Field("api.storage.v1.StorageClass", "allowVolumeExpansion"),
    ),
    ("validatingadmissionpolicies", "Validations", Words("How many validations the policy makes.")),
    ("validatingadmissionpolicies", "ParamKind", Words("The kind of its parameters.")),
    (
        "validatingadmissionpolicybindings",
        "PolicyName",
        Words("The policy that is put into force."),
    ),
    ("validatingadmissionpolicybindings", "ParamRef", Words("Where the policy's parameters are.")),
    ("validatingwebhookconfigurations", "Webhooks", Words("How many webhooks it configures.")),
    ("volumeattachments", "Attacher", Field("api.storage.v1.VolumeAttachmentSpec", "attacher")),
    (
        "volumeattachments",
        "PV",
        Field("api.storage.v1.VolumeAttachmentSource", "persistentVolumeName"),
    ),
    ("volumeattachments", "Node", Field("api.storage.v1.VolumeAttachmentSpec", "nodeName")),
    ("volumeattachments", "Attached", Field("api.storage.v1.VolumeAttachmentStatus", "attached")),
    (
        "volumeattributesclasses",
        "DriverName",
        Field("api.storage.v1.VolumeAttributesClass", "driverName"),
    ),
];

/// What a column's description says; empty where nothing is known.
#[must_use]
pub fn description(facts: &ResourceFacts, column: &str) -> &'static str {
    let own = COLUMNS.iter().find(|(of, name, _)| *of == facts.resource && *name == column);
    let common = || COMMON.iter().find(|(name, _)| *name == column).map(|(_, source)| source);
    match own.map(|(_, _, source)| source).or_else(common) {
        Some(Field(definition, field)) => {
            texts().get(&(*definition, *field)).map(String::as_str).unwrap_or_default()
        }
        Some(Words(words)) => words,
        None => "",
    }
}

type Texts = BTreeMap<(&'static str, &'static str), String>;

/// The texts of all fields that columns show, unpacked once: some 40 KB.
fn texts() -> &'static Texts {
    static TEXTS: OnceLock<Texts> = OnceLock::new();
    TEXTS.get_or_init(|| {
        let columns = COLUMNS.iter().map(|(_, _, source)| *source);
        let all = columns.chain(COMMON.iter().map(|(_, source)| *source));
        let mut texts: Texts = all
            .filter_map(|source| match source {
                Field(definition, field) => Some(((definition, field), String::new())),
                Words(_) => None,
            })
            .collect();
        let mut docs = Docs::default();
        // In the order of names each block is unpacked once.
        for ((definition, field), text) in &mut texts {
            let found = docs.definition(&format!("io.k8s.{definition}"));
            *text = found.and_then(|it| it.field(field)).unwrap_or_default().to_owned();
        }
        texts
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_a_column_shows_has_a_text() {
        let empty: Vec<_> = texts().iter().filter(|(_, text)| text.is_empty()).collect();
        assert!(empty.is_empty(), "{empty:?}");
    }

    #[test]
    fn every_column_is_described() {
        let mut silent = Vec::new();
        for facts in crate::resources() {
            for column in facts.columns {
                let known = COLUMNS
                    .iter()
                    .any(|(of, name, _)| *of == facts.resource && *name == column.name);
                if !known && COMMON.iter().all(|(name, _)| *name != column.name) {
                    silent.push(format!("{} {}", facts.resource, column.name));
                }
            }
        }
        assert_eq!(silent, Vec::<String>::new());
    }
}
