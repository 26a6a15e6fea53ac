//! `posthaste dlq …`: dead letters, looked at and replayed over HTTP.

mod replay;

use jiff::Timestamp;
use reqwest::Url;
use serde_json::Value as Json;

use crate::{
    cli::dlq::{AskReplay, Dlq, Filter},
    client::{address, ask, client, list_of, text},
    command::{print, print_json},
    failure::Failure,
};

/// `posthaste dlq …`.
pub fn dlq(command: Dlq) -> Result<(), Failure> {
    match command {
        Dlq::List {
            filter,
            group,
            limit,
            cursor,
            ask,
        } => list(&filter, group, limit, cursor.as_deref(), &ask),
        Dlq::Show { id, ask } => show(&id, &ask),
        Dlq::Replay(replay) => replay::replay(&replay),
        Dlq::Jobs {
            id: Some(id), ask, ..
        } => replay::one(&id, &ask),
        Dlq::Jobs { state, ask, .. } => replay::jobs(state.as_deref(), &ask),
        Dlq::Pause { id, ask } => replay::wish(&id, "pause", &ask),
        Dlq::Resume { id, ask } => replay::wish(&id, "resume", &ask),
        Dlq::Cancel { id, ask } => replay::wish(&id, "cancel", &ask),
    }
}

fn list(
    filter: &Filter,
    group: bool,
    limit: u32,
    cursor: Option<&str>,
    options: &AskReplay,
) -> Result<(), Failure> {
    let mut url = address(&options.url, "dead-letters")?;
    {
        let mut pairs = url.query_pairs_mut();
        pairs.append_pair("limit", &limit.to_string());
        if !filter.ids.is_empty() {
            pairs.append_pair("ids", &filter.ids.join(","));
        }
        for (name, value) in filter.fields() {
            pairs.append_pair(name, value);
        }
        if group {
            pairs.append_pair("groupBy", "fingerprint");
        }
        if let Some(cursor) = cursor {
            pairs.append_pair("cursor", cursor);
        }
    }
    let answer = ask(client()?.get(url))?;
    if options.json {
        return print_json(&answer);
    }
    let (name, line): (_, fn(&Json) -> String) = if group {
        ("groups", group_line)
    } else {
        ("deadLetters", letter_line)
    };
    let found = list_of(&answer, name);
    let mut lines: String = found.iter().map(line).collect();
    if found.is_empty() {
        lines.push_str("no dead letters\n");
    } else if group {
        let (groups, letters) = (&answer["groupsTotal"], &answer["lettersTotal"]);
        lines.push_str(&format!("{letters} dead letters in {groups} groups\n"));
    }
    if let Some(next) = answer["next"].as_str() {
        lines.push_str(&format!("more: --cursor {next}\n"));
    }
    lines.push_str(&missing(&answer["partitions"]));
    print(&lines)
}

fn show(id: &str, options: &AskReplay) -> Result<(), Failure> {
    let url = part(address(&options.url, "dead-letters")?, &[id])?;
    let letter = ask(client()?.get(url))?;
    if options.json {
        return print_json(&letter);
    }
    let delivery = &letter["delivery"];
    let mut lines = letter_line(&letter);
    for (name, value) in [
        ("tenant", text(delivery, "tenant").to_owned()),
        ("priority", text(delivery, "priority").to_owned()),
        ("accepted", time(&delivery["createdAt"])),
        ("generation", delivery["generation"].to_string()),
        ("sends", delivery["attempt"].to_string()),
        ("rule", text(&delivery["rule"], "id").to_owned()),
        ("fingerprint", text(&delivery["error"], "fingerprint").to_owned()),
    ] {
        if !value.is_empty() {
            lines.push_str(&format!("  {name:12} {value}\n"));
        }
    }
    for failure in list_of(delivery, "failures") {
        let line = format!(
            "  {:>3}  {}  {:12} {:12} {}",
            failure["attempt"].as_u64().unwrap_or(0),
            time(&failure["at"]),
            text(failure, "provider"),
            text(failure, "kind"),
            text(failure, "message"),
        );
        lines.push_str(&clean(&line));
    }
    print(&lines)
}

fn letter_line(letter: &Json) -> String {
    let delivery = &letter["delivery"];
    let id = match delivery["id"].as_str() {
        Some(id) => id.to_owned(),
        None => format!("(unreadable record {}/{})", letter["partition"], letter["offset"]),
    };
    let line = format!(
        "{id}  {}  {:8} {:12} {:12} {}",
        time(&letter["at"]),
        text(delivery, "channel"),
        text(delivery, "provider"),
        text(&delivery["error"], "kind"),
        text(letter, "reason"),
    );
    clean(&line)
}

fn group_line(group: &Json) -> String {
    let joined = |name| {
        let names: Vec<&str> = list_of(group, name).iter().filter_map(Json::as_str).collect();
        names.join(",")
    };
    let line = format!(
        "{:>8}  {:16}  {}  {:10} {:12} {:12} {}",
        group["count"].as_u64().unwrap_or(0),
        group["fingerprint"].as_str().unwrap_or("-"),
        time(&group["last"]),
        joined("channels"),
        joined("providers"),
        text(group, "kind"),
        text(group, "reason"),
    );
    clean(&line)
}

/// One line, whatever a provider wrote into its message: no control characters reach the terminal.
fn clean(line: &str) -> String {
    let line: String = line
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    format!("{}\n", line.trim_end())
}

/// What an instance that shares the dead letters with others cannot see.
fn missing(partitions: &Json) -> String {
    match (partitions["owned"].as_u64(), partitions["total"].as_u64()) {
        (Some(owned), Some(total)) if owned < total => {
            format!("of {owned} of {total} partitions; other replay services have the rest\n")
        }
        _ => String::new(),
    }
}

/// Adds parts to a path, whatever they contain.
fn part(mut url: Url, parts: &[&str]) -> Result<Url, Failure> {
    match url.path_segments_mut() {
        Ok(mut path) => path.extend(parts),
        Err(()) => return Err(Failure::Usage("--url is no address".to_owned())),
    };
    Ok(url)
}

fn time(millis: &Json) -> String {
    let time = millis
        .as_i64()
        .and_then(|millis| Timestamp::from_millisecond(millis).ok());
    time.map_or_else(String::new, |time| format!("{time:.3}"))
}
