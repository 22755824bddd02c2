//! What somebody takes away from the agent while it runs: it notices, says so, and puts it back.

use std::{fs, process::Command};

use super::{
    peer::{Sight, Talk, Task},
    runner::{cluster_ips, write},
    stage::{Setting, Stage},
    support::{eventually, run as run_command},
};

/// Whatever is taken away is there again after the next look, which every change of a device brings about.
fn put_back(stage: &Stage, what: &str, is_there: impl Fn() -> bool) {
    let mut number = 0;
    eventually(what, || {
        number += 1;
        stage.node.ip(&format!("link set eth0 alias look-{number}"));
        is_there().then_some(())
    });
}

/// Pins that are removed cost nothing, because the agent holds what they hold; what is detached or flushed is made again.
pub fn while_it_runs() {
    let mut stage = Stage::new(&[]);
    write(&stage, "web", 1, &stage.backends.iter().collect::<Vec<_>>());
    stage.start();
    let services = cluster_ips(1);
    let mut held = services.map(|to| stage.outside_client().hold(&Talk::Tcp { to }));
    let first = held.each_mut().map(|held| held.next());
    let devices = || stage.ask("status")["devices"].clone();
    let (before, pins) = (devices(), stage.pins.path());
    assert_eq!(before.as_array().map(Vec::len), Some(6), "{before}");

    for name in ["services_v4", "flows_v6", "freshness"] {
        fs::remove_file(pins.join(name)).expect("it is pinned");
    }
    let links = pins.join("links");
    for entry in fs::read_dir(&links).expect("it is there").flatten() {
        fs::remove_file(entry.path()).expect("it is pinned");
    }
    for sight in
        [stage.outside_client(), stage.ordinary_pod()].map(|place| place.run(&Task::Tcp { to: services[0], count: 1 }))
    {
        assert!(matches!(sight[..], [Sight::Answer { .. }]), "the programs run without pins: {sight:?}");
    }
    put_back(&stage, "the tables' pins", || pins.join("services_v4").exists() && pins.join("flows_v6").exists());
    put_back(&stage, "the links' pins", || devices() == before);
    assert!(stage.log().contains("somebody removed the pin"), "{}", stage.log());

    // Kernels before 5.7 have no links, those before 6.6 none at devices.
    let link = |name: &str| {
        let entries = fs::read_dir(&links).expect("it is there").flatten();
        entries.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains(name))
    };
    if let Some(hook) = link("connect4") {
        run_command(Command::new("bpftool").args(["link", "detach", "pinned"]).arg(hook));
    }
    if let Some(device) = link("ingress_") {
        run_command(Command::new("bpftool").args(["link", "detach", "pinned"]).arg(device));
    } else {
        run_command(
            Command::new("tc")
                .args(["-n", stage.node.name()])
                .args(["filter", "del", "dev", "eth0", "ingress", "pref", "2"]),
        );
    }
    assert_ne!(devices(), before, "a program is detached");
    put_back(&stage, "the programs", || devices().as_array().map(Vec::len) == Some(6) && all_attached(&devices()));
    put_back(&stage, "what it says", || stage.log().contains("somebody detached a program from the device"));

    for rules in ["flush chain inet proxy-agent masquerade-marked", "flush table inet proxy-agent", "flush ruleset"] {
        run_command(stage.node.command("nft").args(rules.split(' ')));
        put_back(&stage, rules, || {
            let listed = stage.node.command("nft").args(["list", "table", "inet", "proxy-agent"]).output();
            let listed = String::from_utf8(listed.expect("nft runs").stdout).expect("text");
            listed.contains("masquerade fully-random") && listed.matches("counter").count() == 3
        });
    }
    assert!(stage.log().contains("somebody removed the nftables table"), "{}", stage.log());
    assert_eq!(held.each_mut().map(|held| held.again()), first, "connections go on");
    for place in [stage.outside_client(), stage.ordinary_pod(), stage.sandboxed_pod()] {
        let sights = place.run(&Task::Tcp { to: services[0], count: 3 });
        assert!(sights.iter().all(|sight| matches!(sight, Sight::Answer { .. })), "{sights:?}");
    }
    // The next agent finds everything as if nothing had been.
    stage.kill();
    stage.start();
    assert!(stage.log().contains("using the tables of a former agent"), "{}", stage.log());
    assert_eq!(held.each_mut().map(|held| held.again()), first, "connections go on");
}

fn all_attached(devices: &serde_json::Value) -> bool {
    devices.as_array().is_some_and(|devices| {
        devices.iter().all(|device| device["ingress"].is_number() && device["egress"].is_number())
    })
}

/// The BPF file system is unmounted in the agent's mount namespace: it mounts another one and pins everything there.
pub fn unmounted() {
    let launcher = ["unshare", "--mount", "--"].map(str::to_owned).into();
    let mut stage = Stage::with(Setting { launcher, ..Setting::default() }, &[]);
    write(&stage, "web", 1, &stage.backends.iter().collect::<Vec<_>>());
    stage.start();
    let inside = |words: &[&str]| {
        let process = stage.agent_id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &process, "--"]).args(words);
        command
    };
    run_command(&mut inside(&["umount", "-l", "/sys/fs/bpf"]));
    let root = stage.pins.path().to_str().expect("text").to_owned();
    let path = format!("{root}/links/connect4");
    put_back(&stage, "everything is pinned again", || {
        inside(&["test", "-e", &path]).status().is_ok_and(|status| status.success())
    });
    assert!(stage.log().contains("is gone from the BPF file system"), "{}", stage.log());
    for place in [stage.outside_client(), stage.ordinary_pod()] {
        let sights = place.run(&Task::Tcp { to: cluster_ips(1)[0], count: 3 });
        assert!(sights.iter().all(|sight| matches!(sight, Sight::Answer { .. })), "{sights:?}");
    }
}
