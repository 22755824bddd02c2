//! The table of kernels in README.md says what [`Feature`] says.

use super::Feature;

const BEGIN: &str = "<!-- kernels -->\n";
const END: &str = "<!-- end of kernels -->\n";

/// The columns, and the release whose features each has.
const SERIES: [(&str, (u32, u32)); 3] = [("5.10", (5, 10)), ("6.1", (6, 1)), ("6.12 and newer", (6, 12))];

fn release(text: &str) -> (u32, u32) {
    let (major, minor) = text.split_once('.').expect("two numbers");
    (major.parse().expect("a number"), minor.parse().expect("a number"))
}

fn table() -> String {
    let series = SERIES.map(|(name, _)| name).join(" | ");
    let mut lines = vec![
        format!("| feature | since Linux | {series} | without it |"),
        format!("|---|---|{}---|", "---|".repeat(SERIES.len())),
    ];
    for feature in Feature::ALL {
        let (name, since) = (feature.name(), feature.since());
        let has = SERIES.map(|(_, series)| if release(since) <= series { "yes" } else { "no" }).join(" | ");
        let without = feature.without().unwrap_or("the agent does not start");
        lines.push(format!("| `{name}` | {since} | {has} | {without} |"));
    }
    lines.join("\n") + "\n"
}

#[test]
fn readme_has_the_table_of_kernels() {
    let readme = include_str!("../../../../README.md");
    let table = table();
    let found = readme.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map(|(found, _)| found);
    assert_eq!(found, Some(table.as_str()), "this belongs between the marks in README.md:\n{table}");
}

#[test]
fn features_are_listed_oldest_first_and_once() {
    assert!(Feature::ALL.windows(2).all(|pair| release(pair[0].since()) <= release(pair[1].since())));
    assert!(Feature::ALL.is_sorted(), "in the order of the enum");
    let names: std::collections::BTreeSet<&str> = Feature::ALL.iter().map(|feature| feature.name()).collect();
    assert_eq!(names.len(), Feature::ALL.len());
}
