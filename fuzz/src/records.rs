//! What stands in the topics: records, control records, commit metadata.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use posthaste_broker::{
    News, Partition, Record,
    completion::{Completion, METADATA_CHARS_MAX, Reading},
};
use posthaste_event::{
    Delivery, ErrorKind, Failure, Topic, Value, Work,
    cancel::{self, Cancel},
    control::Control,
    delivery::WaitReason,
    payload::Payload,
};
use posthaste_replay::{Jobs, Pace, Progress};
use posthaste_rules::{Rules, Verdict};
use posthaste_service::Requests;
use posthaste_status::http::answer::{Events, Found, FoundTimeline};
use posthaste_store::{Document, Fold, Page};

use super::NOW;

/// A record of a topic, written by us or by anybody.
pub fn record(data: &[u8]) -> bool {
    let record = Record {
        partition: Partition {
            topic: Topic::Default,
            number: 0,
        },
        offset: 7,
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::copy_from_slice(data)),
        appended_at: NOW,
        headers: None,
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
    let sendable = match &value {
        Value::Work(work) => go_on(work),
        _ => false,
    };
    let mut fold = Fold::default();
    fold.add(value);
    for change in fold.into_changes() {
        let _day = change.keep_from();
        let document = change.clone().into_document();
        assert_eq!(posthaste_store::Change::from(document.clone()), change);
        shown(document);
    }
    sendable
}

/// Every way in which an event can go on from here, as far as nobody else is needed. Says whether it could be sent.
fn go_on(work: &Work) -> bool {
    let view = work.event.view();
    let sendable =
        view.is_ok_and(|view| !view.key().is_empty() && Payload::parse(view.channel, view.payload).is_ok());
    let delivery = &work.delivery;
    let _flags = (
        delivery.is_fact(),
        delivery.is_expired(NOW),
        delivery.trace_id().map(str::len),
        delivery.idempotency_key("twilio"),
    );
    let failure = Failure::new(ErrorKind::Rejected, "twilio", None, "refused").retry_after(Some(u32::MAX));
    let failed = delivery
        .clone()
        .failed("twilio", "twilio", failure.clone(), "here", NOW);
    for stands in [delivery, &failed] {
        judge(stands);
        let mut parked = stands.clone();
        let topic = parked.park(WaitReason::Rate, NOW + 60_000, "here", NOW);
        assert!(topic.is_delay() || parked.wheel.is_none());
        for mut waits in [stands.clone(), parked] {
            waits.move_in_wheel(NOW);
            waits.make_room(NOW);
            waits.leave_wheel(NOW);
            let value = Value::Work(Work {
                delivery: waits,
                event: work.event.clone(),
            });
            assert_eq!(Value::decode(&value.encode().unwrap()).unwrap(), value);
        }
        let ended = stands.clone().dead_lettered(failure.clone(), None, "here", NOW);
        let replayed = ended.replayed("r1", "here", NOW);
        assert_eq!((replayed.attempt, replayed.since), (0, NOW));
    }
    sendable
}

fn judge(delivery: &Delivery) {
    let rules = Rules::shipped().unwrap();
    match rules.decide(delivery, NOW, 7) {
        Verdict::Retry { due, .. } => assert!(due >= NOW, "{due}"),
        Verdict::DeadLetter { failure, .. } => {
            assert!(!failure.message.is_empty() || delivery.error.is_some())
        }
    }
    let _outlived = rules.outlived(delivery, NOW);
}

/// What people get to see of it.
fn shown(document: Document) {
    let page = || Page {
        events: vec![document.clone()],
        next: None,
    };
    let id = document.id.clone();
    for text in [
        serde_json::to_string(&Events::of(page())),
        serde_json::to_string(&Found::together(id.clone(), page())),
        serde_json::to_string(&FoundTimeline::together(id, page())),
        serde_json::to_string(&Found::one(document.clone())),
        serde_json::to_string(&FoundTimeline::one(document.clone())),
    ] {
        let text = text.unwrap();
        let _json: serde_json::Value = serde_json::from_str(&text).unwrap();
    }
}

/// Records of the control topic, and of the cancel topic, one a line.
pub fn control(data: &[u8]) -> bool {
    let (jobs, requests) = (Jobs::default(), Requests::default());
    let asked = |topic, key: String, line: &[u8]| Record {
        partition: Partition { topic, number: 0 },
        offset: 7,
        key: Some(key.into()),
        value: Some(Bytes::copy_from_slice(line)),
        appended_at: NOW,
        headers: None,
    };
    for line in data.split(|byte| *byte == b'\n').take(16) {
        if let Ok(cancel) = Cancel::decode(line) {
            let key = cancel::key("key#", &cancel.event_id);
            requests.on_news(News::Records(vec![asked(Topic::Cancel, key, line)]));
            // An id of ours has no such mark.
            let open = requests.of(&cancel.event_id).and_then(|open| open.cancel);
            assert!(cancel.event_id.contains('#') || open == Some(cancel));
        }
        let Ok(control) = Control::decode(line) else {
            continue;
        };
        let said = asked(Topic::Control, control.key(), line);
        requests.on_news(News::Records(vec![said]));
        assert!(!control.key().is_empty());
        let encoded = control.encode().unwrap();
        assert_eq!(Control::decode(&encoded).unwrap(), control);
        jobs.apply(control);
    }
    let unfinished = jobs.unfinished().len();
    let all = jobs.all();
    let known = !all.is_empty();
    assert!(unfinished <= all.len());
    for known in all {
        let replay = known.replay.clone().unwrap();
        let progress = Progress::of(&known, &replay, &Default::default());
        assert!(progress.remaining() <= progress.total);
        assert!((0.0..=100.0).contains(&progress.percent()), "{progress:?}");
        let _said = (
            progress.refailure_ratio(),
            progress.seconds_left(&known, &replay, NOW),
            progress.too_many_refailures(&known, &replay, 1),
        );
        let mut pace = Pace::new(replay.ramp_ms);
        for now_ms in [0, 1, 1_000, u64::MAX] {
            let letters = pace.allows(now_ms, replay.rate, 200);
            assert!(letters <= 200);
            pace.spend(letters);
            if let Some(rate) = replay.rate {
                assert!((1..=200).contains(&pace.wait_ms(rate)));
            }
        }
    }
    known
}

/// The metadata of a commit: the committed offset in eight bytes, then the text, or, if the first bit is set, what the text says
/// when it is decoded.
pub fn metadata(data: &[u8]) -> bool {
    let Some((committed, text)) = data.split_first_chunk() else {
        return false;
    };
    let committed = i64::from_be_bytes(*committed);
    let text = match committed < 0 {
        true => BASE64.encode(text),
        false => String::from_utf8_lossy(text).into_owned(),
    };
    let committed = committed & i64::MAX;
    let mut completion = match Completion::resume(committed, &text) {
        Ok(completion) => completion,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let first = completion.committed();
    assert!(first >= committed);
    let again = Completion::resume(first, &completion.metadata()).unwrap();
    assert_eq!(
        (again.committed(), again.metadata()),
        (first, completion.metadata())
    );
    for offset in first..first.saturating_add(100) {
        let was_finished = completion.is_finished(offset);
        assert_eq!(completion.read(offset) == Reading::Finished, was_finished);
        assert_eq!(completion.finish(offset), !was_finished);
        assert!(completion.committed() <= completion.next());
    }
    assert!(completion.metadata().len() <= METADATA_CHARS_MAX);
    true
}
