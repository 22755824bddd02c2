//! Installs bpf-linker, linked with the very LLVM library that the compiler uses: bitcode can only be
//! read by an LLVM that is not older than the one that wrote it.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use super::output;
use crate::{
    command,
    toolchain::{Compiler, OLDEST_LINKER},
};

/// Installs a linker for the first of `compilers` whose LLVM is a shared library.
pub(super) fn install(compilers: &[Compiler]) -> anyhow::Result<()> {
    let Some((compiler, library)) = compilers.iter().find_map(|compiler| Some((compiler, llvm_library(compiler)?)))
    else {
        bail!(
            "none of the compilers uses a shared LLVM library that bpf-linker could use; \
             install bpf-linker {OLDEST_LINKER} or newer from your distribution or from the project's releases"
        );
    };
    let prefix = prefix()?;
    provide(&library, &prefix)?;
    let feature = format!("llvm-{}", compiler.llvm);
    let mut cargo = command::cargo();
    cargo.args(["install", "bpf-linker", "--locked", "--force", "--version", &OLDEST_LINKER.to_string()]);
    cargo.args(["--no-default-features", "--features", &feature]).env("LLVM_PREFIX", &prefix);
    command::run(&mut cargo)
}

/// The LLVM library that a compiler loads; `None` if it holds LLVM itself.
fn llvm_library(compiler: &Compiler) -> Option<PathBuf> {
    let libraries = output(Command::new("ldd").arg(compiler.bin.join("rustc")))?;
    let line = libraries.lines().find(|line| line.trim().starts_with("libLLVM"))?;
    let path = line.split_once("=> ")?.1.split(" (").next()?;
    fs::canonicalize(path).ok().filter(|path| path.is_file())
}

/// Puts `library` where bpf-linker's build looks for it, and where the linker finds it when it runs:
/// in `PREFIX/lib`, under the name that the library calls itself and under its plain name.
fn provide(library: &Path, prefix: &Path) -> anyhow::Result<()> {
    let folder = prefix.join("lib");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let own_name = library.file_name().context("the LLVM library has no name")?;
    for name in [Path::new("libLLVM.so"), Path::new(own_name)] {
        let link = folder.join(name);
        symlink(library, &link).with_context(|| format!("cannot make {}", link.display()))?;
    }
    Ok(())
}

/// A folder beside cargo's own that lasts as long as the installed linker does.
fn prefix() -> anyhow::Result<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    Ok(cargo_home.context("neither CARGO_HOME nor HOME is set")?.join("bpf-linker-llvm"))
}
