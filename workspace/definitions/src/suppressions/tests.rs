//! What is heard of suppressions, and what is held.

use posthaste_broker::Partition;

use super::*;

const NOW: Millis = 1_790_000_000_000;

fn settings(most: usize) -> Settings {
    Settings {
        suppressions_max: most,
        ..crate::tests::settings()
    }
}

fn record(key: String, value: Option<bytes::Bytes>) -> Record {
    Record {
        partition: Partition {
            topic: Topic::Definitions,
            number: 0,
        },
        offset: 1,
        key: Some(key.into()),
        value,
        appended_at: NOW,
        headers: None,
    }
}

fn suppress(known: &Suppressions, recipient: &str, reason: Reason, until: Option<Millis>) -> Record {
    let (id, shown) = known.id("a", Channel::Email, recipient).unwrap();
    let body = Body {
        reason,
        recipient: shown,
        source: None,
        until,
    };
    record(
        key(("a", Channel::Email, id)),
        Some(body.encode("me", "w".to_owned(), NOW)),
    )
}

fn release(known: &Suppressions, recipient: &str) -> Record {
    let (id, _) = known.id("a", Channel::Email, recipient).unwrap();
    record(key(("a", Channel::Email, id)), None)
}

fn reason(known: &Suppressions, recipient: &str) -> Option<Reason> {
    known.reason("a", Channel::Email, recipient, NOW)
}

#[test]
fn who_is_suppressed_is_found_in_any_spelling_until_its_time_is_over_or_it_is_let_go() {
    let known = Suppressions::new(settings(100), false);
    assert!(known.is_empty() && known.check().is_err());
    let records = vec![
        suppress(&known, "ann@example.com", Reason::Bounced, None),
        suppress(&known, "bob@example.com", Reason::Unsubscribed, Some(NOW + 1)),
        suppress(&known, "old@example.com", Reason::Unsubscribed, Some(NOW)),
        record("template/a/x".to_owned(), Some("?".into())),
        record("suppression/a/email/x".to_owned(), Some("?".into())),
    ];
    known.on_news(News::Records(records), NOW);
    known.on_news(News::AllRead, NOW);
    assert_eq!(known.check(), Ok(()));
    assert_eq!(reason(&known, "Ann <ANN@example.com>"), Some(Reason::Bounced));
    assert_eq!(reason(&known, "bob@example.com"), Some(Reason::Unsubscribed));
    assert_eq!(
        known.reason("a", Channel::Email, "bob@example.com", NOW + 1_000),
        None
    );
    assert_eq!(reason(&known, "old@example.com"), None);
    assert_eq!(known.reason("b", Channel::Email, "ann@example.com", NOW), None);
    assert_eq!(known.reason("a", Channel::Slack, "ann@example.com", NOW), None);
    assert!(
        known.has("a", Channel::Email) && !known.has("a", Channel::Sms) && !known.has("b", Channel::Email)
    );
    known.on_news(News::Records(vec![release(&known, "ann@example.com")]), NOW);
    assert_eq!(reason(&known, "ann@example.com"), None);
    known.on_news(News::Records(vec![release(&known, "bob@example.com")]), NOW);
    assert!(known.is_empty());
}

#[test]
fn an_outage_lets_nobody_go_who_was_not_let_go() {
    let known = Suppressions::new(settings(100), false);
    let ann = || suppress(&known, "ann@example.com", Reason::Bounced, None);
    let bob = || suppress(&known, "bob@example.com", Reason::Bounced, None);
    known.on_news(News::Records(vec![ann(), bob()]), NOW);
    known.on_news(News::AllRead, NOW);
    known.on_news(News::Away("gone".into()), NOW);
    // Ann's whole history is told again; Bob was let go meanwhile, and nothing is left of him.
    known.on_news(
        News::Records(vec![ann(), release(&known, "ann@example.com")]),
        NOW,
    );
    assert_eq!(reason(&known, "ann@example.com"), Some(Reason::Bounced));
    known.on_news(News::Records(vec![ann()]), NOW);
    assert_eq!(reason(&known, "bob@example.com"), Some(Reason::Bounced));
    known.on_news(News::AllRead, NOW);
    assert_eq!(reason(&known, "ann@example.com"), Some(Reason::Bounced));
    assert_eq!(reason(&known, "bob@example.com"), None);
}

#[test]
fn their_number_is_bounded_and_what_is_not_held_is_told() {
    let known = Suppressions::new(settings(4), true);
    let over = suppress(&known, "over@example.com", Reason::Manual, Some(NOW + 1));
    known.on_news(News::Records(vec![over]), NOW);
    let later = NOW + 1_001;
    let numbered = |number: usize| format!("{number}@example.com");
    let records = (0..5).map(|number| suppress(&known, &numbered(number), Reason::Manual, None));
    known.on_news(News::Records(records.collect()), later);
    known.on_news(News::AllRead, later);
    // Whose time was over has made room.
    assert_eq!(known.check(), Ok(()));
    let more = suppress(&known, &numbered(5), Reason::Manual, None);
    let again = suppress(&known, &numbered(0), Reason::Bounced, None);
    known.on_news(News::Records(vec![more, again]), later);
    assert!(
        known
            .check()
            .unwrap_err()
            .contains("definitions.suppressions_max")
    );
    assert_eq!(reason(&known, &numbered(0)), Some(Reason::Bounced));
    let listed = known.list("a", None, None, later, 100);
    assert_eq!(listed.len(), 5);
    assert!(
        listed
            .iter()
            .all(|shown| shown.recipient.ends_with("***@example.com") && shown.by == "me")
    );
}
