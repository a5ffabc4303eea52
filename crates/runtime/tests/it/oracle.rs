//! The same container under runc, compared.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::fixture::Fixture;

/// What is compared: process status, mounts without what differs by run, namespaces that are new, limits.
const PROBE: &str = "grep -E '^(Uid|Gid|Groups|Cap.*|NoNewPrivs|Seccomp|SigBlk|SigIgn|SigCgt):' /proc/1/status; \
    sed -E 's/^[0-9]+ [0-9]+ [0-9]+:[0-9]+ //' /proc/1/mountinfo; ls /dev; id; umask; pwd";

pub(crate) async fn a_container_is_as_runc_makes_it(f: Fixture) -> Fixture {
    if Command::new("runc").arg("--version").output().is_err() {
        println!("  skipped: runc is not here to compare with");
        return f;
    }
    let pod = f.run_pod(&f.pod("oracle")).await;
    let mut config = f.script("c", "sleep 1000");
    config.working_dir = "/".into();
    config.command = vec!["sleep".into(), "1000".into()];
    let id = f.start(&pod, &config).await;
    let ours = probe(&f.exec_text(&id, &PROBE.replace("sed", "busybox sed")).await);
    let bundle = f.dir.join("bundle");
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    let layers = f.dir.join("root/layers");
    // The layer with the programs will do.
    let mut all = fs::read_dir(&layers).unwrap().map(|e| e.unwrap().path());
    let base = all.find(|layer| layer.join("bin").exists()).unwrap();
    let from = format!("{}/.", base.display());
    let copied = Command::new("cp").args(["-a", &from]).arg(bundle.join("rootfs")).status();
    assert!(copied.unwrap().success());
    fs::write(bundle.join("config.json"), runc_config()).unwrap();
    let name = format!("kubelith-oracle-{}", std::process::id());
    let run = |arguments: &[&str]| Command::new("runc").args(arguments).output().unwrap();
    let bundle_text = bundle.display().to_string();
    let started = Command::new("runc")
        .args(["run", "--detach", "--bundle", &bundle_text, &name])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(started.success());
    let script = PROBE.replace("sed", "busybox sed");
    let theirs = run(&["exec", &name, "sh", "-c", &script]);
    run(&["delete", "--force", &name]);
    let theirs = probe(&String::from_utf8_lossy(&theirs.stdout));
    let difference: Vec<_> = ours.symmetric_difference(&theirs).collect();
    assert!(difference.is_empty(), "ours: {ours:#?}\ntheirs: {theirs:#?}\n{difference:#?}");
    f
}

/// Lines without what is the run's own: paths of the test, and orders of options.
fn probe(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| {
            !line.contains("overlay") && !line.starts_with("/ / ") && !line.contains(" / / ")
        })
        .map(|line| {
            let mut words: Vec<String> = line.split_whitespace().map(normal).collect();
            // The root of a bind is where the test put it.
            if words.len() > 4 && words.iter().any(|w| w == "-") {
                words[0] = if words[1].starts_with("/sys/fs/cgroup") {
                    "GROUP".into()
                } else {
                    words[0].clone()
                };
                words.retain(|w| !w.starts_with("master:") && !w.starts_with("shared:"));
            }
            words.join(" ")
        })
        // Ours is read-only at the top too, masks with the node's null, which no volume can replace, and does
        // not hand on what whoever started it ignored.
        .filter(|line| !line.starts_with("GROUP /sys/fs/cgroup ") && !line.starts_with("/null "))
        .filter(|line| !line.contains("/bundle/rootfs / ") && !line.starts_with("SigIgn"))
        .filter(|line| {
            !line.contains("/etc/hostname")
                && !line.contains("/etc/resolv.conf")
                && !line.contains("/dev/shm")
        })
        .collect()
}

fn normal(word: &str) -> String {
    let mut options: Vec<&str> = word.split(',').collect();
    options.sort_unstable();
    options.join(",")
}

fn runc_config() -> String {
    let caps = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ];
    let mount = |to: &str, kind: &str, from: &str, options: &[&str]| serde_json::json!({"destination": to, "type": kind, "source": from, "options": options});
    serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]},
            "args": ["sleep", "1000"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        },
        "root": {"path": "rootfs"},
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": cri::security::DEFAULT_MASKED_PATHS,
            "readonlyPaths": cri::security::DEFAULT_READONLY_PATHS,
        },
    })
    .to_string()
}
