//! TCX links (Linux 6.6).

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd},
};

use super::{Attachment, Order};
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

/// Attaches a program that shall take the place of ours at a device, beside it. Where none of ours is, nothing is done.
pub(crate) fn attach_next(program: BorrowedFd<'_>, index: u32, direction: Direction, pins: &Pins) -> io::Result<()> {
    let path = pins.next_device_link(index, direction);
    match bpf::open_pinned(&path) {
        Ok(link) if is_at(link.as_fd(), index, direction)? => return bpf::update_link(link.as_fd(), program),
        Ok(_) => remove_link(&path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let present = match bpf::open_pinned(&pins.device_link(index, direction)) {
        Ok(link) if is_at(link.as_fd(), index, direction)? => link,
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let target = match Order::of_next(direction) {
        Order::Before => Target::DeviceFirst(index),
        Order::After => Target::DeviceAfter(index, present.as_fd()),
    };
    let link = bpf::create_link(program, target, direction.kernel_name())?;
    bpf::pin(link.as_fd(), &path)
}

/// Detaches our program from a device where [`attach_next`] has attached another: that takes its place. (The kernel does not have a program at
/// a device twice, so the former one's link cannot be given the next one.)
pub(crate) fn promote_next(index: u32, direction: Direction, pins: &Pins) -> io::Result<()> {
    let (path, next) = (pins.device_link(index, direction), pins.next_device_link(index, direction));
    match bpf::open_pinned(&next) {
        Ok(link) if is_at(link.as_fd(), index, direction)? => {}
        Ok(_) => return remove_link(&next),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let former = bpf::open_pinned(&path);
    fs::rename(&next, &path)?;
    if let Ok(former) = former {
        // Where it is at another device, or the device is gone, losing its pin is enough.
        drop(bpf::detach_link(former.as_fd()));
    }
    Ok(())
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
