//! What must hold for any bytes at all: nothing panics, what is refused is refused in words, and what is taken comes back as
//! it was.
//!
//! Used by the fuzz targets, and included by `tests/corpus`, which replays what they found worth keeping.

use std::{collections::HashMap, sync::LazyLock};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use posthaste_broker::{
    Partition, Record,
    completion::{Completion, METADATA_CHARS_MAX, Reading},
};
use posthaste_event::{
    Channel, Delivery, ErrorKind, Failure, Millis, Priority, Topic, Value, Work,
    delivery::{Accepted, Policy},
    trace,
};
use posthaste_ingestion::request;
use posthaste_provider::Checked;
use posthaste_replay::request::ListRequest;
use posthaste_rules::{Rules, Verdict};
use posthaste_status::http::query::{Parameters, Search, cursor, inbox, search};
use posthaste_store::Fold;
use serde::Deserialize;

/// A moment: in 2026, in milliseconds since the Unix epoch.
const NOW: Millis = 1_790_000_000_000;

/// Days that a client's time may lie ahead, and then some.
const YEARS_MS: Millis = 11 * 366 * 86_400_000;

/// A record of a topic, written by us or by anybody.
pub fn record(data: &[u8]) {
    let record = Record {
        partition: Partition {
            topic: Topic::Default,
            number: 0,
        },
        offset: 7,
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::copy_from_slice(data)),
        appended_at: NOW,
    };
    let value = match record.decode("events") {
        Ok(value) => value,
        // It is kept as a foreign record, which can be read.
        Err(foreign) => Value::Foreign(*foreign),
    };
    let encoded = value.encode().unwrap();
    let again = Value::decode(&encoded).unwrap();
    assert_eq!(again, value);
    assert_eq!(again.encode().unwrap(), encoded, "a second time changes nothing");
    if let Value::Work(work) = &value {
        let _view = work.event.view();
    }
    let mut fold = Fold::default();
    fold.add(&value);
    for change in fold.into_changes() {
        let _day = change.keep_from();
        let document = change.clone().into_document();
        assert_eq!(posthaste_store::Change::from(document), change);
    }
}

/// The body of `POST /event`.
pub fn request(data: &[u8]) {
    static SETTINGS: LazyLock<posthaste_ingestion::Settings> = LazyLock::new(|| {
        #[derive(Deserialize)]
        struct File {
            ingestion: posthaste_ingestion::Settings,
        }
        toml::from_str::<File>(posthaste_ingestion::DEFAULTS)
            .unwrap()
            .ingestion
    });
    static PROVIDERS: LazyLock<request::ProviderNames> = LazyLock::new(|| {
        Channel::ALL
            .map(|channel| (channel, vec!["twilio".to_owned()]))
            .into()
    });
    let checked = match request::check(data, "c-1", &PROVIDERS, &SETTINGS, NOW) {
        Ok(checked) => checked,
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                assert!(!error.field.is_empty() && !error.to_string().is_empty());
            }
            return;
        }
    };
    assert!(!checked.key.is_empty());
    let view = checked.event.view().unwrap();
    assert_eq!(view.event_id, checked.accepted.id);
    for time in [view.scheduled_at, view.expires_at].into_iter().flatten() {
        assert!(time < NOW + YEARS_MS);
    }
    posthaste_event::payload::Payload::parse(view.channel, view.payload).unwrap();
    let (delivery, topic) = Delivery::accepted(checked.accepted, "here", NOW);
    assert!(topic.is_delay() || topic == Topic::first_attempt(delivery.priority));
    let work = Value::Work(Work {
        delivery,
        event: checked.event,
    });
    assert_eq!(Value::decode(&work.encode().unwrap()).unwrap(), work);
}

/// Headers of a request: `name: value` lines.
pub fn headers(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(32) {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(0);
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
            continue;
        };
        if name == "traceparent"
            && let Ok(text) = value.to_str()
            && let Some(known) = trace::sampled(text)
        {
            assert_eq!(trace::trace_id(known).unwrap().len(), 32);
            assert!(text.starts_with(known));
        }
        headers.append(name, value);
    }
    if let Err(problem) = posthaste_service::http::require_json(&headers) {
        assert!(!problem.detail.is_empty());
    }
}

/// A rule file.
pub fn rules(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let rules = match Rules::parse(text, "rules.toml") {
        Ok(rules) => rules,
        Err(error) => {
            assert!(error.line > 0 && !error.to_string().is_empty());
            return;
        }
    };
    let _unknown = rules.unknown_providers(&["twilio"]);
    for kind in [
        ErrorKind::Rejected,
        ErrorKind::Ambiguous,
        ErrorKind::Permanent,
        ErrorKind::RateLimited,
    ] {
        let mut delivery = delivery();
        // Every file comes to an end with every event, unless it allows for more tries than this.
        for _ in 0..20 {
            let wait = (kind == ErrorKind::RateLimited).then_some(u32::MAX);
            let failure = Failure::new(kind, "twilio", Some("429".to_owned()), "refused").retry_after(wait);
            let provider = delivery.provider.clone().unwrap_or_else(|| "twilio".to_owned());
            delivery = delivery.failed(&provider, &provider, failure, "here", NOW);
            match rules.decide(&delivery, NOW, 7) {
                Verdict::Retry { due, provider, rule } => {
                    assert!(due >= NOW, "{due}");
                    delivery.retry(due, provider, rule, "here", NOW);
                }
                Verdict::DeadLetter { .. } => break,
            }
        }
    }
}

fn delivery() -> Delivery {
    let accepted = Accepted {
        id: "e1".to_owned(),
        correlation_id: "c1".to_owned(),
        tenant: "acme".to_owned(),
        channel: Channel::Sms,
        priority: Priority::Normal,
        provider: None,
        scheduled_at: None,
        expires_at: None,
        policy: Policy::NoLoss,
    };
    Delivery::accepted(accepted, "here", NOW).0
}

/// A provider file. What is good reads an answer, too.
pub fn provider(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Checked::read("provider.toml", text) {
        Ok(checked) => {
            for (status, body) in [
                (200, r#"{"id": "m1", "errors": [{"code": 21211}]}"#),
                (429, ""),
                (500, "oops"),
            ] {
                let _either = checked.answer(status, &reqwest::header::HeaderMap::new(), body, NOW);
            }
        }
        Err(error) => assert!(error.line > 0 && !error.to_string().is_empty()),
    }
}

/// What a provider answers: the number of a shipped provider, the status, header lines, an empty line, the body.
pub fn answer(data: &[u8]) {
    static CHECKED: LazyLock<Vec<Checked>> = LazyLock::new(|| {
        let shipped = Checked::shipped().map(|(file, text)| Checked::read(file, text).unwrap());
        shipped.collect()
    });
    let Some((&which, data)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.trim().parse().ok())
        .unwrap_or(200);
    let mut headers = reqwest::header::HeaderMap::new();
    for (name, value) in lines.take(32).filter_map(|line| line.split_once(':')) {
        if let (Ok(name), Ok(value)) = (name.parse::<reqwest::header::HeaderName>(), value.trim().parse()) {
            headers.append(name, value);
        }
    }
    let checked = &CHECKED[usize::from(which) % CHECKED.len()];
    match checked.answer(status, &headers, body, NOW) {
        Ok(receipt) => drop(receipt),
        Err(failure) => {
            assert!(failure.message.len() <= 512 && failure.fingerprint.len() == 16);
            assert!(failure.retry_after_ms.is_none_or(|wait_ms| wait_ms < u32::MAX));
        }
    }
}

/// The metadata of a commit: the committed offset in eight bytes, then the text.
pub fn metadata(data: &[u8]) {
    let Some((committed, text)) = data.split_first_chunk() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let committed = i64::from_be_bytes(*committed) & (i64::MAX >> 1);
    let mut completion = match Completion::resume(committed, text) {
        Ok(completion) => completion,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let first = completion.committed();
    assert!(first >= committed);
    let again = Completion::resume(first, &completion.metadata()).unwrap();
    assert_eq!(
        (again.committed(), again.metadata()),
        (first, completion.metadata())
    );
    for offset in first..first + 100 {
        let was_finished = completion.is_finished(offset);
        assert_eq!(completion.read(offset) == Reading::Finished, was_finished);
        assert_eq!(completion.finish(offset), !was_finished);
        assert!(completion.committed() <= completion.next());
    }
    assert!(completion.metadata().len() <= METADATA_CHARS_MAX);
}

/// A query string, as each path that takes one reads it.
pub fn query(data: &[u8]) {
    let given: Vec<(String, String)> = url::form_urlencoded::parse(data).into_owned().collect();
    match search(Parameters::new(given.clone())) {
        Ok(Search::Page(page)) => {
            assert!((1..=posthaste_store::PAGE_DOCUMENTS_MAX).contains(&page.limit));
            if let Some(after) = &page.after {
                let again = Parameters::new(vec![("cursor".to_owned(), cursor(after))]);
                match search(again) {
                    Ok(Search::Page(again)) => assert_eq!(again.after, page.after),
                    other => panic!("{other:?}"),
                }
            }
        }
        Ok(Search::Follow(_)) => {}
        Err(errors) => assert!(!errors.is_empty()),
    }
    if let Err(errors) = inbox(Parameters::new(given.clone())) {
        assert!(!errors.is_empty());
    }
    let map: HashMap<String, String> = given.into_iter().collect();
    if let Err(errors) = ListRequest::read(&map) {
        assert!(!errors.is_empty());
    }
}

/// Every target by its name.
pub const TARGETS: [(&str, fn(&[u8])); 8] = [
    ("record", record),
    ("request", request),
    ("headers", headers),
    ("rules", rules),
    ("provider", provider),
    ("answer", answer),
    ("metadata", metadata),
    ("query", query),
];
