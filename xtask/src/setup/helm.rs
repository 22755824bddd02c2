//! Helm's own engine for the tests of the chart: the C library that the Python package helm-sdkpy is made around.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use crate::{command, workspace};

/// With Helm 4.
const PACKAGE: &str = "helm-sdkpy==0.1.32";
/// Its place in the package.
const LIBRARY: &str = "helm_sdkpy/_lib/linux-amd64/libhelm_sdkpy.so";

/// Makes sure that the library is where the tests look for it.
pub(super) fn install() -> anyhow::Result<()> {
    let folder = workspace::target_dir().join("helm");
    if folder.join("libhelm.so").is_file() {
        return Ok(());
    }
    if cfg!(not(target_arch = "x86_64")) {
        bail!("{PACKAGE} is for x86-64 only");
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]);
    // Its Python part, which needs a newer one than many systems have, is not used.
    pip.args(["--python-version", "3.12", PACKAGE]).current_dir(&folder);
    command::run(&mut pip)?;
    let wheel = wheel(&folder)?;
    command::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(".").current_dir(&folder))?;
    fs::rename(folder.join(LIBRARY), folder.join("libhelm.so")).with_context(|| format!("{LIBRARY} is not in it"))?;
    for rest in fs::read_dir(&folder)?.filter_map(|file| Some(file.ok()?.path())) {
        let is_library = rest.ends_with("libhelm.so");
        let removed = if rest.is_dir() {
            fs::remove_dir_all(&rest)
        } else if is_library {
            Ok(())
        } else {
            fs::remove_file(&rest)
        };
        removed.with_context(|| format!("cannot remove {}", rest.display()))?;
    }
    Ok(())
}

fn wheel(folder: &Path) -> anyhow::Result<PathBuf> {
    let files = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = files.filter_map(|file| Some(file.ok()?.path()));
    paths.find(|path| path.extension().is_some_and(|extension| extension == "whl")).context("pip left no package")
}
