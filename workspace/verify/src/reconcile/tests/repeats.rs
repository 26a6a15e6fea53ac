//! What went out twice: when that is explained, and when nothing explains it.

use super::*;

#[test]
fn a_repeat_with_the_same_key_needs_a_reason() {
    let mut world = World::of(1);
    world.send(0, T0 + 3, "twilio:0", true);
    world.finds(&[(Kind::RepeatedSameKey, 0, None)]);
    world.faults_from_outside = true;
    world.finds(&[(Kind::RepeatedSameKey, 0, Some(Excuse::Expected))]);
    world.faults_from_outside = false;
    // Long before, or long after: what was sent then was recorded.
    world.fault(FaultKind::Forgets, T0 - 90_000, T0 - 80_000);
    world.fault(FaultKind::Forgets, T0 + 90_000, T0 + 91_000);
    // A process that was asked to end, for example, leaves nothing undone.
    world.fault(FaultKind::Harmless, T0 + 1, T0 + 2);
    world.finds(&[(Kind::RepeatedSameKey, 0, None)]);
    world.fault(FaultKind::Forgets, T0 + 1, T0 + 2);
    world.finds(&[(Kind::RepeatedSameKey, 0, Some(Excuse::Fault))]);
    world.ledgers.sends[0].answered = false;
    world.finds(&[(Kind::RepeatedSameKey, 0, Some(Excuse::Unanswered))]);
}

#[test]
fn nothing_explains_a_repeat_that_the_client_ruled_out() {
    let mut world = World::of(1);
    world.posted(0).no_duplicate = true;
    world.send(0, T0 + 3, "twilio:0", true);
    world.fault(FaultKind::Forgets, T0 + 1, T0 + 2);
    world.ledgers.sends[0].answered = false;
    world.finds(&[(Kind::RepeatedSameKey, 0, None)]);
}

#[test]
fn a_send_in_doubt_may_go_out_again() {
    let mut world = World::of(1);
    world.facts(0)[1] = fact(
        Step {
            error: Some(ErrorKind::Ambiguous),
            ..step(1, T0 + 5, Status::Retrying)
        },
        Topic::Failed,
    );
    world
        .facts(0)
        .push(fact(step(2, T0 + 25, Status::Sent), Topic::Status));
    world.stands(0, 2, T0 + 25, Status::Sent);
    world.send(0, T0 + 20, "twilio:0", true);
    world.finds(&[(Kind::RepeatedSameKey, 0, Some(Excuse::InDoubt))]);
}

#[test]
fn a_recorded_send_is_never_repeated_not_even_after_a_kill() {
    let mut world = World::of(1);
    world.send(0, T0 + 500, "twilio:0", true);
    world.fault(FaultKind::Forgets, T0 + 400, T0 + 450);
    world.finds(&[
        (Kind::RepeatedSameKey, 0, Some(Excuse::Fault)),
        (Kind::SentAfterEnd, 0, None),
    ]);
    // A process that stood still and went on can arrive that late.
    world.fault(FaultKind::Delays, T0 + 3, T0 + 450);
    world.finds(&[
        (Kind::RepeatedSameKey, 0, Some(Excuse::Fault)),
        (Kind::SentAfterEnd, 0, Some(Excuse::Fault)),
    ]);
}

#[test]
fn who_kills_from_outside_does_not_explain_what_only_a_hang_can_do() {
    let mut world = World::of(1);
    world.send(0, T0 + 500, "twilio:0", true);
    world.faults_from_outside = true;
    world.finds(&[
        (Kind::RepeatedSameKey, 0, Some(Excuse::Expected)),
        (Kind::SentAfterEnd, 0, None),
    ]);
    world.hangs_from_outside = true;
    world.finds(&[
        (Kind::RepeatedSameKey, 0, Some(Excuse::Expected)),
        (Kind::SentAfterEnd, 0, Some(Excuse::Expected)),
    ]);
}

#[test]
fn a_repeat_with_another_key_is_found_even_after_a_fault() {
    let mut world = World::of(1);
    world.send(0, T0 + 3, "twilio:1", true);
    world.finds(&[(Kind::RepeatedOtherwise, 0, None)]);
    world.fault(FaultKind::Forgets, T0 + 1, T0 + 2);
    world.finds(&[(Kind::RepeatedOtherwise, 0, None)]);
    // The repeat that the fault explains was refused; only then may the key change.
    world.send(0, T0 + 2, "twilio:0", false);
    world.finds(&[(Kind::RepeatedOtherwise, 0, Some(Excuse::Fault))]);
}

#[test]
fn another_provider_may_send_again_only_what_was_in_doubt() {
    let mut world = World::of(1);
    world.send(0, T0 + 3, "messagebird:0", true);
    world.finds(&[(Kind::RepeatedOtherwise, 0, None)]);
    world.fault(FaultKind::Forgets, T0 + 1, T0 + 2);
    world.finds(&[(Kind::RepeatedOtherwise, 0, None)]);
    world.ledgers.sends[0].answered = false;
    world.finds(&[(Kind::RepeatedOtherwise, 0, Some(Excuse::Unanswered))]);
}

#[test]
fn a_refusal_that_the_sandbox_never_saw_explains_another_key() {
    let mut world = World::of(1);
    world.send(0, T0 + 30, "twilio:1", true);
    world.fault(FaultKind::Forgets, T0 + 1, T0 + 2);
    world.ledgers.faults[0].cuts_sandbox = true;
    let repeated = (Kind::RepeatedOtherwise, 0);
    let with = |world: &World, excuse| world.finds(&[(repeated.0, repeated.1, excuse)]);
    world.facts(0)[1].step.step = 2;
    world.facts(0)[1].step.at = T0 + 35;
    world.stands(0, 2, T0 + 35, Status::Sent);
    world
        .facts(0)
        .push(fact(step(1, T0 + 10, Status::Retrying), Topic::Failed));
    // Not cut alone: the refusal must have been recorded.
    with(&world, None);
    world.facts(0)[2].step.error = Some(ErrorKind::Rejected);
    with(&world, Some(Excuse::Fault));
    world.ledgers.faults[0].cuts_sandbox = false;
    with(&world, None);
    // Who breaks things from outside may have cut it.
    world.faults_from_outside = true;
    with(&world, Some(Excuse::Fault));
}
