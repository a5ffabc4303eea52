//! What a container may do, and what it sees.

use std::fs;
use std::os::unix::fs::symlink;

use cri::{ContainerConfig, Device, Mount, ProfileType, SecurityProfile};

use crate::fixture::Fixture;

const STATUS: &str = "grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'";

pub(crate) async fn environment_user_and_capabilities_are_as_asked(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("who")).await;
    let mut config = f.script("env", "env; pwd; id");
    config.envs = vec![("A".into(), "1 2".into()), ("FROM_IMAGE".into(), "no".into())];
    let (code, log) = f.run_script(&pod, &config).await;
    assert_eq!(code, 0);
    for line in ["A=1 2", "FROM_IMAGE=no", "HOSTNAME=who", "HOME=/root", "/root"] {
        assert!(log.lines().any(|l| l == line), "{line} in {log}");
    }
    assert!(log.ends_with("uid=0(root) gid=0(root) groups=0(root),10(wheel)"), "{log}");
    let caps = |prm: &str, bnd: &str| {
        format!(
            "CapInh:0000000000000000\nCapPrm:{prm}\nCapEff:{prm}\nCapBnd:{bnd}\n\
             CapAmb:0000000000000000\nNoNewPrivs:0\nSeccomp:0"
        )
    };
    let default = "00000000a80425fb";
    let none = "0000000000000000";
    type Change = fn(&mut ContainerConfig);
    let cases: [(&str, Change, String); 5] = [
        ("default", |_| {}, caps(default, default)),
        ("user", |c| c.linux.security_context.run_as_user = Some(1000), caps(none, default)),
        (
            "added",
            |c| {
                let caps = &mut c.linux.security_context.capabilities;
                caps.add_capabilities = vec!["NET_ADMIN".into()];
                caps.drop_capabilities = vec!["CHOWN".into()];
            },
            caps("00000000a80435fa", "00000000a80435fa"),
        ),
        (
            "dropped",
            |c| {
                c.linux.security_context.capabilities.drop_capabilities = vec!["ALL".into()];
                c.linux.security_context.no_new_privs = true;
            },
            caps(none, none).replace("NoNewPrivs:0", "NoNewPrivs:1"),
        ),
        (
            "seccomp",
            |c| c.linux.security_context.seccomp.profile_type = ProfileType::RuntimeDefault,
            caps(default, default).replace("Seccomp:0", "Seccomp:2"),
        ),
    ];
    for (name, change, expected) in cases {
        let mut config = f.script(name, STATUS);
        change(&mut config);
        assert_eq!(f.run_script(&pod, &config).await, (0, expected.clone()), "{name}");
        config.command = vec!["sleep".into(), "1000".into()];
        let id = f.start(&pod, &config).await;
        assert_eq!(f.exec_text(&id, STATUS).await, expected, "exec in {name}");
    }
    let mut config = f.script("groups", "id; pwd");
    config.working_dir = "/made/for/it".into();
    let security = &mut config.linux.security_context;
    security.run_as_username = "web".into();
    security.supplemental_groups = vec![7];
    let (_, log) = f.run_script(&pod, &config).await;
    assert_eq!(log, "uid=33(web) gid=34(web) groups=7,10(wheel),34(web)\n/made/for/it");
    f
}

pub(crate) async fn a_container_sees_its_own_devices_and_file_systems(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("dev")).await;
    let id = f.start(&pod, &f.script("c", "sleep 1000")).await;
    let devices = f.exec_text(&id, "ls /dev").await;
    assert_eq!(
        devices.split_whitespace().collect::<Vec<_>>().join(" "),
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    f.exec_text(&id, "echo x > /dev/null; head -c 4 /dev/urandom | wc -c; head -c1 /dev/zero")
        .await;
    // A device of the node is neither there nor usable when made.
    let made = f.exec(&id, "mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg").await;
    assert!(String::from_utf8_lossy(&made.stderr).contains("Operation not permitted"), "{made:?}");
    let masked =
        f.exec_text(&id, "cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l");
    assert_eq!(masked.await, "0\n0");
    for path in ["/proc/sys/kernel/panic", "/sys/fs/cgroup/memory/memory.limit_in_bytes"] {
        let written = f.exec(&id, &format!("echo 1 > {path}")).await;
        let error = String::from_utf8_lossy(&written.stderr).into_owned();
        assert!(error.contains("Read-only file system"), "{path}: {error}");
    }
    // Only the three standard descriptors, and that of the listing.
    assert_eq!(f.exec_text(&id, "ls /proc/1/fd | wc -l; ls /proc/self/fd | wc -l").await, "3\n4");
    // The binary of the node is out of reach, and the shim is not to be seen.
    assert_eq!(
        f.exec_text(&id, "readlink /proc/1/exe; cat /proc/1/comm").await,
        "/bin/busybox\nsleep"
    );
    let mut config = f.script("device", "ls /dev/zero2 && head -c 3 /dev/zero2 | wc -c");
    config.devices = vec![Device {
        container_path: "/dev/zero2".into(),
        host_path: "/dev/zero".into(),
        permissions: "r".into(),
    }];
    assert_eq!(f.run_script(&pod, &config).await, (0, "/dev/zero2\n3".into()));
    f
}

pub(crate) async fn a_read_only_root_is_read_only(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("ro")).await;
    let mut config =
        f.script("c", "exec 2>&1; touch /root-probe; touch /dev/shm/x /dev/x && echo made");
    config.linux.security_context.readonly_rootfs = true;
    let (_, log) = f.run_script(&pod, &config).await;
    assert!(log.contains("touch: /root-probe: Read-only file system"), "{log}");
    assert!(log.ends_with("made"), "{log}");
    f
}

pub(crate) async fn privileged_containers_have_everything(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("priv")).await;
    let mut config = f.script("c", STATUS);
    config.linux.security_context.privileged = true;
    config.linux.security_context.seccomp.profile_type = ProfileType::RuntimeDefault;
    let (_, log) = f.run_script(&pod, &config).await;
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let bounding = own.lines().find_map(|l| l.strip_prefix("CapBnd:\t")).unwrap();
    assert!(log.contains(&format!("CapEff:{bounding}")), "{log}");
    assert!(log.ends_with("Seccomp:0"), "{log}");
    config.command[2] = "mkdir /m && mount -t tmpfs none /m && echo mounted; \
        mkdir /sys/fs/cgroup/memory/inner && echo grouped; ls /dev/kmsg; rm -r /sys/fs/cgroup/memory/inner"
        .into();
    let (_, log) = f.run_script(&pod, &config).await;
    assert!(
        log.contains("mounted") && log.contains("grouped") && log.contains("/dev/kmsg"),
        "{log}"
    );
    f
}

pub(crate) async fn seccomp_profiles_are_in_force(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("seccomp")).await;
    let mut config = f.script("c", "exec 2>&1; unshare -U true; echo $?; mkdir /made; echo $?");
    let (_, log) = f.run_script(&pod, &config).await;
    assert_eq!(log, "0\n0", "unconfined");
    config.linux.security_context.seccomp.profile_type = ProfileType::RuntimeDefault;
    config.log_path = "default.log".into();
    let (_, log) = f.run_script(&pod, &config).await;
    assert_eq!(log, "unshare: unshare(0x10000000): Operation not permitted\n1\n0");
    let path = f.dir.join("profile.json");
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#;
    fs::write(&path, profile).unwrap();
    for no_new_privs in [false, true] {
        config.log_path = format!("{no_new_privs}.log");
        config.linux.security_context.no_new_privs = no_new_privs;
        config.linux.security_context.seccomp = SecurityProfile {
            profile_type: ProfileType::Localhost,
            localhost_ref: path.display().to_string(),
        };
        let (_, log) = f.run_script(&pod, &config).await;
        assert_eq!(log, "0\nmkdir: can't create directory '/made': Permission denied\n1");
    }
    f
}

pub(crate) async fn mounts_appear_as_asked(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("mounts")).await;
    let volume = f.dir.join("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::write(volume.join("file"), "content").unwrap();
    // What the image, or another container, planted does not lead the mount astray.
    symlink("/etc", volume.join("astray")).unwrap();
    let mount = |at: &str, from: &std::path::Path, readonly: bool| Mount {
        container_path: at.into(),
        host_path: from.display().to_string(),
        readonly,
        ..Mount::default()
    };
    let mut config = f.script(
        "c",
        "cat /v/file /one; touch /v/made; touch /r/x; touch /v/astray/probe; ls /v/etc; cat /i/motd; touch /i/x; true",
    );
    config.mounts = vec![
        mount("/v/sub/deep", &f.dir.join("logs"), false),
        mount("/v", &volume, false),
        mount("/r", &volume, true),
        mount("/one", &volume.join("file"), true),
        mount("/new", &f.dir.join("made-by-runtime"), false),
    ];
    config.mounts.push(Mount {
        container_path: "/i".into(),
        image: Some(cri::ImageSpec::new(&f.image)),
        image_sub_path: "etc".into(),
        readonly: true,
        ..Mount::default()
    });
    let (_, log) = f.run_script(&pod, &config).await;
    assert!(log.contains("contentcontent"), "{log}");
    assert!(log.contains("touch: /r/x: Read-only file system"), "{log}");
    assert!(log.contains("hello") && log.contains("touch: /i/x: Read-only file system"), "{log}");
    assert!(volume.join("made").exists() && volume.join("sub/deep").is_dir());
    assert!(f.dir.join("made-by-runtime").is_dir());
    assert!(!std::path::Path::new("/etc/probe").exists(), "a link led out of the container");
    // Nothing of it is left on the node.
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(&f.dir.join("root").display().to_string()), "{table}");
    f
}
