//! What a `ScaledObject` (`keda.sh/v1alpha1`) says: what is scaled, by which triggers, and what the metrics of these are
//! called. Upstream: KEDA, `apis/keda/v1alpha1` and `pkg/scalers`.
//!
//! Pure: it reads no metric and no clock. The controller makes an autoscaler of it, and who serves
//! `external.metrics.k8s.io` asks the places that triggers name; both read triggers here.

mod location;
mod scaled;
mod trigger;

pub use location::Location;
pub use scaled::{ScaledObject, Target};
pub use trigger::{Cron, Measure, MetricsApi, PromQl, Trigger, normalize};

/// The group of the objects.
pub const GROUP: &str = "keda.sh";
/// Their plural name.
pub const PLURAL: &str = "scaledobjects";
/// Their kind.
pub const KIND: &str = "ScaledObject";
/// Their group and version.
pub const API_VERSION: &str = "keda.sh/v1alpha1";
/// The label by which a metric tells whose it is.
pub const NAME_LABEL: &str = "scaledobject.keda.sh/name";
