//! Attaches the packet programs to devices: by TCX links, or by filters of the clsact qdisc.
//!
//! Kernels before 6.6 have only filters. Where a kernel has both, which of them a device gets is decided in [`super::served`].
//!
//! Never touches a program, filter or qdisc of somebody else.
//!
//! # Order among others
//!
//! The programs are first, in both directions. Programs of others (Cilium's, for one) end with a verdict
//! that ends the chain, so whatever comes after them does not run, while these programs hand on what they
//! do not drop (`TCX_NEXT`, `TC_ACT_UNSPEC`), so whoever comes after them does run. On ingress the others
//! see packets after DNAT, as they would after netfilter's; on egress they see replies whose source is
//! already the Service again.
//!
//! Filters run after all TCX programs of a device, ours and those of others.
//!
//! While programs are exchanged for others with other tables, each device has both for a moment: [`Order`].
//!
//! On clsact the priority is 2: after 1, which Cilium takes for itself and which cannot be shared, and
//! before all that the kernel chooses (49152 and up).

pub(super) mod clsact;
pub(super) mod tcx;

use std::io;

use self::clsact::Filter;
use super::{
    devices::LinkLayer,
    loaded::{Programs, classifier_name},
    pins::{Direction, Pins, remove_link},
    programs::LoadError,
};

/// Why programs cannot be attached to a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No device needed these programs before, and the kernel refuses to load them.
    #[error("the device with index {index} gets no programs: {error}")]
    Load {
        /// The device.
        index: u32,
        /// What the kernel says.
        error: LoadError,
    },
    /// The kernel refuses to attach or detach one.
    #[error("cannot {action} the {direction} program of the device with index {index}: {error}")]
    Refused {
        /// What could not be done.
        action: &'static str,
        /// Which of the two programs.
        direction: Direction,
        /// The device.
        index: u32,
        /// What the kernel says.
        error: io::Error,
    },
}

impl DeviceError {
    /// Whether the device went meanwhile.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Load { .. } => false,
            Self::Refused { error, .. } => matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)),
        }
    }
}

/// How a program came to be where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attachment {
    /// It took the place of another one of ours, which may have been the same.
    Replaced,
    /// There was none of ours.
    Made,
}

/// By what programs are at a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
    /// TCX links (Linux 6.6).
    Links,
    /// Filters of the clsact qdisc.
    Filters,
}

/// Which of two programs of ours sees a packet first, while one takes the other's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The next one.
    Before,
    /// The present one.
    After,
}

impl Order {
    /// Where the next program is. A packet into the node meets the present one first, which goes on with the flows that it knows and passes
    /// on what the next one shall begin. A packet out of the node meets the next one first: what the present one has translated looks like
    /// something that the node itself sends, and would be noted as that.
    pub(super) const fn of_next(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self::After,
            Direction::Egress => Self::Before,
        }
    }
}

/// Attaches the program for a direction beside the one of ours that is at the device and whose place it shall take, if there is one.
///
/// # Errors
/// As [`attach_links`].
pub(super) fn attach_next(
    programs: &mut Programs,
    index: u32,
    (direction, link_layer): (Direction, LinkLayer),
    means: Means,
    pins: &Pins,
) -> Result<(), DeviceError> {
    let filters = required(programs, index, link_layer)?;
    let mut filters = filters.into_iter().filter(|filter| filter.direction == direction);
    filters
        .try_for_each(|filter| match means {
            Means::Links => tcx::attach_next(filter.program, index, direction, pins),
            Means::Filters => clsact::attach_next(index, filter),
        })
        .map_err(|error| DeviceError::Refused { action: "attach", direction, index, error })
}

/// Detaches the filters that were to take the place of others, when they have, or nobody knows of it.
///
/// # Errors
/// The kernel refuses.
pub(super) fn detach_next_filters(index: u32) -> Result<(), DeviceError> {
    let direction = Direction::Ingress;
    clsact::detach_next(index).map_err(|error| DeviceError::Refused { action: "detach", direction, index, error })
}

/// Attaches both programs to a device by links, replacing in place those of a former agent and those that were to take their place.
///
/// Returns whether one of them was not there.
///
/// # Errors
/// The kernel refuses, also to load programs that no device needed before, or the device is gone.
pub(super) fn attach_links(
    programs: &mut Programs,
    index: u32,
    link_layer: LinkLayer,
    pins: &Pins,
) -> Result<Attachment, DeviceError> {
    let mut attachment = Attachment::Replaced;
    for Filter { program, direction, .. } in required(programs, index, link_layer)? {
        let refused = |error| DeviceError::Refused { action: "attach", direction, index, error };
        tcx::promote_next(index, direction, pins).map_err(refused)?;
        if tcx::attach(program, index, direction, pins).map_err(refused)? == Attachment::Made {
            attachment = Attachment::Made;
        }
    }
    Ok(attachment)
}

/// The same by filters.
///
/// # Errors
/// As [`attach_links`].
pub(super) fn attach_filters(programs: &mut Programs, index: u32, link_layer: LinkLayer) -> Result<(), DeviceError> {
    let filters = required(programs, index, link_layer)?;
    // Which of the two it was, the kernel does not say.
    let direction = filters[0].direction;
    clsact::attach(index, &filters).map_err(|error| DeviceError::Refused { action: "attach", direction, index, error })
}

/// Puts back what somebody has taken from a device that has its programs by these means.
///
/// # Errors
/// As [`attach_links`].
pub(super) fn restore(
    programs: &mut Programs,
    index: u32,
    link_layer: LinkLayer,
    means: Means,
    pins: &Pins,
) -> Result<Attachment, DeviceError> {
    if means == Means::Links {
        return attach_links(programs, index, link_layer, pins);
    }
    for direction in Direction::ALL {
        let refused = |error| DeviceError::Refused { action: "look for", direction, index, error };
        if clsact::attached(index, direction).map_err(refused)?.is_none() {
            return attach_filters(programs, index, link_layer).map(|()| Attachment::Made);
        }
    }
    Ok(Attachment::Replaced)
}

/// The programs for a device, in the order in which they are to be attached: an answer to what the one for what enters translates must not
/// leave before there is somebody to translate it back.
fn required(programs: &mut Programs, index: u32, link_layer: LinkLayer) -> Result<[Filter<'_>; 2], DeviceError> {
    programs.require(link_layer).map_err(|error| DeviceError::Load { index, error })?;
    let programs = &*programs;
    let filter = |direction| {
        let name = classifier_name(direction, link_layer);
        let missing =
            || DeviceError::Refused { action: "attach", direction, index, error: io::ErrorKind::NotFound.into() };
        let program = programs.classifier(direction, link_layer).ok_or_else(missing)?;
        Ok(Filter { program, name, direction })
    };
    Ok([filter(Direction::Egress)?, filter(Direction::Ingress)?])
}

/// Detaches the links of a device, which may be gone.
///
/// # Errors
/// The kernel refuses.
pub(super) fn detach_links(index: u32, pins: &Pins) -> Result<(), DeviceError> {
    for direction in Direction::ALL {
        let removed = remove_link(&pins.device_link(index, direction))
            .and_then(|()| remove_link(&pins.next_device_link(index, direction)));
        removed.map_err(|error| DeviceError::Refused { action: "detach", direction, index, error })?;
    }
    Ok(())
}

/// Detaches our filters of a device, which may be gone.
///
/// # Errors
/// The kernel refuses.
pub(super) fn detach_filters(index: u32) -> Result<(), DeviceError> {
    let direction = Direction::Ingress;
    clsact::detach(index).map_err(|error| DeviceError::Refused { action: "detach", direction, index, error })
}
