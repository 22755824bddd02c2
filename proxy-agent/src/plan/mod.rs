//! From the model to table contents. Pure: no IO, no clock.

mod changes;

pub use changes::{Changes, FamilyChanges, FamilySnapshot, Refused, Snapshot, Tables};
