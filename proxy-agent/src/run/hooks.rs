//! Keeps the programs attached, and the settings that go with the Node.

use std::{path::Path, sync::Arc, time::Duration};

use proxy_common::{Detector, Settings, SettingsFlags};
use thiserror::Error;
use tokio::{sync::watch, time::sleep};
use tracing::{debug, info, warn};

use super::{
    Datagrams, Progress, Stage, conntrack,
    detector::{self, DetectorWarning},
};
use crate::{
    config::{KubeProxy, SocketLb},
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
    /// What was said last while the Node's prefixes were known or not needed.
    pub(super) last: Option<Settings>,
}

impl Configuration {
    /// The settings for what is known of the Node and of Services. While the Node's prefixes are needed but not known, those
    /// that were stay: a Node may be deleted and come back, and gets its prefixes a moment later. Those that a former agent knew stay until
    /// the Node is there.
    fn settings(&mut self, progress: &Progress) -> (Settings, Option<DetectorWarning>) {
        let node = progress.node.as_ref();
        let (settings, warning) = detector::settings(&self.kube_proxy, &self.node_name, node);
        let flags = match self.socket_lb {
            SocketLb::HostNamespaceOnly => SettingsFlags::HOST_NAMESPACE_ONLY,
            SocketLb::All | SocketLb::Off => SettingsFlags::NONE,
        };
        let (external, Datagrams { external: is_external, generation }) =
            (SettingsFlags::EXTERNAL_DATAGRAMS, progress.datagrams);
        // Nobody has looked at Services yet when a former agent's tables are taken over.
        let former = self.former.map_or(Settings::UNSET, |former| {
            // It may have been killed after a frontend had become another Service's, and before it raised the number.
            former.with_generation(former.generation().wrapping_add(1))
        });
        let flags = if is_external || former.flags().contains(external) { flags.with(external) } else { flags };
        let generation = former.generation().wrapping_add(generation);
        let flags = if self.host_routing { flags.with(SettingsFlags::HOST_ROUTING) } else { flags };
        let mark = if self.kube_ovn { KUBE_OVN_LOCAL_NODE_PORT } else { 0 };
        let settings = settings.with_flags(flags).with_local_node_port_mark(mark).with_generation(generation);
        if !matches!(warning, Some(DetectorWarning::NoNodeCidr { .. })) {
            self.last = Some(settings);
            return (settings, warning);
        }
        let known = self.last.or(self.former.filter(|_| node.is_none())).filter(detects);
        known.map_or((settings, warning), |known| (settings.with_families(*known.v4(), *known.v6()), None))
    }
}

/// Whether these tell pods from the outside.
fn detects(settings: &Settings) -> bool {
    [settings.v4().detector(), settings.v6().detector()].iter().any(|&detector| detector != Detector::None)
}

/// Attaches the programs and keeps them attached, until nobody tells of `progress` any more. Tables of
/// a former agent can be served from at once; new ones only once they are filled.
pub(super) async fn keep(
    hooks: Hooks,
    adoption: Adoption,
    mut configuration: Configuration,
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

fn tell(warning: Option<DetectorWarning>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Cidrs, DetectLocal},
        model::Node,
    };

    fn configuration(detect: DetectLocal, former: Option<Settings>) -> Configuration {
        let cluster_cidrs = Cidrs { v4: Some("10.9.0.0/16".parse().expect("a prefix")), v6: None };
        Configuration {
            kube_proxy: KubeProxy { detect, cluster_cidrs, ..KubeProxy::default() },
            socket_lb: SocketLb::All,
            kube_ovn: false,
            host_routing: false,
            node_name: "node-a".to_owned(),
            former,
            last: None,
        }
    }

    fn progress(pod_cidrs: Option<&[&str]>) -> Progress {
        let node = pod_cidrs.map(|cidrs| {
            let pod_cidrs = cidrs.iter().map(|cidr| cidr.parse().expect("a prefix")).collect();
            Node { pod_cidrs, ..crate::model::testing::node(None) }
        });
        Progress { node, ..Progress::default() }
    }

    fn prefix(settings: &Settings) -> Option<[u8; 4]> {
        (settings.v4().detector() == Detector::Prefix).then(|| settings.v4().prefix())
    }

    #[test]
    fn the_nodes_prefixes_stay_until_there_are_others() {
        let mut configuration = configuration(DetectLocal::NodeCidr, None);
        let (unknown, warning) = configuration.settings(&progress(None));
        assert!(prefix(&unknown).is_none() && warning.is_some(), "nobody has ever known any");
        for (cidrs, expected) in [
            (Some(&["10.244.3.0/24"][..]), [10, 244, 3, 0]),
            (None, [10, 244, 3, 0]),
            (Some(&[]), [10, 244, 3, 0]),
            (Some(&["10.244.7.0/24"]), [10, 244, 7, 0]),
        ] {
            let (settings, warning) = configuration.settings(&progress(cidrs));
            assert_eq!((prefix(&settings), warning), (Some(expected), None), "{cidrs:?}");
        }
    }

    #[test]
    fn a_former_agents_prefixes_stay_until_the_node_is_known() {
        let (former, _) = configuration(DetectLocal::ClusterCidr, None).settings(&progress(None));
        let mut configuration = configuration(DetectLocal::NodeCidr, Some(former));
        assert_eq!(prefix(&configuration.settings(&progress(None)).0), Some([10, 9, 0, 0]));
        let (settings, warning) = configuration.settings(&progress(Some(&[])));
        assert!(prefix(&settings).is_none() && warning.is_some(), "they may be those of another mode");
    }

    /// A former agent may have ended before it told of the last frontend that became another Service's.
    #[test]
    fn datagrams_of_a_former_agents_time_look_their_frontends_up_again() {
        let former = Settings::UNSET.with_generation(u16::MAX);
        let mut configuration = configuration(DetectLocal::ClusterCidr, Some(former));
        let mut generation = |changes| {
            let datagrams = Datagrams { generation: changes, ..Datagrams::default() };
            configuration.settings(&Progress { datagrams, ..Progress::default() }).0.generation()
        };
        assert_eq!([generation(0), generation(0), generation(1)], [0, 0, 1]);
    }
}
