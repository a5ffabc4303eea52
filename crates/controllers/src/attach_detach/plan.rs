//! What is to be done for one volume, on all nodes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use apimachinery::{Value, value};
use client::Resource;
use client::csi_translation::OfDriver;
use client::events::{EventType, ObjectReference};
use compact_str::CompactString;
use controller::{Action, Plan};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::storage::v1::VolumeAttachment;

use super::metrics::Total;
use super::{
    AttachDetach, Csi, MANAGED, OfVolume, OnNode, is_out_of_service, is_ready, says, strays,
};
use crate::owner;

/// How long a volume that is mounted may keep its node from being without it.
const MAX_UNMOUNT: SignedDuration = SignedDuration::from_mins(6);
/// How long an attacher may take before that is told.
const MAX_ATTACH: SignedDuration = SignedDuration::from_mins(2);

/// What is remembered of a volume, node by node.
pub type Memory = BTreeMap<CompactString, OfNode>;

/// What is remembered of a volume on a node.
#[derive(Debug, Default)]
pub struct OfNode {
    /// Since when it is being attached.
    attaching: Option<Timestamp>,
    /// Since when it is to be detached.
    detaching: Option<Timestamp>,
    /// What failed last and was told.
    told: String,
    /// Whether the node said last that it has it mounted.
    mounted: bool,
}

/// One volume.
struct Volume<'a> {
    controller: &'a AttachDetach,
    name: &'a str,
    csi: Option<&'a Csi>,
    now: Timestamp,
}

pub(super) fn plan(
    controller: &AttachDetach,
    observed: &OfVolume,
    memory: &mut Memory,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::nothing();
    memory.retain(|node, _| observed.nodes.contains_key(node));
    let volume = Volume { controller, name: &observed.name, csi: observed.csi.as_ref(), now };
    let (wanted, unwanted): (Vec<_>, Vec<_>) =
        observed.nodes.iter().partition(|(_, on)| is_wanted(volume.csi, on));
    for (name, on) in unwanted {
        volume.detach(&mut plan, name, on, memory.entry(name.clone()).or_default());
    }
    let mut ordered = false;
    for (name, on) in wanted {
        let memory = memory.entry(name.clone()).or_default();
        memory.detaching = None;
        if on.attachments.is_empty() {
            // Of several that want what one alone may have, one gets it; the others are told once its order is seen.
            if !(ordered && volume.csi.is_some_and(|it| it.exclusive)) {
                ordered |= volume.attach(&mut plan, name, observed, memory);
            }
        } else {
            volume.follow(&mut plan, on, memory);
        }
        volume.report(&mut plan, on, is_attached(on));
    }
    plan
}

/// What is counted of a volume; `None` where it is nowhere and is to be nowhere.
pub(super) fn total(observed: &OfVolume) -> Option<Total> {
    let orders = || observed.nodes.values().flat_map(|it| &it.attachments);
    let said = || orders().next().map(|it| it.str_at(&["spec", "attacher"]).to_owned());
    let driver = observed.csi.as_ref().map(|it| it.of.driver.to_string()).or_else(said)?;
    let csi = observed.csi.as_ref();
    let desired = observed.nodes.values().filter(|it| is_wanted(csi, it)).count();
    let actual = observed.nodes.values().filter(|it| !it.attachments.is_empty()).count();
    let whole = |count| i64::try_from(count).unwrap_or(i64::MAX);
    let total = Total { driver, desired: whole(desired), actual: whole(actual) };
    (total.desired + total.actual > 0).then_some(total)
}

/// Whether a node is to have a volume.
fn is_wanted(csi: Option<&Csi>, on: &OnNode) -> bool {
    csi.is_some_and(|it| it.attaches)
        && on.left
        && !on.pods.is_empty()
        && on.node.as_ref().is_some_and(|it| says(it, MANAGED))
}

/// Whether the driver says that it is attached, and it stays so.
fn is_attached(on: &OnNode) -> bool {
    let mut lasting = on.attachments.iter().filter(|it| !is_going(it));
    lasting.any(|it| it.bool_at(&["status", "attached"]))
}

fn is_going(attachment: &Value) -> bool {
    attachment.at(&["metadata", "deletionTimestamp"]).is_some()
}

/// The name of the order to attach a volume to a node, as upstream's makes it.
pub(super) fn attachment_name(driver: &str, handle: &str, node: &str) -> String {
    let text = format!("{handle}{driver}{node}");
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let mut name = String::from("csi-");
    for byte in digest.as_ref() {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

fn tell(plan: &mut Plan, pods: &[std::sync::Arc<Value>], kind: EventType, message: &str) {
    let reason = match kind {
        EventType::Normal => "SuccessfulAttachVolume",
        EventType::Warning => "FailedAttachVolume",
    };
    for pod in pods {
        let metadata = |member| pod.str_at(&["metadata", member]).to_owned();
        let about = ObjectReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: metadata("namespace"),
            name: metadata("name"),
            uid: metadata("uid"),
            resource_version: metadata("resourceVersion"),
            ..ObjectReference::default()
        };
        plan.event(about, kind, reason, message);
    }
}

impl Volume<'_> {
    /// Orders the volume to a node, unless another has it that would have to let go first; whether it did.
    fn attach(
        &self,
        plan: &mut Plan,
        name: &str,
        observed: &OfVolume,
        memory: &mut OfNode,
    ) -> bool {
        let Some((csi, on)) = self.csi.zip(observed.nodes.get(name)) else { return false };
        let others = || observed.nodes.iter().filter(|(node, _)| *node != name);
        if csi.exclusive && others().any(|(_, on)| !on.attachments.is_empty()) {
            let pods = others().flat_map(|(_, on)| &on.pods);
            let pods: Vec<&str> = pods.map(|it| it.str_at(&["metadata", "name"])).collect();
            let why = match pods.as_slice() {
                [] => "Volume is already exclusively attached to one node and can't be attached to another".to_owned(),
                pods => format!("Volume is already used by pod(s) {}", pods.join(", ")),
            };
            let message = format!("Multi-Attach error for volume \"{}\" {why}", self.name);
            // Told once, not as often as pods come and go.
            if memory.told.is_empty() {
                tell(plan, &on.pods, EventType::Warning, &message);
                memory.told = message;
            }
            return false;
        }
        memory.told.clear();
        memory.attaching = Some(self.now);
        plan.requeue_by(self.now.saturating_add(MAX_ATTACH).unwrap_or(self.now));
        let object = value!({
            "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment",
            "metadata": {"name": (attachment_name(&csi.of.driver, &csi.of.handle, name))},
            "spec": {"attacher": (csi.of.driver.as_str()), "nodeName": name,
                "source": {"persistentVolumeName": (self.name)}}
        });
        plan.act(Action::Create {
            resource: Resource::of::<VolumeAttachment>(),
            namespace: String::new(),
            object,
            exists_is_fine: true,
        });
        true
    }

    /// Tells the pods how their volume's order goes.
    fn follow(&self, plan: &mut Plan, on: &OnNode, memory: &mut OfNode) {
        if is_attached(on) {
            memory.told.clear();
            if memory.attaching.take().is_some() {
                let name = self.name;
                let message = format!("AttachVolume.Attach succeeded for volume \"{name}\" ");
                tell(plan, &on.pods, EventType::Normal, &message);
            }
            return;
        }
        let since = *memory.attaching.get_or_insert(self.now);
        let error = on.attachments.iter().map(|it| it.at(&["status", "attachError"]));
        let error = error.flatten().find(|it| !it.is_null());
        let failed =
            |why: &str| format!("AttachVolume.Attach failed for volume \"{}\" : {why}", self.name);
        if let Some(error) = error {
            let said = format!("{}{}", error.str_at(&["time"]), error.str_at(&["message"]));
            if memory.told != said {
                tell(plan, &on.pods, EventType::Warning, &failed(error.str_at(&["message"])));
                memory.told = said;
            }
        }
        let late = since.saturating_add(MAX_ATTACH).unwrap_or(self.now);
        if late > self.now {
            plan.requeue_by(late);
        } else if let Some(csi) = self.csi {
            let OfDriver { driver, handle, .. } = &csi.of;
            let why = format!(
                "timed out waiting for external-attacher of {driver} CSI driver to attach volume {handle}"
            );
            tell(plan, &on.pods, EventType::Warning, &failed(&why));
            memory.attaching = Some(self.now);
            plan.requeue_by(self.now.saturating_add(MAX_ATTACH).unwrap_or(self.now));
        }
    }

    /// Takes the order back, once the node has let go of the volume or is not waited for any longer.
    fn detach(&self, plan: &mut Plan, name: &str, on: &OnNode, memory: &mut OfNode) {
        memory.attaching = None;
        memory.told.clear();
        if let Some(node) = &on.node {
            memory.mounted = is_mounted(node, on.entry.as_deref());
        }
        if !on.attachments.is_empty() && memory.mounted && !self.is_forced(plan, on, memory) {
            return;
        }
        memory.detaching.get_or_insert(self.now);
        if !self.report(plan, on, false) {
            tracing::debug!(node = name, volume = self.name, "there is no node to tell");
        }
        plan.then();
        for attachment in on.attachments.iter().filter(|it| !is_going(it)) {
            plan.act(owner::delete_value(Resource::of::<VolumeAttachment>(), attachment));
        }
    }

    /// Whether a node is not waited for any longer.
    fn is_forced(&self, plan: &mut Plan, on: &OnNode, memory: &mut OfNode) -> bool {
        let going = on.attachments.iter().all(|it| is_going(it));
        let metrics = &self.controller.metrics;
        if on.node.as_ref().is_some_and(|it| is_out_of_service(it)) {
            if !going {
                metrics.forced("out-of-service");
            }
            return true;
        }
        let since = *memory.detaching.get_or_insert(self.now);
        let until = since.saturating_add(MAX_UNMOUNT).unwrap_or(self.now);
        let healthy = on.node.as_ref().is_some_and(|it| is_ready(it));
        if until > self.now {
            plan.requeue_by(until);
            return false;
        }
        let forced = !healthy && !self.controller.options.never_forced;
        if forced && !going {
            metrics.forced("timeout");
        }
        forced
    }

    /// Brings the node's status in line; false where there is no node.
    fn report(&self, plan: &mut Plan, on: &OnNode, attached: bool) -> bool {
        let Some(node) = &on.node else { return false };
        let Some(name) = &on.entry else { return true };
        let before = node.items_at(&["status", "volumesAttached"]);
        let is_this = |it: &Value| it.str_at(&["name"]) == name;
        if before.iter().any(is_this) == attached {
            return true;
        }
        let mut after: Vec<Value> = before.iter().filter(|it| !is_this(it)).cloned().collect();
        if attached {
            after.push(value!({"name": (name.as_str()), "devicePath": ""}));
        }
        plan.act(strays::tell_node(node, after));
        true
    }
}

fn is_mounted(node: &Value, entry: Option<&str>) -> bool {
    let in_use = node.items_at(&["status", "volumesInUse"]);
    in_use.iter().any(|it| it.as_str().is_some() && it.as_str() == entry)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn csi(exclusive: bool) -> Csi {
        let of = OfDriver { driver: "d".into(), handle: "h".into(), plugin: None };
        Csi { of, exclusive, attaches: true }
    }

    fn parse(text: &str) -> Arc<Value> {
        Arc::new(apimachinery::json::parse(text.as_bytes()).unwrap())
    }

    /// A node with what it says: `m` mounted, `r` reported, `n` not ready, `o` out of service; then pods and orders, `a`
    /// attached, `p` pending, `g` going, `e` with an error.
    fn on(node: &str, pods: &[&str], orders: &str) -> OnNode {
        let has = |flag| node.contains(flag);
        let list = |flag, text: &'static str| if has(flag) { text } else { "" };
        let node = format!(
            r#"{{"metadata":{{"name":"n","resourceVersion":"5","annotations":{{"{MANAGED}":"true"}}}},
            "spec":{{"taints":[{}]}},
            "status":{{"volumesInUse":[{}],"volumesAttached":[{}],"conditions":[{{"type":"Ready","status":"{}"}}]}}}}"#,
            list('o', r#"{"key":"node.kubernetes.io/out-of-service"}"#),
            list('m', r#""kubernetes.io/csi/d^h""#),
            list('r', r#"{"name":"kubernetes.io/csi/d^h","devicePath":""}"#),
            if has('n') { "Unknown" } else { "True" },
        );
        let order = |kind| {
            parse(match kind {
                'a' => r#"{"metadata":{"name":"va","uid":"u"},"status":{"attached":true}}"#,
                'p' => r#"{"metadata":{"name":"va","uid":"u"}}"#,
                'e' => {
                    r#"{"metadata":{"name":"va","uid":"u"},"status":{"attached":false,"attachError":{"time":"t","message":"no"}}}"#
                }
                _ => {
                    r#"{"metadata":{"name":"va","uid":"u","deletionTimestamp":"t"},"status":{"attached":true}}"#
                }
            })
        };
        let pod = |name: &&str| parse(&format!(r#"{{"metadata":{{"name":"{name}"}}}}"#));
        OnNode {
            node: Some(parse(&node)),
            left: true,
            pods: pods.iter().map(pod).collect(),
            attachments: orders.chars().map(order).collect(),
            entry: Some("kubernetes.io/csi/d^h".into()),
        }
    }

    fn told(plan: &Plan) -> String {
        let events = plan.events.iter().map(|it| format!("{}: {}", it.reason, it.message));
        let actions = plan.stages.iter().flat_map(|it| &it.actions).map(|it| match &it.action {
            Action::Create { .. } => "create".to_owned(),
            Action::Delete { .. } => "delete".to_owned(),
            Action::Patch { patch, .. } => match patch.items_at(&["status", "volumesAttached"]) {
                [] => "report none".to_owned(),
                _ => "report".to_owned(),
            },
            other => format!("{other:?}"),
        });
        events.chain(actions).collect::<Vec<_>>().join("; ")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// The plans for a volume at these seconds, with what was remembered.
    fn plans(nodes: Vec<(&str, OnNode)>, seconds: &[i64]) -> Vec<String> {
        let nodes = nodes.into_iter().map(|(name, on)| (name.into(), on)).collect();
        let observed = OfVolume { name: "v".into(), csi: Some(csi(true)), nodes };
        let (controller, mut memory) = (AttachDetach::default(), Memory::new());
        let mut plan = |second| told(&plan(&controller, &observed, &mut memory, at(second)));
        seconds.iter().map(|second| plan(*second)).collect()
    }

    #[test]
    fn a_volume_follows_its_pods() {
        for (node, pods, orders, wanted) in [
            ("", vec!["p"], "", "create"),
            ("", vec!["p"], "p", ""),
            ("", vec!["p"], "a", "report"),
            ("r", vec!["p"], "a", ""),
            ("r", vec!["p"], "", "create; report none"),
            ("rm", vec![], "a", ""),
            ("r", vec![], "a", "report none; delete"),
            ("", vec![], "g", ""),
            ("r", vec!["p"], "g", "report none"),
            ("rmo", vec![], "a", "report none; delete"),
            (
                "",
                vec!["p"],
                "e",
                "FailedAttachVolume: AttachVolume.Attach failed for volume \"v\" : no",
            ),
        ] {
            let got = plans(vec![("n", on(node, &pods, orders))], &[100]);
            assert_eq!(got, [wanted], "{node} {pods:?} {orders}");
        }
    }

    #[test]
    fn what_is_mounted_is_taken_from_nodes_that_are_not_ready_after_six_minutes() {
        let seconds = [0, 359, 360];
        let check = |node, wanted: [&str; 3]| {
            assert_eq!(plans(vec![("n", on(node, &[], "a"))], &seconds), wanted, "{node}");
        };
        check("rmn", ["", "", "report none; delete"]);
        check("rm", ["", "", ""]);
    }

    #[test]
    fn a_volume_that_one_node_has_is_not_given_to_another() {
        let check = |holders: &[&str], message: &str| {
            let nodes = vec![("a", on("rm", holders, "a")), ("b", on("", &["new"], ""))];
            let wanted =
                format!("FailedAttachVolume: Multi-Attach error for volume \"v\" {message}");
            assert_eq!(plans(nodes, &[0, 1]), [wanted.as_str(), ""]);
        };
        check(&["old", "older"], "Volume is already used by pod(s) old, older");
        let gone =
            "Volume is already exclusively attached to one node and can't be attached to another";
        check(&[], gone);
    }

    #[test]
    fn a_volume_that_two_nodes_want_at_once_is_ordered_to_one() {
        // Found by the simulation, seed 201.
        let nodes = vec![("a", on("", &["p"], "")), ("b", on("", &["q"], ""))];
        assert_eq!(plans(nodes, &[0]), ["create"]);
        let nodes = vec![("a", on("", &["p"], "p")), ("b", on("", &["q"], ""))];
        let told = "FailedAttachVolume: Multi-Attach error for volume \"v\" Volume is already used by pod(s) p";
        assert_eq!(plans(nodes, &[0]), [told]);
    }

    #[test]
    fn an_attacher_that_says_nothing_is_told_of() {
        let nodes = vec![("n", on("", &["p"], "p"))];
        let late = "FailedAttachVolume: AttachVolume.Attach failed for volume \"v\" : \
                    timed out waiting for external-attacher of d CSI driver to attach volume h";
        assert_eq!(plans(nodes, &[0, 119, 120, 130, 240]), ["", "", late, "", late]);
    }

    #[test]
    fn names_are_upstreams() {
        assert_eq!(
            attachment_name("d", "h", "n"),
            "csi-9072ed11cc1acb5fa433a877ff339b6311d013f33bddd1d0092711a8ace5b16d"
        );
    }
}
