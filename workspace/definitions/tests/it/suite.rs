//! What holds on every backend.

use std::sync::Arc;

use posthaste_broker::{Broker, NewRecord, settings::Settings};
use posthaste_definitions::{Definitions, Expected, Key, Kind, WriteError, follow};
use posthaste_event::Topic;
use posthaste_testkit::broker_suite::{BrokerWorld, within};
use serde_json::value::RawValue;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Runs each test of the suite in a world that this async function makes.
macro_rules! definitions_suite {
    ($world:path) => {
        crate::suite::definitions_suite! { @ $world:
            what_is_written_is_in_force_at_once_and_on_every_instance
            a_new_instance_knows_all_before_it_says_so
            a_version_counts_up_and_another_one_than_expected_is_refused
            writers_of_one_key_take_turns
            what_the_broker_does_not_take_is_not_in_force
        }
    };
    (@ $world:path: $($test:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let world = $world().await;
                crate::suite::$test(&world).await;
            }
        )+
    };
}
pub(crate) use definitions_suite;

pub fn broker_settings() -> Settings {
    #[derive(serde::Deserialize)]
    struct File {
        broker: Settings,
    }
    let mut settings = toml::from_str::<File>(posthaste_broker::settings::DEFAULTS)
        .unwrap()
        .broker;
    settings.partitions = 3;
    settings.drain_ms = 1_500;
    settings.record_bytes_max = 100_000;
    settings
}

struct Instance {
    definitions: Arc<Definitions>,
    broker: Arc<dyn Broker>,
    stop: CancellationToken,
    following: JoinHandle<()>,
}

impl Instance {
    async fn start(broker: &Arc<dyn Broker>) -> Self {
        let file: toml::Table = toml::from_str(posthaste_definitions::DEFAULTS).unwrap();
        let settings: posthaste_definitions::Settings = file["definitions"].clone().try_into().unwrap();
        settings.check().unwrap();
        let definitions = Arc::new(Definitions::new(&Kind::ALL, settings));
        let stop = CancellationToken::new();
        let following = {
            let (broker, definitions, stop) = (Arc::clone(broker), Arc::clone(&definitions), stop.clone());
            tokio::spawn(async move { follow(&broker, &definitions, &stop).await })
        };
        within("reading to the end", definitions.known()).await;
        Self {
            definitions,
            broker: Arc::clone(broker),
            stop,
            following,
        }
    }

    async fn put(&self, code: &str, body: &str, expected: Expected) -> Result<u64, WriteError> {
        let body = RawValue::from_string(body.to_owned()).unwrap();
        let key = template(code);
        let written = self.definitions.put(&self.broker, &key, body, &expected, "me");
        within("writing", written)
            .await
            .map(|definition| definition.version)
    }

    async fn delete(&self, code: &str) -> bool {
        let key = template(code);
        let deleted = self.definitions.delete(&self.broker, &key, &Expected::Any);
        within("deleting", deleted).await.unwrap().is_some()
    }

    fn body(&self, code: &str) -> Option<String> {
        let definition = self.definitions.get(Kind::Template, "acme", code)?;
        Some(definition.body.get().to_owned())
    }

    async fn until(&self, code: &str, body: Option<&str>) {
        let mut changes = self.definitions.changes();
        within("what another instance wrote", async {
            while self.body(code).as_deref() != body {
                changes.changed().await.unwrap();
            }
        })
        .await;
    }

    async fn stop(self) {
        self.stop.cancel();
        within("the end", self.following).await.unwrap();
    }
}

fn template(code: &str) -> Key {
    Key::new(Kind::Template, "acme", code).unwrap()
}

pub async fn what_is_written_is_in_force_at_once_and_on_every_instance(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let (one, other) = (Instance::start(&broker).await, Instance::start(&broker).await);
    for number in 0..20 {
        let code = format!("code{}", number % 7);
        let body = format!("{{\"n\":{number}}}");
        one.put(&code, &body, Expected::Any).await.unwrap();
        assert_eq!(one.body(&code), Some(body));
    }
    other.until("code5", Some("{\"n\":19}")).await;
    assert!(one.delete("code5").await);
    assert_eq!(one.body("code5"), None);
    assert!(!one.delete("code5").await, "it is gone");
    other.until("code5", None).await;
    other.put("code5", "1", Expected::Absent).await.unwrap();
    one.until("code5", Some("1")).await;
    one.stop().await;
    other.stop().await;
    broker.close(5_000).await;
}

pub async fn a_new_instance_knows_all_before_it_says_so(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    // What nobody can read is passed over.
    let unreadable = [
        ("template/acme/bad", "{"),
        ("nonsense", "1"),
        ("later/acme/x", "1"),
    ]
    .map(|(key, value)| NewRecord::new(Topic::Definitions, key.to_owned(), value.to_owned()));
    within("an append", broker.append(unreadable.to_vec()))
        .await
        .unwrap();
    let one = Instance::start(&broker).await;
    for number in 0..30 {
        one.put(&format!("code{number}"), &number.to_string(), Expected::Any)
            .await
            .unwrap();
    }
    one.delete("code3").await;
    one.stop().await;
    broker.close(5_000).await;
    drop(broker);

    let broker = world.open().await;
    let later = Instance::start(&broker).await;
    assert_eq!(later.definitions.count(Kind::Template, "acme"), 29);
    assert_eq!(later.body("code29").as_deref(), Some("29"));
    assert_eq!(later.definitions.check(), Ok(()));
    later.stop().await;
    broker.close(5_000).await;
}

pub async fn a_version_counts_up_and_another_one_than_expected_is_refused(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let one = Instance::start(&broker).await;
    let refused = |outcome: Result<u64, WriteError>| matches!(outcome, Err(WriteError::Unexpected { .. }));
    assert!(refused(one.put("x", "1", Expected::Present).await));
    assert_eq!(one.put("x", "1", Expected::Absent).await.unwrap(), 1);
    assert!(refused(one.put("x", "2", Expected::Absent).await));
    let first = one.definitions.get(Kind::Template, "acme", "x").unwrap().tag();
    let tag = |tag: &str| Expected::Tags(vec!["other".to_owned(), tag.to_owned()]);
    assert_eq!(one.put("x", "2", tag(&first)).await.unwrap(), 2);
    assert!(refused(one.put("x", "3", tag(&first)).await));
    assert_eq!(one.body("x").as_deref(), Some("2"));
    assert_eq!(
        one.put("x", "2", Expected::Any).await.unwrap(),
        2,
        "it says the same"
    );
    // After a withdrawal versions begin anew, tags do not.
    one.delete("x").await;
    assert_eq!(one.put("x", "1", Expected::Any).await.unwrap(), 1);
    assert!(refused(one.put("x", "4", tag(&first)).await));
    one.stop().await;
    broker.close(5_000).await;
}

pub async fn writers_of_one_key_take_turns(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let one = Arc::new(Instance::start(&broker).await);
    let writers: Vec<_> = (0..16)
        .map(|number: u32| {
            let one = Arc::clone(&one);
            tokio::spawn(async move { one.put("x", &number.to_string(), Expected::Any).await.unwrap() })
        })
        .collect();
    let mut versions = Vec::new();
    for writer in writers {
        versions.push(within("a writer", writer).await.unwrap());
    }
    versions.sort_unstable();
    assert_eq!(versions, (1..=16).collect::<Vec<_>>());
    Arc::into_inner(one).unwrap().stop().await;
    broker.close(5_000).await;
}

pub async fn what_the_broker_does_not_take_is_not_in_force(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let one = Instance::start(&broker).await;
    let long = format!("{:?}", "x".repeat(200_000));
    let outcome = one.put("x", &long, Expected::Any).await;
    assert!(matches!(outcome, Err(WriteError::Append(_))), "{outcome:?}");
    assert_eq!(one.body("x"), None);
    assert_eq!(one.put("x", "1", Expected::Any).await.unwrap(), 1);
    one.stop().await;
    broker.close(5_000).await;
}
