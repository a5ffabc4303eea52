//! An agent of its own process, to be killed: it runs one pod and says the ids.

use std::path::Path;

use cri::{NamespaceMode, RuntimeService};

use crate::fixture::{Fixture, IMAGE, open};

/// `DIR CGROUP`: starts a pod with a running and a short container, prints their ids, and waits to be killed.
pub(crate) fn main(arguments: &[String]) {
    let [dir, cgroup] = arguments else { panic!("DIR CGROUP") };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let opened = open(Path::new(dir), cgroup).await;
        let fixture = Fixture {
            dir: dir.into(),
            runtime: opened,
            image: IMAGE.into(),
            cgroup: cgroup.clone(),
        };
        let mut pod = fixture.pod("survivor");
        pod.linux.security_context.namespace_options.pid = NamespaceMode::Container;
        let pod = fixture.run_pod(&pod).await;
        let wait = "echo up; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo over; exit 7";
        let short = fixture.start(&pod, &fixture.script("short", wait)).await;
        let long = fixture.start(&pod, &fixture.script("long", "echo up; sleep 1000")).await;
        let short_pid = fixture.runtime.container_status(&short).await.unwrap().pid.unwrap();
        println!("{pod} {short} {long} {short_pid}");
        std::future::pending::<()>().await;
    });
}
