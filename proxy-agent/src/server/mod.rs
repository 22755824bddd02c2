//! Health and metrics over HTTP, as kube-proxy offers them.
//!
//! Owns the two servers, those of health check ports, the health state and the metrics. Never decides whether something is wrong:
//! the run loop says what it does, and this module says it on.

mod ages;
mod flow_tables;
mod health;
mod health_check;
mod listen;
mod metrics;
mod process;
mod routes;
mod services;
mod statistics;
mod text_format;

pub use health::{FamilyHealth, Health, HealthReport};
pub use health_check::{ALL_ADDRESSES, HealthCheckServers};
pub use listen::{ListenError, Listening, OnBusyPort, listen};
pub use metrics::{Metrics, SyncKind};
pub use routes::{health_routes, metrics_routes};
pub use services::{ServiceDrops, ServiceLabels, ServiceSeries, ServiceTraffic};
pub use statistics::Statistics;
