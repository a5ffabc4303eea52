//! All tests. A new one is a function in one of these files and a line in its list.

mod autoscaling;
mod clients;
mod configuration;
mod copying;
mod identity;
mod lifecycle;
mod resources;
mod scheduling;
mod security;
mod storage;
mod tools;
mod workloads;

use crate::runner::Test;

/// Those that take longest first, so that they do not stand alone at the end.
pub(crate) fn all() -> Vec<Test> {
    let lists = [
        autoscaling::TESTS,
        lifecycle::TESTS,
        clients::TESTS,
        workloads::TESTS,
        resources::TESTS,
        security::TESTS,
        storage::TESTS,
        scheduling::TESTS,
        configuration::TESTS,
        identity::TESTS,
        tools::TESTS,
        copying::TESTS,
    ];
    lists.concat()
}
