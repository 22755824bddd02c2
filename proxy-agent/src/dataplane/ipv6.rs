//! Whether the node has IPv6. Where it has not, IPv6's programs and tables are there and nothing ever reaches them.

use std::{fmt, fs};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketType, socket},
};

/// Why there is no IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// The kernel has none, or was started with `ipv6.disable=1`.
    Kernel,
    /// It is switched off for all devices (`net.ipv6.conf.all.disable_ipv6`).
    Devices,
}

impl fmt::Display for Absence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kernel => "the kernel has no IPv6 (ipv6.disable=1)",
            Self::Devices => "IPv6 is switched off (net.ipv6.conf.all.disable_ipv6=1)",
        })
    }
}

/// Why the calling process's network namespace has no IPv6, if it has none.
pub(super) fn absence() -> Option<Absence> {
    if socket(AddressFamily::INET6, SocketType::DGRAM, None).is_err_and(|error| error == Errno::AFNOSUPPORT) {
        return Some(Absence::Kernel);
    }
    let disabled =
        fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6").is_ok_and(|value| value.trim() == "1");
    disabled.then_some(Absence::Devices)
}
