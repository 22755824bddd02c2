//! The demo's manifests: a copy of `deploy/demo` that the demo changes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};

use crate::workspace;

/// The folder in the repository.
pub(super) fn original() -> PathBuf {
    workspace::root().join("deploy/demo")
}

/// Copies the manifests to `folder`.
pub(super) fn copy(folder: &Path) -> anyhow::Result<()> {
    let original = original();
    let unreadable = || format!("cannot read {}", original.display());
    for entry in fs::read_dir(&original).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        fs::copy(entry.path(), folder.join(entry.file_name()))
            .with_context(|| format!("cannot copy {}", entry.path().display()))?;
    }
    Ok(())
}

/// Takes a backend out of the EndpointSlices in `folder`, with one atomic change of their file.
pub(super) fn remove_backend(folder: &Path, backend: &str) -> anyhow::Result<()> {
    let file = folder.join("endpoints.yaml");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let shorter = without_endpoint(&text, backend);
    ensure!(shorter != text, "{} does not name {backend}", file.display());
    let new = folder.join("endpoints.yaml.new");
    fs::write(&new, shorter).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, &file).with_context(|| format!("cannot replace {}", file.display()))
}

/// The text without the list items (`  - …` and the deeper lines that follow) that name `backend`.
fn without_endpoint(text: &str, backend: &str) -> String {
    let mut items: Vec<Vec<&str>> = Vec::new();
    for line in text.split_inclusive('\n') {
        let continues = line.starts_with("    ");
        match items.last_mut() {
            Some(item) if continues => item.push(line),
            _ => items.push(vec![line]),
        }
    }
    let name = format!("name: {backend}}}");
    let names_it = |item: &&Vec<&str>| item[0].starts_with("  - ") && item.iter().any(|line| line.contains(&name));
    items.iter().filter(|item| !names_it(item)).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_taken_out_of_both_slices_and_nothing_else_changes() {
        let text = fs::read_to_string(original().join("endpoints.yaml")).expect("the demo's manifests are there");
        let shorter = without_endpoint(&text, "backend-3");
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let removed: Vec<_> = lines(&text).into_iter().filter(|line| !lines(&shorter).contains(line)).collect();
        assert_eq!(removed.iter().filter(|line| line.contains("addresses")).count(), 2);
        assert_eq!(removed.iter().filter(|line| line.contains("backend-3")).count(), 2);
        assert_eq!(removed.len(), 4);
        assert_eq!(lines(&text).len() - lines(&shorter).len(), 8);
        assert!(shorter.contains("backend-2"));
    }

    #[test]
    fn an_unknown_backend_changes_nothing() {
        let text = "endpoints:\n  - addresses: [a]\n    targetRef: {name: backend-1}\n";
        assert_eq!(without_endpoint(text, "backend-2"), text);
        assert_eq!(without_endpoint(text, "backend-1"), "endpoints:\n");
    }
}
