//! docs/configuration.md follows from the flags and defaults that there are.

use std::{env, fmt::Write as _, fs, path::Path};

use clap::CommandFactory;

use super::{super::fields, Command};
use crate::config::{Own, parse_own};

/// Makes the test write the file instead of comparing it.
const WRITE: &str = "PROXY_AGENT_WRITE_DOCS";

const HEAD: &str = "# Configuration

Made from the agent's own flags and defaults by `PROXY_AGENT_WRITE_DOCS=1 cargo test -p proxy-agent --lib reference`; a test compares it.

A mistake names the field or flag, the value and what is accepted, and all mistakes are told at once. `proxy-agent run --config FILE
--write-config-to OTHER` says whether a file is good, and what all of it amounts to. While the agent runs, it looks at its files once a
second: if they mean something else, it ends with status 1, to be started again with them; if they have a mistake, it says so and goes on.

## Flags of `proxy-agent run`

Those with a field stand for that field of KubeProxyConfiguration, and are ignored where `--config` names a file, as by kube-proxy.
Underscores instead of hyphens are accepted.
";

/// Fields of `AgentConfiguration`, their flags and a value that each accepts. A new field is missed by the pattern below.
const OWN: [(&str, &str, &str); 8] = [
    ("socketLB", "socket-lb", "hostNamespaceOnly"),
    ("kubeOvn", "kube-ovn", "true"),
    ("hostRouting", "host-routing", "true"),
    ("devices", "devices", "[eth0, \"veth*\"]"),
    ("metricsServices", "metrics-services", "200"),
    ("cgroupRoot", "cgroup-root", "/sys/fs/cgroup"),
    ("bpffsRoot", "bpffs-root", "/sys/fs/bpf/proxy-agent"),
    ("flowTableSize", "flow-table-size", "262144"),
];

fn reference() -> String {
    let command = Command::command();
    let help = |argument: &clap::Arg| argument.get_help().map(ToString::to_string).unwrap_or_default();
    let mut text = HEAD.to_owned();
    let (with_effect, without): (Vec<_>, Vec<_>) = command
        .get_arguments()
        .filter(|argument| argument.get_long().is_some_and(|long| long != "help"))
        .partition(|argument| !help(argument).starts_with("Accepted for kube-proxy's sake"));
    text.push_str("\n| flag | field | |\n|---|---|---|\n");
    for argument in with_effect {
        let flag = argument.get_long().expect("only those with a name are here");
        let field = fields::field_of(flag).map(|field| format!("`{field}`")).unwrap_or_default();
        let meaning = help(argument)
            .replace("the flags marked (*)", "those with a field")
            .replace(" (*)", "")
            .replace('|', "\\|");
        writeln!(text, "| `--{flag}` | {field} | {meaning} |").expect("a String takes everything");
    }
    text.push_str("\nAccepted because kube-proxy has them, and without an effect here; a line of the log says which were given:\n\n");
    let names = without.iter().filter_map(|argument| argument.get_long()).map(|flag| format!("`--{flag}`"));
    writeln!(text, "{}.", names.collect::<Vec<_>>().join(", ")).expect("a String takes everything");

    text.push_str("\n## AgentConfiguration\n\nWhat kube-proxy does not have (`--agent-config FILE`). Each field is a flag too, which goes before it.\n");
    text.push_str("\n```yaml\napiVersion: proxy-agent/v1alpha1\nkind: AgentConfiguration\n");
    for (field, flag, value) in OWN {
        let argument = command.get_arguments().find(|argument| argument.get_long() == Some(flag)).expect("a flag");
        writeln!(text, "# {}\n{field}: {value}", help(argument)).expect("a String takes everything");
    }
    text.push_str(
        "```\n\n## KubeProxyConfiguration\n\nAll fields of v1alpha1 are accepted. Their defaults:\n\n```yaml\n",
    );
    text.push_str(include_str!("../defaults.yaml"));
    text.push_str("```\n");
    text
}

#[test]
fn the_reference_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = reference();
    if env::var_os(WRITE).is_some() {
        fs::write(&path, &text).expect("docs can be written");
    }
    let written = fs::read_to_string(&path).expect("the file is there");
    assert_eq!(written, text, "{WRITE}=1 makes this test write it");
}

#[test]
fn all_of_our_own_fields_are_in_the_reference() {
    let text = OWN.map(|(field, _, value)| format!("{field}: {value}\n")).concat();
    let own = parse_own(&format!("apiVersion: proxy-agent/v1alpha1\nkind: AgentConfiguration\n{text}")).expect("valid");
    let Own { socket_lb, kube_ovn, host_routing, devices, metrics_services, cgroup_root, bpffs_root, flow_table_size } =
        own;
    assert!(socket_lb.is_some() && kube_ovn.is_some() && devices.is_some() && metrics_services.is_some());
    assert!(host_routing.is_some() && cgroup_root.is_some() && bpffs_root.is_some() && flow_table_size.is_some());
}
