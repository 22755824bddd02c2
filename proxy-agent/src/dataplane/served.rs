//! The programs at devices: which device has them, by what means, and when it gets them.
//!
//! A device shall have links, where the kernel has TCX: they are before the programs of others, and nobody takes them away by
//! accident. But attaching a link waits for a grace period of RCU (`tcx_entry_sync`, 8 ms on an idle machine), and does so under the lock that
//! whoever makes devices needs, too. A filter takes a tenth of a millisecond. So of the devices that come while the agent runs, those for which
//! links would take too long get filters, and keep them.
//!
//! They keep them because the kernel takes a device's queues away for a moment when a clsact qdisc is made or removed
//! (`qdisc_graft`): what is to leave then is dropped. A device that has just come has nothing to send yet; those that are there when an agent starts
//! do, so they get links however long that takes.
//!
//! Decides nothing about which devices shall have programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::{Duration, Instant},
};

use super::{
    anchors::Anchors,
    devices::{Devices, LinkLayer},
    features::{Feature, Features},
    loaded::Programs,
    pins::{Direction, Pins},
    tc::{self, Attachment, DeviceError, Means, clsact},
};

/// For how long devices may get links while others wait.
const AT_ONCE: Duration = Duration::from_millis(50);

/// What the links of a device are taken to cost before it was measured.
const FIRST_GUESS: Duration = Duration::from_millis(20);

/// What it takes to attach and detach.
pub(super) struct Tools<'a> {
    pub(super) programs: &'a mut Programs,
    pub(super) pins: &'a Pins,
    pub(super) features: &'a Features,
    pub(super) anchors: &'a mut Anchors,
}

/// The devices with programs, or with what a former agent left.
pub(super) struct ServedDevices {
    devices: BTreeMap<u32, State>,
    /// The devices whose failure has been logged.
    reported: BTreeSet<u32>,
    /// How long the links of a device took lately.
    links_take: Duration,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A former agent left links.
    LeftLinks,
    /// A former agent left filters.
    LeftFilters,
    /// A former agent left both.
    LeftBoth,
    /// It has its programs.
    Served(Means, LinkLayer),
}

/// Whether devices have been there all the time, or have just come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
}

impl ServedDevices {
    /// What a former agent left.
    ///
    /// # Errors
    /// The directory of pins cannot be read, or the kernel does not list filters.
    pub(super) fn left_behind(pins: &Pins) -> io::Result<Self> {
        let links = pins.device_links()?.into_iter().map(|(index, _)| (index, State::LeftLinks));
        let mut devices: BTreeMap<u32, State> = links.collect();
        for index in clsact::served()? {
            devices.entry(index).and_modify(|state| *state = State::LeftBoth).or_insert(State::LeftFilters);
        }
        Ok(Self { devices, reported: BTreeSet::new(), links_take: FIRST_GUESS, phase: Phase::Starting })
    }

    /// The devices, by index.
    pub(super) fn indexes(&self) -> impl Iterator<Item = u32> {
        self.devices.keys().copied()
    }

    /// Attaches programs to the devices that are wanted, and takes them from the others and from those that were removed, even if
    /// there is another device of the same index now.
    pub(super) fn sync(
        &mut self,
        wanted: &BTreeSet<u32>,
        removed: &BTreeSet<u32>,
        devices: &Devices,
        mut tools: Tools<'_>,
    ) {
        let is_gone = |index: &u32| removed.contains(index) || !wanted.contains(index);
        let gone: Vec<u32> = self.indexes().filter(is_gone).collect();
        for index in gone {
            self.release(index, &mut tools);
        }
        let new = wanted.iter().filter_map(|&index| Some((index, devices.get(&index)?)));
        let new: Vec<_> = new.filter(|(index, device)| !self.is_served(*index, device.link_layer)).collect();
        let unknown = new.iter().filter(|(index, _)| !self.devices.contains_key(index)).count();
        let time = self.links_take.saturating_mul(u32::try_from(unknown).unwrap_or(u32::MAX));
        let for_new = if self.phase == Phase::Starting || time <= AT_ONCE { Means::Links } else { Means::Filters };
        self.phase = Phase::Running;
        for (index, device) in new {
            let means = match self.devices.get(&index) {
                _ if !tools.features.has(Feature::Tcx) => Means::Filters,
                Some(State::LeftLinks | State::LeftBoth) => Means::Links,
                Some(State::LeftFilters) => Means::Filters,
                Some(State::Served(means, _)) => *means,
                None => for_new,
            };
            match self.serve(index, device.link_layer, means, &mut tools) {
                Ok(()) => {
                    tracing::debug!(device = device.name, index, "programs attached");
                    self.reported.remove(&index);
                }
                // The report that it went is on its way.
                Err(error) if error.is_gone() => {}
                Err(error) => {
                    if self.reported.insert(index) {
                        tracing::warn!(device = device.name, %error, "trying again every half minute");
                    }
                }
            }
        }
    }

    /// Attaches the program for a direction beside the one that a former agent left at each device, whose place it shall take. A device
    /// that refuses does without: what begins there while programs are replaced may fail.
    pub(super) fn attach_next(&self, direction: Direction, devices: &Devices, tools: &mut Tools<'_>) {
        let Tools { programs, pins, .. } = tools;
        for (&index, state) in &self.devices {
            let Some(device) = devices.get(&index) else { continue };
            let means: &[Means] = match state {
                State::LeftLinks => &[Means::Links],
                State::LeftFilters => &[Means::Filters],
                State::LeftBoth => &[Means::Links, Means::Filters],
                State::Served(..) => &[],
            };
            for means in means {
                match tc::attach_next(programs, index, (direction, device.link_layer), *means, pins) {
                    Ok(()) => {}
                    Err(error) if error.is_gone() => {}
                    Err(error) => {
                        tracing::info!(device = device.name, %error, "no second program beside the former one");
                    }
                }
            }
        }
    }

    /// Takes away what [`Self::attach_next`] attached, also where a former agent did.
    pub(super) fn detach_next(&self, pins: &Pins) {
        if let Err(error) = pins.remove_next_links() {
            tracing::warn!("links of programs that have taken the place of others: {error}");
        }
        let filters = self.devices.iter().filter(|(_, state)| matches!(state, State::Served(Means::Filters, _)));
        for (&index, _) in filters {
            match tc::detach_next_filters(index) {
                Ok(()) => {}
                Err(error) if error.is_gone() => {}
                Err(error) => tracing::warn!(%error),
            }
        }
    }

    /// Looks whether all programs are where they were put, and puts back those that are not.
    pub(super) fn verify(&self, devices: &Devices, tools: Tools<'_>) {
        let Tools { programs, pins, .. } = tools;
        for (&index, &state) in &self.devices {
            let State::Served(means, link_layer) = state else { continue };
            match tc::restore(programs, index, link_layer, means, pins) {
                Ok(Attachment::Replaced) => {}
                Ok(Attachment::Made) => {
                    let name = devices.get(&index).map_or("?", |device| device.name.as_str());
                    tracing::warn!(device = name, index, "somebody detached a program from the device; attached again");
                }
                // The report that it went is on its way.
                Err(error) if error.is_gone() => {}
                Err(error) => tracing::warn!(%error),
            }
        }
    }

    fn is_served(&self, index: u32, link_layer: LinkLayer) -> bool {
        matches!(self.devices.get(&index), Some(State::Served(_, served)) if *served == link_layer)
    }

    fn serve(
        &mut self,
        index: u32,
        link_layer: LinkLayer,
        means: Means,
        tools: &mut Tools<'_>,
    ) -> Result<(), DeviceError> {
        let Tools { programs, pins, features, anchors } = tools;
        match means {
            Means::Links => {
                let begun = Instant::now();
                if tc::attach_links(programs, index, link_layer, pins)? == Attachment::Made {
                    self.links_take = (self.links_take + begun.elapsed()) / 2;
                }
                for direction in Direction::ALL {
                    anchors.hold(pins.device_link(index, direction));
                }
                if let Some(State::LeftBoth) = self.devices.get(&index) {
                    tc::detach_filters(index)?;
                }
            }
            Means::Filters => match tc::attach_filters(programs, index, link_layer) {
                // Filters are refused where somebody has another qdisc in that place; links are not.
                Err(error) if features.has(Feature::Tcx) && !error.is_gone() => {
                    tracing::debug!(index, %error, "links instead of filters");
                    return self.serve(index, link_layer, Means::Links, tools);
                }
                result => result?,
            },
        }
        self.devices.insert(index, State::Served(means, link_layer));
        Ok(())
    }

    /// Takes the programs from a device, which may be gone.
    fn release(&mut self, index: u32, tools: &mut Tools<'_>) {
        let Tools { pins, anchors, .. } = tools;
        // What is held stays attached.
        for direction in Direction::ALL {
            anchors.release(&pins.device_link(index, direction));
        }
        let links = tc::detach_links(index, pins);
        let filters = match self.devices.remove(&index) {
            Some(State::LeftLinks | State::Served(Means::Links, _)) | None => Ok(()),
            Some(State::LeftFilters | State::LeftBoth | State::Served(Means::Filters, _)) => tc::detach_filters(index),
        };
        self.reported.remove(&index);
        match links.and(filters) {
            Ok(()) => tracing::debug!(index, "programs taken from device"),
            Err(error) if error.is_gone() => {}
            Err(error) => tracing::warn!(%error),
        }
    }
}
