//! Bars as SVG.

use std::fmt::Write as _;

const ROW: usize = 24;
const LABELS: usize = 430;
const BARS: usize = 300;
/// Bars end at twice the target.
const LONGEST: f64 = 2.0;
const GOOD: &str = "#2a9d5c";
const BAD: &str = "#d1495b";
const OTHERS: &str = "#8d99ae";
/// How the agent's own columns begin.
const OURS: &str = "this";

/// How much of its target each figure takes: a bar for each, and a line where the targets are.
pub(super) fn targets(ratios: &[(&str, f64)]) -> String {
    let mut svg = canvas(ratios.len() + 1);
    for (row, (name, ratio)) in ratios.iter().enumerate() {
        let colour = if *ratio <= 1.0 { GOOD } else { BAD };
        bar(&mut svg, row, name, *ratio, LONGEST, colour);
    }
    let (target, bottom) = (LABELS + BARS / 2, ROW * ratios.len());
    let _ = writeln!(
        svg,
        "<line x1=\"{target}\" y1=\"0\" x2=\"{target}\" y2=\"{bottom}\" stroke=\"black\" stroke-dasharray=\"4\"/>\
         <text x=\"{target}\" y=\"{}\" text-anchor=\"middle\">1 = the target</text>\n</svg>",
        bottom + 16
    );
    svg
}

/// How often longer than plain routing each deed takes each: groups of bars, under the deed's name.
pub(super) fn times(groups: &[(&str, Vec<(&str, f64)>)]) -> String {
    let rows: usize = groups.iter().map(|(_, bars)| bars.len() + 1).sum();
    let longest = groups.iter().flat_map(|(_, bars)| bars).fold(1.0, |most: f64, (_, ratio)| most.max(*ratio));
    let mut svg = canvas(rows);
    let mut row = 0;
    for (deed, bars) in groups {
        let (x, y) = (LABELS - 8, ROW * row + 18);
        let deed = escaped(deed);
        writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\" font-weight=\"bold\">{deed}</text>")
            .expect("a String takes everything");
        for (offset, (name, ratio)) in (1..).zip(bars) {
            let colour = if name.starts_with(OURS) { GOOD } else { OTHERS };
            bar(&mut svg, row + offset, name, *ratio, longest, colour);
        }
        row += bars.len() + 1;
    }
    svg + "</svg>\n"
}

/// The beginning of a picture with so many rows.
fn canvas(rows: usize) -> String {
    let (width, height) = (LABELS + BARS + 60, ROW * rows);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    )
}

fn bar(svg: &mut String, row: usize, name: &str, ratio: f64, longest: f64, colour: &str) {
    let y = ROW * row + 4;
    let length = (ratio.clamp(0.0, longest) / longest * pixels(BARS)).max(1.0);
    let name = escaped(name);
    let (text, label, end) = (y + 13, LABELS - 8, pixels(LABELS) + length + 4.0);
    writeln!(
        svg,
        "<text x=\"{label}\" y=\"{text}\" text-anchor=\"end\">{name}</text>\
         <rect x=\"{LABELS}\" y=\"{y}\" width=\"{length:.1}\" height=\"16\" fill=\"{colour}\"/>\
         <text x=\"{end:.1}\" y=\"{text}\">{ratio:.2}</text>"
    )
    .expect("a String takes everything");
}

fn escaped(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;")
}

#[expect(clippy::cast_precision_loss, reason = "a plot has few pixels")]
fn pixels(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_end_where_the_plot_ends() {
        let svg = targets(&[("a < b", 0.5), ("c", 7.0)]);
        assert!(svg.contains("a &lt; b") && svg.contains("width=\"75.0\"") && svg.contains("width=\"300.0\""), "{svg}");
    }
    #[test]
    fn the_longest_bar_of_a_comparison_takes_all_the_room() {
        let svg = times(&[("connect", vec![("this", 2.0), ("rules", 8.0)])]);
        assert!(svg.contains("width=\"75.0\"") && svg.contains("width=\"300.0\""), "{svg}");
    }
}
