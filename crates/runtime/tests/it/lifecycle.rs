//! Sandboxes and containers from beginning to end.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use component_base::{Clock, RealClock};
use cri::{
    ContainerEventType, ContainerFilter, ContainerState, ImageService, ImageSpec,
    LinuxContainerResources, NamespaceMode, PodSandboxConfig, PodSandboxFilter, PodSandboxState,
    RuntimeEvent, RuntimeService,
};
use futures::StreamExt;

use crate::fixture::{Fixture, PATIENCE, open, wait_exit, wait_log};

pub(crate) async fn a_container_runs_and_its_exit_and_log_are_kept(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("basic")).await;
    let script = "echo out; echo err >&2; printf unfinished; exit 3";
    let id = f.start(&pod, &f.script("c", script)).await;
    let status = f.wait(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.started_at > 0 && status.finished_at >= status.started_at);
    assert_eq!(status.image_name, "test.local/busybox:1");
    let log = fs::read_to_string(&status.log_path).unwrap();
    let mut lines: Vec<String> = log
        .lines()
        .map(|line| {
            let (time, rest) = line.split_once(' ').unwrap();
            time.parse::<jiff::Timestamp>().unwrap();
            rest.to_owned()
        })
        .collect();
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout P unfinished"]);
    for (script, code, reason) in
        [("exit 0", 0, "Completed"), ("kill -9 $$", 0, "Completed"), ("exit 137", 137, "Error")]
    {
        let id = f.start(&pod, &f.script("d", script)).await;
        let status = f.wait(&id).await;
        // The first process of a namespace is not killed by its own signals, so that script ends well.
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{script}");
    }
    f.runtime.remove_pod_sandbox(&pod).await.unwrap();
    let left = f.runtime.list_containers(&ContainerFilter::default()).await.unwrap();
    assert!(left.is_empty());
    assert!(f.runtime.pod_sandbox_status(&pod).await.unwrap_err().is_not_found());
    assert_eq!(fs::read_dir(f.dir.join("run")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(f.dir.join("root/containers")).unwrap().count(), 0);
    // The log is the node agent's to remove.
    assert!(fs::exists(&status.log_path).unwrap());
    f
}

pub(crate) async fn long_lines_are_cut_and_logs_are_opened_again(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("logs")).await;
    let script = "dd if=/dev/zero bs=1024 count=40 2>/dev/null | tr '\\0' x; echo; echo first; \
        while [ ! -e /tmp/go ]; do sleep 0.02; done; echo second";
    let id = f.start(&pod, &f.script("c", script)).await;
    let path = f.runtime.container_status(&id).await.unwrap().log_path;
    wait_log(&path, "first").await;
    let tags: Vec<(String, usize)> = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| {
            let parts: Vec<&str> = line.splitn(4, ' ').collect();
            (parts[2].to_owned(), parts[3].len())
        })
        .collect();
    let expected = [("P", 16384), ("P", 16384), ("F", 8192), ("F", 5)];
    assert_eq!(tags, expected.map(|(tag, length)| (tag.to_owned(), length)));
    let moved = format!("{path}.1");
    fs::rename(&path, &moved).unwrap();
    f.runtime.reopen_container_log(&id).await.unwrap();
    f.exec(&id, "touch /tmp/go").await;
    f.wait(&id).await;
    assert_eq!(crate::fixture::log_content(&path), "second");
    assert!(crate::fixture::log_content(&moved).ends_with("first"));
    f
}

pub(crate) async fn what_cannot_be_started_says_why(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("bad")).await;
    let prefix = "failed to create containerd task: failed to create shim task: OCI runtime create \
        failed: runc create failed: unable to start container process: ";
    for (command, expected) in [
        ("/nope", "exec: \"/nope\": stat /nope: no such file or directory: unknown"),
        ("nope", "exec: \"nope\": executable file not found in $PATH: unknown"),
        ("/tmp", "exec: \"/tmp\": permission denied: unknown"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied: unknown"),
    ] {
        let mut config = f.script("c", "");
        config.command = vec![command.into()];
        let id =
            f.runtime.create_container(&pod, &config, &PodSandboxConfig::default()).await.unwrap();
        let error = f.runtime.start_container(&id).await.unwrap_err();
        assert_eq!(error.message, format!("{prefix}{expected}"));
        let status = f.runtime.container_status(&id).await.unwrap();
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
        assert_eq!(status.message, error.message);
        assert_eq!(status.container.state, ContainerState::Exited);
    }
    let mut config = f.script("c", "true");
    config.linux.security_context.run_as_username = "ghost".into();
    let id = f.runtime.create_container(&pod, &config, &PodSandboxConfig::default()).await.unwrap();
    let error = f.runtime.start_container(&id).await.unwrap_err();
    assert!(error.message.contains("unable to find user ghost"), "{error}");
    let mut config = f.script("c", "true");
    config.image = ImageSpec::new("test.local/absent:1");
    let absent = f.runtime.create_container(&pod, &config, &PodSandboxConfig::default()).await;
    assert!(absent.unwrap_err().is_not_found());
    let exec = f.start(&pod, &f.script("e", "sleep 1000")).await;
    let cmd = ["/nope".to_owned()];
    let error = f.runtime.exec_sync(&exec, &cmd, PATIENCE).await.unwrap_err();
    assert!(
        error.message.ends_with(
            "OCI runtime exec failed: exec failed: unable to start container process: \
             exec: \"/nope\": stat /nope: no such file or directory: unknown"
        ),
        "{error}"
    );
    f
}

pub(crate) async fn stop_asks_then_kills(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("stop")).await;
    let polite = "trap 'echo bye; exit 5' TERM; echo up; while true; do sleep 0.02; done";
    let id = f.start(&pod, &f.script("polite", polite)).await;
    let log = f.runtime.container_status(&id).await.unwrap().log_path;
    wait_log(&log, "up").await;
    f.runtime.stop_container(&id, PATIENCE).await.unwrap();
    let status = f.runtime.container_status(&id).await.unwrap();
    assert_eq!((status.exit_code, status.container.state), (5, ContainerState::Exited));
    let stubborn = "trap '' TERM; echo up; while true; do sleep 0.02; done";
    let id = f.start(&pod, &f.script("stubborn", stubborn)).await;
    let log = f.runtime.container_status(&id).await.unwrap().log_path;
    wait_log(&log, "up").await;
    f.runtime.stop_container(&id, Duration::from_millis(100)).await.unwrap();
    assert_eq!(f.runtime.container_status(&id).await.unwrap().exit_code, 137);
    let mut other =
        f.script("usr1", "trap 'exit 6' USR1; echo up; while true; do sleep 0.02; done");
    other.stop_signal = "SIGUSR1".into();
    let id = f.start(&pod, &other).await;
    let log = f.runtime.container_status(&id).await.unwrap().log_path;
    wait_log(&log, "up").await;
    f.runtime.stop_container(&id, PATIENCE).await.unwrap();
    assert_eq!(f.runtime.container_status(&id).await.unwrap().exit_code, 6);
    // Again is harmless.
    f.runtime.stop_container(&id, PATIENCE).await.unwrap();
    f
}

pub(crate) async fn events_tell_what_happens_in_order(f: Fixture) -> Fixture {
    let mut events = f.runtime.container_events();
    let pod = f.run_pod(&f.pod("events")).await;
    let id = f.start(&pod, &f.script("c", "true")).await;
    f.wait(&id).await;
    f.runtime.remove_pod_sandbox(&pod).await.unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&("pod", ContainerEventType::Deleted)) {
        let next = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap();
        let RuntimeEvent::Container(event) = next else { panic!("{next:?}") };
        assert_eq!(event.pod_sandbox_id, pod);
        let who = if event.container_id == pod { "pod" } else { "container" };
        seen.push((who, event.event_type));
    }
    use ContainerEventType::{Created, Deleted, Started, Stopped};
    let mut expected = vec![("pod", Created), ("pod", Started)];
    expected.extend([Created, Started, Stopped].map(|e| ("container", e)));
    expected.extend([("pod", Stopped), ("container", Deleted), ("pod", Deleted)]);
    assert_eq!(seen, expected);
    f
}

pub(crate) async fn containers_of_a_pod_share_what_they_should(f: Fixture) -> Fixture {
    let mut config = f.pod("shared");
    config.dns_config = Some(cri::DnsConfig {
        servers: vec!["10.9.9.9".into()],
        searches: vec!["q.x".into()],
        options: vec!["ndots:2".into()],
    });
    config.linux.sysctls = BTreeMap::from([("net.core.somaxconn".into(), "77".into())]);
    let pod = f.run_pod(&config).await;
    let a = f.start(&pod, &f.script("a", "sleep 1000")).await;
    let b = f.start(&pod, &f.script("b", "sleep 1000")).await;
    for kind in ["net", "ipc", "uts"] {
        let link = format!("readlink /proc/self/ns/{kind}");
        let (in_a, in_b) = (f.exec_text(&a, &link).await, f.exec_text(&b, &link).await);
        assert_eq!(in_a, in_b, "{kind}");
        let host = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(in_a, host.display().to_string(), "{kind}");
    }
    for kind in ["mnt", "pid"] {
        let link = format!("readlink /proc/self/ns/{kind}");
        assert_ne!(f.exec_text(&a, &link).await, f.exec_text(&b, &link).await, "{kind}");
    }
    f.exec_text(&a, "echo hello > /dev/shm/x").await;
    assert_eq!(f.exec_text(&b, "cat /dev/shm/x").await, "hello");
    assert_eq!(f.exec_text(&a, "hostname; cat /etc/hostname").await, "shared\nshared");
    assert_eq!(
        f.exec_text(&a, "cat /etc/resolv.conf").await,
        "search q.x\nnameserver 10.9.9.9\noptions ndots:2"
    );
    assert_eq!(f.exec_text(&a, "cat /proc/sys/net/core/somaxconn").await, "77");
    let status = f.runtime.pod_sandbox_status(&pod).await.unwrap();
    assert_eq!(status.ips[0].to_string(), "10.9.8.7");
    assert_eq!(status.sandbox.state, PodSandboxState::Ready);
    // A pod on the node's network has its names.
    let mut host = f.pod("hostnet");
    host.linux.security_context.namespace_options.network = NamespaceMode::Node;
    let host_pod = f.run_pod(&host).await;
    let c = f.start(&host_pod, &f.script("c", "sleep 1000")).await;
    let own = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert_eq!(f.exec_text(&c, "readlink /proc/self/ns/net").await, own);
    f.runtime.stop_pod_sandbox(&pod).await.unwrap();
    f.runtime.stop_pod_sandbox(&pod).await.unwrap();
    let status = f.runtime.pod_sandbox_status(&pod).await.unwrap();
    assert_eq!(status.sandbox.state, PodSandboxState::NotReady);
    f
}

pub(crate) async fn shared_process_ids_have_a_first_process_that_reaps(f: Fixture) -> Fixture {
    let mut pod = f.pod("pids");
    pod.linux.security_context.namespace_options.pid = NamespaceMode::Pod;
    let pod = f.run_pod(&pod).await;
    let with = |name: &str, script: &str, mode: NamespaceMode| {
        let mut config = f.script(name, script);
        config.linux.security_context.namespace_options.pid = mode;
        config
    };
    let a = f.start(&pod, &with("a", "sleep 1000", NamespaceMode::Pod)).await;
    let script = "(sleep 0.05 &) ; exec sleep 1001";
    let b = f.start(&pod, &with("b", script, NamespaceMode::Pod)).await;
    assert_eq!(f.exec_text(&a, "cat /proc/1/comm").await, "pause");
    let processes = f.exec_text(&a, "ps -o args").await;
    assert!(processes.contains("sleep 1001"), "{processes}");
    // The orphan of `b` ends and leaves no zombie.
    let gone = "i=0; while ps -o stat,args | grep -q '[Z] \\|sleep 0[.]05'; do sleep 0.02; \
        i=$((i+1)); [ $i -lt 200 ] || exit 1; done";
    f.exec_text(&a, gone).await;
    // The end of a first process takes its container's others along, and no other's.
    let script = "sleep 1002 & exit 4";
    let c = f.start(&pod, &with("c", script, NamespaceMode::Pod)).await;
    assert_eq!(f.wait(&c).await.exit_code, 4);
    let processes = f.exec_text(&a, "ps -o args").await;
    assert!(!processes.contains("sleep 1002") && processes.contains("sleep 1001"), "{processes}");
    let mut target = with("debug", "sleep 1003", NamespaceMode::Target);
    target.linux.security_context.namespace_options.target_id = b;
    f.start(&pod, &target).await;
    assert!(f.exec_text(&a, "ps -o args").await.contains("sleep 1003"));
    let mut node = f.pod("hostpid");
    node.linux.security_context.namespace_options.pid = NamespaceMode::Node;
    let node = f.run_pod(&node).await;
    let d = f.start(&node, &with("d", "sleep 1004", NamespaceMode::Node)).await;
    let own = fs::read_link("/proc/self/ns/pid").unwrap().display().to_string();
    assert_eq!(f.exec_text(&d, "readlink /proc/self/ns/pid").await, own);
    f.runtime.stop_container(&d, Duration::ZERO).await.unwrap();
    assert_eq!(f.runtime.container_status(&d).await.unwrap().exit_code, 137);
    f
}

pub(crate) async fn resources_are_set_and_changed_and_measured(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("limits")).await;
    let mut config = f.script("c", "i=0; while true; do i=$((i+1)); done");
    config.linux.resources = LinuxContainerResources {
        cpu_shares: 512,
        cpu_period: 100_000,
        cpu_quota: 50_000,
        memory_limit_in_bytes: 64 << 20,
        pids_limit: 100,
        oom_score_adj: 500,
        ..LinuxContainerResources::default()
    };
    let id = f.start(&pod, &config).await;
    assert_eq!(f.exec_text(&id, "cat /proc/1/oom_score_adj").await, "500");
    let hierarchies = sys::cgroup::Hierarchies::detect().unwrap();
    let group = format!("{}/pod-limits/{id}", f.cgroup);
    let read = |controller: &str, file: &str| {
        let dir = hierarchies.dir(controller, &group).unwrap();
        fs::read_to_string(dir.join(file)).unwrap().trim().to_owned()
    };
    if hierarchies.version == sys::cgroup::Version::V1 {
        assert_eq!(read("cpu", "cpu.shares"), "512");
        assert_eq!(read("cpu", "cpu.cfs_quota_us"), "50000");
        assert_eq!(read("memory", "memory.limit_in_bytes"), (64 << 20).to_string());
        assert_eq!(read("pids", "pids.max"), "100");
        let more = LinuxContainerResources {
            memory_limit_in_bytes: 128 << 20,
            ..LinuxContainerResources::default()
        };
        f.runtime.update_container_resources(&id, &more).await.unwrap();
        assert_eq!(read("memory", "memory.limit_in_bytes"), (128 << 20).to_string());
        assert_eq!(read("cpu", "cpu.shares"), "512");
        let inside = f.exec_text(&id, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes").await;
        assert_eq!(inside, (128 << 20).to_string());
    }
    let status = f.runtime.container_status(&id).await.unwrap();
    assert_eq!(status.resources.memory_limit_in_bytes, 128 << 20);
    f.exec_text(&id, "dd if=/dev/zero of=/tmp/file bs=1024 count=2048 2>/dev/null").await;
    let stats = f.runtime.container_stats(&id).await.unwrap();
    assert!(stats.cpu.usage_core_nano_seconds > 0, "{stats:?}");
    assert!(stats.memory.usage_bytes > 0 && stats.memory.working_set_bytes > 0, "{stats:?}");
    assert!(stats.process_count >= 1 && stats.writable_layer.used_bytes >= 2 << 20, "{stats:?}");
    let pod_stats = f.runtime.pod_sandbox_stats(&pod).await.unwrap();
    assert_eq!(pod_stats.containers.len(), 1);
    assert!(pod_stats.cpu.usage_core_nano_seconds >= stats.cpu.usage_core_nano_seconds);
    f
}

pub(crate) async fn a_container_out_of_memory_is_killed_as_a_whole(f: Fixture) -> Fixture {
    let mut events = f.runtime.container_events();
    let pod = f.run_pod(&f.pod("oom")).await;
    // The hungry one is a child: the first process would live on if only that were killed.
    let script = "tail /dev/zero; echo survived; sleep 1000";
    let mut config = f.script("c", script);
    config.linux.resources.memory_limit_in_bytes = 16 << 20;
    config.linux.resources.memory_swap_limit_in_bytes = 16 << 20;
    let id = f.start(&pod, &config).await;
    let status = f.wait(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    let mut told = false;
    while !told {
        let next = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap();
        let RuntimeEvent::Container(event) = next else { panic!("{next:?}") };
        told = event.event_type == ContainerEventType::OomKilled && event.container_id == id;
    }
    f
}

pub(crate) async fn a_restarted_agent_finds_everything_again(f: Fixture) -> Fixture {
    let dir = f.dir.display().to_string();
    let cgroup = f.cgroup.clone();
    // The agent to be killed works over the same directories.
    drop(f.runtime);
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["agent", &dir, &cgroup])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(agent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    let [pod, short, long, short_pid] = words[..] else { panic!("{line:?}") };
    agent.kill().unwrap();
    agent.wait().unwrap();
    // One container ends while no agent is there.
    fs::write(format!("/proc/{short_pid}/root/tmp/go"), "").unwrap();
    let exit_file = f.dir.join("root/containers").join(short).join("exit.json");
    let ended = async {
        while !exit_file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    let runtime = open(&f.dir, &cgroup).await;
    let sandboxes = runtime.list_pod_sandbox(&PodSandboxFilter::default()).await.unwrap();
    assert_eq!(sandboxes.len(), 1);
    assert_eq!((sandboxes[0].id.as_str(), sandboxes[0].state), (pod, PodSandboxState::Ready));
    let status = runtime.container_status(short).await.unwrap();
    assert_eq!((status.container.state, status.exit_code), (ContainerState::Exited, 7));
    assert!(crate::fixture::log_content(&status.log_path).ends_with("over"));
    let status = runtime.container_status(long).await.unwrap();
    assert_eq!(status.container.state, ContainerState::Running);
    let f = Fixture { runtime, ..f };
    assert_eq!(f.exec_text(long, "echo still here").await, "still here");
    // It is heard as if nothing had happened.
    f.runtime.stop_container(long, Duration::ZERO).await.unwrap();
    assert_eq!(wait_exit(&f.runtime, long).await.exit_code, 137);
    // A shim that is killed takes nothing with it but what was its own to tell.
    let orphan = f.start(pod, &f.script("orphan", "sleep 1000")).await;
    let first = f.runtime.container_status(&orphan).await.unwrap().pid.unwrap();
    let stat = fs::read_to_string(format!("/proc/{first}/stat")).unwrap();
    let shim: i32 = stat.rsplit(')').next().unwrap().split(' ').nth(2).unwrap().parse().unwrap();
    sys::process::kill(shim, 9).unwrap();
    let status = wait_exit(&f.runtime, &orphan).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    let status = f.runtime.pod_sandbox_status(pod).await.unwrap();
    assert_eq!(status.sandbox.state, PodSandboxState::NotReady);
    f.runtime.remove_pod_sandbox(pod).await.unwrap();
    // Whoever inherited it may not have taken its end yet.
    assert!(fs::read_link(format!("/proc/{first}/exe")).is_err(), "the orphan is gone too");
    f
}

pub(crate) async fn images_are_listed_shared_and_collected(f: Fixture) -> Fixture {
    let images = f.runtime.list_images(None).await.unwrap();
    assert_eq!(images.len(), 1);
    let image = &images[0];
    assert_eq!(
        (image.id.as_str(), &image.repo_tags[..]),
        (f.image.as_str(), &["test.local/busybox:1".to_owned()][..])
    );
    assert_eq!(image.config.env, ["FROM_IMAGE=yes"]);
    let by_digest = ImageSpec::new(&image.repo_digests[0]);
    assert_eq!(f.runtime.image_status(&by_digest).await.unwrap().as_ref(), Some(image));
    let pod = f.run_pod(&f.pod("image")).await;
    let id = f.start(&pod, &f.script("c", "cat /etc/motd; ls /etc/gone; sleep 1000")).await;
    let log = f.runtime.container_status(&id).await.unwrap().log_path;
    wait_log(&log, "ls: /etc/gone: No such file or directory").await;
    // A container keeps its layers when the image goes.
    f.runtime.remove_image(&ImageSpec::new(&f.image)).await.unwrap();
    assert_eq!(f.runtime.image_status(&ImageSpec::new(&f.image)).await.unwrap(), None);
    assert_eq!(f.exec_text(&id, "cat /etc/motd").await, "hello");
    assert_eq!(fs::read_dir(f.dir.join("root/layers")).unwrap().count(), 2);
    f.runtime.remove_pod_sandbox(&pod).await.unwrap();
    assert_eq!(f.runtime.collect_garbage().await.unwrap(), 2);
    assert_eq!(fs::read_dir(f.dir.join("root/layers")).unwrap().count(), 0);
    f
}

pub(crate) async fn many_pods_start_at_once(f: Fixture) -> Fixture {
    let started = RealClock.monotonic();
    let starts = (0..30).map(|n| {
        let f = &f;
        async move {
            let pod = f.run_pod(&f.pod(&format!("many-{n}"))).await;
            let id = f.start(&pod, &f.script("c", "echo up; sleep 1000")).await;
            (pod, id)
        }
    });
    let pods = futures::future::join_all(starts).await;
    println!("  30 pods at once: {:?}", started.elapsed());
    for (_, id) in &pods {
        let status = f.runtime.container_status(id).await.unwrap();
        assert_eq!(status.container.state, ContainerState::Running);
    }
    let first = f.runtime.container_status(&pods[0].1).await.unwrap().pid.unwrap();
    let stat = fs::read_to_string(format!("/proc/{first}/stat")).unwrap();
    let shim = stat.rsplit(')').next().unwrap().split(' ').nth(2).unwrap().to_owned();
    let rollup = fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
    let private: u64 = rollup
        .lines()
        .filter(|l| l.starts_with("Private_"))
        .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    // The binary that a shim runs is seen through what cannot be written.
    let overlay = rustix::fs::statfs(format!("/proc/{shim}/exe")).unwrap().f_type == 0x794c_7630;
    let memory = fs::read_link(format!("/proc/{shim}/exe")).unwrap().starts_with("/memfd:kubelith");
    assert!(overlay || memory, "the binary is not sealed");
    println!("  sealed by an overlay: {overlay}");
    println!("  private memory of a shim: {private} KiB");
    assert!(private < 1024, "{rollup}");
    let mut times = Vec::new();
    for _ in 0..50 {
        let begun = RealClock.monotonic();
        let config = f.script("timed", "exit 0");
        let created = f
            .runtime
            .create_container(&pods[0].0, &config, &PodSandboxConfig::default())
            .await
            .unwrap();
        let made = begun.elapsed();
        f.runtime.start_container(&created).await.unwrap();
        times.push((begun.elapsed(), made));
    }
    times.sort();
    println!(
        "  create + start: best {:?}, median {:?}, worst {:?}; create alone {:?}",
        times[0].0, times[25].0, times[49].0, times[25].1
    );
    f
}
