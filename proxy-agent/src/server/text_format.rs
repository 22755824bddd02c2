//! Which of the two text formats an answer has, and how one becomes the other.

/// A text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextFormat {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// Prometheus's own, version 0.0.4, which everybody reads.
    Prometheus,
}

impl TextFormat {
    /// The one that the client asks for by `Accept` (RFC 9110 §12.5.1): `OpenMetrics` if it names that and does not refuse it.
    pub(super) fn accepted(accept: Option<&str>) -> Self {
        let names_it = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let is_named = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
            let is_refused = parts.any(|parameter| {
                parameter
                    .strip_prefix("q=")
                    .and_then(|weight| weight.parse::<f32>().ok())
                    .is_some_and(|weight| weight <= 0.0)
            });
            is_named && !is_refused
        };
        if accept.unwrap_or_default().split(',').any(names_it) { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// What `Content-Type` says.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The same metrics in this format.
    pub(super) fn of(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Prometheus => prometheus(&open_metrics),
        }
    }
}

/// `OpenMetrics` names a counter without the suffix that its samples have; Prometheus's format has no such difference, no
/// units and no end.
fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // The help of a metric comes before its type.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let kind = if kind == "unknown" { "untyped" } else { kind };
            if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                text.extend(["# HELP ", name, suffix, " ", words, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_open_metrics_gets_it() {
        // What Prometheus sends.
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for accept in [prometheus, "Application/OpenMetrics-Text"] {
            assert_eq!(TextFormat::accepted(Some(accept)), TextFormat::OpenMetrics, "{accept}");
        }
        for accept in
            [None, Some("*/*"), Some("text/plain;version=0.0.4"), Some("application/openmetrics-text;q=0"), Some("")]
        {
            assert_eq!(TextFormat::accepted(accept), TextFormat::Prometheus, "{accept:?}");
        }
    }

    #[test]
    fn names_and_samples_agree_in_prometheus_format() {
        let open_metrics = "\
# HELP drops What was dropped.
# TYPE drops counter
# UNIT drops packets
drops_total{reason=\"x\"} 3
# HELP age_seconds An age.
# TYPE age_seconds gauge
age_seconds 5
# TYPE odd unknown
odd 1
# EOF
";
        let expected = "\
# HELP drops_total What was dropped.
# TYPE drops_total counter
drops_total{reason=\"x\"} 3
# HELP age_seconds An age.
# TYPE age_seconds gauge
age_seconds 5
# TYPE odd untyped
odd 1
";
        assert_eq!(TextFormat::Prometheus.of(open_metrics.to_owned()), expected);
        assert_eq!(TextFormat::OpenMetrics.of(open_metrics.to_owned()), open_metrics);
    }
}
