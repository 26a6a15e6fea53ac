//! Broken on purpose: each promise, one by one, and what must not be held against anybody.

mod repeats;

use std::collections::HashMap;

use posthaste_broker::Partition;
use posthaste_event::{ErrorKind, Millis, Priority, Status, Topic};

use super::*;
use crate::{
    ledger::{Answer, Fault, FaultKind, Place},
    load::CHANNELS,
    topics::Topics,
};

/// A run that went well, to be spoiled.
#[derive(Default)]
struct World {
    ledgers: Ledgers,
    clock_ms: Millis,
    faults_from_outside: bool,
    hangs_from_outside: bool,
}

const T0: Millis = 1_000_000;

fn step(number: u32, at: Millis, status: Status) -> Step {
    Step {
        step: number,
        at,
        status,
        due_at: None,
        error: None,
    }
}

fn fact(step: Step, topic: Topic) -> Fact {
    Fact {
        step,
        generation: 0,
        partition: Partition { topic, number: 0 },
        offset: i64::from(step.step),
    }
}

impl World {
    /// So many events, each accepted, taken once, and recorded as sent 5 ms later, in status and topics.
    fn of(events: u32) -> Self {
        let mut world = Self {
            clock_ms: 50,
            ..Self::default()
        };
        let mut topics = Topics::default();
        for index in 0..events {
            world.ledgers.posted.insert(
                index,
                Posted {
                    answer: Answer::Accepted,
                    place: None,
                    scheduled_at: None,
                    expires_at: None,
                    no_duplicate: false,
                    cancel_asked_at: None,
                },
            );
            let at = T0 + Millis::from(index) * 100;
            world.send(index, at, "twilio:0", true);
            let facts = vec![
                fact(step(0, at - 5, Status::Pending), Topic::Default),
                fact(step(1, at + 5, Status::Sent), Topic::Status),
            ];
            topics.events.insert(index, facts);
            world.stands(index, 1, at + 5, Status::Sent);
        }
        world.ledgers.topics = Some(topics);
        world
    }

    fn send(&mut self, event: u32, at: Millis, key: &str, taken: bool) -> &mut Send {
        self.ledgers.sends.push(Send {
            event,
            at,
            key: key.into(),
            taken,
            answered: true,
        });
        self.ledgers.sends.last_mut().unwrap()
    }

    fn stands(&mut self, event: u32, step: u32, at: Millis, status: Status) {
        let standing = Standing {
            status,
            step,
            at,
            attempt: 1,
        };
        self.ledgers.standings.insert(event, standing);
    }

    fn facts(&mut self, event: u32) -> &mut Vec<Fact> {
        let topics = self.ledgers.topics.get_or_insert_default();
        topics.events.entry(event).or_default()
    }

    fn posted(&mut self, event: u32) -> &mut Posted {
        self.ledgers.posted.get_mut(&event).unwrap()
    }

    fn fault(&mut self, kind: FaultKind, from: Millis, until: Millis) {
        self.ledgers.faults.push(Fault {
            kind,
            from,
            until,
            cuts_sandbox: false,
        });
    }

    fn report(&self) -> Report {
        let mix = Mix {
            run: "v".to_owned(),
            seed: 1,
            channels: CHANNELS.to_vec(),
            priorities: vec![Priority::Normal],
            scheduled_percent: 0.0,
            expiring_percent: 0.0,
            no_duplicate_percent: 0.0,
            cancelled_percent: 0.0,
            ordered_percent: 0.0,
            ordering_keys: 1,
        };
        let leniency = Leniency {
            clock_ms: self.clock_ms,
            faults_from_outside: self.faults_from_outside,
            hangs_from_outside: self.hangs_from_outside,
        };
        reconcile(&self.ledgers, &mix, &leniency)
    }

    /// What is found, as `kind event` and the excuse.
    fn finds(&self, expected: &[(Kind, u32, Option<Excuse>)]) {
        let mut expected: Vec<(Kind, String, Option<Excuse>)> = expected
            .iter()
            .map(|(kind, event, excuse)| (*kind, format!("v-{event}"), *excuse))
            .collect();
        let mut found: Vec<(Kind, String, Option<Excuse>)> = self
            .report()
            .findings
            .into_iter()
            .map(|finding| (finding.kind, finding.event, finding.excuse))
            .collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }
}

#[test]
fn a_run_that_went_well_holds() {
    let world = World::of(3);
    world.finds(&[]);
    let report = world.report();
    assert_eq!(
        (report.accepted, report.ended, report.calls, report.taken),
        (3, 3, 3, 3)
    );
    assert_eq!(report.by_status[&"SENT"], 3);
}

#[test]
fn an_accepted_event_that_nobody_knows_is_lost() {
    let mut world = World::of(2);
    world.ledgers.sends.retain(|send| send.event != 1);
    world.ledgers.standings.remove(&1);
    world.facts(1).clear();
    world.finds(&[(Kind::Lost, 1, None)]);
    assert_eq!(world.report().ended, 1);
}

#[test]
fn an_event_without_an_end_is_lost_whatever_was_broken() {
    let mut world = World::of(1);
    world.fault(FaultKind::Forgets, T0, T0 + 1);
    world.stands(0, 0, T0 - 5, Status::Pending);
    world.facts(0).truncate(1);
    world.finds(&[(Kind::Lost, 0, None)]);
    // Even if somebody sent it.
    assert_eq!(world.report().taken, 1);
}

#[test]
fn a_record_that_was_dropped_is_missed() {
    let mut world = World::of(1);
    world.facts(0).remove(0);
    world.finds(&[(Kind::RecordMissing, 0, None)]);
    let mut world = World::of(1);
    world.facts(0).pop();
    world.finds(&[(Kind::Disagreement, 0, None)]);
}

#[test]
fn a_step_that_stands_there_twice_is_found() {
    let mut world = World::of(1);
    let twice = world.facts(0)[0];
    world.facts(0).push(twice);
    world.finds(&[(Kind::RecordedTwice, 0, None)]);
    assert_eq!(world.report().ended, 1);
    let mut world = World::of(1);
    let twice = world.facts(0)[1];
    world.facts(0).push(twice);
    world.finds(&[(Kind::RecordedTwice, 0, None)]);
    assert_eq!(world.report().ended, 0);
}

#[test]
fn a_send_that_is_recorded_again_was_sent_after_its_end() {
    let mut world = World::of(1);
    world.send(0, T0 + 500, "twilio:0", true);
    let again = step(1, T0 + 505, Status::Sent);
    world.facts(0).insert(0, fact(again, Topic::Status));
    world.stands(0, 1, T0 + 505, Status::Sent);
    world.faults_from_outside = true;
    world.finds(&[
        (Kind::RepeatedSameKey, 0, Some(Excuse::Expected)),
        (Kind::SentAfterEnd, 0, None),
        (Kind::RecordedTwice, 0, None),
    ]);
}

#[test]
fn two_ends_are_one_too_many_but_for_a_replay() {
    let mut world = World::of(1);
    world
        .facts(0)
        .push(fact(step(2, T0 + 9, Status::DeadLettered), Topic::DeadLetter));
    world.stands(0, 2, T0 + 9, Status::DeadLettered);
    world.finds(&[(Kind::EndedTwice, 0, None), (Kind::SeenUnsaid, 0, None)]);

    let mut world = World::of(1);
    world.facts(0)[1].step.status = Status::DeadLettered;
    let replayed = Fact {
        generation: 1,
        ..fact(step(2, T0 + 7, Status::Pending), Topic::Retry)
    };
    let sent = Fact {
        generation: 1,
        ..fact(step(3, T0 + 9, Status::Sent), Topic::Status)
    };
    world.facts(0).extend([replayed, sent]);
    world.stands(0, 3, T0 + 9, Status::Sent);
    world.finds(&[]);
}

#[test]
fn a_status_that_says_something_else_than_the_topics_is_found() {
    let mut world = World::of(1);
    world.stands(0, 0, T0 - 5, Status::Pending);
    world.finds(&[(Kind::Disagreement, 0, None)]);
    let mut world = World::of(1);
    world.ledgers.standings.clear();
    world.finds(&[(Kind::Disagreement, 0, None)]);
}

#[test]
fn sent_without_a_send_is_found_unless_the_sandbox_forgot() {
    let mut world = World::of(2);
    world.ledgers.sends.retain(|send| send.event != 1);
    world.finds(&[(Kind::SentUnseen, 1, None)]);
    world.ledgers.sends_are_partial = true;
    world.finds(&[]);
    assert!(world.report().sends_are_partial);
}

#[test]
fn a_message_that_arrived_must_not_be_called_undelivered() {
    let mut world = World::of(1);
    world.facts(0)[1].step.status = Status::DeadLettered;
    world.stands(0, 1, T0 + 5, Status::DeadLettered);
    world.finds(&[(Kind::SeenUnsaid, 0, None)]);
    world.fault(FaultKind::Forgets, T0 + 1, T0 + 2);
    world.finds(&[(Kind::SeenUnsaid, 0, Some(Excuse::Fault))]);
}

#[test]
fn what_went_out_after_its_expiry_is_found() {
    let mut world = World::of(3);
    world.posted(0).expires_at = Some(T0 - 1_051);
    world.posted(1).expires_at = Some(T0 + 100 - 49);
    world.posted(2).expires_at = Some(T0 + 200 - 51);
    world.finds(&[
        (Kind::SentAfterExpiry, 0, None),
        (Kind::SentAfterExpiry, 2, Some(Excuse::OnItsWay)),
    ]);
}

#[test]
fn what_went_out_after_it_was_cancelled_is_found() {
    let mut world = World::of(1);
    world.facts(0)[1] = fact(step(1, T0 - 60, Status::Cancelled), Topic::Status);
    world.stands(0, 1, T0 - 60, Status::Cancelled);
    world.posted(0).cancel_asked_at = Some(T0 - 100);
    world.finds(&[(Kind::SeenUnsaid, 0, None), (Kind::SentAfterCancel, 0, None)]);
    // Nothing excuses it.
    world.fault(FaultKind::Forgets, T0 - 200, T0 + 10);
    world.faults_from_outside = true;
    let report = world.report();
    assert_eq!(report.count(Kind::SentAfterCancel), (1, 0));
}

#[test]
fn what_was_sent_before_it_was_cancelled_must_say_so() {
    let cancelled = |error| {
        let mut world = World::of(1);
        let end = Step {
            error,
            ..step(1, T0 + 20_000, Status::Cancelled)
        };
        world.facts(0)[1] = fact(end, Topic::Status);
        world.stands(0, 1, T0 + 20_000, Status::Cancelled);
        world.posted(0).cancel_asked_at = Some(T0 - 100);
        world
    };
    cancelled(None).finds(&[(Kind::SeenUnsaid, 0, None)]);
    cancelled(Some(ErrorKind::Rejected)).finds(&[(Kind::SeenUnsaid, 0, None)]);
    cancelled(Some(ErrorKind::Ambiguous)).finds(&[(Kind::SeenUnsaid, 0, Some(Excuse::InDoubt))]);
    assert_eq!(cancelled(None).report().cancels, 1);
}

#[test]
fn what_ends_as_cancelled_though_nobody_asked_is_found() {
    let mut world = World::of(1);
    world.ledgers.sends.clear();
    world.facts(0)[1] = fact(step(1, T0, Status::Cancelled), Topic::Status);
    world.stands(0, 1, T0, Status::Cancelled);
    world.finds(&[(Kind::CancelledUnasked, 0, None)]);
    world.posted(0).cancel_asked_at = Some(T0 - 1);
    world.finds(&[]);
}

#[test]
fn a_scheduled_event_never_goes_out_early_and_its_lateness_is_told() {
    let mut world = World::of(2);
    world.posted(0).scheduled_at = Some(T0 + 51);
    world.posted(1).scheduled_at = Some(T0 + 100 - 30);
    world.finds(&[(Kind::SentEarly, 0, None)]);
    let late = world.report().scheduled;
    assert_eq!((late.count, late.max_ms), (1, 30));
}

#[test]
fn a_retry_never_goes_out_early_and_its_lateness_is_told() {
    let retried = |second: Millis| {
        let mut world = World::of(1);
        world.ledgers.sends[0].taken = false;
        world.send(0, second, "twilio:1", true);
        let waiting = Step {
            due_at: Some(T0 + 1_010),
            ..step(2, T0 + 10, Status::Retrying)
        };
        let sent = step(3, second + 5, Status::Sent);
        world.ledgers.topics = None;
        world.ledgers.histories = HashMap::from([(
            0,
            vec![
                step(0, T0 - 5, Status::Pending),
                step(1, T0 + 5, Status::Retrying),
                waiting,
                sent,
            ],
        )]);
        world.stands(0, 3, second + 5, Status::Sent);
        world
    };
    retried(T0 + 900).finds(&[(Kind::SentEarly, 0, None)]);
    let world = retried(T0 + 1_030);
    world.finds(&[]);
    assert_eq!(world.report().retried.max_ms, 20);
}

#[test]
fn order_holds_within_a_key_and_only_there() {
    let mut world = World::of(4);
    let place = |key, seq| Some(Place { key, seq });
    // 0 before 1, of the same key; 2 and 3 of keys of their own.
    world.posted(0).place = place(1, 1);
    world.posted(1).place = place(1, 2);
    world.posted(2).place = place(2, 1);
    world.finds(&[]);
    world.posted(0).place = place(1, 3);
    world.finds(&[(Kind::OutOfOrder, 0, None)]);
    // Nobody knows the place of an event that was not answered.
    world.posted(0).answer = Answer::Unknown;
    world.finds(&[]);
}

#[test]
fn the_next_of_a_key_waits_for_the_retries_of_the_one_before() {
    let mut world = World::of(2);
    world.ledgers.topics = None;
    world.posted(0).place = Some(Place { key: 1, seq: 1 });
    world.posted(1).place = Some(Place { key: 1, seq: 2 });
    world.ledgers.sends[0].taken = false;
    world.send(0, T0 + 150, "twilio:1", true);
    world.stands(0, 3, T0 + 155, Status::Sent);
    world.finds(&[(Kind::OutOfOrder, 1, None)]);
}

#[test]
fn an_event_without_a_clear_answer_may_be_there_or_not_but_not_half() {
    let mut world = World::of(3);
    for event in [0, 1, 2] {
        world.posted(event).answer = Answer::Unknown;
    }
    for event in [1, 2] {
        world.ledgers.standings.remove(&event);
        world.facts(event).clear();
    }
    world.ledgers.sends.retain(|send| send.event != 1);
    world.finds(&[(Kind::Lost, 2, None)]);
    let report = world.report();
    assert_eq!(
        (report.accepted, report.unknown_there, report.unknown_absent),
        (0, 2, 1)
    );
}

#[test]
fn what_was_refused_must_not_be_there() {
    let mut world = World::of(1);
    world.posted(0).answer = Answer::Refused;
    world.finds(&[(Kind::RefusedButThere, 0, None)]);
}

#[test]
fn an_event_that_was_never_posted_must_not_be_there() {
    let mut world = World::of(1);
    world.send(7, T0, "twilio:0", true);
    world.finds(&[(Kind::Lost, 7, None), (Kind::RefusedButThere, 7, None)]);
}
