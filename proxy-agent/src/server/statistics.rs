//! What the dataplane counts, read when somebody asks for metrics.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use proxy_common::Counter;

/// Numbers of the dataplane. What cannot be read is left out.
pub trait Statistics: Send + Sync + 'static {
    /// The counters, added up over all CPUs.
    fn counters(&self) -> Vec<(Counter, u64)>;

    /// Whether the rules are in place by which packets are masqueraded; `None` if that cannot be known.
    fn masquerading(&self) -> Option<bool>;
}

/// Puts [`Statistics`] into a registry.
pub(super) struct Reader(pub(super) Arc<dyn Statistics>);

impl fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Reader")
    }
}

impl Collector for Reader {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.0.counters();
        for (wanted, name, help) in [
            (Counter::SocketConnections, "proxy_agent_socket_connections", "Connections translated at their socket"),
            (Counter::Flows, "proxy_agent_flows", "Flows that a TC program began to translate"),
        ] {
            for (_, value) in counters.iter().filter(|(counter, _)| *counter == wanted) {
                let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
                ConstCounter::new(*value).encode(metric)?;
            }
        }
        if let Some(masquerading) = self.0.masquerading() {
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
