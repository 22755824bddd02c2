//! What is counted for single Service ports: which of them have an element of `traffic` of their own, and what is in it.
//!
//! `counted` says by a Service port's number where its element is. There are fewer elements than there can be Service ports, since
//! each is there once for each processor: who finds none shares the first one with all others like him.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    path::PathBuf,
};

use aya::{
    maps::{MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use proxy_common::{ServiceId, Traffic, maps};

use super::{TableError, into_io, map_array, open_map};
use crate::dataplane::{
    mapped::{Access, Mapped},
    pins::Pins,
};

/// The element of those that have none of their own.
const SHARED: u32 = 0;

/// The `counted` and `traffic` tables.
pub struct TrafficTables {
    counted: Mapped<u32>,
    traffic: PerCpuArray<MapData, Traffic>,
    path: PathBuf,
    /// Elements that nobody has, in the order in which they are given out: a program that is still running may yet count something in
    /// one that was given back a moment ago.
    free: VecDeque<u32>,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// For those with an element of their own.
    pub services: BTreeMap<ServiceId, Traffic>,
    /// For all others together.
    pub others: Traffic,
}

impl TrafficTables {
    pub(in crate::dataplane) fn open(pins: &Pins, access: Access) -> Result<Self, TableError> {
        let path = pins.map(maps::TRAFFIC);
        let traffic: PerCpuArray<MapData, Traffic> =
            open_map(&path)?.try_into().map_err(|error| TableError::new(&path, "open", into_io(error)))?;
        let counted: Mapped<u32> = map_array(&pins.map(maps::COUNTED), access)?;
        let taken: BTreeSet<u32> = counted.nonzero().map(|(_, element)| element).collect();
        let free = (SHARED + 1..traffic.len()).filter(|element| !taken.contains(element)).collect();
        Ok(Self { counted, traffic, path, free })
    }

    /// Gives a Service port an element of its own, if there is one, in which nothing has been counted; nothing if it has one.
    pub(super) fn begin(&mut self, service: ServiceId) -> Result<(), TableError> {
        if self.counted.get(service.get()).is_none_or(|element| element != SHARED) {
            return Ok(());
        }
        let Some(element) = self.free.pop_front() else { return Ok(()) };
        let nothing = nr_cpus()
            .map_err(|(_, error)| error)
            .and_then(|cpus| PerCpuValues::try_from(vec![Traffic::default(); cpus]));
        let nothing = nothing.map_err(|error| self.error("write", error))?;
        let written = self.traffic.set(element, nothing, 0);
        written.map_err(|error| self.error("write", into_io(error)))?;
        self.counted.set(service.get(), &element);
        Ok(())
    }

    /// Takes the element of a Service port that is gone.
    pub(super) fn end(&mut self, service: ServiceId) {
        if let Some(element) = self.counted.get(service.get()).filter(|&element| element != SHARED) {
            self.counted.set(service.get(), &SHARED);
            self.free.push_back(element);
        }
    }

    /// Takes the elements of all Service ports that are not `present`.
    pub(super) fn retain(&mut self, present: impl Fn(ServiceId) -> bool) {
        let counted: Vec<ServiceId> = self.counted.nonzero().map(|(id, _)| ServiceId::new(id)).collect();
        counted.into_iter().filter(|&id| !present(id)).for_each(|id| self.end(id));
    }

    /// All that was counted, summed over the processors.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn read(&self) -> Result<Counted, TableError> {
        let services = self.counted.nonzero().map(|(id, element)| Ok((ServiceId::new(id), self.element(element)?)));
        Ok(Counted { services: services.collect::<Result<_, _>>()?, others: self.element(SHARED)? })
    }

    fn element(&self, element: u32) -> Result<Traffic, TableError> {
        let values = self.traffic.get(&element, 0).map_err(|error| self.error("read", into_io(error)))?;
        let mut sum = Traffic::default();
        values.iter().for_each(|value| sum += *value);
        Ok(sum)
    }

    fn error(&self, action: &'static str, error: io::Error) -> TableError {
        TableError::new(&self.path, action, error)
    }
}
