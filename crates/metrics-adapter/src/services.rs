//! Where a service of the cluster is reached: this process is no pod, and no name server answers it.

use std::net::SocketAddr;

use apimachinery::Value;
use client::Client;

/// A name such as `prometheus.monitoring.svc` or `prometheus.monitoring.svc.cluster.local`: namespace and service.
pub(crate) fn service_of(host: &str) -> Option<(&str, &str)> {
    let mut parts = host.trim_end_matches('.').split('.');
    let (name, namespace, svc) = (parts.next()?, parts.next()?, parts.next()?);
    (svc == "svc" && !name.is_empty() && !namespace.is_empty()).then_some((namespace, name))
}

/// One of the endpoints behind a port of a service.
///
/// # Errors
/// When there is none.
pub(crate) async fn endpoint(
    client: &Client,
    (namespace, name): (&str, &str),
    port: u16,
) -> Result<SocketAddr, String> {
    let place = format!("service {namespace}/{name}");
    let failed = |error: client::ClientError| format!("could not look up {place}: {error}");
    let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
    let service = client.read(&path).await.map_err(failed)?;
    let ports = service.items_at(&["spec", "ports"]).iter();
    let mut wanted = ports.filter(|it| it.i64_at(&["port"]) == Some(i64::from(port)));
    let port_name = wanted.next().ok_or_else(|| format!("{place} has no port {port}"))?;
    let port_name = port_name.str_at(&["name"]);
    let path = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{name}"
    );
    let slices = client.read(&path).await.map_err(failed)?;
    let slices = slices.items_at(&["items"]).iter();
    let mut found = slices.filter_map(|it| first(it, port_name));
    found.next().ok_or_else(|| format!("{place} has no endpoint that is ready"))
}

fn first(slice: &Value, port_name: &str) -> Option<SocketAddr> {
    let mut ports = slice.items_at(&["ports"]).iter();
    let port = ports.find(|it| it.str_at(&["name"]) == port_name)?.i64_at(&["port"])?;
    let mut endpoints = slice.items_at(&["endpoints"]).iter();
    let is_ready =
        |it: &&Value| it.at(&["conditions", "ready"]).and_then(Value::as_bool) != Some(false);
    let address = endpoints.find(is_ready)?.items_at(&["addresses"]).first()?.as_str()?;
    Some(SocketAddr::new(address.parse().ok()?, u16::try_from(port).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_services_are_told_from_others() {
        for (host, expected) in [
            ("prometheus.monitoring.svc", Some(("monitoring", "prometheus"))),
            ("prometheus.monitoring.svc.cluster.local.", Some(("monitoring", "prometheus"))),
            ("prometheus.monitoring", None),
            ("prometheus.example.com", None),
            ("localhost", None),
            ("10.0.0.1", None),
        ] {
            assert_eq!(service_of(host), expected, "{host}");
        }
    }
}
