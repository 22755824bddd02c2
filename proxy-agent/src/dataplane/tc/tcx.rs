//! TCX links (Linux 6.6).

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use super::Attachment;
use crate::dataplane::{
    bpf::{self, LinkTarget, Target},
    pins::{Direction, Pins, remove_link},
};

/// Attaches a program to a device, before all others. If a former agent's link is there, its program
/// is replaced and it keeps its place.
pub(crate) fn attach(program: BorrowedFd<'_>, index: u32, direction: Direction, pins: &Pins) -> io::Result<Attachment> {
    let path = pins.device_link(index, direction);
    match bpf::open_pinned(&path) {
        Ok(link) if is_at(link.as_fd(), index, direction)? => {
            return bpf::update_link(link.as_fd(), program).map(|()| Attachment::Replaced);
        }
        // The link is at a device that had the index before.
        Ok(_) => remove_link(&path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let link = bpf::create_link(program, Target::DeviceFirst(index), direction.kernel_name())?;
    bpf::pin(link.as_fd(), &path).map(|()| Attachment::Made)
}

/// Whether a link is at the device that has the index in this network namespace now. What the link says
/// is not enough: its device may have moved to another namespace and kept the index.
pub(crate) fn is_at(link: BorrowedFd<'_>, index: u32, direction: Direction) -> io::Result<bool> {
    let info = bpf::link_info(link)?;
    if info.target != LinkTarget::Device(index) {
        return Ok(false);
    }
    let attached = bpf::attached(Target::DeviceFirst(index), direction.kernel_name())?;
    Ok(attached.iter().any(|attached| attached.link == info.id))
}
