//! The node authorizer: a node may read what the pods bound to it need, and change what is its own.
//!
//! What is not subdivided by node is allowed by the rules of upstream's role `system:node`, which nobody is bound to.

mod graph;

use std::sync::Arc;

use apimachinery::{Status, Value, fields};

use crate::metrics::Metrics;
use crate::rbac::Rule;
use crate::{Attributes, Authorizer, Decision, Objects, Rules, UserInfo};
use graph::{Graph, Wanted};

/// Where the leases of nodes lie.
const LEASES: &str = "kube-node-lease";
/// The group of what asks for certificates, and of whom to trust.
const CERTIFICATES: &str = "certificates.k8s.io";

/// Authorizes nodes.
#[derive(Debug)]
pub struct NodeAuthorizer {
    graph: Graph,
    rules: Vec<Rule>,
}

/// Why not; empty where nothing is to be said.
type Answer = Result<(), String>;

fn only_if(condition: bool, why: &str) -> Answer {
    if condition { Ok(()) } else { Err(why.into()) }
}

impl NodeAuthorizer {
    /// The authorizer of these objects; `rules` hold for every node.
    #[must_use]
    pub fn new(objects: Arc<dyn Objects>, rules: Vec<Rule>, metrics: Metrics) -> Self {
        Self { graph: Graph::new(objects, metrics), rules }
    }

    fn check(&self, node: &str, asked: &Attributes<'_>) -> Answer {
        match (asked.group, asked.resource) {
            ("", "secrets") => self.read(node, "secrets", asked),
            ("", "configmaps") => self.read(node, "configmaps", asked),
            ("", "persistentvolumeclaims") if asked.subresource == "status" => {
                only_if(
                    matches!(asked.verb, "update" | "patch"),
                    "can only get/update/patch this type",
                )?;
                self.related(node, "persistentvolumeclaims", asked)
            }
            ("", resource @ ("persistentvolumeclaims" | "persistentvolumes"))
            | ("resource.k8s.io", resource @ "resourceclaims")
            | ("storage.k8s.io", resource @ "volumeattachments") => self.get(node, resource, asked),
            ("", "serviceaccounts") => self.service_account(node, asked),
            ("", "nodes") => Self::node(node, asked),
            ("", "pods") => self.pod(node, asked),
            ("coordination.k8s.io", "leases") => Self::lease(node, asked),
            ("storage.k8s.io", "csinodes") => Self::csi_node(node, asked),
            ("resource.k8s.io", "resourceslices") => self.resource_slice(node, asked),
            (CERTIFICATES, "podcertificaterequests") => self.certificate_request(node, asked),
            // The role `system:node` has this rule where the resource is served; the one that the rules are of is older.
            (CERTIFICATES, "clustertrustbundles") => only_if(
                asked.subresource.is_empty() && matches!(asked.verb, "get" | "list" | "watch"),
                "",
            ),
            _ => only_if(self.rules.iter().any(|rule| rule.allows(asked)), ""),
        }
    }

    fn related(&self, node: &str, resource: &str, asked: &Attributes<'_>) -> Answer {
        only_if(!asked.name.is_empty(), "No Object name found")?;
        let wanted = Wanted { resource, namespace: asked.namespace, name: asked.name };
        if self.graph.reaches(node, wanted) {
            return Ok(());
        }
        Err(format!("no relationship found between node '{node}' and this object"))
    }

    fn read(&self, node: &str, resource: &str, asked: &Attributes<'_>) -> Answer {
        only_if(
            matches!(asked.verb, "get" | "list" | "watch"),
            "can only read resources of this type",
        )?;
        only_if(asked.subresource.is_empty(), "cannot read subresource")?;
        only_if(!asked.namespace.is_empty(), "can only read namespaced object of this type")?;
        self.related(node, resource, asked)
    }

    fn get(&self, node: &str, resource: &str, asked: &Attributes<'_>) -> Answer {
        only_if(asked.verb == "get", "can only get individual resources of this type")?;
        only_if(asked.subresource.is_empty(), "cannot get subresource")?;
        self.related(node, resource, asked)
    }

    fn service_account(&self, node: &str, asked: &Attributes<'_>) -> Answer {
        if asked.verb == "get" && asked.subresource.is_empty() {
            return self.read(node, "serviceaccounts", asked);
        }
        only_if(
            asked.verb == "create" && !asked.name.is_empty(),
            "can only create tokens for individual service accounts",
        )?;
        only_if(
            asked.subresource == "token",
            "can only create token subresource of serviceaccount",
        )?;
        self.related(node, "serviceaccounts", asked)
    }

    fn node(node: &str, asked: &Attributes<'_>) -> Answer {
        match (asked.subresource, asked.verb) {
            // Which node is written is for the admission plugin NodeRestriction.
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
            ("", "get" | "list" | "watch") => match asked.name {
                name if name == node => Ok(()),
                "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
                name => {
                    Err(format!("node '{node}' cannot read '{name}', only its own Node object"))
                }
            },
            _ => Err(String::new()),
        }
    }

    fn pod(&self, node: &str, asked: &Attributes<'_>) -> Answer {
        match (asked.subresource, asked.verb) {
            ("", "get") => self.get(node, "pods", asked),
            ("", "list" | "watch") if selects_node(asked.field_selector, node) => Ok(()),
            ("", "list" | "watch") if !asked.name.is_empty() => self.related(node, "pods", asked),
            ("", "list" | "watch") => {
                Err("can only list/watch pods with spec.nodeName field selector".into())
            }
            // Which pod is written is for the admission plugin NodeRestriction.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                Ok(())
            }
            _ => Err(String::new()),
        }
    }

    fn lease(node: &str, asked: &Attributes<'_>) -> Answer {
        only_if(
            matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete"),
            "can only get, create, update, patch, or delete a node lease",
        )?;
        if asked.namespace != LEASES {
            return Err(format!("can only access leases in the {LEASES:?} system namespace"));
        }
        only_if(
            asked.verb == "create" || asked.name == node,
            "can only access node lease with the same name as the requesting node",
        )
    }

    fn csi_node(node: &str, asked: &Attributes<'_>) -> Answer {
        only_if(
            matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete"),
            "can only get, create, update, patch, or delete a CSINode",
        )?;
        only_if(asked.subresource.is_empty(), "cannot authorize CSINode subresources")?;
        only_if(
            asked.verb == "create" || asked.name == node,
            "can only access CSINode with the same name as the requesting node",
        )
    }

    fn resource_slice(&self, node: &str, asked: &Attributes<'_>) -> Answer {
        only_if(asked.subresource.is_empty(), "cannot authorize ResourceSlice subresources")?;
        match asked.verb {
            // Of which node it is, is for the admission plugin NodeRestriction; also of each that is deleted with others.
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(node, "resourceslices", asked),
            "list" | "watch" | "deletecollection" => only_if(
                selects_node(asked.field_selector, node),
                "can only list/watch/deletecollection resourceslices with nodeName field selector",
            ),
            _ => Err("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection".into()),
        }
    }

    fn certificate_request(&self, node: &str, asked: &Attributes<'_>) -> Answer {
        only_if(
            asked.subresource.is_empty(),
            "nodes may not access the status subresource of PodCertificateRequests",
        )?;
        match asked.verb {
            // For which pod it is, is for the admission plugin NodeRestriction.
            "create" => Ok(()),
            "get" => self.related(node, "podcertificaterequests", asked),
            "list" | "watch" => only_if(
                selects_node(asked.field_selector, node),
                "can only list/watch podcertificaterequests with nodeName field selector",
            ),
            verb => Err(format!("nodes may not {verb} podcertificaterequests")),
        }
    }
}

/// Whether a field selector takes objects of this node only.
fn selects_node(selector: &str, node: &str) -> bool {
    let selector = fields::Selector::parse(selector).unwrap_or_default();
    selector.terms().iter().any(|it| !it.not && it.field == "spec.nodeName" && it.value == node)
}

impl Authorizer for NodeAuthorizer {
    fn decide(&self, attributes: &Attributes<'_>) -> Option<Decision> {
        let Some(node) = attributes.user.as_node() else {
            return Some(Decision::NoOpinion(String::new()));
        };
        if node.is_empty() {
            let name = &attributes.user.name;
            return Some(Decision::NoOpinion(format!("unknown node for user {name:?}")));
        }
        let answer = if attributes.is_resource() {
            self.check(node, attributes)
        } else {
            only_if(self.rules.iter().any(|rule| rule.allows(attributes)), "")
        };
        Some(match answer {
            Ok(()) => Decision::Allow(String::new()),
            Err(reason) => Decision::NoOpinion(reason),
        })
    }

    fn rules_for(&self, user: &UserInfo, _namespace: &str) -> Result<Rules, Status> {
        let incomplete = user.as_node().is_some();
        let evaluation_error = if incomplete {
            "node authorizer does not support user rule resolution".to_owned()
        } else {
            String::new()
        };
        Ok(Rules { incomplete, evaluation_error, ..Rules::default() })
    }
}

/// The rules of the role `system:node` among these objects, or none.
#[must_use]
pub fn rules_of<'v>(mut objects: impl Iterator<Item = &'v Value>) -> Vec<Rule> {
    let is_it = |it: &&Value| {
        it.str_at(&["kind"]) == "ClusterRole" && it.str_at(&["metadata", "name"]) == "system:node"
    };
    objects.find(is_it).map(Rule::all_of).unwrap_or_default()
}

#[cfg(test)]
mod tests;
