//! `posthaste status rebuild`: asks the status service to build the status again from the topics.

use reqwest::StatusCode;
use serde_json::{Value as Json, json};

use crate::{
    cli::status::{Rebuild, Status},
    client::{address, ask, client, exchange, list_of, problem, text},
    command::{print, print_json},
    failure::Failure,
    progress::{self, Watch, bar},
};

/// `posthaste status …`.
pub fn status(command: &Status) -> Result<(), Failure> {
    match command {
        Status::Rebuild(options) => rebuild(options),
    }
}

fn rebuild(options: &Rebuild) -> Result<(), Failure> {
    let url = address(&options.ask.url, "status/rebuild")?;
    if options.stop {
        let report = ask(client()?.delete(url))?;
        return if options.ask.json {
            print_json(&report)
        } else {
            print(&format!(
                "rebuild {} is asked to end\n",
                text(&report, "rebuildId")
            ))
        };
    }
    let report = if options.watch {
        ask(client()?.get(url))?
    } else {
        ask(client()?.post(url).json(&json!({ "dryRun": options.dry_run })))?
    };
    let id = text(&report, "rebuildId");
    if options.detach {
        return if options.ask.json {
            print_json(&report)
        } else {
            print(&format!(
                "rebuild {id} began; `posthaste status rebuild --watch` tells how far it is\n"
            ))
        };
    }
    let report = watch(id, options)?;
    conclude(&report, options)
}

fn watch(id: &str, options: &Rebuild) -> Result<Json, Failure> {
    progress::watch(&Watch {
        look: &|| {
            let url = address(&options.ask.url, "status/rebuild")?;
            let (status, report) = exchange(client()?.get(url))?;
            if status == StatusCode::NOT_FOUND || (status.is_success() && text(&report, "rebuildId") != id) {
                let reason = format!(
                    "rebuild {id} is not known there: its service was started again, or --url leads to several of them"
                );
                return Ok(json!({ "state": "gone", "reason": reason }));
            }
            if status.is_success() {
                return Ok(report);
            }
            Err(Failure::Runtime(problem(status, &report)))
        },
        is_over: &|report| !matches!(text(report, "state"), "reading" | "comparing"),
        line: &line,
        is_quiet: options.ask.json,
        meanwhile: &format!(
            "rebuild {id} ended with its service, if that was stopped; what it had put right stays so, and another one can begin"
        ),
    })
}

fn line(report: &Json) -> String {
    if text(report, "state") == "gone" {
        return String::new();
    }
    let mut line = format!(
        "{}  {}  {} records, {} of {} events compared",
        bar(report["percent"].as_f64().unwrap_or(0.0)),
        text(report, "state"),
        report["records"],
        report["compared"],
        report["events"],
    );
    for name in ["missing", "different"] {
        if report[name].as_u64().unwrap_or(0) > 0 {
            line.push_str(&format!(", {} {name}", report[name]));
        }
    }
    if let Some(reason) = report["reason"].as_str() {
        line.push_str(&format!(": {reason}"));
    }
    plain(&line)
}

fn conclude(report: &Json, options: &Rebuild) -> Result<(), Failure> {
    let state = text(report, "state");
    if options.ask.json {
        print_json(report)?;
    } else if state != "gone" {
        print(&summary(report))?;
    }
    if state != "finished" {
        let reason = text(report, "reason");
        return Err(Failure::Runtime(format!("the rebuild is {state}: {reason}")));
    }
    let number = |name: &str| report[name].as_u64().unwrap_or(0);
    let wrong = (number("missing") + number("different")).saturating_sub(number("repaired"));
    if wrong > 0 && report["dryRun"] == true {
        return Err(Failure::Runtime(format!(
            "{wrong} documents are not as the topics say; without --dry-run they are put right"
        )));
    }
    match wrong + number("changing") {
        0 => Ok(()),
        left => Err(Failure::Runtime(format!(
            "{left} documents could not be put right"
        ))),
    }
}

fn summary(report: &Json) -> String {
    let mut lines = String::new();
    for difference in list_of(report, "differences") {
        let fields: Vec<&str> = list_of(difference, "fields")
            .iter()
            .filter_map(Json::as_str)
            .collect();
        let told = [
            text(difference, "eventId"),
            text(difference, "kind"),
            if difference["repaired"] == true {
                "repaired"
            } else {
                ""
            },
            &fields.join(" "),
            text(difference, "reason"),
        ];
        let told: Vec<&str> = told.into_iter().filter(|part| !part.is_empty()).collect();
        lines.push_str(&format!("{}\n", plain(&told.join("  "))));
    }
    if report["differencesUnnamed"].as_u64().unwrap_or(0) > 0 {
        lines.push_str(&format!("and {} more\n", report["differencesUnnamed"]));
    }
    lines.push_str(&format!(
        "{} events of the topics: {} documents were missing, {} different, {} put right",
        report["compared"], report["missing"], report["different"], report["repaired"],
    ));
    for (name, what) in [
        ("changing", "kept changing"),
        ("forgotten", "past their retention"),
        ("older", "older documents kept"),
    ] {
        if report[name].as_u64().unwrap_or(0) > 0 {
            lines.push_str(&format!(", {} {what}", report[name]));
        }
    }
    lines.push('\n');
    if report["statusBehind"] == true {
        lines.push_str(
            "the projector was behind the topics meanwhile: it brings some of what was missing by itself\n",
        );
    }
    lines
}

/// No control characters of an event's id or a server's words reach the terminal.
fn plain(line: &str) -> String {
    line.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn what_came_of_it_is_told_in_lines() {
        let report = json!({
            "state": "comparing", "percent": 87.5, "records": 420, "compared": 50, "events": 100, "missing": 3, "different": 1,
            "repaired": 3, "older": 7, "differencesUnnamed": 2,
            "differences": [
                {"eventId": "a\u{1b}[1m", "kind": "missing", "repaired": true},
                {"eventId": "b", "kind": "different", "fields": ["state", "timeline.3"], "repaired": false, "reason": "too large"},
            ],
        });
        expect!["[#####################---]  87.5%  comparing  420 records, 50 of 100 events compared, 3 missing, 1 different"]
            .assert_eq(&line(&report));
        expect![[r#"
            a [1m  missing  repaired
            b  different  state timeline.3  too large
            and 2 more
            50 events of the topics: 3 documents were missing, 1 different, 3 put right, 7 older documents kept
        "#]]
        .assert_eq(&summary(&report));
    }
}
