//! Fetches Debian's kernel packages with apt, in a world of its own: nothing is installed, and the machine's own package
//! lists stay as they are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use super::{output, tool};
use crate::command;

/// Which of Debian's archives a suite is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Archive {
    Main,
    Security,
}

/// The metapackage that depends on the newest kernel of a suite.
const NEWEST: &str = "linux-image-cloud-amd64";
/// The keys with which Debian signs.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Unpacks the suites' newest kernel into the folder `to`. `world` is apt's to keep its lists in.
pub(super) fn fetch(suites: &[(Archive, &str)], world: &Path, to: &Path) -> anyhow::Result<()> {
    let apt = Apt::new(world, suites)?;
    command::run(apt.get().args(["update", "--quiet=2"]))?;
    let image = apt.depends(NEWEST)?.into_iter().find(|name| name.starts_with("linux-image-"));
    let image = image.with_context(|| format!("{NEWEST} depends on no kernel"))?;
    let release = image.trim_start_matches("linux-image-").to_owned();
    // From 7.0 on, kernel and modules are packages of their own.
    let parts = [format!("linux-binary-{release}"), format!("linux-modules-{release}")];
    let parts = apt.depends(&image)?.into_iter().filter(|name| parts.contains(name));
    let packages: Vec<String> = [image.clone()].into_iter().chain(parts).collect();

    let downloads = world.join("downloads");
    if downloads.exists() {
        fs::remove_dir_all(&downloads)?;
    }
    fs::create_dir_all(&downloads)?;
    command::run(apt.get().args(["download", "--quiet=2"]).args(&packages).current_dir(&downloads))?;
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(&downloads)? {
        command::run(tool("dpkg-deb")?.arg("--extract").arg(entry?.path()).arg(to))?;
    }
    fs::remove_dir_all(&downloads)?;
    Ok(())
}

/// An apt with its own sources, lists and idea of what is installed (nothing).
struct Apt {
    configuration: PathBuf,
}

impl Apt {
    fn new(world: &Path, suites: &[(Archive, &str)]) -> anyhow::Result<Self> {
        ensure!(Path::new(KEYS).exists(), "{KEYS} is missing: install debian-archive-keyring");
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(world.join(folder))?;
        }
        fs::write(world.join("status"), "")?;
        let archives = Archives::known_here()?;
        let source = |&(archive, suite): &(Archive, &str)| {
            format!("deb [arch=amd64 signed-by={KEYS}] {} {suite} main\n", archives.uri(archive))
        };
        fs::write(world.join("sources.list"), suites.iter().map(source).collect::<String>())?;
        let world = world.canonicalize()?;
        let options = [
            ("Dir::State", world.join("state")),
            ("Dir::State::status", world.join("status")),
            ("Dir::Cache", world.join("cache")),
            ("Dir::Etc::sourcelist", world.join("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".into()),
            ("APT::Architecture", "amd64".into()),
            ("APT::Sandbox::User", "root".into()),
            ("Acquire::Languages", "none".into()),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".into()),
        ];
        let line = |(name, value): (&str, PathBuf)| format!("{name} \"{}\";\n", value.display());
        let configuration = world.join("apt.conf");
        fs::write(&configuration, options.into_iter().map(line).collect::<String>())?;
        Ok(Self { configuration })
    }

    fn get(&self) -> Command {
        self.command("apt-get")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.configuration);
        command
    }

    /// The packages that a package depends on.
    fn depends(&self, package: &str) -> anyhow::Result<Vec<String>> {
        let text = output(self.command("apt-cache").args(["depends", package]))?;
        Ok(text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
    }
}

/// Where this machine gets Debian's packages from.
#[derive(Debug, PartialEq, Eq)]
struct Archives {
    main: String,
    security: String,
}

impl Archives {
    /// From apt's sources; Debian's own servers if this is another distribution.
    fn known_here() -> anyhow::Result<Self> {
        let targets = output(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)"]))?;
        Ok(Self::of(&targets))
    }

    fn of(targets: &str) -> Self {
        let known = |of_suite: fn(&str) -> bool, folder: &str| {
            let mut targets = targets.lines().filter_map(|line| line.split_once(' '));
            let known = targets.find(|(uri, suite)| of_suite(suite) && uri.trim_end_matches('/').ends_with(folder));
            known.map_or_else(|| format!("http://deb.debian.org{folder}"), |(uri, _)| uri.to_owned())
        };
        Self {
            main: known(|suite| !suite.contains('-'), "/debian"),
            security: known(|suite| suite.ends_with("-security"), "/debian-security"),
        }
    }

    fn uri(&self, archive: Archive) -> &str {
        match archive {
            Archive::Main => &self.main,
            Archive::Security => &self.security,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_those_of_the_machine() {
        let targets = "http://mirror.example/debian/ bookworm\n\
                       http://mirror.example/debian/ bookworm-updates\n\
                       http://other.example/debian-security bookworm-security\n";
        let archives = Archives::of(targets);
        assert_eq!(archives.uri(Archive::Main), "http://mirror.example/debian/");
        assert_eq!(archives.uri(Archive::Security), "http://other.example/debian-security");
    }

    #[test]
    fn another_distribution_asks_debian() {
        let archives =
            Archives::of("http://mirror.example/ubuntu/ noble\nhttp://mirror.example/ubuntu noble-security\n");
        assert_eq!(archives.uri(Archive::Main), "http://deb.debian.org/debian");
        assert_eq!(archives.uri(Archive::Security), "http://deb.debian.org/debian-security");
    }
}
