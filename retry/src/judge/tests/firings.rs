//! Whoever takes a firing out of the wheel plans the one after it, once.

use posthaste_broker::News;
use posthaste_definitions::schedule::{Missed, Schedule};
use posthaste_event::{
    definition::{Definition, Key},
    firing::{self, Firing},
};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::*;

/// A full hour.
const NOON: Millis = 1_790_035_200_000;
const HOUR: Millis = 3_600_000;
const PLAN: Uuid = Uuid::from_u128(7);

fn hourly(missed: Missed) -> Schedule {
    Schedule {
        plan: PLAN,
        planned_at: NOON - HOUR,
        cron: "0 * * * *".to_owned(),
        time_zone: "UTC".to_owned(),
        missed,
        starts_at: None,
        ends_at: None,
        paused: false,
        event: RawValue::from_string("{}".to_owned()).unwrap(),
    }
}

fn known(schedule: Option<Schedule>) -> Definitions {
    let settings = posthaste_definitions::Settings {
        bytes_max: 1 << 20,
        suppressions_max: 1,
        suppressions_country_code: "1".to_owned(),
    };
    let definitions = Definitions::new(&[Kind::Schedule], settings);
    let records = schedule.map(|schedule| {
        let definition = Definition {
            version: 1,
            at: schedule.planned_at,
            by: "me".to_owned(),
            write: "w".to_owned(),
            body: serde_json::value::to_raw_value(&schedule).unwrap(),
        };
        let key = Key::new(Kind::Schedule, "default", "hourly").unwrap();
        let mut record = record(Topic::Definitions, Some(definition.encode().unwrap()));
        record.key = Some(key.encode().into());
        record
    });
    definitions.on_news(News::Records(records.into_iter().collect()));
    definitions.on_news(News::AllRead);
    definitions
}

/// The firing of noon, as it lies in the wheel.
fn noon(plan: Uuid) -> Work {
    let firing = Firing {
        schedule: "hourly".to_owned(),
        plan,
        planned_at: NOON - HOUR,
        at: NOON,
    };
    let model = accepted(Priority::Normal, None, None);
    firing::plan(&model, firing, "me", NOON - HOUR).unwrap().work
}

/// What becomes of it: where it goes, its status, and the time of the firing after it.
fn asked(work: &Work, definitions: &Definitions, ask: Ask, now: Millis) -> (Topic, Status, Option<Millis>) {
    let rules = Arc::new(Rules::shipped().unwrap());
    let metrics = Metrics::default();
    let judge = Judge {
        schedules: definitions,
        ..judge(&rules, &metrics, now)
    };
    let record = record(Topic::DelayNear, Some(work.encode().unwrap()));
    let outcome = judge.outcome(&record, ask);
    let (Value::Work(Work { delivery, .. }) | Value::Outcome(delivery)) =
        Value::decode(&outcome.output.value.unwrap()).unwrap()
    else {
        panic!("an event")
    };
    assert_eq!(
        delivery.firing.is_some(),
        outcome.output.topic.is_delay(),
        "it is a firing as long as it waits"
    );
    let next = outcome.next.map(|next| {
        assert!(next.topic.is_delay());
        let Ok(Value::Work(next)) = Value::decode(&next.value.unwrap()) else {
            panic!("an event")
        };
        assert_ne!(next.delivery.id, delivery.id);
        next.delivery.firing.unwrap().at
    });
    (outcome.output.topic, delivery.status, next)
}

#[test]
fn it_goes_to_its_lane_and_the_next_one_is_planned() {
    let schedule = known(Some(hourly(Missed::Once)));
    let sent = asked(&noon(PLAN), &schedule, Ask::Move, NOON + 3);
    assert_eq!(sent, (Topic::Retry, Status::Scheduled, Some(NOON + HOUR)));
}

#[test]
fn one_that_waits_on_plans_nothing() {
    let schedule = known(Some(hourly(Missed::Once)));
    let moved = asked(&noon(PLAN), &schedule, Ask::MakeRoom, NOON - HOUR / 2);
    assert_eq!((moved.1, moved.2), (Status::Scheduled, None));
    let later = Ask::Reschedule {
        due: NOON + HOUR / 2,
        asked_at: NOON - 5,
    };
    assert_eq!(asked(&noon(PLAN), &schedule, later, NOON - 1).2, None);
}

#[test]
fn one_that_was_withdrawn_does_not_end_the_schedule() {
    let schedule = known(Some(hourly(Missed::Once)));
    let gone = asked(&noon(PLAN), &schedule, Ask::Cancel, NOON - 5);
    assert_eq!(gone, (Topic::Status, Status::Cancelled, Some(NOON + HOUR)));
}

#[test]
fn what_was_missed_is_made_up_for_as_the_schedule_says() {
    let now = NOON + 3 * HOUR + 5;
    for (missed, status, next) in [
        (Missed::Skip, Status::Expired, NOON + 4 * HOUR),
        (Missed::Once, Status::Scheduled, NOON + 4 * HOUR),
        (Missed::All, Status::Scheduled, NOON + HOUR),
    ] {
        let schedule = known(Some(hourly(missed)));
        let (_, is, then) = asked(&noon(PLAN), &schedule, Ask::Move, now);
        assert_eq!((is, then), (status, Some(next)), "{missed:?}");
    }
}

#[test]
fn what_belongs_to_no_schedule_in_force_is_not_sent() {
    let paused = Schedule {
        paused: true,
        ..hourly(Missed::Once)
    };
    for (known, plan) in [
        (known(None), PLAN),
        (known(Some(hourly(Missed::Once))), Uuid::from_u128(8)),
        (known(Some(paused)), PLAN),
    ] {
        let ended = asked(&noon(plan), &known, Ask::Move, NOON);
        assert_eq!(ended, (Topic::Status, Status::Cancelled, None));
    }
}

#[test]
fn a_schedule_that_was_not_heard_of_yet_is_waited_for() {
    let older = Schedule {
        plan: Uuid::from_u128(6),
        planned_at: NOON - 2 * HOUR,
        ..hourly(Missed::Once)
    };
    let record = record(Topic::DelayNear, Some(noon(PLAN).encode().unwrap()));
    let (at_once, much_later) = (NOON - HOUR + 100, NOON);
    for (schedules, is_unknown) in [
        (known(None), true),
        (known(Some(older)), true),
        (known(Some(hourly(Missed::Once))), false),
    ] {
        assert_eq!(is_unheard(&record, &schedules, at_once), is_unknown);
        assert!(!is_unheard(&record, &schedules, much_later));
    }
    let withdrawn = known(Some(hourly(Missed::Once)));
    let key = Key::new(Kind::Schedule, "default", "hourly").unwrap();
    let tombstone = posthaste_broker::Record {
        key: Some(key.encode().into()),
        appended_at: at_once,
        headers: None,
        ..super::record(Topic::Definitions, None)
    };
    withdrawn.on_news(News::Records(vec![tombstone]));
    assert!(
        is_gone(&record, &withdrawn, at_once),
        "it was withdrawn for certain"
    );
    let other = super::record(
        Topic::DelayNear,
        Some(accepted(Priority::Normal, None, None).encode().unwrap()),
    );
    assert!(!is_unheard(&other, &known(None), at_once));
}
