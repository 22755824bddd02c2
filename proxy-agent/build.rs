//! Builds the datapath and puts its object file where the agent embeds it from, `OUT_DIR/proxy-ebpf`. Tells the agent a hash of it, and of
//! what loads it.

use std::{
    env,
    error::Error,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
    process::ExitCode,
};

#[path = "build/object.rs"]
mod object;
#[path = "build/toolchain.rs"]
mod toolchain;

/// What decides, besides the object, what the kernel gets of it.
const LOADING: [&str; 3] = ["src/dataplane/loaded.rs", "src/dataplane/programs.rs", "src/dataplane/untyped.rs"];

fn main() -> ExitCode {
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={error}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), Box<dyn Error>> {
    let package = env::var("CARGO_MANIFEST_DIR")?;
    let workspace = Path::new(&package).parent().ok_or("the agent is not in its workspace")?;
    for source in ["proxy-ebpf", "proxy-common", "Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");

    let tools = toolchain::Tools::find()?;
    let object = object::build(&tools, workspace, &env::var("CARGO_CFG_TARGET_ARCH")?)?;
    let embedded = Path::new(&env::var("OUT_DIR")?).join(object::PROGRAM);
    fs::copy(&object, &embedded).map_err(|error| format!("{} to {}: {error}", object.display(), embedded.display()))?;
    let mut hasher = DefaultHasher::new();
    let loading = LOADING.map(|file| Path::new(&package).join(file));
    for source in &loading {
        println!("cargo::rerun-if-changed={}", source.display());
    }
    // The loader itself is in there.
    let lock = workspace.join("Cargo.lock");
    for file in [&embedded, &lock].into_iter().chain(&loading) {
        fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?.hash(&mut hasher);
    }
    println!("cargo::rustc-env=PROXY_EBPF_HASH={:016x}", hasher.finish());
    Ok(())
}
