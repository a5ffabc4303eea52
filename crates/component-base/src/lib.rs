//! What every part of Kubelith is given instead of taking it from the world: the clock, randomness, a way
//! to stop, feature gates, bounded blocking tasks, whom to trust.
//!
//! Knows nothing of Kubernetes objects, stores or servers. Nothing here is global, so that many clusters
//! live in one test process.

pub mod causes;
pub mod clock;
pub mod feature_gates;
pub mod health;
pub mod metrics;
pub mod random;
pub mod shutdown;
pub mod task;
pub mod tls;

pub use causes::with_causes;
pub use clock::{Clock, RealClock, VirtualClock};
pub use random::{Random, SeededRandom, SystemRandom};
pub use shutdown::{Shutdown, ShutdownSignal};

/// The metrics library, so that one version of it serves all crates.
pub use prometheus_client;
