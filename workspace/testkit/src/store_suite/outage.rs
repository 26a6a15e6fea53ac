//! A store that goes away and comes back.

#![expect(clippy::panic, reason = "a suite is test code: what cannot go on must fail")]

use std::time::Duration;

use posthaste_store::{Change, InboxMessage, Query, Store, StoreError};

use crate::life::{Life, NOW};

/// Waits until the store says that it is well.
pub async fn until_well(store: &dyn Store) {
    until(
        || store.health().is_ok(),
        || format!("the store is not well: {:?}", store.health()),
    )
    .await;
}

/// Waits until the store says that it is not.
pub async fn until_away(store: &dyn Store) {
    until(
        || store.health().is_err(),
        || "the store still says that it is well".to_owned(),
    )
    .await;
}

async fn until(condition: impl Fn() -> bool, otherwise: impl Fn() -> String) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(30), wait).await.is_err() {
        panic!("{}", otherwise());
    }
}

/// For a store that cannot be reached: each call ends within its limit, and says that trying again can help.
pub async fn every_call_ends_while_it_is_away(store: &dyn Store) {
    let change = Change::new("away".into(), Life::new("away").fixed());
    let message = InboxMessage {
        id: "away".into(),
        tenant: "t".into(),
        recipient: "r".into(),
        title: "t".into(),
        body: "b".into(),
        data: None,
        at: NOW,
    };
    let query = Query::default();
    let ids = ["away".to_owned()];
    let document = change.clone().into_document();
    let calls: [(&str, futures_util::future::BoxFuture<'_, Option<StoreError>>); 9] = [
        (
            "apply",
            Box::pin(async { store.apply(vec![change].into(), &[]).await.err() }),
        ),
        ("event", Box::pin(async { store.event("away").await.err() })),
        ("events", Box::pin(async { store.events(&ids).await.err() })),
        (
            "replace",
            Box::pin(async { store.replace(None, &document).await.err() }),
        ),
        ("search", Box::pin(async { store.search(&query).await.err() })),
        ("counts", Box::pin(async { store.counts(None).await.err() })),
        (
            "put_inbox",
            Box::pin(async { store.put_inbox(&message).await.err() }),
        ),
        ("inbox", Box::pin(async { store.inbox("t", "r", 1).await.err() })),
        ("forget", Box::pin(async { store.forget(NOW, 1).await.err() })),
    ];
    for (name, call) in calls {
        let error = tokio::time::timeout(Duration::from_secs(20), call)
            .await
            .unwrap_or_else(|_| panic!("{name} has no time limit"))
            .unwrap_or_else(|| panic!("{name} succeeded on a store that is away"));
        assert!(error.is_retryable(), "{name}: {error}");
    }
}

/// What a store answers, in the end. A server may be unable for a moment, and says so, as the MongoDB stand-in does now and
/// then with an error that has no code; it is asked again then, as every caller does.
pub(super) async fn in_the_end<T>(ask: impl AsyncFn() -> Result<T, StoreError>) -> T {
    let mut refusals = Vec::new();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                assert!(
                    error.is_retryable() && refusals.len() < 5,
                    "{error}, after {refusals:?}"
                );
                refusals.push(error);
            }
        }
    }
}
