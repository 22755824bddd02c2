//! What the dataplane counts, read when somebody asks for metrics.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use proxy_common::{Counter, Direction, Traffic};

use super::services::{Chosen, ServiceDrops, ServiceLabels, ServiceSeries, ServiceTraffic};
use crate::dataplane::{run_time::RunTime, tables::FlowTableUse};

/// Numbers of the dataplane. What cannot be read is left out.
pub trait Statistics: Send + Sync + 'static {
    /// The counters, added up over all CPUs.
    fn counters(&self) -> Vec<(Counter, u64)>;

    /// How full the tables of flows are.
    fn flow_tables(&self) -> Vec<FlowTableUse>;

    /// Whether the rules are in place by which packets are masqueraded; `None` if that cannot be known.
    fn masquerading(&self) -> Option<bool>;

    /// What was dropped or refused for single Service ports. None, if nobody counts it.
    fn service_drops(&self) -> Vec<ServiceDrops> {
        Vec::new()
    }

    /// What was translated for single Service ports, and for all those together that are not counted for themselves. None, if
    /// nobody counts it.
    fn service_traffic(&self) -> Vec<ServiceTraffic> {
        Vec::new()
    }

    /// How long the programs ran, by name. None, if nobody measures it.
    fn run_times(&self) -> BTreeMap<String, RunTime> {
        BTreeMap::new()
    }
}

/// Puts [`Statistics`] into a registry.
pub(super) struct Reader {
    statistics: Arc<dyn Statistics>,
    room: ServiceSeries,
    chosen: Mutex<Chosen>,
    chosen_for_traffic: Mutex<Chosen>,
}

impl Reader {
    pub(super) fn new(statistics: Arc<dyn Statistics>, room: ServiceSeries) -> Self {
        Self { statistics, room, chosen: Mutex::default(), chosen_for_traffic: Mutex::default() }
    }

    fn encode_services(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let drops = self.statistics.service_drops();
        let series = self.chosen.lock().unwrap_or_else(PoisonError::into_inner).series(&drops, self.room);
        let mut metric = encoder.encode_descriptor(
            "proxy_agent_service_drops",
            "Connections and packets that were dropped or refused for a Service's port; without labels, for all that have no series of their own",
            None,
            MetricType::Counter,
        )?;
        for ((ServiceLabels { namespace, service, port, protocol }, reason), count) in series {
            let labels = [
                ("namespace", namespace.as_str()),
                ("service", &service),
                ("port", &port),
                ("protocol", &protocol),
                ("reason", reason.name()),
            ];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn encode_traffic(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let traffic = self.statistics.service_traffic();
        let mut chosen = self.chosen_for_traffic.lock().unwrap_or_else(PoisonError::into_inner);
        let series = chosen.traffic(&traffic, self.room);
        let mut metric = encoder.encode_descriptor(
            "proxy_agent_service_connections",
            "Connections to a Service's port that began; without labels, for all that have no series of their own",
            None,
            MetricType::Counter,
        )?;
        for (labels, traffic) in &series {
            ConstCounter::new(traffic.connections()).encode(metric.encode_family(&named(labels))?)?;
        }
        let packets = |traffic: &Traffic, direction| traffic.packets(direction);
        let bytes = |traffic: &Traffic, direction| traffic.bytes(direction);
        for (name, help, count) in [
            (
                "proxy_agent_service_packets",
                "Packets of a Service's port that TC programs translated; those of sockets' connections are not seen",
                packets as fn(&Traffic, Direction) -> u64,
            ),
            ("proxy_agent_service_bytes", "Bytes of these packets, with their IP headers", bytes),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, traffic) in &series {
                for (direction, of) in [("request", Direction::Original), ("reply", Direction::Reply)] {
                    let [namespace, service, port, protocol] = named(labels);
                    let labels = [namespace, service, port, protocol, ("direction", direction)];
                    ConstCounter::new(count(traffic, of)).encode(metric.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }

    fn encode_programs(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let times = self.statistics.run_times();
        let mut metric = encoder.encode_descriptor(
            "proxy_agent_program_runs",
            "How often a program of the kernel ran, where kernel.bpf_stats_enabled is 1",
            None,
            MetricType::Counter,
        )?;
        for (program, time) in &times {
            ConstCounter::new(time.runs).encode(metric.encode_family(&[("program", program.as_str())])?)?;
        }
        let mut metric = encoder.encode_descriptor(
            "proxy_agent_program_run_seconds",
            "For how long it ran, where kernel.bpf_stats_enabled is 1",
            None,
            MetricType::Counter,
        )?;
        for (program, time) in &times {
            let labels = [("program", program.as_str())];
            ConstCounter::new(time.time.as_secs_f64()).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Labels by their names.
fn named(labels: &ServiceLabels) -> [(&'static str, &str); 4] {
    let ServiceLabels { namespace, service, port, protocol } = labels;
    [("namespace", namespace), ("service", service), ("port", port), ("protocol", protocol)]
}

impl fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Reader")
    }
}

impl Collector for Reader {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_services(&mut encoder)?;
        self.encode_traffic(&mut encoder)?;
        self.encode_programs(&mut encoder)?;
        let counters = self.statistics.counters();
        for (wanted, name, help) in [
            (Counter::SocketConnections, "proxy_agent_socket_connections", "Connections translated at their socket"),
            (Counter::Flows, "proxy_agent_flows", "Flows that a TC program began to translate"),
        ] {
            for (_, value) in counters.iter().filter(|(counter, _)| *counter == wanted) {
                let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
                ConstCounter::new(*value).encode(metric)?;
            }
        }
        if let Some(masquerading) = self.statistics.masquerading() {
            let metric = encoder.encode_descriptor(
                "proxy_agent_masquerading",
                "Whether the nftables table by which packets are masqueraded is in place",
                None,
                MetricType::Gauge,
            )?;
            ConstGauge::new(i64::from(masquerading)).encode(metric)?;
        }
        let mut drops = encoder.encode_descriptor(
            "proxy_agent_drops",
            "Connections and packets that were dropped or refused",
            None,
            MetricType::Counter,
        )?;
        for (counter, value) in &counters {
            if let Counter::Drop(reason) = counter {
                ConstCounter::new(*value).encode(drops.encode_family(&[("reason", reason.name())])?)?;
            }
        }
        Ok(())
    }
}
