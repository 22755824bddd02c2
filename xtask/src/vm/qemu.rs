//! Starts a virtual machine and listens to it.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    boots::{Boot, Lack},
    emulator::Emulator,
    folder,
    report::{Outcome, Report},
};

/// A machine with KVM boots in two seconds. A `/dev/kvm` that hangs exists.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// The processor that the translator plays. Without fast string instructions kernels move eight bytes at a time, and not
/// one by one, which is what they are here; without the fifth level of page tables, each miss costs less.
const EMULATED: &str = "max,-erms,-fsrm,-la57";

/// What the guest's kernel is told, so that a translated one need not do what tests do not ask for; most of it pays nothing on a processor:
/// * The translator keeps what it has translated by virtual address as well: a program that is mapped elsewhere each time it starts
///   (`norandmaps`) is translated each time, which takes longer than most of them run.
/// * Jumps that hide from a processor's guesses are three jumps to the translator (`mitigations`). (Newer verifiers leave out checks then that
///   a program without `CAP_PERFMON` would fail; on the machine itself they do not.)
/// * Memory is cleared when it is handed out, and once more by who needs it so (`init_on_alloc`).
/// * Whoever sleeps for a moment has the timer set, which is a device to the translator; ticks that come anyway cost less (`highres`, `nohz`).
const PARAMETERS: &str = "console=ttyS0 panic=-1 norandmaps mitigations=off init_on_alloc=0 highres=off nohz=off";

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// The processor.
    Kvm,
    /// Qemu's translator.
    Tcg,
}

impl Accelerator {
    /// KVM if a guest boots with it within a few seconds.
    pub(super) fn probe(emulator: &Emulator, kernel: &Path, image: &Path) -> anyhow::Result<Self> {
        if !Path::new("/dev/kvm").exists() {
            return Ok(Self::Tcg);
        }
        let mut guest = Guest::start(emulator, kernel, image, Self::Kvm, "guest.probe", &console("probe"))?;
        let mut booted = false;
        guest.listen(PROBE_LIMIT, |line| booted |= line.starts_with("guest: booted"))?;
        if !booted {
            eprintln!("a machine does not boot with KVM within {} s: without it", PROBE_LIMIT.as_secs());
        }
        Ok(if booted { Self::Kvm } else { Self::Tcg })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
        }
    }
}

/// A virtual machine that can be run.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) emulator: &'a Emulator,
    pub(super) kernel: &'a Path,
    pub(super) image: &'a Path,
    pub(super) accelerator: Accelerator,
    pub(super) boot: &'a Boot,
    /// How long it may take from boot to end.
    pub(super) limit: Duration,
}

impl Machine<'_> {
    /// Boots it, shows what it prints, and tells how its tests ended.
    pub(super) fn run(&self, name: &str) -> anyhow::Result<Outcome> {
        eprintln!("$ boot {name} ({})", self.accelerator.name());
        let parameter = self.boot.lack.map_or("", Lack::parameter);
        let console = console(name);
        let mut guest = Guest::start(self.emulator, self.kernel, self.image, self.accelerator, parameter, &console)?;
        let mut report = Report::default();
        let begun = Instant::now();
        guest.listen(self.limit, |line| {
            println!("[{name} {:>3} s] {line}", begun.elapsed().as_secs());
            report.note(line);
        })?;
        let (whole, working) = (begun.elapsed().as_secs(), guest.working_time().as_secs());
        eprintln!("{name}: {whole} s, {working} s of a processor");
        Ok(report.outcome(&last_words(&console)))
    }
}

/// A running machine; ended when dropped.
struct Guest {
    process: Child,
}

impl Guest {
    fn start(
        emulator: &Emulator,
        kernel: &Path,
        image: &Path,
        accelerator: Accelerator,
        parameter: &str,
        console: &Path,
    ) -> anyhow::Result<Self> {
        File::create(console)?;
        let mut qemu = emulator.command();
        qemu.args(["-accel", accelerator.name(), "-m", "4096", "-smp", "1", "-no-reboot", "-nodefaults"]);
        qemu.args(["-display", "none", "-monitor", "none"]);
        if accelerator == Accelerator::Tcg {
            qemu.args(["-cpu", EMULATED]);
        }
        qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
        qemu.arg("-append").arg(format!("{PARAMETERS} {parameter}"));
        qemu.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        Ok(Self { process: qemu.spawn().context("cannot start qemu")? })
    }

    /// Hands over each line until the guest ends or the time is up.
    fn listen(&mut self, limit: Duration, mut line: impl FnMut(&str)) -> anyhow::Result<()> {
        let output = self.process.stdout.take().context("qemu's output is taken once")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut bytes = Vec::new();
            while output.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
                let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                bytes.clear();
                if sender.send(text).is_err() {
                    break;
                }
            }
        });
        let end = Instant::now() + limit;
        loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(text) => line(&text),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }
}

impl Guest {
    /// How long processors worked for it: unlike the time that it took, this says what it costs while other programs run beside it.
    fn working_time(&self) -> Duration {
        // After the name in brackets, the 12th and 13th field are hundredths of a second as a program and in the kernel (proc(5)).
        let status = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap_or_default();
        let fields = status.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        let hundredths: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(10 * hundredths)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the kernel printed last.
fn last_words(console: &Path) -> String {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Where the messages of a machine's kernel go.
fn console(name: &str) -> PathBuf {
    folder().join(format!("console-{name}.log"))
}
