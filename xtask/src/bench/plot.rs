//! Bars as SVG: how much of its target each figure takes.

use std::fmt::Write as _;

const ROW: usize = 24;
const LABELS: usize = 430;
const BARS: usize = 300;
/// Bars end at twice the target.
const LONGEST: f64 = 2.0;

/// A bar for each name and ratio, and a line where the targets are.
pub(super) fn plot(ratios: &[(&str, f64)]) -> String {
    let height = ROW * (ratios.len() + 1);
    let width = LABELS + BARS + 60;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (row, (name, ratio)) in ratios.iter().enumerate() {
        let y = ROW * row + 4;
        let length = (ratio.clamp(0.0, LONGEST) / LONGEST * pixels(BARS)).max(1.0);
        let colour = if *ratio <= 1.0 { "#2a9d5c" } else { "#d1495b" };
        let name = name.replace('&', "&amp;").replace('<', "&lt;");
        let (text, label, end) = (y + 13, LABELS - 8, pixels(LABELS) + length + 4.0);
        writeln!(
            svg,
            "<text x=\"{label}\" y=\"{text}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{LABELS}\" y=\"{y}\" width=\"{length:.1}\" height=\"16\" fill=\"{colour}\"/>\
             <text x=\"{end:.1}\" y=\"{text}\">{ratio:.2}</text>"
        )
        .expect("a String takes everything");
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

#[expect(clippy::cast_precision_loss, reason = "a plot has few pixels")]
fn pixels(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_end_where_the_plot_ends() {
        let svg = plot(&[("a < b", 0.5), ("c", 7.0)]);
        assert!(svg.contains("a &lt; b") && svg.contains("width=\"75.0\"") && svg.contains("width=\"300.0\""), "{svg}");
    }
}
