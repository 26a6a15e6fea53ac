//! What every status store must do: one suite, run on each backend by [`store_suite!`](crate::store_suite).

#![expect(
    clippy::unwrap_used,
    reason = "a suite is test code: what cannot go on must fail"
)]

mod claims;
mod devices;
mod lists;
mod outage;
mod queries;

use std::collections::BTreeMap;

use posthaste_event::{Priority, Status, Topic, Value};
use posthaste_store::{Change, Document, Fold, InboxMessage, Position, Query, State, Store, TimelineEntry};
use serde_json::json;

pub use claims::*;
pub use devices::*;
pub use lists::*;
pub use outage::*;
pub use queries::*;

use crate::life::{Life, NOW, Shuffle};

/// Makes one test of each fact. `$open` is an async function that returns a store of its own for the test, held by
/// something with a `store(&self) -> &dyn Store`, a `claims(&self) -> &dyn Claims`, a
/// `devices(&self) -> &dyn Devices` and a `lists(&self) -> &dyn Lists`.
#[macro_export]
macro_rules! store_suite {
    ($open:path) => {
        $crate::store_suite!(@each store $open:
            a_document_comes_back_whole,
            applying_again_changes_nothing,
            any_order_and_repetition_gives_the_same_documents,
            a_stale_state_never_wins,
            writers_of_one_event_do_not_disturb_each_other,
            notes_alone_make_a_document,
            several_documents_are_found_at_once,
            a_document_is_put_right_unless_it_changed,
            pages_have_no_gaps_and_no_repeats,
            a_page_of_large_events_ends_early,
            filters_find_what_they_name,
            counts_are_by_status_and_tenant,
            a_tally_is_of_what_belongs_together,
            an_inbox_takes_each_message_once,
            progress_is_kept_with_the_documents_or_not_at_all,
            hostile_ids_and_payloads_come_back_as_they_were,
            what_is_old_is_forgotten,
        );
        $crate::store_suite!(@each claims $open:
            one_of_many_is_first,
            many_keys_at_once_have_one_holder_each,
            each_key_of_a_batch_is_claimed_for_itself,
            an_unconfirmed_claim_is_taken_over_by_one,
            a_key_can_become_free_again,
        );
        $crate::store_suite!(@each devices $open:
            a_device_belongs_to_whoever_registered_it_last,
            a_user_has_so_many_devices_and_the_newest_are_kept,
            a_device_whose_time_is_over_is_forgotten,
        );
        $crate::store_suite!(@each lists $open:
            a_list_comes_back_whole_and_is_replaced,
            lists_are_each_tenants_own,
            lists_of_all_tenants_come_page_by_page,
            pages_of_no_list_are_swept,
        );
    };
    (@each $kept:ident $open:path: $($fact:ident,)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $fact() {
                let home = $open().await;
                $crate::store_suite::$fact(home.$kept()).await;
            }
        )+
    };
}

/// Folds records in batches of `batch` and applies each.
pub async fn apply_all(store: &dyn Store, values: &[Value], batch: usize) {
    for batch in values.chunks(batch.max(1)) {
        let mut fold = Fold::default();
        for value in batch {
            fold.add(value.clone());
        }
        store.apply(fold.into_changes().into(), &[]).await.unwrap();
    }
}

/// What the store should have after these records.
pub fn expected(values: &[Value]) -> BTreeMap<String, Document> {
    let mut fold = Fold::default();
    for value in values {
        fold.add(value.clone());
    }
    let changes = fold.into_changes().into_iter();
    changes
        .map(|change| (change.id.clone(), change.into_document()))
        .collect()
}

async fn assert_holds(store: &dyn Store, expected: &BTreeMap<String, Document>) {
    for (id, document) in expected {
        let found = store.event(id).await.unwrap();
        assert_eq!(found.as_ref(), Some(document), "event {id:?}");
    }
}

/// Every field of every part, written and read.
pub async fn a_document_comes_back_whole(store: &dyn Store) {
    let mut records = Life::new("whole").everything();
    records.push(Life::new("waiting").scheduled(NOW + 5_000));
    apply_all(store, &records, 100).await;
    let all = expected(&records);
    assert_holds(store, &all).await;
    let document = &all["whole"];
    assert!(document.state.is_some() && document.timeline.len() > 5 && !document.notes.is_empty());
    assert_eq!(store.event("nobody").await.unwrap(), None);
    assert_eq!(store.health(), Ok(()));
}

/// The whole history a second time, in other batches.
pub async fn applying_again_changes_nothing(store: &dyn Store) {
    let records = Life::new("again").everything();
    apply_all(store, &records, 3).await;
    apply_all(store, &records, 1).await;
    apply_all(store, &records, 100).await;
    store.apply(Vec::new().into(), &[]).await.unwrap();
    assert_holds(store, &expected(&records)).await;
}

/// Several shuffles of several events, with repetitions and batch ends anywhere.
pub async fn any_order_and_repetition_gives_the_same_documents(store: &dyn Store) {
    for seed in 1..=6 {
        shuffled(store, seed).await;
    }
}

/// One shuffle; the seed decides all of it.
pub async fn shuffled(store: &dyn Store, seed: u64) {
    let mut shuffle = Shuffle::new(seed);
    let mut records = Vec::new();
    for number in 0..3 {
        let life = Life::new(&format!("shuffled-{seed}-{number}"));
        records.extend(if shuffle.below(2) == 0 {
            life.everything()
        } else {
            life.straight()
        });
    }
    let all = expected(&records);
    let repeated: Vec<_> = records
        .iter()
        .filter(|_| shuffle.below(3) == 0)
        .cloned()
        .collect();
    records.extend(repeated);
    shuffle.shuffle(&mut records);
    let mut rest = &records[..];
    while !rest.is_empty() {
        let (batch, later) = rest.split_at((1 + shuffle.below(6)).min(rest.len()));
        apply_all(store, batch, batch.len()).await;
        rest = later;
    }
    for (id, document) in &all {
        let found = store.event(id).await.unwrap();
        assert_eq!(found.as_ref(), Some(document), "event {id:?} with seed {seed}");
    }
}

/// Older steps, and an older word on the same step, come too late.
pub async fn a_stale_state_never_wins(store: &dyn Store) {
    let state = |step, at, status| State {
        step,
        at,
        status,
        generation: 0,
        attempt: 0,
        provider: Some(format!("p{step}")),
        due_at: None,
        provider_message_id: None,
        error: None,
    };
    let entry = |at, status| TimelineEntry {
        at,
        status,
        by: "here".into(),
        generation: 0,
        attempt: 0,
        provider: None,
        account: None,
        due_at: None,
        reason: None,
        rule: None,
        replay: None,
        provider_message_id: None,
        error: None,
    };
    let said = [
        (2, NOW + 5, Status::Retrying),
        (10, NOW + 7, Status::Sent),
        (10, NOW + 6, Status::DeadLettered),
        (9, NOW + 9, Status::Retrying),
        (0, NOW + 99, Status::Pending),
    ];
    for (step, at, status) in said {
        let mut change = Change::new("stale".into(), Life::new("stale").fixed());
        change.add_state(state(step, at, status));
        change.add_step(step, entry(at, status));
        store.apply(vec![change].into(), &[]).await.unwrap();
    }
    let document = store.event("stale").await.unwrap().unwrap();
    assert_eq!(document.state, Some(state(10, NOW + 7, Status::Sent)));
    assert_eq!(document.timeline["10"], entry(NOW + 7, Status::Sent));
    let steps: Vec<_> = document.timeline.keys().map(String::as_str).collect();
    assert_eq!(steps, ["0", "10", "2", "9"]);
    let sent = Query {
        status: Some(Status::Sent),
        limit: 10,
        ..Query::default()
    };
    assert_eq!(store.search(&sent).await.unwrap().events.len(), 1);
}

/// First writes of the same events at the same time, as two projectors make them after a rebalance.
pub async fn writers_of_one_event_do_not_disturb_each_other(store: &dyn Store) {
    let records: Vec<_> = (0..20)
        .flat_map(|number| Life::new(&format!("both-{number}")).straight())
        .collect();
    let writers = (0..4).map(|seed| {
        let mut mine = records.clone();
        Shuffle::new(seed + 1).shuffle(&mut mine);
        async move { apply_all(store, &mine, 16).await }
    });
    futures_util::future::join_all(writers).await;
    assert_holds(store, &expected(&records)).await;
}

/// A note may be read before the first work record.
pub async fn notes_alone_make_a_document(store: &dyn Store) {
    let note = Life::new("noted").note("n1");
    apply_all(store, std::slice::from_ref(&note), 1).await;
    let document = store.event("noted").await.unwrap().unwrap();
    assert_eq!(document.state, None);
    assert_eq!(document.notes.len(), 1);
    assert_eq!(store.counts(None).await.unwrap(), BTreeMap::new());
    let mut records = Life::new("noted").straight();
    apply_all(store, &records, 1).await;
    records.push(note);
    assert_holds(store, &expected(&records)).await;
}

/// Those that are there, each once, whatever they are called.
pub async fn several_documents_are_found_at_once(store: &dyn Store) {
    let ids = ["a", "b.$", "", "ü"];
    let records: Vec<_> = ids.iter().flat_map(|id| Life::new(id).everything()).collect();
    apply_all(store, &records, 100).await;
    let all = expected(&records);
    let asked = ["b.$", "nobody", "", "ü"].map(str::to_owned);
    let mut found = store.events(&asked).await.unwrap();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    let wanted = ["", "b.$", "ü"].map(|id| (id.to_owned(), Some(all[id].clone())));
    assert_eq!(found, wanted);
    assert_eq!(store.events(&[]).await.unwrap(), []);
}

/// What is wrong in any part goes, and a change that came in between is not lost.
pub async fn a_document_is_put_right_unless_it_changed(store: &dyn Store) {
    for id in ["wrong", "wrong.$", ""] {
        let life = Life::new(id).payload(json!({"a.b": {"$set": [1, null]}}));
        apply_all(store, &life.everything(), 100).await;
        let wrong = store.event(id).await.unwrap().unwrap();
        let truth = expected(&life.everything()[..3]).remove(id).unwrap();
        assert!(wrong.timeline.len() > truth.timeline.len() && wrong.notes.len() > truth.notes.len());

        let mut stale = wrong.clone();
        stale.notes.clear();
        assert!(!store.replace(Some(&stale), &truth).await.unwrap());
        assert!(!store.replace(None, &truth).await.unwrap(), "it can be read");
        assert_eq!(store.event(id).await.unwrap().as_ref(), Some(&wrong));

        assert!(store.replace(Some(&wrong), &truth).await.unwrap());
        assert_eq!(store.event(id).await.unwrap().as_ref(), Some(&truth));
        assert!(
            !store.replace(Some(&wrong), &truth).await.unwrap(),
            "it changed meanwhile"
        );
        let mut poorer = truth.clone();
        (poorer.fixed.payload, poorer.state) = (None, None);
        assert!(store.replace(Some(&truth), &poorer).await.unwrap());
        assert_eq!(store.event(id).await.unwrap(), Some(poorer));

        // What is applied later comes on top, as to every document.
        apply_all(store, &life.everything(), 3).await;
        assert_eq!(store.event(id).await.unwrap(), Some(wrong));
    }
    let nobody = expected(&Life::new("nobody").straight())
        .remove("nobody")
        .unwrap();
    assert!(!store.replace(Some(&nobody), &nobody).await.unwrap());
    assert_eq!(store.event("nobody").await.unwrap(), None);
    assert_eq!(
        walk(
            store,
            Query {
                limit: 10,
                ..Query::default()
            }
        )
        .await
        .len(),
        3
    );
}

/// Twice, and by several senders at the same time, is once; the first word stays.
pub async fn an_inbox_takes_each_message_once(store: &dyn Store) {
    let message = |id: &str, at| InboxMessage {
        id: id.into(),
        tenant: "acme".into(),
        recipient: "user.1$".into(),
        title: "Hello".into(),
        body: format!("at {at}"),
        data: Some(json!({"a.b": {"$c": [1, "ü", null]}})),
        at,
    };
    for at in 0..5 {
        store
            .put_inbox(&message(&format!("m{at}"), NOW + at))
            .await
            .unwrap();
    }
    store.put_inbox(&message("m3", NOW + 100)).await.unwrap();
    let together = message("m9", NOW + 9);
    let puts = (0..8).map(|_| store.put_inbox(&together));
    for put in futures_util::future::join_all(puts).await {
        put.unwrap();
    }
    let other = InboxMessage {
        tenant: "other".into(),
        data: None,
        ..message("m10", NOW + 10)
    };
    store.put_inbox(&other).await.unwrap();

    let found = store.inbox("acme", "user.1$", 100).await.unwrap();
    let wanted: Vec<_> = [9, 4, 3, 2, 1, 0]
        .into_iter()
        .map(|at| message(&format!("m{at}"), NOW + at))
        .collect();
    assert_eq!(found, wanted);
    assert_eq!(store.inbox("acme", "user.1$", 2).await.unwrap(), wanted[..2]);
    assert_eq!(store.inbox("other", "user.1$", 2).await.unwrap(), [other]);
    assert_eq!(store.inbox("acme", "nobody", 2).await.unwrap(), []);
}

/// A store that keeps positions gives back the last of each partition.
pub async fn progress_is_kept_with_the_documents_or_not_at_all(store: &dyn Store) {
    let at = |topic, partition, offset| Position {
        topic,
        partition,
        offset,
    };
    let Some(empty) = store.progress().await.unwrap() else {
        store
            .apply(Vec::new().into(), &[at(Topic::Status, 0, 1)])
            .await
            .unwrap();
        assert_eq!(store.progress().await.unwrap(), None);
        return;
    };
    assert_eq!(empty, []);
    store
        .apply(
            Vec::new().into(),
            &[at(Topic::Status, 0, 7), at(Topic::Default, 3, 1)],
        )
        .await
        .unwrap();
    store
        .apply(Vec::new().into(), &[at(Topic::Status, 0, 9)])
        .await
        .unwrap();
    let mut kept = store.progress().await.unwrap().unwrap();
    kept.sort_by_key(|position| (position.topic, position.partition));
    assert_eq!(kept, [at(Topic::Default, 3, 1), at(Topic::Status, 0, 9)]);
}

/// What people call things, and what they put into payloads.
pub async fn hostile_ids_and_payloads_come_back_as_they_were(store: &dyn Store) {
    let ids = [
        "a.b",
        "$set",
        "",
        " ",
        "timeline.0",
        "ключ ✓ 🚀",
        "a\0b",
        "'; DROP TABLE events; --",
        "%json",
        "../x",
    ];
    let mut deep = json!("bottom");
    for level in 0..100 {
        deep = if level % 2 == 0 {
            json!([deep])
        } else {
            json!({"d": deep})
        };
    }
    let payloads = [
        json!({"a.b": 1, "$set": {"$where": "1"}, "": {"": 1}}),
        json!({"$oid": "507f1f77bcf86cd799439011"}),
        json!({"$sealed": {"kid": "k1", "alg": "A256GCM", "nonce": "n", "data": "ZGF0YQ=="}}),
        json!({"nul\0": "nul\0", "%json": "{}"}),
        json!({"u64": u64::MAX, "i64": i64::MIN, "float": 1.0, "tiny": 5e-324, "null": null}),
        json!({"text": "ü🚀\u{200f}\\\"'\n".repeat(20_000)}),
        json!({"list": vec![json!(1); 60_000]}),
        deep,
        json!("only text"),
        json!(["a", {"b": []}, {}]),
    ];
    let mut records = Vec::new();
    for (id, payload) in ids.into_iter().zip(payloads) {
        let life = Life::new(id).correlation(id).payload(payload);
        records.extend(life.straight());
        records.extend(ids.map(|note| life.note(note)));
    }
    apply_all(store, &records, 7).await;
    let all = expected(&records);
    assert_eq!(all.len(), ids.len());
    assert_holds(store, &all).await;
    let seen = walk(
        store,
        Query {
            limit: 3,
            ..Query::default()
        },
    )
    .await;
    assert_eq!(seen.len(), ids.len());
    let named = Query {
        correlation_id: Some("$set".into()),
        limit: 3,
        ..Query::default()
    };
    assert_eq!(store.search(&named).await.unwrap().events.len(), 1);
}

/// By the latest time that an event names, and no more than asked for.
pub async fn what_is_old_is_forgotten(store: &dyn Store) {
    let mut records = Vec::new();
    for number in 0..5 {
        records.extend(Life::new(&format!("old-{number}")).created_at(NOW).straight());
    }
    records.extend(Life::new("young").created_at(NOW + 1_000_000).straight());
    // Accepted with the old ones, due long after: it is not old before its day.
    records.push(
        Life::new("waits")
            .priority(Priority::Low)
            .scheduled(NOW + 2_000_000),
    );
    apply_all(store, &records, 100).await;
    let message = InboxMessage {
        id: "m1".into(),
        tenant: "acme".into(),
        recipient: "r".into(),
        title: "t".into(),
        body: "b".into(),
        data: None,
        at: NOW,
    };
    store.put_inbox(&message).await.unwrap();
    let before = NOW + 500_000;
    assert_eq!(
        store.forget(before, 3).await.unwrap(),
        4,
        "three events and the message"
    );
    assert_eq!(store.forget(before, 3).await.unwrap(), 2);
    assert_eq!(store.forget(before, 3).await.unwrap(), 0);
    let left = walk(
        store,
        Query {
            limit: 10,
            ..Query::default()
        },
    )
    .await;
    assert_eq!(
        left,
        [(NOW + 1_000_000, "young".to_owned()), (NOW, "waits".to_owned())]
    );
    assert_eq!(store.inbox("acme", "r", 10).await.unwrap(), []);
    assert_eq!(store.event("old-0").await.unwrap(), None);
}
