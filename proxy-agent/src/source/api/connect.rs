use std::{path::PathBuf, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use thiserror::Error;
use tower::limit::RateLimitLayer;

use super::client::{Liveness, client};
use crate::error::one_line;

/// Silence on a connection after which it counts as dead although the other side's TCP lives. Watches end after 290 seconds by
/// themselves, so a longer one means that the server is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(330);

/// Which API server to talk to, and how fast.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Kubeconfig file. Without it: the pod's service account, if there is one.
    pub kubeconfig: Option<PathBuf>,
    /// Address of the server, instead of the one in the file.
    pub master: Option<String>,
    /// Requests a second.
    pub qps: f64,
    /// Requests at once.
    pub burst: u32,
    /// When a connection counts as dead.
    pub liveness: Liveness,
}

/// Why there can be no connection to any server. A server that does not answer is no such error.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The kubeconfig file.
    #[error("--kubeconfig {}: {reason}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no service account.
    #[error("no service account of a pod: {0}; say where objects come from with --kubeconfig, --master or --manifests")]
    InCluster(String),
    /// `--master`.
    #[error("--master {url}: {reason}")]
    Master {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Credentials or certificates.
    #[error("Kubernetes client: {0}")]
    Client(String),
}

/// A client of the server. Does not talk to it yet.
///
/// # Errors
/// A file or address cannot be used.
pub async fn connect(server: &Server) -> Result<Client, ConnectError> {
    let mut config = match (&server.kubeconfig, &server.master) {
        (Some(path), _) => {
            let wrong = |error| ConnectError::Kubeconfig { path: path.clone(), reason: one_line(&error) };
            let file = Kubeconfig::read_from(path).map_err(wrong)?;
            let options = KubeConfigOptions::default();
            let mut config = Config::from_custom_kubeconfig(file, &options).await.map_err(wrong)?;
            if let Some(url) = &server.master {
                config.cluster_url = address(url, "https")?;
            }
            config
        }
        (None, Some(url)) => match Config::incluster() {
            Ok(config) => with_service_account(config, url)?,
            Err(_) => Config::new(address(url, "http")?),
        },
        (None, None) => Config::incluster().map_err(|error| ConnectError::InCluster(one_line(&error)))?,
    };
    if config.cluster_url.scheme_str() == Some("http") {
        // Nothing is encrypted. Without this, the client insists on the system's certificates, which small images do not have.
        config.root_cert.get_or_insert_default();
    }
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    let window = Duration::try_from_secs_f64(f64::from(server.burst) / server.qps).unwrap_or(Duration::ZERO);
    // Also what keeps a server that ends each watch at once from being asked in a tight loop.
    let rate = (!window.is_zero()).then(|| RateLimitLayer::new(u64::from(server.burst.max(1)), window));
    client(&config, server.liveness, rate).map_err(|error| ConnectError::Client(one_line(&*error)))
}

/// The pod's service account at another address than the one that the pod was given: a node agent
/// cannot reach the API server by the very Service that it serves. Never sends a token unencrypted.
fn with_service_account(mut config: Config, url: &str) -> Result<Config, ConnectError> {
    let address = address(url, "https")?;
    if address.scheme_str() != Some("https") {
        return Ok(Config::new(address));
    }
    config.cluster_url = address;
    Ok(config)
}

fn address(url: &str, default_scheme: &str) -> Result<http::Uri, ConnectError> {
    let wrong = |reason: String| ConnectError::Master { url: url.to_owned(), reason };
    let full = if url.contains("://") { url.to_owned() } else { format!("{default_scheme}://{url}") };
    let address: http::Uri = full.parse().map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
    match (address.scheme_str(), address.host()) {
        (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(address),
        _ => Err(wrong("is not an address such as https://10.0.0.1:6443".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn server(kubeconfig: Option<PathBuf>, master: Option<&str>) -> Server {
        Server { kubeconfig, master: master.map(str::to_owned), qps: 5.0, burst: 10, liveness: Liveness::default() }
    }

    async fn error(server: Server) -> String {
        let error = connect(&server).await.err().expect("no client").to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    }

    #[tokio::test]
    async fn an_unusable_kubeconfig_is_one_line_that_names_it() {
        let text = error(server(Some("/nowhere/kubeconfig".into()), None)).await;
        assert!(text.starts_with("--kubeconfig /nowhere/kubeconfig: ") && text.contains("No such file"), "{text}");

        for broken in ["a: [", "apiVersion: v1\nkind: Config\n", "clusters: 7\n"] {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            file.write_all(broken.as_bytes()).expect("written");
            let text = error(server(Some(file.path().to_owned()), None)).await;
            assert!(text.starts_with(&format!("--kubeconfig {}: ", file.path().display())), "{text}");
        }
    }

    #[tokio::test]
    async fn an_unusable_address_is_one_line_that_names_it() {
        for url in ["http://", "ftp://x", "a b", "http://[::1"] {
            let text = error(server(None, Some(url))).await;
            assert!(text.starts_with(&format!("--master {url}: ")), "{text}");
        }
    }

    #[tokio::test]
    async fn a_proxy_is_used_or_named() {
        let kubeconfig = |proxy: &str| {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            let text = format!(
                "{{apiVersion: v1, kind: Config, current-context: a, contexts: [{{name: a, context: {{cluster: b, user: c}}}}], \
                 users: [{{name: c, user: {{}}}}], clusters: [{{name: b, cluster: {{server: 'http://10.0.0.1', proxy-url: '{proxy}'}}}}]}}"
            );
            file.write_all(text.as_bytes()).expect("written");
            file
        };
        let file = kubeconfig("http://proxy:3128");
        assert!(connect(&server(Some(file.path().to_owned()), None)).await.is_ok());
        for proxy in ["socks5://proxy:1080", "http://user:secret@proxy:3128"] {
            let file = kubeconfig(proxy);
            let text = error(server(Some(file.path().to_owned()), None)).await;
            assert!(text.contains("the proxy at proxy cannot be used") && !text.contains("secret"), "{text}");
        }
    }

    #[tokio::test]
    async fn an_address_alone_is_enough() {
        for url in ["127.0.0.1:8080", "http://127.0.0.1:8080", "https://[::1]:6443/prefix"] {
            assert!(connect(&server(None, Some(url))).await.is_ok(), "{url}");
        }
    }
}
