//! Programs take the place of others that have other tables: an agent with another layout or other sizes of tables follows.
//!
//! At devices, for a while a packet meets both. Those of the former agent go on with the flows that they know, and from a certain moment on leave
//! what begins to the next ones ([`super::super::frontends`]). What they know goes over to the new tables then, and is all there when they go.

use super::{AttachError, AttachedHooks, Hooks, SocketHooks};
use crate::dataplane::{
    cgroup,
    former::Writers,
    pins::{Direction, SocketHook},
    served::Tools,
    tables::TableError,
};

/// What has been done of an exchange of programs for some with other tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoverStep {
    /// The next programs that give addresses back at sockets are behind the former ones.
    NextAtSockets,
    /// What the former programs at sockets know is in the new tables, but for what they note still.
    SocketsCopied,
    /// The next programs translate at sockets.
    SocketsLeftToNext,
    /// What the former programs at sockets know is in the new tables.
    SocketsFinished,
    /// The next programs for what leaves the node are before the former ones.
    NextAtEgress,
    /// Those for what enters it are behind the former ones.
    NextAtIngress,
    /// What the former programs know is in the new tables, but for what they note still.
    Copied,
    /// What begins is left to the next programs.
    LeftToNext,
    /// What the former programs know is in the new tables.
    Finished,
    /// The next programs are in the place of the former ones.
    Replaced,
}

impl HandoverStep {
    /// The steps at sockets, in their order.
    pub const AT_SOCKETS: [Self; 4] =
        [Self::NextAtSockets, Self::SocketsCopied, Self::SocketsLeftToNext, Self::SocketsFinished];

    /// The steps at devices, in their order.
    pub const AT_DEVICES: [Self; 6] =
        [Self::NextAtEgress, Self::NextAtIngress, Self::Copied, Self::LeftToNext, Self::Finished, Self::Replaced];
}

impl AttachedHooks {
    /// Replaces the programs that a former agent left at the cgroup. Where they have other tables, the next ones that give addresses back are
    /// beside the former ones before others are noted in the new tables, and until what was noted in the former ones has gone over.
    pub(super) fn replace_sockets(&mut self, tell: &mut impl FnMut(HandoverStep)) -> Result<(), AttachError> {
        if self.hooks.former.has(Writers::Sockets) {
            let Hooks { programs, cgroup_root, sockets, pins, features, .. } = &self.hooks;
            match sockets {
                SocketHooks::Attached => cgroup::attach_next(programs, cgroup_root, pins, features)?,
                SocketHooks::Detached => {}
            }
            tell(HandoverStep::NextAtSockets);
            self.hooks.former.copy(Writers::Sockets)?;
            tell(HandoverStep::SocketsCopied);
            self.attach_sockets(&SocketHook::CHANGING)?;
            tell(HandoverStep::SocketsLeftToNext);
            self.hooks.former.finish(Writers::Sockets)?;
            tell(HandoverStep::SocketsFinished);
        }
        self.attach_sockets(&SocketHook::ALL)?;
        Ok(())
    }

    /// Replaces the programs that a former agent left at devices.
    ///
    /// Where they have other tables, the next ones are attached beside them first. Then what begins is left to those, and what has begun goes over
    /// to them; so nothing is missed, however long any of it takes.
    pub(super) fn replace_devices(&mut self, tell: &mut impl FnMut(HandoverStep)) -> Result<(), TableError> {
        if self.hooks.former.has(Writers::Devices) && self.hooks.frontends.are_there() {
            self.attach_next(Direction::Egress);
            tell(HandoverStep::NextAtEgress);
            self.hooks.former.prepare(Writers::Devices)?;
            self.attach_next(Direction::Ingress);
            tell(HandoverStep::NextAtIngress);
            self.hooks.former.copy(Writers::Devices)?;
            tell(HandoverStep::Copied);
            let frontends = self.hooks.frontends.empty()?;
            tracing::info!(frontends, "the next programs have taken over what begins");
            tell(HandoverStep::LeftToNext);
            self.hooks.former.finish(Writers::Devices)?;
            tell(HandoverStep::Finished);
            self.sync_devices();
            tell(HandoverStep::Replaced);
        } else {
            self.hooks.former.copy(Writers::Devices)?;
            self.sync_devices();
            self.hooks.former.finish(Writers::Devices)?;
            self.hooks.frontends.empty()?;
        }
        self.hooks.former.remove();
        self.served.detach_next(&self.hooks.pins);
        Ok(())
    }

    fn attach_next(&mut self, direction: Direction) {
        let Self { hooks: Hooks { programs, pins, features, .. }, watcher, anchors, served, .. } = self;
        served.attach_next(direction, watcher.devices(), &mut Tools { programs, pins, features, anchors });
    }
}
