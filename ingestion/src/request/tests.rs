//! Requests and what becomes of them. One line per case.

use std::collections::BTreeSet;

use expect_test::{Expect, expect};

use super::*;

const NOW: Millis = 1_750_000_000_000;
const SMS: &str = r#""channel":"sms","payload":{"message":"Test SMS","phoneNumber":"2025555555"}"#;

fn settings() -> Settings {
    let table: toml::Table = toml::from_str(crate::DEFAULTS).unwrap();
    table["ingestion"].clone().try_into().unwrap()
}

fn providers() -> ProviderNames {
    [
        (Channel::Sms, vec!["messagebird".to_owned(), "twilio".to_owned()]),
        (Channel::Email, vec!["sendgrid".to_owned()]),
    ]
    .into()
}

fn checked(body: &str) -> Result<Checked, Vec<FieldError>> {
    check(body.as_bytes(), "c-1", &providers(), &settings(), NOW, None)
}

fn accepts(rest: &str) -> Checked {
    checked(&format!("{{{SMS}{rest}}}")).unwrap_or_else(|errors| panic!("{rest}: {errors:?}"))
}

fn refuses(body: &str, expected: Expect) {
    let errors = checked(body).expect_err(body);
    let said: Vec<_> = errors.iter().map(ToString::to_string).collect();
    expected.assert_eq(&said.join("\n"));
}

fn refuses_beside_sms(rest: &str, expected: Expect) {
    refuses(&format!("{{{SMS},{rest}}}"), expected);
}

#[test]
fn defaults_are_complete_and_valid() {
    settings().check().unwrap();
    let wrong = Settings {
        nesting_max: 1_000,
        ..settings()
    };
    assert_eq!(wrong.check().unwrap_err().field, "ingestion.nesting_max");
}

#[test]
fn what_users_send_today_is_taken() {
    let checked = accepts(r#","metadata":{},"priority":"default""#);
    assert_eq!(checked.accepted.priority, Priority::Normal);
    assert_eq!(checked.accepted.tenant, "default");
    assert_eq!(checked.accepted.provider, None);
    assert_eq!(checked.accepted.id, checked.key);
    assert_eq!(uuid::Uuid::parse_str(&checked.key).unwrap().get_version_num(), 7);
    let view = checked.event.view().unwrap();
    assert_eq!(
        view.payload.get(),
        r#"{"message":"Test SMS","phoneNumber":"2025555555"}"#
    );
    assert_eq!(view.metadata.unwrap().get(), "{}");
}

#[test]
fn the_payload_travels_as_it_was_written() {
    let body = "{\"channel\":\"webhook\",\"payload\":{ \"url\" : \"https://e.com\",\n\"body\":{\"n\":1.0000,\"ü\":\"\\u00e4\"}}}";
    let event = checked(body).unwrap().event;
    let text = std::str::from_utf8(event.as_slice()).unwrap();
    assert!(
        text.contains("{ \"url\" : \"https://e.com\",\n\"body\":{\"n\":1.0000,\"ü\":\"\\u00e4\"}}"),
        "{text}"
    );
}

#[test]
fn everything_a_client_may_set_is_kept() {
    let checked = accepts(
        r#","eventId":"order:42","tenant":"acme","orderingKey":"a/b","priority":"critical","provider":"twilio",
            "expiresAt":"2025-06-17T00:00:00Z","policy":"no-duplicate""#,
    );
    assert_eq!(checked.key, "acme/a/b");
    let accepted = checked.accepted;
    assert_eq!(
        (accepted.id.as_str(), accepted.tenant.as_str()),
        ("acme~order:42", "acme")
    );
    assert_eq!(accepted.provider.as_deref(), Some("twilio"));
    assert_eq!(accepted.policy, Policy::NoDuplicate);
    assert_eq!(accepted.scheduled_at, None);
    assert_eq!(accepted.expires_at, Some(1_750_118_400_000));
}

#[test]
fn a_provider_in_the_metadata_counts_too() {
    let named = accepts(r#","metadata":{"provider":"twilio","more":[1]}"#);
    assert_eq!(named.accepted.provider.as_deref(), Some("twilio"));
    accepts(r#","metadata":{"provider":"twilio"},"provider":"twilio""#);
    assert_eq!(
        accepts(r#","metadata":{"provider":null}"#).accepted.provider,
        None
    );
    refuses_beside_sms(
        r#""metadata":{"provider":"twilio"},"provider":"messagebird""#,
        expect![
            "metadata.provider: names another provider than provider does; accepted: the same name, or one of the two"
        ],
    );
    refuses_beside_sms(
        r#""metadata":{"provider":7}"#,
        expect!["metadata.provider: must be text; accepted: the name of a provider"],
    );
}

#[test]
fn every_wrong_field_is_named_at_once() {
    refuses(
        r#"{"channel":"fax","payload":{},"priority":"asap","provider":"x","tenant":"a/b","eventId":"a b","shedule":1}"#,
        expect![[r#"
            channel: unknown channel "fax"; accepted: sms, email, push, slack, webhook, in_app
            priority: unknown priority "asap"; accepted: critical, high, default (or normal), low
            eventId: holds ' '; accepted: 1 to 128 letters, digits and ._:-
            tenant: holds '/'; accepted: 1 to 64 letters, digits and ._-
            shedule: is not a field; accepted: channel, payload, metadata, urgent, priority, provider, eventId, tenant, orderingKey, policy, scheduledAt, ttl, expiresAt"#]],
    );
    refuses(
        "{}",
        expect![[r#"
            channel: is missing; accepted: sms, email, push, slack, webhook, in_app
            payload: is missing; accepted: an object with what the channel needs"#]],
    );
    refuses(
        r#"{"channel":["sms"],"payload":"x","metadata":[],"priority":1}"#,
        expect![[r#"
            channel: must be text, not a list; accepted: text
            priority: must be text, not a number; accepted: text
            metadata: must be an object, not a list; accepted: a JSON object"#]],
    );
}

#[test]
fn an_unknown_provider_is_refused_with_those_of_the_channel() {
    refuses_beside_sms(
        r#""provider":"sendgrid""#,
        expect![[r#"provider: "sendgrid" is no provider of this channel; accepted: messagebird, twilio"#]],
    );
}

#[test]
fn times_have_an_offset_and_lie_in_the_coming_year() {
    for (rest, field) in [
        (r#""scheduledAt":"tomorrow""#, "scheduledAt"),
        (r#""scheduledAt":"2025-06-16T00:00:00""#, "scheduledAt"),
        (r#""scheduledAt":1750024800000"#, "scheduledAt"),
        (r#""scheduledAt":"2025-13-01T00:00:00Z""#, "scheduledAt"),
        (r#""scheduledAt":"2026-07-01T00:00:00Z""#, "scheduledAt"),
        (r#""expiresAt":"9999-01-01T00:00:00Z""#, "expiresAt"),
        (r#""expiresAt":"2020-01-01T00:00:00Z""#, "expiresAt"),
        (
            r#""scheduledAt":"2025-06-16T00:00:00Z","expiresAt":"2025-06-15T23:59:59Z""#,
            "expiresAt",
        ),
    ] {
        let errors = checked(&format!("{{{SMS},{rest}}}")).expect_err(rest);
        assert_eq!(
            errors.iter().map(|error| &error.field).collect::<Vec<_>>(),
            [field],
            "{rest}"
        );
    }
    accepts(r#","scheduledAt":"2020-01-01T00:00:00Z""#);
    let checked = accepts(r#","scheduledAt":"2025-06-16T00:00:00+02:00""#);
    assert_eq!(checked.accepted.scheduled_at, Some(1_750_024_800_000));
    refuses_beside_sms(
        r#""scheduledAt":"2025-06-16T00:00:00+02:00","orderingKey":"k""#,
        expect![
            "scheduledAt: cannot be given together with orderingKey: those behind it would have to wait for its time; accepted: one of the two"
        ],
    );
    accepts(r#","scheduledAt":null,"expiresAt":null,"provider":null"#);
}

#[test]
fn a_time_to_live_counts_from_when_the_event_may_go_out() {
    assert_eq!(accepts(r#","ttl":90"#).accepted.expires_at, Some(NOW + 90_000));
    let scheduled = accepts(r#","ttl":90,"scheduledAt":"2025-06-16T00:00:00+02:00""#);
    assert_eq!(scheduled.accepted.expires_at, Some(1_750_024_890_000));
    assert_eq!(accepts(r#","ttl":null"#).accepted.expires_at, None);
    let view = accepts(r#","ttl":90"#);
    assert_eq!(view.event.view().unwrap().expires_at, Some(NOW + 90_000));
    for wrong in ["0", "-1", "1.5", "1e8", "99999999999999999999", "31622401"] {
        refuses_beside_sms(
            &format!(r#""ttl":{wrong}"#),
            expect!["ttl: is out of range; accepted: whole seconds, from 1 to 31622400"],
        );
    }
    refuses_beside_sms(
        r#""ttl":"90""#,
        expect!["ttl: must be a number of seconds, not text; accepted: whole seconds, from 1 to 31622400"],
    );
    refuses_beside_sms(
        r#""ttl":90,"expiresAt":"2025-06-17T00:00:00Z""#,
        expect!["ttl: cannot be given together with expiresAt; accepted: one of the two"],
    );
}

#[test]
fn what_is_urgent_is_critical() {
    assert_eq!(accepts(r#","urgent":true"#).accepted.priority, Priority::Critical);
    assert_eq!(
        accepts(r#","urgent":true,"priority":"critical""#)
            .accepted
            .priority,
        Priority::Critical
    );
    assert_eq!(accepts(r#","urgent":false"#).accepted.priority, Priority::Normal);
    refuses_beside_sms(
        r#""urgent":true,"priority":"low""#,
        expect![
            "urgent: cannot be given together with the priority low; accepted: one of the two, or the priority critical"
        ],
    );
    refuses_beside_sms(
        r#""urgent":"yes""#,
        expect!["urgent: must be true or false, not text; accepted: true or false"],
    );
}

#[test]
fn what_a_doubt_means_is_for_the_client_to_say() {
    assert_eq!(accepts("").accepted.policy, Policy::NoLoss);
    assert_eq!(accepts(r#","policy":null"#).accepted.policy, Policy::NoLoss);
    assert_eq!(accepts(r#","policy":"no-loss""#).accepted.policy, Policy::NoLoss);
    refuses_beside_sms(
        r#""policy":"exactly-once""#,
        expect![[r#"policy: unknown policy "exactly-once"; accepted: no-loss, no-duplicate"#]],
    );
    refuses_beside_sms(
        r#""policy":true"#,
        expect!["policy: must be text, not true or false; accepted: text"],
    );
}

#[test]
fn what_is_no_json_text_says_where() {
    refuses(
        "",
        expect!["body: is not valid JSON at line 1, column 0; accepted: a JSON object"],
    );
    refuses(
        "{\"channel\":\"sms\",}",
        expect!["body: is not valid JSON at line 1, column 18; accepted: a JSON object"],
    );
    refuses(
        "[]",
        expect!["body: must be an object, not a list; accepted: a JSON object"],
    );
    refuses(
        &format!("{{\"metadata\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000)),
        expect!["body: is nested deeper than 64 levels; accepted: objects and lists nested up to 64 levels"],
    );
    refuses(
        &format!("{{{SMS},\"channel\":\"email\"}}"),
        expect!["channel: is given twice; accepted: each field once"],
    );
    let errors = check(b"{\"a\":\"\xff\"}", "c", &providers(), &settings(), NOW, None).unwrap_err();
    assert_eq!(errors[0].problem, "is not UTF-8 from byte 6 on");
}

#[test]
fn metadata_that_nobody_could_read_is_refused() {
    refuses_beside_sms(
        r#""metadata":{"a":"\ud800"}"#,
        expect![
            "metadata: holds a number or an escape that cannot be read; accepted: JSON with numbers of 64 bits and escapes that are characters"
        ],
    );
}

#[test]
fn an_error_never_repeats_a_huge_value() {
    let huge = "x".repeat(100_000);
    for field in [
        "channel",
        "priority",
        "provider",
        "eventId",
        "tenant",
        "orderingKey",
        "scheduledAt",
    ] {
        let body = format!("{{\"payload\":{{}},\"{field}\":\"{huge}\"}}");
        for error in checked(&body).unwrap_err() {
            assert!(error.to_string().len() < 400, "{error}");
        }
    }
}

#[test]
fn an_id_of_ours_goes_to_the_place_that_is_asked_for() {
    for (number, partitions) in [(0, 1), (0, 12), (7, 12), (11, 12), (40, 64)] {
        let place = Place { number, partitions };
        let ids: BTreeSet<String> = (0..200).map(|_| fresh_id(Some(place))).collect();
        assert_eq!(ids.len(), 200, "no two are alike");
        let there = ids.iter().filter(|id| place.takes(id.as_bytes())).count();
        assert!(there >= 190, "{there} of 200 go to {number} of {partitions}");
    }
}

#[test]
fn an_id_of_the_clients_stays_as_it_is() {
    let body = format!(r#"{{"eventId":"mine",{SMS}}}"#);
    let place = Place {
        number: 3,
        partitions: 12,
    };
    let checked = check(
        body.as_bytes(),
        "c-1",
        &providers(),
        &settings(),
        NOW,
        Some(place),
    )
    .unwrap();
    assert_eq!(checked.accepted.id, "mine");
    assert!(place.takes(checked.key.as_bytes()), "{}", checked.key);
    assert_eq!(record_key::event_id(checked.key.as_bytes()), Some("mine"));
}
