//! What the settings follow from in UDP frontends: whether some have addresses for clients outside, and a generation that changes
//! when one has become another Service's, so that flows of datagrams look theirs up again. Pure.

use std::collections::BTreeMap;

use proxy_common::{Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey};

use crate::plan::{Changes, Snapshot};

/// What is to be known of UDP frontends outside the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Datagrams {
    /// Whether a UDP Service has, or had, an address for clients outside other than nodePorts.
    pub external: bool,
    /// How often frontends have changed hands; wraps.
    pub generation: u16,
}

/// The UDP frontends and whose they are.
#[derive(Debug, Default)]
pub(super) struct Owners {
    v4: BTreeMap<ServiceKey<[u8; 4]>, ServiceId>,
    v6: BTreeMap<ServiceKey<[u8; 16]>, ServiceId>,
    known: Datagrams,
}

impl Owners {
    /// What is known so far.
    pub(super) const fn known(&self) -> Datagrams {
        self.known
    }

    /// Starts from what the tables hold.
    pub(super) fn adopt(&mut self, snapshot: &Snapshot) {
        let Snapshot { names: _, v4, v6 } = snapshot;
        (self.v4, self.v6) = (BTreeMap::new(), BTreeMap::new());
        // Nobody has to look anything up again for what was there before.
        note(&mut self.v4, v4.services.iter(), &mut self.known);
        note(&mut self.v6, v6.services.iter(), &mut self.known);
    }

    /// Takes changes in that are about to be applied.
    pub(super) fn change(&mut self, changes: &Changes) {
        let Changes { names: _, v4, v6, retired_names: _, gone_backends: _ } = changes;
        let moved = note(&mut self.v4, v4.services.iter().map(|(key, entry)| (key, entry)), &mut self.known)
            | note(&mut self.v6, v6.services.iter().map(|(key, entry)| (key, entry)), &mut self.known);
        for key in &v4.removed_services {
            self.v4.remove(key);
        }
        for key in &v6.removed_services {
            self.v6.remove(key);
        }
        if moved {
            self.known.generation = self.known.generation.wrapping_add(1);
        }
    }
}

/// Whether a frontend is not whose it was: another one's, or new. A new one may have been somebody's before, whose flows are still there.
fn note<'a, A: Copy + Ord + 'a>(
    owners: &mut BTreeMap<ServiceKey<A>, ServiceId>,
    services: impl Iterator<Item = (&'a ServiceKey<A>, &'a ServiceEntry)>,
    known: &mut Datagrams,
) -> bool {
    let mut moved = false;
    for (key, entry) in services.filter(|(key, _)| key.protocol() == Some(Protocol::Udp)) {
        let flags = entry.flags();
        known.external |= flags.contains(ServiceFlags::EXTERNAL) && !flags.contains(ServiceFlags::NODE_PORT);
        moved |= owners.insert(*key, entry.id()) != Some(entry.id());
    }
    moved
}

#[cfg(test)]
mod tests {
    use proxy_common::{Port, SlotRange};

    use super::*;

    const DNS: ServiceKey<[u8; 4]> = ServiceKey::new([203, 0, 113, 5], Port::new(53), Protocol::Udp);

    fn entry(id: u32, flags: ServiceFlags) -> ServiceEntry {
        ServiceEntry::new(ServiceId::new(id), flags, SlotRange::EMPTY, SlotRange::EMPTY)
    }

    fn written(key: ServiceKey<[u8; 4]>, id: u32, flags: ServiceFlags) -> Changes {
        let mut changes = Changes::default();
        changes.v4.services.push((key, entry(id, flags)));
        changes
    }

    #[test]
    fn the_generation_changes_when_a_frontend_is_not_whose_it_was() {
        let mut owners = Owners::default();
        let mut generation = |changes: &Changes| {
            owners.change(changes);
            owners.known().generation
        };
        let mut removed = Changes::default();
        removed.v4.removed_services.push(DNS);
        assert_eq!(generation(&written(DNS, 1, ServiceFlags::EXTERNAL)), 1, "somebody may have had it before");
        assert_eq!(generation(&written(DNS, 1, ServiceFlags::EXTERNAL)), 1, "other endpoints");
        assert_eq!(generation(&written(DNS, 2, ServiceFlags::EXTERNAL)), 2, "another Service");
        assert_eq!(generation(&removed), 2, "nobody's");
        assert_eq!(generation(&written(DNS, 1, ServiceFlags::EXTERNAL)), 3, "the first one's again");
        let tcp = ServiceKey::new([203, 0, 113, 5], Port::new(53), Protocol::Tcp);
        assert_eq!(generation(&written(tcp, 3, ServiceFlags::EXTERNAL)), 3, "connections stay where they are");
    }

    #[test]
    fn what_the_tables_hold_is_nothing_new() {
        let mut snapshot = Snapshot::default();
        snapshot.v4.services.insert(DNS, entry(1, ServiceFlags::EXTERNAL));
        let mut owners = Owners::default();
        owners.adopt(&snapshot);
        assert_eq!(owners.known(), Datagrams { external: true, generation: 0 });
        owners.change(&written(DNS, 2, ServiceFlags::EXTERNAL));
        assert_eq!(owners.known().generation, 1, "it changed hands while no agent ran");
    }

    #[test]
    fn addresses_for_clients_outside_are_told_from_others() {
        let node_port = ServiceKey::new([0; 4], Port::new(30053), Protocol::Udp);
        for (key, flags, expected) in [
            (DNS, ServiceFlags::NONE, false),
            (node_port, ServiceFlags::EXTERNAL.with(ServiceFlags::NODE_PORT), false),
            (DNS, ServiceFlags::EXTERNAL.with(ServiceFlags::LOCAL), true),
        ] {
            let mut owners = Owners::default();
            owners.change(&written(key, 1, flags));
            assert_eq!(owners.known().external, expected, "{key:?}");
        }
    }
}
