//! The frontends of programs that are being replaced by others with other tables of flows.
//!
//! Both kinds of programs run for a while, and each begins flows in tables of its own; so who begins one must be settled for each
//! frontend, at once. Therefore the former programs keep a table of frontends of their own. At first it is the same as the new one:
//! what the agent writes goes into both. Then it is emptied, and with each frontend that goes, what begins there passes to the new programs,
//! while the former ones go on with the flows that they know.

use std::sync::{Arc, Mutex, PoisonError};

use proxy_common::{Family, PlainAddress, ServiceEntry, ServiceKey, V4, V6, maps};

use super::{
    pins::Pins,
    tables::{HashTable, TableError, Writes},
};

type Table<F> = HashTable<ServiceKey<<F as Family>::Address>, ServiceEntry>;

/// The former programs' frontends of a family, as long as there are any. Clones are the same table.
pub(super) struct FamilyFrontends<F: Family>(Arc<Mutex<Option<Table<F>>>>);

impl<F: Family> Clone for FamilyFrontends<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<F: Family> Default for FamilyFrontends<F> {
    /// There are none.
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<F: Family<Address: PlainAddress>> FamilyFrontends<F> {
    fn open(pins: &Pins, writes: Writes) -> Result<Self, TableError> {
        let read = |error| TableError::new(pins.root(), "read", error);
        let former = pins.former_maps().map_err(read)?;
        let former = former.into_iter().find(|former| former.name == maps::SERVICES.name::<F>());
        let table = former.map(|former| HashTable::open(&former.path, writes)).transpose()?;
        Ok(Self(Arc::new(Mutex::new(table))))
    }

    /// Writes what is written to the new table.
    ///
    /// # Errors
    /// The table cannot be written.
    pub(super) fn apply(
        &self,
        services: &[(ServiceKey<F::Address>, ServiceEntry)],
        removed: &[ServiceKey<F::Address>],
    ) -> Result<(), TableError> {
        if let Some(table) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // The new table has no room for these either, and whoever writes it says so.
            let _refused = table.insert(services)?;
            removed.iter().try_for_each(|key| table.remove(key))?;
        }
        Ok(())
    }

    fn copy(&self, pins: &Pins, writes: Writes) -> Result<(), TableError> {
        let Some(table) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) else { return Ok(()) };
        let mut new = Table::<F>::open(&pins.map(maps::SERVICES.name::<F>()), writes)?;
        let present = new.all()?;
        table.all()?.iter().filter(|(key, _)| !present.contains_key(key)).try_for_each(|(key, entry)| {
            new.insert_new(key, entry)?;
            Ok(())
        })
    }

    fn empty(&self) -> Result<usize, TableError> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut table) = guard.take() else { return Ok(0) };
        let frontends = table.all()?;
        frontends.keys().try_for_each(|key| table.remove(key))?;
        Ok(frontends.len())
    }
}

/// The former programs' frontends, as long as there are any. Clones are the same tables.
#[derive(Clone, Default)]
pub(super) struct FormerFrontends {
    /// IPv4's.
    pub(super) v4: FamilyFrontends<V4>,
    /// IPv6's.
    pub(super) v6: FamilyFrontends<V6>,
}

impl FormerFrontends {
    /// Opens what was set aside.
    ///
    /// # Errors
    /// A table cannot be opened.
    pub(super) fn open(pins: &Pins, writes: Writes) -> Result<Self, TableError> {
        Ok(Self { v4: FamilyFrontends::open(pins, writes)?, v6: FamilyFrontends::open(pins, writes)? })
    }

    /// Whether the former programs have frontends of their own.
    pub(super) fn are_there(&self) -> bool {
        self.v4.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Adds to the new tables what they lack. An agent that ended half way may have done some of it, and those that have gone since have
    /// gone from both.
    ///
    /// # Errors
    /// A table cannot be read or written.
    pub(super) fn copy(&self, pins: &Pins, writes: Writes) -> Result<(), TableError> {
        self.v4.copy(pins, writes)?;
        self.v6.copy(pins, writes)
    }

    /// Takes all of them away and closes the tables: whatever begins from now on is left to others. Returns how many there were.
    ///
    /// # Errors
    /// A table cannot be read or written.
    pub(super) fn empty(&self) -> Result<usize, TableError> {
        Ok(self.v4.empty()? + self.v6.empty()?)
    }
}
