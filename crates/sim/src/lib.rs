//! A whole cluster in one thread on virtual time, from a seed, under faults.
//!
//! The API server (all its filters, real admission), the store in memory, the controllers and the scheduler are the ones
//! that users run; nodes are modelled. What goes wrong goes wrong between them: answers are late or lost, watches lag and
//! break, writes meet other writes, processes crash and come back with nothing remembered, leaders change, nodes vanish,
//! clocks are put forward and back. [`run()`] does what users do, lets it go wrong, and judges every revision of the store
//! by the rules in `rules`, and what is so at rest by `rest`.
//!
//! A seed run twice is the same run, to the byte: the hash of its trace says so.

mod chaos;
mod clock;
mod demand;
mod dice;
mod hardware;
mod ledger;
mod link;
mod node;
mod observer;
mod plane;
mod reality;
mod rest;
mod rules;
mod run;
mod server;
mod usage;
mod workload;

pub use ledger::Violation;
pub use run::{Plan, Progress, Report, run};
