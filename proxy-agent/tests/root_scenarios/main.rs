//! The table of scenarios in the kernel, packet by packet, and with sockets between namespaces. Needs root.

#![expect(unreachable_pub, reason = "a test program has no outside; `pub` says what the other modules use")]

mod kernel;
#[path = "../scenario_table/mod.rs"]
mod scenario_table;
mod sockets;
#[path = "../support/mod.rs"]
mod support;

use std::{
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use libtest_mimic::{Arguments, Trial};
use proxy_agent::dataplane::features::{Feature, Features};

use self::{
    kernel::KernelDatapath,
    scenario_table::{
        packets::PacketWorld,
        row::{Mode, Row},
        runner::{self, World},
        trials,
    },
    sockets::SocketWorld,
};

/// What many rows use one after the other. A row that fails takes it along.
static KERNEL: Mutex<Option<PacketWorld<KernelDatapath>>> = Mutex::new(None);
static SOCKETS: Mutex<Option<SocketWorld>> = Mutex::new(None);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // There is one world of each kind.
    arguments.test_threads = Some(1);
    let kernel = trials(Mode::Kernel, |row| with(&KERNEL, || PacketWorld::new(KernelDatapath::new()), row));
    let sockets = trials(Mode::Sockets, |row| with(&SOCKETS, SocketWorld::new, row));
    let mut all = sampled(kernel, 4);
    all.extend(sampled(sockets, 16));
    if let Some(missing) = missing() {
        all = all.into_iter().map(|trial| without(trial, missing)).collect();
    }
    let conclusion = libtest_mimic::run(&arguments, all);
    drop(lock(&KERNEL).take());
    drop(lock(&SOCKETS).take());
    conclusion.exit_code()
}

fn with<W: World>(place: &Mutex<Option<W>>, new: impl FnOnce() -> W, row: &Row) {
    let mut place = lock(place);
    let mut world = place.take().unwrap_or_else(new);
    runner::run(&mut world, row);
    *place = Some(world);
}

fn lock<T>(place: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All of them; on an emulated machine, which would take hours, one out of so many.
fn sampled(trials: Vec<Trial>, one_of: usize) -> Vec<Trial> {
    if support::slowness() == 1 {
        return trials;
    }
    let why = "not on an emulated machine";
    let sampled = trials.into_iter().enumerate();
    sampled
        .map(
            |(index, trial)| {
                if index.is_multiple_of(one_of) { trial } else { trial.with_kind(why).with_ignored_flag(true) }
            },
        )
        .collect()
}

/// What the kernel lacks of what both worlds need. Who may not ask the kernel can list the tests all the same.
fn missing() -> Option<Feature> {
    let kernel = Features::probe().ok()?;
    [Feature::Btf, Feature::NetnsCookie].into_iter().find(|&feature| !kernel.has(feature))
}

fn without(trial: Trial, feature: Feature) -> Trial {
    trial.with_kind(format!("{feature}, Linux {}", feature.since())).with_ignored_flag(true)
}
