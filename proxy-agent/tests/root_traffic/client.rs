//! Running clients, and reading what they saw.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use super::{
    peer::{self, Sight, Talk, Task},
    support::{Cgroup, Netns},
};

/// Where a client runs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its network namespace.
    pub namespace: &'a Netns,
    /// Its cgroup, if it shall be served by the socket hooks.
    pub cgroup: Option<&'a Cgroup>,
}

impl Place<'_> {
    /// Runs the task to its end, on a thread: what a socket meets follows from the cgroup and the namespace of the thread that
    /// makes it.
    #[track_caller]
    pub fn run(&self, task: &Task) -> Vec<Sight> {
        self.enter(|| peer::perform(task))
    }

    /// Runs a function there, on a thread of its own.
    #[track_caller]
    pub fn enter<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        let inside = || self.namespace.enter(function);
        match self.cgroup {
            Some(cgroup) => cgroup.enter(inside),
            None => inside(),
        }
    }

    /// Runs the task again and again until so many servers have answered. Of three servers that are chosen at random, one
    /// does not after 36 connections in one case of 10^6; then it is given up.
    #[track_caller]
    pub fn run_until(&self, servers: usize, task: &Task) -> Vec<Sight> {
        let mut sights = Vec::new();
        while sights.len() < 36 {
            let more = self.run(task);
            assert!(!more.is_empty(), "{task:?} does something");
            sights.extend(more);
            let answered = sights.iter().filter_map(|sight| match sight {
                Sight::Answer { server, .. } => Some(server),
                Sight::Failed(_) => None,
            });
            if answered.collect::<BTreeSet<_>>().len() == servers {
                break;
            }
        }
        sights
    }

    /// Starts a client that goes on for as long as it is asked to. It is a process: whoever looks for sockets finds namespaces by
    /// the processes in them.
    pub fn hold(&self, talk: &Talk) -> Held {
        let mut command = self.program(peer::COMMAND);
        command.arg(serde_json::to_string(talk).expect("it is serializable"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the client runs");
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        Held { child, stdin: Some(stdin), stdout }
    }

    /// This same program, as the sort of client that its first argument says.
    pub fn program(&self, sort: &str) -> Command {
        let program = env::current_exe().expect("this program has a path");
        let mut command = match self.cgroup {
            Some(cgroup) => self.namespace.command_in(cgroup, program),
            None => self.namespace.command(program),
        };
        command.arg(sort);
        command
    }
}

/// A client that goes on.
#[derive(Debug)]
pub struct Held {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Held {
    /// What the client sees next without being asked.
    #[track_caller]
    pub fn next(&mut self) -> Sight {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the client lives");
        serde_json::from_str(&line).expect("the client prints sights")
    }

    /// Asks the client to send once more, and returns what it sees.
    #[track_caller]
    pub fn again(&mut self) -> Sight {
        self.stdin.as_mut().expect("it is there until the end").write_all(b"\n").expect("the client lives");
        self.next()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The client ends with its standard input.
        self.stdin = None;
        drop(self.child.wait());
    }
}
