//! Notices that the files of the configuration ask for something else, so that the agent can be started again.
//!
//! kube-proxy ends when its file changes, and so does the agent; but not for a file that is wrong, and not for one that means the
//! same. Files are read again and again: that works for editors, for `ConfigMap`s, which are exchanged by a symbolic link,
//! and on every file system.

use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use crate::config::{Config, RunFlags};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Waits until the files that `flags` name ask for another configuration than `config`.
pub(super) async fn changed(flags: RunFlags, config: Config) {
    if flags.config.is_none() && flags.agent_config.is_none() {
        return std::future::pending().await;
    }
    let mut told = String::new();
    loop {
        sleep(INTERVAL).await;
        match Config::load(&flags) {
            Ok(new) if new != config => return,
            Ok(_) => told.clear(),
            Err(errors) => {
                let errors = errors.to_string();
                if errors != told {
                    for line in errors.lines() {
                        warn!("the changed configuration is not used: {line}");
                    }
                    told = errors;
                }
            }
        }
    }
}
