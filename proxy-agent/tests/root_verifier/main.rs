//! What the running kernel's verifier thinks of the programs, and whether that is within the budget. Needs root.
//!
//! With the argument `--measure` it tests nothing and prints what it has measured, a line for each program, for
//! `cargo xtask verify`.

#![expect(unreachable_pub, reason = "a test program has no outside; `pub` says what the other modules use")]

mod calls;
mod measurement;
mod report;
#[path = "../support/mod.rs"]
mod support;
mod survey;

use std::{env, process::ExitCode, sync::Arc};

use libtest_mimic::{Arguments, Failed, Trial};

use self::{measurement::Measurement, survey::Survey};

fn main() -> ExitCode {
    if env::args().nth(1).is_some_and(|first| first == "--measure") {
        return print();
    }
    let arguments = Arguments::from_args();
    // A list of tests needs neither root nor figures.
    let survey =
        if arguments.list { Err("not made".to_owned()) } else { Survey::make().map_err(|error| format!("{error:#}")) };
    libtest_mimic::run(&arguments, trials(&Arc::new(survey))).exit_code()
}

fn print() -> ExitCode {
    match Survey::make() {
        Ok(survey) => {
            survey.measurements.iter().for_each(|measurement| println!("{measurement}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn trials(survey: &Arc<Result<Survey, String>>) -> Vec<Trial> {
    let of_survey = |name: &str, check: fn(&Survey)| {
        let survey = Arc::clone(survey);
        Trial::test(name, move || survey.as_ref().as_ref().map(check).map_err(Failed::from))
    };
    let of_text = |name: &str, check: fn()| {
        Trial::test(name, move || {
            check();
            Ok(())
        })
    };
    // A test that needs more than the kernel tells is ignored.
    let told = |what: fn(&Survey) -> bool| survey.as_ref().as_ref().map_or(true, what);
    let processed = told(|survey| survey.logging.values().all(|loaded| loaded.processed.is_some()));
    let since_5_16 = |trial: Trial| trial.with_kind("Linux 5.16").with_ignored_flag(!processed);
    let chains = told(|survey| !survey.chains.is_empty());
    let after_6_18 = |trial: Trial| trial.with_kind("after Linux 6.18").with_ignored_flag(!chains);
    vec![
        of_survey("every_program_is_within_the_budget", every_program_is_within_the_budget),
        of_survey("measurements_can_be_handed_on", measurements_can_be_handed_on),
        since_5_16(of_survey("the_agent_loads_what_is_measured", the_agent_loads_what_is_measured)),
        since_5_16(of_survey("the_packet_log_makes_no_program_cheaper", the_packet_log_makes_no_program_cheaper)),
        after_6_18(of_survey("the_kernel_finds_the_same_deepest_chain", the_kernel_finds_the_same_deepest_chain)),
        of_text("reports_of_old_and_new_kernels_are_read", report::reports_of_old_and_new_kernels_are_read),
        of_text("a_log_without_a_report_is_an_error", report::a_log_without_a_report_is_an_error),
        of_text("the_deepest_chain_counts_rounded_frames", calls::the_deepest_chain_counts_rounded_frames),
    ]
}

fn every_program_is_within_the_budget(survey: &Survey) {
    let overruns: Vec<String> = survey.measurements.iter().flat_map(Measurement::overruns).collect();
    assert!(overruns.is_empty(), "{}", overruns.join("\n"));
}

fn measurements_can_be_handed_on(survey: &Survey) {
    for measurement in &survey.measurements {
        let line = measurement.to_string();
        let read = Measurement::from_line(&line).expect("a measurement").expect("complete");
        assert_eq!(&read, measurement, "{line}");
    }
}

/// `verified_insns` in `bpf_prog_info`, since Linux 5.16.
fn the_agent_loads_what_is_measured(survey: &Survey) {
    for measurement in &survey.measurements {
        let loaded = survey.logging[&measurement.program];
        assert_eq!(loaded.processed, Some(measurement.processed), "{}", measurement.program);
    }
}

/// So what is measured with the packet log is an upper bound.
fn the_packet_log_makes_no_program_cheaper(survey: &Survey) {
    for (program, logging) in &survey.logging {
        let silent = survey.silent[program];
        assert!(silent.processed <= logging.processed, "{program}: {silent:?} without, {logging:?} with it");
        assert!(silent.instructions <= logging.instructions, "{program}: {silent:?} without, {logging:?} with it");
    }
}

/// Which function calls which is read from the instructions here, while the kernel follows them.
fn the_kernel_finds_the_same_deepest_chain(survey: &Survey) {
    for (program, &(kernel, here)) in &survey.chains {
        assert_eq!(here, Some(kernel), "{program}");
    }
}
