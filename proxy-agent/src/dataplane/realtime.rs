//! Kernels on which the work on one packet may be interrupted by that on another on the same processor.
//!
//! What a TC program knows of its packet is in an element that belongs to the processor (`work_v4`, `work_v6`). That is safe where whoever
//! handles packets keeps the processor until he is done, which is so wherever the kernel disables soft interrupts, but with `PREEMPT_RT` since
//! kernel commit 3253cb49cbad (6.18).

use std::{fs, path::Path};

/// Whether the kernel was built with `PREEMPT_RT`. `root` is the root of the file system.
pub(super) fn is_realtime(root: &Path) -> bool {
    fs::read_to_string(root.join("sys/kernel/realtime")).is_ok_and(|value| value.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_that_says_so_is_one() {
        let root = tempfile::tempdir().expect("a folder");
        assert!(!is_realtime(root.path()), "most have no such file");
        fs::create_dir_all(root.path().join("sys/kernel")).expect("a folder");
        for (text, expected) in [("1\n", true), ("0\n", false)] {
            fs::write(root.path().join("sys/kernel/realtime"), text).expect("is written");
            assert_eq!(is_realtime(root.path()), expected, "{text:?}");
        }
    }
}
