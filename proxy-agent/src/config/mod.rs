//! What a user can configure: kube-proxy's own file and flags, and the few flags that are ours.
//!
//! Owns syntax, defaults and validation. Never opens anything but the configuration file, and knows
//! nothing of what the values do.

mod effective;
mod fields;
mod file;
mod flags;
mod kube_proxy;
mod own;
mod section;
mod values;

#[cfg(test)]
mod tests;

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use thiserror::Error;

use self::effective::{effective, without_effect};
pub use self::fields::FieldFlags;
pub use self::file::parse;
pub use self::flags::{Action, RunFlags};
pub use self::kube_proxy::{Conntrack, DetectLocal, KubeProxy, Mode};
pub use self::own::{HostRouting, Own, SocketLb, parse as parse_own};
pub use self::section::ConfigError;
pub use self::values::{Cidrs, NodePortAddresses};
use crate::{
    dataplane::{flow_tables::FlowTableSize, pins},
    yaml::Node,
};

/// Everything that `proxy-agent run` needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where objects come from.
    pub objects: Objects,
    /// Name of this node, if it was given.
    pub node_name: Option<String>,
    /// What kube-proxy has too.
    pub kube_proxy: KubeProxy,
    /// Whose sockets are served by the hooks of the cgroup.
    pub socket_lb: SocketLb,
    /// Whether nodePort traffic under policy Local is marked as Kube-OVN expects it.
    pub kube_ovn: bool,
    /// Whether TC programs send packets of confirmed flows on by themselves, past netfilter, and how.
    pub host_routing: HostRouting,
    /// cgroup v2 folder whose processes are served at their sockets; `None`: the root of the mount.
    pub cgroup_root: Option<PathBuf>,
    /// Where maps and links are pinned.
    pub bpffs_root: PathBuf,
    /// How many flows there is room for; `None`: as fits the machine.
    pub flow_table_size: Option<FlowTableSize>,
    /// Devices to serve; `None`: all that qualify.
    pub devices: Option<Vec<String>>,
    /// How many Service ports have series of their own in metrics, if it was given.
    pub metrics_services: Option<u32>,
    /// Log verbosity as in Kubernetes.
    pub verbosity: u8,
    /// Flags that were given and have no effect, because there is a file.
    pub ignored_flags: Vec<String>,
    /// Fields or flags that were given and mean nothing here.
    pub without_effect: Vec<String>,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objects {
    /// A folder of files.
    Manifests(PathBuf),
    /// The Kubernetes API; the pod's service account where there is neither file nor address.
    Api {
        /// Kubeconfig file.
        kubeconfig: Option<PathBuf>,
        /// Address of the server.
        master: Option<String>,
    },
}

/// Everything that is wrong with the configuration, one line each.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", lines(.0))]
pub struct ConfigErrors(pub Vec<ConfigFault>);

impl ConfigErrors {
    /// Mistakes in flags.
    #[must_use]
    pub fn of_flags(errors: Vec<ConfigError>) -> Self {
        Self(errors.into_iter().map(|error| ConfigFault { file: None, error }).collect())
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// The file, if it is in one.
    pub file: Option<PathBuf>,
    /// What is wrong.
    pub error: ConfigError,
}

impl Config {
    /// The configuration that `flags` and the files they name ask for.
    ///
    /// # Errors
    /// A file cannot be read, or values in files or flags are wrong.
    pub fn load(flags: &RunFlags) -> Result<Self, ConfigErrors> {
        let Given { kube_proxy, fields, own } = Given::read(flags)?;
        let mut without_effect = without_effect(&fields);
        let mut ignored_flags = Vec::new();
        if flags.config.is_some() {
            ignored_flags = flags.replaced_by_file();
        } else {
            without_effect = without_effect.iter().map(|field| fields::name_of(field)).collect();
            // Some flags stand for many fields.
            without_effect.dedup();
        }
        Ok(Self { ignored_flags, without_effect, ..Self::combine(flags, kube_proxy, own) })
    }

    /// kube-proxy's part of the configuration that `flags` and the file they name ask for, with every field, as YAML.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn effective(flags: &RunFlags) -> Result<String, ConfigErrors> {
        let Given { kube_proxy, fields, .. } = Given::read(flags)?;
        let name = flags.hostname_override.as_deref().map(|name| name.trim().to_lowercase());
        let value = effective(&fields, &kube_proxy, name.as_deref().filter(|name| !name.is_empty()));
        serde_saphyr::to_string(&value)
            .map_err(|error| ConfigErrors::of_flags(vec![ConfigError::File(error.to_string())]))
    }

    fn combine(flags: &RunFlags, kube_proxy: KubeProxy, own: Own) -> Self {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
        let objects = match &flags.manifests {
            Some(folder) => Objects::Manifests(folder.clone()),
            None => Objects::Api { kubeconfig: kube_proxy.kubeconfig.clone(), master: given(&flags.master) },
        };
        let Own {
            socket_lb,
            kube_ovn,
            host_routing,
            devices,
            metrics_services,
            cgroup_root,
            bpffs_root,
            flow_table_size,
        } = own;
        let host_routing = host_routing.unwrap_or_default();
        Self {
            objects,
            node_name: given(&flags.hostname_override).or_else(|| given(&kube_proxy.hostname_override)),
            socket_lb: socket_lb.unwrap_or_default(),
            kube_ovn: kube_ovn.unwrap_or_default(),
            host_routing,
            metrics_services,
            cgroup_root,
            bpffs_root: bpffs_root.unwrap_or_else(|| pins::DEFAULT_ROOT.into()),
            flow_table_size,
            devices,
            verbosity: kube_proxy.verbosity.unwrap_or(0),
            // What conntrack sees of the flows that pass by it is outside of what it takes for their window.
            kube_proxy: match host_routing {
                HostRouting::Off => kube_proxy,
                HostRouting::On | HostRouting::Peers => kube_proxy.with_liberal_conntrack(),
            },
            ignored_flags: Vec::new(),
            without_effect: Vec::new(),
        }
    }
}

/// What flags and files say, free of mistakes.
struct Given {
    kube_proxy: KubeProxy,
    /// The fields of kube-proxy's part that were given.
    fields: Node,
    own: Own,
}

impl Given {
    fn read(flags: &RunFlags) -> Result<Self, ConfigErrors> {
        let mut faults = Faults::default();
        let own_flags = faults.note(None, flags.own());
        let own_file = flags.agent_config.as_ref().and_then(|path| faults.read(path, parse_own));
        let action = faults.note(None, flags.action());
        let kube_proxy = match &flags.config {
            None => faults.note(None, flags.kube_proxy_and_fields()),
            Some(path) => {
                let file = faults.read(path, file::read);
                let verbosity = faults.note(None, flags.verbosity().map_err(|error| vec![error])).flatten();
                file.map(|(file, fields)| (KubeProxy { verbosity: verbosity.or(file.verbosity), ..file }, fields))
            }
        };
        match (kube_proxy, action, faults.0.is_empty()) {
            (Some((kube_proxy, fields)), Some(_), true) => {
                let own = own_flags.unwrap_or_default().or(own_file.unwrap_or_default());
                Ok(Self { kube_proxy, fields, own })
            }
            _ => Err(ConfigErrors(faults.0)),
        }
    }
}

/// Collects what is wrong, so that all of it is told at once.
#[derive(Default)]
struct Faults(Vec<ConfigFault>);

impl Faults {
    fn note<T>(&mut self, file: Option<&Path>, result: Result<T, Vec<ConfigError>>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(errors) => {
                let fault = |error| ConfigFault { file: file.map(Path::to_path_buf), error };
                self.0.extend(errors.into_iter().map(fault));
                None
            }
        }
    }

    fn read<T>(&mut self, path: &Path, parse: impl FnOnce(&str) -> Result<T, Vec<ConfigError>>) -> Option<T> {
        let text = std::fs::read_to_string(path);
        let result = match &text {
            Ok(text) => parse(text),
            Err(error) => Err(vec![ConfigError::File(format!("cannot be read: {error}"))]),
        };
        self.note(Some(path), result)
    }
}

fn lines(faults: &[ConfigFault]) -> String {
    let mut text = String::new();
    for (index, ConfigFault { file, error }) in faults.iter().enumerate() {
        let separator = if index == 0 { "" } else { "\n" };
        let written = match file {
            Some(file) => write!(text, "{separator}{}: {error}", file.display()),
            None => write!(text, "{separator}{error}"),
        };
        written.expect("a String takes everything");
    }
    text
}
