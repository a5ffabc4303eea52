//! Extenders that answer, lie, fail, or are gone.

use std::sync::Arc;

use apimachinery::{Value, json, value};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use scheduler::extender::Post;

use crate::cluster::{configured, event, node, on_node, pod, refused};

/// What is answered to a request at a URL.
type Answer = dyn Fn(&str, &Value) -> Result<(u16, Value), String> + Send + Sync;

/// Answers calls, and remembers them.
struct Fake {
    answer: Box<Answer>,
    asked: Mutex<Vec<(String, Value)>>,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

#[async_trait]
impl Post for Fake {
    async fn post(&self, url: &str, body: Bytes) -> Result<(u16, Bytes), String> {
        let request = json::parse(&body).unwrap();
        let answer = (self.answer)(url, &request);
        self.asked.lock().push((url.to_owned(), request));
        answer.map(|(code, value)| (code, json::to_vec(&value).into()))
    }
}

fn fake(
    answer: impl Fn(&str, &Value) -> Result<(u16, Value), String> + Send + Sync + 'static,
) -> Arc<Fake> {
    Arc::new(Fake { answer: Box::new(answer), asked: Mutex::default() })
}

fn config(more: &str) -> String {
    format!(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
         extenders: [{{urlPrefix: 'http://ext/', nodeCacheCapable: true, {more}}}]"
    )
}

#[tokio::test(start_paused = true)]
async fn an_extender_leaves_out_nodes_and_prefers_others() {
    let extender = fake(|url, request| {
        Ok((
            200,
            match url {
                // As Go programs without tags write it.
                "http://ext/filter" => {
                    value!({"NodeNames": ["n2", "n3"], "FailedNodes": {"n1": "too hot"}})
                }
                _ => {
                    assert_eq!(request.items_at(&["nodenames"]).len(), 2);
                    value!([{"Host": "n2", "Score": 0}, {"Host": "n3", "Score": 10}, {"Host": "n9", "Score": 99}])
                }
            },
        ))
    });
    let text = config("filterVerb: filter, prioritizeVerb: prioritize, weight: 5");
    let cluster = configured(&text, &[Arc::clone(&extender) as _]).await;
    for name in ["n1", "n2", "n3"] {
        node(&cluster, name, "2").await;
    }
    cluster.create("", "pods", pod("web", "1", 0)).await;
    assert_eq!(on_node(&cluster, "web").await, "n3");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_an_extender_refuses_everywhere_says_so() {
    let extender =
        fake(|_, _| Ok((200, value!({"nodenames": [], "failedNodes": {"n1": "too hot"}}))));
    let cluster = configured(&config("filterVerb: filter"), &[extender]).await;
    node(&cluster, "n1", "2").await;
    cluster.create("", "pods", pod("web", "1", 0)).await;
    let (reason, message) = refused(&cluster, "web").await;
    assert_eq!(reason, "Unschedulable");
    assert!(message.starts_with("0/1 nodes are available: 1 too hot."), "{message}");
}

#[tokio::test(start_paused = true)]
async fn an_extender_that_leaves_no_node_may_say_nothing_of_them() {
    let extender = fake(|_, _| Ok((200, value!({"nodenames": []}))));
    let cluster = configured(&config("filterVerb: filter"), &[extender]).await;
    node(&cluster, "n1", "2").await;
    cluster.create("", "pods", pod("web", "1", 0)).await;
    let (_, message) = refused(&cluster, "web").await;
    assert!(message.starts_with("0/1 nodes are available: no new claims"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn an_extender_that_fails_or_lies_fails_the_pod_unless_it_may_be_ignored() {
    type Answer = fn() -> Result<(u16, Value), String>;
    let cases: [(Answer, &str); 4] = [
        (|| Err("Post \"http://ext/filter\": connection refused".into()), "connection refused"),
        (
            || Ok((500, value!({}))),
            "failed filter with extender at URL http://ext/filter, code 500",
        ),
        (|| Ok((200, value!({"error": "no idea"}))), "no idea"),
        (
            || Ok((200, value!({"nodenames": ["n9"]}))),
            "extender \"http://ext/\" claims a filtered node \"n9\" which is not found in the input node list",
        ),
    ];
    for (answer, expected) in cases {
        let extender = fake(move |_, _| answer());
        let cluster = configured(&config("filterVerb: filter"), &[extender]).await;
        node(&cluster, "n1", "2").await;
        cluster.create("", "pods", pod("web", "1", 0)).await;
        let (reason, message) = refused(&cluster, "web").await;
        assert_eq!(reason, "SchedulerError");
        assert!(message.contains(expected), "{message}");
        assert_eq!(event(&cluster, "web", "FailedScheduling").await, message);
        let extender = fake(move |_, _| answer());
        let text = config("filterVerb: filter, ignorable: true");
        let cluster = configured(&text, &[extender]).await;
        node(&cluster, "n1", "2").await;
        cluster.create("", "pods", pod("web", "1", 0)).await;
        assert_eq!(on_node(&cluster, "web").await, "n1");
    }
}

#[tokio::test(start_paused = true)]
async fn an_extender_sees_only_pods_with_its_resources_and_counts_them_alone() {
    let extender = fake(|_, request| {
        assert_eq!(request.str_at(&["pod", "metadata", "name"]), "greedy");
        Ok((200, value!({"nodenames": ["n1"]})))
    });
    let text = config(
        "filterVerb: filter, managedResources: [{name: example.com/gpu, ignoredByScheduler: true}]",
    );
    let cluster = configured(&text, &[Arc::clone(&extender) as _]).await;
    node(&cluster, "n1", "4").await;
    cluster.create("", "pods", pod("plain", "1", 0)).await;
    on_node(&cluster, "plain").await;
    assert!(extender.asked.lock().is_empty());
    let mut greedy = pod("greedy", "1", 0);
    let resources = value!({"requests": {"cpu": "1", "example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"}});
    greedy.set_at(
        &["spec", "containers"],
        value!([{"name": "c", "image": "i", "resources": resources}]),
    );
    cluster.create("", "pods", greedy).await;
    assert_eq!(on_node(&cluster, "greedy").await, "n1");
}

#[tokio::test(start_paused = true)]
async fn an_extender_chooses_the_pods_that_make_room() {
    let extender = fake(|_, request| {
        let mut victims = request.at(&["nodeNameToMetaVictims"]).cloned().unwrap();
        victims.remove_at(&["n1"]);
        Ok((200, value!({"nodeNameToMetaVictims": victims})))
    });
    let cluster = configured(&config("preemptVerb: preempt"), &[extender]).await;
    for name in ["n1", "n2"] {
        node(&cluster, name, "2").await;
        let mut small = pod(&format!("on-{name}"), "2", 0);
        small.set_at(&["spec", "terminationGracePeriodSeconds"], 0);
        small.set_at(&["spec", "nodeSelector"], value!({"kubernetes.io/hostname": name}));
        let labels = value!({"metadata": {"labels": {"kubernetes.io/hostname": name}}});
        crate::cluster::patch(&cluster, "nodes", name, "", labels).await;
        cluster.create("", "pods", small).await;
        on_node(&cluster, &format!("on-{name}")).await;
    }
    cluster.create("", "pods", pod("important", "1", 100)).await;
    assert_eq!(on_node(&cluster, "important").await, "n2");
}

#[tokio::test(start_paused = true)]
async fn what_an_extender_says_of_victims_is_told_where_it_comes_to_nothing() {
    let none_left = || Ok((200, value!({"nodeNameToMetaVictims": {}})));
    let no_victims = || Ok((200, value!({"nodeNameToMetaVictims": {"n1": {"pods": []}}})));
    type Answer = fn() -> Result<(u16, Value), String>;
    let nobody = "no new claims to deallocate, preemption: no candidate node for preemption";
    let cases: [(Answer, &str, &str); 3] = [
        (none_left, "", nobody),
        (no_victims, "", "preemption: expected at least one victim pod on node \"n1\""),
        (no_victims, ", ignorable: true", nobody),
    ];
    for (answer, more, expected) in cases {
        let extender = fake(move |_, _| answer());
        let text = config(&format!("preemptVerb: preempt{more}"));
        let cluster = configured(&text, &[extender]).await;
        node(&cluster, "n1", "2").await;
        cluster.create("", "pods", pod("small", "2", 0)).await;
        on_node(&cluster, "small").await;
        cluster.create("", "pods", pod("important", "1", 100)).await;
        let (_, message) = refused(&cluster, "important").await;
        let filters = "0/1 nodes are available: 1 Insufficient cpu.";
        assert_eq!(message, format!("{filters} {expected}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_only_an_extender_refuses_has_nobody_in_its_way() {
    let extender = fake(|_, request| match request.str_at(&["pod", "metadata", "name"]) {
        "small" => Ok((200, value!({"nodenames": ["n1"]}))),
        _ => Ok((200, value!({"nodenames": [], "failedNodes": {"n1": "too hot"}}))),
    });
    let cluster = configured(&config("filterVerb: filter"), &[extender]).await;
    node(&cluster, "n1", "2").await;
    cluster.create("", "pods", pod("small", "1", 0)).await;
    on_node(&cluster, "small").await;
    cluster.create("", "pods", pod("important", "1", 100)).await;
    let (_, message) = refused(&cluster, "important").await;
    let why = "preemption: expected at least one victim pod on node \"n1\"";
    assert_eq!(message, format!("0/1 nodes are available: 1 too hot. {why}"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_an_extender_fails_to_bind_is_bound_without_it_if_it_may_be_ignored() {
    for (more, bound) in [("", false), (", ignorable: true", true)] {
        let extender = fake(|_, _| Ok((200, value!({"error": "not today"}))));
        let text = config(&format!("bindVerb: bind{more}"));
        let cluster = configured(&text, &[extender]).await;
        node(&cluster, "n1", "2").await;
        cluster.create("", "pods", pod("web", "1", 0)).await;
        if bound {
            assert_eq!(on_node(&cluster, "web").await, "n1");
        } else {
            let told = ("SchedulerError".into(), "not today".into());
            assert_eq!(refused(&cluster, "web").await, told);
        }
    }
}
