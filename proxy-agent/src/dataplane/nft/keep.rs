//! Keeps the table in place. What is wrong is said once, and tried again for as long as it is.

use super::{NftError, Presence, TABLE, completeness, install};

/// Whether the table was there when last looked for.
pub(in crate::dataplane) enum Masquerading {
    Installed,
    /// It could not be made, and that has been said.
    Missing,
}

impl Masquerading {
    /// Makes the table, replacing one that is there.
    pub(in crate::dataplane) fn install(mark: u32) -> Self {
        match install(mark) {
            Ok(()) => Self::Installed,
            Err(error) => Self::failed(&error),
        }
    }

    /// Makes the table again if somebody removed it, as a reload of a firewall's rules does, and if it could not be
    /// made before, as when a module is loaded late.
    pub(in crate::dataplane) fn keep(&mut self, mark: u32) {
        match self {
            Self::Installed => match completeness(mark) {
                Ok(Presence::Installed) => {}
                Ok(Presence::Missing | Presence::Unsupported) => {
                    tracing::warn!("somebody removed the nftables table {TABLE}, or a part of it; making it again");
                    *self = Self::install(mark);
                }
                Err(error) => *self = Self::failed(&error),
            },
            Self::Missing => {
                if install(mark).is_ok() {
                    tracing::info!("the nftables table {TABLE} is there now; packets are masqueraded");
                    *self = Self::Installed;
                }
            }
        }
    }

    fn failed(error: &NftError) -> Self {
        let needs = if error.is_unsupported() {
            "the kernel needs nf_tables with CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT and CONFIG_NFT_MASQ; "
        } else {
            ""
        };
        tracing::warn!("packets are not masqueraded: {error}; {needs}trying again every half minute");
        Self::Missing
    }
}
