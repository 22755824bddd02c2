//! Where qemu comes from: the machine's own, or else Debian's package, unpacked beside the kernels and not installed.

use std::{env, ffi::OsString, path::PathBuf, process::Command};

use super::folder;
use crate::{command, setup};

/// The program.
const NAME: &str = "qemu-system-x86_64";
/// The package that has it.
const PACKAGE: &str = "qemu-system-x86";
/// Where a package puts libraries. It finds its other files by its own place.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// A qemu that can be started.
#[derive(Clone, Debug)]
pub(super) struct Emulator {
    program: PathBuf,
    /// Where its libraries are besides those of the machine.
    libraries: Vec<PathBuf>,
}

impl Emulator {
    /// Finds or fetches it.
    ///
    /// # Errors
    /// This machine has none, and apt cannot provide one.
    pub(super) fn provide() -> anyhow::Result<Self> {
        if let Some(program) = command::find(NAME) {
            return Ok(Self { program, libraries: Vec::new() });
        }
        let root = folder().join("qemu");
        if !root.is_dir() {
            setup::unpacked(PACKAGE, &root)?;
        }
        let libraries = LIBRARIES.map(|libraries| root.join(libraries)).to_vec();
        Ok(Self { program: root.join("usr/bin").join(NAME), libraries })
    }

    /// The program, without arguments.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if !self.libraries.is_empty() {
            command.env("LD_LIBRARY_PATH", self.search_path());
        }
        command
    }

    /// Its own libraries before those that whoever started this program wants.
    fn search_path(&self) -> OsString {
        let given = env::var_os("LD_LIBRARY_PATH");
        let given = given.iter().flat_map(env::split_paths).filter(|path| !path.as_os_str().is_empty());
        let all: Vec<PathBuf> = self.libraries.iter().cloned().chain(given).collect();
        // A folder with a colon in its name cannot be named there; the libraries are not found then, as the linker will say.
        env::join_paths(all).unwrap_or_default()
    }
}
