//! The node agent: watches Services and EndpointSlices, plans what this node must do with them and
//! keeps the kernel's tables and programs so.

pub mod cli;
pub mod config;
pub mod dataplane;
pub mod error;
pub mod explain;
pub mod freshness;
pub mod model;
mod near;
pub mod notices;
pub mod plan;
pub mod run;
pub mod server;
pub mod source;
pub mod yaml;
