//! What the rules decide, case by case, and that they decide whatever comes.

use expect_test::{Expect, expect};
use posthaste_event::{Channel, Priority, delivery::Accepted};
use proptest::prelude::*;

use super::*;

mod examples;
mod refusals;

fn case(channel: Channel, provider: &str) -> Case {
    Case {
        channel,
        provider: provider.to_owned(),
        tenant: "default".to_owned(),
        priority: Priority::Normal,
        kind: ErrorKind::Rejected,
        code: Some("503".to_owned()),
        retry_after_ms: None,
        tries: 1,
        age_ms: 0,
        pinned: false,
        policy: Policy::NoLoss,
    }
}

/// The schedule without its first line, which names the version, and without the lines where the rules stand.
fn check(rules: &Rules, case: &Case, expected: Expect) {
    let mut explanation = rules.explain(case);
    for step in &mut explanation.steps {
        step.line = None;
    }
    let words = explanation.to_string();
    expected.assert_eq(words.split_once('\n').map_or("", |(_, steps)| steps));
}

fn shipped(case: &Case, expected: Expect) {
    check(&Rules::shipped().unwrap(), case, expected);
}

fn custom(text: &str) -> Rules {
    Rules::parse(text, "test").unwrap()
}

fn failed(kind: ErrorKind, provider: &str, at: Millis) -> Delivery {
    let accepted = Accepted {
        id: "e1".into(),
        correlation_id: "c1".into(),
        tenant: "default".into(),
        channel: Channel::Sms,
        priority: Priority::Normal,
        provider: None,
        scheduled_at: None,
        expires_at: None,
        policy: Policy::NoLoss,
    };
    let failure = Failure::new(kind, provider, None, "busy");
    Delivery::accepted(accepted, "here", at)
        .0
        .failed(provider, provider, failure, "here", at)
}

#[test]
fn twilio_fails_over_to_messagebird() {
    shipped(
        &case(Channel::Sms, "twilio"),
        expect![[r#"
            send 1 by twilio fails: retry in 1s via twilio (rule sms-twilio)
            send 2 by twilio fails: retry in 1s via twilio (rule sms-twilio)
            send 3 by twilio fails: retry in 1s via messagebird (rule sms-twilio)
            send 4 by messagebird fails: retry in 2s via messagebird (rule sms-messagebird)
            send 5 by messagebird fails: dead-letter, its tries are used up (rule sms-messagebird)
        "#]],
    );
}

#[test]
fn firebase_fails_over_to_onesignal() {
    shipped(
        &case(Channel::Push, "firebase"),
        expect![[r#"
            send 1 by firebase fails: retry in 2s via firebase (rule push-firebase)
            send 2 by firebase fails: retry in 2s via onesignal (rule push-firebase)
            send 3 by onesignal fails: retry in 3s via onesignal (rule push-onesignal)
            send 4 by onesignal fails: retry in 3s via onesignal (rule push-onesignal)
            send 5 by onesignal fails: dead-letter, its tries are used up (rule push-onesignal)
        "#]],
    );
}

#[test]
fn sendgrid_fails_over_to_mailgun() {
    shipped(
        &case(Channel::Email, "sendgrid"),
        expect![[r#"
            send 1 by sendgrid fails: retry in 1.5s via sendgrid (rule email-sendgrid)
            send 2 by sendgrid fails: retry in 1.5s via sendgrid (rule email-sendgrid)
            send 3 by sendgrid fails: retry in 1.5s via mailgun (rule email-sendgrid)
            send 4 by mailgun fails: retry in 5s via mailgun (rule email-mailgun)
            send 5 by mailgun fails: retry in 5s via mailgun (rule email-mailgun)
            send 6 by mailgun fails: retry in 5s via mailgun (rule email-mailgun)
            send 7 by mailgun fails: retry in 5s via mailgun (rule email-mailgun)
            send 8 by mailgun fails: dead-letter, its tries are used up (rule email-mailgun)
        "#]],
    );
}

#[test]
fn the_other_channels_have_rules_of_their_own() {
    shipped(
        &case(Channel::Slack, "slack"),
        expect![[r#"
            send 1 by slack fails: retry in 800ms to 1.2s via slack (rule slack)
            send 2 by slack fails: retry in 1.6s to 2.4s via slack (rule slack)
            send 3 by slack fails: retry in 3.2s to 4.8s via slack (rule slack)
            send 4 by slack fails: dead-letter, its tries are used up (rule slack)
        "#]],
    );
    shipped(
        &case(Channel::InApp, "in_app"),
        expect![[r#"
            send 1 by in_app fails: retry in 1s via in_app (rule in-app)
            send 2 by in_app fails: retry in 1s via in_app (rule in-app)
            send 3 by in_app fails: dead-letter, its tries are used up (rule in-app)
        "#]],
    );
    shipped(
        &Case {
            priority: Priority::Low,
            ..case(Channel::Webhook, "webhook")
        },
        expect![[r#"
            send 1 by webhook fails: retry in 12m to 18m via webhook (rule webhook-low)
            send 2 by webhook fails: dead-letter, its tries are used up (rule webhook-low)
        "#]],
    );
    shipped(
        &case(Channel::Webhook, "webhook"),
        expect![[r#"
            send 1 by webhook fails: retry in 1.6s to 2.4s via webhook (rule webhook)
            send 2 by webhook fails: retry in 4.8s to 7.2s via webhook (rule webhook)
            send 3 by webhook fails: retry in 14.4s to 21.6s via webhook (rule webhook)
            send 4 by webhook fails: retry in 43.2s to 1m 4s via webhook (rule webhook)
            send 5 by webhook fails: dead-letter, its tries are used up (rule webhook)
        "#]],
    );
    shipped(
        &case(Channel::Sms, "another"),
        expect![[r#"
            send 1 by another fails: retry in 1.6s to 2.4s via another (rule all-else)
            send 2 by another fails: retry in 3.2s to 4.8s via another (rule all-else)
            send 3 by another fails: dead-letter, its tries are used up (rule all-else)
        "#]],
    );
}

#[test]
fn a_pinned_event_never_fails_over() {
    shipped(
        &Case {
            tries: 3,
            pinned: true,
            ..case(Channel::Sms, "twilio")
        },
        expect![[r#"
            send 3 by twilio fails: dead-letter, its tries are used up (rule sms-twilio)
        "#]],
    );
}

#[test]
fn a_permanent_error_ends_at_once_unless_a_rule_names_it() {
    let permanent = Case {
        kind: ErrorKind::Permanent,
        ..case(Channel::Sms, "twilio")
    };
    shipped(
        &permanent,
        expect![[r#"
            send 1 by twilio fails: dead-letter, no rule names errors of the kind permanent
        "#]],
    );
    let rules = custom(
        r#"
        [[rule]]
        id = "unsure"
        match = { error = ["permanent"], code = ["50*"] }
        tries = 2
        backoff = { kind = "fixed", delay = "7s" }
        [[rule]]
        id = "else"
        tries = 1
        backoff = { kind = "fixed", delay = "1s" }
        "#,
    );
    check(
        &rules,
        &permanent,
        expect![[r#"
            send 1 by twilio fails: retry in 7s via twilio (rule unsure)
            send 2 by twilio fails: dead-letter, its tries are used up (rule unsure)
        "#]],
    );
}

#[test]
fn a_provider_that_asks_to_wait_gets_its_wait_within_bounds() {
    let mut limited = Case {
        kind: ErrorKind::RateLimited,
        retry_after_ms: Some(90_000),
        tries: 2,
        ..case(Channel::Sms, "twilio")
    };
    let words = |case: &Case| {
        let explained = Rules::shipped().unwrap().explain(case);
        explained.steps.first().and_then(|step| step.wait_ms)
    };
    assert_eq!(words(&limited), Some((90_000, 90_000)));
    limited.retry_after_ms = Some(u32::MAX);
    assert_eq!(words(&limited), Some((3_600_000, 3_600_000)));
    limited.retry_after_ms = Some(0);
    assert_eq!(words(&limited), Some((1_000, 1_000)));
    // Jitter may only make it longer, and the new provider owes the old one nothing.
    limited.retry_after_ms = Some(90_000);
    limited.channel = Channel::Slack;
    assert_eq!(words(&limited), Some((90_000, 108_000)));
    limited.channel = Channel::Sms;
    limited.tries = 3;
    assert_eq!(words(&limited), Some((1_000, 1_000)));
}

#[test]
fn in_doubt_the_events_policy_decides() {
    shipped(
        &Case {
            kind: ErrorKind::Ambiguous,
            policy: Policy::NoDuplicate,
            ..case(Channel::Sms, "twilio")
        },
        expect![[r#"
            send 1 by twilio fails: dead-letter, the policy no-duplicate forbids another send (rule sms-twilio)
        "#]],
    );
    shipped(
        &Case {
            kind: ErrorKind::Ambiguous,
            tries: 2,
            ..case(Channel::Sms, "twilio")
        },
        expect![[r#"
            send 2 by twilio fails: retry in 1s via twilio (rule sms-twilio)
            send 3 by twilio fails: retry in 1s via messagebird (rule sms-twilio)
            send 4 by messagebird fails: retry in 2s via messagebird (rule sms-messagebird)
            send 5 by messagebird fails: dead-letter, its tries are used up (rule sms-messagebird)
        "#]],
    );
}

#[test]
fn nothing_outlives_max_age() {
    let day = 86_400_000;
    shipped(
        &Case {
            age_ms: 3 * day - 500,
            ..case(Channel::Sms, "twilio")
        },
        expect![[r#"
            send 1 by twilio fails: dead-letter, under way for longer than max_age, 3d; the last failure: rejected,  (rule sms-twilio)
        "#]],
    );
    let rules = Rules::shipped().unwrap();
    let waiting = failed(ErrorKind::Rejected, "twilio", 0);
    assert!(rules.outlived(&waiting, 3 * day as i64 - 1).is_none());
    let (failure, rule) = rules.outlived(&waiting, 3 * day as i64).unwrap();
    assert_eq!(
        (failure.kind, failure.code.as_deref(), rule.id.as_str()),
        (ErrorKind::Rules, Some("max_age"), "sms-twilio")
    );
}

#[test]
fn two_rules_that_point_at_each_other_come_to_an_end() {
    let rules = custom(
        r#"
        [[rule]]
        id = "a"
        match = { provider = ["a"] }
        tries = 1
        backoff = { kind = "fixed", delay = "1s" }
        failover = { provider = "b", delay = "0s" }
        [[rule]]
        id = "b"
        tries = 2
        backoff = { kind = "list", delays = ["1s", "5s"] }
        failover = { provider = "a", delay = "0s" }
        "#,
    );
    check(
        &rules,
        &case(Channel::Sms, "a"),
        expect![[r#"
            send 1 by a fails: retry in 0ms via b (rule a)
            send 2 by b fails: retry in 1s via b (rule b)
            send 3 by b fails: dead-letter, its tries are used up (rule b)
        "#]],
    );
}

#[test]
fn rules_can_depend_on_age_and_tenant() {
    let rules = custom(
        r#"
        version = "7"
        [[rule]]
        id = "old"
        match = { older_than = "1h", tenant = ["acme-*"] }
        tries = 5
        backoff = { kind = "fixed", delay = "10m" }
        [[rule]]
        id = "else"
        tries = 1
        backoff = { kind = "fixed", delay = "1s" }
        "#,
    );
    let decided = |tenant: &str, age_ms| {
        let mut delivery = failed(ErrorKind::Rejected, "twilio", 0);
        delivery.tenant = tenant.to_owned();
        match rules.decide(&delivery, age_ms, 1) {
            Verdict::Retry { rule, due, .. } => (rule.id, rule.version, due),
            Verdict::DeadLetter { rule, .. } => (rule.unwrap().id, "dead".to_owned(), 0),
        }
    };
    // The wait counts from the failure and is over already.
    assert_eq!(
        decided("acme-eu", 3_600_001),
        ("old".into(), "7".into(), 3_600_001)
    );
    assert_eq!(decided("acme-eu", 3_600_000), ("else".into(), "dead".into(), 0));
    assert_eq!(decided("other", 3_600_001), ("else".into(), "dead".into(), 0));
}

#[test]
fn the_version_follows_the_text_unless_the_file_has_its_own() {
    let rules = Rules::shipped().unwrap();
    assert_eq!(rules.version().len(), 16);
    let changed = Rules::parse(&format!("{SHIPPED}\n# one more line\n"), "changed").unwrap();
    assert_ne!(rules.version(), changed.version());
}

#[test]
fn unknown_providers_are_named_with_their_line() {
    let known = ["firebase", "onesignal", "twilio", "messagebird", "sendgrid"];
    let faults = Rules::shipped().unwrap().unknown_providers(&known);
    let line = |needle: &str| SHIPPED.lines().position(|line| line == needle).unwrap() + 1;
    assert_eq!(
        faults.iter().map(|fault| fault.line).collect::<Vec<_>>(),
        [
            line(r#"failover = { provider = "mailgun", delay = "1.5s" }"#),
            line(r#"id = "email-mailgun""#)
        ]
    );
    assert!(
        faults[0].to_string().contains(r#"unknown provider "mailgun""#),
        "{}",
        faults[0]
    );
}

fn any_kind() -> impl Strategy<Value = ErrorKind> {
    prop::sample::select(ErrorKind::ALL.to_vec())
}

prop_compose! {
    fn any_delivery()(
        kind in any_kind(),
        channel in prop::sample::select(Channel::ALL.to_vec()),
        provider in prop::option::of(prop::sample::select(vec!["twilio", "firebase", "mailgun", "x", ""])),
        at in any::<i64>(),
        since in any::<i64>(),
        tries in any::<u32>(),
        attempt in any::<u32>(),
        retry_after in prop::option::of(any::<u32>()),
        pinned in any::<bool>(),
        without_error in prop::bool::weighted(0.05),
    ) -> Delivery {
        let mut delivery = failed(kind, "twilio", 0);
        delivery.channel = channel;
        delivery.provider = provider.map(str::to_owned);
        delivery.at = at;
        delivery.since = since;
        delivery.attempt = attempt;
        delivery.pinned = pinned;
        let mut twice = delivery.sends["twilio"].clone();
        twice.tries = tries;
        delivery.sends.insert("twilio-2".to_owned(), twice);
        if let Some(error) = &mut delivery.error {
            error.retry_after_ms = retry_after;
        }
        if without_error {
            delivery.error = None;
        }
        delivery
    }
}

proptest! {
    #[test]
    fn whatever_comes_gets_a_verdict_that_keeps_its_promises(
        delivery in any_delivery(), now in any::<i64>(), seed in any::<u64>(),
    ) {
        let rules = Rules::shipped().unwrap();
        let verdict = rules.decide(&delivery, now, seed);
        prop_assert_eq!(&verdict, &rules.decide(&delivery, now, seed));
        if let Verdict::Retry { due, provider, .. } = verdict {
            prop_assert!(due >= now);
            prop_assert!(provider.is_none() || !delivery.pinned);
            let age = i128::from(due) - i128::from(delivery.since);
            prop_assert!(age < i128::from(MAX_AGE_DEFAULT_MS));
        }
        rules.outlived(&delivery, now);
    }

    #[test]
    fn every_failure_comes_to_an_end(delivery in any_delivery(), now in 0..i64::MAX / 2) {
        let explained = Rules::shipped().unwrap().explain_delivery(delivery, now);
        prop_assert_eq!(explained.steps.last().map(|step| step.then), Some("dead_letter"));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        let _ = Rules::parse(&text, "any");
    }

    #[test]
    fn no_damaged_file_makes_the_reader_panic(at in 0..SHIPPED.len(), with in "\\PC{0,6}", cut in 0..40_usize) {
        let end = (at + cut).min(SHIPPED.len());
        if let (Some(before), Some(after)) = (SHIPPED.get(..at), SHIPPED.get(end..)) {
            let _ = Rules::parse(&format!("{before}{with}{after}"), "damaged");
        }
    }
}
