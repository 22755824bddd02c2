//! Marks in the filters, for tests that fill tables themselves: programs look for nothing whose end has no mark.

use aya::{Ebpf, maps::Array};
use proxy_common::{FilterPlace, FilterRow};

/// Sets the marks of these places.
pub(crate) fn mark<const ROWS: usize>(bpf: &mut Ebpf, filter: &str, places: impl Iterator<Item = FilterPlace<ROWS>>) {
    let mut filter: Array<_, FilterRow> =
        Array::try_from(bpf.map_mut(filter).expect("the object has the filter")).expect("an array of rows");
    for place in places {
        let mut row = filter.get(&place.row(), 0).expect("the row is read");
        row[place.column()] = FilterPlace::<ROWS>::MARK;
        filter.set(place.row(), row, 0).expect("the row is written");
    }
}
