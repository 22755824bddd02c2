//! The programs in the kernel.
//!
//! Verifying those for devices takes long, those with an Ethernet header as long as those without, and most nodes have only devices of one
//! kind: they are loaded when the first device that needs them is served. Attaches nothing.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    thread,
    time::Duration,
};

use aya::{
    Ebpf,
    programs::{CgroupSock, CgroupSockAddr, Program, ProgramError, SchedClassifier},
};

use super::{
    devices::LinkLayer,
    features::Features,
    kept::KeptPrograms,
    pins::{Direction, SocketHook},
    programs::{LoadError, PacketLog},
};

/// The programs. They go when this is dropped, but for those that are kept, or attached by then.
pub(super) struct Programs {
    sockets: BTreeMap<SocketHook, OwnedFd>,
    classifiers: BTreeMap<&'static str, OwnedFd>,
    /// The programs as they are handed to the kernel. They name their maps by descriptors, which stay open as long as this.
    object: Ebpf,
    kept: KeptPrograms,
    /// How many of them are a former agent's.
    reused: usize,
}

impl Programs {
    /// Loads the programs for socket calls, as far as the kernel has their hooks, or opens those that are kept.
    ///
    /// Those for devices are loaded as well if they tell of packets: the map for that is taken from the object by who reads it, and may be
    /// closed when a device comes.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub(super) fn load(
        object: Ebpf,
        kept: KeptPrograms,
        features: &Features,
        log: PacketLog,
    ) -> Result<Self, LoadError> {
        let mut programs = Self { sockets: BTreeMap::new(), classifiers: BTreeMap::new(), object, kept, reused: 0 };
        for hook in SocketHook::ALL.into_iter().filter(|hook| features.has(hook.feature())) {
            let program = programs.load_one(hook.name(), |program| {
                if hook == SocketHook::Release {
                    let program: &mut CgroupSock = program.try_into()?;
                    program.load()?;
                    return Ok(program.fd()?.as_fd().try_clone_to_owned()?);
                }
                let program: &mut CgroupSockAddr = program.try_into()?;
                program.load()?;
                Ok(program.fd()?.as_fd().try_clone_to_owned()?)
            })?;
            programs.sockets.insert(hook, program);
        }
        match log {
            PacketLog::Off => {}
            PacketLog::Drops => {
                programs.require(LinkLayer::Ethernet)?;
                programs.require(LinkLayer::Ip)?;
            }
        }
        Ok(programs)
    }

    /// Loads the programs for devices with this link layer, unless they are.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub(super) fn require(&mut self, link_layer: LinkLayer) -> Result<(), LoadError> {
        for direction in Direction::ALL {
            let name = classifier_name(direction, link_layer);
            if !self.classifiers.contains_key(name) {
                let program = self.load_one(name, |program| {
                    let program: &mut SchedClassifier = program.try_into()?;
                    program.load()?;
                    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
                })?;
                self.classifiers.insert(name, program);
            }
        }
        Ok(())
    }

    /// Opens a program that is kept, or loads it.
    fn load_one(
        &mut self,
        name: &str,
        load: impl Fn(&mut Program) -> Result<OwnedFd, ProgramError>,
    ) -> Result<OwnedFd, LoadError> {
        if let Some(program) = self.kept.find(name) {
            self.reused += 1;
            return Ok(program);
        }
        let program = self.object.program_mut(name).ok_or_else(|| LoadError::Incomplete { name: name.to_owned() })?;
        let mut loaded = load(program);
        for _ in 0..ATTEMPTS {
            if !loaded.as_ref().is_err_and(is_interrupted) {
                break;
            }
            thread::sleep(PAUSE);
            loaded = load(program);
        }
        let loaded = loaded.map_err(|error| {
            if let ProgramError::LoadError { verifier_log, .. } = &error {
                tracing::debug!(program = name, "the verifier says: {verifier_log}");
            }
            LoadError::Program { name: name.to_owned(), error }
        })?;
        self.kept.keep(name, loaded.as_fd());
        Ok(loaded)
    }

    /// Removes the pins of programs in whose place these are now.
    pub(super) fn replaced_others(&self) {
        if self.reused > 0 {
            let all = self.sockets.len() + self.classifiers.len();
            tracing::info!("{} of {all} programs are those of a former agent, which are the same", self.reused);
        }
        if let Err(error) = self.kept.remove_others() {
            tracing::warn!("programs of a former agent stay loaded: {error}");
        }
    }

    /// The programs for the socket calls, as far as the kernel has their hooks.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (SocketHook, BorrowedFd<'_>)> {
        SocketHook::ALL.into_iter().filter_map(|hook| Some((hook, self.sockets.get(&hook)?.as_fd())))
    }

    /// The program for packets that pass a device in a direction; `None` if nobody has [required](Self::require) it.
    pub(super) fn classifier(&self, direction: Direction, link_layer: LinkLayer) -> Option<BorrowedFd<'_>> {
        self.classifiers.get(classifier_name(direction, link_layer)).map(OwnedFd::as_fd)
    }

    /// The object, for who reads what the programs tell of packets.
    pub(super) const fn object_mut(&mut self) -> &mut Ebpf {
        &mut self.object
    }
}

/// The name of the program for packets that pass a device in a direction.
pub(super) const fn classifier_name(direction: Direction, link_layer: LinkLayer) -> &'static str {
    match (direction, link_layer) {
        (Direction::Ingress, LinkLayer::Ethernet | LinkLayer::Loopback) => "tc_ingress",
        (Direction::Egress, LinkLayer::Ethernet | LinkLayer::Loopback) => "tc_egress",
        (Direction::Ingress, LinkLayer::Ip) => "tc_ingress_l3",
        (Direction::Egress, LinkLayer::Ip) => "tc_egress_l3",
    }
}

/// How often a program whose verification was interrupted is loaded again, and after what time.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// The verifier gives up with EAGAIN when a signal is pending (kernel commit c3494801cd17); libbpf tries again, too.
fn is_interrupted(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EAGAIN))
}
