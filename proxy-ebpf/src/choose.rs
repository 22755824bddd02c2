//! One backend of a list.

use proxy_common::{Backend, BackendId, Family, ServiceId, SlotRange};

use crate::tables::Tables;

/// Backends that are tried for a new connection before it is given up as a tuple clash.
pub const ATTEMPTS: usize = 4;

/// One backend of the range, uniformly at random; `None` if the one that was hit was just removed.
#[inline(always)]
pub fn one<F: Family, T: Tables<F>>(
    tables: &mut T,
    service: ServiceId,
    range: SlotRange,
) -> Option<(BackendId, Backend<F::Address>)> {
    let random = tables.random();
    let id = tables.slot(range.choose(random)?)?;
    let backend = tables.backend(id)?;
    // An entry of another Service: the tables changed between the two lookups.
    (backend.service() == service).then_some((id, backend))
}
