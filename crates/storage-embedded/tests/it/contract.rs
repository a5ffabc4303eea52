//! The suite that every backend passes.

use std::sync::Mutex;

use storage::conformance;

use super::*;

/// Stores in directories that live as long as the test.
async fn run(limits: Limits) {
    let dirs = Mutex::new(Vec::new());
    conformance::run(|| {
        let dir = tempfile::tempdir().unwrap();
        let store = try_open(dir.path(), limits).unwrap();
        dirs.lock().unwrap().push(dir);
        async move { Arc::new(store) as Arc<dyn Store> }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_passes_the_contract() {
    run(Limits::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_passes_the_contract_while_segments_and_snapshots_come_and_go() {
    run(Limits { history_bytes: 8 << 20, segment_bytes: 8 << 10, snapshot_log_bytes: 32 << 10 })
        .await;
}

#[tokio::test]
async fn it_passes_the_contract_on_one_thread() {
    run(Limits::default()).await;
}
