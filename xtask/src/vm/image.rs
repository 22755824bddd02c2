//! The initramfs: a small system with test programs, tools, modules and an init that runs them.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File},
    io::{BufWriter, Cursor, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use cpio::{NewcBuilder, newc};

use super::{
    boots::{Boot, Lack},
    elf, folder,
    kernel::Files,
    modules::{self, Nftables},
    output,
    programs::{BUSYBOX, Program, Programs, TOOLS},
    tool,
};
use crate::{command, workspace};

/// The guest's first process.
const INIT: &str = include_str!("init.sh");

/// Files of this repository that tests read when they run.
const FILES: [&str; 1] = ["deploy/least-rights.yaml"];

/// `S_IFDIR`, `S_IFREG` of stat.h, with permissions.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// A finished image.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) path: PathBuf,
}

impl Image {
    /// Writes the image for one boot. With nothing for it to run, there is none.
    pub(super) fn build(kernel: &Files, programs: &Programs, boot: &Boot, name: &str) -> anyhow::Result<Option<Self>> {
        let names: Vec<&str> = programs.tests.iter().map(|program| &*program.name).collect();
        let runs = boot.runs(&names);
        let needed: Vec<&Program> =
            programs.tests.iter().filter(|program| runs.iter().any(|run| run.program == program.name)).collect();
        if needed.is_empty() {
            return Ok(None);
        }

        let path = folder().join(format!("initramfs-{name}"));
        let mut image = Archive::create(&path)?;
        for path in ["/dev", "/proc", "/run", "/sys", "/tmp", "/etc", "/root", "/usr/bin", "/usr/sbin", "/modules"] {
            image.folder(Path::new(path))?;
        }
        image.bytes(Path::new("/init"), INIT.as_bytes())?;
        image.program(&command::find(BUSYBOX).context("busybox is missing")?, Path::new("/bin/busybox"))?;
        // Busybox's own shell would run its own small versions of the tools.
        image.program(Path::new("/bin/sh"), Path::new("/bin/sh"))?;
        for name in TOOLS {
            let path = command::find(name).with_context(|| format!("`{name}` is missing"))?;
            image.program(&path, &Path::new("/usr/sbin").join(name))?;
        }
        let stripped = folder().join("stripped");
        fs::create_dir_all(&stripped)?;
        for path in needed.iter().map(|program| &program.path).chain(&programs.others) {
            image.stripped(path, &stripped)?;
        }
        for program in &needed {
            image.folder(&program.folder)?;
        }
        for file in FILES {
            let path = workspace::root().join(file);
            image.bytes(&path, &fs::read(&path).with_context(|| path.display().to_string())?)?;
        }

        let nftables = if boot.lack == Some(Lack::Nft) { Nftables::LeftOut } else { Nftables::Included };
        for (number, file) in modules::files(kernel, nftables)?.iter().enumerate() {
            let name = file.file_name().context("a module without a name")?.to_string_lossy().into_owned();
            let name = name.split_once(".ko").map_or(&*name, |(name, _)| name);
            image.bytes(&Path::new("/modules").join(format!("{number:03}-{name}.ko")), &modules::bytes(file)?)?;
        }

        let mut script = String::new();
        for run in &runs {
            let program = needed.iter().find(|program| program.name == run.program).context("no such program")?;
            let filter = run.filter.as_deref().map(|filter| format!(" '{filter}'")).unwrap_or_default();
            writeln!(script, "run {} {} {}{filter}", run.program, program.folder.display(), program.path.display())?;
        }
        image.bytes(Path::new("/runs"), script.as_bytes())?;
        image.bytes(Path::new("/lacks"), boot.lack.map_or("", Lack::name).as_bytes())?;
        image.finish()?;
        Ok(Some(Self { path }))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // It is large, and soon made again.
        drop(fs::remove_file(&self.path));
    }
}

/// An archive in the format `newc`, which the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
struct Archive {
    out: BufWriter<File>,
    present: BTreeSet<PathBuf>,
    inode: u32,
}

impl Archive {
    fn create(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder())?;
        let out = File::create(path).with_context(|| path.display().to_string())?;
        Ok(Self { out: BufWriter::new(out), present: BTreeSet::new(), inode: 0 })
    }

    /// A folder and those above it, once.
    fn folder(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut above: Vec<&Path> = path.ancestors().filter(|path| path.parent().is_some()).collect();
        above.reverse();
        for path in above {
            if self.present.insert(path.to_owned()) {
                self.entry(path, FOLDER, &[])?;
            }
        }
        Ok(())
    }

    /// A file that can be executed.
    fn bytes(&mut self, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        self.folder(path.parent().context("a file is in a folder")?)?;
        if self.present.insert(path.to_owned()) {
            self.entry(path, PROGRAM, bytes)?;
        }
        Ok(())
    }

    /// A program of this machine and its libraries.
    fn program(&mut self, from: &Path, to: &Path) -> anyhow::Result<()> {
        self.bytes(to, &fs::read(from).with_context(|| from.display().to_string())?)?;
        for library in elf::libraries(from)? {
            self.bytes(&library, &fs::read(&library).with_context(|| library.display().to_string())?)?;
        }
        Ok(())
    }

    /// A program under its own path, without what only a debugger reads.
    fn stripped(&mut self, path: &Path, folder: &Path) -> anyhow::Result<()> {
        let small = folder.join(path.file_name().context("a program has a name")?);
        output(tool("strip")?.arg("-o").arg(&small).arg(path))?;
        self.program(&small, path)
    }

    fn entry(&mut self, path: &Path, mode: u32, bytes: &[u8]) -> anyhow::Result<()> {
        self.inode += 1;
        let name = path.strip_prefix("/")?.to_str().context("paths are text")?;
        let entry = NewcBuilder::new(name).ino(self.inode).mode(mode).nlink(1);
        let mut writer = entry.write(&mut self.out, bytes.len().try_into().context("a file of over 4 GiB")?);
        std::io::copy(&mut Cursor::new(bytes), &mut writer)?;
        writer.finish()?;
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<()> {
        newc::trailer(&mut self.out)?;
        self.out.flush()?;
        Ok(())
    }
}
