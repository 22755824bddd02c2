//! The `proxy-agent` program.
fn main() {}
