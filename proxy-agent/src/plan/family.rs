//! What the plan needs to know of a family beyond its addresses: where its part of things is.

use std::net::IpAddr;

use proxy_common::{Family, V4, V6};

use super::{
    Changes, FamilyChanges, FamilySnapshot, Refused, Snapshot,
    desired::{DesiredFamily, DesiredPort},
    record::{FamilyRecord, PortRecord},
};
use crate::model::IpFamily;

/// A family as the plan handles it.
pub(super) trait PlanFamily: Family {
    /// The family as a value.
    const IP_FAMILY: IpFamily;

    /// The address, if it is of this family.
    fn from_ip(address: IpAddr) -> Option<Self::Address>;
    /// The address as a value of either family.
    fn to_ip(address: Self::Address) -> IpAddr;

    fn of_changes(changes: &mut Changes) -> &mut FamilyChanges<Self>;
    fn of_snapshot(snapshot: &Snapshot) -> &FamilySnapshot<Self>;
    fn of_refused(refused: &Refused) -> &[proxy_common::ServiceKey<Self::Address>];
    fn of_desired(port: &DesiredPort) -> &DesiredFamily<Self::Address>;
    fn of_record(port: &PortRecord) -> &FamilyRecord<Self::Address>;
    fn of_record_mut(port: &mut PortRecord) -> &mut FamilyRecord<Self::Address>;
}

impl PlanFamily for V4 {
    const IP_FAMILY: IpFamily = IpFamily::V4;

    fn from_ip(address: IpAddr) -> Option<[u8; 4]> {
        match address {
            IpAddr::V4(address) => Some(address.octets()),
            IpAddr::V6(_) => None,
        }
    }

    fn to_ip(address: [u8; 4]) -> IpAddr {
        address.into()
    }

    fn of_changes(changes: &mut Changes) -> &mut FamilyChanges<Self> {
        &mut changes.v4
    }

    fn of_snapshot(snapshot: &Snapshot) -> &FamilySnapshot<Self> {
        &snapshot.v4
    }

    fn of_refused(refused: &Refused) -> &[proxy_common::ServiceKey<[u8; 4]>] {
        &refused.v4
    }

    fn of_desired(port: &DesiredPort) -> &DesiredFamily<[u8; 4]> {
        &port.v4
    }

    fn of_record(port: &PortRecord) -> &FamilyRecord<[u8; 4]> {
        &port.v4
    }

    fn of_record_mut(port: &mut PortRecord) -> &mut FamilyRecord<[u8; 4]> {
        &mut port.v4
    }
}

impl PlanFamily for V6 {
    const IP_FAMILY: IpFamily = IpFamily::V6;

    fn from_ip(address: IpAddr) -> Option<[u8; 16]> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.octets()),
        }
    }

    fn to_ip(address: [u8; 16]) -> IpAddr {
        address.into()
    }

    fn of_changes(changes: &mut Changes) -> &mut FamilyChanges<Self> {
        &mut changes.v6
    }

    fn of_snapshot(snapshot: &Snapshot) -> &FamilySnapshot<Self> {
        &snapshot.v6
    }

    fn of_refused(refused: &Refused) -> &[proxy_common::ServiceKey<[u8; 16]>] {
        &refused.v6
    }

    fn of_desired(port: &DesiredPort) -> &DesiredFamily<[u8; 16]> {
        &port.v6
    }

    fn of_record(port: &PortRecord) -> &FamilyRecord<[u8; 16]> {
        &port.v6
    }

    fn of_record_mut(port: &mut PortRecord) -> &mut FamilyRecord<[u8; 16]> {
        &mut port.v6
    }
}
