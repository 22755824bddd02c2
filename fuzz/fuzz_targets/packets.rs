//! Any bytes as packets: parsing, translation there and back, errors and what they quote, fragments.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_ebpf::fixtures::fuzz;

fuzz_target!(|input: &[u8]| fuzz::run(input));
