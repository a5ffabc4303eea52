//! Ways out of a container that others found in runtimes before: none of them leads out of ours. Where runc is here, it
//! is asked the same, and we let through nothing that it refuses.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use cri::{Mount, NamespaceMode, PodSandboxConfig};

use crate::fixture::{Fixture, log_content};

/// Whether runc starts this container: `None` where it is not here.
fn runc_starts(f: &Fixture, name: &str, cwd: &str, mounts: &[(&str, &Path)]) -> Option<bool> {
    Command::new("runc").arg("--version").output().ok()?;
    let bundle = f.dir.join(format!("bundle-{name}"));
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    let mut all = fs::read_dir(f.dir.join("root/layers")).unwrap().map(|it| it.unwrap().path());
    let base = all.find(|layer| layer.join("bin").exists()).unwrap();
    let from = format!("{}/.", base.display());
    let copied = Command::new("cp").args(["-a", &from]).arg(bundle.join("rootfs")).status();
    assert!(copied.unwrap().success());
    let mut list =
        vec![serde_json::json!({"destination": "/proc", "type": "proc", "source": "proc"})];
    list.extend(mounts.iter().map(|(at, from)| {
        serde_json::json!({"destination": at, "type": "bind", "source": from, "options": ["rbind"]})
    }));
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "env": ["PATH=/bin"], "cwd": cwd},
        "root": {"path": "rootfs"},
        "mounts": list,
        "linux": {"namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]},
    });
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    let id = format!("kubelith-escape-{}-{name}", std::process::id());
    let ran = Command::new("runc")
        .args(["run", "--bundle", &bundle.display().to_string(), &id])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let _ = Command::new("runc").args(["delete", "--force", &id]).output();
    Some(ran.status.success())
}

/// Starts what may be refused: its log, or why not.
async fn attempt(f: &Fixture, pod: &str, config: &cri::ContainerConfig) -> Result<String, String> {
    let made = f.runtime.create_container(pod, config, &PodSandboxConfig::default()).await;
    let id = made.map_err(|it| it.message)?;
    use cri::RuntimeService as _;
    f.runtime.start_container(&id).await.map_err(|it| it.message)?;
    Ok(log_content(&f.wait(&id).await.log_path))
}

/// CVE-2019-5736: a container that gets hold of the runtime's process overwrites the binary behind it.
pub(crate) async fn the_nodes_binary_is_out_of_reach(f: Fixture) -> Fixture {
    let binary = std::env::current_exe().unwrap();
    let before = fs::metadata(&binary).unwrap().modified().unwrap();
    let mut config = f.pod("overwrite");
    config.linux.security_context.namespace_options.pid = NamespaceMode::Pod;
    let pod = f.run_pod(&config).await;
    // Looks at every process that comes by, takes its program, and writes to it as soon as that is allowed.
    let mut thief = f.script(
        "thief",
        "while true; do for p in /proc/[0-9]*; do case \"$(readlink $p/exe)\" in /bin/busybox|'') ;; \
         *) echo \"seen $(readlink $p/exe)\"; (exec 9<$p/exe && echo evil > /proc/self/fd/9 && echo WRITTEN) ;; esac; \
         done; done 2>&1",
    );
    thief.linux.security_context.namespace_options.pid = NamespaceMode::Pod;
    thief.linux.security_context.capabilities.add_capabilities =
        vec!["SYS_PTRACE".into(), "DAC_OVERRIDE".into()];
    let id = f.start(&pod, &thief).await;
    for _ in 0..20 {
        let _ = f.exec(&id, "true").await;
        let cmd = ["/proc/self/exe".to_owned(), "sh".into(), "-c".into(), "true".into()];
        use cri::RuntimeService as _;
        // Whether it can run at all does not matter.
        let _ = f.runtime.exec_sync(&id, &cmd, std::time::Duration::from_secs(5)).await;
    }
    use cri::RuntimeService as _;
    let log = log_content(&f.runtime.container_status(&id).await.unwrap().log_path);
    assert!(!log.contains("WRITTEN"), "{log}");
    assert_eq!(fs::metadata(&binary).unwrap().modified().unwrap(), before);
    f
}

/// CVE-2024-21626: a working directory that is a descriptor of the runtime lies outside of the container.
pub(crate) async fn no_working_directory_lies_outside(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("cwd")).await;
    let marker = f.dir.join("marker");
    fs::write(&marker, "of the node").unwrap();
    let inside = marker.display().to_string();
    for number in 3..16 {
        let cwd = format!("/proc/self/fd/{number}");
        let script = format!(
            "for up in . .. ../.. ../../.. ../../../.. ../../../../.. ../../../../../..; do \
             test -e $up{inside} && echo OUTSIDE; done; true"
        );
        let mut config = f.script(&format!("fd{number}"), &script);
        config.working_dir = cwd.clone();
        if let Ok(log) = attempt(&f, &pod, &config).await {
            assert!(!log.contains("OUTSIDE"), "{cwd}: {log}");
            let refused = runc_starts(&f, &format!("fd{number}"), &cwd, &[]) == Some(false);
            assert!(!refused, "runc refuses {cwd}, and we do not");
        }
    }
    f
}

/// CVE-2021-30465: links in what is mounted lead a later mount out of the container.
pub(crate) async fn links_in_volumes_lead_nowhere(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("links")).await;
    let volume = f.dir.join("planted");
    fs::create_dir_all(&volume).unwrap();
    let outside = f.dir.join("outside");
    fs::create_dir_all(&outside).unwrap();
    symlink(&outside, volume.join("absolute")).unwrap();
    symlink("../../../../../../../../etc", volume.join("upwards")).unwrap();
    symlink("/proc/1/root", volume.join("magic")).unwrap();
    let payload = f.dir.join("payload");
    fs::create_dir_all(&payload).unwrap();
    let mount = |at: &str, from: &Path| Mount {
        container_path: at.into(),
        host_path: from.display().to_string(),
        ..Mount::default()
    };
    for (index, link) in ["absolute", "upwards", "magic"].into_iter().enumerate() {
        let mut config = f.script(&format!("l{index}"), "ls /; true");
        let at = format!("/v/{link}/deep-{index}");
        config.mounts = vec![mount("/v", &volume), mount(&at, &payload)];
        // Refused or inside: both will do.
        let _ = attempt(&f, &pod, &config).await;
    }
    assert!(fs::read_dir(&outside).unwrap().next().is_none(), "a mount point was made outside");
    for dir in ["/etc", "/"] {
        for index in 0..3 {
            let made = Path::new(dir).join(format!("deep-{index}"));
            assert!(!made.exists(), "{} was made on the node", made.display());
        }
    }
    f
}

/// CVE-2019-16884: files that stand in for `/proc` fool what protects the container.
pub(crate) async fn nothing_is_mounted_over_proc(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("proc")).await;
    let fake = f.dir.join("fake");
    fs::create_dir_all(fake.join("self/attr")).unwrap();
    fs::write(fake.join("file"), "x").unwrap();
    let cases = [
        ("/proc", fake.clone(), false),
        ("/proc/self/attr", fake.join("self"), false),
        ("/proc/sys/kernel", fake.join("self"), false),
        ("/proc/meminfo", fake.join("file"), true),
    ];
    for (index, (at, from, allowed)) in cases.into_iter().enumerate() {
        let mut config = f.script(&format!("p{index}"), "true");
        config.mounts = vec![Mount {
            container_path: at.into(),
            host_path: from.display().to_string(),
            ..Mount::default()
        }];
        let ours = attempt(&f, &pod, &config).await;
        assert_eq!(ours.is_ok(), allowed, "{at}: {ours:?}");
        let runc = runc_starts(&f, &format!("p{index}"), "/", &[(at, &from)]);
        assert!(runc.is_none_or(|it| it == allowed), "runc on {at}: {runc:?}");
    }
    f
}

/// A container does not lift its own limits, nor those of others.
pub(crate) async fn limits_cannot_be_lifted_from_inside(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("lift")).await;
    let mut config = f.script("c", "sleep 1000");
    config.linux.resources.memory_limit_in_bytes = 64 << 20;
    let id = f.start(&pod, &config).await;
    let attempts = "exec 2>&1; mount -o remount,rw /sys/fs/cgroup; mount -o remount,rw /sys/fs/cgroup/memory; \
        mkdir /tmp/g; mount -t cgroup -o memory none /tmp/g && echo MOUNTED; \
        for file in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max \
          /proc/1/root/sys/fs/cgroup/memory/memory.limit_in_bytes; do \
          test -e $file && echo -1 > $file && echo LIFTED; done; \
        mkdir /sys/fs/cgroup/memory/mine && echo GROUPED; \
        echo 1 > /proc/sys/kernel/panic && echo SYSCTL; echo b > /proc/sysrq-trigger && echo SYSRQ; true";
    let said = f.exec_text(&id, attempts).await;
    for word in ["MOUNTED", "LIFTED", "GROUPED", "SYSCTL", "SYSRQ"] {
        assert!(!said.contains(word), "{said}");
    }
    let hierarchies = sys::cgroup::Hierarchies::detect().unwrap();
    let stats = hierarchies.stats(&format!("{}/pod-lift/{id}", f.cgroup));
    assert_eq!(stats.memory.limit, Some(64 << 20));
    f
}
