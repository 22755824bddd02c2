//! The limit on locked memory (`RLIMIT_MEMLOCK`), against which kernels before 5.11 count maps and programs.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit leaves no room for a map or program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "kernel {release} counts BPF maps against the limit on locked memory, which is {limit} and cannot be raised: run \
     with CAP_SYS_RESOURCE, or lift the limit beforehand (LimitMEMLOCK=infinity in a systemd unit, ulimit -l \
     unlimited in a shell); Linux 5.11 and later do not count them"
)]
pub struct LimitError {
    pub(super) release: String,
    pub(super) limit: Limit,
}

/// A limit in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit(u64);

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} KiB", self.0 / 1024)
    }
}

/// Raises the limit as far as the process may.
///
/// # Errors
/// The limit that stays.
pub(super) fn lift() -> Result<(), Limit> {
    let Rlimit { current, maximum } = getrlimit(Resource::Memlock);
    if current.is_none() || setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_ok() {
        return Ok(());
    }
    // As far as the maximum it needs no right.
    setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum }).ok();
    getrlimit(Resource::Memlock).current.map_or(Ok(()), |limit| Err(Limit(limit)))
}

/// Whether maps count on a kernel of this release: well enough for an error's text. Where a program can be loaded,
/// [`Feature::CgroupMemory`](super::features::Feature::CgroupMemory) says it for sure.
pub(super) fn counts(release: &str) -> bool {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or_default();
    (next(), next()) < (5, 11)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_count_before_5_11() {
        for release in ["4.18.0-553.el8", "5.4", "5.10.223-1-amd64"] {
            assert!(counts(release), "{release}");
        }
        for release in ["5.11.0", "5.15.0-100-generic", "6.1", "6.18.44", "7.0-rc1"] {
            assert!(!counts(release), "{release}");
        }
    }

    #[test]
    fn the_error_says_limit_release_and_what_to_do() {
        let error = LimitError { release: "5.10.0".to_owned(), limit: Limit(65_536) }.to_string();
        for part in ["kernel 5.10.0", "64 KiB", "CAP_SYS_RESOURCE", "ulimit -l unlimited", "5.11"] {
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
    }
}
