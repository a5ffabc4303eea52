//! Services without ready endpoints.

use crate::cluster::{cluster, explain, findings, has, node, pod, running};

fn service(spec: &str) -> String {
    format!("kind: Service\nmetadata: {{name: s}}\nspec: {{{spec}}}\n---\n")
}

fn check(text: &str, state: &str, wanted: &[&str]) {
    let explanation = explain(&cluster(text), "Service", "s");
    assert_eq!(explanation.str_at(&["state"]), state, "{explanation:?}");
    let all = [explanation.str_at(&["summary"]).to_owned(), findings(&explanation).join("\n")];
    has(&all.join("\n"), wanted);
}

#[test]
fn a_selector_that_selects_none_is_told_with_the_nearest_pods() {
    let web = running("web-1", "1", "a", "web");
    check(
        &[service("selector: {app: wbe}"), web.clone()].concat(),
        "Waiting",
        &["selects app=wbe, which no pod has; nearest: pod web-1 has app=web, not app=wbe"],
    );
    check(
        &[service("selector: {app: web, tier: front}"), web.clone()].concat(),
        "Waiting",
        &["pod web-1 has no label tier, not tier=front"],
    );
    let elsewhere = web.replace("{name: web-1,", "{name: web-1, namespace: other,");
    check(
        &[service("selector: {app: web}"), elsewhere].concat(),
        "Waiting",
        &["pods in namespace other have those labels"],
    );
}

#[test]
fn without_a_selector_somebody_else_keeps_its_endpoints() {
    check(&service("ports: [{port: 80}]"), "Waiting", &["has no selector, and nobody has made"]);
    let slice = "kind: EndpointSlice\nmetadata: {name: x, labels: {kubernetes.io/service-name: s}}\n\
                 endpoints: [{addresses: [192.0.2.1]}]\n";
    check(
        &[service("ports: [{port: 80}]"), slice.to_owned()].concat(),
        "Settled",
        &["have 1 endpoint"],
    );
    check(
        &service("type: ExternalName, externalName: x.org"),
        "Settled",
        &["another name of x.org"],
    );
}

#[test]
fn pods_that_are_not_ready_say_why() {
    let text = [node("a", "2", "4Gi"), pod("web", "9", ""), service("selector: {app: web}")];
    check(
        &text.concat(),
        "NotReady",
        &["selects 1 pod, and none is ready: pod web fits nowhere", "PodUnschedulable pods/web"],
    );
}

#[test]
fn ports_that_lead_nowhere_are_told() {
    let web = running("web-1", "1", "a", "web")
        .replace("image: x", "image: x\n    ports: [{name: http, containerPort: 8080}]");
    for (port, state, wanted) in [
        ("{port: 80, targetPort: http}", "Settled", "has 1 of 1 pod ready"),
        ("{port: 80, targetPort: 8080}", "Settled", "has 1 of 1 pod ready"),
        (
            "{port: 80, targetPort: web}",
            "NotReady",
            "port 80 goes to the port named web, which 1 of 1 pod have not: web-1",
        ),
        (
            "{port: 80, targetPort: 80}",
            "NotReady",
            "port 80 goes to 80, and pod web-1 declares TCP ports 8080 only",
        ),
        (
            "{port: 80, protocol: UDP, targetPort: http}",
            "NotReady",
            "port named http, which 1 of 1",
        ),
    ] {
        let service = service(&format!("selector: {{app: web}}, ports: [{port}]"));
        check(&[service, web.clone()].concat(), state, &[wanted]);
    }
}
