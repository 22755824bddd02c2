//! What the running kernel can do, and the file systems that the dataplane needs. Needs root.

mod support;

use std::collections::BTreeSet;

use proxy_agent::dataplane::{
    features::{Feature, Features},
    lock::Lock,
    mounts,
};
use support::Pins;

#[test]
fn probes_agree_with_the_kernel_release() {
    let features = Features::probe().expect("root may load programs");
    features.require().expect("this kernel is new enough");
    let release =
        |text: &str| -> Vec<u32> { text.split(['.', '-', '+']).map_while(|part| part.parse().ok()).take(2).collect() };
    // A kernel has what its release promises; older ones may have more, by backports.
    let running = release(features.release());
    let promised: BTreeSet<Feature> =
        Feature::ALL.into_iter().filter(|feature| release(feature.since()) <= running).collect();
    let missing: Vec<Feature> = features.missing().filter(|feature| promised.contains(feature)).collect();
    assert!(missing.is_empty(), "{features}");
}

#[test]
fn pin_directories_are_made_on_a_bpf_file_system_and_locked() {
    let pins = Pins::new();
    let root = pins.path().join("deep/er");
    assert!(!mounts::is_bpffs(&root).expect("can be asked"));
    mounts::bpffs_root(&root).expect("can be made");
    assert!(mounts::is_bpffs(&root).expect("can be asked"));

    let lock = Lock::take(&root).expect("free");
    let error = Lock::take(&root).expect_err("taken");
    assert_eq!(
        error.to_string(),
        format!(
            "another agent is running with --bpffs-root {}: stop it, or give this one a root of its own",
            root.display()
        )
    );
    drop(lock);
}

#[test]
fn the_cgroup_root_is_found() {
    let root = mounts::cgroup_root(None).expect("cgroup2 is mounted");
    assert!(root.join("cgroup.procs").exists(), "{}", root.display());
    assert_eq!(mounts::cgroup_root(Some(&root)).expect("is cgroup2"), root);
}
