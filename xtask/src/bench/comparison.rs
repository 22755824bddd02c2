//! What several do that take care of the same Services: a row for each deed, a column for each of them.

use std::fmt::Write as _;

use super::Figure;

/// Whose figures there are, in the order in which they come.
fn columns(figures: &[Figure]) -> Vec<&str> {
    distinct(figures.iter().filter_map(|figure| figure.by.as_deref()))
}

fn rows(figures: &[Figure]) -> Vec<&str> {
    distinct(figures.iter().map(|figure| figure.what.as_str()))
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// The table; empty without figures.
pub(super) fn table(figures: &[Figure]) -> String {
    let columns = columns(figures);
    if columns.is_empty() {
        return String::new();
    }
    let mut text = format!("| | {} |\n|---{}|\n", columns.join(" | "), "|--:".repeat(columns.len()));
    for row in rows(figures) {
        write!(text, "| {row} |").expect("a String takes everything");
        for column in &columns {
            let figure = figures.iter().find(|figure| figure.what == row && figure.by.as_deref() == Some(column));
            let cell = figure.map_or_else(String::new, |figure| {
                let factor = if figure.unit.is_empty() { "× " } else { "" };
                format!("{factor}{}", figure.number(figure.value))
            });
            write!(text, " {cell} |").expect("a String takes everything");
        }
        text.push('\n');
    }
    text
}

/// For each deed with ratios: who does it, and how often longer it takes them.
pub(super) fn bars(figures: &[Figure]) -> Vec<(&str, Vec<(&str, f64)>)> {
    let ratios = |row: &str| -> Vec<(&str, f64)> {
        let of_row = figures.iter().filter(|figure| figure.what == row && figure.unit.is_empty());
        of_row.filter_map(|figure| Some((figure.by.as_deref()?, figure.value))).collect()
    };
    rows(figures).into_iter().map(|row| (row, ratios(row))).filter(|(_, bars)| !bars.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(what: &str, by: &str, unit: &str, value: f64) -> Figure {
        Figure {
            benchmark: "b".into(),
            what: what.into(),
            by: Some(by.into()),
            unit: unit.into(),
            value,
            spread: None,
            target: None,
        }
    }

    #[test]
    fn each_deed_has_a_row_and_each_doer_a_column() {
        let figures = [
            figure("connect", "plain", "µs", 40.0),
            figure("connect", "this", "", 1.25),
            figure("load", "rules", "s", 3.5),
        ];
        let expected = "| | plain | this | rules |\n|---|--:|--:|--:|\n\
                        | connect | 40.0 µs | × 1.250 |  |\n| load |  |  | 3.500 s |\n";
        assert_eq!(table(&figures), expected);
        assert_eq!(bars(&figures), [("connect", vec![("this", 1.25)])]);
    }
}
