//! Finds what builds the datapath: a compiler and cargo with the library's source beside them, and
//! bpf-linker. Never installs anything.
//!
//! Only the standard library is used: the agent's build script and `xtask` both include this file.

use std::{
    collections::BTreeSet,
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Oldest compiler that the workspace accepts.
pub(crate) const OLDEST_RUSTC: Version = Version(1, 95, 0);
/// Oldest bpf-linker that is known to write the BTF that the tables need.
pub(crate) const OLDEST_LINKER: Version = Version(0, 13, 0);

/// What builds the datapath.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// The compiler and its cargo.
    pub(crate) compiler: Compiler,
    /// bpf-linker.
    pub(crate) linker: PathBuf,
}

/// A compiler with the library's source in its sysroot, which `-Z build-std` needs.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    /// The folder that holds `rustc` and `cargo`.
    pub(crate) bin: PathBuf,
    /// Its release.
    pub(crate) version: Version,
    /// The LLVM it writes bitcode with; bpf-linker's must not be older.
    pub(crate) llvm: u32,
    /// Whether it accepts unstable options by itself.
    pub(crate) channel: Channel,
}

/// How a compiler is made to accept `-Z` options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// It does.
    Nightly,
    /// With `RUSTC_BOOTSTRAP=1`.
    Stable,
}

/// Numbers of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32, u32);

/// What was not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No compiler with library source.
    Compiler,
    /// No bpf-linker at all.
    Linker,
    /// A bpf-linker that is too old, or whose LLVM is.
    UnfitLinker(String),
}

impl Tools {
    /// The first pair of compiler and linker that fits together.
    ///
    /// # Errors
    ///
    /// What is missing; the message of [`Missing`] says what to do.
    pub(crate) fn find() -> Result<Self, Missing> {
        let compilers = Compiler::all();
        if compilers.is_empty() {
            return Err(Missing::Compiler);
        }
        let linker = find_linker().ok_or(Missing::Linker)?;
        let version = linker_version(&linker);
        if version.is_none_or(|version| version < OLDEST_LINKER) {
            let found = version.map_or_else(|| "of unknown version".to_owned(), |version| version.to_string());
            return Err(Missing::UnfitLinker(format!("{} is {found}, needed is {OLDEST_LINKER}", linker.display())));
        }
        let llvm = linker_llvm(&linker);
        let fits = |compiler: &Compiler| llvm.is_none_or(|llvm| compiler.llvm <= llvm);
        match compilers.iter().find(|compiler| fits(compiler)) {
            Some(compiler) => Ok(Self { compiler: compiler.clone(), linker }),
            None => Err(Missing::UnfitLinker(format!(
                "{} has LLVM {}, older than the compiler's LLVM {}",
                linker.display(),
                llvm.unwrap_or_default(),
                compilers[0].llvm
            ))),
        }
    }
}

impl Compiler {
    /// Every compiler on this machine that can build for BPF, the preferred one first: the
    /// distribution's, then rustup's nightly ones, then its others.
    pub(crate) fn all() -> Vec<Self> {
        let mut bins = distribution_bins();
        let (nightly, other) = rustup_bins().into_iter().partition::<Vec<_>, _>(|bin| {
            bin.parent().and_then(Path::file_name).is_some_and(|name| name.to_string_lossy().starts_with("nightly"))
        });
        bins.extend(nightly);
        bins.extend(other);
        bins.iter().filter_map(|bin| Self::at(bin)).filter(|compiler| compiler.version >= OLDEST_RUSTC).collect()
    }

    /// The compiler in `bin`, if it has the library's source.
    fn at(bin: &Path) -> Option<Self> {
        let rustc = bin.join("rustc");
        if !rustc.is_file() || !bin.join("cargo").is_file() {
            return None;
        }
        let sysroot = output(Command::new(&rustc).args(["--print", "sysroot"]))?;
        if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock").is_file() {
            return None;
        }
        let about = output(Command::new(&rustc).arg("-vV"))?;
        let field = |name: &str| about.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let release = field("release:")?;
        Some(Self {
            bin: bin.to_owned(),
            version: Version::parse(release)?,
            llvm: field("LLVM version:")?.split('.').next()?.parse().ok()?,
            channel: if release.contains("nightly") { Channel::Nightly } else { Channel::Stable },
        })
    }
}

impl Version {
    /// The first three numbers of a version such as `1.96.0-nightly`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self(next()?, next()?, next()?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(major, minor, patch) = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl Missing {
    /// What is missing, without saying what to do.
    pub(crate) fn what(&self) -> String {
        match self {
            Self::Compiler => format!("no Rust toolchain {OLDEST_RUSTC} or newer with library source (rust-src)"),
            Self::Linker => "bpf-linker is not installed".to_owned(),
            Self::UnfitLinker(why) => format!("bpf-linker does not fit: {why}"),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; run: cargo xtask setup", self.what())
    }
}

impl std::error::Error for Missing {}

/// Folders with a compiler that a package put there. rustup's proxies in `PATH` are no compilers.
fn distribution_bins() -> Vec<PathBuf> {
    let mut bins = vec![PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")];
    let versioned = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut versioned: Vec<_> = versioned
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rust-")))
        .map(|path| path.join("bin"))
        .collect();
    versioned.sort();
    bins.extend(versioned.into_iter().rev());
    bins.extend(search_path());
    let mut seen = BTreeSet::new();
    bins.retain(|bin| !bin.join("rustup").exists() && seen.insert(bin.clone()));
    bins
}

/// The `bin` folders of rustup's toolchains.
fn rustup_bins() -> Vec<PathBuf> {
    let home = env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".rustup")));
    let Some(toolchains) = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok()) else {
        return Vec::new();
    };
    let mut bins: Vec<_> = toolchains.flatten().map(|entry| entry.path().join("bin")).collect();
    bins.sort();
    bins
}

fn find_linker() -> Option<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".cargo")));
    let own = cargo_home.map(|home| home.join("bin"));
    search_path().into_iter().chain(own).map(|folder| folder.join("bpf-linker")).find(|linker| linker.is_file())
}

/// `None` also if the linker does not start, for instance because its LLVM library is gone.
fn linker_version(linker: &Path) -> Option<Version> {
    let text = output(Command::new(linker).arg("--version"))?;
    Version::parse(text.trim().strip_prefix("bpf-linker")?.trim())
}

/// The LLVM that the linker is linked with; `None` if it holds LLVM itself, which nothing tells.
fn linker_llvm(linker: &Path) -> Option<u32> {
    let libraries = output(Command::new("ldd").arg(linker))?;
    let name = libraries.lines().find_map(|line| line.trim().strip_prefix("libLLVM"))?;
    let digits: String = name.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn search_path() -> Vec<PathBuf> {
    env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default()
}

fn home() -> Option<PathBuf> {
    env::var_os("HOME").map(PathBuf::from)
}

/// What a command prints, if it succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.env_remove("LD_LIBRARY_PATH").env_remove("RUSTUP_TOOLCHAIN").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
