//! Called as `kube-apiserver`: keys as kubeadm lays them out, etcd, and the other parts of a control plane beside it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};

use super::*;
use crate::etcd::cluster::Cluster;

/// How long a state may take to come.
const PATIENCE: Duration = Duration::from_secs(90);
const DEPLOYMENT: &str = r#"{"metadata":{"name":"web"},"spec":{"replicas":3,
    "selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},
    "spec":{"containers":[{"name":"c","image":"i"}]}}}}"#;
const NODE: &str = r#"{"metadata":{"name":"n"}}"#;
const NODE_STATUS: &str = r#"{"status":{
    "capacity":{"cpu":"4","memory":"8Gi","pods":"110"},"allocatable":{"cpu":"4","memory":"8Gi","pods":"110"},
    "conditions":[{"type":"Ready","status":"True","reason":"x","message":"x",
        "lastHeartbeatTime":"2040-01-01T00:00:00Z","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#;

/// The directory `/etc/kubernetes/pki` of kubeadm, and kubeconfigs beside it.
pub(crate) struct Pki {
    directory: TempDir,
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn make() -> Self {
        let pki = Self { directory: tempfile::tempdir().unwrap() };
        let ca = pki.authority("ca", "kubernetes");
        let front = pki.authority("front-proxy-ca", "front-proxy-ca");
        pki.leaf(&ca, "apiserver", "kube-apiserver", "");
        pki.leaf(
            &ca,
            "apiserver-kubelet-client",
            "kube-apiserver-kubelet-client",
            "system:masters",
        );
        pki.leaf(&front, "front-proxy-client", "front-proxy-client", "");
        pki.leaf(&ca, "admin", "kubernetes-admin", "system:masters");
        pki.leaf(&ca, "controller-manager", "system:kube-controller-manager", "");
        pki.leaf(&ca, "scheduler", "system:kube-scheduler", "");
        pki.leaf(&ca, "loader", "loader", "");
        pki.leaf(
            &pki.authority("another-ca", "another"),
            "stranger",
            "kubernetes-admin",
            "system:masters",
        );
        let key = KeyPair::generate().unwrap();
        pki.write("sa.key", &key.serialize_pem());
        pki.write("sa.pub", &key.public_key_pem());
        pki
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn authority(&self, file: &str, name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        self.write(&format!("{file}.crt"), &pem);
        self.write(&format!("{file}.key"), &key.serialize_pem());
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    fn leaf(&self, authority: &Authority, file: &str, name: &str, group: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        if !group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &authority.issuer).unwrap().pem();
        assert!(authority.pem.contains("CERTIFICATE"));
        self.write(&format!("{file}.crt"), &certificate);
        self.write(&format!("{file}.key"), &key.serialize_pem());
    }

    /// The kubeconfig of one of the leaves.
    fn kubeconfig(&self, name: &str, port: u16) -> String {
        let [ca, certificate, key] =
            ["ca.crt".to_owned(), format!("{name}.crt"), format!("{name}.key")]
                .map(|it| self.path(&it));
        let file = format!("{name}.conf");
        self.write(
            &file,
            &format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                 clusters: [{{name: k, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: {ca}}}}}]\n\
                 users: [{{name: u, user: {{client-certificate: {certificate}, client-key: {key}}}}}]\n\
                 contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n"
            ),
        );
        self.path(&file)
    }

    /// kubeadm's flags.
    pub(crate) fn flags(&self, port: u16) -> Vec<String> {
        let file = |name: &str| self.path(name);
        [
            "--advertise-address=127.0.0.1".to_owned(),
            "--bind-address=127.0.0.1".into(),
            "--allow-privileged=true".into(),
            "--authorization-mode=Node,RBAC".into(),
            format!("--client-ca-file={}", file("ca.crt")),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--enable-bootstrap-token-auth=true".into(),
            format!("--kubelet-client-certificate={}", file("apiserver-kubelet-client.crt")),
            format!("--kubelet-client-key={}", file("apiserver-kubelet-client.key")),
            "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname".into(),
            format!("--proxy-client-cert-file={}", file("front-proxy-client.crt")),
            format!("--proxy-client-key-file={}", file("front-proxy-client.key")),
            "--requestheader-allowed-names=front-proxy-client".into(),
            format!("--requestheader-client-ca-file={}", file("front-proxy-ca.crt")),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
            "--requestheader-group-headers=X-Remote-Group".into(),
            "--requestheader-username-headers=X-Remote-User".into(),
            format!("--secure-port={port}"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--service-cluster-ip-range=10.96.0.0/12".into(),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
        ]
        .into()
    }
}

impl Pki {
    /// kubeadm's flags of the controllers, but for the kubeconfig; and some of those that clusters are tuned with.
    fn manager_flags(&self, port: u16, api: u16) -> Vec<String> {
        let file = |name: &str| self.path(name);
        let config = self.kubeconfig("controller-manager", api);
        [
            "--allocate-node-cidrs=true".to_owned(),
            format!("--authentication-kubeconfig={config}"),
            format!("--authorization-kubeconfig={config}"),
            "--bind-address=127.0.0.1".into(),
            format!("--client-ca-file={}", file("ca.crt")),
            "--cluster-cidr=10.244.0.0/16".into(),
            "--cluster-name=kubernetes".into(),
            format!("--cluster-signing-cert-file={}", file("ca.crt")),
            format!("--cluster-signing-key-file={}", file("ca.key")),
            "--controllers=*,bootstrapsigner,tokencleaner".into(),
            format!("--requestheader-client-ca-file={}", file("front-proxy-ca.crt")),
            format!("--root-ca-file={}", file("ca.crt")),
            format!("--service-account-private-key-file={}", file("sa.key")),
            "--service-cluster-ip-range=10.96.0.0/12".into(),
            "--use-service-account-credentials".into(),
            format!("--secure-port={port}"),
            "--node_monitor_period=500ms".into(),
            "--concurrent-service-syncs".into(),
            "3".into(),
        ]
        .into()
    }
}

/// A part of a control plane; killed when it is dropped.
pub(crate) struct Part(pub(crate) Child);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Part {
    /// Starts it, and waits until it says so.
    pub(crate) fn start(arguments: &[String], says: &str) -> Self {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut process = kubelith(&arguments).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let up = lines.map_while(Result::ok).any(|line| line.contains(says));
        let mut part = Self(process);
        if !up {
            let _ = part.0.kill();
            let mut log = String::new();
            part.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
            panic!("it did not start: {log}");
        }
        part
    }

    /// Tells it to end, and waits until it has.
    fn end(&mut self) {
        let id = rustix::process::Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

struct Admin<'p> {
    pki: &'p Pki,
    port: u16,
}

impl Admin<'_> {
    fn ask(&self, method: &str, path: &str, body: Option<&str>) -> String {
        let file = |name: &str| self.pki.path(name);
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "30", "--request", method]);
        // For whom JSON needs no lines.
        command.args(["--user-agent", "kubelith-test"]);
        command.args(["--cacert", &file("ca.crt"), "--cert", &file("admin.crt")]);
        command.args(["--key", &file("admin.key")]);
        if let Some(body) = body {
            let media = match method {
                "PATCH" => "Content-Type: application/merge-patch+json",
                _ => "Content-Type: application/json",
            };
            command.args(["--header", media, "--data", body]);
        }
        command.arg(format!("https://127.0.0.1:{}{path}", self.port));
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        said + &String::from_utf8_lossy(&output.stderr)
    }

    fn until(&self, what: &str, path: &str, holds: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        loop {
            let answer = self.ask("GET", path, None);
            if holds(&answer) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{what} does not come: {answer}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn it_replaces_upstream_s_beside_other_parts() {
    let etcd = Cluster::start(1);
    let (pki, port) = (Pki::make(), free_port());
    let (managers, schedulers) = (free_port(), free_port());
    let mut arguments = vec!["kube-apiserver".to_owned()];
    arguments.extend(pki.flags(port));
    arguments.push(format!("--etcd-servers={}", etcd.urls().join(",")));
    arguments.extend(["--watch-cache-sizes".to_owned(), "pods#100".into()]);
    let mut server = Part::start(&arguments, "API server");
    let alone = |name: &str, config: &str, more: &[String]| {
        let mut arguments = vec![name.to_owned(), format!("--kubeconfig={config}")];
        arguments.push("--leader-elect=true".into());
        arguments.extend_from_slice(more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = kubelith(&arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Part(command.spawn().unwrap())
    };
    let of_manager = pki.manager_flags(managers, port);
    let config = pki.kubeconfig("controller-manager", port);
    let mut manager = alone("kube-controller-manager", &config, &of_manager);
    let of_scheduler = [format!("--secure-port={schedulers}")];
    let mut scheduler = alone("kube-scheduler", &pki.kubeconfig("scheduler", port), &of_scheduler);
    let admin = Admin { pki: &pki, port };
    let pods = "/api/v1/namespaces/default/pods";
    admin.ask("POST", "/api/v1/nodes", Some(NODE));
    admin.ask("PATCH", "/api/v1/nodes/n/status", Some(NODE_STATUS));
    admin.until("the account of pods", "/api/v1/namespaces/default/serviceaccounts", |it| {
        it.contains("\"name\":\"default\"")
    });
    admin.ask("POST", "/apis/apps/v1/namespaces/default/deployments", Some(DEPLOYMENT));
    admin.until("the pods' node", pods, |it| it.matches("\"nodeName\":\"n\"").count() == 3);
    // The other parts tell how they are.
    let ready = told(schedulers, "/readyz?verbose&exclude=nothing");
    let lines = "[+]leaderElection ok\n[+]shutdown ok\n[+]sched-handler-sync ok\n";
    let warning = "warn: some health checks cannot be excluded: no matches for \"nothing\"\n";
    assert_eq!(ready, format!("{lines}{warning}readyz check passed\n"));
    assert_eq!(told(schedulers, "/livez?verbose"), "[+]leaderElection ok\nlivez check passed\n");
    let health = told(managers, "/healthz?verbose");
    for name in ["leaderElection", "replicaset-controller", "garbage-collector-controller"] {
        assert!(health.contains(&format!("[+]{name} ok\n")), "{health}");
    }
    believes(&pki, [managers, schedulers]);
    counts(&admin, [managers, schedulers]);
    for (port, name) in [(managers, "kube-controller-manager"), (schedulers, "kube-scheduler")] {
        tells_itself(&pki, port, name);
    }
    // What it was started with is told, and what it is.
    let flags = admin.ask("GET", "/flagz", None);
    assert!(flags.contains("authorization-mode=[Node,RBAC]\n"), "{flags}");
    assert!(flags.contains("request-timeout=1m0s\n"), "{flags}");
    let issuer = admin.ask("GET", "/.well-known/openid-configuration", None);
    assert!(issuer.contains("https://kubernetes.default.svc.cluster.local"), "{issuer}");
    gives_up(&admin, &mut manager, "kube-controller-manager");
    gives_up(&admin, &mut scheduler, "kube-scheduler");
    // It ends when it is told to, and has said what means nothing here.
    server.end();
    let mut log = String::new();
    server.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("--watch-cache-sizes has no meaning here"), "{log}");
}

/// A part that is told to end leaves its lease to whoever comes next.
fn gives_up(admin: &Admin<'_>, part: &mut Part, name: &str) {
    part.end();
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    let lease = admin.ask("GET", &format!("{leases}/{name}"), None);
    assert!(lease.contains(r#""holderIdentity":"","#), "{lease}");
}

/// Who may read at the ports of the other parts.
fn believes(pki: &Pki, ports: [u16; 2]) {
    // What flags name is believed by the controllers, what the cluster says by the scheduler.
    for port in ports {
        let refused = |who: &str| {
            format!(
                r#""message":"forbidden: User \"{who}\" cannot get path \"/metrics\"","reason":"Forbidden""#
            )
        };
        let anonymous = told(port, "/metrics");
        assert!(anonymous.contains(&refused("system:anonymous")), "{anonymous}");
        let loader = told_by(port, "/metrics", &certificate(pki, "loader"));
        assert!(loader.contains(&refused("loader")), "{loader}");
        let admin = told_by(port, "/metrics", &certificate(pki, "admin"));
        assert!(admin.contains("\nprocess_start_time_seconds "), "{admin}");
        let mut proxy = certificate(pki, "front-proxy-client");
        proxy.extend(["--header".into(), "X-Remote-User: jane".into()]);
        let jane = told_by(port, "/metrics", &proxy);
        assert!(jane.contains(&refused("jane")), "{jane}");
        let stranger = told_by(port, "/metrics", &certificate(pki, "stranger"));
        assert!(stranger.contains(r#""reason":"Unauthorized""#), "{stranger}");
    }
}

/// What a part that runs alone was started with, and what it is.
fn tells_itself(pki: &Pki, port: u16, name: &str) {
    let admin = certificate(pki, "admin");
    let flags = told_by(port, "/flagz", &admin);
    assert!(flags.starts_with(&format!("\n{name} flags\n")), "{flags}");
    assert!(flags.contains("\nleader-elect=true\n"), "{flags}");
    assert!(flags.contains(&format!("\nsecure-port={port}\n")), "{flags}");
    let mut object = admin.clone();
    let accept = "Accept: application/json;as=Statusz;g=config.k8s.io;v=v1beta1";
    object.extend(["--header".into(), accept.into()]);
    let status = told_by(port, "/statusz", &object);
    assert!(status.contains(&format!(r#""metadata":{{"name":"{name}"}}"#)), "{status}");
    assert!(status.contains(r#""emulationVersion":"1.37""#), "{status}");
    let page = told_by(port, "/metrics", &admin);
    let leads = format!("leader_election_master_status{{name=\"{name}\"}} 1\n");
    assert!(page.contains(&leads), "{page}");
}

/// What is counted of requests to etcd, of the other parts' requests, and of their questions about who may.
fn counts(admin: &Admin<'_>, parts: [u16; 2]) {
    let page = admin.ask("GET", "/metrics", None);
    let created =
        r#"etcd_requests_total{group="apps",operation="create",resource="deployments"} 1"#;
    assert!(page.lines().any(|it| it == created), "{page}");
    for part in parts {
        let page = told_by(part, "/metrics", &certificate(admin.pki, "admin"));
        let host = format!("host=\"127.0.0.1:{}\"", admin.port);
        for line in [
            format!("rest_client_requests_total{{code=\"200\",{host},method=\"GET\"}} "),
            format!("rest_client_request_duration_seconds_count{{{host},verb=\"GET\"}} "),
            format!("rest_client_response_size_bytes_count{{{host},verb=\"GET\"}} "),
            "apiserver_delegated_authz_request_total{code=\"201\"} ".to_owned(),
        ] {
            assert!(page.contains(&line), "{line}: {page}");
        }
    }
}

/// What a part that runs alone says to anybody.
fn told(port: u16, path: &str) -> String {
    told_by(port, path, &[])
}

/// By whom curl is to ask.
fn certificate(pki: &Pki, name: &str) -> Vec<String> {
    let file = |kind: &str| pki.path(&format!("{name}.{kind}"));
    vec!["--cert".into(), file("crt"), "--key".into(), file("key")]
}

/// What a part that runs alone says where curl is called so.
fn told_by(port: u16, path: &str, arguments: &[String]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--insecure", "--max-time", "30"]);
    command.args(arguments);
    let output = command.arg(format!("https://127.0.0.1:{port}{path}")).output().unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr)
}

const ADMISSION: &str = "apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodNodeSelector
  configuration: {podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: disk=ssd}}
";

#[test]
fn it_has_a_store_of_its_own_where_it_is_told_so() {
    let (pki, port) = (Pki::make(), free_port());
    let data: PathBuf = pki.directory.path().join("data");
    let mut arguments = vec!["kube-apiserver".to_owned()];
    arguments.extend(pki.flags(port));
    arguments.extend(["--data-dir".to_owned(), data.display().to_string()]);
    pki.write("admission.yaml", ADMISSION);
    let file = pki.path("admission.yaml");
    arguments.push(format!("--admission-control-config-file={file}"));
    arguments.push("--enable-admission-plugins=PodNodeSelector,NamespaceAutoProvision".into());
    let mut server = Part::start(&arguments, "API server");
    let admin = Admin { pki: &pki, port };
    assert_eq!(admin.ask("GET", "/readyz", None), "ok");
    // Plugins that are off upstream are on where they are asked for, and told what the file says.
    let account = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
    admin.ask("POST", "/api/v1/namespaces/fresh/serviceaccounts", Some(account));
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;
    let pod = admin.ask("POST", "/api/v1/namespaces/fresh/pods", Some(pod));
    assert!(pod.contains(r#""nodeSelector":{"disk":"ssd"}"#), "{pod}");
    // Authorities that are added later are told to other servers too.
    let another = pki.authority("another", "another").pem;
    let line = another.lines().nth(1).unwrap().to_owned();
    let told = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    assert!(!admin.ask("GET", told, None).contains(&line));
    let both = fs::read_to_string(pki.path("ca.crt")).unwrap() + &another;
    pki.write("ca.crt", &both);
    admin.until("the new authority", told, |it| it.contains(&line));
    // Nothing is made that somebody else keeps.
    assert!(!data.join("pki").exists() && !data.join("kubeconfig").exists());
    server.0.kill().unwrap();
    server.0.wait().unwrap();
}

#[test]
fn what_is_wrong_is_said_as_upstream_says_it() {
    let pki = Pki::make();
    let flags = pki.flags(free_port());
    let with = |more: &[&str]| {
        let all = ["kube-apiserver"].into_iter().chain(flags.iter().map(String::as_str));
        let all: Vec<&str> = all.chain(more.iter().copied()).collect();
        complaint(&all)
    };
    for (more, expected) in [
        (
            ["--nope=1"].as_slice(),
            "error: unknown flag: --nope\nSee 'kube-apiserver --help' for usage.\n",
        ),
        (&["--etcd-servers"], "error: flag needs an argument: --etcd-servers"),
        (&[], "error: --etcd-servers must be specified"),
        (
            &["--egress-selector-config-file=x"],
            "error: --egress-selector-config-file=x: this is not built yet",
        ),
        (
            &["--enable-admission-plugins=EventRateLimit", "--data-dir=/nowhere"],
            "couldn't init admission plugin \"EventRateLimit\": limits: Invalid value",
        ),
        (&["--feature-gates=Nope=true", "--data-dir=/nowhere"], "unrecognized feature gate: Nope"),
    ] {
        let said = with(more);
        assert!(said.contains(expected), "{more:?}: {said}");
    }
    // So do the other parts, and those of one process.
    for (line, expected) in [
        (
            "kube-controller-manager --nope",
            "error: unknown flag: --nope\nSee 'kube-controller-manager --help' for usage.\n",
        ),
        (
            "kube-controller-manager --enable-hostpath-provisioner",
            "error: --enable-hostpath-provisioner=true: this is not built yet",
        ),
        ("kube-scheduler pods", "error: unknown command \"pods\" for \"kube-scheduler\""),
        (
            "server --kube-controller-manager-arg=cidr-allocator-type=CloudAllocator",
            "error: --cidr-allocator-type=CloudAllocator: this is not built yet",
        ),
        ("server --kube-scheduler-arg=nope", "error: kube-scheduler has no flag --nope here"),
    ] {
        let said = complaint(&line.split(' ').collect::<Vec<_>>());
        assert!(said.contains(expected), "{line}: {said}");
    }
    let output = kubelith(&["kube-apiserver", "--version"]).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("Kubernetes v1.37."));
}
