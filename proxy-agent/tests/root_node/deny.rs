//! Runs a program for which some system calls fail, as they do on a kernel that lacks something (seccomp(2)).

use std::{
    collections::BTreeMap,
    env,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// First argument that makes this program a launcher of another one.
pub const COMMAND: &str = "deny";

/// What a kernel does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Type information of programs and maps (`BPF_BTF_LOAD`).
    Btf,
    /// Netfilter over netlink.
    Netfilter,
    /// Sockets of IPv6.
    Ipv6,
}

impl Denied {
    const ALL: [Self; 3] = [Self::Btf, Self::Netfilter, Self::Ipv6];

    const fn name(self) -> &'static str {
        match self {
            Self::Btf => "btf",
            Self::Netfilter => "netfilter",
            Self::Ipv6 => "ipv6",
        }
    }

    /// The command that runs another one without it.
    pub fn launcher(self) -> Vec<String> {
        let program = env::current_exe().expect("this program has a path").display().to_string();
        vec![program, COMMAND.to_owned(), self.name().to_owned()]
    }

    /// The system call, its arguments, and the error that it fails with.
    fn rule(self) -> (libc::c_long, Vec<(u8, libc::c_int)>, libc::c_int) {
        match self {
            Self::Btf => (libc::SYS_bpf, vec![(0, BPF_BTF_LOAD)], libc::EINVAL),
            Self::Netfilter => {
                (libc::SYS_socket, vec![(0, libc::AF_NETLINK), (2, libc::NETLINK_NETFILTER)], libc::EPROTONOSUPPORT)
            }
            Self::Ipv6 => (libc::SYS_socket, vec![(0, libc::AF_INET6)], libc::EAFNOSUPPORT),
        }
    }

    fn filter(self) -> BpfProgram {
        let (call, arguments, error) = self.rule();
        let conditions = arguments.into_iter().map(|(argument, value)| {
            let value = u64::from(value.unsigned_abs());
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).expect("an argument")
        });
        let rule = SeccompRule::new(conditions.collect()).expect("there are conditions");
        let architecture = env::consts::ARCH.try_into().expect("an architecture that seccompiler knows");
        let error = SeccompAction::Errno(error.unsigned_abs());
        let filter =
            SeccompFilter::new(BTreeMap::from([(call, vec![rule])]), SeccompAction::Allow, error, architecture);
        filter.and_then(BpfProgram::try_from).expect("a filter")
    }
}

/// `enum bpf_cmd` of linux/bpf.h.
const BPF_BTF_LOAD: libc::c_int = 18;

/// Becomes the program that the arguments name, after what it is not to have.
pub fn main(arguments: &[String]) -> ExitCode {
    let [denied, program, rest @ ..] = arguments else { panic!("what is denied, and a program: {arguments:?}") };
    let denied = Denied::ALL.into_iter().find(|known| known.name() == denied).expect("something that can be denied");
    seccompiler::apply_filter(&denied.filter()).expect("the kernel has seccomp");
    panic!("{program}: {}", Command::new(program).args(rest).exec());
}
