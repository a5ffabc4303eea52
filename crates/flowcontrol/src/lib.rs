//! Priority and fairness (KEP-1040): which flow a request belongs to, how many seats it takes, and whose turn it is.
//!
//! Pure: time comes as an argument, in nanoseconds since any beginning, and who waits is whatever the caller says. It
//! knows nothing of requests that are being served, of locks and of tasks.

mod borrow;
mod deal;
mod demand;
mod estimate;
mod pause;
mod queues;
mod schema;
mod spec;
mod timed;

pub use borrow::{Bounds, Share, allocate, nominal};
pub use deal::{flow_hash, hand};
pub use demand::{Demand, Observed, Smoothed};
pub use estimate::{Listed, list_seats, max_seats, mutation};
pub use pause::Pause;
pub use queues::{
    Arrival, Dispatch, Dispatched, QueueSet, QueueState, Refusal, Running, Ticket, Use, Waiter,
    WaitingState, Work,
};
pub use schema::{Asked, Distinguisher, FlowSchema};
pub use spec::{Kind, Level};
pub use timed::{Timed, TimedHistogram};
