//! Ids and slot ranges: nothing is given out twice, nothing is lost, nothing degrades.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};
use proxy_common::SlotRange;

use crate::plan::{ids::IdPool, slots::SlotAllocator};

#[test]
fn ids_start_at_1_and_end_at_the_greatest() {
    let mut pool = IdPool::new(3, &BTreeSet::new());
    assert_eq!([pool.take(), pool.take(), pool.take(), pool.take()], [Some(1), Some(2), Some(3), None]);
    assert_eq!(pool.used(), 3);
}

#[test]
fn an_id_that_was_given_back_is_the_last_to_be_given_out_again() {
    let mut pool = IdPool::new(4, &BTreeSet::new());
    for _ in 0..3 {
        pool.take();
    }
    pool.release(2);
    pool.release(1);
    assert_eq!([pool.take(), pool.take(), pool.take(), pool.take()], [Some(4), Some(2), Some(1), None]);
}

#[test]
fn a_pool_knows_the_ids_that_are_in_use() {
    let mut pool = IdPool::new(6, &BTreeSet::from([2, 4, 7, 900]));
    assert_eq!(pool.used(), 2, "7 and 900 are not its own");
    assert_eq!([pool.take(), pool.take(), pool.take(), pool.take()], [Some(5), Some(6), Some(1), Some(3)]);
    assert_eq!(pool.take(), None);
    pool.release(900);
    assert_eq!(pool.take(), None);
}

#[test]
fn an_undone_id_is_the_next_to_be_given_out() {
    let mut pool = IdPool::new(3, &BTreeSet::from([2]));
    let taken = [pool.take(), pool.take()];
    assert_eq!(taken, [Some(3), Some(1)]);
    pool.undo(1);
    pool.undo(3);
    assert_eq!([pool.take(), pool.take(), pool.take()], [Some(3), Some(1), None]);
}

#[test]
fn a_range_comes_from_the_shortest_free_one_that_is_long_enough() {
    let mut slots = SlotAllocator::new(100);
    let ranges: Vec<SlotRange> = [10, 1, 5, 1, 20, 1].map(|count| slots.take(count).expect("there is room")).into();
    for free in [0, 2, 4] {
        slots.release(ranges[free]);
    }
    assert_eq!(slots.take(4), Some(SlotRange::new(ranges[2].offset(), 4)));
    assert_eq!(slots.take(10), Some(ranges[0]));
    assert_eq!(slots.take(11), Some(SlotRange::new(ranges[4].offset(), 11)));
    assert_eq!(slots.take(62), Some(SlotRange::new(38, 62)));
    assert_eq!(slots.take(10), None, "9 and 1 are free, apart from each other");
}

#[test]
fn free_neighbours_become_one() {
    let mut slots = SlotAllocator::new(30);
    let ranges = [10, 10, 10].map(|count| slots.take(count).expect("there is room"));
    for free in [0, 2, 1] {
        slots.release(ranges[free]);
    }
    assert_eq!(slots.take(30), Some(SlotRange::new(0, 30)));
}

#[test]
fn the_empty_range_takes_no_room() {
    let mut slots = SlotAllocator::new(0);
    assert_eq!(slots.take(0), Some(SlotRange::EMPTY));
    assert_eq!(slots.take(1), None);
    assert!(slots.reserve(SlotRange::EMPTY));
    assert!(!slots.reserve(SlotRange::new(0, 1)));
    slots.release(SlotRange::EMPTY);
    assert_eq!(slots.used(), 0);
}

#[test]
fn a_range_in_use_or_out_of_bounds_cannot_be_reserved() {
    let mut slots = SlotAllocator::new(100);
    assert!(slots.reserve(SlotRange::new(10, 10)));
    for (offset, count) in [(10, 10), (5, 6), (19, 1), (0, 100), (95, 6), (u32::MAX, u32::MAX)] {
        assert!(!slots.reserve(SlotRange::new(offset, count)), "{offset} {count}");
    }
    assert!(slots.reserve(SlotRange::new(20, 80)));
    assert!(slots.reserve(SlotRange::new(0, 10)));
    assert_eq!(slots.used(), 100);
}

#[test]
fn the_rest_of_a_range_is_what_is_free_of_it() {
    let mut slots = SlotAllocator::new(100);
    assert!(slots.reserve(SlotRange::new(10, 10)) && slots.reserve(SlotRange::new(30, 10)));
    let rest = slots.reserve_rest(SlotRange::new(5, 30));
    assert_eq!(rest, [SlotRange::new(5, 5), SlotRange::new(20, 10)]);
    assert_eq!(slots.reserve_rest(SlotRange::new(90, u32::MAX)), [SlotRange::new(90, 10)]);
    assert_eq!(slots.reserve_rest(SlotRange::new(u32::MAX, u32::MAX)), []);
}

/// What is done to an allocator: take so many slots, or give back one of the ranges.
#[derive(Clone, Debug)]
enum Step {
    Take(u32),
    Release(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u32..40).prop_map(Step::Take),
        2 => any::<prop::sample::Index>().prop_map(Step::Release),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ranges_never_overlap_and_nothing_is_lost(steps in vec(step(), 0..300)) {
        const CAPACITY: u32 = 500;
        let mut slots = SlotAllocator::new(CAPACITY);
        let mut owners = [false; CAPACITY as usize];
        let mut ranges: Vec<SlotRange> = Vec::new();
        let indexes = |range: SlotRange| range.offset() as usize..(range.offset() + range.count()) as usize;
        for step in steps {
            match step {
                Step::Take(count) => {
                    if let Some(range) = slots.take(count) {
                        prop_assert_eq!(range.count(), count);
                        for index in indexes(range) {
                            prop_assert!(!std::mem::replace(&mut owners[index], true), "slot {} is given out", index);
                        }
                        ranges.push(range);
                    } else {
                        let longest = owners.split(|&owned| owned).map(<[bool]>::len).max().unwrap_or(0);
                        prop_assert!(longest < count as usize, "there is a range of {} slots", longest);
                    }
                }
                Step::Release(index) => {
                    if !ranges.is_empty() {
                        let range = ranges.swap_remove(index.index(ranges.len()));
                        owners[indexes(range)].fill(false);
                        slots.release(range);
                    }
                }
            }
            prop_assert_eq!(slots.used() as usize, owners.iter().filter(|&&owned| owned).count());
        }
        for range in ranges {
            slots.release(range);
        }
        prop_assert_eq!(slots.take(CAPACITY), Some(SlotRange::new(0, CAPACITY)));
    }
}

/// A million updates in a table three quarters full of ranges of very different lengths: room for a
/// long range stays.
#[test]
fn a_million_updates_leave_long_ranges_whole() {
    const CAPACITY: u32 = 1 << 20;
    let mut random = 1_u64;
    let mut next = move |below: u32| {
        // Knuth's MMIX generator: the same sequence in every run.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(random >> 33).expect("31 bits") % below
    };
    let mut slots = SlotAllocator::new(CAPACITY);
    let mut ranges = Vec::new();
    let length = |next: &mut dyn FnMut(u32) -> u32| if next(100) == 0 { next(2_000) + 1 } else { next(20) + 1 };
    while slots.used() < CAPACITY / 4 * 3 {
        ranges.push(slots.take(length(&mut next)).expect("there is room"));
    }
    for _ in 0..1_000_000 {
        let index = next(u32::try_from(ranges.len()).expect("below the capacity")) as usize;
        // The new range is there before the old one goes.
        let count = length(&mut next).min(ranges[index].count() + 2);
        let range = slots.take(count).expect("a quarter of the table is free");
        slots.release(std::mem::replace(&mut ranges[index], range));
    }
    assert!(slots.take(50_000).is_some(), "no room for a long range in {} free slots", slots.available());
}
