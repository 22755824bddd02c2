//! Which Service ports have series of their own: as many as the user allows, and all others together.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::{Direction, DropReason, ServiceId, Traffic};

/// How many Service ports have series of their own in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceSeries(pub u32);

impl Default for ServiceSeries {
    fn default() -> Self {
        Self(200)
    }
}

/// What a Service port is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceLabels {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Name of its port.
    pub port: String,
    /// The port's protocol.
    pub protocol: String,
}

/// Numbers of one Service port and reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceDrops {
    /// The Service port.
    pub service: ServiceId,
    /// What it is called; all empty if nobody knows.
    pub labels: ServiceLabels,
    /// Why.
    pub reason: DropReason,
    /// How often.
    pub count: u64,
}

/// What was translated for one Service port, or for several together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTraffic {
    /// The Service port; nobody's number if it is all those together that are not counted for themselves.
    pub service: ServiceId,
    /// What it is called; all empty if nobody knows.
    pub labels: ServiceLabels,
    /// How much.
    pub traffic: Traffic,
}

/// Who has series of its own. Once a Service port has, it keeps them for as long as anything is counted for it: a counter that
/// went over to another series would seem to begin anew.
#[derive(Debug, Default)]
pub(super) struct Chosen(BTreeSet<ServiceId>);

impl Chosen {
    /// The series, by labels and reason; those of everybody else together have empty labels.
    pub(super) fn series(
        &mut self,
        drops: &[ServiceDrops],
        room: ServiceSeries,
    ) -> BTreeMap<(ServiceLabels, DropReason), u64> {
        let mut totals: BTreeMap<ServiceId, u64> = BTreeMap::new();
        for drop in drops {
            *totals.entry(drop.service).or_default() += drop.count;
        }
        self.choose(&totals, room);
        let mut series = BTreeMap::new();
        for ServiceDrops { service, labels, reason, count } in drops {
            *series.entry((self.labels(*service, labels), *reason)).or_default() += count;
        }
        series
    }

    /// The same for what was translated; who has the most connections and packets comes first.
    pub(super) fn traffic(
        &mut self,
        services: &[ServiceTraffic],
        room: ServiceSeries,
    ) -> BTreeMap<ServiceLabels, Traffic> {
        let total = |traffic: &Traffic| {
            let packets = [Direction::Original, Direction::Reply].map(|direction| traffic.packets(direction));
            packets.iter().fold(traffic.connections(), |sum, packets| sum.saturating_add(*packets))
        };
        let nobody = ServiceId::default();
        let known = services.iter().filter(|ServiceTraffic { service, .. }| *service != nobody);
        let totals = known.map(|ServiceTraffic { service, traffic, .. }| (*service, total(traffic)));
        self.choose(&totals.filter(|(_, total)| *total != 0).collect(), room);
        let mut series: BTreeMap<ServiceLabels, Traffic> = BTreeMap::new();
        for ServiceTraffic { service, labels, traffic } in services {
            if *traffic != Traffic::default() {
                *series.entry(self.labels(*service, labels)).or_default() += *traffic;
            }
        }
        series
    }

    /// Those that have series keep them for as long as they have a total; the others get what room is left, the greatest first.
    fn choose(&mut self, totals: &BTreeMap<ServiceId, u64>, room: ServiceSeries) {
        self.0.retain(|service| totals.contains_key(service));
        let mut others: Vec<(u64, ServiceId)> =
            totals.iter().filter(|(service, _)| !self.0.contains(service)).map(|(&id, &count)| (count, id)).collect();
        others.sort_unstable_by(|one, other| other.cmp(one));
        let room = usize::try_from(room.0).unwrap_or(usize::MAX).saturating_sub(self.0.len());
        self.0.extend(others.into_iter().take(room).map(|(_, service)| service));
    }

    fn labels(&self, service: ServiceId, labels: &ServiceLabels) -> ServiceLabels {
        if self.0.contains(&service) { labels.clone() } else { ServiceLabels::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drops(counts: &[(u32, u64)]) -> Vec<ServiceDrops> {
        let labels = |id| ServiceLabels { service: format!("s{id}"), ..ServiceLabels::default() };
        let drop = |&(id, count)| ServiceDrops {
            service: ServiceId::new(id),
            labels: labels(id),
            reason: DropReason::NoEndpoint,
            count,
        };
        counts.iter().map(drop).collect()
    }

    fn names(series: &BTreeMap<(ServiceLabels, DropReason), u64>) -> Vec<(&str, u64)> {
        series.iter().map(|((labels, _), count)| (labels.service.as_str(), *count)).collect()
    }

    #[test]
    fn those_with_the_greatest_numbers_have_series_and_all_others_one() {
        let mut chosen = Chosen::default();
        let series = chosen.series(&drops(&[(1, 5), (2, 50), (3, 7), (4, 60)]), ServiceSeries(2));
        assert_eq!(names(&series), [("", 12), ("s2", 50), ("s4", 60)]);
    }

    #[test]
    fn whoever_has_series_keeps_them_until_nothing_is_counted_any_more() {
        let mut chosen = Chosen::default();
        assert_eq!(names(&chosen.series(&drops(&[(1, 5)]), ServiceSeries(1))), [("s1", 5)]);
        assert_eq!(names(&chosen.series(&drops(&[(1, 5), (2, 900)]), ServiceSeries(1))), [("", 900), ("s1", 5)]);
        assert_eq!(names(&chosen.series(&drops(&[(2, 901)]), ServiceSeries(1))), [("s2", 901)]);
    }

    #[test]
    fn who_is_not_counted_for_itself_and_who_has_no_series_are_one_series() {
        let of = |id: u32, packets: u32| {
            let mut traffic = Traffic::default();
            (0..packets).for_each(|_| traffic.add_packet(Direction::Reply, 100));
            let labels = ServiceLabels { service: format!("s{id}"), ..ServiceLabels::default() };
            ServiceTraffic { service: ServiceId::new(id), labels, traffic }
        };
        let mut chosen = Chosen::default();
        let mut series = |traffic: &[ServiceTraffic]| -> Vec<(String, u64)> {
            let series = chosen.traffic(traffic, ServiceSeries(1)).into_iter();
            series.map(|(labels, traffic)| (labels.service, traffic.packets(Direction::Reply))).collect()
        };
        let unnamed = ServiceTraffic { labels: ServiceLabels::default(), ..of(0, 90) };
        let all = [of(1, 5), of(2, 50), of(3, 0), unnamed];
        assert_eq!(series(&all), [(String::new(), 95), ("s2".to_owned(), 50)]);
        assert_eq!(
            series(&[of(1, 500), of(2, 51)]),
            [(String::new(), 500), ("s2".to_owned(), 51)],
            "who has series keeps them"
        );
    }

    #[test]
    fn without_room_there_is_one_series_for_all() {
        let series = Chosen::default().series(&drops(&[(1, 5), (2, 6)]), ServiceSeries(0));
        assert_eq!(names(&series), [("", 11)]);
    }
}
