//! What is to become of the pinned tables of a former agent: the layouts that they can have, and what replacing them costs.
//!
//! Decides; touches nothing. The tables that programs write (flows, sockets, affinity, counters) can be replaced one by one. Those
//! that the agent writes belong together: they name each other by numbers.

use std::fmt;

use proxy_common::{LAYOUT_VERSION, V4, V6, maps};

/// The oldest layout whose tables can be used.
pub(super) const OLDEST: u32 = 3;

/// What a map is to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) kind: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) entries: u32,
    pub(super) flags: u32,
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key_size, value_size, entries, flags } = self;
        write!(formatter, "{entries} entries of {key_size} and {value_size} bytes, type {kind}, flags {flags:#x}")
    }
}

/// How the entries of a former table become entries of today's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conversion {
    /// They are the same; the table has another size.
    Same,
    /// Flows from before a connection's client could get another port.
    WithoutClientPort,
    /// Settings from before there was a timeout of established connections.
    WithoutEstablishedTimeout,
}

impl Conversion {
    /// What is to be done with the entries of a table of that name and layout, with keys and values of that many bytes where
    /// today's have those of `today`; `None` if nobody knows.
    pub(super) fn of(name: &str, layout: u32, key_and_value: (u32, u32), today: (u32, u32)) -> Option<Self> {
        let (key, value) = key_and_value;
        let is_flows = is(name, maps::FLOWS) || is(name, maps::YOUNG_FLOWS);
        let is_carried =
            is_flows || [maps::SOCKETS, maps::AFFINITY, maps::SOCKET_AFFINITY].iter().any(|&map| is(name, map));
        if is_carried && key_and_value == today && (maps::since(name)..=LAYOUT_VERSION).contains(&layout) {
            return Some(Self::Same);
        }
        match layout {
            3 if is(name, maps::FLOWS) && (key, value + 4) == today => Some(Self::WithoutClientPort),
            3 if name == maps::SETTINGS && (key, value + 8) == today => Some(Self::WithoutEstablishedTimeout),
            _ => None,
        }
    }
}

/// What happens to a pinned table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is used as it is.
    Kept,
    /// Another takes its place, and its entries go over.
    Converted,
    /// Another takes its place, which is empty.
    Lost,
}

impl Fate {
    /// What happens to the table of that name, if the pinned tables have that layout.
    pub(super) fn of(name: &str, layout: u32, pinned: Shape, wanted: Shape) -> Self {
        if !(OLDEST..=LAYOUT_VERSION).contains(&layout) {
            return Self::Lost;
        }
        if pinned == wanted && maps::since(name) <= layout {
            return Self::Kept;
        }
        let sizes = |shape: Shape| (shape.key_size, shape.value_size);
        match Conversion::of(name, layout, sizes(pinned), sizes(wanted)) {
            Some(_) if pinned.kind == wanted.kind => Self::Converted,
            _ => Self::Lost,
        }
    }
}

/// Who fills a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filler {
    /// The agent, from what the API and the node tell.
    Agent,
    /// The agent, from its other tables: whenever it opens them.
    AgentAnew,
    /// Programs, with entries that mean something only beside the agent's tables of their time.
    ProgramsById,
    /// Programs. Entries hold addresses, by which it is found out whether they still mean what they meant.
    Programs,
}

impl Filler {
    /// Who fills the table of that name.
    pub(super) fn of(name: &str) -> Self {
        let by_ids = [maps::AFFINITY, maps::SOCKET_AFFINITY];
        let by_address = [maps::FLOWS, maps::YOUNG_FLOWS, maps::SOCKETS, maps::FRAGMENTS];
        if [maps::DROPS, maps::COUNTED, maps::TRAFFIC].contains(&name) || by_ids.iter().any(|&map| is(name, map)) {
            Self::ProgramsById
        } else if [maps::FRONTEND_FILTER, maps::PEER_DEVICES].contains(&name) {
            Self::AgentAnew
        } else if [maps::COUNTERS, maps::FLOW_FILTER].contains(&name)
            || is_of_traces(name)
            || by_address.iter().any(|&map| is(name, map))
        {
            Self::Programs
        } else {
            Self::Agent
        }
    }
}

/// What it costs that a table's entries do not go over; `None` if the agent fills it again.
pub(super) fn loss(name: &str) -> Option<&'static str> {
    const LOSSES: [(maps::FamilyMap, &str); 6] = [
        (maps::FLOWS, "connections that TC programs translate break"),
        (maps::YOUNG_FLOWS, "connections that TC programs have just begun to translate break"),
        (maps::SOCKETS, "sockets that are connected to Services are told the endpoints' addresses"),
        (maps::AFFINITY, "session affinity of what TC programs serve begins anew"),
        (maps::SOCKET_AFFINITY, "session affinity at sockets begins anew"),
        (maps::FRAGMENTS, "datagrams of which fragments are on their way are lost"),
    ];
    match name {
        maps::COUNTERS | maps::DROPS | maps::COUNTED | maps::TRAFFIC => Some("its numbers begin at 0"),
        _ if is_of_traces(name) => Some("who follows decisions has to begin again"),
        maps::FLOW_FILTER => Some("packets of no flow are looked up nevertheless"),
        _ => LOSSES.into_iter().find(|&(map, _)| is(name, map)).map(|(_, loss)| loss),
    }
}

fn is_of_traces(name: &str) -> bool {
    name == maps::TRACES || name == maps::TRACE_RATES || maps::EVENTS.contains(&name)
}

/// The tables whose entries have their ends marked in the filter.
pub(super) fn tables_of_flows() -> impl Iterator<Item = &'static str> {
    [maps::FLOWS, maps::YOUNG_FLOWS].into_iter().flat_map(|map| [map.name::<V4>(), map.name::<V6>()])
}

fn is(name: &str, map: maps::FamilyMap) -> bool {
    [map.name::<V4>(), map.name::<V6>()].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOWS: Shape = Shape { kind: 9, key_size: 16, value_size: 24, entries: 1024, flags: 0 };

    #[test]
    fn what_has_not_changed_is_used_as_it_is() {
        for layout in [3, 4, 5] {
            assert_eq!(Fate::of("flows_v4", layout, FLOWS, FLOWS), Fate::Kept);
        }
        assert_eq!(Fate::of("settings", 3, FLOWS, FLOWS), Fate::Lost, "of the same size, but not the same");
    }

    #[test]
    fn what_has_changed_is_converted_if_it_is_known_how() {
        let other = |entries, value_size| Shape { value_size, entries, ..FLOWS };
        assert_eq!(Fate::of("flows_v6", 4, other(2048, 24), FLOWS), Fate::Converted);
        assert_eq!(Fate::of("affinity_v4", 3, other(2048, 24), FLOWS), Fate::Converted);
        assert_eq!(Fate::of("flows_v6", 3, other(2048, 20), FLOWS), Fate::Converted);
        assert_eq!(Fate::of("settings", 3, other(1, 16), FLOWS), Fate::Converted);
        assert_eq!(Fate::of("flows_v6", 4, other(2048, 20), FLOWS), Fate::Lost, "layout 4 has client ports");
        assert_eq!(Fate::of("affinity_v4", 3, other(1024, 20), FLOWS), Fate::Lost);
        assert_eq!(Fate::of("services_v4", 4, other(2048, 24), FLOWS), Fate::Lost, "the agent fills it");
        assert_eq!(Fate::of("flows_v4", 4, Shape { kind: 1, ..FLOWS }, FLOWS), Fate::Lost);
    }

    #[test]
    fn nothing_is_known_of_other_layouts() {
        for layout in [0, OLDEST - 1, LAYOUT_VERSION + 1] {
            assert_eq!(Fate::of("flows_v4", layout, FLOWS, FLOWS), Fate::Lost);
        }
    }

    #[test]
    fn every_table_that_programs_fill_costs_something() {
        let names = maps::FAMILY_MAPS.iter().flat_map(|map| [map.name::<V4>(), map.name::<V6>()]);
        for name in names.chain(maps::SHARED_MAPS) {
            let is_agents = [Filler::Agent, Filler::AgentAnew].contains(&Filler::of(name));
            assert_eq!(loss(name).is_none(), is_agents, "{name}");
            assert!((OLDEST..=LAYOUT_VERSION).contains(&maps::since(name)), "{name}");
        }
    }
}
