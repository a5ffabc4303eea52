//! `.../NAME/why`, `kubelith why` and `kubelith what-if` against a real server with fake nodes.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use apimachinery::{Value, json};

use super::{Server, kubelith};

/// How long a state may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    server: Server,
    kubeconfig: PathBuf,
}

impl Cluster {
    fn start() -> Self {
        let server = Server::start_with("fake-nodes: 3\n");
        let kubeconfig = server.data().join("kubeconfig");
        Self { server, kubeconfig }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let kubeconfig = self.kubeconfig.to_str().unwrap();
        kubelith(arguments).args(["--kubeconfig", kubeconfig]).output().unwrap()
    }

    /// What a command says in JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["-o", "json"]].concat());
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {complaint}");
        json::parse(&output.stdout).unwrap()
    }

    /// A manifest in a file.
    fn manifest(&self, text: &str) -> PathBuf {
        let path = self.server.directory.path().join("manifest.yaml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A request as the administrator, which kubectl would send as `get --raw` or `create --raw`.
    fn raw(&self, method: http::Method, path: &str, body: &str) -> (u16, Value) {
        crate::raw::ask(&self.kubeconfig, method, path, body)
    }

    fn create(&self, path: &str, body: &str) {
        let (code, answer) = self.raw(http::Method::POST, path, body);
        assert_eq!(code, 201, "{answer:?}");
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.raw(http::Method::GET, path, "")
    }

    /// Waits for a state of what lies at a path.
    fn eventually(&self, path: &str, mut is: impl FnMut(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let (_, value) = self.get(path);
            if is(&value) {
                return value;
            }
            assert!(begun.elapsed() < PATIENCE, "{path} stays {value:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str, cpu: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"containers":
        [{{"name":"main","image":"x","resources":{{"requests":{{"cpu":"{cpu}"}}}}}}]}}}}"#
    )
}

#[test]
fn a_pending_pod_a_stuck_object_and_a_drain_are_explained() {
    let cluster = Cluster::start();
    cluster.eventually("/api/v1/nodes", |it| it.items_at(&["items"]).len() == 3);
    cluster.eventually("/api/v1/namespaces/default/serviceaccounts/default", |it| {
        it.str_at(&["kind"]) == "ServiceAccount"
    });
    pending(&cluster);
    without_the_right_to_ask(&cluster);
    stuck(&cluster);
    drained(&cluster);
}

fn pending(cluster: &Cluster) {
    cluster.create(PODS, &pod("big", "1000"));
    cluster.create(PODS, &pod("small", "1"));
    cluster.eventually(&format!("{PODS}/big"), |it| {
        it.items_at(&["status", "conditions"])
            .iter()
            .any(|it| it.str_at(&["reason"]) == "Unschedulable")
    });
    let (code, why) = cluster.get(&format!("{PODS}/big/why"));
    assert_eq!((code, why.str_at(&["state"])), (200, "Unschedulable"), "{why:?}");
    assert_eq!(why.items_at(&["scheduling", "nodes"]).len(), 3);
    let first = &why.items_at(&["scheduling", "suggestions"])[0];
    assert_eq!(first.str_at(&["summary"]), "lower the cpu request of container main from 1k to 32");
    // The change, carried out on a new pod, is believed by the scheduler.
    cluster.create(PODS, &pod("lowered", "32"));
    cluster
        .eventually(&format!("{PODS}/lowered"), |it| !it.str_at(&["spec", "nodeName"]).is_empty());
    assert_eq!(cluster.get(&format!("{PODS}/nobody/why")).0, 404);
    assert_eq!(cluster.raw(http::Method::POST, &format!("{PODS}/big/why"), "{}").0, 405);
    // The same question again, now that nothing moves.
    cluster.eventually(&format!("{PODS}/small"), |it| !it.str_at(&["spec", "nodeName"]).is_empty());
    let (_, why) = cluster.get(&format!("{PODS}/big/why"));
    let told = cluster.json(&["why", "po", "big"]);
    assert_eq!(told.str_at(&["summary"]), why.str_at(&["summary"]));
    let text = String::from_utf8(cluster.run(&["why", "pod", "big"]).stdout).unwrap();
    assert!(text.contains("WHAT WOULD HELP") && !text.contains('\u{1b}'), "{text}");
}

/// Who may list and not ask, as of a server that is not Kubelith's, is told the same.
fn without_the_right_to_ask(cluster: &Cluster) {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"lists"},"rules":[{"apiGroups":["","apps"],"verbs":["get","list"],
        "resources":["pods","nodes","namespaces","services","replicasets","deployments"]}]}"#;
    cluster.create(&format!("{rbac}/clusterroles"), role);
    let binding = r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"lists"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io",
        "kind":"ClusterRole","name":"lists"},"subjects":[{"kind":"ServiceAccount","namespace":"default","name":"default"}]}"#;
    cluster.create(&format!("{rbac}/clusterrolebindings"), binding);
    let accounts = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (_, token) = cluster.raw(
        http::Method::POST,
        accounts,
        r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}"#,
    );
    let token = token.str_at(&["status", "token"]);
    let admin = std::fs::read_to_string(&cluster.kubeconfig).unwrap();
    let (head, rest) = admin.split_once("  user:\n    client-certificate-data").unwrap();
    let contexts = rest.split_once("contexts:").unwrap().1;
    let text = format!("{head}  user:\n    token: {token}\ncontexts:{contexts}");
    let path = cluster.server.directory.path().join("lister");
    std::fs::write(&path, text).unwrap();
    let why = ["why", "pod/big", "--kubeconfig", path.to_str().unwrap(), "-o", "json"];
    let output = kubelith(&why).output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{complaint}");
    assert!(complaint.starts_with("warning: not allowed to list "), "{complaint}");
    let told = json::parse(&output.stdout).unwrap();
    let asked = cluster.json(&["why", "pod", "big"]);
    for part in ["suggestions", "groups"] {
        assert_eq!(told.at(&["scheduling", part]), asked.at(&["scheduling", part]));
    }
}

fn stuck(cluster: &Cluster) {
    let definition = r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",
        "metadata":{"name":"widgets.example.com"},"spec":{"group":"example.com","scope":"Namespaced",
        "names":{"plural":"widgets","singular":"widget","kind":"Widget"},"versions":[{"name":"v1","served":true,
        "storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}"#;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.create(definitions, definition);
    let widgets = "/apis/example.com/v1/namespaces/shop/widgets";
    cluster.create(
        "/api/v1/namespaces",
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}"#,
    );
    cluster.eventually(widgets, |it| it.str_at(&["kind"]) == "WidgetList");
    cluster.create(
        widgets,
        r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w","finalizers":["example.com/slow"]}}"#,
    );
    let (code, _) = cluster.raw(http::Method::DELETE, "/api/v1/namespaces/shop", "");
    assert_eq!(code, 200);
    let going = |it: &Value| !it.str_at(&["metadata", "deletionTimestamp"]).is_empty();
    cluster.eventually(&format!("{widgets}/w"), going);
    let (_, why) = cluster.get(&format!("{widgets}/w/why"));
    let message = why.items_at(&["findings"])[0].str_at(&["message"]).to_owned();
    assert!(
        message.starts_with("finalizer example.com/slow: nothing built in removes it"),
        "{why:?}"
    );
    let (_, why) = cluster.get("/api/v1/namespaces/shop/why");
    let left =
        why.items_at(&["findings"]).iter().find(|it| it.str_at(&["reason"]) == "ObjectsLeft");
    let left = left.unwrap_or_else(|| panic!("{why:?}")).str_at(&["message"]);
    assert_eq!(left, "1 widgets.example.com left, 1 with finalizers: w");
    let told = cluster.json(&["why", "widgets", "w", "-n", "shop"]);
    assert_eq!(told.str_at(&["state"]), "Terminating");
}

fn drained(cluster: &Cluster) {
    let small = cluster
        .eventually(&format!("{PODS}/small"), |it| !it.str_at(&["spec", "nodeName"]).is_empty());
    let node = small.str_at(&["spec", "nodeName"]);
    let report = cluster.json(&["what-if", "drain", node]);
    let lost: Vec<&str> =
        report.items_at(&["lost"]).iter().map(|it| it.str_at(&["name"])).collect();
    assert!(lost.contains(&"small"), "{report:?}");
    let manifest = cluster.manifest(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 4\n  template:\n    \
         spec: {containers: [{name: web, image: x, resources: {requests: {cpu: '31'}}}]}\n",
    );
    let report = cluster.json(&["what-if", "apply", "-f", path(&manifest)]);
    let placed = report.items_at(&["moves"]).len();
    assert!(placed >= 1 && placed + report.items_at(&["waits"]).len() == 4, "{report:?}");
    // Nothing of it has happened.
    let (_, there) = cluster.get("/apis/apps/v1/namespaces/default/deployments");
    assert!(there.items_at(&["items"]).is_empty());
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
