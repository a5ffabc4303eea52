//! Services and EndpointSlices from text.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

#[derive(Default)]
pub(crate) struct Objects {
    pub(crate) services: Vec<Service>,
    pub(crate) slices: Vec<EndpointSlice>,
}

/// Documents separated by `---`: those with a `spec` are Services, those with an `addressType` are slices.
pub(crate) fn objects(yaml: &str) -> Objects {
    let mut objects = Objects::default();
    for document in yaml.split("---\n").filter(|document| !document.trim().is_empty()) {
        if document.contains("addressType:") {
            objects.slices.push(serde_saphyr::from_str(document).unwrap());
        } else {
            objects.services.push(serde_saphyr::from_str(document).unwrap());
        }
    }
    objects
}

/// A Service `name` of `spec`, in flow style.
pub(crate) fn service(name: &str, spec: &str) -> String {
    format!("metadata: {{name: {name}, namespace: ns}}\nspec: {spec}\n---\n")
}

/// Its slice, of port `ports` and `endpoints`, in flow style.
pub(crate) fn slice(service: &str, ports: &str, endpoints: &str) -> String {
    let family = if endpoints.contains("::") { "IPv6" } else { "IPv4" };
    format!(
        "metadata: {{name: {service}-{family}, namespace: ns, \
         labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: {family}\nports: {ports}\nendpoints: {endpoints}\n---\n"
    )
}

/// Endpoints: an address each; after it `@` and a node, `!` not ready, `~` ending but serving.
pub(crate) fn endpoints(list: &str) -> String {
    let one = |text: &str| {
        let (address, node) = text.split_once('@').unwrap_or((text, "other"));
        let name = node.trim_end_matches(['!', '~']);
        let ready = !node.ends_with(['!', '~']);
        let ending = node.ends_with('~');
        format!(
            "{{addresses: [\"{address}\"], nodeName: {name}, \
             conditions: {{ready: {ready}, serving: {}, terminating: {ending}}}}}",
            ready || ending
        )
    };
    format!("[{}]", list.split_whitespace().map(one).collect::<Vec<_>>().join(", "))
}
