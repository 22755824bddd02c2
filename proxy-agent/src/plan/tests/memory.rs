//! The tables in memory refuse what a packet could trip over. Without that, tests on them prove nothing.

use proxy_common::{
    Backend, BackendId, Port, PortName, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SlotRange,
    SourceRangeKey,
};

use crate::plan::{
    Changes, FamilyChanges, Tables,
    memory::{MemoryError, MemoryTables},
};

const WEB: ServiceId = ServiceId::new(1);
const POD: BackendId = BackendId::new(7);

fn frontend() -> ServiceKey<[u8; 4]> {
    ServiceKey::new([10, 0, 0, 1], Port::new(80), Protocol::Tcp)
}

fn backend(host: u8, flags: u16) -> Backend<[u8; 4]> {
    Backend::new([10, 1, 0, host], Port::new(8080), flags, WEB)
}

/// Tables with one Service of one endpoint, which is in use.
fn tables() -> MemoryTables {
    let mut tables = MemoryTables::new(10);
    let name = PortName::new("default", "web", "", Protocol::Tcp).expect("a short name");
    let entry = ServiceEntry::new(WEB, ServiceFlags::NONE, SlotRange::new(3, 1), SlotRange::EMPTY);
    let v4 = FamilyChanges {
        backends: vec![(POD, backend(1, 0))],
        slots: vec![(3, vec![POD])],
        services: vec![(frontend(), entry)],
        ..FamilyChanges::default()
    };
    tables.apply(&Changes { names: vec![(WEB, name)], v4, ..Changes::default() }).expect("a safe order");
    tables
}

fn apply(v4: FamilyChanges<proxy_common::V4>) -> Result<(), MemoryError> {
    tables().apply(&Changes { v4, ..Changes::default() }).map(drop)
}

#[test]
fn of_a_backend_in_use_only_the_flags_change() {
    let write = |backend| apply(FamilyChanges { backends: vec![(POD, backend)], ..FamilyChanges::default() });
    assert_eq!(write(backend(1, Backend::<[u8; 4]>::LOCAL)), Ok(()));
    let other_port = Backend::new([10, 1, 0, 1], Port::new(8081), 0, WEB);
    let other_service = Backend::new([10, 1, 0, 1], Port::new(8080), 0, ServiceId::new(2));
    for other in [backend(2, 0), other_port, other_service, backend(1, 0)] {
        assert_eq!(write(other), Err(MemoryError::BackendInUse(POD)), "{other:?}");
    }
}

#[test]
fn nothing_in_use_is_written_or_taken_away() {
    let in_use = [
        (FamilyChanges { slots: vec![(3, vec![POD])], ..FamilyChanges::default() }, MemoryError::SlotInUse(3)),
        (FamilyChanges { retired_backends: vec![POD], ..FamilyChanges::default() }, MemoryError::BackendInUse(POD)),
    ];
    for (changes, error) in in_use {
        assert_eq!(apply(changes), Err(error));
    }
    let retired_name = Changes { retired_names: vec![WEB], ..Changes::default() };
    assert_eq!(tables().apply(&retired_name), Err(MemoryError::IdInUse(WEB)));
}

#[test]
fn a_service_names_nothing_that_is_not_there() {
    let entry = |id, offset| ServiceEntry::new(id, ServiceFlags::NONE, SlotRange::new(offset, 1), SlotRange::EMPTY);
    let write = |entry| apply(FamilyChanges { services: vec![(frontend(), entry)], ..FamilyChanges::default() });
    assert_eq!(write(entry(WEB, 3)), Ok(()));
    assert_eq!(write(entry(WEB, 4)), Err(MemoryError::UnwrittenSlot(4)));
    assert_eq!(write(entry(ServiceId::new(2), 3)), Err(MemoryError::Nameless(ServiceId::new(2))));
}

#[test]
fn a_guarded_service_has_a_range_as_long_as_it_is_there() {
    let range = SourceRangeKey::new(WEB, [198, 51, 100, 0], 24);
    let (cluster, local) = (SlotRange::new(3, 1), SlotRange::EMPTY);
    let guarded = (frontend(), ServiceEntry::new(WEB, ServiceFlags::SOURCE_RANGES, cluster, local));
    let guard = FamilyChanges { services: vec![guarded], ..FamilyChanges::default() };
    assert_eq!(apply(guard.clone()), Err(MemoryError::NoRange(WEB)));

    let mut tables = tables();
    let with_range = FamilyChanges { source_ranges: vec![range], ..guard };
    let mut apply = |v4| tables.apply(&Changes { v4, ..Changes::default() }).map(drop);
    assert_eq!(apply(with_range.clone()), Ok(()));
    assert_eq!(apply(with_range), Err(MemoryError::RangeTwice));
    let remove = FamilyChanges { removed_source_ranges: vec![range], ..FamilyChanges::default() };
    assert_eq!(apply(remove.clone()), Err(MemoryError::NoRange(WEB)));
    assert_eq!(apply(remove), Err(MemoryError::NothingToRemove));
}
