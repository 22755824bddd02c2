//! Session affinity `ClientIP`: which backend a client had before.

use proxy_common::{
    AffinityEntry, AffinityKey, Backend, BackendId, Family, ServiceEntry, ServiceFlags, SocketAffinityKey,
};

use crate::{policy::List, tables::Tables};

/// Whose backend is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client<A> {
    /// The sender of packets.
    Address(A),
    /// A network namespace whose sockets are served, by its cookie.
    Namespace(u64),
}

/// The backend that the client had before, if the Service has affinity and the backend is still one to choose. Counts as a
/// use: the timeout begins anew.
#[inline(always)]
pub fn recall<F: Family, T: Tables<F>>(
    tables: &mut T,
    client: Client<F::Address>,
    service: &ServiceEntry,
    list: List,
) -> Option<(BackendId, Backend<F::Address>)> {
    if !service.flags().contains(ServiceFlags::AFFINITY) {
        return None;
    }
    let now = tables.now();
    let timeout = service.affinity_timeout();
    let in_time = |entry: &mut AffinityEntry| {
        let idle = now.saturating_sub(entry.last_used());
        (idle <= timeout).then(|| {
            entry.note(now);
            entry.backend()
        })
    };
    let id = match client {
        Client::Address(client) => tables.with_affinity(&AffinityKey::new(client, service.id()), in_time),
        Client::Namespace(cookie) => {
            tables.with_socket_affinity(&SocketAffinityKey::new(cookie, service.id()), in_time)
        }
    }??;
    let backend = tables.backend(id)?;
    (backend.service() == service.id() && list.has(&backend)).then_some((id, backend))
}

/// Remembers the client's backend, if the Service has affinity.
#[inline(always)]
pub fn note<F: Family, T: Tables<F>>(
    tables: &mut T,
    client: Client<F::Address>,
    service: &ServiceEntry,
    backend: BackendId,
) {
    if !service.flags().contains(ServiceFlags::AFFINITY) {
        return;
    }
    let entry = AffinityEntry::new(backend, tables.now());
    match client {
        Client::Address(client) => tables.insert_affinity(&AffinityKey::new(client, service.id()), &entry),
        Client::Namespace(cookie) => {
            tables.insert_socket_affinity(&SocketAffinityKey::new(cookie, service.id()), &entry);
        }
    }
}
