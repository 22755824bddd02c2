//! `cargo xtask vm`: the root tests on other kernels, in virtual machines.
//!
//! A machine is one of Debian's kernels, unpacked and not installed, and an initramfs with the test programs, the tools
//! that they run and the modules that they need. Three of them run at a time. What the guest prints comes back over a serial line.

mod boots;
mod elf;
mod emulator;
mod image;
mod kernel;
mod modules;
mod packages;
mod programs;
mod qemu;
mod report;

use std::{
    collections::VecDeque,
    iter,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;

pub(crate) use self::kernel::Kernel;
use self::{
    boots::{Boot, Lack},
    emulator::Emulator,
    image::Image,
    programs::Programs,
    qemu::{Accelerator, Machine},
    report::Outcome,
};
use crate::{command, setup, test::Count, workspace};

#[derive(Args)]
pub(crate) struct Options {
    /// Which kernel; can be repeated. Without it, all of them, or with --quick the two oldest.
    #[arg(long = "kernel", value_name = "KERNEL")]
    kernels: Vec<Kernel>,
    /// Run only test programs whose names begin so, or else only tests whose names contain this; on complete machines only
    #[arg(long, value_name = "NAME")]
    test: Option<String>,
    /// Run only what shows that everything loads, attaches and carries traffic.
    #[arg(long, conflicts_with = "test")]
    quick: bool,
    /// Boot only machines that lack this.
    #[arg(long = "without", value_name = "FACILITY", conflicts_with_all = ["test", "quick"])]
    lacks: Vec<Lack>,
    /// Fetch the kernels again, in case there are newer packages.
    #[arg(long)]
    update: bool,
    /// How long each boot may take; a machine that does something else meanwhile needs more.
    #[arg(long, value_name = "MINUTES", default_value_t = 10)]
    limit: u64,
}

impl Options {
    fn kernels(&self) -> Vec<Kernel> {
        match (&self.kernels[..], self.quick) {
            ([], true) => Kernel::QUICK.to_vec(),
            ([], false) => Kernel::ALL.to_vec(),
            (kernels, _) => kernels.to_vec(),
        }
    }

    fn boots(&self) -> Vec<Boot> {
        if !self.lacks.is_empty() {
            return self.lacks.iter().copied().map(Boot::without).collect();
        }
        match &self.test {
            Some(name) => vec![Boot::only(name)],
            None if self.quick => vec![Boot::quick()],
            None => Boot::all(),
        }
    }
}

/// The last line printed is the count: `N passed, N failed, N skipped`.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let count = on_each_kernel(options)?;
    println!("{count}");
    Ok(if count.failed == 0 && count.passed + count.skipped > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the tests on each kernel. Where there is no qemu, each kernel counts as one skipped test.
fn on_each_kernel(options: &Options) -> anyhow::Result<Count> {
    let kernels = options.kernels();
    let emulator = match emulator() {
        Ok(emulator) => emulator,
        Err(why) => {
            for kernel in &kernels {
                println!("skipped: tests on kernel {kernel}: {why:#}");
            }
            return Ok(Count { skipped: kernels.len().try_into()?, ..Count::default() });
        }
    };
    let mut count = Count::default();
    let orders = Orders { emulator, update: options.update, limit: Duration::from_mins(options.limit) };
    boot_each(&kernels, &options.boots(), &orders, |machine, release, outcome| {
        if let Some(complaint) = outcome.complaint_of_tests() {
            eprintln!("error: kernel {machine}: {complaint}");
            count.failed += 1;
        }
        println!("kernel {machine} ({release}): {}", outcome.count);
        count.add(outcome.count);
        Ok(())
    })?;
    Ok(count)
}

/// Runs a test program for something else than its tests on each kernel, and returns what was printed on all of them.
///
/// # Errors
/// There is no qemu, or the program fails on one of them.
pub(crate) fn output_of(kernels: &[Kernel], program: &str, argument: &str) -> anyhow::Result<Vec<String>> {
    let emulator = emulator().context("no virtual machines")?;
    let mut lines = Vec::new();
    let orders = Orders { emulator, update: false, limit: LIMIT };
    boot_each(kernels, &[Boot::exactly(program, argument)], &orders, |machine, _, outcome| {
        if let Some(complaint) = outcome.complaint {
            bail!("kernel {machine}: {complaint}");
        }
        lines.extend(outcome.lines);
        Ok(())
    })?;
    Ok(lines)
}

/// A qemu, once everything else that machines take is there as well.
fn emulator() -> anyhow::Result<Emulator> {
    if let Some(why) = setup::virtual_machines() {
        bail!(why);
    }
    Emulator::provide().context("`qemu-system-x86_64` is missing")
}

/// How long measuring may take.
const LIMIT: Duration = Duration::from_mins(10);

/// What holds for all machines of a run.
struct Orders {
    emulator: Emulator,
    update: bool,
    limit: Duration,
}

/// How many machines run at the same time. A guest waits for a sixth of its time, so two do not keep two processors busy.
const AT_ONCE: usize = 3;

/// Boots machines with each of these kernels. What is done with each, in the order in which they end, gets the machine's name,
/// its kernel's release and what became of it.
fn boot_each(
    kernels: &[Kernel],
    boots: &[Boot],
    orders: &Orders,
    mut ended: impl FnMut(&str, &str, Outcome) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    setup::building()?;
    setup::running()?;
    let programs = Programs::build()?;
    let mut waiting = VecDeque::new();
    for kernel in kernels {
        let files = Arc::new(kernel.fetch(orders.update).with_context(|| format!("kernel {kernel}"))?);
        waiting.extend(boots.iter().map(|boot| (format!("{kernel}{boot}"), Arc::clone(&files), boot)));
    }
    let waiting = Mutex::new(waiting);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let accelerator = Mutex::new(None);
    let (sender, outcomes) = mpsc::channel();
    thread::scope(|scope| {
        for sender in iter::repeat_n(sender, AT_ONCE) {
            let (next, accelerator, programs) = (&next, &accelerator, &programs);
            scope.spawn(move || {
                while let Some((name, files, boot)) = next() {
                    let outcome = run_machine(&name, &files, boot, programs, accelerator, orders);
                    // Nobody listens after an error.
                    if sender.send((name, files, outcome)).is_err() {
                        return;
                    }
                }
            });
        }
        for (name, files, outcome) in outcomes {
            if let Some(outcome) = outcome? {
                ended(&name, &files.release, outcome)?;
            }
        }
        Ok(())
    })
}

/// One machine, from its image to its end. None if there is nothing for it to run.
fn run_machine(
    name: &str,
    files: &kernel::Files,
    boot: &Boot,
    programs: &Programs,
    accelerator: &Mutex<Option<Accelerator>>,
    orders: &Orders,
) -> anyhow::Result<Option<Outcome>> {
    let (image, accelerator) = {
        // Images share what they are made of, and one machine is enough to find out about KVM.
        let mut known = accelerator.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(image) = Image::build(files, programs, boot, name)? else { return Ok(None) };
        let accelerator = match *known {
            Some(known) => known,
            None => *known.insert(Accelerator::probe(&orders.emulator, &files.kernel, &image.path)?),
        };
        (image, accelerator)
    };
    let (emulator, limit) = (&orders.emulator, orders.limit);
    let machine = Machine { emulator, kernel: &files.kernel, image: &image.path, accelerator, boot, limit };
    machine.run(name).map(Some)
}

/// Where kernels and images are kept.
fn folder() -> std::path::PathBuf {
    workspace::target_dir().join("vm")
}

/// What a program prints.
fn output(command: &mut std::process::Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{name} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).with_context(|| format!("{name} does not print text"))
}

/// A program that setup has found.
fn tool(name: &str) -> anyhow::Result<std::process::Command> {
    Ok(std::process::Command::new(command::find(name).with_context(|| format!("`{name}` is missing"))?))
}
