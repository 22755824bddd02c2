//! The table of scenarios: Kubernetes objects, clients, and what must come of their connections. One runner executes it in three
//! ways, each a [`World`](runner::World): on the host's pipeline, in the kernel packet by packet, and with
//! sockets between namespaces. To add a scenario is to add a row (`rows/`).
#![allow(
    dead_code,
    unreachable_pub,
    clippy::wildcard_imports,
    clippy::enum_glob_use,
    clippy::needless_pass_by_value,
    reason = "each test program uses what it needs of the table; rows are read more easily without prefixes and references"
)]

pub mod cast;
pub mod control;
pub mod docs;
pub mod objects;
pub mod packets;
pub mod row;
pub mod rows;
pub mod rules;
pub mod runner;

use libtest_mimic::Trial;

use self::row::{Mode, Row};

/// A test for each row; where the mode cannot run it, it is listed as ignored, with the reason.
pub fn trials(mode: Mode, run: impl Fn(&Row) + Clone + Send + 'static) -> Vec<Trial> {
    let prefix = match mode {
        Mode::Host => "host",
        Mode::Kernel => "kernel",
        Mode::Sockets => "sockets",
    };
    let mut rows = rows::all();
    if mode == Mode::Sockets {
        // An agent runs for as long as its configuration stays the same.
        rows.sort_by_key(|row| row.setting);
    }
    rows.into_iter()
        .map(|row| {
            let name = format!("{prefix}: {}", row.name);
            let reason = row.unable(mode);
            let run = run.clone();
            let trial = Trial::test(name, move || {
                run(&row);
                Ok(())
            });
            match reason {
                Some(reason) => trial.with_kind(reason.text()).with_ignored_flag(true),
                None => trial,
            }
        })
        .collect()
}
