//! What the running kernel can do, asked once at start.
//!
//! Each answer comes from a probe and not from the kernel's release, because distribution kernels
//! carry later features under earlier numbers.

use std::{collections::BTreeSet, fmt};

use aya_obj::generated::{BPF_ALU64, BPF_CALL, BPF_EXIT, BPF_JMP, BPF_K, BPF_MOV, bpf_func_id, bpf_insn};
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use super::{
    bpf::{self, Hook},
    mounts,
};

/// Something that not every kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// The connect and sendmsg hooks.
    SocketHooks,
    /// The recvmsg hooks, which give the application of an unconnected socket the Service address back.
    ReceiveHooks,
    /// Type information, from which `bpftool map dump` takes the names of fields.
    Btf,
    /// Arrays that can be mapped into memory.
    MappableArrays,
    /// Writing many map elements in one call.
    BatchUpdate,
    /// Attaching to a cgroup by a link, whose program can be replaced in place.
    CgroupLink,
    /// The getpeername hooks.
    PeerNameHooks,
    /// Ring buffers.
    RingBuffer,
    /// Choosing the error that connect returns.
    SetRetval,
    /// Attaching to devices by TCX links.
    Tcx,
}

impl Feature {
    /// All features, oldest first.
    pub const ALL: [Self; 10] = [
        Self::SocketHooks,
        Self::ReceiveHooks,
        Self::Btf,
        Self::MappableArrays,
        Self::BatchUpdate,
        Self::CgroupLink,
        Self::PeerNameHooks,
        Self::RingBuffer,
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
            Self::MappableArrays => "mappable_arrays",
            Self::BatchUpdate => "batch_update",
            Self::CgroupLink => "cgroup_link",
            Self::PeerNameHooks => "peer_name_hooks",
            Self::RingBuffer => "ring_buffer",
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
            Self::MappableArrays => "5.5",
            Self::BatchUpdate => "5.6",
            Self::CgroupLink => "5.7",
            Self::PeerNameHooks | Self::RingBuffer => "5.8",
            Self::SetRetval => "5.18",
            Self::Tcx => "6.6",
        }
    }

    /// What happens where it is missing; `None` if the agent cannot do without it.
    #[must_use]
    pub const fn without(self) -> Option<&'static str> {
        match self {
            Self::SocketHooks | Self::ReceiveHooks | Self::MappableArrays => None,
            Self::Btf => Some("bpftool shows the tables without names of fields"),
            Self::BatchUpdate => Some("tables are written one element at a time"),
            Self::CgroupLink => Some("programs are attached to the cgroup without links"),
            Self::PeerNameHooks => Some("getpeername tells the backend's address"),
            Self::RingBuffer => Some("events are not reported"),
            Self::SetRetval => Some("a Service without endpoints is refused with EPERM"),
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

    /// Asks the running kernel. Lifts the process's limit on locked memory first: kernels before 5.11 count programs and
    /// maps against it, with those that another process of the user has left pinned.
    ///
    /// # Errors
    /// The process may not load programs, or the kernel has no BPF. A missing feature is no error
    /// here; see [`Self::require`].
    pub fn probe() -> Result<Self, FeatureError> {
        if let Err(error) = mounts::unlimit_locked_memory() {
            tracing::debug!(%error, "the limit on locked memory stays; it counts on kernels before 5.11");
        }
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        if let Err(error) = bpf::try_program(Hook::BPF_CGROUP_INET4_CONNECT, &accept()) {
            match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => return Err(FeatureError::NotAllowed),
                Some(libc::ENOSYS) => return Err(FeatureError::NoBpf { release }),
                _ => {}
            }
        }
        let available = Feature::ALL.into_iter().filter(|&feature| probe(feature)).collect();
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

impl fmt::Display for Features {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "kernel {}", self.release)?;
        for (index, feature) in self.available.iter().enumerate() {
            write!(formatter, "{}{feature}", if index == 0 { ": " } else { ", " })?;
        }
        for (index, feature) in self.missing().enumerate() {
            write!(formatter, "{}{feature}", if index == 0 { "; without " } else { ", " })?;
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

fn probe(feature: Feature) -> bool {
    match feature {
        Feature::SocketHooks => bpf::try_program(Hook::BPF_CGROUP_UDP4_SENDMSG, &accept()).is_ok(),
        Feature::ReceiveHooks => bpf::try_program(Hook::BPF_CGROUP_UDP4_RECVMSG, &accept()).is_ok(),
        Feature::Btf => aya::features().btf().is_some(),
        Feature::MappableArrays => bpf::knows_mappable_arrays(),
        Feature::BatchUpdate => bpf::knows_batch_update(),
        Feature::CgroupLink => bpf::knows_cgroup_link(),
        Feature::PeerNameHooks => bpf::try_program(Hook::BPF_CGROUP_INET4_GETPEERNAME, &accept()).is_ok(),
        Feature::RingBuffer => bpf::knows_ring_buffer(),
        Feature::SetRetval => bpf::try_program(Hook::BPF_CGROUP_INET4_CONNECT, &set_retval()).is_ok(),
        Feature::Tcx => bpf::knows_tcx(),
    }
}

/// `return 1`.
fn accept() -> [bpf_insn; 2] {
    [instruction(BPF_ALU64 | BPF_MOV | BPF_K, 0, 1), instruction(BPF_JMP | BPF_EXIT, 0, 0)]
}

/// `bpf_set_retval(-1); return 0`.
fn set_retval() -> [bpf_insn; 4] {
    [
        instruction(BPF_ALU64 | BPF_MOV | BPF_K, 1, -1),
        instruction(BPF_JMP | BPF_CALL, 0, bpf_func_id::BPF_FUNC_set_retval as i32),
        instruction(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0),
        instruction(BPF_JMP | BPF_EXIT, 0, 0),
    ]
}

/// An instruction with a destination register and an immediate value.
fn instruction(code: u32, destination: u8, immediate: i32) -> bpf_insn {
    #[expect(clippy::cast_possible_truncation, reason = "an operation code is one byte")]
    let code = code as u8;
    bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(destination, 0),
        off: 0,
        imm: immediate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(available: &[Feature]) -> Features {
        Features::new("5.10.0".to_owned(), available.iter().copied().collect())
    }

    #[test]
    fn one_line_tells_what_is_there_and_what_is_not() {
        let all_but_tcx: Vec<Feature> = Feature::ALL.into_iter().filter(|&feature| feature != Feature::Tcx).collect();
        assert_eq!(
            features(&all_but_tcx).to_string(),
            "kernel 5.10.0: socket_hooks, receive_hooks, btf, mappable_arrays, batch_update, cgroup_link, \
             peer_name_hooks, ring_buffer, set_retval; without tcx"
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
        let error = features(&[Feature::SocketHooks, Feature::MappableArrays]).require().expect_err("no receive hooks");
        assert_eq!(error.to_string(), "kernel 5.10.0 lacks receive_hooks, which is in Linux 5.2 and later");
    }

    #[test]
    fn what_can_be_done_without_is_not_required() {
        let required: Vec<Feature> = Feature::ALL.into_iter().filter(|feature| feature.without().is_none()).collect();
        features(&required).require().expect("only dispensable features are missing");
    }
}
