//! The log: what of it is shown.

use tracing_subscriber::EnvFilter;

/// Other people's crates. Those of the API client tell each failure as an error, and this program tells
/// the same, with what happens next and not at each try.
const OTHERS: &str = "error,kube_client=off,kube_runtime=off,rustls_platform_verifier=off";

/// The filter for a verbosity as Kubernetes counts it: from 4 on each object, from 6 on everything.
/// `refinement` has the syntax of `RUST_LOG` and goes before it.
///
/// # Errors
/// `refinement` is not in that syntax.
pub fn filter(verbosity: u8, refinement: Option<&str>) -> Result<EnvFilter, String> {
    let base = match verbosity {
        0..=3 => format!("{OTHERS},proxy_agent=info"),
        4..=5 => format!("{OTHERS},proxy_agent=debug"),
        6.. => "debug,proxy_agent=trace,proxy_ebpf=trace".to_owned(),
    };
    let directives = match refinement {
        Some(text) if !text.trim().is_empty() => format!("{base},{text}"),
        _ => base,
    };
    EnvFilter::try_new(&directives).map_err(|error| format!("RUST_LOG {}: {error}", refinement.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbosity_is_kubernetes_and_the_environment_refines_it() {
        for (verbosity, ours, others) in [
            (0, "proxy_agent=info", "error"),
            (2, "proxy_agent=info", "error"),
            (4, "proxy_agent=debug", "error"),
            (9, "proxy_agent=trace", "debug"),
        ] {
            let filter = filter(verbosity, None).expect("a filter").to_string();
            let directives: Vec<&str> = filter.split(',').collect();
            assert!(directives.contains(&ours) && directives.contains(&others), "{filter}");
        }
        let refined = filter(0, Some("kube_client=trace")).expect("a filter").to_string();
        assert!(refined.contains("kube_client=trace") && refined.contains("proxy_agent=info"), "{refined}");
        assert!(filter(0, Some("a=b=c")).is_err());
    }
}
