//! The layout of every shared struct, byte for byte: sizes equal the sum of the fields, so there is
//! no hidden padding that could differ between two builds or leak stack bytes into a map.

use proxy_common::{
    AffinityEntry, AffinityKey, Backend, Counter, Decision, DropKey, DropReason, FamilySettings, Flow, FlowKey,
    Fragment, FragmentKey, NodeAddress, PortName, ServiceEntry, ServiceId, ServiceKey, Settings, SlotRange,
    SocketAffinityKey, SocketEntry, SocketKey, SourceRange, SourceRangeKey, Trace, TraceRate, Traffic, maps,
};

type A4 = [u8; 4];
type A6 = [u8; 16];

#[test]
fn sizes_are_the_sum_of_the_fields() {
    assert_eq!(size_of::<ServiceKey<A4>>(), 4 + 2 + 1 + 1);
    assert_eq!(size_of::<ServiceKey<A6>>(), 16 + 2 + 1 + 1);
    assert_eq!(size_of::<SlotRange>(), 4 + 4);
    assert_eq!(size_of::<ServiceEntry>(), 4 + 4 + 4 + 8 + 8);
    assert_eq!(size_of::<Backend<A4>>(), 4 + 2 + 2 + 4);
    assert_eq!(size_of::<Backend<A6>>(), 16 + 2 + 2 + 4);
    assert_eq!(size_of::<FlowKey<A4>>(), 4 + 4 + 2 + 2 + 1 + 1 + 2);
    assert_eq!(size_of::<FlowKey<A6>>(), 16 + 16 + 2 + 2 + 1 + 1 + 2);
    assert_eq!(size_of::<Flow<A4>>(), 4 + 2 + 1 + 1 + 4 + 4 + 4 + 2 + 2);
    assert_eq!(size_of::<Flow<A6>>(), 16 + 2 + 1 + 1 + 4 + 4 + 4 + 2 + 2);
    assert_eq!(size_of::<SocketKey<A4>>(), 8 + 4 + 2 + 1 + 1);
    assert_eq!(size_of::<SocketKey<A6>>(), 8 + 16 + 2 + 1 + 1);
    assert_eq!(size_of::<SocketEntry<A4>>(), 4 + 2 + 2 + 4 + 4 + 4);
    assert_eq!(size_of::<SocketEntry<A6>>(), 16 + 2 + 2 + 4 + 4 + 4);
    assert_eq!(size_of::<FamilySettings<A4>>(), 4 + 4 + 4);
    assert_eq!(size_of::<FamilySettings<A6>>(), 16 + 16 + 4);
    assert_eq!(size_of::<Settings>(), 4 + 4 + 8 + 4 + 4 + 4 + 4 + 4 + 12 + 36 + 4);
    assert_eq!(size_of::<PortName>(), 64 + 64 + 64 + 1 + 7);
    assert_eq!(size_of::<NodeAddress>(), 4);
    assert_eq!(size_of::<SourceRange<A4>>(), 4 + 4);
    assert_eq!(size_of::<SourceRange<A6>>(), 4 + 16);
    assert_eq!(size_of::<SourceRangeKey<A4>>(), 4 + 4 + 4);
    assert_eq!(size_of::<SourceRangeKey<A6>>(), 4 + 4 + 16);
    assert_eq!(size_of::<AffinityKey<A4>>(), 4 + 4);
    assert_eq!(size_of::<AffinityKey<A6>>(), 16 + 4);
    assert_eq!(size_of::<SocketAffinityKey>(), 8 + 4 + 4);
    assert_eq!(size_of::<AffinityEntry>(), 4 + 4);
    assert_eq!(size_of::<DropKey>(), 4 + 4);
    assert_eq!(size_of::<Decision>(), 8 + 8 + 3 * 16 + 3 * 4 + 4 * 2 + 4 + 4 + 4);
    assert_eq!(size_of::<Trace>(), 8 + 8 + 16 + 8 * 4 + 4 + 4);
    assert_eq!(size_of::<TraceRate>(), 4 + 4 + 8);
    assert_eq!(size_of::<Traffic>(), 5 * 8);
    assert_eq!(maps::TRAFFIC_CAPACITY * size_of::<Traffic>(), 160 << 10, "for each CPU");
    assert_eq!(size_of::<FragmentKey<A4>>(), 4 + 4 + 4 + 1 + 1 + 2);
    assert_eq!(size_of::<FragmentKey<A6>>(), 16 + 16 + 4 + 1 + 1 + 2);
    assert_eq!(size_of::<Fragment<A4>>(), 4 + 4 + 4 + 4 + 4);
    assert_eq!(size_of::<Fragment<A6>>(), 16 + 4 + 4 + 4 + 4);
}

/// The bits of a trie's key count from the first byte on: the Service port's number must stand there in network order,
/// or a prefix would span several Service ports.
#[test]
fn a_source_range_counts_the_service_first() {
    let key = SourceRangeKey::new(ServiceId::new(0x0102_0304), [192, 0, 2, 0], 24);
    assert_eq!((key.prefix_len(), key.bits()), (32 + 24, 24));
    // A service whose number shares the low byte only.
    let other = SourceRangeKey::new(ServiceId::new(0x0a0b_0c04), [192, 0, 2, 0], 24);
    assert!(key.range() > SourceRangeKey::new(ServiceId::new(0x0102_0303), [255; 4], 24).range());
    assert!(key.range() < other.range());
    assert_eq!(SourceRangeKey::lookup(ServiceId::new(1), [10, 0, 0, 1]).prefix_len(), 32 + 32);
    assert_eq!(SourceRangeKey::lookup(ServiceId::new(1), [0; 16]).prefix_len(), 32 + 128);
    assert_eq!((key.service(), key.prefix()), (ServiceId::new(0x0102_0304), [192, 0, 2, 0]));
}

#[test]
fn every_counter_has_its_own_index_in_the_table() {
    let indexes: Vec<u32> = Counter::all().map(Counter::index).collect();
    let expected: Vec<u32> = (0..u32::try_from(indexes.len()).expect("few counters")).collect();
    assert_eq!(indexes, expected);
    assert!(indexes.len() <= maps::COUNTERS_CAPACITY);
    assert_eq!(DropReason::ALL.map(|reason| reason as u32).to_vec(), vec![0, 1, 2, 3, 4, 5, 6]);
}

/// The kernel memory that all tables may take when full, in MiB. Whoever enlarges a table moves this
/// number on purpose.
#[test]
fn tables_stay_within_their_memory_budget() {
    // A hash element costs about 48 bytes beside key and value, an LRU element about 64; array
    // elements are rounded up to 8 bytes.
    let hash =
        |entries: usize, key: usize, value: usize| entries * (48 + key.next_multiple_of(8) + value.next_multiple_of(8));
    let lru =
        |entries: usize, key: usize, value: usize| entries * (64 + key.next_multiple_of(8) + value.next_multiple_of(8));
    let array = |entries: usize, value: usize| entries * value.next_multiple_of(8);

    // A node of a trie, of which there are at most twice as many as ranges (kernel/bpf/lpm_trie.c).
    let trie = |entries: usize, key: usize| 2 * entries * (48 + key + 4);

    let family = |address: usize, key: usize, backend: usize, flow: (usize, usize), socket: (usize, usize)| {
        hash(maps::SERVICES_CAPACITY, key, size_of::<ServiceEntry>())
            + array(maps::SLOTS_CAPACITY, 4)
            + array(maps::BACKENDS_CAPACITY, backend)
            + lru(maps::FLOWS_CAPACITY + maps::YOUNG_FLOWS_CAPACITY, flow.0, flow.1)
            + lru(maps::SOCKETS_CAPACITY, socket.0, socket.1)
            + trie(maps::SOURCE_RANGES_CAPACITY, 4 + address)
            + hash(maps::NODE_ADDRESSES_CAPACITY, address, size_of::<NodeAddress>())
            + lru(maps::AFFINITY_CAPACITY, address + 4, size_of::<AffinityEntry>())
            + lru(maps::FRAGMENTS_CAPACITY, 2 * address + 8, address + 16)
            + lru(maps::SOCKET_AFFINITY_CAPACITY, size_of::<SocketAffinityKey>(), size_of::<AffinityEntry>())
    };
    let v4 = family(
        size_of::<A4>(),
        size_of::<ServiceKey<A4>>(),
        size_of::<Backend<A4>>(),
        (size_of::<FlowKey<A4>>(), size_of::<Flow<A4>>()),
        (size_of::<SocketKey<A4>>(), size_of::<SocketEntry<A4>>()),
    );
    let v6 = family(
        size_of::<A6>(),
        size_of::<ServiceKey<A6>>(),
        size_of::<Backend<A6>>(),
        (size_of::<FlowKey<A6>>(), size_of::<Flow<A6>>()),
        (size_of::<SocketKey<A6>>(), size_of::<SocketEntry<A6>>()),
    );
    let names = hash(maps::NAMES_CAPACITY, 4, size_of::<PortName>());
    let drops = lru(maps::DROPS_CAPACITY, size_of::<DropKey>(), 8);
    let total = (v4 + v6 + names + drops) >> 20;
    assert!(total <= 250, "the full tables take {total} MiB");
}
