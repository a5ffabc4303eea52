//! Where services are reached, by the server's caches. Upstream: the aggregator's resolver of service endpoints.

use std::sync::Arc;

use apimachinery::Value;
use component_base::metrics::RestClient;
use webhook::Resolver;

use crate::Objects;

/// Finds ready endpoints of services.
#[derive(Debug)]
pub struct Services {
    objects: Arc<dyn Objects>,
    calls: Option<RestClient>,
}

impl Services {
    /// By these caches.
    #[must_use]
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects, calls: None }
    }

    /// The same; calls of what is found are counted there.
    #[must_use]
    pub fn counted(self, calls: RestClient) -> Self {
        Self { calls: Some(calls), ..self }
    }

    /// `address:port` of every endpoint behind a service's port that is ready; at least one.
    ///
    /// # Errors
    /// Why there is none, in upstream's words.
    pub fn endpoints(&self, namespace: &str, name: &str, port: u16) -> Result<Vec<String>, String> {
        let service = self.objects.get("", "services", namespace, name);
        let service = service.and_then(|it| it.value().ok());
        let service = service.ok_or_else(|| format!("service {name:?} not found"))?;
        if service.str_at(&["spec", "type"]) == "ExternalName" {
            return Ok(vec![format!("{}:{port}", service.str_at(&["spec", "externalName"]))]);
        }
        let wanted = i64::from(port);
        let ports = service.items_at(&["spec", "ports"]);
        let found = ports.iter().find(|it| it.i64_at(&["port"]) == Some(wanted));
        let found =
            found.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
        let ready = self.ready(namespace, name, found.str_at(&["name"]));
        if ready.is_empty() {
            return Err(format!("no endpoints available for service {name:?}"));
        }
        Ok(ready)
    }

    fn ready(&self, namespace: &str, name: &str, port_name: &str) -> Vec<String> {
        let slices = self.objects.list("discovery.k8s.io", "endpointslices", namespace);
        let of_service = slices
            .iter()
            .filter(|it| it.facts.label("kubernetes.io/service-name") == Some(name))
            .filter_map(|it| it.value().ok());
        let mut found = Vec::new();
        for slice in of_service {
            let ports = slice.items_at(&["ports"]);
            let port = ports.iter().find(|it| it.str_at(&["name"]) == port_name);
            let Some(port) = port.and_then(|it| it.i64_at(&["port"])) else { continue };
            let ready = |it: &&Value| {
                it.at(&["conditions", "ready"]).and_then(Value::as_bool).unwrap_or(true)
            };
            let endpoints = slice.items_at(&["endpoints"]).iter().filter(ready);
            let addresses =
                endpoints.filter_map(|it| it.items_at(&["addresses"]).first()?.as_str());
            found.extend(addresses.map(|address| {
                if address.contains(':') {
                    format!("[{address}]:{port}")
                } else {
                    format!("{address}:{port}")
                }
            }));
        }
        found
    }
}

impl Resolver for Services {
    /// The first endpoint. A webhook's connections are few and live long, so there is nothing to balance.
    fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<String, String> {
        Ok(self.endpoints(namespace, name, port)?.swap_remove(0))
    }

    fn calls(&self) -> Option<&RestClient> {
        self.calls.as_ref()
    }
}
