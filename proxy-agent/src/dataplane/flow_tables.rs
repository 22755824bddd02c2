//! How large the tables of flows are. What becomes of the flows when that changes is up to [`super::former`].

use proxy_common::{V4, V6, maps};

/// How many entries the table of confirmed flows has room for, in each family; a connection has two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowTableSize(u32);

impl FlowTableSize {
    /// The smallest table that can be asked for. LRU tables keep a reserve for each processor.
    pub const MIN: u32 = 1 << 10;
    /// The largest table that can be asked for; both families' take about 5 GiB.
    pub const MAX: u32 = 1 << 24;

    /// The bytes of memory for each entry, if nothing is asked for: both families' tables, young flows included, then take half a
    /// percent of the memory.
    const MEMORY_FOR_EACH: u64 = 1 << 16;
    const SMALLEST_DEFAULT: u32 = 1 << 16;
    const LARGEST_DEFAULT: u32 = 1 << 20;
    const SMALLEST_YOUNG: u32 = 1 << 14;

    /// So many entries; `None` if that is less than [`Self::MIN`] or more than [`Self::MAX`].
    #[must_use]
    pub fn new(entries: u32) -> Option<Self> {
        (Self::MIN..=Self::MAX).contains(&entries).then_some(Self(entries))
    }

    /// What fits a machine with so many bytes of memory: an entry for every 64 KiB, rounded down to a power of two, at least
    /// 65,536 and at most 1,048,576.
    #[must_use]
    pub fn of_memory(bytes: u64) -> Self {
        let entries = u32::try_from(bytes / Self::MEMORY_FOR_EACH).unwrap_or(u32::MAX);
        let entries = entries.clamp(Self::SMALLEST_DEFAULT, Self::LARGEST_DEFAULT);
        Self(1 << entries.ilog2())
    }

    /// What fits this machine.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let known = rustix::system::sysinfo();
        Self::of_memory(known.totalram * u64::from(known.mem_unit))
    }

    /// Entries of the table of confirmed flows, in each family.
    #[must_use]
    pub const fn confirmed(self) -> u32 {
        self.0
    }

    /// Entries of the table of young flows, in each family: a quarter of the others, but at least 16,384.
    #[must_use]
    pub fn young(self) -> u32 {
        (self.0 / 4).max(Self::SMALLEST_YOUNG)
    }

    /// The names of all tables of flows, and how many entries each has.
    pub(super) fn tables(self) -> [(&'static str, u32); 4] {
        let [confirmed, young] = [self.confirmed(), self.young()];
        [
            (maps::FLOWS.name::<V4>(), confirmed),
            (maps::FLOWS.name::<V6>(), confirmed),
            (maps::YOUNG_FLOWS.name::<V4>(), young),
            (maps::YOUNG_FLOWS.name::<V6>(), young),
        ]
    }
}

impl Default for FlowTableSize {
    /// What fits this machine.
    fn default() -> Self {
        Self::of_this_machine()
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::{Flow, FlowKey};

    use super::*;

    #[test]
    fn the_size_follows_from_the_memory() {
        const GIB: u64 = 1 << 30;
        for (memory, entries) in [
            (0, 65_536),
            (GIB, 65_536),
            (8 * GIB, 131_072),
            (16 * GIB - 1, 131_072),
            (16 * GIB, 262_144),
            (23 * GIB, 262_144),
            (64 * GIB, 1_048_576),
            (u64::MAX, 1_048_576),
        ] {
            assert_eq!(FlowTableSize::of_memory(memory).confirmed(), entries, "{memory} bytes");
        }
    }

    #[test]
    fn there_is_room_for_young_flows_in_any_case() {
        let young = |entries| FlowTableSize::new(entries).map(FlowTableSize::young);
        assert_eq!(young(1024), Some(16_384));
        assert_eq!(young(262_144), Some(65_536));
        assert_eq!((young(1023), young(FlowTableSize::MAX + 1)), (None, None));
    }

    /// What README and [`FlowTableSize::of_memory`] say of the cost.
    #[test]
    fn the_default_takes_half_a_percent_of_the_memory() {
        const GIB: u64 = 1 << 30;
        // An LRU element has about 64 bytes beside key and value (kernel/bpf/hashtab.c).
        let element = |key: usize, value: usize| 64 + key.next_multiple_of(8) + value.next_multiple_of(8);
        let both = element(size_of::<FlowKey<[u8; 4]>>(), size_of::<Flow<[u8; 4]>>())
            + element(size_of::<FlowKey<[u8; 16]>>(), size_of::<Flow<[u8; 16]>>());
        let size = FlowTableSize::of_memory(16 * GIB);
        let bytes = u64::from(size.confirmed() + size.young()) * both as u64;
        assert!((4..=6).contains(&(bytes * 1000 / (16 * GIB))), "{bytes} bytes");
    }
}
