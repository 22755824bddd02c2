//! The table of scenarios on the host: the model and the plan with tables in memory, and the pipeline as it is. Also that
//! docs/scenarios.md is what the table says.

mod host;
#[path = "../scenario_table/mod.rs"]
mod scenario_table;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use self::{
    host::HostDatapath,
    scenario_table::{docs, packets::PacketWorld, row::Mode, runner, trials},
};

fn main() -> ExitCode {
    let mut trials = trials(Mode::Host, |row| runner::run(&mut PacketWorld::new(HostDatapath::default()), row));
    let checks =
        [("every rule has a scenario", docs::check_table as fn()), ("the documentation is right", docs::check)];
    trials.extend(checks.map(|(name, check)| {
        Trial::test(name, move || {
            check();
            Ok(())
        })
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
