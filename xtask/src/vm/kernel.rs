//! The kernels: which ones, and their files.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::ValueEnum;

use super::{folder, packages::Archive};

/// A kernel series that Debian maintains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// The oldest on which everything must work.
    #[value(name = "5.10")]
    V5_10,
    #[value(name = "6.1")]
    V6_1,
    #[value(name = "6.12")]
    V6_12,
    /// The newest in Debian's backports.
    #[value(name = "newest")]
    Newest,
}

impl Kernel {
    pub(super) const ALL: [Self; 4] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::Newest];
    /// Those that every change is tried on.
    pub(super) const QUICK: [Self; 2] = [Self::V5_10, Self::V6_1];

    /// Debian's suites that have it, and which archive they are in.
    const fn suites(self) -> &'static [(Archive, &'static str)] {
        match self {
            Self::V5_10 => &[(Archive::Main, "bullseye"), (Archive::Security, "bullseye-security")],
            Self::V6_1 => &[(Archive::Main, "bookworm"), (Archive::Security, "bookworm-security")],
            Self::V6_12 => &[(Archive::Main, "trixie"), (Archive::Security, "trixie-security")],
            Self::Newest => &[(Archive::Main, "trixie-backports")],
        }
    }

    /// Its files, from the cache unless there are none or `update` asks for newer ones.
    pub(super) fn fetch(self, update: bool) -> anyhow::Result<Files> {
        let folder = folder().join("kernels").join(self.to_string());
        let unpacked = folder.join("root");
        if update || !unpacked.exists() {
            let fresh = folder.join("new");
            if fresh.exists() {
                fs::remove_dir_all(&fresh)?;
            }
            super::packages::fetch(self.suites(), &folder.join("apt"), &fresh)?;
            if unpacked.exists() {
                fs::remove_dir_all(&unpacked)?;
            }
            fs::rename(&fresh, &unpacked)?;
        }
        Files::find(&unpacked)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::Newest => "newest",
        })
    }
}

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// As `uname -r` will print it.
    pub(super) release: String,
    /// The kernel's image.
    pub(super) kernel: PathBuf,
    /// The folder that `lib/modules` is in.
    pub(super) root: PathBuf,
}

impl Files {
    fn find(root: &Path) -> anyhow::Result<Self> {
        // `/lib` is a link to `/usr/lib` on a merged system, but packages may ship either.
        let roots = [root.to_owned(), root.join("usr")];
        let modules = roots.iter().find(|root| root.join("lib/modules").is_dir());
        let modules = modules.with_context(|| format!("no modules below {}", root.display()))?;
        let mut releases = fs::read_dir(modules.join("lib/modules"))?;
        let release = releases.next().context("no modules were unpacked")??.file_name().to_string_lossy().into_owned();
        let kernel = [root.join("boot"), root.join("usr/lib/modules").join(&release)];
        let kernel =
            kernel.iter().flat_map(|folder| [folder.join(format!("vmlinuz-{release}")), folder.join("vmlinuz")]);
        let kernel = kernel.into_iter().find(|file| file.is_file()).context("no kernel was unpacked")?;
        Ok(Self { release, kernel, root: modules.clone() })
    }
}
