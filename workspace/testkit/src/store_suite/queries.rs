//! Listings, filters and counts.

#![expect(
    clippy::unwrap_used,
    reason = "a suite is test code: what cannot go on must fail"
)]

use std::collections::{BTreeMap, BTreeSet};

use posthaste_event::{Channel, Millis, Status};
use posthaste_store::{Query, Store};
use serde_json::json;

use super::apply_all;
use crate::life::{Life, NOW};

/// Walks all pages of a query.
pub async fn walk(store: &dyn Store, mut query: Query) -> Vec<(Millis, String)> {
    let mut seen = Vec::new();
    loop {
        let page = store.search(&query).await.unwrap();
        assert!(page.events.len() <= query.limit as usize);
        seen.extend(
            page.events
                .into_iter()
                .map(|event| (event.fixed.created_at, event.id)),
        );
        assert!(seen.len() < 10_000, "pages without an end");
        match page.next {
            Some(next) => query.after = Some(next),
            None => return seen,
        }
    }
}

/// Many events of the same millisecond, and others; every page size gives all of them once, newest first.
pub async fn pages_have_no_gaps_and_no_repeats(store: &dyn Store) {
    let mut wanted = Vec::new();
    let mut records = Vec::new();
    for number in 0..37_i64 {
        let life = Life::new(&format!("paged-{:02}", (number * 7) % 37)).created_at(NOW + number / 9);
        wanted.push((life.created_at, life.id.clone()));
        records.extend(life.straight());
    }
    wanted.sort();
    wanted.reverse();
    apply_all(store, &records, 50).await;
    for limit in [1, 4, 9, 36, 37, 1_000] {
        let query = Query {
            limit,
            ..Query::default()
        };
        assert_eq!(walk(store, query).await, wanted, "pages of {limit}");
    }
    let query = Query {
        created_from: Some(NOW + 1),
        created_until: Some(NOW + 3),
        status: Some(Status::Sent),
        limit: 5,
        ..Query::default()
    };
    wanted.retain(|(at, _)| (NOW + 1..NOW + 3).contains(at));
    assert_eq!(walk(store, query).await, wanted);
    let nothing = Query {
        limit: 0,
        ..Query::default()
    };
    assert_eq!(
        store.search(&nothing).await.unwrap().events.len(),
        1,
        "0 is taken as 1"
    );
}

/// A listing never holds more than a few megabytes of payloads, and still loses nothing.
pub async fn a_page_of_large_events_ends_early(store: &dyn Store) {
    let text = "x".repeat(250 * 1024);
    let mut wanted = BTreeSet::new();
    for number in 0..40 {
        let life =
            Life::new(&format!("large-{number}")).payload(json!({"message": text, "phoneNumber": "1"}));
        wanted.insert(life.id.clone());
        apply_all(store, &life.straight(), 10).await;
    }
    let query = Query {
        limit: 1_000,
        ..Query::default()
    };
    let page = store.search(&query).await.unwrap();
    assert!(
        page.events.len() < 40 && page.next.is_some(),
        "{} in one page",
        page.events.len()
    );
    let seen = walk(store, query).await;
    assert_eq!(seen.len(), 40);
    assert_eq!(
        seen.into_iter().map(|(_, id)| id).collect::<BTreeSet<_>>(),
        wanted
    );
}

/// Each filter alone, and all together.
pub async fn filters_find_what_they_name(store: &dyn Store) {
    let ours = Life::new("ours")
        .tenant("acme")
        .channel(Channel::Email)
        .correlation("order 7");
    let theirs = Life::new("theirs")
        .tenant("other")
        .correlation("order 8")
        .created_at(NOW + 1_000);
    let waiting = Life::new("waiting").created_at(NOW + 2_000);
    let mut records = ours.straight();
    records.extend(theirs.everything());
    records.push(waiting.accepted());
    apply_all(store, &records, 100).await;

    let query = |change: fn(&mut Query)| {
        let mut query = Query {
            limit: 10,
            ..Query::default()
        };
        change(&mut query);
        query
    };
    let cases: [(Query, &[&str]); 12] = [
        (query(|_| ()), &["waiting", "theirs", "ours"]),
        (query(|q| q.tenant = Some("acme".into())), &["ours"]),
        (query(|q| q.tenant = Some("acm".into())), &[]),
        (query(|q| q.status = Some(Status::Sent)), &["theirs", "ours"]),
        (query(|q| q.status = Some(Status::Pending)), &["waiting"]),
        (query(|q| q.channel = Some(Channel::Email)), &["ours"]),
        (query(|q| q.provider = Some("messagebird".into())), &["theirs"]),
        (query(|q| q.correlation_id = Some("order 7".into())), &["ours"]),
        (
            query(|q| q.created_from = Some(NOW + 1_000)),
            &["waiting", "theirs"],
        ),
        (query(|q| q.created_until = Some(NOW + 1_000)), &["ours"]),
        (
            query(|q| {
                q.tenant = Some("acme".into());
                q.status = Some(Status::Sent);
                q.channel = Some(Channel::Email);
                q.provider = Some("twilio".into());
                q.correlation_id = Some("order 7".into());
                q.created_from = Some(NOW);
                q.created_until = Some(NOW + 1);
            }),
            &["ours"],
        ),
        (
            query(|q| {
                q.tenant = Some("acme".into());
                q.status = Some(Status::Pending);
            }),
            &[],
        ),
    ];
    for (query, ids) in cases {
        let page = store.search(&query).await.unwrap();
        let found: Vec<_> = page.events.iter().map(|event| event.id.as_str()).collect();
        assert_eq!(found, ids, "{query:?}");
        assert_eq!(page.next, None);
    }
}

/// Of all, and of one tenant.
pub async fn counts_are_by_status_and_tenant(store: &dyn Store) {
    let mut records = Vec::new();
    for number in 0..5 {
        records.extend(Life::new(&format!("sent-{number}")).tenant("acme").straight());
    }
    records.push(Life::new("open-1").tenant("acme").accepted());
    records.push(Life::new("open-2").accepted());
    apply_all(store, &records, 3).await;
    let all = BTreeMap::from([(Status::Sent, 5), (Status::Pending, 2)]);
    assert_eq!(store.counts(None).await.unwrap(), all);
    let acme = BTreeMap::from([(Status::Sent, 5), (Status::Pending, 1)]);
    assert_eq!(store.counts(Some("acme")).await.unwrap(), acme);
    assert_eq!(store.counts(Some("nobody")).await.unwrap(), BTreeMap::new());
}

/// Of one tenant's events that belong together.
pub async fn a_tally_is_of_what_belongs_together(store: &dyn Store) {
    let mut records = Vec::new();
    for number in 0..4 {
        let life = Life::new(&format!("sent-{number}"))
            .tenant("acme")
            .correlation("b1");
        records.extend(life.straight());
    }
    let open = |id: &str, tenant: &str, correlation: &str| {
        Life::new(id).tenant(tenant).correlation(correlation).accepted()
    };
    records.push(open("open", "acme", "b1"));
    records.push(open("elsewhere", "other", "b1"));
    records.push(open("alone", "acme", "b2"));
    apply_all(store, &records, 5).await;
    let both = BTreeMap::from([(Status::Sent, 4), (Status::Pending, 1)]);
    assert_eq!(store.tally("acme", "b1").await.unwrap(), both);
    let one = BTreeMap::from([(Status::Pending, 1)]);
    assert_eq!(store.tally("other", "b1").await.unwrap(), one);
    assert_eq!(store.tally("acme", "b2").await.unwrap(), one);
    assert_eq!(store.tally("acme", "none").await.unwrap(), BTreeMap::new());
}
