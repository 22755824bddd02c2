//! Runs other programs.

use std::{
    env, iter,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use anyhow::{Context, bail};

use crate::workspace;

/// The cargo that runs this command, working in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root());
    // `cargo run` told us about ourselves. Passed on, that would make builds differ from those by hand.
    let about_us = |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix));
    for (name, _) in env::vars_os().filter(|(name, _)| about_us(&name.to_string_lossy())) {
        cargo.env_remove(name);
    }
    cargo
}

/// Runs a command to its end after showing it; an exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = spawn(command)?.wait()?;
    if !status.success() {
        bail!("`{}` failed ({status})", show(command));
    }
    Ok(())
}

/// Starts a command after showing it.
pub(crate) fn spawn(command: &mut Command) -> anyhow::Result<Child> {
    let shown = show(command);
    eprintln!("$ {shown}");
    command.spawn().with_context(|| format!("cannot start `{shown}`"))
}

/// A program in `PATH`, or in the folders for administration that a user's `PATH` leaves out.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The command as a person would type it.
pub(crate) fn show(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
