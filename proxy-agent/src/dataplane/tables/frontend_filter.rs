//! The table `frontend_filter`: which frontends there may be.
//!
//! Nobody but the agent writes it, and it has a mark for each frontend before the frontend is there. Marks of frontends that are gone
//! stay: their places may be others' as well, and a mark too many costs packets that are no Service's a lookup, no more.

use std::path::PathBuf;

use proxy_common::{Family, FilterRow, FrontendFilterPlace, PlainAddress, ServiceKey, maps};

use super::{TableError, beyond, map_array};
use crate::dataplane::{
    mapped::{self, Access, Mapped},
    pins::Pins,
};

/// The table, for writing.
pub(super) struct FrontendFilter {
    path: PathBuf,
    rows: Mapped<FilterRow>,
}

impl FrontendFilter {
    /// Opens the pinned table.
    ///
    /// # Errors
    /// It is not there or has another layout.
    pub(super) fn open(pins: &Pins) -> Result<Self, TableError> {
        let path = pins.map(maps::FRONTEND_FILTER);
        Ok(Self { rows: map_array(&path, Access::Write)?, path })
    }

    /// Marks frontends that are about to be added, or are there. Programs see the marks before anything that is written later.
    ///
    /// # Errors
    /// The table is too small.
    pub(super) fn mark<'a, F: Family<Address: PlainAddress>>(
        &mut self,
        frontends: impl Iterator<Item = &'a ServiceKey<F::Address>>,
    ) -> Result<(), TableError> {
        for frontend in frontends {
            let place = FrontendFilterPlace::of::<F>(frontend);
            let mut row = self.rows.get(place.row()).ok_or_else(|| beyond(&self.path))?;
            // An agent that finds all as it was writes nothing.
            if row[place.column()] == 0 {
                row[place.column()] = FrontendFilterPlace::MARK;
                self.rows.set(place.row(), &row);
            }
        }
        mapped::settle();
        Ok(())
    }
}
