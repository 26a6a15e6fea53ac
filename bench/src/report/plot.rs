//! Plots as SVG: no script, no font, nothing from elsewhere.

use std::fmt::Write as _;

use super::{history::Latency, text::number};

const WIDTH: f64 = 640.0;
const LABEL: f64 = 210.0;
const ROW: f64 = 24.0;
const CURVES_HEIGHT: f64 = 240.0;

/// The colours of curves, in their order; told apart also by people who see no red or green.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// A row of a dot plot: whose values.
pub struct Row<'a> {
    /// Its name.
    pub label: &'a str,
    /// A dot each.
    pub values: &'a [f64],
    /// A line.
    pub median: f64,
}

/// Values as dots, their median as a line; from zero on, so that lengths compare.
pub fn dots(rows: &[Row<'_>], unit: &str) -> String {
    let all = rows.iter().flat_map(|row| row.values);
    let top = all
        .copied()
        .filter(|value| value.is_finite())
        .fold(0.0, f64::max)
        .max(1e-9);
    let at = |value: f64| LABEL + (WIDTH - LABEL - 90.0) * (value / top).clamp(0.0, 1.0);
    let height = ROW * rows.len() as f64 + 8.0;
    let mut svg = open(height);
    for (index, row) in rows.iter().enumerate() {
        let y = ROW * index as f64 + ROW / 2.0 + 4.0;
        let (median, label) = (at(row.median), escape(row.label));
        let _ = write!(
            svg,
            r##"<text x="{x}" y="{ty}" text-anchor="end">{label}</text><rect x="{LABEL}" y="{by}" width="{w:.1}" height="10" fill="#cfe3f1"/>"##,
            x = LABEL - 8.0,
            ty = y + 4.0,
            by = y - 5.0,
            w = median - LABEL,
        );
        for value in row.values {
            let _ = write!(
                svg,
                r##"<circle cx="{:.1}" cy="{y}" r="3" fill="#0072b2" fill-opacity=".55"/>"##,
                at(*value)
            );
        }
        let _ = write!(
            svg,
            r#"<text x="{x:.1}" y="{ty}">{value} {unit}</text>"#,
            x = row.values.iter().copied().map(at).fold(median, f64::max) + 8.0,
            ty = y + 4.0,
            value = number(row.median),
            unit = escape(unit),
        );
    }
    svg + "</svg>"
}

/// Latencies by percentile, both axes logarithmic: the tail is on the right.
pub fn latencies(curves: &[(&str, &Latency)]) -> String {
    let nines = |percentile: f64| -((100.0 - percentile).max(0.001) / 100.0).log10();
    let values = || {
        curves
            .iter()
            .flat_map(|(_, latency)| &latency.percentiles)
            .map(|(_, ms)| *ms)
    };
    let low = values().fold(f64::INFINITY, f64::min).clamp(0.01, 1e6);
    let high = values().fold(low * 10.0, f64::max);
    let x = |percentile: f64| 50.0 + (WIDTH - 60.0) * nines(percentile) / 5.0;
    let y = |ms: f64| {
        let share = (ms.max(low) / low).ln() / (high / low).ln();
        CURVES_HEIGHT - 30.0 - (CURVES_HEIGHT - 50.0) * share
    };
    let mut svg = open(CURVES_HEIGHT + 18.0 * curves.len() as f64);
    for percentile in [50.0, 90.0, 99.0, 99.9, 99.99] {
        let (at, bottom) = (x(percentile), CURVES_HEIGHT - 30.0);
        let _ = write!(
            svg,
            r##"<line x1="{at:.1}" y1="15" x2="{at:.1}" y2="{bottom}" stroke="#ddd"/><text x="{at:.1}" y="{t}" text-anchor="middle">p{percentile}</text>"##,
            t = bottom + 16.0
        );
    }
    let mut ms = 10_f64.powf(low.log10().ceil());
    while ms <= high {
        let at = y(ms);
        let _ = write!(
            svg,
            r##"<line x1="50" y1="{at:.1}" x2="{WIDTH}" y2="{at:.1}" stroke="#ddd"/><text x="44" y="{t:.1}" text-anchor="end">{ms} ms</text>"##,
            t = at + 4.0
        );
        ms *= 10.0;
    }
    for (index, (label, latency)) in curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points = latency
            .percentiles
            .iter()
            .map(|(p, ms)| format!("{:.1},{:.1}", x(*p), y(*ms)));
        let points = points.collect::<Vec<_>>().join(" ");
        let line = CURVES_HEIGHT + 18.0 * index as f64;
        let _ = write!(
            svg,
            r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/><rect x="50" y="{ry}" width="14" height="4" fill="{colour}"/><text x="70" y="{ty}">{label} ({count})</text>"#,
            ry = line,
            ty = line + 7.0,
            label = escape(label),
            count = latency.count
        );
    }
    svg + "</svg>"
}

/// Medians of earlier runs and this one, the oldest first.
pub fn history(points: &[(String, f64)]) -> String {
    let top = points
        .iter()
        .map(|(_, value)| *value)
        .fold(0.0, f64::max)
        .max(1e-9);
    let x = |index: usize| 10.0 + 180.0 * index as f64 / (points.len().max(2) - 1) as f64;
    let y = |value: f64| 36.0 - 30.0 * value / top;
    let line = points
        .iter()
        .enumerate()
        .map(|(index, (_, value))| format!("{:.1},{:.1}", x(index), y(*value)))
        .collect::<Vec<_>>()
        .join(" ");
    let titles: String = points
        .iter()
        .enumerate()
        .map(|(index, (date, value))| {
            format!(
                r##"<circle cx="{:.1}" cy="{:.1}" r="3" fill="#0072b2"><title>{}: {}</title></circle>"##,
                x(index),
                y(*value),
                escape(date),
                number(*value)
            )
        })
        .collect();
    format!(
        r##"<svg viewBox="0 0 200 40" width="200" height="40" role="img"><polyline points="{line}" fill="none" stroke="#0072b2"/>{titles}</svg>"##
    )
}

fn open(height: f64) -> String {
    format!(r#"<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">"#)
}

/// Text that HTML takes as text.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
