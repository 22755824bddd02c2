//! Kernel series.

use std::{fmt, str::FromStr};

use anyhow::Context;

/// A series of kernel releases such as 6.18, in which the verifier stays the same but for corrections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Series {
    major: u32,
    minor: u32,
}

impl FromStr for Series {
    type Err = anyhow::Error;

    /// Reads a release such as `6.18.44-1-amd64`, or a series.
    fn from_str(release: &str) -> anyhow::Result<Self> {
        let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
        let mut next = || numbers.next()?.ok();
        next()
            .and_then(|major| Some(Self { major, minor: next()? }))
            .with_context(|| format!("not a kernel release: {release}"))
    }
}

impl fmt::Display for Series {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor } = self;
        write!(formatter, "{major}.{minor}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_belongs_to_a_series() {
        for release in ["6.1.0-18-amd64", "6.1", "6.1-rc3", "6.1+"] {
            let series: Series = release.parse().expect("a release");
            assert_eq!(series.to_string(), "6.1", "{release}");
        }
        for other in ["", "six.one", "6", "6.x"] {
            assert!(other.parse::<Series>().is_err(), "{other}");
        }
    }

    #[test]
    fn series_are_ordered_by_number() {
        let series = |text: &str| text.parse::<Series>().expect("a series");
        assert!(series("5.10") > series("5.4"));
        assert!(series("6.1") > series("5.15"));
    }
}
