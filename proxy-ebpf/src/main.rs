//! Entry points of the kernel programs; on the host an empty program.
fn main() {}
