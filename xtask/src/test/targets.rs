//! The workspace's integration tests, found as cargo finds them.

use std::{fmt, fs, path::Path};

use anyhow::Context;

use crate::workspace;

/// An integration test: `PACKAGE/tests/NAME.rs` or `PACKAGE/tests/NAME/main.rs`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    package: String,
    name: String,
}

impl Target {
    /// By convention, its name begins with `root_`.
    pub(crate) fn needs_root(&self) -> bool {
        self.name.starts_with("root_")
    }

    /// What makes `cargo test` run this target alone.
    pub(crate) fn arguments(&self) -> [&str; 4] {
        ["--package", &self.package, "--test", &self.name]
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/tests/{}", self.package, self.name)
    }
}

/// All of them, in order.
pub(crate) fn integration_tests() -> anyhow::Result<Vec<Target>> {
    let mut targets = Vec::new();
    for package in entries(workspace::root())? {
        let tests = workspace::root().join(&package).join("tests");
        if !tests.is_dir() || !workspace::root().join(&package).join("Cargo.toml").is_file() {
            continue;
        }
        for entry in entries(&tests)? {
            let name = match entry.strip_suffix(".rs") {
                Some(name) => name.to_owned(),
                None if tests.join(&entry).join("main.rs").is_file() => entry,
                None => continue,
            };
            targets.push(Target { package: package.clone(), name });
        }
    }
    targets.sort();
    Ok(targets)
}

fn entries(folder: &Path) -> anyhow::Result<Vec<String>> {
    let unreadable = || format!("cannot read {}", folder.display());
    let entries = fs::read_dir(folder).with_context(unreadable)?;
    entries.map(|entry| Ok(entry.with_context(unreadable)?.file_name().to_string_lossy().into_owned())).collect()
}
