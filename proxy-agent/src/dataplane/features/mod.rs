//! What the running kernel can do, asked once at start.
//!
//! Each answer comes from a probe and not from the kernel's release, because distribution kernels
//! carry later features under earlier numbers.

mod probe;
#[cfg(test)]
mod readme;

use std::{collections::BTreeSet, fmt};

use rustix::thread::{CapabilitySet, capabilities};
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use super::memlock::{self, LimitError};

/// Something that not every kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// The connect and sendmsg hooks.
    SocketHooks,
    /// Type information, from which `bpftool map dump` takes the names of fields.
    Btf,
    /// The recvmsg hooks, which give the application of an unconnected socket the Service address back.
    ReceiveHooks,
    /// Loops of which the verifier can tell that they end.
    BoundedLoops,
    /// Arrays that can be mapped into memory.
    MappableArrays,
    /// Writing many map elements in one call.
    BatchUpdate,
    /// Attaching to a cgroup by a link, whose program can be replaced in place.
    CgroupLink,
    /// Telling network namespaces apart in the socket hooks (kernel commit f318903c0bf4).
    NetnsCookie,
    /// The getpeername hooks.
    PeerNameHooks,
    /// Ring buffers, in which the programs tell of packets.
    RingBuffer,
    /// The hook that is told of sockets which are closed (kernel commit f5836749c9c0).
    ReleaseHook,
    /// Maps count as memory of the cgroup that made them, and not against `RLIMIT_MEMLOCK` (kernel commit
    /// 3ac1f01b43b6).
    CgroupMemory,
    /// The time of the last tick, which costs less than the processor's clock (kernel commit d05512618056).
    CoarseClock,
    /// Routing that TC programs can ask for, with the MTU of the route (kernel commits b4ab31414970, e1850ea9bd9e).
    HostRouting,
    /// Choosing the error that connect returns.
    SetRetval,
    /// Attaching to devices by TCX links.
    Tcx,
}

impl Feature {
    /// All features, oldest first.
    pub const ALL: [Self; 16] = [
        Self::SocketHooks,
        Self::Btf,
        Self::ReceiveHooks,
        Self::BoundedLoops,
        Self::MappableArrays,
        Self::BatchUpdate,
        Self::CgroupLink,
        Self::NetnsCookie,
        Self::PeerNameHooks,
        Self::RingBuffer,
        Self::ReleaseHook,
        Self::CgroupMemory,
        Self::CoarseClock,
        Self::HostRouting,
        Self::SetRetval,
        Self::Tcx,
    ];

    /// The feature in `snake_case`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SocketHooks => "socket_hooks",
            Self::ReceiveHooks => "receive_hooks",
            Self::Btf => "btf",
            Self::BoundedLoops => "bounded_loops",
            Self::MappableArrays => "mappable_arrays",
            Self::BatchUpdate => "batch_update",
            Self::CgroupLink => "cgroup_link",
            Self::NetnsCookie => "netns_cookie",
            Self::PeerNameHooks => "peer_name_hooks",
            Self::RingBuffer => "ring_buffer",
            Self::ReleaseHook => "release_hook",
            Self::CgroupMemory => "cgroup_memory",
            Self::CoarseClock => "coarse_clock",
            Self::HostRouting => "host_routing",
            Self::SetRetval => "set_retval",
            Self::Tcx => "tcx",
        }
    }

    /// The kernel release that brought it.
    #[must_use]
    pub const fn since(self) -> &'static str {
        match self {
            Self::SocketHooks | Self::Btf => "4.18",
            Self::ReceiveHooks => "5.2",
            Self::BoundedLoops => "5.3",
            Self::MappableArrays => "5.5",
            Self::BatchUpdate => "5.6",
            Self::CgroupLink | Self::NetnsCookie => "5.7",
            Self::PeerNameHooks | Self::RingBuffer => "5.8",
            Self::ReleaseHook => "5.9",
            Self::CgroupMemory | Self::CoarseClock => "5.11",
            Self::HostRouting => "5.12",
            Self::SetRetval => "5.18",
            Self::Tcx => "6.6",
        }
    }

    /// What happens where it is missing; `None` if the agent cannot do without it.
    #[must_use]
    pub const fn without(self) -> Option<&'static str> {
        match self {
            Self::SocketHooks | Self::ReceiveHooks | Self::BoundedLoops | Self::MappableArrays | Self::RingBuffer => {
                None
            }
            Self::Btf => Some("bpftool shows the tables without names of fields"),
            Self::BatchUpdate => Some("tables are written one element at a time"),
            Self::CgroupLink => Some("programs are attached to the cgroup without links"),
            Self::NetnsCookie => Some(
                "pods are not told from the node at the socket: no session affinity and no node ports on loopback \
                 addresses there",
            ),
            Self::PeerNameHooks => Some("getpeername tells the backend's address"),
            Self::ReleaseHook => Some("what is known of a socket stays when it is closed, until its room is needed"),
            Self::CgroupMemory => Some("the limit on locked memory must be raised, which needs CAP_SYS_RESOURCE"),
            Self::CoarseClock => Some("the processor's clock is read for each packet that is translated"),
            Self::HostRouting => Some("`hostRouting` has no effect"),
            Self::SetRetval => Some("a Service without endpoints is refused with EPERM instead of ECONNREFUSED"),
            Self::Tcx => Some("programs are attached to devices by clsact"),
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl Serialize for Feature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Why the kernel cannot run the datapath.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    /// The process may not load programs.
    #[error(
        "not allowed to load BPF programs: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON \
         (CAP_SYS_ADMIN and CAP_NET_ADMIN on kernels before 5.8)"
    )]
    NotAllowed,
    /// The limit on locked memory leaves no room for a program.
    #[error(transparent)]
    LockedMemory(#[from] LimitError),
    /// The kernel was built without BPF.
    #[error("kernel {release} has no bpf system call: it needs CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF")]
    NoBpf {
        /// The running kernel.
        release: String,
    },
    /// A feature is missing that the agent cannot do without.
    #[error("kernel {release} lacks {feature}, which is in Linux {} and later", feature.since())]
    Missing {
        /// The running kernel.
        release: String,
        /// What it lacks.
        feature: Feature,
    },
}

/// The features of the running kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    release: String,
    available: BTreeSet<Feature>,
}

impl Features {
    /// Features for a kernel of which they are known.
    #[must_use]
    pub fn new(release: String, available: BTreeSet<Feature>) -> Self {
        Self { release, available }
    }

    /// Asks the running kernel. Lifts the process's limit on locked memory first, as far as it may: kernels
    /// before 5.11 count programs and maps against it, with those that another process of the user has left pinned.
    ///
    /// # Errors
    /// The process may not load programs, or the kernel has no BPF. A missing feature is no error
    /// here; see [`Self::require`].
    pub fn probe() -> Result<Self, FeatureError> {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let limit = memlock::lift();
        if let Err(error) = probe::any_program() {
            match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    return Err(match limit {
                        Err(limit) if may_load() && memlock::counts(&release) => LimitError { release, limit }.into(),
                        _ => FeatureError::NotAllowed,
                    });
                }
                Some(libc::ENOSYS) => return Err(FeatureError::NoBpf { release }),
                _ => {}
            }
        }
        let available = Feature::ALL.into_iter().filter(|&feature| probe::has(feature)).collect();
        Ok(Self { release, available })
    }

    /// Whether the kernel has the feature.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.available.contains(&feature)
    }

    /// The kernel's release, as `uname -r` prints it.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// What the kernel lacks.
    pub fn missing(&self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(|&feature| !self.has(feature))
    }

    /// The same features without one: the way older kernels are served can be tried on a newer one.
    #[must_use]
    pub fn except(mut self, feature: Feature) -> Self {
        self.available.remove(&feature);
        self
    }

    /// Checks that everything is there that the agent cannot do without.
    ///
    /// # Errors
    /// Names the oldest feature that is missing, and the kernel.
    pub fn require(&self) -> Result<(), FeatureError> {
        match self.missing().find(|feature| feature.without().is_none()) {
            Some(feature) => Err(FeatureError::Missing { release: self.release.clone(), feature }),
            None => Ok(()),
        }
    }
}

/// One line: what is there, and what happens without the rest.
impl fmt::Display for Features {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "kernel {}", self.release)?;
        for (index, feature) in self.available.iter().enumerate() {
            write!(formatter, "{}{feature}", if index == 0 { ": " } else { ", " })?;
        }
        for feature in self.missing() {
            let then = feature.without().unwrap_or("the agent does not start");
            write!(formatter, "; without {feature} (Linux {}) {then}", feature.since())?;
        }
        Ok(())
    }
}

impl Serialize for Features {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Features", 3)?;
        out.serialize_field("release", &self.release)?;
        out.serialize_field("available", &self.available)?;
        out.serialize_field("missing", &self.missing().collect::<Vec<_>>())?;
        out.end()
    }
}

/// Whether the process has a capability that lets it load programs. (That it does not have in another user
/// namespace than the first, where it is worth nothing.)
fn may_load() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.intersects(CapabilitySet::BPF | CapabilitySet::SYS_ADMIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(available: &[Feature]) -> Features {
        Features::new("5.10.0".to_owned(), available.iter().copied().collect())
    }

    #[test]
    fn one_line_tells_what_is_there_and_what_happens_without_the_rest() {
        let without = [Feature::SetRetval, Feature::Tcx];
        let others: Vec<Feature> = Feature::ALL.into_iter().filter(|feature| !without.contains(feature)).collect();
        assert_eq!(
            features(&others).to_string(),
            "kernel 5.10.0: socket_hooks, btf, receive_hooks, bounded_loops, mappable_arrays, batch_update, cgroup_link, \
             netns_cookie, peer_name_hooks, ring_buffer, release_hook, cgroup_memory, coarse_clock, host_routing; without set_retval (Linux 5.18) a Service without \
             endpoints is refused with EPERM instead of ECONNREFUSED; without tcx (Linux 6.6) programs are attached to \
             devices by clsact"
        );
    }

    #[test]
    fn json_lists_available_and_missing() {
        let json = serde_json::to_value(features(&[Feature::SocketHooks])).expect("serializes");
        assert_eq!(json["release"], "5.10.0");
        assert_eq!(json["available"], serde_json::json!(["socket_hooks"]));
        assert_eq!(json["missing"].as_array().map(Vec::len), Some(Feature::ALL.len() - 1));
    }

    #[test]
    fn a_missing_necessity_is_named_with_the_release_that_has_it() {
        let error = features(&[Feature::SocketHooks, Feature::Btf, Feature::MappableArrays])
            .require()
            .expect_err("no receive hooks");
        assert_eq!(error.to_string(), "kernel 5.10.0 lacks receive_hooks, which is in Linux 5.2 and later");
    }

    #[test]
    fn what_can_be_done_without_is_not_required() {
        let required: Vec<Feature> = Feature::ALL.into_iter().filter(|feature| feature.without().is_none()).collect();
        features(&required).require().expect("only dispensable features are missing");
    }
}
