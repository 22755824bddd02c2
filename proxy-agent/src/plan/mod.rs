//! From the model to table contents. Pure: no IO, no clock.
//!
//! Owns: which endpoints a Service uses here ([`endpoints`]), what the tables should hold for it
//! ([`desired`]), who has which id, backend number, slot range and frontend, and the [`Changes`] from
//! what is installed to what is desired ([`State`]). Never touches a table itself: that is done behind
//! the [`Tables`] trait.

mod adopt;
mod capacity;
mod changes;
pub mod desired;
mod draft;
pub mod endpoints;
mod family;
mod frontends;
mod guard;
mod health;
mod ids;
mod lists;
pub mod memory;
mod pods;
mod problem;
mod ranges;
mod record;
mod room;
mod slots;
mod state;
#[cfg(test)]
mod tests;

pub use capacity::{Capacities, FamilyUsage, Usage};
pub use changes::{Changes, FamilyChanges, FamilySnapshot, GoneBackend, Refused, Snapshot, Tables};
pub use health::{HealthCheck, HealthCheckChange, HealthChecks};
pub use pods::{BackendNumber, Pods};
pub use problem::{FullTable, PlanProblem};
pub use record::{ByPolicy, NoLocalEndpoints};
pub use state::State;
