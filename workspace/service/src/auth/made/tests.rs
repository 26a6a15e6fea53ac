//! Keys that were made over HTTP, as the topic tells of them.

use posthaste_broker::{News, Partition, Record};
use posthaste_definitions::{DEFAULTS, Kind, Settings};
use posthaste_event::{
    Topic,
    definition::{Definition, Key},
};

use super::*;
use crate::auth::{Minted, api_key::mint, mint_again};

const NOW: Millis = 1_800_000_000_000;

fn kept(minted: &Minted) -> Kept {
    Kept {
        name: "shop".to_owned(),
        hash: minted.hash.clone(),
        roles: vec![Role::Send],
        channels: Some(vec![Channel::Sms]),
        configs: Some(vec!["shop".to_owned()]),
        expires_at: None,
        created_at: NOW,
        created_by: "me".to_owned(),
        former: Vec::new(),
    }
}

fn record(tenant: &str, id: &str, body: Option<&str>) -> Record {
    let definition = body.map(|body| Definition {
        version: 1,
        at: NOW,
        by: "me".to_owned(),
        write: "w".to_owned(),
        body: serde_json::from_str(body).unwrap(),
    });
    Record {
        partition: Partition {
            topic: Topic::Definitions,
            number: 0,
        },
        offset: 0,
        key: Some(Key::new(Kind::ApiKey, tenant, id).unwrap().encode().into()),
        value: definition.map(|definition| definition.encode().unwrap()),
        appended_at: NOW,
        headers: None,
    }
}

fn put(tenant: &str, id: &str, kept: &Kept) -> News {
    let body = serde_json::to_string(kept).unwrap();
    News::Records(vec![record(tenant, id, Some(&body))])
}

/// Keys that go by the definitions, trusted for a day.
fn made() -> (Arc<Definitions>, Made) {
    let table: toml::Table = toml::from_str(DEFAULTS).unwrap();
    let settings: Settings = table["definitions"].clone().try_into().unwrap();
    let definitions = Arc::new(Definitions::new(&[Kind::ApiKey], settings));
    let made = Made::new(Arc::clone(&definitions), Duration::from_secs(86_400));
    (definitions, made)
}

fn told(found: &Found) -> String {
    match found {
        Found::Good(principal) => format!("{} of {:?}", principal.name, principal.tenants),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_key_is_good_from_when_it_is_read_until_it_is_revoked_and_never_before_all_was_read() {
    let (definitions, made) = made();
    let (key, other) = (mint().unwrap(), mint().unwrap());
    let good = format!("shop ({}) of One(\"acme\")", key.id);
    let ask = |key: &str| told(&made.find(key, NOW));
    definitions.on_news(put("acme", &key.id, &kept(&key)));
    // A tombstone for it may come yet.
    assert_eq!(ask(&key.key), "Unread");
    assert_eq!(ask("no key at all"), "Unknown");
    definitions.on_news(News::AllRead);
    assert_eq!(ask(&key.key), good);
    for wrong in [
        other.key.clone(),
        mint_again(&key.id).unwrap().key,
        key.key[..key.key.len() - 1].to_owned(),
        format!("{}x", key.key),
        key.key.to_uppercase(),
        format!("ph_{}_", key.id),
    ] {
        assert_eq!(ask(&wrong), "Unknown", "{wrong}");
    }
    definitions.on_news(News::Records(vec![record("acme", &key.id, None)]));
    assert_eq!(ask(&key.key), "Unknown");
    // Another tenant's record about an id that is not its own takes nothing away.
    definitions.on_news(put("acme", &key.id, &kept(&key)));
    definitions.on_news(News::Records(vec![record("globex", &key.id, None)]));
    assert_eq!(ask(&key.key), good);
}

#[test]
fn a_secret_that_was_replaced_is_good_for_its_time_and_a_key_until_its_end() {
    let (definitions, made) = made();
    let old = mint().unwrap();
    let new = mint_again(&old.id).unwrap();
    let former = Former {
        hash: old.hash.clone(),
        until: NOW + 1_000,
    };
    let kept = Kept {
        expires_at: Some(NOW + 5_000),
        former: vec![former],
        ..kept(&new)
    };
    definitions.on_news(put("acme", &old.id, &kept));
    definitions.on_news(News::AllRead);
    for (now, with_old, with_new) in [
        (NOW + 999, true, true),
        (NOW + 1_000, false, true),
        (NOW + 4_999, false, true),
        (NOW + 5_000, false, false),
    ] {
        let is_good = |key: &str| matches!(made.find(key, now), Found::Good(_));
        let is_over = |key: &str| matches!(made.find(key, now), Found::Over);
        assert_eq!(
            (is_good(&old.key), is_good(&new.key)),
            (with_old, with_new),
            "{now}"
        );
        assert_eq!(
            (is_over(&old.key), is_over(&new.key)),
            (!with_old, !with_new),
            "{now}"
        );
    }
}

#[test]
fn what_is_no_key_of_this_version_opens_nothing() {
    let (definitions, made) = made();
    let key = mint().unwrap();
    definitions.on_news(News::AllRead);
    let good = serde_json::to_value(kept(&key)).unwrap();
    for (field, wrong) in [
        ("roles", serde_json::json!(["send", "emperor"])),
        ("roles", serde_json::json!("admin")),
        ("channels", serde_json::json!(["fax"])),
        ("configs", serde_json::json!("shop")),
        ("templates", serde_json::json!(["a limit of a later version"])),
        ("hash", serde_json::json!("00")),
        ("hash", serde_json::json!(null)),
        ("expiresAt", serde_json::json!("never")),
        ("former", serde_json::json!([{"hash": "x", "until": 1}])),
    ] {
        let mut body = good.clone();
        body[field] = wrong;
        definitions.on_news(News::Records(vec![record(
            "acme",
            &key.id,
            Some(&body.to_string()),
        )]));
        assert_eq!(told(&made.find(&key.key, NOW)), "Unknown", "{body}");
    }
    definitions.on_news(News::Records(vec![record(
        "acme",
        &key.id,
        Some(&good.to_string()),
    )]));
    assert!(matches!(made.find(&key.key, NOW), Found::Good(_)));
}

#[test]
fn while_nothing_is_heard_keys_are_trusted_for_a_time_and_one_limit_is_for_all_of_a_tenant() {
    let (definitions, made) = made();
    let strict = Made::new(Arc::clone(&definitions), Duration::ZERO);
    let (one, two, other) = (mint().unwrap(), mint().unwrap(), mint().unwrap());
    for (tenant, key) in [("acme", &one), ("acme", &two), ("globex", &other)] {
        definitions.on_news(put(tenant, &key.id, &kept(key)));
    }
    definitions.on_news(News::AllRead);
    let window = |key: &Minted| match made.find(&key.key, NOW) {
        Found::Good(principal) => Arc::clone(&principal.window),
        other => panic!("{other:?}"),
    };
    assert!(Arc::ptr_eq(&window(&one), &window(&two)));
    assert!(!Arc::ptr_eq(&window(&one), &window(&other)));
    definitions.on_news(News::Away("gone".to_owned()));
    while definitions.unheard_for().is_zero() {
        std::thread::yield_now();
    }
    assert!(matches!(made.find(&one.key, NOW), Found::Good(_)));
    assert!(matches!(strict.find(&one.key, NOW), Found::Unread));
    // It was revoked meanwhile: read anew, it is not there.
    definitions.on_news(News::AllRead);
    assert!(matches!(strict.find(&one.key, NOW), Found::Unknown));
    assert!(matches!(made.find(&one.key, NOW), Found::Unknown));
}
