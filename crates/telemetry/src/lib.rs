//! Metrics and logs: the registry, the handles that stages keep, the tracing setup.
//!
//! Names follow Prometheus: `throughline_<subsystem>_<what>_<unit>`, base units, labels from closed sets. Every metric is
//! declared in [`Metrics`]; `docs/metrics.md` is generated from it.

mod logging;
mod metrics;
mod panics;

pub use logging::{LogFormat, check_filter, init_logging};
pub use metrics::{
    CloseReason, HttpClass, HttpLabels, IngestLabels, Metrics, OpenSession, Protocol, RejectReason, RepairKind,
    SampleOutcome, SessionLabels, SrtCount, SwitchReason, TsError, TsMarker, WebhookOutcome,
};
pub use panics::{Panicked, catch_panic};
pub use prometheus_client::{collector, encoding, metrics as prometheus_metrics, registry};
