//! A nightly toolchain with library source, for distributions whose compiler is too old.

use std::process::Command;

use anyhow::bail;

use crate::{command, toolchain::OLDEST_RUSTC};

pub(super) fn install() -> anyhow::Result<()> {
    if command::find("rustup").is_none() {
        bail!(
            "neither a package nor rustup can provide Rust {OLDEST_RUSTC} or newer with library source; \
             install rustup, then run this again"
        );
    }
    let mut rustup = Command::new("rustup");
    command::run(rustup.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]))
}
