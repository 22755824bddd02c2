//! Which connections are asked for.

use std::{collections::BTreeSet, net::IpAddr};

use clap::Args;
use proxy_common::{Protocol, ServiceId};

use super::{
    CommandError, Names,
    record::{Record, State},
};
use crate::{cli::select::ServiceSelector, near::near};

/// Conditions, all of which a connection must meet.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Filter {
    /// Only connections to this Service: `[NAMESPACE/]NAME[:PORT]`.
    #[arg(value_name = "SERVICE")]
    pub(super) service: Option<ServiceSelector>,
    /// Only connections to Services of this namespace.
    #[arg(short, long)]
    pub(super) namespace: Option<String>,
    /// Only connections with this address as their client, frontend or backend.
    #[arg(short, long, value_parser = address)]
    pub(super) address: Option<IpAddr>,
    /// Only connections of this protocol: tcp, udp or sctp.
    #[arg(short, long, value_parser = protocol)]
    pub(super) protocol: Option<Protocol>,
    /// Only connections in these states, separated by commas.
    #[arg(short, long, value_enum, value_delimiter = ',')]
    pub(super) state: Vec<State>,
}

/// A filter whose names are ids.
#[derive(Debug)]
pub(super) struct Selection<'a> {
    filter: &'a Filter,
    services: Option<BTreeSet<ServiceId>>,
}

impl Filter {
    /// The filter for Services with these names.
    ///
    /// # Errors
    /// Nobody has a name that is asked for.
    pub(super) fn resolve(&self, names: &Names) -> Result<Selection<'_>, CommandError> {
        let mut services = self.service.as_ref().map(|service| service.ids(names)).transpose()?;
        if let Some(namespace) = &self.namespace {
            let found: BTreeSet<ServiceId> =
                names.iter().filter(|(_, name)| name.namespace() == namespace).map(|(&id, _)| id).collect();
            if found.is_empty() {
                return Err(CommandError::Nothing(no_namespace(namespace, names)));
            }
            services = Some(services.map_or_else(|| found.clone(), |services| &services & &found));
        }
        Ok(Selection { filter: self, services })
    }
}

impl Selection<'_> {
    /// Whether the connection is asked for.
    pub(super) fn passes(&self, record: &Record) -> bool {
        let Self { filter: Filter { service: _, namespace: _, address, protocol, state }, services } = self;
        services.as_ref().is_none_or(|services| services.contains(&record.service))
            && address.is_none_or(|address| record.has(address))
            && protocol.is_none_or(|protocol| record.protocol == Some(protocol))
            && (state.is_empty() || state.contains(&record.state))
    }
}

/// An address as people write it.
pub(in crate::cli) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "it is an address such as 10.0.0.1 or fd00::1".to_owned())
}

/// A protocol as people write it.
pub(in crate::cli) fn protocol(text: &str) -> Result<Protocol, String> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol.name().eq_ignore_ascii_case(text))
        .ok_or_else(|| "it is one of tcp, udp, sctp".to_owned())
}

fn no_namespace(namespace: &str, names: &Names) -> String {
    let all: BTreeSet<&str> = names.values().map(proxy_common::PortName::namespace).collect();
    let near = near(namespace, all.into_iter().map(|name| (name.to_owned(), name.to_owned())));
    let advice = if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) };
    format!("this node serves no Service of a namespace \"{namespace}\"{advice}")
}
