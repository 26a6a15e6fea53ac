//! The results as one HTML page with plots.

use std::fmt::Write as _;

use super::{
    history::{Change, Figure, Latency, Report},
    plot::{self, Row, escape},
    text::number,
};

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}\
    svg text{font:12px system-ui,sans-serif;fill:#222}svg{max-width:100%;display:block}h2{margin-top:2em;border-bottom:1px solid #ccc}\
    h4{margin:1em 0 .2em}table{border-collapse:collapse}td,th{padding:.15em .8em;text-align:left;border-bottom:1px solid #eee}\
    td.n{text-align:right;font-variant-numeric:tabular-nums}.worse{color:#b00020}.better{color:#00695c}";

/// The page: plots first, then every figure, then what changed.
pub fn page(report: &Report, earlier: &[Report], changes: &[Change]) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Posthaste, measured {date}</title>\
         <style>{STYLE}</style></head><body><h1>Posthaste, measured {date}</h1>{about}",
        date = escape(&report.date),
        about = about(report)
    );
    changed(&mut html, report, earlier, changes);
    let mut scenarios: Vec<&str> = report
        .figures
        .iter()
        .map(|figure| figure.key.scenario.as_str())
        .collect();
    scenarios.dedup();
    for scenario in scenarios {
        let _ = write!(html, "<h2>{}</h2>", escape(scenario));
        bars(&mut html, report, scenario);
        curves(&mut html, report, scenario);
        table(&mut html, report, earlier, scenario);
    }
    if !report.troubles.is_empty() {
        html.push_str("<h2>not measured</h2><ul>");
        for trouble in &report.troubles {
            let _ = write!(html, "<li>{}</li>", escape(trouble));
        }
        html.push_str("</ul>");
    }
    html + "</body></html>\n"
}

fn about(report: &Report) -> String {
    let of = |name: &str| escape(report.machine[name].as_str().unwrap_or_default());
    format!(
        "<p>{} run of revision {}, {:.0} s, on {} processors ({}), memory {}, Linux {}. Load average before: {:.2}. \
         Medians of rounds; dots are rounds.</p>",
        escape(&report.size),
        escape(report.revision.as_deref().unwrap_or("unknown")),
        report.seconds,
        report.machine["processors"],
        of("processor"),
        of("memory"),
        of("kernel"),
        report.load_before
    )
}

fn changed(html: &mut String, report: &Report, earlier: &[Report], changes: &[Change]) {
    let Some(last) = earlier.last() else {
        return;
    };
    let _ = write!(
        html,
        "<h2>since {} ({})</h2>",
        escape(&last.date),
        escape(last.revision.as_deref().unwrap_or("unknown"))
    );
    if changes.is_empty() {
        html.push_str("<p>Nothing moved beyond its spread.</p>");
        return;
    }
    html.push_str("<table>");
    for change in changes {
        let class = if change.is_worse { "worse" } else { "better" };
        let key = &change.key;
        let _ = write!(
            html,
            "<tr class=\"{class}\"><td>{class}<td>{}<td>{}<td>{}<td>{}<td class=n>{}<td>→<td class=n>{}<td>{}",
            escape(&key.scenario),
            escape(&key.backend),
            escape(&key.subject),
            escape(&key.name),
            number(change.before),
            number(change.now),
            escape(&change.unit)
        );
    }
    let _ = write!(
        html,
        "</table><p>{} figures were compared.</p>",
        report.figures.len()
    );
}

/// A plot for each figure that has a unit in which subjects and backends compare.
fn bars(html: &mut String, report: &Report, scenario: &str) {
    let of_scenario = || {
        report
            .figures
            .iter()
            .filter(|figure| figure.key.scenario == scenario)
    };
    let mut names: Vec<&str> = Vec::new();
    for figure in of_scenario() {
        if !names.contains(&figure.key.name.as_str()) {
            names.push(&figure.key.name);
        }
    }
    for name in names {
        let figures: Vec<&Figure> = of_scenario().filter(|figure| figure.key.name == name).collect();
        let labels: Vec<String> = figures
            .iter()
            .map(|figure| format!("{} · {}", figure.key.backend, figure.key.subject))
            .collect();
        let rows: Vec<Row<'_>> = figures
            .iter()
            .zip(&labels)
            .map(|(figure, label)| Row {
                label,
                values: &figure.series.values,
                median: figure.median,
            })
            .collect();
        let unit = figures.first().map_or("", |figure| &figure.series.unit);
        let _ = write!(html, "<h4>{}</h4>{}", escape(name), plot::dots(&rows, unit));
    }
}

fn curves(html: &mut String, report: &Report, scenario: &str) {
    let latencies: Vec<&Latency> = report
        .latencies
        .iter()
        .filter(|latency| latency.key.scenario == scenario)
        .collect();
    if latencies.is_empty() {
        return;
    }
    let labels: Vec<String> = latencies
        .iter()
        .map(|latency| {
            format!(
                "{} · {} · {}",
                latency.key.backend, latency.key.subject, latency.key.name
            )
        })
        .collect();
    let named: Vec<(&str, &Latency)> = labels.iter().map(String::as_str).zip(latencies).collect();
    let _ = write!(
        html,
        "<h4>latency by percentile, all rounds</h4>{}",
        plot::latencies(&named)
    );
}

fn table(html: &mut String, report: &Report, earlier: &[Report], scenario: &str) {
    html.push_str("<table><tr><th>on<th>of<th>what<th>median<th>least<th>most<th>unit<th>runs");
    for figure in report
        .figures
        .iter()
        .filter(|figure| figure.key.scenario == scenario)
    {
        let mut points: Vec<(String, f64)> = earlier
            .iter()
            .filter_map(|report| Some((report.date.clone(), report.figure(&figure.key)?.median)))
            .collect();
        points.push((report.date.clone(), figure.median));
        let history = if points.len() > 1 {
            plot::history(&points)
        } else {
            String::new()
        };
        let _ = write!(
            html,
            "<tr><td>{}<td>{}<td>{}<td class=n>{}<td class=n>{}<td class=n>{}<td>{}<td>{history}",
            escape(&figure.key.backend),
            escape(&figure.key.subject),
            escape(&figure.key.name),
            number(figure.median),
            number(figure.series.min()),
            number(figure.series.max()),
            escape(&figure.series.unit)
        );
    }
    html.push_str("</table>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        figures::{Better, Figures},
        load::histogram,
    };

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let mut figures = Figures::default();
        let mut place = figures.of("latency", "embedded", "<posthaste>");
        place.add("accepted", "events/s", Better::Higher, 1.0);
        let mut latency = histogram();
        latency.saturating_record(1_000);
        place.add_latency("through", &latency);
        let report = Report::new(&figures, "tiny", 0.0, 1.0);
        let html = page(&report, std::slice::from_ref(&report), &[]);
        assert!(html.contains("&lt;posthaste&gt;") && html.contains("polyline"));
        for foreign in ["http:", "https:", "<script", "src=", "@import"] {
            assert!(!html.contains(foreign), "{foreign}");
        }
    }
}
