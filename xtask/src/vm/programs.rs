//! The test programs: those that need root, as cargo builds them for this machine.
//!
//! They are not built a second time for the guest: it gets the same files under the same paths, with the libraries that
//! they need.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::{
    command,
    test::{Target, integration_tests},
};

/// What tests run besides themselves.
pub(super) const TOOLS: [&str; 8] = ["bash", "ip", "tc", "nft", "bpftool", "nsenter", "unshare", "setpriv"];
/// Everything else that a small system needs.
pub(super) const BUSYBOX: &str = "busybox";

/// A test program.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// Its name, such as `root_traffic`.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// The folder in which cargo runs it.
    pub(super) folder: PathBuf,
}

/// The test programs, and what they start.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) tests: Vec<Program>,
    pub(super) others: Vec<PathBuf>,
}

impl Programs {
    pub(super) fn build() -> anyhow::Result<Self> {
        let mut cargo = command::cargo();
        cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics"]);
        for target in integration_tests()?.iter().filter(|target| Target::needs_root(target)) {
            cargo.args(target.arguments());
        }
        let child = command::spawn(cargo.stdout(Stdio::piped()))?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("the tests could not be built");
        }
        Self::of(&String::from_utf8(output.stdout).context("cargo does not print text")?)
    }

    /// From cargo's messages about what it built.
    fn of(messages: &str) -> anyhow::Result<Self> {
        let (mut tests, mut others) = (Vec::new(), Vec::new());
        for message in messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let Some(path) = message["executable"].as_str().map(PathBuf::from) else { continue };
            let name = message["target"]["name"].as_str().context("a target without a name")?.to_owned();
            if message["profile"]["test"] == true {
                let manifest = Path::new(message["manifest_path"].as_str().context("a target without a manifest")?);
                let folder = manifest.parent().context("a manifest in no folder")?.to_owned();
                tests.push(Program { name, path, folder });
            } else if name == "proxy-agent" {
                others.push(path);
            }
        }
        tests.sort_by(|a, b| a.name.cmp(&b.name));
        if tests.is_empty() {
            bail!("cargo built no tests that need root");
        }
        Ok(Self { tests, others })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_from_other_things_that_cargo_builds() {
        let messages = r#"
{"reason":"compiler-artifact","manifest_path":"/w/proxy-agent/Cargo.toml","target":{"name":"proxy_agent"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/w/proxy-agent/Cargo.toml","target":{"name":"proxy-agent"},"profile":{"test":false},"executable":"/w/target/proxy-agent"}
{"reason":"compiler-artifact","manifest_path":"/w/proxy-agent/Cargo.toml","target":{"name":"root_x"},"profile":{"test":true},"executable":"/w/target/root_x-1"}
{"reason":"build-finished","success":true}"#;
        let programs = Programs::of(messages).expect("two programs");
        assert_eq!(programs.others, [PathBuf::from("/w/target/proxy-agent")]);
        let [test] = &programs.tests[..] else { panic!("one test") };
        assert_eq!((&*test.name, &*test.path), ("root_x", Path::new("/w/target/root_x-1")));
        assert_eq!(test.folder, Path::new("/w/proxy-agent"));
    }
}
