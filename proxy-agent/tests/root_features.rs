//! What the running kernel can do, and the file systems that the dataplane needs. Needs root.

mod support;

use proxy_agent::dataplane::{
    features::{Feature, Features},
    lock::Lock,
    mounts,
};
use support::{Pins, release, release_of};

#[test]
fn probes_agree_with_the_kernel_release() {
    let features = Features::probe().expect("root may load programs");
    features.require().expect("this kernel is new enough");
    // A kernel has what its release promises; older ones may have more, by backports.
    let running = release();
    let promised = |feature: &Feature| release_of(feature.since()) <= running;
    let missing: Vec<Feature> = features.missing().filter(promised).collect();
    assert_eq!(missing, [], "{features}");
}

#[test]
fn the_readme_says_of_this_kernel_what_the_probes_say() {
    let readme = include_str!("../../README.md");
    let (_, table) = readme.split_once("<!-- kernels -->").expect("the table begins");
    let (table, _) = table.split_once("<!-- end of kernels -->").expect("the table ends");
    let mut rows = table.trim().lines().map(|row| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let headings = rows.next().expect("headings");
    let rows: Vec<_> = rows.skip(1).collect();
    assert_eq!(rows.len(), Feature::ALL.len());

    let features = Features::probe().expect("root may load programs");
    let running = release();
    let is_series = |heading: &&str| heading.starts_with(|first: char| first.is_ascii_digit());
    let mut columns = headings.iter().enumerate().filter(|(_, heading)| is_series(heading));
    let column = columns.rfind(|(_, heading)| release_of(heading) <= running);
    let (column, heading) = column.expect("this kernel is not older than all of them");
    // A kernel between two of the series has what the older one has, and may have more.
    let is_in_series = release_of(heading) == running || heading.ends_with("and newer");
    for (row, feature) in rows.iter().zip(Feature::ALL) {
        assert_eq!(row[0], format!("`{feature}`"));
        if is_in_series || row[column] == "yes" {
            let expected = if features.has(feature) { "yes" } else { "no" };
            assert_eq!(row[column], expected, "{feature} in column {heading}; {features}");
        }
    }
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
