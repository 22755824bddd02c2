use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use axum::Router;
use rustix::net::sockopt::set_ipv6_v6only;
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};
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

/// Whether a server listens already.
#[derive(Debug)]
pub enum Listening {
    /// It does.
    Now,
    /// It does not, for this reason, and is trying again.
    Later(ListenError),
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
) -> Result<Listening, ListenError> {
    let (first, listening) = match listener(address).await.map_err(|error| ListenError { what, address, error }) {
        Ok(listener) => (Some(listener), Listening::Now),
        Err(error) if busy == OnBusyPort::Fail => return Err(error),
        Err(error) => {
            warn!("{error}; trying again every {RETRY:?}");
            (None, Listening::Later(error))
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
    Ok(listening)
}

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Listens on the address. The unspecified one means all addresses of both families, as for Go's servers and so for kube-proxy's,
/// or IPv4's alone where there is no IPv6.
async fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return TcpListener::bind(address).await;
    }
    match on_both_families(address.port()) {
        Err(error) if is_without_ipv6(&error) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await,
        result => result,
    }
}

fn on_both_families(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    set_ipv6_v6only(&socket, false)?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv6Addr::UNSPECIFIED, port).into())?;
    socket.listen(BACKLOG)
}

fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

async fn bind(what: &str, address: SocketAddr) -> TcpListener {
    loop {
        tokio::time::sleep(RETRY).await;
        if let Ok(listener) = listener(address).await {
            info!("{what} listens on {address} now");
            return listener;
        }
    }
}
