//! The page: its commands, and what it says that they print.

use std::env;

use super::stage::Stage;

/// Stands in the page for anything.
const ANYTHING: char = '…';
/// The client's port in the page: as a number, and as bpftool takes it.
const PAGE_PORT: u16 = 40_000;

/// Whether the commands can be run at all.
pub fn has_bpftool() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(["/usr/sbin".into()]).any(|folder| folder.join("bpftool").is_file())
}

/// docs/bpftool.md.
pub struct Page {
    text: &'static str,
}

/// Which commands of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The list of the cgroup's programs. From 7.0 on, bpftool asks for it in a way that kernels know since 6.0 (commit
    /// b79c9fc9551b), and lists nothing on others.
    Cgroup,
    Others,
}

impl Part {
    fn of(command: &str) -> Self {
        if command.starts_with("bpftool cgroup ") { Self::Cgroup } else { Self::Others }
    }
}

/// A command and the lines below it.
struct Example<'a> {
    command: &'a str,
    lines: Vec<&'a str>,
}

impl<'a> Example<'a> {
    fn read(block: &'a str) -> Self {
        let (command, lines) = block.split_once('\n').expect("each command prints something");
        Self { command: command.strip_prefix("# ").expect("a command of root's"), lines: lines.lines().collect() }
    }
}

impl Page {
    pub fn read() -> Self {
        Self { text: include_str!("../../../docs/bpftool.md") }
    }

    /// How many questions it asks.
    pub fn questions(&self) -> usize {
        self.text.lines().filter(|line| line.starts_with("## ")).count()
    }

    fn examples(&self) -> Vec<Example<'_>> {
        let blocks = self.text.split("```console\n").skip(1);
        let blocks = blocks.map(|block| block.split_once("\n```").expect("each block ends").0);
        blocks.map(Example::read).collect()
    }

    /// Runs each command of a part on the stage's node, where the client outside has this port, and looks for the page's lines in
    /// what it prints, in their order.
    pub fn check(&self, part: Part, stage: &Stage, client_port: u16) {
        let key = |port: u16| {
            let [low, high] = port.to_le_bytes();
            format!("{low} {high}")
        };
        let pins = stage.pins.path().to_str().expect("the folder's name is text");
        let cgroup = stage.cgroup.path().to_str().expect("the folder's name is text");
        let examples = self.examples();
        assert!(examples.len() >= 14, "{} commands", examples.len());
        let examples: Vec<Example<'_>> =
            examples.into_iter().filter(|example| Part::of(example.command) == part).collect();
        assert!(!examples.is_empty(), "{part:?}");
        for Example { command, lines } in examples {
            let command = command.replace("/sys/fs/bpf/proxy-agent", pins).replace("CGROUP", cgroup);
            let command = command.replace(&key(PAGE_PORT), &key(client_port));
            let (program, arguments) = command.split_once(' ').expect("a program and its arguments");
            let output = stage.node.command(program).args(arguments.split(' ')).output().expect("bpftool runs");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
            let mut rest = text.lines();
            for line in lines {
                let line = line.replace(&PAGE_PORT.to_string(), &client_port.to_string());
                assert!(
                    rest.any(|printed| contains(printed, &line)),
                    "{command}: no line {line:?} (any more) in\n{text}"
                );
            }
        }
    }
}

/// Whether the parts of a line between its gaps are in another one, in this order.
fn contains(printed: &str, line: &str) -> bool {
    let mut rest = printed;
    line.split(ANYTHING).map(str::trim).all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}
