use super::*;
use crate::manifests::PLUGINS;

/// What is read by a plugin from documents, each a file.
fn read(plugin: &str, files: &[&str]) -> Result<Loaded, String> {
    let of = *PLUGINS.iter().find(|it| it.plugin == plugin).unwrap();
    let named = files.iter().enumerate();
    let files = named.map(|(index, text)| (format!("{index}.yaml"), text.as_bytes().to_vec()));
    files_of(of, &files.collect())
}

fn policy(name: &str, more: &str) -> String {
    format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{matchConstraints: {{resourceRules: [{{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}}]}}, \
         validations: [{{expression: 'true'}}]{more}}}\n"
    )
}

fn binding(name: &str, policy: &str, more: &str) -> String {
    format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {{name: {name}}}\n\
         spec: {{policyName: {policy}, validationActions: [Deny]{more}}}\n"
    )
}

fn refused(plugin: &str, files: &[&str], expected: &str) {
    let why = read(plugin, files).expect_err("nonsense");
    assert!(why.ends_with(expected), "{why}");
}

const POLICIES: &str = "ValidatingAdmissionPolicy";
const HOOKS: &str = "ValidatingAdmissionWebhook";

#[test]
fn policies_and_bindings_are_read_with_their_defaults() {
    let both = format!(
        "# About these.\n---\n{}---\n{}",
        policy("b.static.k8s.io", ""),
        binding("x.static.k8s.io", "a.static.k8s.io", "")
    );
    let loaded = read(POLICIES, &[&both, &policy("a.static.k8s.io", "")]).unwrap();
    let names: Vec<&str> =
        loaded.objects.iter().map(|it| it.str_at(&["metadata", "name"])).collect();
    assert_eq!(names, ["a.static.k8s.io", "b.static.k8s.io"]);
    assert_eq!(loaded.objects[0].str_at(&["spec", "failurePolicy"]), "Fail");
    assert_eq!(loaded.bindings.len(), 1);
    assert!(loaded.hash.starts_with("sha256:"));
    assert_eq!(read(POLICIES, &[]).unwrap().hash, "");
    let indented = |text: &str| text.replace('\n', "\n  ");
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}\n- {}\n",
        indented(policy("a.static.k8s.io", "").trim_end()),
        indented(binding("x.static.k8s.io", "a.static.k8s.io", "").trim_end())
    );
    let loaded = read(POLICIES, &[&list]).unwrap();
    assert_eq!((loaded.objects.len(), loaded.bindings.len()), (1, 1));
}

#[test]
fn what_names_something_outside_or_is_wrong_is_refused() {
    let good = policy("a.static.k8s.io", "");
    refused(
        POLICIES,
        &[&policy("a", "")],
        "configuration \"a\" in file \"0.yaml\" must have a name ending with \".static.k8s.io\"",
    );
    refused(POLICIES, &[&good, &good], "in file \"1.yaml\": it is in \"0.yaml\" already");
    let params = ", paramKind: {apiVersion: v1, kind: ConfigMap}";
    refused(
        POLICIES,
        &[&policy("a.static.k8s.io", params)],
        "ValidatingAdmissionPolicy \"a.static.k8s.io\": spec.paramKind is not supported for static manifests",
    );
    let of = |policy, more| binding("x.static.k8s.io", policy, more);
    let to = ", paramRef: {name: p, parameterNotFoundAction: Deny}";
    refused(
        POLICIES,
        &[&good, &of("a.static.k8s.io", to)],
        "binding \"x.static.k8s.io\": spec.paramRef is not supported for static manifests",
    );
    refused(
        POLICIES,
        &[&good, &of("a", "")],
        "spec.policyName \"a\" must end with \".static.k8s.io\"",
    );
    refused(
        POLICIES,
        &[&good, &of("b.static.k8s.io", "")],
        "references policy \"b.static.k8s.io\" which does not exist in the manifest directory",
    );
    refused(
        POLICIES,
        &[&policy("a.static.k8s.io", ", typo: 1")],
        "strict decoding error: unknown field \"spec.typo\"",
    );
    refused(
        POLICIES,
        &[&good.replace("expression: 'true'", "expression: 'tru'")],
        "undeclared reference to 'tru' (in container '')\n | tru\n | ^",
    );
    refused(
        HOOKS,
        &[&good],
        "unsupported resource type admissionregistration.k8s.io/v1, Kind=ValidatingAdmissionPolicy",
    );
}

#[test]
fn webhooks_have_urls() {
    let hook = |config: &str| {
        format!(
            "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\nmetadata: {{name: a.static.k8s.io}}\n\
             webhooks: [{{name: a.example.com, clientConfig: {config}, sideEffects: None, admissionReviewVersions: [v1], \
             rules: [{{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}}]}}]\n"
        )
    };
    assert!(read(HOOKS, &[&hook("{url: 'https://example.com/'}")]).is_ok());
    refused(
        HOOKS,
        &[&hook("{service: {namespace: a, name: b}}")],
        "clientConfig.service is not supported for static manifests; use clientConfig.url instead",
    );
}
