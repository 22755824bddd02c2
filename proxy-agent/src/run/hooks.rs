//! Keeps the programs attached, and the settings that go with the Node.

use std::{path::Path, sync::Arc, time::Duration};

use proxy_common::{Settings, SettingsFlags};
use thiserror::Error;
use tokio::{sync::watch, time::sleep};
use tracing::{debug, info, warn};

use super::{Datagrams, Progress, Stage, conntrack, detector};
use crate::{
    config::{DetectLocal, KubeProxy, SocketLb},
    dataplane::{Adoption, AttachError, AttachedHooks, Hooks, tables::TableError},
    error::one_line,
    server::Health,
};

/// Wait before devices are watched anew.
const RETRY: Duration = Duration::from_secs(5);

/// What Kube-OVN expects to be set in the mark of nodePort traffic that keeps its source.
const KUBE_OVN_LOCAL_NODE_PORT: u32 = 0x8_0000;

/// Programs or settings cannot be put in place.
#[derive(Debug, Error)]
pub(super) enum HooksError {
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Settings(#[from] TableError),
}

/// What the settings follow from.
pub(super) struct Configuration {
    pub(super) kube_proxy: KubeProxy,
    pub(super) socket_lb: SocketLb,
    pub(super) kube_ovn: bool,
    pub(super) host_routing: bool,
    pub(super) node_name: String,
    /// What a former agent wrote.
    pub(super) former: Option<Settings>,
}

impl Configuration {
    /// The settings for what is known of the Node and of Services. While the Node's prefixes are not known but needed, those
    /// that a former agent knew stay.
    fn settings(&self, progress: &Progress) -> (Settings, Option<detector::DetectorWarning>) {
        let node = progress.node.as_ref();
        let (settings, warning) = detector::settings(&self.kube_proxy, &self.node_name, node);
        let flags = match self.socket_lb {
            SocketLb::HostNamespaceOnly => SettingsFlags::HOST_NAMESPACE_ONLY,
            SocketLb::All | SocketLb::Off => SettingsFlags::NONE,
        };
        let (external, Datagrams { external: is_external, generation }) =
            (SettingsFlags::EXTERNAL_DATAGRAMS, progress.datagrams);
        // Nobody has looked at Services yet when a former agent's tables are taken over.
        let former = self.former.unwrap_or(Settings::UNSET);
        let flags = if is_external || former.flags().contains(external) { flags.with(external) } else { flags };
        let generation = former.generation().wrapping_add(generation);
        let flags = if self.host_routing { flags.with(SettingsFlags::HOST_ROUTING) } else { flags };
        let mark = if self.kube_ovn { KUBE_OVN_LOCAL_NODE_PORT } else { 0 };
        let settings = settings.with_flags(flags).with_local_node_port_mark(mark).with_generation(generation);
        match self.former {
            Some(former) if self.kube_proxy.detect == DetectLocal::NodeCidr && node.is_none() => {
                (settings.with_families(*former.v4(), *former.v6()), None)
            }
            _ => (settings, warning),
        }
    }
}

/// Attaches the programs and keeps them attached, until nobody tells of `progress` any more. Tables of
/// a former agent can be served from at once; new ones only once they are filled.
pub(super) async fn keep(
    hooks: Hooks,
    adoption: Adoption,
    configuration: Configuration,
    health: Arc<Health>,
    mut progress: watch::Receiver<Progress>,
) -> Result<(), HooksError> {
    if adoption != Adoption::Adopted && progress.wait_for(|progress| progress.stage == Stage::Ready).await.is_err() {
        return Ok(());
    }
    let socket_lb = configuration.socket_lb;
    let (mut settings, warning) = configuration.settings(&progress.borrow_and_update());
    tell(warning);
    let mut attached = hooks.attach(&settings).await?;
    health.attached();
    // By now the kernel's connection tracking is there: the agent's table uses it.
    conntrack::apply(&configuration.kube_proxy.conntrack, Path::new("/"));
    match socket_lb {
        SocketLb::Off => info!("programs attached to {}; sockets are not served", devices(&attached)),
        SocketLb::All | SocketLb::HostNamespaceOnly => {
            info!("programs attached to the cgroup and to {}", devices(&attached));
        }
    }
    loop {
        tokio::select! {
            followed = attached.follow() => {
                if let Err(error) = followed {
                    warn!("{}; trying again in {RETRY:?}", one_line(&error));
                    sleep(RETRY).await;
                }
            }
            changed = progress.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let (desired, warning) = configuration.settings(&progress.borrow_and_update());
                if desired != settings {
                    tell(warning);
                    attached.set_settings(&desired)?;
                    settings = desired;
                    debug!("settings follow what is known of the Node and of Services");
                }
            }
        }
    }
}

fn tell(warning: Option<detector::DetectorWarning>) {
    if let Some(warning) = warning {
        warn!("{warning}");
    }
}

fn devices(attached: &AttachedHooks) -> String {
    let names: Vec<&str> = attached
        .attached_devices()
        .filter_map(|index| attached.devices().get(&index))
        .map(|device| device.name.as_str())
        .collect();
    match names.len() {
        0 => "no device".to_owned(),
        1..=16 => names.join(", "),
        count => format!("{count} devices"),
    }
}
