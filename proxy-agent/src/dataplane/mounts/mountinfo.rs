//! What is mounted where, by `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`). Pure.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

/// The mount point of the cgroup v2 hierarchy: one that shows the hierarchy's root, if there is such.
pub(super) fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    let mounts: Vec<Mount> =
        mountinfo.lines().filter_map(parse_mount).filter(|mount| mount.file_system == "cgroup2").collect();
    let whole = mounts.iter().find(|mount| mount.root == Path::new("/"));
    whole.or(mounts.first()).map(|mount| mount.at.clone())
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// The directory of the file system that is mounted.
    root: PathBuf,
    at: PathBuf,
    file_system: String,
}

/// `31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - tmpfs tmpfs rw,mode=755`: any number of optional
/// fields end with a dash.
fn parse_mount(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ');
    let root = unescape(fields.nth(3)?);
    let at = unescape(fields.next()?);
    let file_system = fields.skip_while(|&field| field != "-").nth(1)?.to_owned();
    Some(Mount { root, at, file_system })
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = || std::str::from_utf8(tail.get(..3)?).ok().and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let (b'\\', Some(value)) = (byte, octal()) {
            bytes.push(value);
            rest = &tail[3..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_layout_has_cgroup2_below_the_first_version() {
        assert_eq!(cgroup2_mount(HYBRID), Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn unified_layout_with_optional_fields() {
        let line = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:2 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(cgroup2_mount(line), Some("/sys/fs/cgroup".into()));
    }

    #[test]
    fn a_mount_of_the_whole_hierarchy_is_preferred_to_a_part_of_it() {
        let text = "\
50 1 0:26 /kubepods/pod1 /part rw - cgroup2 cgroup2 rw
51 1 0:26 / /whole rw - cgroup2 cgroup2 rw
";
        assert_eq!(cgroup2_mount(text), Some("/whole".into()));
        assert_eq!(cgroup2_mount(&text[..text.find('\n').expect("two lines")]), Some("/part".into()));
    }

    #[test]
    fn without_cgroup2_there_is_none() {
        assert_eq!(cgroup2_mount("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"), None);
        assert_eq!(cgroup2_mount(""), None);
    }

    #[test]
    fn blanks_in_mount_points_are_unescaped() {
        let line = r"30 23 0:26 / /mnt/my\040cgroups\134x rw - cgroup2 cgroup2 rw";
        assert_eq!(cgroup2_mount(line), Some(r"/mnt/my cgroups\x".into()));
    }
}
