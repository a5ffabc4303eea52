//! Upstream's flags of `kube-scheduler`, all of them.

use crate::upstream::Kind::{Number, Span, Switch, Text};
use crate::upstream::Use::{Idle, NotBuilt, Used};
use crate::upstream::{CLIENT, COMMON, DELEGATING, Flag, SERVING, Table, flag};

/// What it takes.
pub(crate) static TABLE: Table = Table {
    program: super::NAME,
    flags: &[FLAGS, SERVING, DELEGATING, COMMON, CLIENT],
    own: &[],
    upstream: &[],
};

/// By name.
#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    flag("authentication-tolerate-lookup-failure", Switch, "true", Used),
    flag("config", Text, "", Used),
    flag("kube-api-burst", Number, "100", Idle("writes are bounded by number, not by rate")),
    flag("kube-api-qps", Number, "50", Idle("writes are bounded by number, not by rate")),
    flag("pod-max-in-unschedulable-pods-duration", Span, "5m0s", NotBuilt),
    flag("profiling", Switch, "true", Used),
    flag("secure-port", Number, "10259", Used),
    flag("write-config-to", Text, "", NotBuilt),
];
