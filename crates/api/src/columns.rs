//! What the columns of tables mean: the texts of the fields they show, or upstream's words where a column shows no
//! single field.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::docs::Docs;
use crate::resource::ResourceFacts;

/// Where a column's text comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// A field: its definition without `io.k8s.`, and its name.
    Field(&'static str, &'static str),
    /// Words of its own.
    Words(&'static str),
}

use Source::{Field, Words};

// Fields whose text upstream takes from an older version of the API.
const ROLE_REF: &str = "RoleRef can reference a Role in the current namespace or a ClusterRole in the global \
    namespace. If the RoleRef cannot be resolved, the Authorizer must return an error.";
const CLUSTER_ROLE_REF: &str = "RoleRef can only reference a ClusterRole in the global namespace. If the RoleRef \
    cannot be resolved, the Authorizer must return an error.";
const SERVICE_CIDRS: &str = "CIDRs defines the IP blocks in CIDR notation (e.g. \"192.168.0.0/24\" or \
    \"2001:db8::/64\") from which to assign service cluster IPs. Max of two CIDRs is allowed, one of each IP family. \
    This field is immutable.";

const SLICE_ADDRESS_TYPE: &str = "addressType specifies the type of address carried by this EndpointSlice. All \
    addresses in this slice must be the same type. This field is immutable after creation. The following address types \
    are currently supported: * IPv4: Represents an IPv4 Address. * IPv6: Represents an IPv6 Address. * FQDN: Represents \
    a Fully Qualified Domain Name.";
const SLICE_PORTS: &str = "ports specifies the list of network ports exposed by each endpoint in this slice. Each port \
    must have a unique name. When ports is empty, it indicates that there are no defined ports. When a port is defined \
    with a nil port value, it indicates \"all ports\". Each slice may include a maximum of 100 ports.";
const PARENT_REF: &str = "ParentRef references the resource that an IPAddress is attached to. An IPAddress must \
    reference a parent object.";

const META: &str = "apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Columns that mean the same in every table.
const COMMON: &[(&str, Source)] = &[
    ("Name", Field(META, "name")),
    ("Age", Field(META, "creationTimestamp")),
    ("Created At", Field(META, "creationTimestamp")),
    ("Containers", Words("Names of each container in the template.")),
    ("Images", Words("Images referenced by each container in the template.")),
];

/// Columns of one resource, by its plural name.
const COLUMNS: &[(&str, &str, Source)] = &[
    ("apiservices", "Service", Words("The reference to the service that hosts this API endpoint.")),
    ("apiservices", "Available", Words("Whether this service is available.")),
    (
        "clustertrustbundles",
        "SignerName",
        Field("api.certificates.v1.ClusterTrustBundleSpec", "signerName"),
    ),
    (
        "storageversions",
        "CommonEncodingVersion",
        Field("api.apiserverinternal.v1alpha1.StorageVersionStatus", "commonEncodingVersion"),
    ),
    (
        "storageversions",
        "StorageVersions",
        Field("api.apiserverinternal.v1alpha1.StorageVersionStatus", "storageVersions"),
    ),
    ("storageversionmigrations", "Resource", Words("Fully qualified resource to migrate")),
    (
        "certificatesigningrequests",
        "SignerName",
        Field("api.certificates.v1.CertificateSigningRequestSpec", "signerName"),
    ),
    (
        "certificatesigningrequests",
        "Requestor",
        // Upstream describes the request here.
        Words("Base64-encoded PKCS#10 CSR data"),
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
    ("clusterrolebindings", "Role", Words(CLUSTER_ROLE_REF)),
    ("clusterrolebindings", "Users", Words("Users in the clusterRoleBinding")),
    ("clusterrolebindings", "Groups", Words("Groups in the clusterRoleBinding")),
    ("clusterrolebindings", "ServiceAccounts", Words("ServiceAccounts in the clusterRoleBinding")),
    ("componentstatuses", "Status", Words("Status of the component conditions")),
    ("componentstatuses", "Message", Words("Message of the component conditions")),
    ("componentstatuses", "Error", Words("Error of the component conditions")),
    ("configmaps", "Data", Field("api.core.v1.ConfigMap", "data")),
    ("controllerrevisions", "Controller", Words("Controller of the object")),
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
    (
        "csinodes",
        "Drivers",
        Words("Drivers indicates the number of CSI drivers registered on the node"),
    ),
    ("daemonsets", "Desired", Field("api.apps.v1.DaemonSetStatus", "desiredNumberScheduled")),
    ("daemonsets", "Current", Field("api.apps.v1.DaemonSetStatus", "currentNumberScheduled")),
    ("daemonsets", "Ready", Field("api.apps.v1.DaemonSetStatus", "numberReady")),
    ("daemonsets", "Up-to-date", Field("api.apps.v1.DaemonSetStatus", "updatedNumberScheduled")),
    ("daemonsets", "Available", Field("api.apps.v1.DaemonSetStatus", "numberAvailable")),
    ("daemonsets", "Node Selector", Field("api.core.v1.PodSpec", "nodeSelector")),
    ("daemonsets", "Selector", Field("api.apps.v1.DaemonSetSpec", "selector")),
    ("deployments", "Ready", Words("Number of the pod with ready state")),
    ("deployments", "Up-to-date", Field("api.apps.v1.DeploymentStatus", "updatedReplicas")),
    ("deployments", "Available", Field("api.apps.v1.DeploymentStatus", "availableReplicas")),
    ("deployments", "Selector", Field("api.apps.v1.DeploymentSpec", "selector")),
    ("endpoints", "Endpoints", Field("api.core.v1.Endpoints", "subsets")),
    ("endpointslices", "AddressType", Words(SLICE_ADDRESS_TYPE)),
    ("endpointslices", "Ports", Words(SLICE_PORTS)),
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
    ("scales", "Desired", Field("api.autoscaling.v1.ScaleSpec", "replicas")),
    ("scales", "Available", Field("api.autoscaling.v1.ScaleStatus", "replicas")),
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
    (
        "flowschemas",
        "MissingPL",
        Words("references a broken or non-existent PriorityLevelConfiguration"),
    ),
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
    (
        "ingressclasses",
        "Controller",
        Words("Controller that is responsible for handling this class"),
    ),
    ("ingressclasses", "Parameters", Words("A reference to a resource with additional parameters")),
    (
        "ingresses",
        "Class",
        Words(
            "The name of the IngressClass resource that should be used for additional configuration",
        ),
    ),
    (
        "ingresses",
        "Hosts",
        Words("Hosts that incoming requests are matched against before the ingress rule"),
    ),
    (
        "ingresses",
        "Address",
        Words("Address is a list containing ingress points for the load-balancer"),
    ),
    ("ingresses", "Ports", Words("Ports of TLS configurations that open")),
    ("ipaddresses", "ParentRef", Words(PARENT_REF)),
    ("jobs", "Status", Words("Status of the job.")),
    ("jobs", "Completions", Field("api.batch.v1.JobStatus", "succeeded")),
    ("jobs", "Duration", Words("Time required to complete the job.")),
    ("jobs", "Selector", Field("api.batch.v1.JobSpec", "selector")),
    (
        "leasecandidates",
        "LeaseName",
        Field("api.coordination.v1beta1.LeaseCandidateSpec", "leaseName"),
    ),
    // Upstream looks for their texts where there are none.
    ("leasecandidates", "BinaryVersion", Words("")),
    ("leasecandidates", "EmulationVersion", Words("")),
    ("leases", "Holder", Field("api.coordination.v1.LeaseSpec", "holderIdentity")),
    (
        "mutatingadmissionpolicies",
        "Mutations",
        Words("Mutation indicates the number of mutations rules defined in this configuration"),
    ),
    (
        "mutatingadmissionpolicies",
        "ParamKind",
        Words("ParamKind specifies the kind of resources used to parameterize this policy"),
    ),
    (
        "mutatingadmissionpolicybindings",
        "PolicyName",
        Words("PolicyName indicates the policy definition which the policy binding binded to"),
    ),
    (
        "mutatingadmissionpolicybindings",
        "ParamRef",
        Words("ParamRef indicates the param resource which sets the configuration param"),
    ),
    (
        "mutatingwebhookconfigurations",
        "Webhooks",
        Words("Webhooks indicates the number of webhooks registered in this configuration"),
    ),
    ("namespaces", "Status", Words("The status of the namespace")),
    (
        "networkpolicies",
        "Pod-Selector",
        Field("api.networking.v1.NetworkPolicySpec", "podSelector"),
    ),
    ("nodes", "Status", Words("The status of the node")),
    ("nodes", "Roles", Words("The roles of the node")),
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
    ("persistentvolumeclaims", "StorageClass", Words("StorageClass of the pvc")),
    ("persistentvolumeclaims", "VolumeAttributesClass", Words("VolumeAttributesClass of the pvc")),
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
    ("persistentvolumes", "StorageClass", Words("StorageClass of the pv")),
    ("persistentvolumes", "VolumeAttributesClass", Words("VolumeAttributesClass of the pv")),
    ("persistentvolumes", "Reason", Field("api.core.v1.PersistentVolumeStatus", "reason")),
    ("persistentvolumes", "VolumeMode", Field("api.core.v1.PersistentVolumeSpec", "volumeMode")),
    (
        "poddisruptionbudgets",
        "Min Available",
        Words("The minimum number of pods that must be available."),
    ),
    (
        "poddisruptionbudgets",
        "Max Unavailable",
        Words("The maximum number of pods that may be unavailable."),
    ),
    (
        "poddisruptionbudgets",
        "Allowed Disruptions",
        Words("Calculated number of pods that may be disrupted at this time."),
    ),
    ("pods", "Ready", Words("The aggregate readiness state of this pod for accepting traffic.")),
    ("pods", "Status", Words("The aggregate status of the containers in this pod.")),
    (
        "pods",
        "Restarts",
        Words(
            "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        ),
    ),
    ("pods", "IP", Field("api.core.v1.PodStatus", "podIP")),
    ("pods", "Node", Field("api.core.v1.PodSpec", "nodeName")),
    ("pods", "Nominated Node", Field("api.core.v1.PodStatus", "nominatedNodeName")),
    ("pods", "Readiness Gates", Field("api.core.v1.PodSpec", "readinessGates")),
    ("podtemplates", "Pod Labels", Words("The labels for the pod template.")),
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
    (
        "resourceclaims",
        "State",
        Words("A summary of the current state (allocated, pending, reserved, etc.)."),
    ),
    (
        "resourcequotas",
        "Request",
        Words("Request represents a minimum amount of cpu/memory that a container may consume."),
    ),
    (
        "resourcequotas",
        "Limit",
        Words(
            "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
        ),
    ),
    ("resourceslices", "Node", Field("api.resource.v1.ResourceSliceSpec", "nodeName")),
    ("resourceslices", "Driver", Field("api.resource.v1.ResourceSliceSpec", "driver")),
    ("resourceslices", "Pool", Field("api.resource.v1.ResourcePool", "name")),
    ("rolebindings", "Role", Words(ROLE_REF)),
    ("rolebindings", "Users", Words("Users in the roleBinding")),
    ("rolebindings", "Groups", Words("Groups in the roleBinding")),
    ("rolebindings", "ServiceAccounts", Words("ServiceAccounts in the roleBinding")),
    // Upstream says nothing of this one.
    ("runtimeclasses", "Handler", Words("")),
    ("secrets", "Type", Field("api.core.v1.Secret", "type")),
    ("secrets", "Data", Field("api.core.v1.Secret", "data")),
    ("servicecidrs", "CIDRs", Words(SERVICE_CIDRS)),
    ("services", "Type", Field("api.core.v1.ServiceSpec", "type")),
    ("services", "Cluster-IP", Field("api.core.v1.ServiceSpec", "clusterIP")),
    ("services", "External-IP", Field("api.core.v1.ServiceSpec", "externalIPs")),
    ("services", "Port(s)", Field("api.core.v1.ServiceSpec", "ports")),
    ("services", "Selector", Field("api.core.v1.ServiceSpec", "selector")),
    ("statefulsets", "Ready", Words("Number of the pod with ready state")),
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
    (
        "validatingadmissionpolicies",
        "Validations",
        Words("Validations indicates the number of validation rules defined in this configuration"),
    ),
    (
        "validatingadmissionpolicies",
        "ParamKind",
        Words("ParamKind specifies the kind of resources used to parameterize this policy"),
    ),
    (
        "validatingadmissionpolicybindings",
        "PolicyName",
        Words("PolicyName indicates the policy definition which the policy binding binded to"),
    ),
    (
        "validatingadmissionpolicybindings",
        "ParamRef",
        Words("ParamRef indicates the param resource which sets the configuration param"),
    ),
    (
        "validatingwebhookconfigurations",
        "Webhooks",
        Words("Webhooks indicates the number of webhooks registered in this configuration"),
    ),
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
        for facts in crate::all_resources() {
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
