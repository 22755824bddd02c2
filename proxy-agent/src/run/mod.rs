//! Puts everything together: sources, index, plan, dataplane, health and metrics.
//!
//! Owns the order of events: nothing is written before the first lists are complete, bursts become one
//! change of the tables, a failed write is repaired from what the tables really hold. Never decides
//! what belongs into a table, and never takes the dataplane down: what is pinned outlives the agent.

mod agent;
mod configuration;
mod conntrack;
mod datagrams;
mod detector;
mod drive;
mod engine;
mod hooks;
mod log;
mod network;
mod node_name;
mod node_ports;

pub use agent::{initialize, run};
pub use datagrams::Datagrams;
pub use detector::{DetectorWarning, pod_devices, settings};
pub use drive::{DriveError, Observers, Progress, Stage, drive, writer};
pub use engine::{Engine, Need, Synced};
pub use log::filter;
pub use node_name::{NoNodeName, node_name};
pub use node_ports::{Localhost, node_addresses};
