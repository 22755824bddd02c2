//! A node with pods, a client outside, and the agent as a process.
//!
//! ```text
//!   client pods 10.1.1.2, 10.1.2.2 ─┐                ┌─ outside 192.0.2.2
//!   backends 10.1.11.2 …            ─┴─ node (agent) ─┘  (routes the clusterIPs to the node)
//! ```
//! IPv6 likewise: `fd01:N::2` and `2001:db8::2`.

use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    client::Place,
    server::Server,
    support::{Cgroup, Netns, Pins, eventually, patience, run},
};

#[path = "wiring.rs"]
mod wiring;

pub use self::wiring::Wiring;
use self::wiring::{BACKENDS, CLIENTS, Fabric};

/// Name of the node in the manifests.
pub const NODE: &str = "node-1";
/// Name of a node that is not there.
pub const OTHER_NODE: &str = "node-2";
/// Port on which backends listen.
pub const TARGET_PORT: u16 = 8080;

/// IP family of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// A pod and its server.
#[derive(Debug)]
pub struct Pod {
    pub namespace: Netns,
    number: u8,
    gateways: [IpAddr; 2],
    _server: Server,
}

impl Pod {
    fn new(fabric: &Fabric<'_>, number: u8, namespace: Netns) -> Self {
        let server = Server::new(&namespace, fabric.families, &format!("pod-{number}"), TARGET_PORT);
        let gateways = Family::ALL.map(|family| fabric.gateway(family, number));
        Self { namespace, number, gateways, _server: server }
    }

    /// What the server calls itself.
    pub fn name(&self) -> String {
        format!("pod-{}", self.number)
    }

    /// The pod's address.
    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::from([10, 1, self.number, 2]),
            Family::V6 => format!("fd01:{}::2", self.number).parse().expect("a well-formed address"),
        }
    }

    /// The node's address towards the pod: what the pod sees where the node masquerades.
    pub fn gateway(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.gateways[0],
            Family::V6 => self.gateways[1],
        }
    }

    /// Where the pod's server listens.
    pub fn endpoint(&self, family: Family) -> SocketAddr {
        SocketAddr::new(self.ip(family), TARGET_PORT)
    }
}

/// How a node differs from one that has everything.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The families that there are.
    pub families: &'static [Family],
    /// What runs the agent: a command that is given another one.
    pub launcher: Vec<String>,
    /// Whether the agent is told its cgroup. If not, it serves the root of the hierarchy that it sees.
    pub names_cgroup: bool,
    /// How pods are connected to it.
    pub wiring: Wiring,
}

impl Default for Setting {
    fn default() -> Self {
        Self { families: &Family::ALL, launcher: Vec::new(), names_cgroup: true, wiring: Wiring::default() }
    }
}

/// Everything. Fields are dropped in order: processes before what they run in.
#[derive(Debug)]
pub struct Stage {
    agent: Option<Child>,
    arguments: Vec<String>,
    /// The API server that the agent watches instead of the folder of manifests.
    api: Option<String>,
    setting: Setting,
    folder: tempfile::TempDir,
    /// A pod whose sockets the hooks serve when it is a client.
    pub ordinary: Pod,
    /// A pod that TC serves when it is a client. Not the same as the ordinary one: a connection that its sockets
    /// make to an endpoint must not be mistaken for one that TC sent there from the same port.
    pub sandboxed: Pod,
    /// Pods behind Services.
    pub backends: Vec<Pod>,
    /// A host outside the cluster.
    pub outside: Netns,
    /// The node.
    pub node: Netns,
    _other_node: Option<Netns>,
    /// The cgroup that the socket hooks serve.
    pub cgroup: Cgroup,
    /// Where the agent pins.
    pub pins: Pins,
}

impl Stage {
    /// A node with three pods for backends; the agent is not started.
    pub fn new(arguments: &[&str]) -> Self {
        Self::with(Setting::default(), arguments)
    }

    /// The same on a node that lacks something.
    pub fn with(setting: Setting, arguments: &[&str]) -> Self {
        let families = setting.families;
        let node = Netns::new();
        let outside = Netns::new();
        setting.wiring.outside([(&outside, "eth0"), (&node, "eth0")]);
        let (mut at_node, mut at_outside) = (Vec::new(), Vec::new());
        for family in families {
            let (forwarding, prefix, length) = match family {
                Family::V4 => ("net/ipv4/ip_forward", "192.0.2.", "24"),
                Family::V6 => ("net/ipv6/conf/all/forwarding", "2001:db8::", "64 nodad"),
            };
            node.sysctl(forwarding, "1");
            at_outside.push(format!("addr add {prefix}2/{length} dev eth0"));
            at_node.push(format!("addr add {prefix}1/{length} dev eth0"));
            at_outside.push(format!("route add default via {prefix}1"));
        }
        node.ip_batch(&at_node);
        outside.ip_batch(&at_outside);
        let fabric = Fabric::new(setting.wiring, families, &node);
        let [ordinary, sandboxed] = CLIENTS.map(|number| Pod::new(&fabric, number, fabric.pod(number)));
        let backends = BACKENDS.map(|number| Pod::new(&fabric, number, fabric.backend(number))).into();
        let other_node = fabric.other_node;
        Self {
            agent: None,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            api: None,
            setting,
            folder: tempfile::tempdir().expect("a temporary folder"),
            ordinary,
            sandboxed,
            backends,
            outside,
            node,
            _other_node: other_node,
            cgroup: Cgroup::new(),
            pins: Pins::new(),
        }
    }

    /// What the agent is told from its next start on.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
    }

    /// From its next start on, the agent watches this API server instead of the folder of manifests.
    pub fn watch(&mut self, url: String) {
        self.api = Some(url);
    }

    /// Writes a manifest, replacing the one of that name at once.
    pub fn write(&self, name: &str, objects: &[Value]) {
        let documents: Vec<String> = objects.iter().filter(|object| !object.is_null()).map(Value::to_string).collect();
        let text = documents.join(
            "
---
",
        );
        let path = self.folder.path().join(format!("{name}.yaml"));
        let fresh = self.folder.path().join(format!(".{name}.new"));
        fs::write(&fresh, text).expect("the folder is ours");
        fs::rename(fresh, path).expect("the folder is ours");
    }

    /// Changes the first object of a manifest.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let text = fs::read_to_string(self.folder.path().join(format!("{name}.yaml"))).expect("it was written before");
        let objects = text.split("\n---\n").map(|document| serde_json::from_str(document).expect("JSON"));
        let mut objects: Vec<Value> = objects.collect();
        change(&mut objects[0]);
        self.write(name, &objects);
    }

    /// Removes a manifest.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join(format!("{name}.yaml"))).expect("it was written before");
    }

    /// The folder of manifests.
    pub fn manifests(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the agent and waits until it is ready.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.agent.is_none(), "one agent at a time");
        self.agent = Some(self.spawn());
        self.wait_until_ready();
    }

    /// What the next agent is told beside where everything is.
    pub fn replace_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
    }

    /// Starts an agent and waits for nothing.
    pub fn spawn(&self) -> Child {
        let mut words: Vec<OsString> = self.setting.launcher.iter().map(OsString::from).collect();
        words.extend([env!("CARGO_BIN_EXE_proxy-agent").into(), "run".into()]);
        match &self.api {
            Some(url) => words.extend(["--master".into(), url.into()]),
            None => words.extend(["--manifests".into(), self.folder.path().into()]),
        }
        words.extend(["--bpffs-root".into(), self.pins.path().into()]);
        if self.setting.names_cgroup {
            words.extend(["--cgroup-root".into(), self.cgroup.path().into()]);
        }
        words.extend(["--hostname-override", NODE, "--healthz-bind-address", "0.0.0.0:10256"].map(Into::into));
        words.extend(self.arguments.iter().map(OsString::from));
        let mut command = self.node.command(&words[0]);
        command.args(&words[1..]).stdout(Stdio::null());
        command.stderr(fs::File::create(self.folder.path().join(".log")).expect("the folder is ours"));
        command.spawn().expect("the agent starts")
    }

    fn wait_until_ready(&mut self) {
        let start = Instant::now();
        while start.elapsed() < patience() {
            if self.log().contains("programs attached to") {
                return;
            }
            let agent = self.agent.as_mut().expect("it was started");
            if let Some(status) = agent.try_wait().expect("it is ours") {
                panic!("the agent ended: {status}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the agent is not ready within {:?}\n{}", patience(), self.log());
    }

    /// What the agent logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join(".log")).unwrap_or_default()
    }

    /// The agent's process.
    pub fn agent_id(&self) -> u32 {
        self.agent.as_ref().expect("it runs").id()
    }

    /// Kills the agent as a crash would.
    pub fn kill(&mut self) {
        let mut agent = self.agent.take().expect("it runs");
        agent.kill().expect("it is ours");
        agent.wait().expect("it is ours");
    }

    /// Stops the agent as systemd or the kubelet would.
    pub fn stop(&mut self) {
        let mut agent = self.agent.take().expect("it runs");
        run(Command::new("kill").args(["-TERM", &agent.id().to_string()]));
        let (status, _) = eventually("the agent ends on SIGTERM", || agent.try_wait().expect("it is ours"));
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// Runs another command of the agent's and returns what it prints as JSON.
    #[track_caller]
    pub fn ask(&self, command: &str) -> Value {
        let mut asked = self.node.command(env!("CARGO_BIN_EXE_proxy-agent"));
        asked.arg(command).arg("--bpffs-root").arg(self.pins.path()).args(["-o", "json"]);
        serde_json::from_str(&run(&mut asked)).expect("the command prints JSON")
    }

    /// A process of the node, served at its sockets.
    pub fn host(&self) -> Place<'_> {
        Place { namespace: &self.node, cgroup: Some(&self.cgroup) }
    }

    /// An ordinary pod, served at its sockets.
    pub fn ordinary_pod(&self) -> Place<'_> {
        Place { namespace: &self.ordinary.namespace, cgroup: Some(&self.cgroup) }
    }

    /// A pod whose sockets are not the node's, like one in a virtual machine: served by TC.
    pub fn sandboxed_pod(&self) -> Place<'_> {
        Place { namespace: &self.sandboxed.namespace, cgroup: None }
    }

    /// Both kinds of pod as clients.
    pub fn pods(&self) -> [(Place<'_>, &Pod); 2] {
        [(self.ordinary_pod(), &self.ordinary), (self.sandboxed_pod(), &self.sandboxed)]
    }

    /// The host outside: served by TC.
    pub fn outside_client(&self) -> Place<'_> {
        Place { namespace: &self.outside, cgroup: None }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the agent's log ---\n{}", self.log());
        }
        if self.agent.is_some() {
            self.kill();
        }
    }
}
