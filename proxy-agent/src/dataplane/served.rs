//! The programs at devices: which device has them, by what means, and when it gets them.
//!
//! A device shall have links, where the kernel has TCX: they are before the programs of others, and nobody takes them away by
//! accident. But attaching a link waits for a grace period of RCU (`tcx_entry_sync`, 8 ms on an idle machine), and does so under the lock that
//! whoever makes devices needs, too. A filter takes a tenth of a millisecond. So if more devices wait than can have links at
//! once, they get filters first; later, when no device comes or goes, one after the other gets links, and then loses its filters.
//! In between it has both for a moment: what the first program has translated is nothing to the second one.
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
    tc::{self, Attachment, DeviceError, clsact},
};

/// For how long devices may get links while others wait.
const AT_ONCE: Duration = Duration::from_millis(50);

/// What the links of a device are taken to cost before it was measured.
const FIRST_GUESS: Duration = Duration::from_millis(20);

/// For how long no device must have come before filters become links.
const QUIET: Duration = Duration::from_millis(200);

/// Wait after the kernel has refused to make links of filters.
const RETRY: Duration = Duration::from_secs(30);

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
    /// Until then filters stay what they are.
    rest_until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A former agent left links.
    LeftLinks,
    /// A former agent left filters.
    LeftFilters,
    /// A former agent left both.
    LeftBoth,
    /// It has filters and shall have links.
    Filters(LinkLayer),
    /// It has what it shall have.
    Settled(LinkLayer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    Links,
    Filters,
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
        Ok(Self { devices, reported: BTreeSet::new(), links_take: FIRST_GUESS, rest_until: Instant::now() })
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
        let waiting = new.iter().filter(|(index, _)| !self.has_links(*index)).count();
        let time = self.links_take.saturating_mul(u32::try_from(waiting).unwrap_or(u32::MAX));
        for (index, device) in new {
            // Replacing the program of a link costs nothing.
            let links = tools.features.has(Feature::Tcx) && (time <= AT_ONCE || self.has_links(index));
            let means = if links { Means::Links } else { Means::Filters };
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

    /// How long to wait before the next device can get links for its filters; `None` if none has to.
    pub(super) fn rest(&self) -> Option<Duration> {
        let pending = self.devices.values().any(|state| matches!(state, State::Filters(_)));
        pending.then(|| self.rest_until.saturating_duration_since(Instant::now()))
    }

    /// Gives one device links for its filters.
    pub(super) fn settle_one(&mut self, devices: &Devices, mut tools: Tools<'_>) {
        let next = self.devices.iter().find_map(|(&index, &state)| match state {
            State::Filters(link_layer) => Some((index, link_layer)),
            _ => None,
        });
        let Some((index, link_layer)) = next else { return };
        let begun = Instant::now();
        let served = self.serve(index, link_layer, Means::Links, &mut tools);
        // Others want the lock of all devices, too.
        self.rest_until = Instant::now() + begun.elapsed();
        let name = devices.get(&index).map_or("?", |device| device.name.as_str());
        match served {
            Ok(()) => tracing::debug!(device = name, index, "links in place of filters"),
            Err(error) if error.is_gone() => self.rest_until = Instant::now() + QUIET,
            Err(error) => {
                self.rest_until = Instant::now() + RETRY;
                if self.reported.insert(index) {
                    tracing::warn!(device = name, %error, "it keeps its filters for now");
                }
            }
        }
    }

    /// Looks whether all programs are where they were put, and puts back those that are not.
    pub(super) fn verify(&self, devices: &Devices, tools: Tools<'_>) {
        let Tools { programs, pins, features, .. } = tools;
        for (&index, &state) in &self.devices {
            let State::Settled(link_layer) = state else { continue };
            match tc::attach(programs, index, link_layer, pins, features) {
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
        let state = self.devices.get(&index);
        state == Some(&State::Filters(link_layer)) || state == Some(&State::Settled(link_layer))
    }

    /// Whether it has links, of this agent or a former one, where the kernel has any.
    fn has_links(&self, index: u32) -> bool {
        match self.devices.get(&index) {
            Some(State::LeftLinks | State::LeftBoth | State::Settled(_)) => true,
            Some(State::LeftFilters | State::Filters(_)) | None => false,
        }
    }

    fn serve(
        &mut self,
        index: u32,
        link_layer: LinkLayer,
        means: Means,
        tools: &mut Tools<'_>,
    ) -> Result<(), DeviceError> {
        let Tools { programs, pins, features, anchors } = tools;
        let state = match means {
            Means::Links => {
                let begun = Instant::now();
                if tc::attach(programs, index, link_layer, pins, features)? == Attachment::Made {
                    self.links_take = (self.links_take + begun.elapsed()) / 2;
                }
                for direction in Direction::ALL {
                    anchors.hold(pins.device_link(index, direction));
                }
                if let Some(State::LeftFilters | State::LeftBoth | State::Filters(_)) = self.devices.get(&index) {
                    tc::detach_filters(index)?;
                }
                State::Settled(link_layer)
            }
            Means::Filters => {
                self.rest_until = Instant::now() + QUIET;
                match tc::attach_filters(programs, index, link_layer) {
                    Ok(()) if features.has(Feature::Tcx) => State::Filters(link_layer),
                    Ok(()) => State::Settled(link_layer),
                    // Filters are refused where somebody has another qdisc in that place; links are not.
                    Err(error) if features.has(Feature::Tcx) && !error.is_gone() => {
                        tracing::debug!(index, %error, "links at once");
                        return self.serve(index, link_layer, Means::Links, tools);
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        self.devices.insert(index, state);
        Ok(())
    }

    /// Takes the programs from a device, which may be gone.
    fn release(&mut self, index: u32, tools: &mut Tools<'_>) {
        let Tools { pins, features, anchors, .. } = tools;
        // What is held stays attached.
        for direction in Direction::ALL {
            anchors.release(&pins.device_link(index, direction));
        }
        let links = tc::detach_links(index, pins);
        let filters = match self.devices.remove(&index) {
            Some(State::LeftLinks) | None => Ok(()),
            Some(State::Settled(_)) if features.has(Feature::Tcx) => Ok(()),
            Some(_) => tc::detach_filters(index),
        };
        self.reported.remove(&index);
        match links.and(filters) {
            Ok(()) => tracing::debug!(index, "programs taken from device"),
            Err(error) if error.is_gone() => {}
            Err(error) => tracing::warn!(%error),
        }
    }
}
