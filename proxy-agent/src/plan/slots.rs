//! Ranges of the `slots` table, given out and taken back.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::SlotRange;

/// An allocator of contiguous ranges: best fit, and neighbours that are free become one.
///
/// All operations take time logarithmic in the number of free ranges. Best fit keeps long ranges
/// whole: a range is only split if no shorter one is long enough.
#[derive(Clone, Debug)]
pub(super) struct SlotAllocator {
    /// Offset → length of each free range; no two touch.
    by_offset: BTreeMap<u32, u32>,
    /// The same ranges by length.
    by_length: BTreeSet<(u32, u32)>,
    capacity: u32,
    used: u32,
}

impl SlotAllocator {
    /// An allocator of the slots below `capacity`, all free.
    pub(super) fn new(capacity: u32) -> Self {
        let mut allocator = Self { by_offset: BTreeMap::new(), by_length: BTreeSet::new(), capacity, used: capacity };
        allocator.release(SlotRange::new(0, capacity));
        allocator
    }

    /// Gives out a range of `count` slots; `None` if there is none. No slots are the empty range.
    pub(super) fn take(&mut self, count: u32) -> Option<SlotRange> {
        if count == 0 {
            return Some(SlotRange::EMPTY);
        }
        let &(length, offset) = self.by_length.range((count, 0)..).next()?;
        self.cut(offset, length, SlotRange::new(offset, count));
        Some(SlotRange::new(offset, count))
    }

    /// Takes a range back that was given out.
    pub(super) fn release(&mut self, range: SlotRange) {
        if range.is_empty() {
            return;
        }
        self.used -= range.count();
        let (mut offset, mut length) = (range.offset(), range.count());
        if let Some((&before, &before_length)) = self.by_offset.range(..offset).next_back()
            && before + before_length == offset
        {
            self.remove(before, before_length);
            offset = before;
            length += before_length;
        }
        if let Some(&after_length) = self.by_offset.get(&(offset + length)) {
            self.remove(offset + length, after_length);
            length += after_length;
        }
        self.insert(offset, length);
    }

    /// Gives out exactly this range; refuses, and changes nothing, if a part of it is in use or
    /// beyond the capacity.
    pub(super) fn reserve(&mut self, range: SlotRange) -> bool {
        if range.is_empty() {
            return true;
        }
        let (start, end) = bounds(range);
        let Some((&offset, &length)) = self.by_offset.range(..=range.offset()).next_back() else { return false };
        if u64::from(offset) + u64::from(length) < end || u64::from(offset) > start {
            return false;
        }
        self.cut(offset, length, range);
        true
    }

    /// Gives out whatever is free of this range.
    pub(super) fn reserve_rest(&mut self, range: SlotRange) -> Vec<SlotRange> {
        let (start, end) = bounds(range);
        let first = self.by_offset.range(..=range.offset()).next_back().map_or(range.offset(), |(&offset, _)| offset);
        let near = self.by_offset.range(first..).take_while(|&(&offset, _)| u64::from(offset) < end);
        let free = near.filter_map(|(&offset, &length)| {
            let from = u64::from(offset).max(start);
            let to = (u64::from(offset) + u64::from(length)).min(end);
            Some(SlotRange::new(u32::try_from(from).ok()?, u32::try_from(to.checked_sub(from)?).ok()?))
        });
        let free: Vec<SlotRange> = free.filter(|range| !range.is_empty()).collect();
        for &range in &free {
            self.reserve(range);
        }
        free
    }

    /// How many slots are given out.
    pub(super) const fn used(&self) -> u32 {
        self.used
    }

    /// How many slots are not given out, in whatever pieces.
    pub(super) fn available(&self) -> usize {
        usize::try_from(self.capacity - self.used).unwrap_or(usize::MAX)
    }

    /// Gives out `range`, which lies within the free range of `length` slots from `offset`.
    fn cut(&mut self, offset: u32, length: u32, range: SlotRange) {
        self.remove(offset, length);
        let before = range.offset() - offset;
        let after = length - before - range.count();
        if before > 0 {
            self.insert(offset, before);
        }
        if after > 0 {
            self.insert(range.offset() + range.count(), after);
        }
        self.used += range.count();
    }

    fn insert(&mut self, offset: u32, length: u32) {
        self.by_offset.insert(offset, length);
        self.by_length.insert((length, offset));
    }

    fn remove(&mut self, offset: u32, length: u32) {
        self.by_offset.remove(&offset);
        self.by_length.remove(&(length, offset));
    }
}

/// First slot, and the one after the last.
fn bounds(range: SlotRange) -> (u64, u64) {
    let start = u64::from(range.offset());
    (start, start + u64::from(range.count()))
}
