//! Builds the datapath's object file. Always through cargo, which knows whether anything changed, so
//! that nobody ever gets a stale one.

use std::{
    env, fmt, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use super::toolchain::{Channel, Tools};

/// The target that the programs are compiled for. BPF has the byte order of the machine; big-endian
/// machines are not supported.
const TARGET: &str = "bpfel-unknown-none";
/// The profile in the workspace's `Cargo.toml`.
const PROFILE: &str = "bpf";
/// The binary target that holds the programs.
pub(crate) const PROGRAM: &str = "proxy-ebpf";

/// What stopped the build.
#[derive(Debug)]
pub(crate) enum Failure {
    /// cargo did not start.
    Start(PathBuf, io::Error),
    /// cargo reported errors; it has printed them.
    Cargo(ExitStatus),
}

/// Builds the object and returns its path, which is below `WORKSPACE/target/bpf` whatever the target
/// folder of the surrounding build is.
///
/// `architecture` is the machine that will run the programs, by Rust's name.
///
/// # Errors
///
/// If cargo cannot be started or fails.
pub(crate) fn build(tools: &Tools, workspace: &Path, architecture: &str) -> Result<PathBuf, Failure> {
    let mut cargo = Command::new(tools.compiler.bin.join("cargo"));
    cargo.args(["build", "--quiet"]);
    let cargo = for_bpf(&mut cargo, tools, workspace, architecture);
    let status = cargo.status().map_err(|error| Failure::Start(cargo.get_program().into(), error))?;
    if !status.success() {
        return Err(Failure::Cargo(status));
    }
    Ok(target_dir(workspace).join(TARGET).join(PROFILE).join(PROGRAM))
}

/// Gives a cargo command that has its subcommand everything else that a build for BPF needs, and takes
/// from it what a cargo around it left in the environment.
pub(crate) fn for_bpf<'a>(
    cargo: &'a mut Command,
    tools: &Tools,
    workspace: &Path,
    architecture: &str,
) -> &'a mut Command {
    let compiler = &tools.compiler;
    for (name, _) in env::vars_os().filter(|(name, _)| belongs_to_outer_cargo(&name.to_string_lossy())) {
        cargo.env_remove(name);
    }
    let flags =
        ["-Cdebuginfo=2", "-Clink-arg=--btf", &format!("--cfg=bpf_target_arch=\"{architecture}\"")].join("\u{1f}");
    cargo
        .current_dir(workspace)
        .env("RUSTC", compiler.bin.join("rustc"))
        // Set and empty, so that wrappers in a user's cargo configuration do not apply either.
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", target_dir(workspace))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &tools.linker);
    if compiler.channel == Channel::Stable {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    cargo.args(["--locked", "--package", PROGRAM, "--bin", PROGRAM]);
    cargo.args(["--profile", PROFILE, "--target", TARGET, "-Zbuild-std=core"])
}

fn target_dir(workspace: &Path) -> PathBuf {
    workspace.join("target/bpf")
}

/// Whether a variable tells of the cargo that runs us. What configures network and registries stays.
fn belongs_to_outer_cargo(name: &str) -> bool {
    const KEPT: [&str; 5] = ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR", "CARGO_TERM_"];
    const OTHERS: [&str; 10] = [
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "LD_LIBRARY_PATH",
        "MAKEFLAGS",
        "OUT_DIR",
        "TARGET",
        "HOST",
        "CLIPPY_",
    ];
    let starts_with_any = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if name.starts_with("CARGO") { !starts_with_any(&KEPT) } else { starts_with_any(&OTHERS) }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(cargo, error) => write!(f, "cannot start {}: {error}", cargo.display()),
            Self::Cargo(status) => write!(f, "the datapath does not build ({status}), see above"),
        }
    }
}

impl std::error::Error for Failure {}
