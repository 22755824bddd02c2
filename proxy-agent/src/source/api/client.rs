//! The HTTP client below kube's: how connections are made, and when one counts as dead.
//!
//! It is the stack that `kube::client::ClientBuilder` makes of a [`Config`], but for connections that ask the other side for signs of
//! life, which kube's do not: the server of a watch may be silent for minutes, so a host that is gone without a FIN
//! would not be missed before the next read timeout. And no answer is asked for again in here: whoever asks knows how long to wait, and
//! tells of it.

use std::{error::Error, time::Duration};

use hyper::rt::{Read, Write};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{
        self,
        connect::{Connection, HttpConnector, proxy::Tunnel},
    },
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt as _},
};
use tower::{BoxError, Service, ServiceBuilder, limit::RateLimitLayer};

/// When a connection counts as dead whose other side is silent: keep-alive of TCP (RFC 9293, 3.8.4) and the time for which
/// data may stay unacknowledged (`TCP_USER_TIMEOUT`, RFC 5482).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// Silence after which the other side's TCP is asked for a sign of life.
    pub idle: Duration,
    /// Time between two such questions.
    pub interval: Duration,
    /// Silence, or time without acknowledgment of what was sent, after which the connection is dead.
    pub dead: Duration,
}

impl Default for Liveness {
    /// What client-go does by PING frames: a question after 30 seconds, and 15 more for the answer.
    fn default() -> Self {
        Self { idle: Duration::from_secs(30), interval: Duration::from_secs(5), dead: Duration::from_secs(45) }
    }
}

/// A client of the server that `config` names. Does not talk to it yet.
///
/// # Errors
/// Certificates, credentials or the proxy cannot be used.
pub(super) fn client(config: &Config, liveness: Liveness, rate: Option<RateLimitLayer>) -> Result<Client, BoxError> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_keepalive(Some(liveness.idle));
    connector.set_keepalive_interval(Some(liveness.interval));
    connector.set_tcp_user_timeout(Some(liveness.dead));
    match config.proxy_url.clone() {
        None => over(connector, config, rate),
        Some(proxy) if proxy.scheme_str() == Some("http") && !is_with_password(&proxy) => {
            over(Tunnel::new(proxy, connector), config, rate)
        }
        Some(proxy) => {
            let host = proxy.host().unwrap_or_default();
            Err(format!("the proxy at {host} cannot be used: only http:// without a password is supported").into())
        }
    }
}

fn is_with_password(proxy: &http::Uri) -> bool {
    proxy.authority().is_some_and(|authority| authority.as_str().contains('@'))
}

/// The client over connections that `connector` makes.
fn over<C>(connector: C, config: &Config, rate: Option<RateLimitLayer>) -> Result<Client, BoxError>
where
    C: Service<http::Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Error + Send + Sync + 'static,
{
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(connector)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .option_layer(rate)
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}
