//! What an event costs, counted: allocations, bytes, commits. These do not depend on the machine, so a bound can be kept to.
//!
//! A test that fails here says that something became dearer. When it did on purpose, raise the bound in the same change, with
//! the reason; when it became cheaper, lower it (`-- --nocapture` shows what was found).
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a panic is the report"
)]

mod allocations;
mod log;

use bytes::Bytes;
use posthaste_event::{Delivery, ErrorKind, Failure, Work, partition, record::Value};
use posthaste_ingestion::{ProviderNames, request};

use allocations::count;

const NOW: i64 = 1_767_225_600_000;
const BY: &str = "instance";

/// An event of 300 bytes, as in the measurements of `bench/`.
fn body() -> Vec<u8> {
    let head =
        r#"{"channel":"webhook","payload":{"url":"http://192.0.2.1:8080/","body":{"n":"0000000001","text":""#;
    let tail = r#""}},"metadata":{"source":"bench"},"priority":"default"}"#;
    let text = "x".repeat(300 - head.len() - tail.len());
    [head, &text, tail].concat().into_bytes()
}

fn settings() -> posthaste_ingestion::Settings {
    #[derive(serde::Deserialize)]
    struct File {
        ingestion: posthaste_ingestion::Settings,
    }
    toml::from_str::<File>(posthaste_ingestion::DEFAULTS)
        .unwrap()
        .ingestion
}

/// What intake makes of a request: the record.
fn taken_in(
    body: &[u8],
    providers: &ProviderNames,
    settings: &posthaste_ingestion::Settings,
) -> (String, Bytes) {
    let checked = request::check(
        body,
        "019aa2f0-0000-7000-8000-000000000001",
        providers,
        settings,
        NOW,
        None,
    )
    .unwrap();
    let (delivery, _) = Delivery::accepted(checked.accepted, BY, NOW);
    let work = Work {
        delivery,
        event: checked.event,
    };
    (checked.key, work.encode().unwrap())
}

fn work(value: &Bytes) -> Work {
    match Value::decode(value).unwrap() {
        Value::Work(work) => work,
        other => panic!("no work: {other:?}"),
    }
}

/// What a dispatcher makes of a record whose send succeeded: the outcome.
fn sent(value: &Bytes) -> Bytes {
    let delivery = work(value).delivery.sent("webhook", "webhook", None, BY, NOW + 1);
    Value::Outcome(delivery).encode().unwrap()
}

/// What it makes of one whose send failed.
fn failed(value: &Bytes) -> Bytes {
    let mut work = work(value);
    let failure = Failure::new(
        ErrorKind::Rejected,
        "webhook",
        Some("503".to_owned()),
        "unavailable",
    );
    work.delivery = work.delivery.failed("webhook", "webhook", failure, BY, NOW + 1);
    work.encode().unwrap()
}

fn at_most(what: &str, found: u64, bound: u64) {
    assert!(
        found <= bound,
        "{what}: {found}, and the bound is {bound}. Make it cheaper again, or raise the bound and say why"
    );
    println!("{what}: {found}, at most {bound}");
}

#[test]
fn allocations_of_an_event() {
    let (body, settings, providers) = (body(), settings(), ProviderNames::new());
    let value = taken_in(&body, &providers, &settings).1;
    for (what, bound, step) in [
        (
            "intake: a request becomes a record",
            24,
            &(|| drop(taken_in(&body, &providers, &settings))) as &dyn Fn(),
        ),
        ("dispatcher: a record is read", 5, &|| drop(work(&value))),
        ("dispatcher: a record becomes an outcome", 11, &|| {
            drop(sent(&value))
        }),
        ("dispatcher: a record becomes a failure", 21, &|| {
            drop(failed(&value))
        }),
        ("a partition is chosen", 0, &|| {
            std::hint::black_box(partition::of(b"019aa2f0", 12));
        }),
    ] {
        // What is made once, at the first use, is no event's.
        step();
        at_most(what, count(step), bound);
    }
}

#[test]
fn bytes_of_an_event() {
    let (body, settings, providers) = (body(), settings(), ProviderNames::new());
    assert_eq!(body.len(), 300);
    let (key, value) = taken_in(&body, &providers, &settings);
    for (what, bytes, bound) in [
        ("the key", key.len(), 36),
        ("an event of 300 bytes on the log", value.len(), 788),
        ("its outcome", sent(&value).len(), 512),
        ("its failure", failed(&value).len(), 1_127),
    ] {
        at_most(what, bytes as u64, bound);
    }
}
