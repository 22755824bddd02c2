//! What a user can configure: kube-proxy's own file and flags, and the few flags that are ours.
//!
//! Owns syntax, defaults and validation. Never opens anything but the configuration file, and knows
//! nothing of what the values do.

mod file;
mod flags;
mod kube_proxy;
mod section;
mod values;

#[cfg(test)]
mod tests;

use std::{fmt::Write, path::PathBuf};

use thiserror::Error;

pub use self::file::parse;
pub use self::flags::RunFlags;
pub use self::kube_proxy::{DetectLocal, KubeProxy, Mode};
pub use self::section::ConfigError;
pub use self::values::{Cidrs, NodePortAddresses};

/// Everything that `proxy-agent run` needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where objects come from.
    pub objects: Objects,
    /// Name of this node, if it was given.
    pub node_name: Option<String>,
    /// What kube-proxy has too.
    pub kube_proxy: KubeProxy,
    /// cgroup v2 folder whose processes are served at their sockets; `None`: the root of the mount.
    pub cgroup_root: Option<PathBuf>,
    /// Where maps and links are pinned.
    pub bpffs_root: PathBuf,
    /// Devices to serve; `None`: all that qualify.
    pub devices: Option<Vec<String>>,
    /// Log verbosity as in Kubernetes.
    pub verbosity: u8,
    /// Flags that were given and have no effect, because there is a file.
    pub ignored_flags: Vec<&'static str>,
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
#[error("{}", lines(.file.as_ref(), .errors))]
pub struct ConfigErrors {
    /// The file, if the errors are in one.
    pub file: Option<PathBuf>,
    /// At least one error.
    pub errors: Vec<ConfigError>,
}

impl Config {
    /// The configuration that `flags` and the file they name ask for.
    ///
    /// # Errors
    /// The file cannot be read, or values in the file or flags are wrong.
    pub fn load(flags: &RunFlags) -> Result<Self, ConfigErrors> {
        let (kube_proxy, ignored_flags) = match &flags.config {
            None => {
                let kube_proxy = flags.kube_proxy().map_err(|errors| ConfigErrors { file: None, errors })?;
                (kube_proxy, Vec::new())
            }
            Some(path) => {
                let wrong = |errors| ConfigErrors { file: Some(path.clone()), errors };
                let text = std::fs::read_to_string(path)
                    .map_err(|error| wrong(vec![ConfigError::File(format!("cannot be read: {error}"))]))?;
                let mut kube_proxy = parse(&text).map_err(wrong)?;
                let flag = flags.verbosity().map_err(|error| ConfigErrors { file: None, errors: vec![error] })?;
                kube_proxy.verbosity = flag.or(kube_proxy.verbosity);
                (kube_proxy, flags.replaced_by_file())
            }
        };
        Ok(Self::combine(flags, kube_proxy, ignored_flags))
    }

    fn combine(flags: &RunFlags, kube_proxy: KubeProxy, ignored_flags: Vec<&'static str>) -> Self {
        let objects = match &flags.manifests {
            Some(folder) => Objects::Manifests(folder.clone()),
            None => Objects::Api { kubeconfig: kube_proxy.kubeconfig.clone(), master: flags.master.clone() },
        };
        let given = |name: &Option<String>| name.clone().filter(|name| !name.trim().is_empty());
        Self {
            objects,
            node_name: given(&flags.hostname_override).or_else(|| given(&kube_proxy.hostname_override)),
            cgroup_root: flags.cgroup_root.clone(),
            bpffs_root: flags.bpffs_root.clone(),
            devices: flags.devices.clone(),
            verbosity: kube_proxy.verbosity.unwrap_or(0),
            kube_proxy,
            ignored_flags,
        }
    }
}

fn lines(file: Option<&PathBuf>, errors: &[ConfigError]) -> String {
    let mut text = String::new();
    for (index, error) in errors.iter().enumerate() {
        let separator = if index == 0 { "" } else { "\n" };
        let written = match file {
            Some(file) => write!(text, "{separator}{}: {error}", file.display()),
            None => write!(text, "{separator}{error}"),
        };
        written.expect("a String takes everything");
    }
    text
}
