//! librdkafka on a topic of its own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::KafkaError,
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};
use tokio::{sync::oneshot, task::JoinSet};

use super::AT_ONCE;
use crate::trouble::Trouble;

/// As many as Posthaste's topics have.
const PARTITIONS: i32 = 12;
const LIMIT: Duration = Duration::from_secs(60);

/// Tells whoever awaits a record that it is there.
#[derive(Debug)]
struct Acknowledge;

type Awaiting = Option<oneshot::Sender<Result<(), KafkaError>>>;
type Producer = ThreadedProducer<Acknowledge>;

impl ClientContext for Acknowledge {}

impl ProducerContext for Acknowledge {
    type DeliveryOpaque = Box<Awaiting>;

    fn delivery(&self, result: &DeliveryResult<'_>, awaiting: Box<Awaiting>) {
        if let Some(awaiting) = *awaiting {
            let outcome = result.as_ref().map(drop).map_err(|(error, _)| error.clone());
            // Nobody awaits it any more when the run was given up.
            let _ = awaiting.send(outcome);
        }
    }
}

/// A topic that nobody else writes to.
#[derive(Debug, Clone)]
pub struct Topic {
    bootstrap: String,
    name: String,
}

impl Topic {
    /// Makes it.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn create(bootstrap: String, name: &str) -> Result<Self, Trouble> {
        let topic = Self {
            bootstrap,
            name: name.to_owned(),
        };
        let admin: AdminClient<DefaultClientContext> = topic
            .config()
            .create()
            .map_err(Trouble::doing("make a Kafka client"))?;
        let new = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
        let made = admin
            .create_topics([&new], &AdminOptions::new().operation_timeout(Some(LIMIT)))
            .await
            .map_err(Trouble::doing("make a topic"))?;
        for outcome in made {
            outcome.map_err(|(name, error)| Trouble::said(format!("topic {name} was not made: {error}")))?;
        }
        Ok(topic)
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", LIMIT.as_millis().to_string());
        config
    }

    fn producer(&self, linger_ms: &str) -> Result<Producer, Trouble> {
        self.config()
            .set("linger.ms", linger_ms)
            .set("queue.buffering.max.messages", "1000000")
            .create_with_context(Acknowledge)
            .map_err(Trouble::doing("make a Kafka client"))
    }

    /// Tasks that each await their own, at once.
    pub async fn awaited(&self, value: Vec<u8>, records: u64) -> Result<Duration, Trouble> {
        let producer = Arc::new(self.producer("0")?);
        let (name, value): (Arc<str>, Arc<[u8]>) = (self.name.as_str().into(), value.into());
        // The connection and the topic's metadata are there before the clock runs.
        send(&producer, &name, &value, 0)
            .await
            .map_err(Trouble::doing("produce"))?;
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for task in 0..AT_ONCE as u64 {
            let (producer, name, value) = (Arc::clone(&producer), Arc::clone(&name), Arc::clone(&value));
            tasks.spawn(async move {
                for record in (task..records).step_by(AT_ONCE) {
                    send(&producer, &name, &value, record).await?;
                }
                Ok::<(), KafkaError>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(Trouble::doing("produce"))?
                .map_err(Trouble::doing("produce"))?;
        }
        Ok(begun.elapsed())
    }

    /// As fast as it goes.
    pub async fn bulk(&self, value: Vec<u8>, records: u64) -> Result<Duration, Trouble> {
        let producer = self.producer("5")?;
        let name = self.name.clone();
        tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            for record in 0..records {
                let key = record.to_be_bytes();
                let mut message = BaseRecord::with_opaque_to(&name, Box::new(None))
                    .key(&key)
                    .payload(&value);
                // Full: it drains while we wait.
                while let Err((_, refused)) = producer.send(message) {
                    if begun.elapsed() > LIMIT {
                        return Err(Trouble::said(format!(
                            "{record} of {records} were taken in {LIMIT:?}"
                        )));
                    }
                    std::thread::sleep(Duration::from_millis(1));
                    message = refused;
                }
            }
            producer.flush(LIMIT).map_err(Trouble::doing("produce"))?;
            Ok(begun.elapsed())
        })
        .await
        .map_err(Trouble::doing("produce"))?
    }
}

async fn send(producer: &Producer, topic: &str, value: &[u8], record: u64) -> Result<(), KafkaError> {
    let key = format!("019aa2f0-0000-7000-8000-{record:012}");
    let (acknowledge, acknowledged) = oneshot::channel();
    let message = BaseRecord::with_opaque_to(topic, Box::new(Some(acknowledge)))
        .key(key.as_bytes())
        .payload(value);
    producer.send(message).map_err(|(error, _)| error)?;
    acknowledged.await.unwrap_or(Err(KafkaError::Canceled))
}
