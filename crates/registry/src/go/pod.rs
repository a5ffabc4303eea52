//! The shape of a pod's spec. Volumes of storage systems of the past are shown as their JSON.

use super::Field;
use super::Shape::{List, Number, Plain, Pointer, Struct, Text, Truth};

/// The spec of a pod, once [`super::pod_spec`] has put fields where the internal type has them.
pub(super) const SPEC: &[Field] = &[
    Field("Volumes", "volumes", List(VOLUME)),
    Field("InitContainers", "initContainers", List(CONTAINER)),
    Field("Containers", "containers", List(CONTAINER)),
    Field("EphemeralContainers", "ephemeralContainers", List(CONTAINER)),
    Field("RestartPolicy", "restartPolicy", Text),
    Field("TerminationGracePeriodSeconds", "terminationGracePeriodSeconds", Plain),
    Field("ActiveDeadlineSeconds", "activeDeadlineSeconds", Plain),
    Field("DNSPolicy", "dnsPolicy", Text),
    Field("NodeSelector", "nodeSelector", Plain),
    Field("ServiceAccountName", "serviceAccountName", Text),
    Field("AutomountServiceAccountToken", "automountServiceAccountToken", Plain),
    Field("NodeName", "nodeName", Text),
    Field("SecurityContext", "securityContext", Pointer(POD_SECURITY)),
    Field("ImagePullSecrets", "imagePullSecrets", List(NAMED)),
    Field("Hostname", "hostname", Text),
    Field("Subdomain", "subdomain", Text),
    Field("SetHostnameAsFQDN", "setHostnameAsFQDN", Plain),
    Field("Affinity", "affinity", Pointer(AFFINITY)),
    Field("SchedulerName", "schedulerName", Text),
    Field("Tolerations", "tolerations", List(super::TOLERATION)),
    Field(
        "HostAliases",
        "hostAliases",
        List(&[Field("IP", "ip", Text), Field("Hostnames", "hostnames", Plain)]),
    ),
    Field("PriorityClassName", "priorityClassName", Text),
    Field("Priority", "priority", Plain),
    Field("PreemptionPolicy", "preemptionPolicy", Plain),
    Field("DNSConfig", "dnsConfig", Pointer(DNS_CONFIG)),
    Field(
        "ReadinessGates",
        "readinessGates",
        List(&[Field("ConditionType", "conditionType", Text)]),
    ),
    Field("RuntimeClassName", "runtimeClassName", Plain),
    Field("Overhead", "overhead", Plain),
    Field("EnableServiceLinks", "enableServiceLinks", Plain),
    Field("TopologySpreadConstraints", "topologySpreadConstraints", List(SPREAD)),
    Field("OS", "os", Pointer(NAMED)),
    Field("SchedulingGates", "schedulingGates", List(NAMED)),
    Field("ResourceClaims", "resourceClaims", List(RESOURCE_CLAIM)),
    Field("Resources", "resources", Pointer(RESOURCES)),
    Field("HostnameOverride", "hostnameOverride", Plain),
    Field("SchedulingGroup", "schedulingGroup", Plain),
];

const NAMED: &[Field] = &[Field("Name", "name", Text)];

const RESOURCE_CLAIM: &[Field] = &[
    Field("Name", "name", Text),
    Field("ResourceClaimName", "resourceClaimName", Plain),
    Field("ResourceClaimTemplateName", "resourceClaimTemplateName", Plain),
];

const DNS_CONFIG: &[Field] = &[
    Field("Nameservers", "nameservers", Plain),
    Field("Searches", "searches", Plain),
    Field(
        "Options",
        "options",
        List(&[Field("Name", "name", Text), Field("Value", "value", Plain)]),
    ),
];

const SPREAD: &[Field] = &[
    Field("MaxSkew", "maxSkew", Number),
    Field("TopologyKey", "topologyKey", Text),
    Field("WhenUnsatisfiable", "whenUnsatisfiable", Text),
    Field("LabelSelector", "labelSelector", Plain),
    Field("MinDomains", "minDomains", Plain),
    Field("NodeAffinityPolicy", "nodeAffinityPolicy", Plain),
    Field("NodeTaintsPolicy", "nodeTaintsPolicy", Plain),
    Field("MatchLabelKeys", "matchLabelKeys", Plain),
];

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const GO_REQUIRED: &str = "RequiredDuringSchedulingIgnoredDuringExecution";
const GO_PREFERRED: &str = "PreferredDuringSchedulingIgnoredDuringExecution";

const NODE_REQUIREMENT: &[Field] = &[
    Field("Key", "key", Text),
    Field("Operator", "operator", Text),
    Field("Values", "values", Plain),
];

pub(super) const NODE_TERM: &[Field] = &[
    Field("MatchExpressions", "matchExpressions", List(NODE_REQUIREMENT)),
    Field("MatchFields", "matchFields", List(NODE_REQUIREMENT)),
];

const POD_TERM: &[Field] = &[
    Field("LabelSelector", "labelSelector", Plain),
    Field("Namespaces", "namespaces", Plain),
    Field("TopologyKey", "topologyKey", Text),
    Field("NamespaceSelector", "namespaceSelector", Plain),
    Field("MatchLabelKeys", "matchLabelKeys", Plain),
    Field("MismatchLabelKeys", "mismatchLabelKeys", Plain),
];

const POD_AFFINITY: &[Field] = &[
    Field(GO_REQUIRED, REQUIRED, List(POD_TERM)),
    Field(
        GO_PREFERRED,
        PREFERRED,
        List(&[
            Field("Weight", "weight", Number),
            Field("PodAffinityTerm", "podAffinityTerm", Struct(POD_TERM)),
        ]),
    ),
];

const AFFINITY: &[Field] = &[
    Field(
        "NodeAffinity",
        "nodeAffinity",
        Pointer(&[
            Field(
                GO_REQUIRED,
                REQUIRED,
                Pointer(&[Field("NodeSelectorTerms", "nodeSelectorTerms", List(NODE_TERM))]),
            ),
            Field(
                GO_PREFERRED,
                PREFERRED,
                List(&[
                    Field("Weight", "weight", Number),
                    Field("Preference", "preference", Struct(NODE_TERM)),
                ]),
            ),
        ]),
    ),
    Field("PodAffinity", "podAffinity", Pointer(POD_AFFINITY)),
    Field("PodAntiAffinity", "podAntiAffinity", Pointer(POD_AFFINITY)),
];

const SELINUX: &[Field] = &[
    Field("User", "user", Text),
    Field("Role", "role", Text),
    Field("Type", "type", Text),
    Field("Level", "level", Text),
];

const WINDOWS: &[Field] = &[
    Field("GMSACredentialSpecName", "gmsaCredentialSpecName", Plain),
    Field("GMSACredentialSpec", "gmsaCredentialSpec", Plain),
    Field("RunAsUserName", "runAsUserName", Plain),
    Field("HostProcess", "hostProcess", Plain),
];

const PROFILE: &[Field] =
    &[Field("Type", "type", Text), Field("LocalhostProfile", "localhostProfile", Plain)];

const POD_SECURITY: &[Field] = &[
    Field("HostNetwork", "hostNetwork", Truth),
    Field("HostPID", "hostPID", Truth),
    Field("HostIPC", "hostIPC", Truth),
    Field("ShareProcessNamespace", "shareProcessNamespace", Plain),
    Field("HostUsers", "hostUsers", Plain),
    Field("SELinuxOptions", "seLinuxOptions", Pointer(SELINUX)),
    Field("WindowsOptions", "windowsOptions", Pointer(WINDOWS)),
    Field("RunAsUser", "runAsUser", Plain),
    Field("RunAsGroup", "runAsGroup", Plain),
    Field("RunAsNonRoot", "runAsNonRoot", Plain),
    Field("SupplementalGroups", "supplementalGroups", Plain),
    Field("SupplementalGroupsPolicy", "supplementalGroupsPolicy", Plain),
    Field("FSGroup", "fsGroup", Plain),
    Field("FSGroupChangePolicy", "fsGroupChangePolicy", Plain),
    Field(
        "Sysctls",
        "sysctls",
        List(&[Field("Name", "name", Text), Field("Value", "value", Text)]),
    ),
    Field("SeccompProfile", "seccompProfile", Pointer(PROFILE)),
    Field("AppArmorProfile", "appArmorProfile", Pointer(PROFILE)),
    Field("SELinuxChangePolicy", "seLinuxChangePolicy", Plain),
];

const SECURITY: &[Field] = &[
    Field(
        "Capabilities",
        "capabilities",
        Pointer(&[Field("Add", "add", Plain), Field("Drop", "drop", Plain)]),
    ),
    Field("Privileged", "privileged", Plain),
    Field("SELinuxOptions", "seLinuxOptions", Pointer(SELINUX)),
    Field("WindowsOptions", "windowsOptions", Pointer(WINDOWS)),
    Field("RunAsUser", "runAsUser", Plain),
    Field("RunAsGroup", "runAsGroup", Plain),
    Field("RunAsNonRoot", "runAsNonRoot", Plain),
    Field("ReadOnlyRootFilesystem", "readOnlyRootFilesystem", Plain),
    Field("AllowPrivilegeEscalation", "allowPrivilegeEscalation", Plain),
    Field("ProcMount", "procMount", Plain),
    Field("SeccompProfile", "seccompProfile", Pointer(PROFILE)),
    Field("AppArmorProfile", "appArmorProfile", Pointer(PROFILE)),
];

const RESOURCES: &[Field] = &[
    Field("Limits", "limits", Plain),
    Field("Requests", "requests", Plain),
    Field(
        "Claims",
        "claims",
        List(&[Field("Name", "name", Text), Field("Request", "request", Text)]),
    ),
];

const EXEC: &[Field] = &[Field("Command", "command", Plain)];

const HTTP_GET: &[Field] = &[
    Field("Path", "path", Text),
    Field("Port", "port", Number),
    Field("Host", "host", Text),
    Field("Scheme", "scheme", Text),
    Field(
        "HTTPHeaders",
        "httpHeaders",
        List(&[Field("Name", "name", Text), Field("Value", "value", Text)]),
    ),
];

const TCP_SOCKET: &[Field] = &[Field("Port", "port", Number), Field("Host", "host", Text)];

const PROBE: &[Field] = &[
    Field("Exec", "exec", Pointer(EXEC)),
    Field("HTTPGet", "httpGet", Pointer(HTTP_GET)),
    Field("TCPSocket", "tcpSocket", Pointer(TCP_SOCKET)),
    Field(
        "GRPC",
        "grpc",
        Pointer(&[Field("Port", "port", Number), Field("Service", "service", Plain)]),
    ),
    Field("InitialDelaySeconds", "initialDelaySeconds", Number),
    Field("TimeoutSeconds", "timeoutSeconds", Number),
    Field("PeriodSeconds", "periodSeconds", Number),
    Field("SuccessThreshold", "successThreshold", Number),
    Field("FailureThreshold", "failureThreshold", Number),
    Field("TerminationGracePeriodSeconds", "terminationGracePeriodSeconds", Plain),
];

const HANDLER: &[Field] = &[
    Field("Exec", "exec", Pointer(EXEC)),
    Field("HTTPGet", "httpGet", Pointer(HTTP_GET)),
    Field("TCPSocket", "tcpSocket", Pointer(TCP_SOCKET)),
    Field("Sleep", "sleep", Pointer(&[Field("Seconds", "seconds", Number)])),
];

const FIELD_REF: &[Field] =
    &[Field("APIVersion", "apiVersion", Text), Field("FieldPath", "fieldPath", Text)];

const RESOURCE_FIELD_REF: &[Field] = &[
    Field("ContainerName", "containerName", Text),
    Field("Resource", "resource", Text),
    Field("Divisor", "divisor", Plain),
];

const KEY_REF: &[Field] =
    &[Field("Name", "name", Text), Field("Key", "key", Text), Field("Optional", "optional", Plain)];

const ENV: &[Field] = &[
    Field("Name", "name", Text),
    Field("Value", "value", Text),
    Field(
        "ValueFrom",
        "valueFrom",
        Pointer(&[
            Field("FieldRef", "fieldRef", Pointer(FIELD_REF)),
            Field("ResourceFieldRef", "resourceFieldRef", Pointer(RESOURCE_FIELD_REF)),
            Field("ConfigMapKeyRef", "configMapKeyRef", Pointer(KEY_REF)),
            Field("SecretKeyRef", "secretKeyRef", Pointer(KEY_REF)),
            Field(
                "FileKeyRef",
                "fileKeyRef",
                Pointer(&[
                    Field("VolumeName", "volumeName", Text),
                    Field("Path", "path", Text),
                    Field("Key", "key", Text),
                    Field("Optional", "optional", Plain),
                ]),
            ),
        ]),
    ),
];

const ENV_SOURCE: &[Field] = &[Field("Name", "name", Text), Field("Optional", "optional", Plain)];

const CONTAINER: &[Field] = &[
    Field("Name", "name", Text),
    Field("Image", "image", Text),
    Field("Command", "command", Plain),
    Field("Args", "args", Plain),
    Field("WorkingDir", "workingDir", Text),
    Field(
        "Ports",
        "ports",
        List(&[
            Field("Name", "name", Text),
            Field("HostPort", "hostPort", Number),
            Field("ContainerPort", "containerPort", Number),
            Field("Protocol", "protocol", Text),
            Field("HostIP", "hostIP", Text),
        ]),
    ),
    Field(
        "EnvFrom",
        "envFrom",
        List(&[
            Field("Prefix", "prefix", Text),
            Field("ConfigMapRef", "configMapRef", Pointer(ENV_SOURCE)),
            Field("SecretRef", "secretRef", Pointer(ENV_SOURCE)),
        ]),
    ),
    Field("Env", "env", List(ENV)),
    Field("Resources", "resources", Struct(RESOURCES)),
    Field(
        "ResizePolicy",
        "resizePolicy",
        List(&[
            Field("ResourceName", "resourceName", Text),
            Field("RestartPolicy", "restartPolicy", Text),
        ]),
    ),
    Field("RestartPolicy", "restartPolicy", Plain),
    Field("RestartPolicyRules", "restartPolicyRules", Plain),
    Field(
        "VolumeMounts",
        "volumeMounts",
        List(&[
            Field("Name", "name", Text),
            Field("ReadOnly", "readOnly", Truth),
            Field("RecursiveReadOnly", "recursiveReadOnly", Plain),
            Field("MountPath", "mountPath", Text),
            Field("SubPath", "subPath", Text),
            Field("MountPropagation", "mountPropagation", Plain),
            Field("SubPathExpr", "subPathExpr", Text),
        ]),
    ),
    Field(
        "VolumeDevices",
        "volumeDevices",
        List(&[Field("Name", "name", Text), Field("DevicePath", "devicePath", Text)]),
    ),
    Field("LivenessProbe", "livenessProbe", Pointer(PROBE)),
    Field("ReadinessProbe", "readinessProbe", Pointer(PROBE)),
    Field("StartupProbe", "startupProbe", Pointer(PROBE)),
    Field(
        "Lifecycle",
        "lifecycle",
        Pointer(&[
            Field("PostStart", "postStart", Pointer(HANDLER)),
            Field("PreStop", "preStop", Pointer(HANDLER)),
            Field("StopSignal", "stopSignal", Plain),
        ]),
    ),
    Field("TerminationMessagePath", "terminationMessagePath", Text),
    Field("TerminationMessagePolicy", "terminationMessagePolicy", Text),
    Field("ImagePullPolicy", "imagePullPolicy", Text),
    Field("SecurityContext", "securityContext", Pointer(SECURITY)),
    Field("Stdin", "stdin", Truth),
    Field("StdinOnce", "stdinOnce", Truth),
    Field("TTY", "tty", Truth),
];

const ITEMS: super::Shape =
    List(&[Field("Key", "key", Text), Field("Path", "path", Text), Field("Mode", "mode", Plain)]);

const DOWNWARD_ITEMS: super::Shape = List(&[
    Field("Path", "path", Text),
    Field("FieldRef", "fieldRef", Pointer(FIELD_REF)),
    Field("ResourceFieldRef", "resourceFieldRef", Pointer(RESOURCE_FIELD_REF)),
    Field("Mode", "mode", Plain),
]);

const PROJECTED_OBJECT: &[Field] = &[
    Field("Name", "name", Text),
    Field("Items", "items", ITEMS),
    Field("Optional", "optional", Plain),
];

const PROJECTION: &[Field] = &[
    Field("Secret", "secret", Pointer(PROJECTED_OBJECT)),
    Field("DownwardAPI", "downwardAPI", Pointer(&[Field("Items", "items", DOWNWARD_ITEMS)])),
    Field("ConfigMap", "configMap", Pointer(PROJECTED_OBJECT)),
    Field(
        "ServiceAccountToken",
        "serviceAccountToken",
        Pointer(&[
            Field("Audience", "audience", Text),
            Field("ExpirationSeconds", "expirationSeconds", Number),
            Field("Path", "path", Text),
        ]),
    ),
    Field("ClusterTrustBundle", "clusterTrustBundle", Plain),
    Field("PodCertificate", "podCertificate", Plain),
];

const VOLUME: &[Field] = &[
    Field("Name", "name", Text),
    Field(
        "HostPath",
        "hostPath",
        Pointer(&[Field("Path", "path", Text), Field("Type", "type", Plain)]),
    ),
    Field(
        "EmptyDir",
        "emptyDir",
        Pointer(&[Field("Medium", "medium", Text), Field("SizeLimit", "sizeLimit", Plain)]),
    ),
    Field("GCEPersistentDisk", "gcePersistentDisk", Plain),
    Field("AWSElasticBlockStore", "awsElasticBlockStore", Plain),
    Field(
        "GitRepo",
        "gitRepo",
        Pointer(&[
            Field("Repository", "repository", Text),
            Field("Revision", "revision", Text),
            Field("Directory", "directory", Text),
        ]),
    ),
    Field(
        "Secret",
        "secret",
        Pointer(&[
            Field("SecretName", "secretName", Text),
            Field("Items", "items", ITEMS),
            Field("DefaultMode", "defaultMode", Plain),
            Field("Optional", "optional", Plain),
        ]),
    ),
    super::NFS,
    Field("ISCSI", "iscsi", Plain),
    Field("Glusterfs", "glusterfs", Plain),
    Field(
        "PersistentVolumeClaim",
        "persistentVolumeClaim",
        Pointer(&[Field("ClaimName", "claimName", Text), Field("ReadOnly", "readOnly", Truth)]),
    ),
    Field("RBD", "rbd", Plain),
    Field("Quobyte", "quobyte", Plain),
    Field("FlexVolume", "flexVolume", Plain),
    Field("Cinder", "cinder", Plain),
    Field("CephFS", "cephfs", Plain),
    Field("Flocker", "flocker", Plain),
    Field(
        "DownwardAPI",
        "downwardAPI",
        Pointer(&[
            Field("Items", "items", DOWNWARD_ITEMS),
            Field("DefaultMode", "defaultMode", Plain),
        ]),
    ),
    Field("FC", "fc", Plain),
    Field("AzureFile", "azureFile", Plain),
    Field(
        "ConfigMap",
        "configMap",
        Pointer(&[
            Field("Name", "name", Text),
            Field("Items", "items", ITEMS),
            Field("DefaultMode", "defaultMode", Plain),
            Field("Optional", "optional", Plain),
        ]),
    ),
    Field("VsphereVolume", "vsphereVolume", Plain),
    Field("AzureDisk", "azureDisk", Plain),
    Field("PhotonPersistentDisk", "photonPersistentDisk", Plain),
    Field(
        "Projected",
        "projected",
        Pointer(&[
            Field("Sources", "sources", List(PROJECTION)),
            Field("DefaultMode", "defaultMode", Plain),
        ]),
    ),
    Field("PortworxVolume", "portworxVolume", Plain),
    Field("ScaleIO", "scaleIO", Plain),
    Field("StorageOS", "storageos", Plain),
    Field(
        "CSI",
        "csi",
        Pointer(&[
            Field("Driver", "driver", Text),
            Field("ReadOnly", "readOnly", Plain),
            Field("FSType", "fsType", Plain),
            Field("VolumeAttributes", "volumeAttributes", Plain),
            Field("NodePublishSecretRef", "nodePublishSecretRef", Pointer(NAMED)),
        ]),
    ),
    Field("Ephemeral", "ephemeral", Plain),
    Field(
        "Image",
        "image",
        Pointer(&[Field("Reference", "reference", Text), Field("PullPolicy", "pullPolicy", Text)]),
    ),
];
