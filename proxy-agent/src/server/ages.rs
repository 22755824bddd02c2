//! How old what the tables hold may be, as metrics.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

use crate::freshness::{Freshness, KINDS, age, now};

/// Puts the ages into a registry, as they are when somebody asks.
#[derive(Debug)]
pub(super) struct Ages(pub(super) Arc<Freshness>);

impl Collector for Ages {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (times, now) = (self.0.times(), now());
        let name = "proxy_agent_source_last_event_age_seconds";
        let help = "Time since a complete list or a change of this kind of object came";
        let mut ages = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let kinds = KINDS.map(|kind| kind.to_string());
        for (kind, times) in kinds.iter().zip(times.kinds) {
            if let Some(age) = age(times.heard, now) {
                ConstGauge::new(number(age)).encode(ages.encode_family(&[("kind", kind.as_str())])?)?;
            }
        }
        let name = "proxy_agent_source_failing_seconds";
        let help = "For how long objects of this kind have not been listed or watched; 0 while they are";
        let mut ages = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (kind, times) in kinds.iter().zip(times.kinds) {
            // The first second of a failure is one, too.
            let seconds = age(times.failing, now).map_or(0, |age| age.max(1));
            ConstGauge::new(number(seconds)).encode(ages.encode_family(&[("kind", kind.as_str())])?)?;
        }
        Ok(())
    }
}

fn number(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
