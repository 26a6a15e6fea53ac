//! `posthaste events tail`: what becomes of events, line by line, as it happens.

use std::time::Duration;

use reqwest::Client;
use serde_json::Value as Json;

use crate::{
    cli::Tail,
    client::{address, body_of, headers, problem, text, unreachable},
    command::{print_on, runtime},
    failure::Failure,
};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The service says something every five seconds; a line that stays silent for longer is dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Longest line that is waited for, in bytes.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Prints until the service ends the stream, which is a failure, or until nobody reads any more.
pub fn tail(tail: &Tail) -> Result<(), Failure> {
    let mut url = address(&tail.ask.url, "events")?;
    {
        let mut pairs = url.query_pairs_mut();
        pairs.append_pair("follow", "true");
        for (name, value) in [
            ("status", &tail.status),
            ("channel", &tail.channel),
            ("tenant", &tail.tenant),
            ("provider", &tail.provider),
            ("correlationId", &tail.correlation_id),
        ] {
            if let Some(value) = value {
                pairs.append_pair(name, value);
            }
        }
    }
    let client = Client::builder()
        .default_headers(headers())
        .connect_timeout(CONNECT_LIMIT)
        .read_timeout(SILENCE_MAX)
        .build()
        .map_err(Failure::runtime)?;
    runtime()?.block_on(async {
        let mut response = client
            .get(url)
            .send()
            .await
            .map_err(|error| unreachable(&error))?;
        let status = response.status();
        if !status.is_success() {
            let body = body_of(response).await?;
            let answer = serde_json::from_str(&body).unwrap_or_default();
            return Err(Failure::Runtime(problem(status, &answer)));
        }
        let mut rest = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| unreachable(&error))? {
            rest.extend_from_slice(&piece);
            let mut lines = String::new();
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                lines.push_str(&shown(&line, tail.ask.json));
            }
            if rest.len() > LINE_BYTES_MAX {
                return Err(Failure::Runtime("the service sends no line ends".to_owned()));
            }
            if !print_on(&lines)? {
                return Ok(());
            }
        }
        Err(Failure::Runtime(
            "the service ended the stream; is it stopping?".to_owned(),
        ))
    })
}

/// A line as it is printed; nothing for a mere sign of life.
fn shown(line: &[u8], as_json: bool) -> String {
    let Ok(step) = serde_json::from_slice::<Json>(line) else {
        return String::new();
    };
    if as_json {
        return format!("{step}\n");
    }
    if let Some(missed) = step["missed"].as_u64() {
        return format!("({missed} lines were left out: they came faster than they were read)\n");
    }
    let error = &step["error"];
    let why = match (text(error, "kind"), text(error, "message")) {
        ("", _) => String::new(),
        (kind, message) => format!("{kind}: {message}"),
    };
    let due = match text(&step, "dueAt") {
        "" => String::new(),
        due => format!("until {due}"),
    };
    let parts = [
        text(&step, "at"),
        &format!("{:13}", text(&step, "status")),
        &format!("{:8}", text(&step, "channel")),
        &format!("{:12}", text(&step, "provider")),
        text(&step, "eventId"),
        text(&step, "reason"),
        &due,
        text(&step, "rule"),
        &why,
    ];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    format!("{}\n", parts.join("  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line_that_people_can_read() {
        let step = br#"{"eventId":"e1","at":"2026-11-20T12:00:00.000Z","status":"RETRYING","channel":"sms",
            "provider":"twilio","reason":"retry","dueAt":"2026-11-20T12:00:01.000Z","rule":"sms-twilio@1"}"#;
        assert_eq!(
            shown(step, false),
            "2026-11-20T12:00:00.000Z  RETRYING       sms       twilio        e1  retry  until 2026-11-20T12:00:01.000Z  \
             sms-twilio@1\n"
        );
        assert_eq!(shown(b"\n", false), "");
        assert!(shown(br#"{"missed":3}"#, false).contains("3 lines were left out"));
        assert_eq!(shown(br#"{ "missed": 3 }"#, true), "{\"missed\":3}\n");
    }
}
