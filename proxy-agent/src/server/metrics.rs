//! kube-proxy's metrics where the meaning is the same, and our own.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::{
    encoding::text,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets, linear_buckets},
    },
    registry::Registry,
};
use proxy_common::{V4, V6, maps};

use super::{
    ages::Ages,
    flow_tables::FlowTables,
    process::Process,
    services::ServiceSeries,
    statistics::{Reader, Statistics},
};
use crate::{
    freshness::Freshness,
    model::IpFamily,
    plan::{ByPolicy, Capacities, NoLocalEndpoints, Usage},
};

type Seconds = Gauge<f64, AtomicU64>;
type ByLabel = Family<[(&'static str, &'static str); 1], Gauge>;
type ByCode = Family<[(&'static str, String); 1], Counter>;
/// By `ip_family`, as kube-proxy has them since 1.34.
type TimesByFamily = Family<[(&'static str, &'static str); 1], Seconds>;
type HistogramByFamily = Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>;

/// Which kind of sync it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// Everything was compared with the tables.
    Full,
    /// Only what had changed.
    Partial,
}

/// All metrics of the agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    freshness: Arc<Freshness>,
    sync_duration: HistogramByFamily,
    sync_full_duration: HistogramByFamily,
    sync_partial_duration: HistogramByFamily,
    sync_failures: Counter,
    sockets_destroyed: Counter,
    network_programming: HistogramByFamily,
    event_to_kernel: Histogram,
    last_sync: TimesByFamily,
    last_queued: TimesByFamily,
    service_changes: Changes,
    endpoint_changes: Changes,
    healthz: ByCode,
    livez: ByCode,
    map_entries: ByLabel,
    map_capacity: ByLabel,
    no_local_endpoints: Family<[(&'static str, &'static str); 2], Gauge>,
}

/// Changes that have arrived: all of them, and those that are not in the tables yet.
#[derive(Clone, Debug, Default)]
struct Changes {
    total: Gauge,
    pending: Gauge,
}

impl Metrics {
    /// All metrics at zero. `statistics` is read whenever somebody asks; as many Service ports as `services` says have series of
    /// their own.
    #[must_use]
    pub fn new(statistics: Arc<dyn Statistics>, services: ServiceSeries) -> Self {
        let sync = || HistogramByFamily::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 15)));
        let mut metrics = Self {
            registry: Registry::default(),
            freshness: Arc::default(),
            sync_duration: sync(),
            sync_full_duration: sync(),
            sync_partial_duration: sync(),
            sync_failures: Counter::default(),
            sockets_destroyed: Counter::default(),
            network_programming: Family::new_with_constructor(|| Histogram::new(network_programming_buckets())),
            event_to_kernel: Histogram::new(exponential_buckets(0.0005, 2.0, 16)),
            last_sync: TimesByFamily::default(),
            last_queued: TimesByFamily::default(),
            service_changes: Changes::default(),
            endpoint_changes: Changes::default(),
            healthz: ByCode::default(),
            livez: ByCode::default(),
            map_entries: ByLabel::default(),
            map_capacity: ByLabel::default(),
            no_local_endpoints: Family::default(),
        };
        // A series that is there from the beginning has a rate from its first number on.
        for family in IpFamily::ALL {
            for histogram in [
                &metrics.sync_duration,
                &metrics.sync_full_duration,
                &metrics.sync_partial_duration,
                &metrics.network_programming,
            ] {
                drop(histogram.get_or_create(&label(family)));
            }
        }
        metrics.register(statistics, services);
        metrics
    }

    /// How old what the tables hold may be; told with the other metrics.
    #[must_use]
    pub const fn freshness(&self) -> &Arc<Freshness> {
        &self.freshness
    }

    /// Everything in the text format of `OpenMetrics`.
    ///
    /// # Errors
    /// None that a `String` has; the format's writer can fail in general.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Changes of Services and slices have arrived, which concern `families`.
    pub fn queued(&self, services: usize, slices: usize, families: &BTreeSet<IpFamily>, now: Timestamp) {
        for &family in families {
            self.last_queued.get_or_create(&label(family)).set(now.as_duration().as_secs_f64());
        }
        self.service_changes.arrived(services);
        self.endpoint_changes.arrived(slices);
    }

    /// What had arrived is in the tables, and concerned `families`: one sync serves both, so it counts for each of them.
    /// `triggers`: when the changes of endpoints happened that this sync carried out.
    pub fn synced(
        &self,
        kind: SyncKind,
        families: &BTreeSet<IpFamily>,
        duration: Duration,
        triggers: &[(IpFamily, Timestamp)],
        now: Timestamp,
    ) {
        let seconds = duration.as_secs_f64();
        let of_kind = match kind {
            SyncKind::Full => &self.sync_full_duration,
            SyncKind::Partial => &self.sync_partial_duration,
        };
        for &family in families {
            self.sync_duration.get_or_create(&label(family)).observe(seconds);
            of_kind.get_or_create(&label(family)).observe(seconds);
            self.last_sync.get_or_create(&label(family)).set(now.as_duration().as_secs_f64());
        }
        for &(family, trigger) in triggers {
            let latency = now.duration_since(trigger).as_secs_f64().max(0.0);
            self.network_programming.get_or_create(&label(family)).observe(latency);
        }
        self.service_changes.pending.set(0);
        self.endpoint_changes.pending.set(0);
    }

    /// Changes of Services and slices are in the tables, each so long after the agent learned of it.
    pub fn in_tables(&self, latencies: impl Iterator<Item = Duration>) {
        for latency in latencies {
            self.event_to_kernel.observe(latency.as_secs_f64());
        }
    }

    /// How much of the tables is used, and how much they hold.
    pub fn set_usage(&self, usage: Usage, capacities: Capacities) {
        let Usage { v4, v6, names } = usage;
        let Capacities { services, slots, backends, source_ranges, names: names_capacity } = capacities;
        self.set_map(maps::NAMES, names, names_capacity);
        for (family, [services_name, slots_name, backends_name, ranges_name]) in
            [(v4, family_maps::<V4>()), (v6, family_maps::<V6>())]
        {
            self.set_map(services_name, family.services, services);
            self.set_map(slots_name, usize::try_from(family.slots).unwrap_or(usize::MAX), slots);
            self.set_map(backends_name, family.backends, backends);
            self.set_map(ranges_name, family.source_ranges, source_ranges);
        }
    }

    /// How many Service ports have endpoints, and none here where their traffic policy wants one.
    pub fn set_no_local_endpoints(&self, count: NoLocalEndpoints) {
        let NoLocalEndpoints { v4, v6 } = count;
        for (family, ByPolicy { internal, external }) in [(IpFamily::V4, v4), (IpFamily::V6, v6)] {
            for (policy, count) in [("internal", internal), ("external", external)] {
                let [family] = label(family);
                let gauge = self.no_local_endpoints.get_or_create(&[("traffic_policy", policy), family]);
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }

    /// The tables could not be written.
    pub fn sync_failed(&self) {
        self.sync_failures.inc();
    }

    /// Connected UDP sockets were told that their endpoint is gone.
    pub fn sockets_destroyed(&self, count: u64) {
        self.sockets_destroyed.inc_by(count);
    }

    /// `/healthz` was answered with this status.
    pub fn healthz_answered(&self, code: u16) {
        self.healthz.get_or_create(&[("code", code.to_string())]).inc();
    }

    /// `/livez` was answered with this status.
    pub fn livez_answered(&self, code: u16) {
        self.livez.get_or_create(&[("code", code.to_string())]).inc();
    }

    fn set_map(&self, map: &'static str, entries: usize, capacity: usize) {
        let label = [("map", map)];
        self.map_entries.get_or_create(&label).set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.map_capacity.get_or_create(&label).set(i64::try_from(capacity).unwrap_or(i64::MAX));
    }

    fn register(&mut self, statistics: Arc<dyn Statistics>, services: ServiceSeries) {
        let registry = &mut self.registry;
        let sync = registry.sub_registry_with_prefix("kubeproxy_sync");
        for (name, help, metric) in [
            ("proxy_rules_duration_seconds", "Time that a sync of the tables took", &self.sync_duration),
            ("full_proxy_rules_duration_seconds", "Time that a sync of all Services took", &self.sync_full_duration),
            (
                "partial_proxy_rules_duration_seconds",
                "Time that a sync of changed Services took",
                &self.sync_partial_duration,
            ),
        ] {
            sync.register(name, help, metric.clone());
        }
        for (name, help, metric) in [
            ("proxy_rules_last_timestamp_seconds", "Time of the last sync", &self.last_sync),
            ("proxy_rules_last_queued_timestamp_seconds", "Time when a sync was last asked for", &self.last_queued),
        ] {
            sync.register(name, help, metric.clone());
        }
        for (name, help, metric) in [
            ("proxy_rules_service_changes_total", "Changes of Services that arrived", &self.service_changes.total),
            ("proxy_rules_service_changes_pending", "Those that wait for a sync", &self.service_changes.pending),
            ("proxy_rules_endpoint_changes_total", "Changes of endpoints that arrived", &self.endpoint_changes.total),
            ("proxy_rules_endpoint_changes_pending", "Those that wait for a sync", &self.endpoint_changes.pending),
        ] {
            sync.register(name, help, metric.clone());
        }
        sync.register(
            "proxy_rules_no_local_endpoints_total",
            "Ports of Services with traffic policy Local that have endpoints, but none on this node",
            self.no_local_endpoints.clone(),
        );
        registry.register(
            "kubeproxy_network_programming_duration_seconds",
            "Time from a change of a Service's pods until it was in the tables",
            self.network_programming.clone(),
        );
        registry.register(
            "proxy_agent_event_to_kernel_seconds",
            "Time from when the agent learned of a change of a Service or EndpointSlice until it was in the tables",
            self.event_to_kernel.clone(),
        );
        registry.register("kubeproxy_proxy_healthz", "Answers of /healthz", self.healthz.clone());
        registry.register("kubeproxy_proxy_livez", "Answers of /livez", self.livez.clone());
        registry.register(
            "proxy_agent_sync_failures",
            "Syncs that failed and were tried again",
            self.sync_failures.clone(),
        );
        registry.register(
            "proxy_agent_sockets_destroyed",
            "UDP sockets that were told that the endpoint they were connected to is gone",
            self.sockets_destroyed.clone(),
        );
        registry.register_collector(Box::new(Process));
        registry.register("proxy_agent_map_entries", "Entries in a table", self.map_entries.clone());
        registry.register("proxy_agent_map_capacity", "Entries that a table has room for", self.map_capacity.clone());
        registry.register_collector(Box::new(FlowTables::new(Arc::clone(&statistics))));
        registry.register_collector(Box::new(Reader::new(statistics, services)));
        registry.register_collector(Box::new(Ages(Arc::clone(&self.freshness))));
    }
}

impl Changes {
    fn arrived(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.total.inc_by(count);
        self.pending.inc_by(count);
    }
}

/// What kube-proxy calls a family.
const fn label(family: IpFamily) -> [(&'static str, &'static str); 1] {
    [("ip_family", family.name())]
}

fn family_maps<F: proxy_common::Family>() -> [&'static str; 4] {
    [maps::SERVICES, maps::SLOTS, maps::BACKENDS, maps::SOURCE_RANGES].map(|map| map.name::<F>())
}

/// kube-proxy's: a quarter of a second to five minutes.
fn network_programming_buckets() -> impl Iterator<Item = f64> {
    linear_buckets(0.25, 0.25, 2)
        .chain(linear_buckets(1.0, 1.0, 59))
        .chain(linear_buckets(60.0, 5.0, 12))
        .chain(linear_buckets(120.0, 30.0, 7))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proxy_common::{Counter as Index, Direction, DropReason, ServiceId, Traffic};

    use super::*;
    use crate::{
        dataplane::{run_time::RunTime, tables::FlowTableUse},
        plan::FamilyUsage,
        server::{ServiceDrops, ServiceLabels, ServiceTraffic},
    };

    struct Fixed;

    impl Statistics for Fixed {
        fn counters(&self) -> Vec<(Index, u64)> {
            vec![(Index::SocketConnections, 7), (Index::Flows, 9), (Index::Drop(DropReason::NoEndpoint), 3)]
        }

        fn flow_tables(&self) -> Vec<FlowTableUse> {
            vec![FlowTableUse { table: "flows_v4", entries: 8, capacity: 10, evicted: 2 }]
        }

        fn masquerading(&self) -> Option<bool> {
            Some(false)
        }

        fn service_drops(&self) -> Vec<ServiceDrops> {
            let labels = ServiceLabels {
                namespace: "shop".to_owned(),
                service: "web".to_owned(),
                port: "http".to_owned(),
                protocol: "TCP".to_owned(),
            };
            vec![ServiceDrops { service: ServiceId::new(1), labels, reason: DropReason::NoEndpoint, count: 2 }]
        }

        fn service_traffic(&self) -> Vec<ServiceTraffic> {
            let mut traffic = Traffic::default();
            traffic.add_connection();
            for way in [Direction::Original, Direction::Reply, Direction::Reply] {
                traffic.add_packet(way, 60);
            }
            let labels =
                ServiceLabels { namespace: "shop".to_owned(), service: "web".to_owned(), ..ServiceLabels::default() };
            vec![ServiceTraffic { service: ServiceId::new(1), labels, traffic }]
        }

        fn run_times(&self) -> BTreeMap<String, RunTime> {
            BTreeMap::from([("connect4".to_owned(), RunTime { runs: 4, time: Duration::from_millis(1500) })])
        }
    }

    #[test]
    fn each_metric_is_documented_and_no_other() {
        let metrics = Metrics::new(Arc::new(Fixed), ServiceSeries::default());
        // Those with labels show from their first value on.
        metrics.freshness().heard(crate::model::Kind::Service);
        metrics.queued(0, 0, &BTreeSet::from(IpFamily::ALL), Timestamp::UNIX_EPOCH);
        metrics.synced(SyncKind::Full, &BTreeSet::from(IpFamily::ALL), Duration::ZERO, &[], Timestamp::UNIX_EPOCH);
        metrics
            .set_usage(Usage::default(), Capacities { services: 1, slots: 1, backends: 1, source_ranges: 1, names: 1 });
        metrics.set_no_local_endpoints(NoLocalEndpoints::default());
        metrics.healthz_answered(200);
        metrics.livez_answered(200);
        let text = metrics.encode().expect("text");
        let names: BTreeSet<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
            .collect();
        let page = include_str!("../../../docs/metrics.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
        let documented: BTreeSet<String> =
            rows.flat_map(|cell| cell.split(", ")).map(|name| name.trim_matches('`').to_owned()).collect();
        assert_eq!(documented, names, "on the left those of docs/metrics.md");
    }

    #[test]
    fn names_and_values_are_kube_proxys() {
        let metrics = Metrics::new(Arc::new(Fixed), ServiceSeries::default());
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().expect("a time");
        let trigger: Timestamp = "2026-01-01T00:00:08.5Z".parse().expect("a time");
        let (v4, both) = (BTreeSet::from([IpFamily::V4]), BTreeSet::from(IpFamily::ALL));
        metrics.queued(2, 5, &both, now);
        metrics.synced(SyncKind::Full, &both, Duration::from_millis(3), &[(IpFamily::V6, trigger)], now);
        metrics.in_tables([Duration::from_micros(700), Duration::from_secs(20)].into_iter());
        let later: Timestamp = "2026-01-01T00:00:11Z".parse().expect("a time");
        metrics.queued(1, 0, &v4, later);
        metrics.healthz_answered(200);
        metrics.sync_failed();
        metrics.sockets_destroyed(6);
        let usage =
            Usage { v4: FamilyUsage { services: 12, slots: 30, backends: 20, source_ranges: 5 }, ..Usage::default() };
        metrics.set_usage(usage, Capacities { services: 100, slots: 300, backends: 200, source_ranges: 70, names: 50 });
        metrics.set_no_local_endpoints(NoLocalEndpoints {
            v4: ByPolicy { internal: 4, external: 0 },
            v6: ByPolicy { internal: 0, external: 2 },
        });
        let text = metrics.encode().expect("text");
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.002\",ip_family=\"IPv4\"} 0",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\",ip_family=\"IPv6\"} 1",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 1",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 0",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} 1767225610.0",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"} 1767225611.0",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv6\"} 1767225610.0",
            "kubeproxy_sync_proxy_rules_service_changes_total 3",
            "kubeproxy_sync_proxy_rules_service_changes_pending 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 5",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
            "kubeproxy_network_programming_duration_seconds_sum{ip_family=\"IPv6\"} 1.5",
            "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} 0",
            "proxy_agent_event_to_kernel_seconds_bucket{le=\"0.0005\"} 0",
            "proxy_agent_event_to_kernel_seconds_bucket{le=\"0.001\"} 1",
            "proxy_agent_event_to_kernel_seconds_bucket{le=\"16.384\"} 1",
            "proxy_agent_event_to_kernel_seconds_count 2",
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
            "proxy_agent_sync_failures_total 1",
            "proxy_agent_sockets_destroyed_total 6",
            "proxy_agent_flow_table_entries{table=\"flows_v4\"} 8",
            "proxy_agent_flow_table_capacity{table=\"flows_v4\"} 10",
            "proxy_agent_flow_table_evictions_total{table=\"flows_v4\"} 2",
            "proxy_agent_socket_connections_total 7",
            "proxy_agent_flows_total 9",
            "proxy_agent_drops_total{reason=\"no_endpoint\"} 3",
            "proxy_agent_masquerading 0",
            "proxy_agent_service_drops_total{namespace=\"shop\",service=\"web\",port=\"http\",protocol=\"TCP\",reason=\"no_endpoint\"} 2",
            "proxy_agent_service_connections_total{namespace=\"shop\",service=\"web\",port=\"\",protocol=\"\"} 1",
            "proxy_agent_service_packets_total{namespace=\"shop\",service=\"web\",port=\"\",protocol=\"\",direction=\"request\"} 1",
            "proxy_agent_service_bytes_total{namespace=\"shop\",service=\"web\",port=\"\",protocol=\"\",direction=\"reply\"} 120",
            "proxy_agent_program_runs_total{program=\"connect4\"} 4",
            "proxy_agent_program_run_seconds_total{program=\"connect4\"} 1.5",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"internal\",ip_family=\"IPv4\"} 4",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"external\",ip_family=\"IPv4\"} 0",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"external\",ip_family=\"IPv6\"} 2",
            "proxy_agent_map_entries{map=\"services_v4\"} 12",
            "proxy_agent_map_capacity{map=\"services_v4\"} 100",
            "proxy_agent_map_entries{map=\"slots_v4\"} 30",
            "proxy_agent_map_entries{map=\"source_ranges_v4\"} 5",
            "proxy_agent_map_capacity{map=\"source_ranges_v6\"} 70",
            "proxy_agent_map_capacity{map=\"names\"} 50",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
