//! A figure, as a benchmark hands it on.

use std::borrow::Cow;

use serde_json::json;

/// What was measured, and what it should be.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What it is a figure of.
    pub what: Cow<'static, str>,
    /// Whose figure it is, where several do the same.
    pub by: Option<&'static str>,
    pub unit: &'static str,
    pub value: f64,
    /// The 5th and 95th percentile, or the least and the greatest of few values.
    pub spread: Option<(f64, f64)>,
    /// It should be no more than this.
    pub target: Option<f64>,
}

impl Figure {
    /// One value.
    pub fn single(what: impl Into<Cow<'static, str>>, unit: &'static str, value: f64, target: Option<f64>) -> Self {
        Self { what: what.into(), by: None, unit, value, spread: None, target }
    }

    /// The median of many.
    pub fn median(
        what: impl Into<Cow<'static, str>>,
        unit: &'static str,
        values: Vec<f64>,
        target: Option<f64>,
    ) -> Self {
        let sorted = Sorted::new(values);
        let spread = Some((sorted.at(0.05), sorted.at(0.95)));
        Self { what: what.into(), by: None, unit, value: sorted.at(0.5), spread, target }
    }

    /// The median of few, with the least and the greatest.
    pub fn range(what: impl Into<Cow<'static, str>>, unit: &'static str, values: &Sorted, target: f64) -> Self {
        let spread = Some((values.at(0.0), values.at(1.0)));
        Self { what: what.into(), by: None, unit, value: values.at(0.5), spread, target: Some(target) }
    }

    /// The same figure, as one of several that do the same.
    pub fn by(self, by: &'static str) -> Self {
        Self { by: Some(by), ..self }
    }

    /// Whether something was measured at all.
    pub fn is_sound(&self) -> bool {
        self.value.is_finite() && self.value >= 0.0
    }

    /// A line of JSON.
    pub fn line(&self, benchmark: &str) -> String {
        let Self { what, by, unit, value, spread, target } = self;
        json!({ "benchmark": benchmark, "what": what, "by": by, "unit": unit, "value": value, "spread": spread, "target": target })
            .to_string()
    }
}

/// Values in order.
pub struct Sorted(Vec<f64>);

impl Sorted {
    /// # Panics
    /// If there are none.
    pub fn new(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_unstable_by(f64::total_cmp);
        Self(values)
    }

    /// The value that this part of all is not above.
    pub fn at(&self, part: f64) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "few values"
        )]
        let index = ((self.0.len() - 1) as f64 * part).round() as usize;
        self.0[index]
    }
}
