//! The folder of manifests as a source: every way in which files come, change and go.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use proxy_agent::{
    model::{Change, Service, Update},
    source::{self, Arrival, manifests::Manifests},
};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Enough for a change to be noticed on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Enough for a change that must not have an effect to have had one: more than a look every second.
const SILENCE: Duration = Duration::from_millis(1500);

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
    )
}

/// A folder that is watched, after its first lists.
struct Watched {
    path: PathBuf,
    updates: mpsc::Receiver<Arrival>,
    _parent: TempDir,
}

impl Watched {
    /// A folder in a folder of its own, prepared by `prepare`.
    async fn new(prepare: impl FnOnce(&Path)) -> (Self, Vec<String>) {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("manifests");
        fs::create_dir(&path).expect("a folder");
        prepare(&path);
        let (sender, updates) = source::channel();
        Manifests::open(&path).expect("a folder that is there").start(sender).expect("a thread");
        let mut this = Self { path, updates, _parent: parent };
        let first = this.next().await;
        let Update::Service(Change::Reset(services)) = first else { panic!("{first:?} is no list of Services") };
        for _ in 0..2 {
            let list = this.next().await;
            assert!(matches!(list, Update::Slice(Change::Reset(_)) | Update::Node(Change::Reset(_))), "{list:?}");
        }
        (this, services.iter().map(describe).collect())
    }

    async fn next(&mut self) -> Update {
        tokio::time::timeout(PATIENCE, self.updates.recv()).await.expect("an update in time").expect("a source").update
    }

    /// The next change of a Service: `name address`, or `-name`.
    async fn change(&mut self) -> String {
        match self.next().await {
            Update::Service(Change::Apply(service)) => describe(&service),
            Update::Service(Change::Delete(name)) => format!("-{}", name.name()),
            other => panic!("unexpected {other:?}"),
        }
    }

    async fn nothing_happens(&mut self) {
        let update = tokio::time::timeout(SILENCE, self.updates.recv()).await;
        assert!(update.is_err(), "unexpected {update:?}");
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path.join(name), text).expect("written");
    }
}

fn describe(service: &Service) -> String {
    format!("{} {}", service.name.name(), service.cluster_ips[0])
}

#[tokio::test]
async fn files_that_are_there_come_and_go() {
    let (mut folder, first) = Watched::new(|path| {
        fs::write(path.join("a.yaml"), service("a", "10.96.0.1")).expect("written");
        fs::write(path.join("notes.txt"), service("no", "10.96.0.9")).expect("written");
        fs::write(path.join(".hidden.yaml"), service("no", "10.96.0.9")).expect("written");
        fs::create_dir(path.join("sub.yaml")).expect("a folder");
        symlink("/nowhere", path.join("dangling.yaml")).expect("a link");
    })
    .await;
    assert_eq!(first, ["a 10.96.0.1"]);

    folder.write("b.yml", &service("b", "10.96.0.2"));
    assert_eq!(folder.change().await, "b 10.96.0.2");
    folder.write("a.yaml", &service("a", "10.96.0.3"));
    assert_eq!(folder.change().await, "a 10.96.0.3");
    fs::remove_file(folder.path.join("b.yml")).expect("removed");
    assert_eq!(folder.change().await, "-b");
    folder.write("notes.txt", "kind: Service\n");
    folder.nothing_happens().await;
}

#[tokio::test]
async fn an_editors_rename_over_the_file_takes_effect() {
    let (mut folder, _) =
        Watched::new(|path| fs::write(path.join("a.yaml"), service("a", "10.96.0.1")).expect("written")).await;
    folder.write(".a.yaml.swp", &service("a", "10.96.0.5"));
    fs::rename(folder.path.join(".a.yaml.swp"), folder.path.join("a.yaml")).expect("renamed");
    assert_eq!(folder.change().await, "a 10.96.0.5");
    fs::rename(folder.path.join("a.yaml"), folder.path.join("a.yaml~")).expect("renamed");
    assert_eq!(folder.change().await, "-a");
}

/// How the kubelet swaps the contents of a `ConfigMap` volume.
#[tokio::test]
async fn a_swapped_link_to_a_folder_takes_effect() {
    let (mut folder, first) = Watched::new(|path| {
        fs::create_dir(path.join("..2026_01")).expect("a folder");
        fs::write(path.join("..2026_01/a.yaml"), service("a", "10.96.0.1")).expect("written");
        symlink("..2026_01", path.join("..data")).expect("a link");
        symlink("..data/a.yaml", path.join("a.yaml")).expect("a link");
    })
    .await;
    assert_eq!(first, ["a 10.96.0.1"]);
    fs::create_dir(folder.path.join("..2026_02")).expect("a folder");
    fs::write(folder.path.join("..2026_02/a.yaml"), service("a", "10.96.0.2")).expect("written");
    symlink("..2026_02", folder.path.join("..data_tmp")).expect("a link");
    fs::rename(folder.path.join("..data_tmp"), folder.path.join("..data")).expect("renamed");
    fs::remove_dir_all(folder.path.join("..2026_01")).expect("removed");
    assert_eq!(folder.change().await, "a 10.96.0.2");
}

#[tokio::test]
async fn a_change_behind_a_link_to_another_folder_takes_effect() {
    let elsewhere = tempfile::tempdir().expect("a folder");
    let target = elsewhere.path().join("a.yaml");
    fs::write(&target, service("a", "10.96.0.1")).expect("written");
    let (mut folder, _) = Watched::new(|path| symlink(&target, path.join("a.yaml")).expect("a link")).await;
    fs::write(&target, service("a", "10.96.0.2")).expect("written");
    assert_eq!(folder.change().await, "a 10.96.0.2");
}

#[tokio::test]
async fn many_files_at_once_are_all_noticed() {
    let (mut folder, _) = Watched::new(|_| {}).await;
    for number in 1..=100 {
        folder.write(&format!("{number}.yaml"), &service(&format!("s{number}"), &format!("10.96.1.{number}")));
    }
    let mut names = Vec::new();
    for _ in 0..100 {
        names.push(folder.change().await);
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 100);
}

#[tokio::test]
async fn everything_stays_when_the_folder_disappears_and_it_is_followed_when_it_is_back() {
    let (mut folder, _) =
        Watched::new(|path| fs::write(path.join("a.yaml"), service("a", "10.96.0.1")).expect("written")).await;
    let away = folder.path.with_extension("away");
    fs::rename(&folder.path, &away).expect("renamed");
    folder.nothing_happens().await;
    fs::write(away.join("b.yaml"), service("b", "10.96.0.2")).expect("written");
    folder.nothing_happens().await;
    fs::rename(&away, &folder.path).expect("renamed");
    assert_eq!(folder.change().await, "b 10.96.0.2");
    folder.write("c.yaml", &service("c", "10.96.0.3"));
    assert_eq!(folder.change().await, "c 10.96.0.3");
}

#[tokio::test]
async fn another_folder_in_its_place_is_followed() {
    let (mut folder, _) =
        Watched::new(|path| fs::write(path.join("a.yaml"), service("a", "10.96.0.1")).expect("written")).await;
    fs::rename(&folder.path, folder.path.with_extension("away")).expect("renamed");
    fs::create_dir(&folder.path).expect("a folder");
    folder.write("b.yaml", &service("b", "10.96.0.2"));
    let mut changes = [folder.change().await, folder.change().await];
    changes.sort();
    assert_eq!(changes, ["-a", "b 10.96.0.2"]);
    folder.write("c.yaml", &service("c", "10.96.0.3"));
    assert_eq!(folder.change().await, "c 10.96.0.3");
}

#[test]
fn a_folder_that_is_not_there_is_one_line() {
    for path in [Path::new("/nowhere/manifests"), Path::new("/dev/null")] {
        let error = Manifests::open(path).err().expect("no folder").to_string();
        assert!(error.starts_with(&format!("--manifests {}: ", path.display())), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
