//! Micro-benchmarks of what runs for every event: `cargo bench -p posthaste-bench`.

use std::{hint::black_box, net::SocketAddr};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use posthaste_bench::events::{self, Kind};
use posthaste_broker::{Partition, completion::Completion};
use posthaste_event::{Delivery, ErrorKind, Failure, Topic, Work, partition, record::Value, wheel};
use posthaste_ingestion::{ProviderNames, request};
use posthaste_retry::waiting::Waiting;
use posthaste_rules::Rules;

const NOW: i64 = 1_767_225_600_000;

fn kind() -> Kind {
    Kind::Webhook(SocketAddr::from(([192, 0, 2, 1], 8080)))
}

fn value() -> Bytes {
    // The event is a good one, and so is its record.
    events::record(kind()).map(Bytes::from).unwrap_or_default()
}

fn work() -> Option<Work> {
    match Value::decode(&value()) {
        Ok(Value::Work(work)) => Some(work),
        _ => None,
    }
}

fn intake(criterion: &mut Criterion) {
    #[derive(serde::Deserialize)]
    struct File {
        ingestion: posthaste_ingestion::Settings,
    }
    let Ok(File { ingestion }) = toml::from_str(posthaste_ingestion::DEFAULTS) else {
        return;
    };
    let body = kind()
        .body("default")
        .replace(posthaste_bench::wire::NUMBER, "0000000001");
    let providers = ProviderNames::new();
    criterion.bench_function("intake: check a request", |bencher| {
        bencher.iter(|| request::check(black_box(body.as_bytes()), "c", &providers, &ingestion, NOW, None));
    });
    criterion.bench_function("intake: check, accept, encode", |bencher| {
        bencher.iter(|| {
            let checked =
                request::check(black_box(body.as_bytes()), "c", &providers, &ingestion, NOW, None).ok()?;
            let (delivery, _) = Delivery::accepted(checked.accepted, "i", NOW);
            let work = Work {
                delivery,
                event: checked.event,
            };
            work.encode().ok()
        });
    });
}

fn record(criterion: &mut Criterion) {
    let (value, work) = (value(), work());
    criterion.bench_function("record: decode", |bencher| {
        bencher.iter(|| Value::decode(black_box(&value)));
    });
    let Some(work) = work else {
        return;
    };
    criterion.bench_function("record: encode", |bencher| {
        bencher.iter(|| black_box(&work).encode())
    });
    let failure = Failure::new(
        ErrorKind::Rejected,
        "webhook",
        Some("503".to_owned()),
        r#"{"error": "unavailable"}"#,
    );
    let failed = work
        .delivery
        .clone()
        .failed("webhook", "webhook", failure, "i", NOW);
    let failed = Value::Outcome(failed);
    if let Ok(value) = failed.encode() {
        criterion.bench_function("record: decode, failed", |bencher| {
            bencher.iter(|| Value::decode(black_box(&value)));
        });
    }
    criterion.bench_function("record: encode, failed", |bencher| {
        bencher.iter(|| black_box(&failed).encode())
    });
    criterion.bench_function("delivery: sent, encode", |bencher| {
        bencher.iter_batched(
            || work.delivery.clone(),
            |delivery| Value::Outcome(delivery.sent("webhook", "webhook", None, "i", NOW)).encode(),
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("partition: of a key", |bencher| {
        bencher.iter(|| partition::of(black_box(b"019aa2f0-0000-7000-8000-000000000000"), 12));
    });
}

fn completion(criterion: &mut Criterion) {
    criterion.bench_function(
        "completion: 1,000 records, finished backwards in hundreds",
        |bencher| {
            bencher.iter(|| {
                let mut ring = Completion::new(0);
                for hundred in 0..10 {
                    for offset in hundred * 100..(hundred + 1) * 100 {
                        ring.read(offset);
                    }
                    for offset in (hundred * 100..(hundred + 1) * 100).rev() {
                        ring.finish(offset);
                    }
                }
                ring.committed()
            });
        },
    );
    criterion.bench_function(
        "completion: metadata of 2,048 records, every other finished",
        |bencher| {
            let mut ring = Completion::new(0);
            for offset in 0..2_048 {
                ring.read(offset);
                if offset % 2 == 1 {
                    ring.finish(offset);
                }
            }
            bencher.iter(|| black_box(&ring).metadata());
        },
    );
}

fn rules(criterion: &mut Criterion) {
    let (Ok(rules), Some(work)) = (Rules::shipped(), work()) else {
        return;
    };
    let failure = Failure::new(
        ErrorKind::Rejected,
        "webhook",
        Some("503".to_owned()),
        "unavailable",
    );
    let failed = work.delivery.failed("webhook", "webhook", failure, "i", NOW);
    criterion.bench_function("rules: a verdict", |bencher| {
        bencher.iter(|| rules.decide(black_box(&failed), NOW, 7));
    });
    criterion.bench_function("wheel: where to wait", |bencher| {
        bencher.iter(|| wheel::waits_in(black_box(failed.priority), NOW + 90_000, NOW));
    });
}

fn wheel_of_records(criterion: &mut Criterion) {
    let partition = Partition {
        topic: Topic::DelayNear,
        number: 0,
    };
    criterion.bench_function("wheel: 1,000 records wait and are taken out", |bencher| {
        bencher.iter(|| {
            let mut waiting = Waiting::new(None);
            waiting.begin(partition);
            for offset in 0..1_000_i64 {
                // Far from sorted, and the same each time.
                waiting.hold(partition, offset, offset * 7_919 % 1_000, 700, ());
            }
            waiting.take_due(1_000, 1_000).len()
        });
    });
}

criterion_group!(hot, intake, record, completion, rules, wheel_of_records);
criterion_main!(hot);
