//! The line of a measurement, and the budget.

use super::measurement::Measurement;

#[test]
fn a_measurement_is_found_among_other_lines() {
    let line = example().to_string();
    assert_eq!(Measurement::from_line(&line).expect("a measurement").expect("complete"), example());
    // A serial console ends its lines differently.
    let line = format!("{line}\r\n");
    assert_eq!(Measurement::from_line(&line).expect("a measurement").expect("complete"), example());
    assert!(Measurement::from_line("test every_program_is_within_the_budget ... ok").is_none());
    assert!(Measurement::from_line(&line[..40]).expect("begins like one").is_err());
}

#[test]
fn a_program_may_use_the_whole_budget_and_no_more() {
    let within = Measurement { processed: 500_000, deepest_chain: Some(512), ..example() };
    assert_eq!(within.overruns(), [""; 0]);
    let beyond = Measurement { processed: 500_001, deepest_chain: Some(544), ..example() };
    assert_eq!(
        beyond.overruns(),
        [
            "tc_egress on 5.10.0: the verifier processed 500001 instructions, more than 50 % of 1000000",
            "tc_egress on 5.10.0: the stack takes 544 bytes, more than 512, with frames of [8, 96, 256]",
        ]
    );
}

#[test]
fn the_largest_frame_is_what_is_known_if_the_chain_is_not() {
    assert_eq!(example().stack(), 352);
    assert_eq!(Measurement { deepest_chain: None, ..example() }.stack(), 256);
}

fn example() -> Measurement {
    Measurement {
        kernel: "5.10.0".to_owned(),
        program: "tc_egress".to_owned(),
        processed: 2806,
        limit: 1_000_000,
        instructions: 1709,
        frames: vec![8, 96, 256],
        deepest_chain: Some(352),
    }
}
