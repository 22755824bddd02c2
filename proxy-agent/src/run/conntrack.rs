//! Limits and timeouts of the kernel's connection tracking, set as kube-proxy sets them (its `conntrack` section).

use std::{fs, io, path::Path, time::Duration};

use tracing::{info, warn};

use crate::config::Conntrack;

/// kube-proxy's limit for `maxPerCore` times the number of CPUs.
const LARGEST_MAX: u64 = 1 << 20;

/// A value that a file of the kernel's shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    /// Below the root.
    file: &'static str,
    value: u64,
    rule: Rule,
}

/// When a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// If the kernel's is another one.
    Exactly,
    /// If the kernel's is less.
    AtLeast,
}

const MAX: &str = "proc/sys/net/netfilter/nf_conntrack_max";
const HASH_SIZE: &str = "sys/module/nf_conntrack/parameters/hashsize";

/// Writes what differs from `config`; `root` is where `proc` and `sys` are. What cannot be written is told in one warning; what
/// there is nothing to write to, or belongs to another network namespace, is no reason for one.
pub(super) fn apply(config: &Conntrack, root: &Path) {
    let mut failures = Vec::new();
    let mut is_ours = true;
    for Wanted { file, value, rule } in wanted(config, cpus(root)) {
        // The table is made larger for more connections only.
        if file == HASH_SIZE && !(is_ours && failures.is_empty()) {
            continue;
        }
        let path = root.join(file);
        let name = file.rsplit('/').next().unwrap_or(file);
        match set(&path, value, rule) {
            Ok(Outcome::Written { former }) => info!("conntrack: {name} was {former} and is {value} now"),
            Ok(Outcome::Right) => {}
            Ok(Outcome::NotOurs) => {
                is_ours = false;
                info!("conntrack: {name} is less than {value}, and can only be set in the first network namespace");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                is_ours = false;
                info!("conntrack: this kernel has no {name}");
            }
            Err(error) => failures.push(format!("{name} to {value}: {error}")),
        }
    }
    if !failures.is_empty() {
        warn!("conntrack: cannot set {}", failures.join(", "));
    }
}

/// What kube-proxy's configuration asks for on a machine with so many CPUs.
fn wanted(config: &Conntrack, cpus: u64) -> Vec<Wanted> {
    let Conntrack {
        max_per_core,
        min,
        tcp_established_timeout,
        tcp_close_wait_timeout,
        tcp_be_liberal,
        udp_timeout,
        udp_stream_timeout,
    } = config;
    let mut all = Vec::new();
    if *max_per_core > 0 {
        let scaled = u64::from(*max_per_core) * cpus;
        let max = if scaled > LARGEST_MAX { LARGEST_MAX } else { scaled.max((*min).into()) };
        all.push(Wanted { file: MAX, value: max, rule: Rule::AtLeast });
        all.push(Wanted { file: HASH_SIZE, value: max / 4, rule: Rule::AtLeast });
    }
    let timeouts = [
        ("proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established", tcp_established_timeout),
        ("proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait", tcp_close_wait_timeout),
        ("proc/sys/net/netfilter/nf_conntrack_udp_timeout", udp_timeout),
        ("proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream", udp_stream_timeout),
    ];
    let exactly = |file, value| Wanted { file, value, rule: Rule::Exactly };
    all.extend(
        timeouts
            .into_iter()
            .filter_map(|(file, timeout)| Some(exactly(file, timeout.as_ref().map(Duration::as_secs)?))),
    );
    if *tcp_be_liberal {
        all.push(exactly("proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", 1));
    }
    all
}

/// What became of a value.
enum Outcome {
    /// It is what it should be.
    Right,
    /// It is now.
    Written { former: u64 },
    /// It is the whole machine's, and read-only here.
    NotOurs,
}

/// Sets the value, if it must be.
fn set(path: &Path, value: u64, rule: Rule) -> io::Result<Outcome> {
    let text = fs::read_to_string(path)?;
    let former: u64 = text.trim().parse().map_err(|_| io::Error::other(format!("{text:?} is no number")))?;
    let is_right = match rule {
        Rule::Exactly => former == value,
        Rule::AtLeast => former >= value,
    };
    if is_right {
        return Ok(Outcome::Right);
    }
    // The kernel shows the limit in every namespace, and takes away the right to write it in all but the first.
    if fs::metadata(path)?.permissions().readonly() {
        return Ok(Outcome::NotOurs);
    }
    fs::write(path, value.to_string())?;
    Ok(Outcome::Written { former })
}

/// CPUs of the machine, whatever the process may use of them.
fn cpus(root: &Path) -> u64 {
    let text = fs::read_to_string(root.join("sys/devices/system/cpu/online")).unwrap_or_default();
    count(text.trim()).unwrap_or(1)
}

/// How many numbers are in a list such as `0-3,8`.
fn count(text: &str) -> Option<u64> {
    text.split(',').try_fold(0, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        Some(sum + last.checked_sub(first)? + 1)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NETFILTER: &str = "proc/sys/net/netfilter";

    /// A machine with four CPUs, and what its kernel's files hold.
    fn machine(values: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("sys/devices/system/cpu/online", "0-2,5\n");
        for (file, text) in values {
            write(file, text);
        }
        root
    }

    fn read(root: &tempfile::TempDir, file: &str) -> String {
        fs::read_to_string(root.path().join(file)).expect("it is there")
    }

    #[test]
    fn the_limit_follows_the_cpus_and_is_never_lowered() {
        let max = |max_per_core, min, cpus| {
            let config = Conntrack { max_per_core, min, ..Conntrack::default() };
            wanted(&config, cpus).into_iter().find(|wanted| wanted.file == MAX).map(|wanted| wanted.value)
        };
        assert_eq!(max(32_768, 131_072, 2), Some(131_072));
        assert_eq!(max(32_768, 131_072, 8), Some(262_144));
        assert_eq!(max(32_768, 131_072, 256), Some(1_048_576), "kube-proxy's limit");
        assert_eq!(max(0, 131_072, 8), None, "left as it is");

        let config = Conntrack { max_per_core: 1000, min: 0, ..Conntrack::default() };
        let root = machine(&[(MAX, "2000\n"), (HASH_SIZE, "500\n")]);
        apply(&config, root.path());
        assert_eq!((read(&root, MAX), read(&root, HASH_SIZE)), ("4000".to_owned(), "1000".to_owned()));
        let root = machine(&[(MAX, "5000\n"), (HASH_SIZE, "5000\n")]);
        apply(&config, root.path());
        assert_eq!((read(&root, MAX), read(&root, HASH_SIZE)), ("5000\n".to_owned(), "5000\n".to_owned()));
    }

    #[test]
    fn timeouts_are_written_if_they_differ_and_left_alone_if_unset() {
        let file = |name: &str| format!("{NETFILTER}/nf_conntrack_{name}");
        let names = [
            "tcp_timeout_established",
            "tcp_timeout_close_wait",
            "udp_timeout",
            "udp_timeout_stream",
            "tcp_be_liberal",
        ];
        let files = names.map(file);
        let values = files.each_ref().map(|file| (file.as_str(), "60\n"));
        let root = machine(&values);
        let config = Conntrack {
            max_per_core: 0,
            min: 0,
            tcp_established_timeout: Some(Duration::from_hours(1)),
            tcp_close_wait_timeout: None,
            udp_timeout: Some(Duration::from_mins(1)),
            udp_stream_timeout: Some(Duration::from_millis(90_500)),
            tcp_be_liberal: true,
        };
        apply(&config, root.path());
        assert_eq!(files.each_ref().map(|file| read(&root, file)), ["3600", "60\n", "60\n", "90", "1"]);
    }

    #[test]
    fn what_is_not_there_costs_the_rest_nothing() {
        let established = format!("{NETFILTER}/nf_conntrack_tcp_timeout_established");
        let root = machine(&[(established.as_str(), "60\n"), (HASH_SIZE, "1\n")]);
        apply(&Conntrack::default(), root.path());
        assert_eq!(read(&root, &established), "86400");
        assert_eq!(read(&root, HASH_SIZE), "1\n", "no larger table without a larger limit");
    }

    #[test]
    fn the_limit_of_the_first_namespace_is_left_alone_in_others() {
        let root = machine(&[(MAX, "1\n"), (HASH_SIZE, "1\n")]);
        let limit = root.path().join(MAX);
        fs::set_permissions(&limit, fs::Permissions::from_mode(0o444)).expect("it is ours");
        apply(&Conntrack::default(), root.path());
        assert_eq!((read(&root, MAX), read(&root, HASH_SIZE)), ("1\n".to_owned(), "1\n".to_owned()));
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(count("0"), Some(1));
        assert_eq!(count("0-3,8,10-11"), Some(7));
        assert_eq!(count(""), None);
        assert_eq!(count("3-1"), None);
    }
}
