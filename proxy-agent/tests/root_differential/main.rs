//! The same packets through a node where netfilter translates and through one where this project does: what comes out
//! must be the same. Needs root.
//!
//! A case is a conversation between a client and a backend, made from random numbers: `script` decides what is said,
//! `packet` writes it byte by byte, `world` sends it through both nodes, `compare` says what counts as the same. A failure is
//! made smaller and kept in `proptest-regressions`. `PROXY_AGENT_DIFFERENTIAL_CASES` sets how many there are.
//!
//! Where the two differ by intent, no such packet is made:
//!
//! - netfilter picks up TCP connections in their middle and translates them; here they pass untranslated, so that connections
//!   survive a migration from kube-proxy;
//! - netfilter leaves alone what does not fit its idea of a connection (a SYN-ACK from the client, a wrong checksum if it looks);
//!   here a packet of a known flow is translated whatever it says;
//! - a packet to a Service without endpoints is refused here before anything else of the node looks at it, there after its time to
//!   live and its checksum were found to be good, and before its fragments are one; with IP options or extension headers it is
//!   dropped without an answer;
//! - netfilter puts a TCP header together that is itself in several fragments; here such packets are not translated;
//! - netfilter drops ICMP errors that repeat less than eight bytes of the upper header, and corrects TCP's checksum only in
//!   those that repeat the whole header;
//! - which endpoint is chosen, and which source port a masquerade takes, is random in both: there is one endpoint, and the port is
//!   compared as if the client's own had been taken, once for each connection.

#![expect(unreachable_pub, reason = "a test program has no outside; `pub` says what the other modules use")]

mod addresses;
mod compare;
mod packet;
mod render;
mod rules;
mod scene;
mod script;
#[path = "../support/mod.rs"]
mod support;
mod wire;
mod world;

use std::{
    env,
    process::ExitCode,
    sync::{Mutex, MutexGuard, PoisonError},
};

use libtest_mimic::{Arguments, Trial};
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};

use self::{addresses::Family, scene::Scene, script::Kind, world::Worlds};

/// Conversations of each kind, scene and family, if nobody says otherwise; fewer on an emulated machine.
const CASES: u32 = 500;

/// Worlds that no test uses at the moment. An emulated machine takes longest for making one.
static FREE: Mutex<Vec<Worlds>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    let scenes = Scene::ALL.into_iter().flat_map(|scene| Kind::ALL.map(|kind| (scene, kind)));
    // What is no Service's is masqueraded by nobody.
    let scenes: Vec<(Scene, Kind)> =
        scenes.filter(|&(scene, kind)| kind != Kind::Strangers || scene == Scene::ClusterIp).collect();
    let trials = Family::ALL
        .into_iter()
        .flat_map(|family| scenes.iter().map(move |&(scene, kind)| (family, scene, kind)))
        .map(|(family, scene, kind)| {
            let name = format!("{}_{}_{}_like_netfilter", family.name(), kind.name(), scene.name());
            Trial::test(name, move || {
                agree(family, scene, kind);
                Ok(())
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    // Nothing takes down what is static.
    free().clear();
    conclusion.exit_code()
}

fn free() -> MutexGuard<'static, Vec<Worlds>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The worlds of a family, made if none is free.
fn worlds(family: Family) -> Worlds {
    let mut free = free();
    let index = free.iter().position(|worlds| worlds.family() == family);
    let found = index.map(|index| free.swap_remove(index));
    drop(free);
    found.unwrap_or_else(|| Worlds::new(family))
}

fn agree(family: Family, scene: Scene, kind: Kind) {
    let usual = CASES / support::slowness();
    let cases = env::var("PROXY_AGENT_DIFFERENTIAL_CASES").map_or(usual, |cases| cases.parse().expect("a number"));
    let config = Config {
        cases,
        max_shrink_iters: 400,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/root_differential/proptest-regressions"
        )))),
        source_file: Some(file!()),
        ..Config::default()
    };
    // What was said before must not matter, so each conversation has a client port of its own.
    let worlds = Mutex::new(worlds(family));
    let result = TestRunner::new(config).run(&script::conversations(kind), |conversation| {
        let mut worlds = worlds.lock().expect("nobody panics with it");
        worlds.compare(scene, &conversation).map_err(TestCaseError::fail)
    });
    // A test that fails takes its worlds with it.
    if let Err(failure) = result {
        panic!("{failure}");
    }
    free().push(worlds.into_inner().expect("nobody panics with it"));
}
