use std::{io, net::SocketAddr, time::Duration};

use axum::Router;
use thiserror::Error;
use tokio::{net::TcpListener, task::JoinSet};
use tracing::{info, warn};

/// Time between two tries to get a port, as in kube-proxy.
const RETRY: Duration = Duration::from_secs(5);

/// What to do about an address that cannot be listened on (kube-proxy's `bindAddressHardFail`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBusyPort {
    /// Warn once, and try again until it works.
    #[default]
    Retry,
    /// Give up.
    Fail,
}

/// An address cannot be listened on.
#[derive(Debug, Error)]
#[error("{what} cannot listen on {address}: {error}")]
pub struct ListenError {
    what: &'static str,
    address: SocketAddr,
    error: io::Error,
}

/// Serves `routes` on `address` in one of `tasks`.
///
/// # Errors
/// The address cannot be listened on, and `busy` says to give up then.
pub async fn listen(
    what: &'static str,
    address: SocketAddr,
    routes: Router,
    busy: OnBusyPort,
    tasks: &mut JoinSet<()>,
) -> Result<(), ListenError> {
    let first = match TcpListener::bind(address).await {
        Ok(listener) => Some(listener),
        Err(error) if busy == OnBusyPort::Fail => return Err(ListenError { what, address, error }),
        Err(error) => {
            warn!("{what} cannot listen on {address}: {error}; trying again every {RETRY:?}");
            None
        }
    };
    tasks.spawn(async move {
        let listener = match first {
            Some(listener) => listener,
            None => bind(what, address).await,
        };
        // Accepting goes on after errors; this returns only if the runtime ends.
        if let Err(error) = axum::serve(listener, routes).await {
            warn!("{what}: {error}");
        }
    });
    Ok(())
}

async fn bind(what: &str, address: SocketAddr) -> TcpListener {
    loop {
        tokio::time::sleep(RETRY).await;
        if let Ok(listener) = TcpListener::bind(address).await {
            info!("{what} listens on {address} now");
            return listener;
        }
    }
}
