//! Asks the running kernel's verifier about the programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use anyhow::{Context as _, bail, ensure};
use aya::{
    Ebpf, VerifierLogLevel,
    maps::MapInfo,
    programs::{Program, ProgramError, ProgramInfo, loaded_programs},
};
use aya_obj::Object;
use proxy_agent::dataplane::{
    Config, Dataplane, PacketLog, features::Features, loader, object::OBJECT, pins::SocketHook,
};
use proxy_common::{V4, V6, maps};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    calls::{Calls, Granularity},
    measurement::Measurement,
    report::Report,
    support::{Node, settings},
};

/// What there is to know of the programs on this kernel.
#[derive(Debug)]
pub struct Survey {
    /// One for each program that the agent loads here, when it is told to log packets: no other setting makes the programs
    /// larger.
    pub measurements: Vec<Measurement>,
    /// The deepest chain of calls, as the kernel counts it and as it is counted here. Kernels after 6.18 tell.
    pub chains: BTreeMap<String, (u32, Option<u32>)>,
    /// What the kernel says of the same programs, loaded by the agent.
    pub logging: BTreeMap<String, Loaded>,
    /// What it says if the agent is not told to log packets.
    pub silent: BTreeMap<String, Loaded>,
}

/// What the kernel says of a program that the agent has loaded.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// Its size in instructions.
    pub instructions: u32,
    /// How many instructions the verifier has processed. The kernel tells since 5.16.
    pub processed: Option<u32>,
}

impl Survey {
    /// Makes the survey. No other thread may open files meanwhile: for moments, the process can open none.
    ///
    /// # Errors
    /// The agent's programs cannot be loaded, or the kernel says something that nobody understands.
    pub fn make() -> anyhow::Result<Self> {
        let features = Features::probe()?;
        let mut linked = Object::parse(OBJECT)?;
        let sections = linked.functions.keys().map(|&(section, _)| section).collect();
        linked.relocate_calls(&sections)?;

        // This comes before the agent loads the programs, because it tells best why one is refused.
        let mut ebpf = loader(&features, PacketLog::Drops).verifier_log_level(VerifierLogLevel::STATS).load(OBJECT)?;
        let reports = expected(&linked, &features).into_iter().map(|name| {
            let report = verify(&mut ebpf, &name).with_context(|| format!("{name} on {}", features.release()))?;
            Ok((name, report))
        });
        let reports = reports.collect::<anyhow::Result<BTreeMap<String, Report>>>()?;
        drop(ebpf);

        let logging = loaded_by_the_agent(&features, PacketLog::Drops)?;
        let silent = loaded_by_the_agent(&features, PacketLog::Off)?;
        for loaded in [&logging, &silent] {
            ensure!(loaded.keys().eq(reports.keys()), "the agent loads {:?} of {:?}", loaded.keys(), reports.keys());
        }
        let mut chains = BTreeMap::new();
        let measurements = reports.into_iter().map(|(name, report)| {
            let Report { processed, limit, frames, deepest_chain } = report;
            let calls = Calls::of(&linked, &name)?;
            if let Some(deepest_chain) = deepest_chain {
                chains.insert(name.clone(), (deepest_chain, calls.deepest_chain(&frames, Granularity::Compiler)));
            }
            Ok(Measurement {
                kernel: features.release().to_owned(),
                processed,
                limit,
                instructions: logging[&name].instructions,
                deepest_chain: calls.deepest_chain(&frames, Granularity::Interpreter),
                frames,
                program: name,
            })
        });
        let measurements = measurements.collect::<anyhow::Result<_>>()?;
        Ok(Self { measurements, chains, logging, silent })
    }
}

/// The programs of the object that the kernel has a hook for.
fn expected(object: &Object, features: &Features) -> BTreeSet<String> {
    let without_hook =
        |name: &str| SocketHook::ALL.iter().any(|hook| hook.name() == name && !features.has(hook.feature()));
    object.programs.keys().filter(|name| !without_hook(name)).cloned().collect()
}

/// What the kernel says of the programs of an agent that starts here and now, on a node that has a device of each sort.
fn loaded_by_the_agent(features: &Features, packet_log: PacketLog) -> anyhow::Result<BTreeMap<String, Loaded>> {
    let node = Node::default();
    node.netns.ip("tuntap add dev tun0 mode tun");
    node.netns.ip("link add veth1 type veth peer name veth2");
    let config = Config { packet_log, ..node.config() };
    let Dataplane { hooks, .. } = Dataplane::open_with(&config, features.clone())?;
    let _hooks = node.netns.block_on(async || hooks.attach(&settings()).await)?;
    let tables = maps_in(node.pins.path())?;
    // A program of somebody else may go while it is being asked.
    let ours = loaded_programs().filter_map(Result::ok).filter(|program| uses(program, &tables));
    let loaded = ours.map(|program| {
        let name = program.name_as_str().context("a program without a name")?;
        let size = program.size_translated().with_context(|| format!("{name} has no size"))?;
        let processed = program.verified_instruction_count();
        Ok((name.to_owned(), Loaded { instructions: size / 8, processed }))
    });
    loaded.collect()
}

/// The numbers of the tables pinned in a directory.
fn maps_in(pins: &Path) -> anyhow::Result<BTreeSet<u32>> {
    let names = maps::FAMILY_MAPS.iter().flat_map(|map| [map.name::<V4>(), map.name::<V6>()]);
    names.chain(maps::SHARED_MAPS).map(|name| Ok(MapInfo::from_pin(pins.join(name))?.id())).collect()
}

fn uses(program: &ProgramInfo, tables: &BTreeSet<u32>) -> bool {
    program.map_ids().ok().flatten().unwrap_or_default().iter().any(|id| tables.contains(id))
}

/// Has the kernel verify a program, and returns what the verifier reports.
///
/// aya returns the log of no program but one that cannot be loaded. The last thing that the kernel does to load a program is to
/// give it a file descriptor: where the process may have no more of them, the program is verified as always, and then it is not
/// loaded.
fn verify(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Report> {
    let program = ebpf.program_mut(name).context("the object has no such program")?;
    let no_descriptors = NoDescriptors::begin()?;
    let result = match program {
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        other => bail!("a program of the type {:?}", other.prog_type()),
    };
    drop(no_descriptors);
    match result {
        Err(ProgramError::LoadError { io_error, verifier_log }) if is_out_of_descriptors(&io_error) => {
            Report::read(&verifier_log.to_string())
        }
        Err(error) => Err(error.into()),
        Ok(()) => bail!("it was loaded though there was no file descriptor for it"),
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMFILE)
}

/// While it exists, the process can open nothing.
struct NoDescriptors {
    before: Rlimit,
}

impl NoDescriptors {
    fn begin() -> io::Result<Self> {
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..before })?;
        Ok(Self { before })
    }
}

impl Drop for NoDescriptors {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.before).expect("up to its maximum, the limit may be set by anybody");
    }
}
