//! An output, and how large what it takes may be.

use std::sync::Arc;

use crate::Truncation;
use crate::event::Event;
use crate::metrics::Metrics;
use crate::output::Output;

#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) output: Output,
    pub(crate) truncation: Option<Truncation>,
}

impl Sink {
    /// Takes events, and says whether it has all of them. Those that are lost are counted.
    pub(crate) async fn take(&self, events: &[Arc<Event>], metrics: &Metrics) -> bool {
        let Some(limits) = self.truncation else { return self.send(events, metrics).await };
        let (mut good, mut batch, mut bytes) = (true, Vec::new(), 0);
        for event in events {
            let Some((event, size)) = fitting(event, limits.max_event_size) else {
                metrics.lost("truncate", 1, &"event is too large even after truncating");
                good = false;
                continue;
            };
            if bytes + size > limits.max_batch_size && !batch.is_empty() {
                good &= self.send(&batch, metrics).await;
                (batch, bytes) = (Vec::new(), 0);
            }
            batch.push(event);
            bytes += size;
        }
        if !batch.is_empty() {
            good &= self.send(&batch, metrics).await;
        }
        good
    }

    async fn send(&self, events: &[Arc<Event>], metrics: &Metrics) -> bool {
        match self.output.take(events).await {
            Ok(()) => true,
            Err((lost, why)) => {
                metrics.lost(self.output.plugin(), lost, &why);
                false
            }
        }
    }
}

/// The event, or what is left of it, with its size; `None` where it is too large in any case.
fn fitting(event: &Arc<Event>, limit: usize) -> Option<(Arc<Event>, usize)> {
    let size = event.to_json().len();
    if size <= limit {
        return Some((Arc::clone(event), size));
    }
    let short = event.truncated();
    let size = short.to_json().len();
    (size <= limit).then(|| (Arc::new(short), size))
}
