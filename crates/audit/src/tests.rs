use std::io;

use component_base::RealClock;

use super::*;
use crate::event::tests::event;

/// A log in memory, which may be broken.
#[derive(Clone, Default)]
struct Memory {
    lines: Arc<Mutex<Vec<String>>>,
    broken: bool,
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken {
            return Err(io::Error::other("disk full"));
        }
        self.lines.lock().push(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const BATCHING: Batching =
    Batching { buffer_size: 10, max_size: 1, max_wait: Duration::ZERO, throttle: None };

fn audit(memory: &Memory, mode: Mode, truncation: Option<Truncation>) -> Arc<Audit> {
    let policy = b"apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]";
    let policy = Policy::parse(policy).unwrap();
    let backend = Backend::log(memory.clone(), Format::Json, mode, truncation);
    Audit::start(policy, vec![backend], Arc::new(RealClock))
}

const ALL: Decision = Decision {
    level: Level::Metadata,
    omit_stages: policy::Stages::NONE,
    omit_managed_fields: false,
};

fn counted(audit: &Audit) -> String {
    let mut registry = Registry::default();
    audit.register(&mut registry);
    let text = component_base::metrics::text(&registry);
    let samples = text.lines().filter(|it| !it.starts_with('#'));
    samples.map(|it| it.trim_start_matches("apiserver_audit_")).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_broken_log_refuses_requests_only_where_that_is_wanted() {
    let broken = Memory { broken: true, ..Memory::default() };
    for (mode, expected) in [(Mode::Blocking, true), (Mode::BlockingStrict, false)] {
        let audit = audit(&broken, mode, None);
        assert_eq!(audit.process(&mut event("a"), &ALL).await, expected);
        let text = counted(&audit);
        assert_eq!(
            text, "event_total 1 error_total{plugin=\"log\"} 1 requests_rejected_total 0",
            "{mode:?}"
        );
    }
}

#[tokio::test]
async fn what_waits_is_written_before_the_end_and_in_order() {
    let memory = Memory::default();
    let audit = audit(&memory, Mode::Batch(BATCHING), None);
    for id in ["1", "2", "3"] {
        assert!(audit.process(&mut event(id), &ALL).await);
    }
    audit.finish().await;
    let lines = memory.lines.lock();
    let ids: Vec<bool> = lines
        .iter()
        .zip(["1", "2", "3"])
        .map(|(it, id)| it.contains(&format!("\"auditID\":\"{id}\"")))
        .collect();
    assert_eq!(ids, [true; 3], "{lines:?}");
}

#[tokio::test]
async fn a_full_queue_loses_events_and_counts_them() {
    let memory = Memory::default();
    let batching = Batching { buffer_size: 2, ..BATCHING };
    let audit = audit(&memory, Mode::Batch(batching), None);
    // Nobody reads the queue before this test waits.
    for id in ["1", "2", "3", "4"] {
        assert!(audit.process(&mut event(id), &ALL).await);
    }
    audit.finish().await;
    assert_eq!(memory.lines.lock().len(), 2);
    let text = counted(&audit);
    assert_eq!(text, "event_total 4 error_total{plugin=\"buffered\"} 2 requests_rejected_total 0");
}

#[tokio::test]
async fn events_that_are_too_large_lose_their_objects_and_then_all() {
    let memory = Memory::default();
    let limits = Truncation { max_event_size: 1_000, max_batch_size: 10_000 };
    let audit = audit(&memory, Mode::Blocking, Some(limits));
    let mut large = event("large");
    large.request_object = Some(vec![b'1'; 2_000].into());
    audit.process(&mut large, &ALL).await;
    let mut larger = event("larger");
    larger.request_uri = "x".repeat(2_000);
    audit.process(&mut larger, &ALL).await;
    audit.process(&mut event("small"), &ALL).await;
    let lines = memory.lines.lock();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].contains("\"annotations\":{\"audit.k8s.io/truncated\":\"true\"}"));
    assert!(!lines[0].contains("requestObject"));
    assert!(!lines[1].contains("annotations"));
    assert!(counted(&audit).contains("error_total{plugin=\"truncate\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn batches_are_no_more_often_than_the_throttle_says() {
    let memory = Memory::default();
    let throttle = Some(Throttle { qps: 2.0, burst: 2 });
    let audit = audit(&memory, Mode::Batch(Batching { throttle, ..BATCHING }), None);
    let began = tokio::time::Instant::now();
    for id in ["1", "2", "3", "4"] {
        audit.process(&mut event(id), &ALL).await;
    }
    while memory.lines.lock().len() < 4 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Two at once, then one each half second.
    let took = began.elapsed().as_millis();
    assert!((990..1_100).contains(&took), "{took}");
}
