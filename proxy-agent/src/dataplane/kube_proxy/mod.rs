//! Finds and removes what kube-proxy leaves on a node when it ends: rules, sets of addresses, a device.
//!
//! Touches nothing of anybody else's: not kubelet's chains, not rules of others that jump into kube-proxy's chains (what
//! such a rule needs stays), and not the connections: those that kube-proxy translated go on, because the kernel's
//! connection tracking remembers them and the agent's own table keeps address translation switched on.
//!
//! | mode | what is removed, in IPv4 and IPv6 | how |
//! |---|---|---|
//! | nftables | the table `kube-proxy` | netlink |
//! | iptables | chains of kube-proxy's names in `nat`, `filter` and `mangle`, and what leads there | netlink for iptables-nft, the iptables-legacy programs for the older kind |
//! | ipvs | the same, sets of addresses with kube-proxy's names, the device `kube-ipvs0` | netlink |

mod chains;
mod found;
mod ipvs;
mod legacy;
mod nft;

use std::io;

pub use self::{found::kube_proxy_rules, ipvs::virtual_servers};
use super::{CleanupError, Removed};

/// An IP family, as netfilter's tables are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// The tables in which kube-proxy makes chains. (Its canary has one in `mangle`.)
const TABLES: [&str; 3] = ["nat", "filter", "mangle"];

/// Removes what kube-proxy left in the calling thread's network namespace. That there is nothing is no error.
///
/// New connections are kube-proxy's until its rules are gone, unless the agent serves them: it should run.
///
/// # Errors
/// Something could not be removed; everything else has been removed nevertheless.
pub fn remove_kube_proxy() -> Result<Removed, CleanupError> {
    let mut removed = Removed::new();
    let mut failure = None;
    let mut step = |what: String, result: io::Result<usize>| match result {
        Ok(0) => {}
        Ok(1) => removed.push(what),
        Ok(count) => removed.push(format!("{what} ({count} chains)")),
        Err(error) => {
            failure.get_or_insert(CleanupError::Remove { what, error });
        }
    };
    for family in Family::ALL {
        let name = family.name();
        step(format!("{name} nftables table {}", nft::TABLE), nft::remove_table(family));
        for table in TABLES {
            step(format!("{name} iptables-nft rules in {table}"), nft::remove_chains(family, table));
            step(format!("{name} iptables-legacy rules in {table}"), legacy::remove_chains(family, table));
        }
    }
    for set in ipvs::sets().unwrap_or_default() {
        let result = ipvs::destroy(&set);
        step(format!("set of addresses {set}"), result.map(|()| 1));
    }
    step(format!("device {}", ipvs::DEVICE), ipvs::remove_device());
    match failure {
        Some(failure) => Err(failure),
        None => Ok(removed),
    }
}
