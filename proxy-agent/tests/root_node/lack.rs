//! What this machine lacks, and whether it lacks what it was booted to lack.

use std::{collections::BTreeSet, env, fs, net::UdpSocket, path::Path};

use libtest_mimic::{Failed, Trial};
use proxy_agent::dataplane::{
    mounts,
    nft::{self, Presence},
};
use rustix::{
    process::{Resource, getrlimit},
    thread::{CapabilitySet, capabilities},
};

/// Names what the machine was booted without, separated by commas.
const VARIABLE: &str = "PROXY_AGENT_NODE_LACKS";

/// Something that a machine can lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    Nft,
    Ipv6,
    Cgroup2,
    Btf,
    Bpffs,
    Memlock,
}

impl Lack {
    pub const ALL: [Self; 6] = [Self::Nft, Self::Ipv6, Self::Cgroup2, Self::Btf, Self::Bpffs, Self::Memlock];

    const fn name(self) -> &'static str {
        match self {
            Self::Nft => "without-nft",
            Self::Ipv6 => "without-ipv6",
            Self::Cgroup2 => "cgroup-v1",
            Self::Btf => "without-btf",
            Self::Bpffs => "without-bpffs",
            Self::Memlock => "low-memlock",
        }
    }

    fn is_here(self) -> bool {
        match self {
            Self::Nft => nft::presence().is_ok_and(|presence| presence == Presence::Unsupported),
            Self::Ipv6 => {
                UdpSocket::bind("[::]:0").is_err_and(|error| error.raw_os_error() == Some(libc::EAFNOSUPPORT))
            }
            Self::Cgroup2 => !fs::read_to_string("/proc/self/mountinfo").is_ok_and(|text| text.contains(" - cgroup2 ")),
            Self::Btf => !Path::new("/sys/kernel/btf/vmlinux").exists(),
            Self::Bpffs => !mounts::is_bpffs(Path::new("/sys/fs/bpf")).unwrap_or_default(),
            Self::Memlock => {
                let may_raise =
                    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE));
                !may_raise && getrlimit(Resource::Memlock).maximum.is_some_and(|limit| limit <= 64 << 10)
            }
        }
    }
}

/// What the machine lacks, found out before any test changes it.
pub struct Machine {
    lacks: Vec<Lack>,
    claims: BTreeSet<String>,
}

impl Machine {
    pub fn examine() -> Self {
        let claims = env::var(VARIABLE).unwrap_or_default();
        let claims = claims.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Self { lacks: Lack::ALL.into_iter().filter(|lack| lack.is_here()).collect(), claims }
    }

    /// A test that needs a machine that lacks something.
    pub fn lacking(&self, lack: Lack, name: &str, test: fn()) -> Trial {
        let lacks = self.lacks.contains(&lack);
        let claims = self.claims.contains(lack.name());
        Trial::test(name, move || {
            if !lacks {
                return Err(Failed::from(format!("{VARIABLE} says {}, but this machine is not", lack.name())));
            }
            test();
            Ok(())
        })
        .with_kind(format!("needs a machine {}", lack.name()))
        .with_ignored_flag(!lacks && !claims)
    }

    /// A test that takes something from the agent on a machine that lacks nothing.
    pub fn complete(&self, name: &str, test: fn()) -> Trial {
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        trial.with_kind("needs a complete machine").with_ignored_flag(!self.lacks.is_empty())
    }

    /// That what the machine was booted to lack is something that there are tests for.
    pub fn claims_are_known(&self) -> Trial {
        let names: BTreeSet<String> = Lack::ALL.iter().map(|lack| lack.name().to_owned()).collect();
        let unknown: Vec<String> = self.claims.difference(&names).cloned().collect();
        Trial::test("what_the_machine_was_booted_to_lack_is_tested", move || {
            if unknown.is_empty() { Ok(()) } else { Err(Failed::from(format!("{VARIABLE}: {unknown:?}"))) }
        })
        .with_ignored_flag(self.claims.is_empty())
    }
}
