//! The shared libraries that a program needs.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

/// The loader and the libraries, by the paths at which the loader will look for them.
pub(super) fn libraries(program: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    // ldd fails on a static program, which needs none.
    let output = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(library).collect())
}

/// `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x…)`, or `/lib64/ld-linux-x86-64.so.2 (0x…)`. What the kernel itself maps
/// in (`linux-vdso.so.1`) has no path.
fn library(line: &str) -> Option<PathBuf> {
    let found = line.split_once(" => ").map_or(line, |(_, found)| found);
    let path = found.trim().split_once(" (").map_or("", |(path, _)| path);
    path.starts_with('/').then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_have_paths() {
        assert_eq!(library("\tlibz.so.1 => /lib/libz.so.1 (0x00007f)"), Some("/lib/libz.so.1".into()));
        assert_eq!(library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"), Some("/lib64/ld-linux-x86-64.so.2".into()));
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007ffc)"), None);
        assert_eq!(library("\tstatically linked"), None);
    }
}
