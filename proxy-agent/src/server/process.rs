//! The agent's own process as metrics, under the names that Prometheus's client libraries give them, as kube-proxy has them.

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

/// Reads `/proc/self` whenever somebody asks. What cannot be read is left out.
#[derive(Debug)]
pub(super) struct Process;

/// What `/proc/PID/stat` says (`proc_pid_stat(5)`).
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    /// Time on processors, in seconds.
    cpu: f64,
    /// When it started, in seconds since boot.
    started: f64,
    /// Memory in bytes.
    virtual_memory: u64,
    /// Memory in bytes.
    resident_memory: u64,
}

impl Stat {
    /// `ticks`: of the kernel's clock in a second; `page`: bytes of a page.
    fn parse(text: &str, ticks: f64, page: u64) -> Option<Self> {
        // The second field is the program's name in parentheses, and may hold anything.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // As they are numbered in the manual, where the state is the third.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let seconds = |ticks_passed: u64| as_f64(ticks_passed) / ticks;
        Some(Self {
            cpu: seconds(field(14)?.saturating_add(field(15)?)),
            started: seconds(field(22)?),
            virtual_memory: field(23)?,
            resident_memory: field(24)?.saturating_mul(page),
        })
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Always 1; the label says which version runs";
        let mut metric = encoder.encode_descriptor("proxy_agent_build_info", help, None, MetricType::Gauge)?;
        ConstGauge::new(1_i64).encode(metric.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?)?;
        let mut gauge = |name: &str, help: &str, value: Option<f64>| match value {
            Some(value) => {
                let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(metric)
            }
            None => Ok(()),
        };
        let ticks = as_f64(clock_ticks_per_second());
        let text = fs::read_to_string("/proc/self/stat").ok();
        let stat = text.and_then(|text| Stat::parse(&text, ticks, page_size() as u64));
        gauge(
            "process_resident_memory_bytes",
            "Memory of the process that is in use",
            stat.map(|stat| as_f64(stat.resident_memory)),
        )?;
        gauge(
            "process_virtual_memory_bytes",
            "Address space of the process",
            stat.map(|stat| as_f64(stat.virtual_memory)),
        )?;
        gauge(
            "process_start_time_seconds",
            "When the process started, in seconds since 1970",
            stat.and_then(|stat| Some(boot_time()? + stat.started)),
        )?;
        let open = fs::read_dir("/proc/self/fd").ok().map(|entries| as_f64(entries.count() as u64));
        gauge("process_open_fds", "Descriptors that the process has", open)?;
        let most = getrlimit(Resource::Nofile).current.map(as_f64);
        gauge("process_max_fds", "Descriptors that it may have", most)?;
        if let Some(stat) = stat {
            let help = "Time that the process spent on processors";
            let metric = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            ConstCounter::new(stat.cpu).encode(metric)?;
        }
        Ok(())
    }
}

/// When the kernel started, in seconds since 1970.
fn boot_time() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus's numbers are floating point")]
const fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_proc_are_those_of_the_manual() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 9 0 1200 4096000 25 18446744073709551615 1";
        let expected = Stat { cpu: 3.0, started: 12.0, virtual_memory: 4_096_000, resident_memory: 102_400 };
        assert_eq!(Stat::parse(stat, 100.0, 4096), Some(expected));
        assert_eq!(Stat::parse("7 (a) S 1", 100.0, 4096), None);
    }

    #[test]
    fn a_process_tells_of_itself() {
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(Process));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in\n{text}"));
            line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
        };
        assert!(value("process_resident_memory_bytes ") > 100_000.0, "{text}");
        assert!(value("process_virtual_memory_bytes ") >= value("process_resident_memory_bytes "), "{text}");
        assert!(value("process_cpu_seconds_total ") >= 0.0, "{text}");
        assert!(value("process_open_fds ") >= 3.0 && value("process_open_fds ") <= value("process_max_fds "), "{text}");
        let now = jiff::Timestamp::now().as_duration().as_secs_f64();
        let age = now - value("process_start_time_seconds ");
        assert!((-5.0..86_400.0).contains(&age), "it has just begun: {age} seconds ago");
        assert!(text.contains(&format!("proxy_agent_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))));
    }
}
