//! Providers that hang or break connections: their events are in doubt and go out again under the same key; others wait
//! for nothing.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    load::{all_are, post_all},
    on_each_backend,
    system::{Backend, PATIENCE, Plan},
};

on_each_backend!(
    a_provider_that_hangs_delays_only_its_own,
    a_provider_that_breaks_connections_gets_the_same_key_again,
);

const COUNT: usize = 40;
const LIMIT: Duration = Duration::from_secs(120);

async fn a_provider_that_hangs_delays_only_its_own(backend: Backend) {
    let system = Plan::new(backend)
        .await
        .setting("POSTHASTE_PROVIDERS__MESSAGEBIRD__TIMEOUT_MS", "4000")
        // All its places are taken by calls that hang.
        .setting("POSTHASTE_PROVIDERS__MESSAGEBIRD__CONCURRENCY_MAX", "8")
        .start()
        .await;
    let (client, sandbox) = (system.client(), system.sandbox());
    let faults = system.faults().await;
    faults
        .set(json!([{"action": "hang", "provider": "messagebird"}]))
        .await;
    post_all(&client, 0..COUNT).await;
    let start = Instant::now();
    while sandbox.received("provider", "messagebird").await.is_empty() {
        assert!(start.elapsed() < PATIENCE, "nothing was tried");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let other = json!({"channel": "email", "tenant": client.tenant, "payload":
        {"subject": "s", "body": "b", "to": "to@example.com", "from": "from@example.com"}});
    let mut others = Vec::new();
    for _ in 0..COUNT {
        others.push(client.accept(&other).await);
    }
    for id in &others {
        client.wait(id, "SENT").await;
    }
    let hung = client.events().await.unwrap();
    assert!(
        hung.iter()
            .all(|event| event["channel"] == "email" || event["state"]["status"] != "SENT"),
        "what hangs is not sent"
    );
    faults.none().await;
    let events = client
        .wait_for_all(LIMIT, "all at an end", |events| {
            all_are(events, 2 * COUNT, &["SENT", "DEAD_LETTERED"])
        })
        .await;
    // Two tries that both hung may be behind some of them; a replay is for those.
    let dead = events
        .iter()
        .filter(|event| event["state"]["status"] == "DEAD_LETTERED")
        .count() as u64;
    assert_eq!(client.replay_until(&json!({}), dead).await, dead);
    client
        .wait_for_all(LIMIT, "all SENT", |events| all_are(events, 2 * COUNT, &["SENT"]))
        .await;
    assert_eq!(sandbox.counts().await.events, 2 * COUNT as u64);
}

async fn a_provider_that_breaks_connections_gets_the_same_key_again(backend: Backend) {
    let system = Plan::new(backend).await.start().await;
    let (client, sandbox) = (system.client(), system.sandbox());
    system
        .faults()
        .await
        .set(json!([{"action": "reset", "provider": "messagebird", "times": COUNT / 2}]))
        .await;
    post_all(&client, 0..COUNT).await;
    let events = client
        .wait_for_all(LIMIT, "all at an end", |events| {
            all_are(events, COUNT, &["SENT", "DEAD_LETTERED"])
        })
        .await;
    let counts = sandbox.counts().await;
    // Whoever was cut off had its message taken all the same: it is in doubt, and asks again as the same message.
    assert_eq!(
        (counts.events, counts.keys),
        (COUNT as u64, COUNT as u64),
        "{counts:?}"
    );
    assert!(counts.taken > counts.events, "{counts:?}");
    let sent = events
        .iter()
        .filter(|event| event["state"]["status"] == "SENT")
        .count();
    assert!(sent >= COUNT / 2, "{sent} of {COUNT} were sent");
}
