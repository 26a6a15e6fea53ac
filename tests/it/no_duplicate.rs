//! Events that must not go out twice, when the dispatcher is killed in the middle of the call.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::{
    on_each_backend,
    system::{Backend, PATIENCE, Plan, Sandbox},
};

on_each_backend!(a_kill_during_the_call_leaves_it_in_doubt_and_sends_nothing_again);

async fn a_kill_during_the_call_leaves_it_in_doubt_and_sends_nothing_again(backend: Backend) {
    let mut system = Plan::new(backend).await.start().await;
    let (client, sandbox) = (system.client(), system.sandbox());
    let hangs = (0..4).map(|index| {
        let number = client.number(index);
        json!({"action": "hang", "recipient": number.trim_start_matches('+'), "times": 1})
    });
    system.faults().await.set(hangs.collect()).await;
    let mut careful = Vec::new();
    for index in 0..3 {
        let mut event = client.sms(&client.number(index));
        event["policy"] = json!("no-duplicate");
        if index == 2 {
            event["priority"] = json!("high");
        }
        careful.push(client.accept(&event).await);
    }
    let usual = client.accept(&client.sms(&client.number(3))).await;
    for id in careful.iter().chain([&usual]) {
        wait_for_sends(&sandbox, id, 1).await;
    }

    let dispatcher = system.service(match backend {
        Backend::Embedded => "up",
        Backend::Kafka => "default",
    });
    dispatcher.kill();
    dispatcher.launch();
    dispatcher.ready().await;

    client.wait(&usual, "SENT").await;
    assert_eq!(sandbox.times(&usual).await, 2, "the usual policy sends it again");
    for id in &careful {
        let document = client.wait(id, "DEAD_LETTERED").await;
        assert_eq!(document["policy"], "no-duplicate", "{document:#}");
        assert_eq!(document["state"]["error"]["kind"], "ambiguous", "{document:#}");
        assert_eq!(document["state"]["error"]["code"], "interrupted", "{document:#}");
        assert_eq!(document["state"]["attempt"], 1, "{document:#}");
        let timeline = client.timeline(id).await;
        let statuses: Vec<_> = timeline
            .iter()
            .map(|step| step["status"].as_str().unwrap())
            .collect();
        assert_eq!(statuses, ["PENDING", "RETRYING", "DEAD_LETTERED"]);
        assert_eq!(sandbox.times(id).await, 1);
    }

    // Who replays all does not send them; who names one does.
    for id in &careful {
        client.wait_for_letter(id).await;
    }
    let filter = json!({"filter": {"tenant": client.tenant}});
    let all = client
        .ask_replay(Method::POST, "/replay-dead-letter", Some(&filter))
        .await
        .unwrap();
    assert_eq!(
        (&all.body["count"], &all.body["leftInDoubt"]),
        (&json!(0), &json!(3)),
        "{all:?}"
    );
    let named = client.replay(&json!({"filter": {"ids": [careful[0]]}})).await;
    assert_eq!(named, 1);
    client.wait(&careful[0], "SENT").await;
    assert_eq!(sandbox.times(&careful[0]).await, 2);
    for id in &careful[1..] {
        assert_eq!(sandbox.times(id).await, 1);
    }
}

async fn wait_for_sends(sandbox: &Sandbox, id: &str, times: u64) {
    let start = Instant::now();
    while sandbox.times(id).await < times {
        assert!(start.elapsed() < PATIENCE, "{id} was not sent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
