//! kube-proxy's rules in `nf_tables`: the table of its nftables mode, and chains that iptables-nft made.
//!
//! No program is needed. What leads to the chains goes first, in one transaction, so that no packet meets half of them.

use std::{collections::BTreeMap, io};

use netlink_packet_netfilter::{
    NetfilterProtoFamily,
    nftables::{
        ChainAttribute, ChainMessage, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute,
        NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute, TableMessage, VerdictAttribute,
    },
};

use super::{
    Family,
    chains::{Chain, Removal, Rule, removal},
};
use crate::dataplane::nft::{
    NftError,
    netlink::{Step, dump, transaction},
};

/// The table of kube-proxy's nftables mode.
pub(super) const TABLE: &str = "kube-proxy";

/// Steps in one transaction: as many as the kernel's answers to fit into a socket's buffer.
const STEPS: usize = 64;

/// How often to look again if somebody changes the table meanwhile.
const ATTEMPTS: u32 = 5;

/// Removes the table of the nftables mode, and says how many there were.
pub(super) fn remove_table(family: Family) -> io::Result<usize> {
    let table = TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] };
    match transaction(&[step(family, NfTablesMessage::DeleteTable(table))]) {
        Ok(()) => Ok(1),
        Err(error) if is_missing(&error) || error.is_unsupported() => Ok(0),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Removes kube-proxy's chains from a table of iptables-nft, and says how many there were.
pub(super) fn remove_chains(family: Family, table: &str) -> io::Result<usize> {
    let mut attempt = 1;
    loop {
        let result = read(family, table).and_then(|chains| {
            let removal = removal(&chains);
            carry_out(family, table, &removal).map(|()| removal.chains.len())
        });
        match result {
            Ok(count) => return Ok(count),
            Err(NftError::Refused { error, .. }) if attempt < ATTEMPTS && is_changing(&error) => attempt += 1,
            Err(error) if error.is_unsupported() => return Ok(0),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

/// Whether a rule or chain that was there is not there any more, or a new one leads there.
fn is_changing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EBUSY))
}

fn is_missing(error: &NftError) -> bool {
    matches!(error, NftError::Refused { error, .. } if error.raw_os_error() == Some(libc::ENOENT))
}

fn carry_out(family: Family, table: &str, removal: &Removal<u64>) -> Result<(), NftError> {
    let rule = |chain: &String, handle: Option<u64>| {
        let mut attributes = vec![RuleAttribute::Table(table.to_owned()), RuleAttribute::Chain(chain.clone())];
        attributes.extend(handle.map(RuleAttribute::Handle));
        step(family, NfTablesMessage::DeleteRule(RuleMessage { attributes }))
    };
    let chain = |name: &String| {
        let attributes = vec![ChainAttribute::Table(table.to_owned()), ChainAttribute::Name(name.clone())];
        step(family, NfTablesMessage::DeleteChain(ChainMessage { attributes }))
    };
    // Without a handle, all rules of a chain are meant. Once they are empty, no chain needs another one.
    let jumps = removal.rules.iter().map(|(chain, handle)| rule(chain, Some(*handle)));
    let contents = removal.chains.iter().map(|chain| rule(chain, None));
    for steps in [jumps.collect(), contents.collect(), removal.chains.iter().map(chain).collect::<Vec<Step>>()] {
        steps.chunks(STEPS).try_for_each(transaction)?;
    }
    Ok(())
}

/// The chains of a table; none if there is no such table.
fn read(family: Family, table: &str) -> Result<BTreeMap<String, Chain<u64>>, NftError> {
    let name = ChainAttribute::Table(table.to_owned());
    let mut chains = BTreeMap::new();
    for message in dump(&step(family, NfTablesMessage::GetChain(ChainMessage { attributes: vec![name.clone()] })))? {
        // The kernel lists the chains of all tables.
        if let NfTablesMessage::NewChain(ChainMessage { attributes }) = message
            && attributes.contains(&name)
            && let Some(chain) = attributes.iter().find_map(|attribute| match attribute {
                ChainAttribute::Name(name) => Some(name.clone()),
                _ => None,
            })
        {
            let is_base = attributes.iter().any(|attribute| matches!(attribute, ChainAttribute::Hook(_)));
            chains.insert(chain, Chain { is_base, rules: Vec::new() });
        }
    }
    if chains.is_empty() {
        return Ok(chains);
    }
    let attributes = vec![RuleAttribute::Table(table.to_owned())];
    for message in dump(&step(family, NfTablesMessage::GetRule(RuleMessage { attributes })))? {
        let NfTablesMessage::NewRule(RuleMessage { attributes }) = message else { continue };
        let (mut chain, mut handle, mut target) = (None, None, None);
        for attribute in attributes {
            match attribute {
                RuleAttribute::Chain(name) => chain = Some(name),
                RuleAttribute::Handle(number) => handle = Some(number),
                RuleAttribute::Expressions(expressions) => target = leads_to(&expressions),
                _ => {}
            }
        }
        if let (Some(chain), Some(handle)) = (chain, handle)
            && let Some(chain) = chains.get_mut(&chain)
        {
            chain.rules.push(Rule { handle, target });
        }
    }
    Ok(chains)
}

/// The chain that a rule jumps or goes to.
fn leads_to(expressions: &[ListAttribute<ExpressionAttribute>]) -> Option<String> {
    let parts = expressions.iter().filter_map(|expression| match expression {
        ListAttribute::Element(parts) => Some(parts),
        _ => None,
    });
    let immediates = parts.flatten().filter_map(|part| match part {
        ExpressionAttribute::Data(Expressions::Immediate(immediates)) => Some(immediates),
        _ => None,
    });
    let verdicts = immediates.flatten().filter_map(|immediate| match immediate {
        Immediate::Data(DataAttribute::Verdict(verdict)) => Some(verdict),
        _ => None,
    });
    verdicts.flatten().find_map(|attribute| match attribute {
        VerdictAttribute::Chain(name) => Some(name.clone()),
        _ => None,
    })
}

pub(super) fn step(family: Family, message: NfTablesMessage) -> Step {
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    Step { name: "kube-proxy's rules", family, message }
}
