//! Programs of others that serve Services, too.

use std::io;

use aya::programs::{ProgramError, loaded_programs};

/// How the names of such programs begin; the kernel keeps 15 bytes of a name. Cilium's translate at the socket, Calico's eBPF data
/// plane does at the socket and on devices.
const PREFIXES: [&str; 4] = ["cil_sock4_conn", "cil_sock6_conn", "calico_connect", "cali_ctlb_conn"];

/// The names of programs of others that serve Services, each once.
///
/// # Errors
/// The kernel does not list programs.
pub fn service_programs() -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for program in loaded_programs() {
        match program {
            Ok(program) => {
                let name = program.name_as_str().unwrap_or_default();
                if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
                    found.push(name.to_owned());
                }
            }
            Err(ProgramError::SyscallError(error)) => match error.io_error.kind() {
                // It is gone.
                io::ErrorKind::NotFound => {}
                _ => return Err(error.io_error),
            },
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}
