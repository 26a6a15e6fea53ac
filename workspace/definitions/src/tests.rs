//! What is heard and what is held.

use posthaste_event::Millis;
use serde_json::value::RawValue;

use super::*;

pub(crate) fn definition(write: &str, body: &str) -> Definition {
    Definition {
        version: 1,
        at: 1_790_000_000_000,
        by: "me".to_owned(),
        write: write.to_owned(),
        body: RawValue::from_string(body.to_owned()).unwrap(),
    }
}

fn record(key: &str, value: Option<Vec<u8>>) -> Record {
    const AT: Millis = 1_790_000_000_000;
    Record {
        partition: Partition {
            topic: Topic::Definitions,
            number: 0,
        },
        offset: 7,
        key: Some(key.as_bytes().to_vec().into()),
        value: value.map(Into::into),
        appended_at: AT,
        headers: None,
    }
}

fn put(key: &str, body: &str) -> Record {
    record(key, Some(definition("w", body).encode().unwrap().to_vec()))
}

pub(crate) fn settings() -> Settings {
    Settings {
        bytes_max: 1 << 20,
        suppressions_max: 100,
        suppressions_country_code: "1".to_owned(),
    }
}

fn definitions(bytes_max: usize) -> Definitions {
    Definitions::new(
        &[Kind::Template],
        Settings {
            bytes_max,
            ..settings()
        },
    )
}

fn bodies(definitions: &Definitions) -> Vec<(String, String)> {
    definitions
        .list(Kind::Template, "a", None, 99)
        .into_iter()
        .map(|(code, definition)| (code, definition.body.get().to_owned()))
        .collect()
}

#[test]
fn what_cannot_be_read_is_passed_over_and_the_rest_is_heard() {
    let known = definitions(1 << 20);
    known.on_news(News::Records(vec![
        put("template/a/x", "1"),
        record("template/a/x", Some(b"{".to_vec())),
        record(
            "template/a/y",
            Some(br#"{"definition":{"version":"?"}}"#.to_vec()),
        ),
        record("template", None),
        record("later/a/x", Some(b"?".to_vec())),
        put("config/a/x", "2"),
        put("template/a/z", "3"),
    ]));
    assert_eq!(
        known.check().unwrap_err(),
        "what users have defined is not read to its end yet"
    );
    known.on_news(News::AllRead);
    assert_eq!(known.check(), Ok(()));
    assert_eq!(
        bodies(&known),
        [("x".into(), "1".into()), ("z".into(), "3".into())]
    );
    assert!(
        known.get(Kind::Config, "a", "x").is_none(),
        "not a kind that is needed"
    );
    assert!(known.told.lock().unwrap().unreadable);
}

#[test]
fn what_was_known_stays_in_force_while_it_is_read_anew() {
    let known = definitions(1 << 20);
    let records = || vec![put("template/a/x", "1"), put("template/a/y", "2")];
    known.on_news(News::Records(records()));
    known.on_news(News::AllRead);
    known.on_news(News::Away("gone".into()));
    assert_eq!(bodies(&known).len(), 2);
    // `y` was withdrawn meanwhile, and its tombstone is gone, too.
    known.on_news(News::Records(vec![put("template/a/x", "0")]));
    assert_eq!(
        bodies(&known),
        [("x".into(), "1".into()), ("y".into(), "2".into())]
    );
    let mut changes = known.changes();
    known.on_news(News::Records(vec![put("template/a/x", "3")]));
    assert!(!changes.has_changed().unwrap());
    known.on_news(News::AllRead);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(bodies(&known), [("x".into(), "3".into())]);
    known.on_news(News::Records(vec![record("template/a/x", None)]));
    assert!(known.is_empty(Kind::Template) && changes.has_changed().unwrap());
}

#[test]
fn memory_is_bounded_and_what_is_not_held_is_told() {
    let known = definitions(10_000);
    let long = format!("{:?}", "x".repeat(3_000));
    known.on_news(News::Records(
        (0..9)
            .map(|number| put(&format!("template/a/{number}"), &long))
            .collect(),
    ));
    known.on_news(News::AllRead);
    assert_eq!(bodies(&known).len(), 3);
    assert!(known.check().unwrap_err().contains("definitions.bytes_max"));
    // What is withdrawn leaves room.
    known.on_news(News::Records(vec![
        record("template/a/0", None),
        put("template/a/9", &long),
    ]));
    assert_eq!(known.count(Kind::Template, "a"), 3);
}

#[test]
fn an_api_key_that_is_not_known_for_sure_is_none() {
    let settings = Settings {
        bytes_max: 8_000,
        ..settings()
    };
    let known = Definitions::new(&[Kind::ApiKey], settings);
    let long = format!("{:?}", "x".repeat(20_000));
    let is_there = |id: &str| known.api_key(id).is_some();
    known.on_news(News::Records(vec![
        put("api-key/a/1", "1"),
        put("api-key/b/2", "2"),
    ]));
    known.on_news(News::AllRead);
    assert!(is_there("1") && is_there("2") && known.unheard_for().is_zero());
    // What replaced it there is no room for, or cannot be read.
    known.on_news(News::Records(vec![
        put("api-key/a/1", &long),
        record("api-key/b/2", Some(b"{".to_vec())),
    ]));
    assert!(!is_there("1") && !is_there("2"));
    known.on_news(News::Records(vec![put("api-key/a/1", "1")]));
    known.on_news(News::Away("gone".into()));
    while known.unheard_for().is_zero() {
        std::thread::yield_now();
    }
    let before = known.unheard_for();
    known.on_news(News::Away("still".into()));
    assert!(is_there("1") && known.unheard_for() >= before);
    known.on_news(News::AllRead);
    assert!(!is_there("1") && known.unheard_for().is_zero());
}
