//! What can happen to a node.

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The agent is killed, and started again after a while.
    Kill,
    /// It is stopped as the kubelet does it, and started again.
    Stop,
    /// It is killed while it starts.
    KillAtStart,
    /// It is killed while it writes many Services.
    KillInUpdate,
    /// It is followed by one with other programs.
    Upgrade,
    /// It is followed by one whose tables of flows have another size, so that all flows go over.
    Resize,
    /// SYNs and datagrams come from thousands of invented clients.
    Flood,
    /// A backend goes away, and comes back.
    Backend,
    /// A hundred other Services come, change and go.
    Services,
    /// A pod and its device come and go.
    Device,
    /// Somebody removes the nftables table.
    Rules,
    /// Somebody removes pins, and the agent puts them back.
    Pins,
    /// A hundred devices come at once, and go.
    Devices,
}

impl Fault {
    pub const ALL: [Self; 13] = [
        Self::Kill,
        Self::Stop,
        Self::KillAtStart,
        Self::KillInUpdate,
        Self::Upgrade,
        Self::Resize,
        Self::Flood,
        Self::Backend,
        Self::Services,
        Self::Device,
        Self::Rules,
        Self::Pins,
        Self::Devices,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::KillAtStart => "kill-at-start",
            Self::KillInUpdate => "kill-in-update",
            Self::Upgrade => "upgrade",
            Self::Resize => "resize",
            Self::Flood => "flood",
            Self::Backend => "backend",
            Self::Services => "services",
            Self::Device => "device",
            Self::Rules => "rules",
            Self::Pins => "pins",
            Self::Devices => "devices",
        }
    }
}

/// The fault of that name.
pub fn by_name(name: &str) -> Fault {
    Fault::ALL.into_iter().find(|fault| fault.name() == name).unwrap_or_else(|| {
        panic!("there is no fault {name}: {:?}", Fault::ALL.map(Fault::name));
    })
}
