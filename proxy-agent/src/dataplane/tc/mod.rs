//! Attaches the packet programs to devices: by TCX links, or by filters of the clsact qdisc.
//!
//! Kernels before 6.6 have only filters. Where a kernel has both, when a device gets which is decided in [`super::served`].
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
//! On clsact the priority is 2: after 1, which Cilium takes for itself and which cannot be shared, and
//! before all that the kernel chooses (49152 and up).

pub(super) mod clsact;
pub(super) mod tcx;

use std::io;

use self::clsact::Filter;
use super::{
    devices::LinkLayer,
    features::{Feature, Features},
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
        /// `attach` or `detach`.
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

/// Attaches both programs to a device, replacing in place those of a former agent: by links where the kernel has TCX, else by filters.
/// The one for what leaves comes first: an answer to what the other one translates must not leave before there is somebody to
/// translate it back.
///
/// Returns whether one of them was not there.
///
/// # Errors
/// The kernel refuses, also to load programs that no device needed before, or the device is gone.
pub(super) fn attach(
    programs: &mut Programs,
    index: u32,
    link_layer: LinkLayer,
    pins: &Pins,
    features: &Features,
) -> Result<Attachment, DeviceError> {
    let refused = |direction| move |error| DeviceError::Refused { action: "attach", direction, index, error };
    let mut attachment = Attachment::Replaced;
    if !features.has(Feature::Tcx) {
        for direction in Direction::ALL {
            if clsact::attached(index, direction).map_err(refused(direction))?.is_none() {
                attachment = Attachment::Made;
            }
        }
        return attach_filters(programs, index, link_layer).map(|()| attachment);
    }
    for Filter { program, direction, .. } in required(programs, index, link_layer)? {
        if tcx::attach(program, index, direction, pins).map_err(refused(direction))? == Attachment::Made {
            attachment = Attachment::Made;
        }
    }
    Ok(attachment)
}

/// Attaches both programs to a device by filters, replacing in place those of a former agent. That takes a hundredth of the time
/// that links take.
///
/// # Errors
/// As [`attach`].
pub(super) fn attach_filters(programs: &mut Programs, index: u32, link_layer: LinkLayer) -> Result<(), DeviceError> {
    let filters = required(programs, index, link_layer)?;
    // Which of the two it was, the kernel does not say.
    let direction = filters[0].direction;
    clsact::attach(index, &filters).map_err(|error| DeviceError::Refused { action: "attach", direction, index, error })
}

/// The programs for a device, in the order in which they are to be attached.
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
        let removed = remove_link(&pins.device_link(index, direction));
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
