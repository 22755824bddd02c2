//! Connected UDP sockets whose endpoint is gone: their next call fails (`ECONNABORTED` where they
//! receive or wait, `EDESTADDRREQ` where they send), so that they connect anew and reach another endpoint.
//!
//! Owns finding those sockets and destroying them, in a thread of its own. Never touches a socket that is not
//! connected, or that came to the endpoint by itself or through another Service: what the socket hooks noted
//! decides whose a socket is.

mod diag;
mod namespaces;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    thread,
};

use aya::Pod;
use proxy_common::{Direction, Protocol, SocketEntry, SocketKey};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use self::diag::{Diag, DiagError, Family};
pub(super) use self::namespaces::each_namespace;
use super::tables::{HashTable, SocketTables, TableError};
use crate::{error::one_line, plan::GoneBackend};

/// Syncs whose endpoints can wait for the thread.
const QUEUE: usize = 1024;

/// Endpoints that are gone, one message a sync.
pub type GoneBackends = mpsc::Sender<Vec<GoneBackend>>;

/// A channel to [`start`].
#[must_use]
pub fn channel() -> (GoneBackends, mpsc::Receiver<Vec<GoneBackend>>) {
    mpsc::channel(QUEUE)
}

/// Starts the thread that destroys the sockets of endpoints that are gone, until nobody sends any. It tells
/// `destroyed` how many they were.
///
/// # Errors
/// There can be no thread.
pub fn start(
    tables: SocketTables,
    receiver: mpsc::Receiver<Vec<GoneBackend>>,
    destroyed: impl Fn(u64) + Send + 'static,
) -> io::Result<()> {
    let worker = Worker { tables, trouble: Trouble::New };
    thread::Builder::new().name("stranded-udp".to_owned()).spawn(move || worker.run(receiver, destroyed))?;
    Ok(())
}

struct Worker {
    tables: SocketTables,
    trouble: Trouble,
}

/// Whether a person was told that this does not work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    New,
    Told,
}

/// A socket and its peer: by them the tables and the kernel mean the same connection.
type Connection = (u64, SocketAddr);

impl Worker {
    fn run(mut self, mut receiver: mpsc::Receiver<Vec<GoneBackend>>, destroyed: impl Fn(u64)) {
        while let Some(first) = receiver.blocking_recv() {
            let mut gone: BTreeSet<GoneBackend> = first.into_iter().collect();
            while let Ok(more) = receiver.try_recv() {
                gone.extend(more);
            }
            let count = self.destroy(&gone);
            if count > 0 {
                debug!("{count} connected UDP sockets were told that their endpoint is gone");
                destroyed(count);
            }
        }
    }

    /// Returns how many sockets it destroyed.
    fn destroy(&mut self, gone: &BTreeSet<GoneBackend>) -> u64 {
        let mut stranded = match stranded(&self.tables, gone) {
            Ok(stranded) => stranded,
            Err(error) => {
                self.tell(&error);
                return 0;
            }
        };
        let mut count = 0;
        if stranded.is_empty() {
            return count;
        }
        // Those that are closed stay in the tables for a while, so not all of them are found.
        let ended = each_namespace(|| {
            match destroy_here(&mut stranded) {
                Ok(found) => count += found,
                Err(error) => self.tell(&error),
            }
            !stranded.is_empty()
        });
        // A process may be out of sight; that matters only if somebody is missing.
        if let Err(error) = ended
            && !stranded.is_empty()
        {
            self.tell(&error);
        }
        count
    }

    fn tell(&mut self, error: &dyn std::error::Error) {
        if self.trouble == Trouble::New {
            warn!("UDP sockets connected to an endpoint that is gone may not learn of it: {}", one_line(error));
            self.trouble = Trouble::Told;
        }
    }
}

/// The sockets that were sent to these endpoints through their Service, as far as the tables know.
fn stranded(tables: &SocketTables, gone: &BTreeSet<GoneBackend>) -> Result<BTreeSet<Connection>, TableError> {
    let mut stranded = BTreeSet::new();
    if gone.iter().any(|gone| gone.address.is_ipv4()) {
        note(&tables.v4, gone, &mut stranded)?;
    }
    if gone.iter().any(|gone| gone.address.is_ipv6()) {
        note(&tables.v6, gone, &mut stranded)?;
    }
    Ok(stranded)
}

fn note<A>(
    table: &HashTable<SocketKey<A>, SocketEntry<A>>,
    gone: &BTreeSet<GoneBackend>,
    stranded: &mut BTreeSet<Connection>,
) -> Result<(), TableError>
where
    A: Copy + Ord,
    SocketKey<A>: Pod,
    SocketEntry<A>: Pod,
    IpAddr: From<A>,
{
    for (key, entry) in table.all()? {
        if key.direction() != Some(Direction::Reply) || key.protocol() != Some(Protocol::Udp) {
            continue;
        }
        let (address, port) = key.peer();
        let address = SocketAddr::new(address.into(), port.get());
        // The number tells an endpoint from one that has come back to its address since.
        if gone.contains(&GoneBackend { service: entry.service(), backend: entry.backend(), address }) {
            stranded.insert((key.cookie(), address));
        }
    }
    Ok(())
}

/// Destroys those of this thread's network namespace, takes them out of the set, and returns how many they were.
fn destroy_here(stranded: &mut BTreeSet<Connection>) -> Result<u64, DiagError> {
    let diag = Diag::open()?;
    let mut count = 0;
    for family in [Family::V4, Family::V6] {
        for socket in diag.connected(family)? {
            let connection = (socket.cookie(), socket.peer());
            if stranded.contains(&connection) && diag.destroy(&socket)? {
                stranded.remove(&connection);
                count += 1;
            }
        }
    }
    Ok(count)
}
