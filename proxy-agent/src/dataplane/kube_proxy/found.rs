//! What kube-proxy leaves in `nf_tables`, looked for and not touched.

use netlink_packet_netfilter::nftables::{ChainAttribute, ChainMessage, NfTablesMessage, TableAttribute, TableMessage};

use super::{
    Family,
    nft::{TABLE, step},
};
use crate::dataplane::nft::{NftError, netlink::ask};

/// The chain from which all rules of its iptables mode are reached, and the table that it is in where iptables is a front end of
/// `nf_tables`.
const CHAIN: (&str, &str) = ("nat", "KUBE-SERVICES");

/// The tables and chains of kube-proxy's that are in this network namespace; those of the older iptables, which has no `nf_tables`,
/// are not looked at.
///
/// # Errors
/// The kernel does not say.
pub fn kube_proxy_rules() -> Result<Vec<String>, NftError> {
    let mut found = Vec::new();
    for family in Family::ALL {
        let name = family.name();
        let attributes = vec![TableAttribute::Name(TABLE.to_owned())];
        if is_there(family, NfTablesMessage::GetTable(TableMessage { attributes }))? {
            found.push(format!("the {name} nftables table {TABLE}"));
        }
        let (table, chain) = CHAIN;
        let attributes = vec![ChainAttribute::Table(table.to_owned()), ChainAttribute::Name(chain.to_owned())];
        if is_there(family, NfTablesMessage::GetChain(ChainMessage { attributes }))? {
            found.push(format!("the {name} chain {chain} in {table}"));
        }
    }
    Ok(found)
}

fn is_there(family: Family, message: NfTablesMessage) -> Result<bool, NftError> {
    match ask(&step(family, message)) {
        Ok(()) => Ok(true),
        Err(NftError::Refused { error, .. }) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) if error.is_unsupported() => Ok(false),
        Err(error) => Err(error),
    }
}
