//! Names that are near one that nobody has.

/// Names that are suggested in place of one that nobody has.
const SUGGESTIONS: usize = 3;
/// How alike a suggestion must be, from 0 to 1 (Damerau-Levenshtein, by length).
const ALIKE: f64 = 0.6;

/// Of the candidates, each with what it is compared by, those most like `wanted`, the best first.
pub(crate) fn near(wanted: &str, candidates: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
    let mut alike: Vec<(f64, String)> = candidates
        .into_iter()
        .map(|(compared, name)| (strsim::normalized_damerau_levenshtein(wanted, &compared), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .collect();
    alike.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    alike.into_iter().take(SUGGESTIONS).map(|(_, name)| name).collect()
}
