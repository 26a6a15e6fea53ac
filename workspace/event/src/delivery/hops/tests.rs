//! What each hop makes of a delivery.

use super::*;
use crate::{delivery::Order, failure::ErrorKind};

fn accepted(scheduled_at: Option<Millis>) -> (Delivery, Topic) {
    let event = Accepted {
        id: "e1".into(),
        correlation_id: "c1".into(),
        tenant: "default".into(),
        channel: Channel::Sms,
        priority: Priority::Normal,
        provider: None,
        scheduled_at,
        expires_at: None,
        policy: Policy::NoLoss,
    };
    Delivery::accepted(event, "here", 1_000)
}

fn refused() -> Failure {
    Failure::new(ErrorKind::Rejected, "twilio", Some("503".into()), "busy")
}

#[test]
fn the_idempotency_key_stays_while_a_send_with_it_is_in_doubt() {
    let (mut delivery, _) = accepted(None);
    delivery.doubt("twilio");
    let delivery = delivery.failed("twilio", "twilio", refused(), "here", 2_000);
    assert_eq!(delivery.idempotency_key("twilio"), "e1:twilio:0");
    let (delivery, _) = accepted(None);
    let timeout = Failure::new(ErrorKind::Ambiguous, "twilio", None, "timed out");
    let delivery = delivery.failed("twilio", "twilio", timeout, "here", 2_000);
    let delivery = delivery.failed("twilio", "twilio", refused(), "here", 3_000);
    assert_eq!(delivery.idempotency_key("twilio"), "e1:twilio:0");
    let before = delivery_after_a_refusal();
    let mut after = before
        .clone()
        .failed("twilio", "twilio", refused(), "here", 3_000)
        .failed("messagebird", "messagebird", refused(), "here", 4_000);
    after.doubt_since(&before);
    assert_eq!(after.idempotency_key("twilio"), "e1:twilio:1");
    assert_eq!(after.idempotency_key("messagebird"), "e1:messagebird:0");
    let after = after.failed("twilio", "twilio", refused(), "here", 5_000);
    assert_eq!(after.idempotency_key("twilio"), "e1:twilio:1");
}

fn delivery_after_a_refusal() -> Delivery {
    let (delivery, _) = accepted(None);
    delivery.failed("twilio", "twilio", refused(), "here", 2_000)
}

#[test]
fn the_idempotency_key_changes_after_a_rejection_and_a_replay_only() {
    let (delivery, topic) = accepted(None);
    assert_eq!(topic, Topic::Default);
    assert_eq!(delivery.idempotency_key("twilio"), "e1:twilio:0");
    let doubt = Failure::new(ErrorKind::Ambiguous, "twilio", None, "timed out");
    let delivery = delivery.failed("twilio", "twilio", refused(), "here", 2_000);
    assert_eq!(delivery.idempotency_key("twilio"), "e1:twilio:1");
    let delivery = delivery.failed("twilio", "twilio", doubt, "here", 3_000);
    assert_eq!(delivery.idempotency_key("twilio"), "e1:twilio:1");
    assert_eq!(
        (delivery.step, delivery.attempt, delivery.sends["twilio"].tries),
        (2, 2, 2)
    );
    let delivery = delivery
        .dead_lettered(refused(), None, "here", 4_000)
        .replayed("r1", "here", 5_000);
    assert_eq!(delivery.idempotency_key("twilio"), "e1:twilio:2");
    assert_eq!(
        (
            delivery.step,
            delivery.generation,
            delivery.attempt,
            delivery.since
        ),
        (4, 1, 0, 5_000)
    );
    assert_eq!(Topic::due(&delivery), Topic::Retry);
}

#[test]
fn the_wheel_is_one_fact_however_often_the_event_moves() {
    let (mut delivery, topic) = accepted(Some(1_000 + 40_000));
    assert_eq!(
        (topic, delivery.status, delivery.is_fact()),
        (Topic::Delay(crate::Tier::S30), Status::Scheduled, true)
    );
    assert_eq!(delivery.move_in_wheel(31_000), Topic::DelayNear);
    assert!(!delivery.is_fact());
    assert_eq!(delivery.make_room(31_000), Topic::Delay(crate::Tier::S8));
    assert_eq!(delivery.make_room(39_001), Topic::DelayNear);
    assert_eq!(delivery.move_in_wheel(41_000), Topic::Retry);
    assert_eq!(delivery.step, 0);
    let sent = delivery.sent("messagebird", "messagebird", None, "here", 41_001);
    assert!(sent.is_fact());
    assert_eq!(sent.step, 1);
}

#[test]
fn waiting_on_says_nothing_new_and_a_turn_stays() {
    let (mut delivery, _) = accepted(None);
    delivery.order = Some(Order {
        key: "t/k".to_owned(),
        seq: 7,
        after: Some(5),
        nth: 1,
        unknown: Map::new(),
    });
    assert_eq!(
        delivery.park(WaitReason::Order, 3_000, "here", 2_000),
        Topic::DelayNear
    );
    assert_eq!((delivery.step, delivery.is_fact()), (1, true));
    assert_eq!(delivery.wait_on(602_000, 2_000), Topic::Delay(crate::Tier::M8));
    assert_eq!(
        (delivery.step, delivery.is_fact(), delivery.due_at),
        (1, false, Some(602_000))
    );
    delivery.take_turn();
    let failed = delivery.failed("twilio", "twilio", refused(), "here", 4_000);
    assert_eq!(
        failed.order.as_ref().map(|order| (order.seq, order.after)),
        Some((7, None))
    );
    let replayed = failed
        .dead_lettered(refused(), None, "here", 5_000)
        .replayed("r1", "here", 6_000);
    assert_eq!(replayed.order, None);
}

#[test]
fn an_event_can_leave_the_wheel_before_its_time() {
    let (mut delivery, _) = accepted(None);
    delivery.park(WaitReason::Rate, 90_000, "here", 2_000);
    let step = delivery.step;
    assert_eq!(delivery.leave_wheel(3_000), Topic::Retry);
    assert_eq!((delivery.step, delivery.due_at), (step, Some(3_000)));
    assert!(!delivery.is_fact());
}

#[test]
fn the_failure_log_keeps_both_ends() {
    let (mut delivery, _) = accepted(None);
    for now in 0..20 {
        delivery = delivery.failed("twilio", "twilio", refused(), "here", now);
    }
    let steps: Vec<_> = delivery.failures.iter().map(|failure| failure.step).collect();
    assert_eq!(steps, [1, 2, 13, 14, 15, 16, 17, 18, 19, 20]);
    assert_eq!(delivery.failures_dropped, 10);
}

#[test]
fn a_past_schedule_goes_out_at_once() {
    let (delivery, topic) = accepted(Some(500));
    assert_eq!(
        (topic, delivery.status, delivery.since),
        (Topic::Default, Status::Pending, 1_000)
    );
}
