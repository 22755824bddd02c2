//! How long the programs ran, where the kernel measures it (`kernel.bpf_stats_enabled`, since 5.1).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    time::Duration,
};

use aya::programs::loaded_programs;

use super::{pins::Pins, status};

/// What the kernel measured of the programs with one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTime {
    /// How often they ran.
    pub runs: u64,
    /// For how long altogether.
    pub time: Duration,
}

/// The agent's attached programs, by name. None if the kernel does not measure.
///
/// # Errors
/// What is attached cannot be read, or the kernel does not list programs.
pub fn run_times(pins: &Pins) -> io::Result<BTreeMap<String, RunTime>> {
    let mut times: BTreeMap<String, RunTime> = BTreeMap::new();
    if !is_measured() {
        return Ok(times);
    }
    let sockets = status::socket_hooks(pins)?.into_iter().map(|hook| hook.program);
    let ours: BTreeSet<u32> = sockets.chain(status::devices(pins)?.into_iter().map(|device| device.program)).collect();
    // Programs may come and go meanwhile.
    for program in loaded_programs().filter_map(Result::ok).filter(|program| ours.contains(&program.id())) {
        let of_name = times.entry(program.name_as_str().unwrap_or_default().to_owned()).or_default();
        of_name.runs += program.run_count();
        of_name.time += program.run_time();
    }
    Ok(times)
}

fn is_measured() -> bool {
    fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|text| text.trim() == "1")
}
