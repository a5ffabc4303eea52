//! A runtime in a directory of its own, an image of busybox, and everything taken away afterwards.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use component_base::{RealClock, SystemRandom};
use cri::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatus, CriError,
    ExecSyncResponse, ImageSpec, LinuxContainerSecurityContext, NamespaceMode, NetworkRequest,
    PodNetwork, PodNetworkResult, PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata,
    RuntimeService,
};
use runtime::{EmbeddedRuntime, Options, Registries, ZygoteCommand};
use sha2::{Digest, Sha256};

/// Longer than anything takes here; a test that reaches it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const IMAGE: &str = "test.local/busybox:1";

/// Brings `lo` up, and says an address.
#[derive(Debug)]
struct LoopbackNetwork;

#[async_trait]
impl PodNetwork for LoopbackNetwork {
    async fn setup(&self, request: &NetworkRequest) -> Result<PodNetworkResult, CriError> {
        let done = Command::new("nsenter")
            .arg(format!("--net={}", request.netns_path.display()))
            .args(["ip", "link", "set", "lo", "up"])
            .status();
        assert!(done.is_ok_and(|s| s.success()));
        Ok(PodNetworkResult { ips: vec![IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7))] })
    }

    async fn teardown(&self, request: &NetworkRequest) -> Result<(), CriError> {
        assert!(request.netns_path.exists(), "torn down while the namespace is there");
        Ok(())
    }
}

pub(crate) struct Fixture {
    pub(crate) dir: PathBuf,
    pub(crate) runtime: EmbeddedRuntime,
    pub(crate) image: String,
    pub(crate) cgroup: String,
}

pub(crate) async fn open(dir: &Path, cgroup: &str) -> EmbeddedRuntime {
    let options = Options {
        root_dir: dir.join("root"),
        state_dir: dir.join("run"),
        zygote: ZygoteCommand {
            program: std::env::current_exe().unwrap(),
            arguments: vec!["zygote".into()],
        },
        shim_cgroup: format!("{cgroup}/shims"),
        registries: Registries::default(),
        network: Arc::new(LoopbackNetwork),
        clock: Arc::new(RealClock),
        random: Arc::new(SystemRandom::new()),
    };
    EmbeddedRuntime::open(options).await.unwrap()
}

pub(crate) fn run(name: &str, test: super::Run) -> bool {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let temporary = tempfile::Builder::new().prefix("kubelith-it-").tempdir().unwrap();
    let dir = temporary.path().to_owned();
    let cgroup = format!("/kubelith-it-{}-{name}", std::process::id());
    let passed = runtime.block_on(async {
        let opened = open(&dir, &cgroup).await;
        let archive = dir.join("busybox.tar");
        fs::write(&archive, busybox_archive()).unwrap();
        let image = opened.import_image(archive, None).await.unwrap().remove(0);
        let fixture =
            Fixture { dir: dir.clone(), runtime: opened.clone(), image, cgroup: cgroup.clone() };
        let passed = tokio::spawn(test(fixture)).await.is_ok();
        // A test may have opened another one over the same directories.
        let cleaner = open(&dir, &cgroup).await;
        for sandbox in cleaner.list_pod_sandbox(&PodSandboxFilter::default()).await.unwrap() {
            cleaner.remove_pod_sandbox(&sandbox.id).await.unwrap();
        }
        passed
    });
    drop(runtime);
    remove_cgroups(&cgroup);
    passed
}

/// The zygotes end when their agents' sockets are closed; then the groups can go.
fn remove_cgroups(cgroup: &str) {
    let hierarchies = sys::cgroup::Hierarchies::detect().unwrap();
    let ops = hierarchies.plan_remove(cgroup);
    for _ in 0..200 {
        if sys::cgroup::apply(&ops).is_ok() {
            return;
        }
        #[allow(clippy::disallowed_methods, reason = "nothing tells when a cgroup is empty in v1")]
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("left over: cgroup {cgroup}");
}

impl Fixture {
    pub(crate) fn pod(&self, name: &str) -> PodSandboxConfig {
        let mut config = PodSandboxConfig {
            metadata: PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            },
            hostname: name.into(),
            log_directory: self.dir.join("logs").join(name).display().to_string(),
            ..PodSandboxConfig::default()
        };
        config.linux.cgroup_parent = format!("{}/pod-{name}", self.cgroup);
        config.linux.security_context.namespace_options.pid = NamespaceMode::Container;
        config
    }

    /// A container that runs a shell script.
    pub(crate) fn script(&self, name: &str, script: &str) -> ContainerConfig {
        let mut config = ContainerConfig {
            metadata: ContainerMetadata { name: name.into(), attempt: 0 },
            image: ImageSpec::new(&self.image),
            command: vec!["sh".into(), "-c".into(), script.into()],
            log_path: format!("{name}.log"),
            ..ContainerConfig::default()
        };
        config.linux.security_context = LinuxContainerSecurityContext {
            masked_paths: cri::security::DEFAULT_MASKED_PATHS.map(str::to_owned).to_vec(),
            readonly_paths: cri::security::DEFAULT_READONLY_PATHS.map(str::to_owned).to_vec(),
            ..LinuxContainerSecurityContext::default()
        };
        config.linux.security_context.namespace_options.pid = NamespaceMode::Container;
        config
    }

    pub(crate) async fn run_pod(&self, config: &PodSandboxConfig) -> String {
        self.runtime.run_pod_sandbox(config, "").await.unwrap()
    }

    /// Makes and starts a container.
    pub(crate) async fn start(&self, pod: &str, config: &ContainerConfig) -> String {
        let created =
            self.runtime.create_container(pod, config, &PodSandboxConfig::default()).await;
        let id = created.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    pub(crate) async fn wait(&self, id: &str) -> ContainerStatus {
        wait_exit(&self.runtime, id).await
    }

    /// Runs a script in a pod to its end: exit code and the content of its log lines.
    pub(crate) async fn run_script(&self, pod: &str, config: &ContainerConfig) -> (i32, String) {
        let id = self.start(pod, config).await;
        let status = self.wait(&id).await;
        (status.exit_code, log_content(&status.log_path))
    }

    pub(crate) async fn exec(&self, id: &str, script: &str) -> ExecSyncResponse {
        let cmd = ["sh", "-c", script].map(str::to_owned);
        self.runtime.exec_sync(id, &cmd, PATIENCE).await.unwrap()
    }

    pub(crate) async fn exec_text(&self, id: &str, script: &str) -> String {
        let response = self.exec(id, script).await;
        assert_eq!(response.exit_code, 0, "{}", String::from_utf8_lossy(&response.stderr));
        String::from_utf8(response.stdout).unwrap().trim_end().to_owned()
    }
}

pub(crate) async fn wait_exit(runtime: &EmbeddedRuntime, id: &str) -> ContainerStatus {
    use futures::StreamExt;
    let mut events = runtime.container_events();
    let waiting = async {
        loop {
            let status = runtime.container_status(id).await.unwrap();
            if status.container.state == ContainerState::Exited {
                return status;
            }
            events.next().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the container ends")
}

/// Waits until a log has `text`.
pub(crate) async fn wait_log(path: &str, text: &str) -> String {
    let waiting = async {
        loop {
            let content = log_content(path);
            if content.contains(text) {
                return content;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("{text:?} is not in the log: {:?}", log_content(path)))
}

/// The lines of a log without time, stream and tag.
pub(crate) fn log_content(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let content = text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default());
    content.collect::<Vec<_>>().join("\n")
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(&mut self, kind: tar::EntryType, path: &str, mode: u32, content: &[u8], link: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        if link.is_empty() {
            self.0.append_data(&mut header, path, content).unwrap();
        } else {
            self.0.append_link(&mut header, path, link).unwrap();
        }
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.add(tar::EntryType::Regular, path, mode, content, "");
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// An OCI layout of Debian's static busybox in two layers.
fn busybox_archive() -> Vec<u8> {
    let mut base = Archive::new();
    for dir in ["bin", "etc", "root", "usr"] {
        base.add(tar::EntryType::Directory, dir, 0o755, &[], "");
    }
    base.add(tar::EntryType::Directory, "tmp", 0o1777, &[], "");
    base.file("bin/busybox", 0o755, &fs::read("/bin/busybox").unwrap());
    let applets = "sh cat echo env id ls sleep grep head tail wc mkdir touch rm ps kill stty test true \
        false dd hostname mount umount chroot unshare nc tr seq stat readlink printf date mknod chmod";
    for applet in applets.split_whitespace() {
        base.add(tar::EntryType::Symlink, &format!("bin/{applet}"), 0o777, &[], "busybox");
    }
    base.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:w:/srv:/bin/sh\n");
    base.file("etc/group", 0o644, b"root:x:0:\nwheel:x:10:root,web\nweb:x:34:\n");
    base.file("etc/gone", 0o644, b"of the lower layer");
    let base = base.finish();
    let mut top = Archive::new();
    top.file("etc/.wh.gone", 0o644, b"");
    top.file("etc/motd", 0o644, b"hello\n");
    let top = top.finish();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["FROM_IMAGE=yes"], "Cmd": ["sh"], "WorkingDir": "/root"},
        "rootfs": {"type": "layers", "diff_ids": [
            format!("sha256:{}", digest(&base)), format!("sha256:{}", digest(&top))]},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let packed = {
        use std::io::Write;
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&base).unwrap();
        gz.finish().unwrap()
    };
    let top_packed = zstd::encode_all(top.as_slice(), 1).unwrap();
    let descriptor = |bytes: &[u8], media: &str| {
        serde_json::json!({"mediaType": media, "size": bytes.len(),
            "digest": format!("sha256:{}", digest(bytes))})
    };
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "config": descriptor(&config, "application/vnd.oci.image.config.v1+json"),
        "layers": [
            descriptor(&packed, "application/vnd.oci.image.layer.v1.tar+gzip"),
            descriptor(&top_packed, "application/vnd.oci.image.layer.v1.tar+zstd")],
    }))
    .unwrap();
    let mut named = descriptor(&manifest, "application/vnd.oci.image.manifest.v1+json");
    named["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": IMAGE});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [named]});
    let mut layout = Archive::new();
    layout.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    layout.file("index.json", 0o644, &serde_json::to_vec(&index).unwrap());
    for blob in [&config, &packed, &top_packed, &manifest] {
        layout.file(&format!("blobs/sha256/{}", digest(blob)), 0o644, blob);
    }
    layout.finish()
}
