//! Tests that not every kernel can run.

use libtest_mimic::Trial;
use proxy_agent::dataplane::features::{Feature, Features};

use super::Netns;

/// A test; where the kernel lacks one of the features, it is listed as ignored, with the features.
pub fn needs(features: &[Feature], name: &str, test: impl FnOnce() + Send + 'static) -> Trial {
    let trial = Trial::test(name, move || {
        test();
        Ok(())
    });
    // Who may not ask the kernel cannot run the test either, but can list it.
    let lacks = |kernel: &Features| features.iter().any(|&feature| !kernel.has(feature));
    let is_missing = !features.is_empty() && Features::probe().is_ok_and(|kernel| lacks(&kernel));
    let kind: Vec<String> = features.iter().map(|feature| format!("{feature}, Linux {}", feature.since())).collect();
    trial.with_kind(kind.join("; ")).with_ignored_flag(is_missing)
}

/// A test that needs something of the machine that not every machine has. `probe` tries it in an empty namespace.
pub fn needing(
    what: &str,
    probe: impl FnOnce(&Netns) -> bool,
    name: &str,
    test: impl FnOnce() + Send + 'static,
) -> Trial {
    let trial = Trial::test(name, move || {
        test();
        Ok(())
    });
    // Who may not try cannot run the test either, but can list it.
    let is_missing = rustix::process::geteuid().is_root() && !probe(&Netns::new());
    trial.with_kind(format!("needs {what}")).with_ignored_flag(is_missing)
}
