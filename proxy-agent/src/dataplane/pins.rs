//! Where things are pinned: the one place that knows the layout of the agent's directory on the BPF
//! file system.
//!
//! ```text
//! ROOT/services_v4 …                a map, by its name
//! ROOT/links/connect4 …             the link that holds a program to the cgroup
//! ROOT/links/ingress_7, egress_7 …  the link that holds a program to the device with index 7
//! ROOT/links/next_ingress_7 …       the link of a program that shall take its place, while tables are exchanged
//! ROOT/programs/connect4 …          a program attached to the cgroup without a link (before Linux 5.7)
//! ROOT/kept/0123456789abcdef/connect4 …  a program that the next agent can go on with, if it would load just the same one
//! ROOT/unmarked_flow_filter         the filter of a new layout, until the ends of the flows that are there have been marked in it
//! ROOT/former/3/flows_v4 …          a table of layout 3 that is being replaced, until its entries have been carried over
//! ROOT/former/begun                 a directory that is there when programs have begun to use what replaces these tables
//! ```
//!
//! Names on a BPF file system cannot contain a dot.

use std::{
    fmt, fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use super::{
    bpf::{self, Hook},
    features::Feature,
};

/// The directory that is used when the user names none.
pub const DEFAULT_ROOT: &str = "/sys/fs/bpf/proxy-agent";

/// A hook of the socket calls in a cgroup; the name is also the program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SocketHook {
    /// connect(2) on an IPv4 socket.
    Connect4,
    /// connect(2) on an IPv6 socket.
    Connect6,
    /// sendto(2) and sendmsg(2) with an address on an IPv4 UDP socket.
    SendMsg4,
    /// The same on an IPv6 UDP socket.
    SendMsg6,
    /// recvfrom(2) and recvmsg(2) on an IPv4 UDP socket.
    RecvMsg4,
    /// The same on an IPv6 UDP socket.
    RecvMsg6,
    /// getpeername(2) on an IPv4 socket.
    GetPeerName4,
    /// getpeername(2) on an IPv6 socket.
    GetPeerName6,
    /// A socket is closed.
    Release,
}

impl SocketHook {
    /// All hooks. Those that give addresses back come before those that change them, so that no
    /// application sees a backend's address while the programs are being attached.
    pub const ALL: [Self; 9] = [
        Self::RecvMsg4,
        Self::RecvMsg6,
        Self::GetPeerName4,
        Self::GetPeerName6,
        Self::Connect4,
        Self::Connect6,
        Self::SendMsg4,
        Self::SendMsg6,
        Self::Release,
    ];

    /// Those that give addresses back.
    pub(super) const GIVING_BACK: [Self; 4] = [Self::RecvMsg4, Self::RecvMsg6, Self::GetPeerName4, Self::GetPeerName6];

    /// Those that change addresses, or forget what was changed.
    pub(super) const CHANGING: [Self; 5] =
        [Self::Connect4, Self::Connect6, Self::SendMsg4, Self::SendMsg6, Self::Release];

    /// The name of the hook's program.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::SendMsg4 => "sendmsg4",
            Self::SendMsg6 => "sendmsg6",
            Self::RecvMsg4 => "recvmsg4",
            Self::RecvMsg6 => "recvmsg6",
            Self::GetPeerName4 => "getpeername4",
            Self::GetPeerName6 => "getpeername6",
            Self::Release => "sock_release",
        }
    }

    /// What the kernel must have for the hook.
    #[must_use]
    pub const fn feature(self) -> Feature {
        match self {
            Self::Connect4 | Self::Connect6 | Self::SendMsg4 | Self::SendMsg6 => Feature::SocketHooks,
            Self::RecvMsg4 | Self::RecvMsg6 => Feature::ReceiveHooks,
            Self::GetPeerName4 | Self::GetPeerName6 => Feature::PeerNameHooks,
            Self::Release => Feature::ReleaseHook,
        }
    }

    pub(super) const fn kernel_name(self) -> Hook {
        match self {
            Self::Connect4 => Hook::BPF_CGROUP_INET4_CONNECT,
            Self::Connect6 => Hook::BPF_CGROUP_INET6_CONNECT,
            Self::SendMsg4 => Hook::BPF_CGROUP_UDP4_SENDMSG,
            Self::SendMsg6 => Hook::BPF_CGROUP_UDP6_SENDMSG,
            Self::RecvMsg4 => Hook::BPF_CGROUP_UDP4_RECVMSG,
            Self::RecvMsg6 => Hook::BPF_CGROUP_UDP6_RECVMSG,
            Self::GetPeerName4 => Hook::BPF_CGROUP_INET4_GETPEERNAME,
            Self::GetPeerName6 => Hook::BPF_CGROUP_INET6_GETPEERNAME,
            Self::Release => Hook::BPF_CGROUP_INET_SOCK_RELEASE,
        }
    }
}

impl fmt::Display for SocketHook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Which way packets pass a device, as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Into this network namespace.
    Ingress,
    /// Out of it.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// `ingress` or `egress`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    pub(super) const fn kernel_name(self) -> Hook {
        match self {
            Self::Ingress => Hook::BPF_TCX_INGRESS,
            Self::Egress => Hook::BPF_TCX_EGRESS,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How the names of links begin whose programs shall take the place of others.
const NEXT: &str = "next_";

/// The paths of everything pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The paths below the directory `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The map with this name.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The filter in front of the tables of flows before it may be used.
    #[must_use]
    pub(super) fn unmarked_filter(&self) -> PathBuf {
        self.root.join("unmarked_flow_filter")
    }

    /// The directory of tables that are being replaced.
    fn former(&self) -> PathBuf {
        self.root.join("former")
    }

    /// The tables that are being replaced, those of the oldest layout first.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(super) fn former_maps(&self) -> io::Result<Vec<FormerMap>> {
        let mut found = Vec::new();
        for (layout, directory) in self.former_directories()? {
            found.extend(names(&directory)?.into_iter().map(|name| FormerMap {
                layout,
                path: directory.join(&name),
                name,
            }));
        }
        Ok(found)
    }

    /// Moves a map to the tables that are being replaced.
    ///
    /// # Errors
    /// The BPF file system refuses.
    pub(super) fn set_aside(&self, name: &str, layout: u32) -> io::Result<()> {
        let directory = self.former().join(layout.to_string());
        fs::create_dir_all(&directory)?;
        fs::rename(self.map(name), directory.join(name))
    }

    /// Whether programs have begun to use what takes the place of former tables.
    #[must_use]
    pub(super) fn exchange_has_begun(&self) -> bool {
        self.begun().exists()
    }

    /// From now on programs use what takes the place of former tables.
    ///
    /// # Errors
    /// The BPF file system refuses.
    pub(super) fn begin_exchange(&self) -> io::Result<()> {
        fs::create_dir_all(self.begun())
    }

    fn begun(&self) -> PathBuf {
        self.former().join("begun")
    }

    /// The directories of tables that are being replaced, by their layout.
    fn former_directories(&self) -> io::Result<Vec<(u32, PathBuf)>> {
        let former = self.former();
        let numbered = |name: String| Some((name.parse().ok()?, former.join(name)));
        let mut found: Vec<(u32, PathBuf)> = names(&former)?.into_iter().filter_map(numbered).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// The directory of links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// The directory of programs.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.root.join("programs")
    }

    /// The directory of programs that stay loaded for the next agent; it has a directory for each identity.
    pub(super) fn kept(&self) -> PathBuf {
        self.root.join("kept")
    }

    /// The link at a hook of the cgroup.
    #[must_use]
    pub fn socket_link(&self, hook: SocketHook) -> PathBuf {
        self.links().join(hook.name())
    }

    /// The program at a hook of the cgroup, where there are no links.
    #[must_use]
    pub fn socket_program(&self, hook: SocketHook) -> PathBuf {
        self.programs().join(hook.name())
    }

    /// The link at a device.
    #[must_use]
    pub fn device_link(&self, index: u32, direction: Direction) -> PathBuf {
        self.links().join(format!("{direction}_{index}"))
    }

    /// The link of the program that shall take the place of the one at a hook of the cgroup.
    #[must_use]
    pub(super) fn next_socket_link(&self, hook: SocketHook) -> PathBuf {
        self.links().join(format!("{NEXT}{hook}"))
    }

    /// The link of the program that shall take the place of the one at a device.
    #[must_use]
    pub(super) fn next_device_link(&self, index: u32, direction: Direction) -> PathBuf {
        self.links().join(format!("{NEXT}{direction}_{index}"))
    }

    /// The devices with a pinned link, by index; a device that is gone may be among them.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn device_links(&self) -> io::Result<Vec<(u32, Direction)>> {
        let mut found: Vec<(u32, Direction)> =
            names(&self.links())?.iter().filter_map(|name| parse_device_link(name)).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Detaches and removes the links of programs that were to take the place of others.
    ///
    /// # Errors
    /// A link cannot be opened or removed.
    pub(super) fn remove_next_links(&self) -> io::Result<()> {
        let is_ours = |name: &String| {
            let place = name.strip_prefix(NEXT);
            place.is_some_and(|place| {
                parse_device_link(place).is_some() || SocketHook::ALL.iter().any(|hook| hook.name() == place)
            })
        };
        names(&self.links())?
            .iter()
            .filter(|name| is_ours(name))
            .try_for_each(|name| remove_link(&self.links().join(name)))
    }

    /// Detaches and removes all links of ours.
    ///
    /// # Errors
    /// A link cannot be opened or removed.
    pub(super) fn remove_links(&self) -> io::Result<()> {
        for hook in SocketHook::ALL {
            remove_link(&self.socket_link(hook))?;
        }
        for (index, direction) in self.device_links()? {
            remove_link(&self.device_link(index, direction))?;
        }
        self.remove_next_links()
    }

    /// Removes the directories of tables that are being replaced, as far as nothing is in them.
    pub(super) fn remove_former(&self) {
        for (_, directory) in self.former_directories().unwrap_or_default() {
            drop(fs::remove_dir(directory));
        }
        drop(fs::remove_dir(self.begun()));
        drop(fs::remove_dir(self.former()));
    }

    /// Removes the directories, as far as nothing is in them.
    pub(super) fn remove_directories(&self) {
        self.remove_former();
        for directory in [&self.links(), &self.programs(), &self.root] {
            // Whatever is left there is somebody else's.
            drop(fs::remove_dir(directory));
        }
    }

    /// Makes the directories for links and programs.
    ///
    /// # Errors
    /// The BPF file system refuses.
    pub fn make_directories(&self) -> io::Result<()> {
        fs::create_dir_all(self.links())?;
        fs::create_dir_all(self.programs())
    }
}

/// A table that is being replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FormerMap {
    /// The version of the tables' layout that it belongs to.
    pub(super) layout: u32,
    /// Its name, which is the new table's, too.
    pub(super) name: String,
    /// Its pin.
    pub(super) path: PathBuf,
}

/// The names in a directory; none if it does not exist.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(directory) {
        Ok(entries) => {
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<io::Result<_>>()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse_device_link(name: &str) -> Option<(u32, Direction)> {
    let (direction, index) = name.split_once('_')?;
    let direction = Direction::ALL.into_iter().find(|known| known.name() == direction)?;
    Some((index.parse().ok()?, direction))
}

/// Detaches a pinned link, if it is there, and removes the pin.
pub(super) fn remove_link(path: &Path) -> io::Result<()> {
    match bpf::open_pinned(path) {
        Ok(link) => {
            // Where the kernel cannot detach it, or what it is attached to is gone, removing the pin is enough.
            drop(bpf::detach_link(link.as_fd()));
            unpin(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes a pin, if it is there.
pub(super) fn unpin(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_links_are_found_by_their_names() {
        let directory = tempfile::tempdir().expect("a directory");
        let pins = Pins::new(directory.path());
        assert_eq!(pins.device_links().expect("reads"), [], "no directory yet");
        pins.make_directories().expect("makes");
        for path in [
            pins.device_link(12, Direction::Egress),
            pins.device_link(3, Direction::Ingress),
            pins.socket_link(SocketHook::Connect4),
            pins.links().join("ingress_x"),
            pins.links().join("sideways_3"),
            pins.next_device_link(5, Direction::Ingress),
        ] {
            fs::write(path, "").expect("writes");
        }
        assert_eq!(pins.device_links().expect("reads"), [(3, Direction::Ingress), (12, Direction::Egress)]);
    }

    #[test]
    fn removing_a_pin_that_is_not_there_is_fine() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pin");
        fs::write(&path, "").expect("writes");
        unpin(&path).expect("removes");
        unpin(&path).expect("nothing to remove");
    }
}
