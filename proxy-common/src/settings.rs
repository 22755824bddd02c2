//! The `settings` table: one element, what the programs need to know of the node's configuration.

use crate::LAYOUT_VERSION;

/// How a pod of this cluster is told from the outside (kube-proxy's `detectLocalMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Detector {
    /// Not at all: no source makes a clusterIP packet masqueraded.
    #[default]
    None = 0,
    /// By a source prefix (`ClusterCIDR`, `NodeCIDR`).
    Prefix = 1,
    /// By the device a packet came in on (`BridgeInterface`, `InterfaceNamePrefix`): those in the
    /// `pod_devices` table.
    Device = 2,
}

/// The settings of one IP family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FamilySettings<A> {
    prefix: A,
    mask: A,
    detector: u32,
}

impl<A: Copy> FamilySettings<A> {
    /// Settings of a family. `prefix` and `mask` count with [`Detector::Prefix`] only.
    #[must_use]
    pub const fn new(detector: Detector, prefix: A, mask: A) -> Self {
        Self { prefix, mask, detector: detector as u32 }
    }

    /// How pods are told from the outside.
    #[must_use]
    pub const fn detector(&self) -> Detector {
        match self.detector {
            1 => Detector::Prefix,
            2 => Detector::Device,
            _ => Detector::None,
        }
    }

    /// Prefix of the pods' addresses, host bits zero.
    #[must_use]
    pub const fn prefix(&self) -> A {
        self.prefix
    }

    /// Mask of [`Self::prefix`].
    #[must_use]
    pub const fn mask(&self) -> A {
        self.mask
    }
}

/// Switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SettingsFlags(u32);

impl SettingsFlags {
    /// All off.
    pub const NONE: Self = Self(0);
    /// kube-proxy's `masqueradeAll`.
    pub const MASQUERADE_ALL: Self = Self(1);
    /// Socket hooks serve the node's own network namespace only; other sockets are left to the TC programs.
    pub const HOST_NAMESPACE_ONLY: Self = Self(1 << 1);
    /// A UDP Service has, or had, an address for clients outside other than nodePorts. What leaves the node may come from there.
    pub const EXTERNAL_DATAGRAMS: Self = Self(1 << 2);
    /// TC programs send packets of confirmed flows on by themselves, past netfilter.
    pub const HOST_ROUTING: Self = Self(1 << 3);

    /// These switches and `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// The one element of the `settings` table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Settings {
    layout_version: u32,
    flags: u32,
    node_netns_cookie: u64,
    masquerade_mark: u32,
    local_node_port_mark: u32,
    udp_timeout: u32,
    half_closed_timeout: u32,
    established_timeout: u32,
    v4: FamilySettings<[u8; 4]>,
    v6: FamilySettings<[u8; 16]>,
    generation: u32,
}

impl Settings {
    /// Default of [`Self::half_closed_timeout`]: kube-proxy's `conntrack.tcpCloseWaitTimeout`, an hour.
    pub const DEFAULT_HALF_CLOSED_TIMEOUT: u32 = 3600;

    /// Default of [`Self::established_timeout`]: kube-proxy's `conntrack.tcpEstablishedTimeout`, a day.
    pub const DEFAULT_ESTABLISHED_TIMEOUT: u32 = 86_400;

    /// What the table holds before an agent wrote it.
    pub const UNSET: Self = Self {
        layout_version: 0,
        flags: 0,
        node_netns_cookie: 0,
        masquerade_mark: 0,
        local_node_port_mark: 0,
        udp_timeout: 0,
        half_closed_timeout: 0,
        established_timeout: 0,
        v4: FamilySettings::new(Detector::None, [0; 4], [0; 4]),
        v6: FamilySettings::new(Detector::None, [0; 16], [0; 16]),
        generation: 0,
    };

    /// Settings of this layout version, with the default timeouts of established and half-closed connections, without a cookie of
    /// the node's network namespace and without a mark for nodePort traffic.
    ///
    /// `udp_timeout`: seconds without a datagram after which a UDP flow has ended.
    #[must_use]
    pub const fn new(
        flags: SettingsFlags,
        masquerade_mark: u32,
        udp_timeout: u32,
        v4: FamilySettings<[u8; 4]>,
        v6: FamilySettings<[u8; 16]>,
    ) -> Self {
        Self {
            layout_version: LAYOUT_VERSION,
            flags: flags.bits(),
            node_netns_cookie: 0,
            masquerade_mark,
            local_node_port_mark: 0,
            udp_timeout,
            half_closed_timeout: Self::DEFAULT_HALF_CLOSED_TIMEOUT,
            established_timeout: Self::DEFAULT_ESTABLISHED_TIMEOUT,
            v4,
            v6,
            generation: 0,
        }
    }

    /// The same settings with these switches on as well.
    #[must_use]
    pub const fn with_flags(mut self, flags: SettingsFlags) -> Self {
        self.flags |= flags.bits();
        self
    }

    /// The same settings with other parts for the families.
    #[must_use]
    pub const fn with_families(mut self, v4: FamilySettings<[u8; 4]>, v6: FamilySettings<[u8; 16]>) -> Self {
        self.v4 = v4;
        self.v6 = v6;
        self
    }

    /// The same settings with another timeout of half-closed connections, in seconds.
    #[must_use]
    pub const fn with_half_closed_timeout(mut self, seconds: u32) -> Self {
        self.half_closed_timeout = seconds;
        self
    }

    /// The same settings with another timeout of established connections, in seconds.
    #[must_use]
    pub const fn with_established_timeout(mut self, seconds: u32) -> Self {
        self.established_timeout = seconds;
        self
    }

    /// The same settings in another generation of UDP frontends.
    #[must_use]
    pub const fn with_generation(mut self, generation: u16) -> Self {
        self.generation = generation as u32;
        self
    }

    /// The same settings with the cookie of the node's network namespace (`SO_NETNS_COOKIE`); 0 if it is not known.
    #[must_use]
    pub const fn with_node_netns_cookie(mut self, cookie: u64) -> Self {
        self.node_netns_cookie = cookie;
        self
    }

    /// The same settings with the mark of nodePort traffic that keeps its source (Kube-OVN's `0x80000`); 0 for none.
    #[must_use]
    pub const fn with_local_node_port_mark(mut self, mark: u32) -> Self {
        self.local_node_port_mark = mark;
        self
    }

    /// Version of the tables' layout; 0 in tables that no agent has written yet.
    #[must_use]
    pub const fn layout_version(&self) -> u32 {
        self.layout_version
    }

    /// Switches.
    #[must_use]
    pub const fn flags(&self) -> SettingsFlags {
        SettingsFlags(self.flags)
    }

    /// The mark bit that asks for masquerading.
    #[must_use]
    pub const fn masquerade_mark(&self) -> u32 {
        self.masquerade_mark
    }

    /// The cookie of the node's network namespace; `None` if it is not known.
    #[must_use]
    pub const fn node_netns_cookie(&self) -> Option<u64> {
        match self.node_netns_cookie {
            0 => None,
            cookie => Some(cookie),
        }
    }

    /// The mark bits of nodePort traffic that keeps its source; 0 for none.
    #[must_use]
    pub const fn local_node_port_mark(&self) -> u32 {
        self.local_node_port_mark
    }

    /// Seconds without a datagram after which a UDP flow has ended.
    #[must_use]
    pub const fn udp_timeout(&self) -> u32 {
        self.udp_timeout
    }

    /// Seconds without a segment after which a TCP connection that one side has closed counts as ended.
    #[must_use]
    pub const fn half_closed_timeout(&self) -> u32 {
        self.half_closed_timeout
    }

    /// Seconds without a packet after which a TCP connection or SCTP association has ended.
    #[must_use]
    pub const fn established_timeout(&self) -> u32 {
        self.established_timeout
    }

    /// A number that changes after UDP frontends have become another Service's. A flow of datagrams that knows this number need
    /// not look its frontend up.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the other half is padding")]
    pub const fn generation(&self) -> u16 {
        self.generation as u16
    }

    /// IPv4's part.
    #[must_use]
    pub const fn v4(&self) -> &FamilySettings<[u8; 4]> {
        &self.v4
    }

    /// IPv6's part.
    #[must_use]
    pub const fn v6(&self) -> &FamilySettings<[u8; 16]> {
        &self.v6
    }
}
