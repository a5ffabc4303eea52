//! Somebody else's `nft flush ruleset`: the kernel tells of it, and the rules come back at once.

use std::sync::Arc;

use anyhow::{Context, Result};
use component_base::task::BlockingPool;
use component_base::with_causes;
use network::PodNetwork;
use sys::netlink::Netns;
use sys::nftables::Monitor;
use tokio::sync::watch;

/// Changes when a table of the node may have been deleted.
pub(crate) type Removed = watch::Receiver<u64>;

/// Listens as long as somebody wants to know, on a thread that sleeps in the kernel.
///
/// # Errors
/// When the kernel cannot be listened to.
pub(crate) fn listen() -> Result<Removed> {
    let listening = "could not listen to changes of nf_tables";
    let mut monitor = Monitor::open(&Netns::own()).context(listening)?;
    let (sender, removed) = watch::channel(0);
    let listen = move || {
        while !sender.is_closed() {
            match monitor.wait() {
                Ok(()) => sender.send_modify(|times| *times += 1),
                Err(error) => {
                    tracing::warn!(%error, "rules that somebody else removes will not be seen");
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("nft-monitor".into()).spawn(listen).context(listening)?;
    Ok(removed)
}

/// Puts the rules of the pod network back when they are gone.
pub(crate) async fn restore(network: Arc<PodNetwork>, mut removed: Removed) {
    let pool = BlockingPool::new("pod-network-rules", 1);
    while removed.changed().await.is_ok() {
        let network = Arc::clone(&network);
        match pool.run(move || network.restore_rules()).await {
            Ok(Ok(true)) => {
                tracing::warn!("somebody removed the pod network's rules: they are back")
            }
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                tracing::error!(error = with_causes(&error), "the pod network's rules are gone");
            }
            Err(_) => return,
        }
    }
}
