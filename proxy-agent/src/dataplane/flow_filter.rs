//! The filter in front of the tables of flows, where those are older than it.

use aya::{
    Ebpf,
    maps::{Array, MapError},
};
use proxy_common::{FilterRow, FlowFilterPlace, maps};

/// Marks every end, so that programs look for each packet's flow. Flows that were added by programs which knew no filter, or another
/// one, have no marks of their own. It stays so until the node boots again; nothing but time is lost.
///
/// # Errors
/// The table cannot be written.
pub(super) fn mark_everything(ebpf: &mut Ebpf) -> Result<(), MapError> {
    let Some(map) = ebpf.map_mut(maps::FLOW_FILTER) else { return Ok(()) };
    let mut filter: Array<_, FilterRow> = map.try_into()?;
    (0..filter.len()).try_for_each(|row| filter.set(row, [FlowFilterPlace::MARK; FlowFilterPlace::COLUMNS], 0))
}
