//! The log: what of it is shown.

use tracing_subscriber::EnvFilter;

/// The filter for a verbosity as Kubernetes counts it: from 4 on each object, from 6 on everything.
/// `refinement` has the syntax of `RUST_LOG` and goes before it.
///
/// Other people's crates are quiet below 6, because they tell again, and less clearly, what this one
/// tells.
///
/// # Errors
/// `refinement` is not in that syntax.
pub fn filter(verbosity: u8, refinement: Option<&str>) -> Result<EnvFilter, String> {
    let base = match verbosity {
        0..=3 => "error,proxy_agent=info",
        4..=5 => "error,proxy_agent=debug",
        6.. => "debug,proxy_agent=trace,proxy_ebpf=trace",
    };
    let directives = match refinement {
        Some(text) if !text.trim().is_empty() => format!("{base},{text}"),
        _ => base.to_owned(),
    };
    EnvFilter::try_new(&directives).map_err(|error| format!("RUST_LOG {}: {error}", refinement.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbosity_is_kubernetes_and_the_environment_refines_it() {
        for (verbosity, expected) in [
            (0, "proxy_agent=info,error"),
            (2, "proxy_agent=info,error"),
            (4, "proxy_agent=debug,error"),
            (9, "proxy_agent=trace,proxy_ebpf=trace,debug"),
        ] {
            assert_eq!(filter(verbosity, None).expect("a filter").to_string(), expected);
        }
        let refined = filter(0, Some("kube_client=trace")).expect("a filter").to_string();
        assert!(refined.contains("kube_client=trace") && refined.contains("proxy_agent=info"), "{refined}");
        assert!(filter(0, Some("a=b=c")).is_err());
    }
}
