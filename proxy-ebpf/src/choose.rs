//! Which backends a client may use, and which of them it gets.

use proxy_common::{Backend, BackendId, DropReason, Family, ServiceEntry, ServiceFlags, SlotRange};

use crate::tables::Tables;

/// Backends that are tried for a new connection before it is given up as a tuple clash.
pub const ATTEMPTS: usize = 4;

/// The backends that the frontend's traffic policy allows.
///
/// # Errors
/// [`DropReason::NoEndpoint`]: nothing usable anywhere, the client is to be told.
/// [`DropReason::NoLocalEndpoint`]: something usable, but not on this node, under policy `Local`.
#[inline(always)]
pub fn eligible(service: &ServiceEntry) -> Result<SlotRange, DropReason> {
    let range = if service.flags().contains(ServiceFlags::LOCAL) { service.local() } else { service.cluster() };
    if !range.is_empty() {
        Ok(range)
    } else if service.cluster().is_empty() && service.local().is_empty() {
        Err(DropReason::NoEndpoint)
    } else {
        Err(DropReason::NoLocalEndpoint)
    }
}

/// One backend of the range, uniformly at random; `None` if the one that was hit was just removed.
#[inline(always)]
pub fn one<F: Family, T: Tables<F>>(
    tables: &mut T,
    service: &ServiceEntry,
    range: SlotRange,
) -> Option<(BackendId, Backend<F::Address>)> {
    let random = tables.random();
    let id = tables.slot(range.choose(random)?)?;
    let backend = tables.backend(id)?;
    // An entry of another Service: the tables changed between the two lookups.
    (backend.service() == service.id()).then_some((id, backend))
}
