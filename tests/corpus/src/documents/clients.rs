//! Clients of other ages: every kubectl from 1.22 on, Helm 3 and 4. Those below 1.30 stream over SPDY only.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::case::Case;
use crate::cluster::ADMIN_TOKEN;
use crate::kubectl::Kubectl;
use crate::process::{Background, command, run, with_input};
use crate::runner::Test;

pub(super) const TESTS: &[Test] = &[
    Test { name: "Helm 3: install, upgrade, rollback, test, uninstall", run: helm_3, alone: false },
    Test { name: "Helm 4: install, upgrade, rollback, test, uninstall", run: helm_4, alone: false },
    Test { name: "WebSockets, as pages open them", run: websockets, alone: false },
    Test { name: "kubectl 1.22", run: |it| old(it, 22), alone: false },
    Test { name: "kubectl 1.23", run: |it| old(it, 23), alone: false },
    Test { name: "kubectl 1.24", run: |it| old(it, 24), alone: false },
    Test { name: "kubectl 1.25", run: |it| old(it, 25), alone: false },
    Test { name: "kubectl 1.26", run: |it| old(it, 26), alone: false },
    Test { name: "kubectl 1.27", run: |it| old(it, 27), alone: false },
    Test { name: "kubectl 1.28", run: |it| old(it, 28), alone: false },
    Test { name: "kubectl 1.29", run: |it| old(it, 29), alone: false },
    Test { name: "kubectl 1.30", run: |it| old(it, 30), alone: false },
    Test { name: "kubectl 1.31", run: |it| old(it, 31), alone: false },
    Test { name: "kubectl 1.32", run: |it| old(it, 32), alone: false },
    Test { name: "kubectl 1.33", run: |it| old(it, 33), alone: false },
    Test { name: "kubectl 1.34", run: |it| old(it, 34), alone: false },
    Test { name: "kubectl 1.35", run: |it| old(it, 35), alone: false },
    Test { name: "kubectl 1.36", run: |it| old(it, 36), alone: false },
];

/// Clients that have neither SPDY nor the newest protocol, such as pages and older libraries.
const WEBSOCKETS: &str = include_str!("../../websockets.py");

/// Streams of a pod in every protocol, watches and logs.
fn websockets(case: Case<'_>) -> Result<()> {
    let script =
        "echo one; echo two; mkdir /w; echo hi >/w/index.html; exec httpd -f -p 8080 -h /w";
    let run = ["run", "page", "--image=busybox", "--restart=Never", "--", "sh", "-c", script];
    case.kubectl(&run)?;
    case.line("wait pod/page --for=condition=Ready --timeout=90s")?;
    let address = case.kubectl.server.trim_start_matches("https://");
    let arguments = ["-c", WEBSOCKETS, address, ADMIN_TOKEN, case.namespace, "page"];
    let told = case.cluster.outside("python3", &arguments)?;
    ensure!(told == "all said\n", "{told}");
    case.remove(&["page"])
}

/// What people do with a kubectl, with one of another age.
fn old(case: Case<'_>, minor: u16) -> Result<()> {
    let program = case.cluster.client(&format!("kubectl-1.{minor}/kubectl"));
    // What it keeps of discovery it keeps at home, in a form of its own.
    let home = tempfile::tempdir()?;
    let kubectl = Kubectl { program, home: home.path().into(), ..case.kubectl.clone() };
    let case = Case { kubectl: &kubectl, ..case };
    let version = case.line("version --output=json")?;
    ensure!(version.contains(&format!("\"gitVersion\": \"v1.{minor}.")), "{version}");
    workload(case)?;
    objects(case)?;
    streams(case)?;
    forwarded(case, 18_000 + minor)?;
    case.line("delete deployment nginx-deployment --timeout=60s").map(drop)
}

fn workload(case: Case<'_>) -> Result<()> {
    let text = case.document("002-2479")?;
    let told = case.apply_text(&text)?;
    ensure!(told.contains("deployment.apps/nginx-deployment created"), "{told}");
    case.line("rollout status deployment/nginx-deployment --timeout=120s")?;
    let told = case.apply_text(&text)?;
    ensure!(told.contains("deployment.apps/nginx-deployment unchanged"), "{told}");
    let wide = case.line("get deployments,pods --output=wide")?;
    for part in ["deployment.apps/nginx-deployment   2/2 ", "CONTAINERS", "Running", "NODE"] {
        ensure!(wide.contains(part), "no {part:?} in {wide}");
    }
    case.line("scale deployment nginx-deployment --replicas=1")?;
    case.line("rollout restart deployment nginx-deployment")?;
    case.line("rollout status deployment/nginx-deployment --timeout=120s")?;
    let described = case.line("describe deployment nginx-deployment")?;
    for part in ["Replicas:               1 desired", "ScalingReplicaSet", "RollingUpdateStrategy"]
    {
        ensure!(described.contains(part), "no {part:?} in {described}");
    }
    let explained = case.line("explain deployment.spec.strategy")?;
    ensure!(explained.contains("rollingUpdate"), "{explained}");
    Ok(())
}

fn objects(case: Case<'_>) -> Result<()> {
    case.line("create configmap note --from-literal=a=1")?;
    case.line("label configmap note kind=test")?;
    case.kubectl(&["patch", "configmap", "note", "--patch", r#"{"data":{"b":"2"}}"#])?;
    let data = case.line("get configmap note --output=jsonpath={.data}")?;
    ensure!(data == r#"{"a":"1","b":"2"}"#, "{data}");
    let apply = ["apply", "--server-side", "--field-manager=other", "-f", "-"];
    let mine = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: note}\ndata: {c: '3'}\n";
    let told = case.with_input(&apply, mine)?;
    ensure!(told.contains("configmap/note serverside-applied"), "{told}");
    let theirs = mine.replace("c:", "a:");
    let refused = case.refused_input(&apply, &theirs)?;
    ensure!(refused.contains("conflict"), "{refused}");
    case.line("delete configmap note")?;
    let allowed = case.line("auth can-i create pods")?;
    ensure!(allowed.trim() == "yes", "{allowed}");
    Ok(())
}

fn streams(case: Case<'_>) -> Result<()> {
    let script = "echo one; echo two; sleep 3600";
    case.kubectl(&[
        "run",
        "shell",
        "--image=busybox",
        "--restart=Never",
        "--",
        "sh",
        "-c",
        script,
    ])?;
    case.line("wait pod/shell --for=condition=Ready --timeout=90s")?;
    let log = case.line("logs shell --tail=1")?;
    ensure!(log == "two\n", "{log:?}");
    let told = case.with_input(&["exec", "-i", "shell", "--", "cat"], "through\n")?;
    ensure!(told == "through\n", "{told:?}");
    let code = with_input(case.command("exec shell -- sh -c exit${IFS}7"), "")?;
    ensure!(code.status.code() == Some(7), "{code:?}");
    let missing = case.fails(&["exec", "shell", "--", "nothere"])?;
    ensure!(missing.contains("\"nothere\": executable file not found in $PATH"), "{missing}");
    let directory = tempfile::tempdir()?;
    let (file, back) = (directory.path().join("file"), directory.path().join("back"));
    let content = "copied ".repeat(100_000);
    fs::write(&file, &content)?;
    let there = format!("{}/shell:/tmp/file", case.namespace);
    case.kubectl(&["cp", &file.to_string_lossy(), &there])?;
    case.kubectl(&["cp", &there, &back.to_string_lossy()])?;
    ensure!(fs::read_to_string(&back)? == content, "what came back is not what was copied");
    case.remove(&["shell"])
}

fn forwarded(case: Case<'_>, port: u16) -> Result<()> {
    let log = tempfile::NamedTempFile::new()?;
    let forward = case.command(&format!("port-forward deployment/nginx-deployment {port}:80"));
    let mut forwarding = Background::start(&forward, log.path())?;
    let line = format!("Forwarding from 127.0.0.1:{port}");
    forwarding
        .until("forwards", || fs::read_to_string(log.path()).ok()?.contains(&line).then_some(()))?;
    let address = format!("http://127.0.0.1:{port}/");
    for _ in 0..3 {
        let ask = ["--silent", "--fail", "--max-time", "10", &address];
        let page = case.cluster.outside("curl", &ask)?;
        ensure!(page.contains("Welcome to nginx!"), "{page}");
    }
    Ok(())
}

fn helm_3(case: Case<'_>) -> Result<()> {
    Helm::of(case, 3)?.life()
}

fn helm_4(case: Case<'_>) -> Result<()> {
    Helm::of(case, 4)?.life()
}

/// Files of a chart: a definition and an object of it, a workload, hooks, a test. `MAJOR` keeps two of them apart.
const CHART: &[(&str, &str)] = &[
    ("Chart.yaml", "apiVersion: v2\nname: shop\nversion: 0.1.0\n"),
    ("values.yaml", "replicas: 1\ngreeting: hello\n"),
    (
        "crds/things.yaml",
        r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.helmMAJOR.example.com}
spec:
  group: helmMAJOR.example.com
  names: {kind: Thing, plural: things, singular: thing}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {size: {type: integer, minimum: 1}}}}
"#,
    ),
    (
        "templates/thing.yaml",
        "apiVersion: helmMAJOR.example.com/v1\nkind: Thing\nmetadata: {name: thing}\nspec: {size: {{ .Values.replicas }}}\n",
    ),
    (
        "templates/shop.yaml",
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: shop}
data: {greeting: {{ .Values.greeting }}}
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec: {containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
"#,
    ),
    (
        "templates/hooks.yaml",
        r#"
{{- range $hook := list "pre-install" "post-upgrade" }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $hook }}
  annotations: {"helm.sh/hook": {{ $hook }}, "helm.sh/hook-delete-policy": before-hook-creation}
spec:
  template:
    spec: {restartPolicy: Never, containers: [{name: job, image: busybox, command: ["true"]}]}
{{- end }}
---
apiVersion: v1
kind: Pod
metadata: {name: asks, annotations: {"helm.sh/hook": test}}
spec:
  restartPolicy: Never
  containers: [{name: asks, image: busybox, command: [wget, -qO-, "http://shop"]}]
"#,
    ),
];

/// One Helm and its chart.
struct Helm<'a> {
    case: Case<'a>,
    program: std::path::PathBuf,
    major: u8,
    chart: tempfile::TempDir,
}

impl<'a> Helm<'a> {
    fn of(case: Case<'a>, major: u8) -> Result<Self> {
        let chart = tempfile::tempdir()?;
        for (path, text) in CHART {
            let file = chart.path().join(path);
            fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
            fs::write(&file, text.replace("MAJOR", &major.to_string()))?;
        }
        let program = case.cluster.client(&format!("helm-{major}/helm"));
        Ok(Self { case, program, major, chart })
    }

    fn command(&self, words: &str) -> Command {
        let kubectl = self.case.kubectl;
        let mut command = command("nsenter", &[format!("--net=/run/netns/{}", kubectl.world)]);
        command
            .args(["timeout", "150"])
            .arg(&self.program)
            .arg(format!("--kubeconfig={}", kubectl.kubeconfig.display()))
            .arg(format!("--kube-apiserver={}", kubectl.server))
            .arg(format!("--namespace={}", self.case.namespace))
            .args(
                words.split(' ').map(|it| {
                    if it == "CHART" { self.chart.path().as_os_str() } else { it.as_ref() }
                }),
            )
            .env("HOME", self.chart.path().join("home"));
        command
    }

    fn run(&self, words: &str) -> Result<String> {
        run(&mut self.command(words)).with_context(|| format!("helm {words}"))
    }

    fn life(&self) -> Result<()> {
        let case = self.case;
        let told = self.run("install shop CHART --wait --timeout=120s")?;
        ensure!(told.contains("STATUS: deployed"), "{told}");
        let hook = case.get("job", "pre-install")?;
        ensure!(hook["status"]["succeeded"] == 1, "{hook}");
        let ready = || case.line("get deployment shop --output=jsonpath={.status.readyReplicas}");
        ensure!(ready()? == "1");
        let told =
            self.run("upgrade shop CHART --wait --timeout=120s --set=replicas=2,greeting=hi")?;
        ensure!(told.contains("REVISION: 2"), "{told}");
        ensure!(ready()? == "2");
        ensure!(case.get("configmap", "shop")?["data"]["greeting"] == "hi");
        ensure!(case.get("job", "post-upgrade")?["status"]["succeeded"] == 1);
        let things = format!("things.helm{}.example.com", self.major);
        ensure!(case.get(&things, "thing")?["spec"]["size"] == 2);
        self.run("rollback shop 1 --wait --timeout=120s")?;
        ensure!(case.get("configmap", "shop")?["data"]["greeting"] == "hello");
        ensure!(case.get(&things, "thing")?["spec"]["size"] == 1);
        let history = self.run("history shop")?;
        ensure!(history.contains("Rollback to 1"), "{history}");
        let told = self.run("test shop --timeout=120s")?;
        ensure!(told.contains("Phase:          Succeeded"), "{told}");
        let listed = self.run("list")?;
        ensure!(listed.contains("shop-0.1.0"), "{listed}");
        self.run("uninstall shop --wait --timeout=120s")?;
        case.fails(&["get", "deployment", "shop"])?;
        case.line(&format!("delete customresourcedefinition {things} --timeout=60s")).map(drop)
    }
}
