//! `posthaste dlq replay`, and what becomes of the replays that it began.

use serde_json::{Map, Value as Json, json};

use super::{clean, letter_line, missing, part};
use crate::{
    cli::dlq::{AskReplay, Replay},
    client::{address, ask, client, list_of, text},
    command::{print, print_json},
    failure::Failure,
    progress::{self, Watch, duration},
};

/// `posthaste dlq replay`.
pub fn replay(options: &Replay) -> Result<(), Failure> {
    if options.filter.is_empty() && !options.all {
        return Err(Failure::Usage(
            "no dead letters chosen; accepted: --all, or a filter such as --error FINGERPRINT".to_owned(),
        ));
    }
    let url = address(&options.ask.url, "replay-dead-letter")?;
    let answer = ask(client()?.post(url).json(&body(options)))?;
    if options.dry_run {
        return dry_run(&answer, options.ask.json);
    }
    let id = text(&answer, "replayId");
    let count = answer["count"].as_u64().unwrap_or(0);
    if options.detach {
        if options.ask.json {
            return print_json(&answer);
        }
        return print(&format!(
            "replay {id} began: {}; `posthaste dlq jobs {id}` tells how far it is\n{}",
            letters(count),
            missing(&answer["partitions"])
        ));
    }
    if !options.ask.json {
        print(&format!(
            "replay {id}: {}\n{}",
            letters(count),
            missing(&answer["partitions"])
        ))?;
    }
    let job = watch(id, &options.ask)?;
    conclude(&job, &options.ask)
}

fn body(options: &Replay) -> Json {
    let mut filter = Map::new();
    if !options.filter.ids.is_empty() {
        filter.insert("ids".to_owned(), json!(options.filter.ids));
    }
    for (name, value) in options.filter.fields() {
        filter.insert(name.to_owned(), json!(value));
    }
    let mut body = json!({
        "from": options.skip, "limit": options.limit, "filter": filter, "dryRun": options.dry_run, "wait": false,
    });
    for (name, value) in [("rate", options.rate), ("refailureRatio", options.stop_at)] {
        if let Some(value) = value {
            body[name] = json!(value);
        }
    }
    if let Some(ramp) = options.ramp {
        body["rampSeconds"] = json!(ramp);
    }
    body
}

fn dry_run(answer: &Json, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return print_json(answer);
    }
    let count = answer["count"].as_u64().unwrap_or(0);
    let mut lines = format!("{} would go out again\n", letters(count));
    for route in list_of(answer, "routes") {
        let provider = route["provider"].as_str().unwrap_or("?");
        lines.push_str(&clean(&format!(
            "{:>8}  {} by {provider} over {}{}",
            route["count"].as_u64().unwrap_or(0),
            text(route, "channel"),
            text(route, "topic"),
            if route["pinned"] == true {
                ", as the clients insist"
            } else {
                ""
            },
        )));
    }
    let sample = list_of(answer, "sample");
    if !sample.is_empty() {
        lines.push_str("the oldest of them:\n");
        lines.extend(sample.iter().map(letter_line));
    }
    lines.push_str(&missing(&answer["partitions"]));
    print(&lines)
}

/// Asks until the replay is over, and shows how far it is.
fn watch(id: &str, options: &AskReplay) -> Result<Json, Failure> {
    progress::watch(&Watch {
        look: &|| job(id, options),
        is_over: &|job| !matches!(text(job, "state"), "running" | "paused"),
        line: &progress,
        is_quiet: options.json,
        meanwhile: &format!(
            "replay {id} goes on when the replay service is back; `posthaste dlq jobs {id}` tells how far"
        ),
    })
}

fn conclude(job: &Json, options: &AskReplay) -> Result<(), Failure> {
    if options.json {
        print_json(job)?;
    }
    let state = text(job, "state");
    let left = job["notReplayed"].as_u64().unwrap_or(0);
    if state != "finished" {
        let reason = match job["reason"].as_str() {
            Some(reason) => format!(": {reason}"),
            None => String::new(),
        };
        return Err(Failure::Runtime(format!(
            "the replay is {state}{reason}; {} stay",
            letters(job["remaining"].as_u64().unwrap_or(0))
        )));
    }
    if left > 0 {
        return Err(Failure::Runtime(format!(
            "{} cannot go out, such as those too large for the broker",
            letters(left)
        )));
    }
    Ok(())
}

/// `posthaste dlq jobs ID`.
pub fn one(id: &str, options: &AskReplay) -> Result<(), Failure> {
    let job = job(id, options)?;
    if options.json {
        return print_json(&job);
    }
    print(&job_lines(&job))
}

/// `posthaste dlq jobs`.
pub fn jobs(state: Option<&str>, options: &AskReplay) -> Result<(), Failure> {
    let mut url = address(&options.url, "replays")?;
    if let Some(state) = state {
        url.query_pairs_mut().append_pair("state", state);
    }
    let answer = ask(client()?.get(url))?;
    if options.json {
        return print_json(&answer);
    }
    let found = list_of(&answer, "replays");
    if found.is_empty() {
        return print("no replays\n");
    }
    let lines: String = found.iter().map(job_lines).collect();
    print(&lines)
}

/// `posthaste dlq pause`, `resume` and `cancel`.
pub fn wish(id: &str, wish: &str, options: &AskReplay) -> Result<(), Failure> {
    let url = part(address(&options.url, "replays")?, &[id, wish])?;
    let job = ask(client()?.post(url))?;
    if options.json {
        return print_json(&job);
    }
    print(&job_lines(&job))
}

fn job(id: &str, options: &AskReplay) -> Result<Json, Failure> {
    ask(client()?.get(part(address(&options.url, "replays")?, &[id])?))
}

fn job_lines(job: &Json) -> String {
    let mut lines = clean(&format!(
        "{}  {}  {}",
        text(job, "replayId"),
        text(job, "createdAt"),
        progress(job)
    ));
    if let Some(reason) = job["reason"].as_str() {
        lines.push_str(&clean(&format!("  {reason}")));
    }
    lines
}

/// How far a replay is, in a line.
fn progress(job: &Json) -> String {
    let number = |name: &str| job[name].as_u64().unwrap_or(0);
    let percent = job["percent"].as_f64().unwrap_or(0.0);
    let mut line = format!(
        "{}  {}/{}  {}",
        progress::bar(percent),
        number("replayed"),
        number("total"),
        text(job, "state"),
    );
    for (name, what) in [
        ("refailed", "died again"),
        ("gone", "gone otherwise"),
        ("notReplayed", "cannot go out"),
    ] {
        if number(name) > 0 {
            line.push_str(&format!(", {} {what}", number(name)));
        }
    }
    if let Some(seconds) = job["secondsLeft"].as_f64() {
        line.push_str(&format!(", about {} left", duration(seconds)));
    }
    line
}

fn letters(count: u64) -> String {
    match count {
        1 => "1 dead letter".to_owned(),
        count => format!("{count} dead letters"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_tells_how_far_it_is() {
        let job = json!({
            "state": "running", "percent": 42.5, "replayed": 425, "total": 1000, "refailed": 3, "secondsLeft": 75.2,
        });
        expect!["[##########--------------]  42.5%  425/1000  running, 3 died again, about 1 min 16 s left"]
            .assert_eq(&progress(&job));
        let done = json!({"state": "finished", "percent": 100.0, "replayed": 7, "total": 9, "notReplayed": 1, "gone": 1});
        expect!["[########################] 100.0%  7/9  finished, 1 gone otherwise, 1 cannot go out"]
            .assert_eq(&progress(&done));
    }
}
