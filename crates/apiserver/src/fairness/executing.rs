//! The requests of a level that are served, for those who look.

use std::sync::Arc;

use auth::UserInfo;
use flowcontrol::{Running, Work};
use parking_lot::Mutex;
use slab::Slab;
use tokio::time::Instant;

use super::{Schema, asked};
use crate::request::RequestInfo;

/// What is told of a request.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) schema: Arc<Schema>,
    pub(super) user: Arc<UserInfo>,
    pub(super) info: Arc<RequestInfo>,
}

impl About {
    /// What tells its flow from others of its schema.
    pub(super) fn distinguisher(&self) -> &str {
        self.schema.flow.distinguisher.of(&asked(&self.info, &self.user))
    }
}

/// A request that is served.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) about: About,
    /// Where it waited or would have; none where a level has no queues.
    pub(super) queue: Option<usize>,
    pub(super) work: Work,
    pub(super) came: Instant,
    pub(super) began: Instant,
}

/// Those that are served. An entry costs no allocation once there have been as many.
#[derive(Debug, Default)]
pub(super) struct Executing(Mutex<Slab<Served>>);

impl Executing {
    /// One more; where it stands comes back, for [`Self::end`].
    pub(super) fn begin(
        &self,
        about: About,
        (running, work): (Running, Work),
        (came, began): (Instant, Instant),
    ) -> usize {
        self.0.lock().insert(Served { about, queue: running.queue(), work, came, began })
    }

    /// It is not served any more, and has no seats.
    pub(super) fn end(&self, place: usize) {
        // What is told of it is dropped after the lock.
        let ended = self.0.lock().try_remove(place);
        drop(ended);
    }

    /// Looks at each.
    pub(super) fn for_each(&self, mut look: impl FnMut(&Served)) {
        self.0.lock().iter().for_each(|(_, it)| look(it));
    }
}
