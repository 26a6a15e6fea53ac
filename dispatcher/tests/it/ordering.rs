//! Events with an ordering key: one of a key at a time, in order, whoever has the lane.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use posthaste_broker::NewRecord;
use posthaste_dispatcher::LaneName;
use posthaste_event::{
    Channel, ErrorKind, Topic, Value, Work,
    delivery::{Order, Policy},
    keys::{KeyState, OrderKey, Part},
    partition::Place,
    record_key,
};
use posthaste_provider::Message;
use posthaste_testkit::{ScriptedProvider, Step};

use crate::rig::{Event, LIMIT, Rig, Scripted, Seen, settings};

const SMS: &[Channel] = &[Channel::Sms];

/// `count` events of each of `keys` keys, in turn; the id is the key and the number.
fn events(keys: usize, count: usize) -> Vec<NewRecord> {
    let event = |number, key| Event {
        ordering_key: Some(format!("k{key}")),
        ..Event::new(format!("k{key}-{number:03}"))
    };
    (0..count)
        .flat_map(|number| (0..keys).map(move |key| event(number, key).record()))
        .collect()
}

/// The numbers of each key's events, as they were sent.
fn sent(messages: &[Message]) -> BTreeMap<String, Vec<usize>> {
    let mut keys = BTreeMap::<String, Vec<usize>>::new();
    for message in messages {
        let (key, number) = message.event_id.split_once('-').unwrap();
        keys.entry(key.to_owned())
            .or_default()
            .push(number.parse().unwrap());
    }
    keys
}

fn is_in_order(provider: &ScriptedProvider, keys: usize, count: usize) {
    let sent = sent(&provider.messages());
    assert_eq!(sent.len(), keys);
    for (key, numbers) in sent {
        assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_a_key_is_sent_at_a_time_and_nothing_is_written_down_of_it() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Slow(Duration::from_millis(1)));
    let accounts = Scripted::new(&[(&twilio, 50, LIMIT)]);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    rig.append(events(5, 40)).await;
    let seen = rig.wait_until(|seen| seen.on(Topic::Status) == 200).await;
    lane.stop().await;
    is_in_order(&twilio, 5, 40);
    assert!(twilio.under_way_most() <= 5, "{}", twilio.under_way_most());
    assert_eq!(seen.waiting().len(), 0, "nobody was put off");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_somewhere_by_its_key_has_no_order() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Slow(Duration::from_millis(1)));
    let accounts = Scripted::new(&[(&twilio, 50, LIMIT)]);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    let place = Place {
        number: 1,
        partitions: 4,
    };
    let record = |number| {
        let id = format!("mine-{number}");
        NewRecord {
            key: record_key::placed(&id, place).into(),
            ..Event::new(id).record()
        }
    };
    rig.append((0..40).map(record).collect()).await;
    let seen = rig.wait_until(|seen| seen.on(Topic::Status) == 40).await;
    lane.stop().await;
    for (id, facts) in &seen.facts {
        assert!(facts.iter().all(|(_, delivery)| delivery.order.is_none()), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn order_holds_while_partitions_go_and_come_back() {
    let rig = Rig::new().await;
    // One place: all keys but one have an event that waits for it.
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Slow(Duration::from_millis(10)));
    let accounts = Scripted::new(&[(&twilio, 1, LIMIT)]);
    let first = rig.start("i1", LaneName::Default, &accounts, settings());
    rig.append(events(8, 30)).await;
    twilio.wait_for(20, LIMIT).await.unwrap();
    let second = rig.start("i2", LaneName::Default, &accounts, settings());
    twilio.wait_for(100, LIMIT).await.unwrap();
    second.stop().await;
    let seen = rig.wait_until(|seen| seen.on(Topic::Status) == 240).await;
    first.stop().await;
    let writers: HashSet<_> = seen.facts.values().map(|facts| facts[0].1.by.clone()).collect();
    assert_eq!(writers.len(), 2, "{writers:?}");
    is_in_order(&twilio, 8, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_behind_one_that_fails_are_parked_and_a_slow_one_holds_them_in_memory_not_for_long() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |message, _| match &*message.event_id {
        "k0-000" => Step::Fail(posthaste_event::Failure::new(
            ErrorKind::Rejected,
            "twilio",
            None,
            "as the script says",
        )),
        "k1-000" => Step::Hold,
        _ => Step::Accept,
    });
    let accounts = Scripted::new(&[(&twilio, 5, LIMIT)]);
    let mut impatient = settings();
    impatient.queue_wait_ms_max = 300;
    // A quarter of this may be waited in memory.
    impatient.stall_ms = 4_000;
    let lane = rig.start("i1", LaneName::Default, &accounts, impatient);
    rig.append(events(3, 10)).await;
    let parked = |seen: &Seen, key: &str| {
        let waiting = seen.waiting().into_iter();
        waiting.filter(|delivery| delivery.id.starts_with(key)).count()
    };
    let seen = rig
        .wait_until(|seen| parked(seen, "k0") == 9 && parked(seen, "k1") == 9 && seen.on(Topic::Status) >= 10)
        .await;
    twilio.release(1);
    let seen_after = rig.wait_until(|seen| seen.on(Topic::Status) == 11).await;
    lane.stop().await;
    assert_eq!(seen_after.only("k1-000").0, Topic::Status);
    let mut after = None;
    for number in 0..10 {
        let (topic, delivery) = seen
            .facts
            .get(&format!("k0-{number:03}"))
            .map_or_else(|| panic!("k0-{number:03} is nowhere"), |facts| facts[0].clone());
        let order = delivery.order.unwrap();
        assert_eq!(order.after, after, "each names the one before it");
        assert_eq!(order.nth, number + 1);
        assert_eq!(topic == Topic::Failed, number == 0);
        after = Some(order.seq);
    }
    assert_eq!(sent(&twilio.messages())["k2"].len(), 10, "others go on");
    assert_eq!(twilio.messages().len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_was_begun_is_in_doubt_though_nobody_remembers_that_it_had_its_turn() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Hold);
    let accounts = Scripted::new(&[(&twilio, 1, LIMIT)]);
    let key = OrderKey {
        key: "default/k".to_owned(),
        critical: false,
    };
    let (name, value) = key.record(KeyState::Done { seq: 5, nth: 1 });
    rig.append(vec![NewRecord::new(Topic::Keys, name, value)]).await;
    let event = Event {
        policy: Policy::NoDuplicate,
        ordering_key: Some("k".to_owned()),
        ..Event::new("once")
    };
    let record = event.record();
    let Ok(Value::Work(Work { mut delivery, event })) = Value::decode(record.value.as_ref().unwrap()) else {
        panic!("not an event");
    };
    delivery.order = Some(Order {
        key: key.key.clone(),
        seq: 9,
        after: Some(5),
        nth: 2,
        unknown: Default::default(),
    });
    let work = Work { delivery, event }.encode().unwrap();
    let first = rig.start("i1", LaneName::Retry, &accounts, settings());
    rig.append(vec![NewRecord::new(Topic::Retry, record.key, work)])
        .await;
    twilio.wait_for(1, LIMIT).await.unwrap();
    first.crash().await;

    rig.append(vec![NewRecord {
        value: None,
        ..NewRecord::new(Topic::Keys, key.record_key(Part::Done), "")
    }])
    .await;
    let second = rig.start("i2", LaneName::Retry, &accounts, settings());
    let seen = rig.wait_until(|seen| seen.on(Topic::Failed) == 1).await;
    second.stop().await;
    let doubt = seen.facts["once"]
        .iter()
        .find(|(topic, _)| *topic == Topic::Failed);
    let error = doubt.unwrap().1.error.clone().unwrap();
    assert_eq!(error.kind, ErrorKind::Ambiguous);
    assert_eq!(twilio.messages().len(), 1);
}
