//! Security contexts, and processes that containers share.

use anyhow::{Result, ensure};

use crate::case::{Case, text};
use crate::runner::Test;

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "001-1209 001-1310 001-1354 001-1402: users, groups, capabilities",
        run: contexts,
        alone: false,
    },
    Test {
        name: "002-1427 002-1446: supplemental groups, a user of the container",
        run: groups,
        alone: false,
    },
    Test {
        name: "001-4066 002-1812: one process namespace for a pod",
        run: shared_processes,
        alone: false,
    },
    Test { name: "002-0253 to 002-0955: dns settings of a pod", run: dns, alone: false },
];

fn contexts(case: Case<'_>) -> Result<()> {
    case.apply(&["001-1209", "001-1310", "001-1354", "001-1402"])?;
    let pods = [
        "security-context-demo",
        "security-context-demo-2",
        "security-context-demo-3",
        "security-context-demo-4",
    ];
    case.ready(&pods)?;
    let [first, second, third, fourth] = pods;
    let ids = case.exec(first, &["id"])?;
    ensure!(ids == "uid=1000 gid=3000 groups=2000,3000\n", "{ids:?}");
    let made = case.exec(
        first,
        &["sh", "-c", "cd /data/demo && echo hello > testfile && ls -ln testfile && ls -ldn ."],
    )?;
    let owners: Vec<Vec<&str>> =
        made.lines().map(|line| line.split_whitespace().skip(2).take(2).collect()).collect();
    ensure!(owners == [["1000", "2000"], ["0", "2000"]], "{made}");
    ensure!(made.contains("drwxrwsrwx"), "{made}");
    let told = case.exec(first, &["grep", "NoNewPrivs", "/proc/1/status"])?;
    ensure!(told.trim_end().ends_with('1'), "{told}");
    let ids = case.exec(second, &["id", "-u"])?;
    ensure!(ids == "2000\n", "{ids:?}");
    let capabilities = "CapPrm:\t00000000a80425fb\n";
    let told = case.exec(third, &["grep", "CapPrm", "/proc/1/status"])?;
    ensure!(told == capabilities, "{told}");
    let told = case.exec(fourth, &["grep", "CapPrm", "/proc/1/status"])?;
    ensure!(told == "CapPrm:\t00000000aa0435fb\n", "{told}");
    case.remove(&pods)
}

fn groups(case: Case<'_>) -> Result<()> {
    case.apply(&["002-1427", "002-1446"])?;
    case.ready(&["security-context-demo", "security-context-demo-2"])?;
    let ids = case.exec("security-context-demo", &["id"])?;
    ensure!(ids == "uid=1000 gid=3000 groups=3000,4000\n", "{ids:?}");
    let pod = case.until("pods", "security-context-demo-2", "its user is told", |pod| {
        crate::case::number(crate::case::container(pod, "/user/linux"), "/uid") == 2000
    })?;
    ensure!(text(&pod, "/status/phase") == "Running", "{pod}");
    case.remove(&["security-context-demo", "security-context-demo-2"])
}

fn shared_processes(case: Case<'_>) -> Result<()> {
    for id in ["001-4066", "002-1812"] {
        case.apply(&[id])?;
        case.ready(&["nginx"])?;
        let processes = case.kubectl(&["exec", "nginx", "-c", "shell", "--", "ps"])?;
        for name in ["nginx: master process", "nginx: worker process"] {
            ensure!(processes.contains(name), "{id}: {processes}");
        }
        // The other container's files are reached through its process.
        let script = "for pid in $(pidof nginx); do head -n 1 /proc/$pid/root/etc/nginx/nginx.conf && break; done";
        let line = case.kubectl(&["exec", "nginx", "-c", "shell", "--", "sh", "-c", script])?;
        ensure!(line.contains("user"), "{id}: {line:?}");
        case.remove(&["nginx"])?;
    }
    Ok(())
}

fn dns(case: Case<'_>) -> Result<()> {
    case.apply(&["002-0855"])?;
    case.ready(&["dns-example"])?;
    let text = case.exec("dns-example", &["cat", "/etc/resolv.conf"])?;
    ensure!(
        text == "search ns1.svc.cluster-domain.example my.dns.search.suffix\nnameserver 192.0.2.1\noptions ndots:2 edns0\n",
        "{text:?}"
    );
    case.remove(&["dns-example"])
}
