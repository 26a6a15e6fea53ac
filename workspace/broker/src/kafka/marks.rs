//! Where partitions end, for who wants to find out later whether a record went in behind that; and finding out.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use posthaste_event::{Millis, Topic, partition};
use rdkafka::{
    Message as _, Offset,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::BorrowedMessage,
};
use tokio::sync::Mutex;

use super::{
    admin::{Admin, blocking},
    client::{Context, refused, unreachable},
    positions,
};
use crate::{BrokerError, Mark, Partition, Record};

/// For how long an end that was asked for is told again: an older one only makes the search longer.
const FRESH: Duration = Duration::from_secs(1);
/// Longest search.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(200);

/// The next offset of each partition. A failure is kept too, so that those who wait behind it do not each wait as long again.
type Answer = Result<Vec<i64>, String>;

/// The ends of topics, as of a moment ago.
#[derive(Debug, Default)]
pub(super) struct Marks {
    of: Mutex<HashMap<Topic, (Instant, Answer)>>,
}

impl Marks {
    /// See [`crate::Broker::mark`].
    pub(super) async fn mark(
        &self,
        admin: &Arc<Admin>,
        wanted: &[(Topic, &[u8])],
    ) -> Result<Vec<Mark>, BrokerError> {
        // Held while asking: whoever comes meanwhile needs the same answer.
        let mut of = self.of.lock().await;
        let mut marks = Vec::with_capacity(wanted.len());
        for (topic, key) in wanted.iter().copied() {
            let ends = match of.get(&topic) {
                Some((answered, ends)) if answered.elapsed() < FRESH => ends,
                _ => {
                    let admin = Arc::clone(admin);
                    let ends = blocking(move || ends(&admin, topic)).await;
                    let ends = ends.map_err(|error| error.to_string());
                    of.insert(topic, (Instant::now(), ends));
                    of.get(&topic).map(|(_, ends)| ends).ok_or_else(none)?
                }
            };
            let ends = ends
                .as_ref()
                .map_err(|reason| BrokerError::Unreachable(reason.clone()))?;
            let number = partition::of(key, u32::try_from(ends.len()).unwrap_or(u32::MAX));
            marks.push(Mark {
                partition: Partition { topic, number },
                offset: ends.get(number as usize).copied().ok_or_else(none)?,
            });
        }
        Ok(marks)
    }
}

fn none() -> BrokerError {
    BrokerError::Unreachable("asking for the ends of partitions: no answer".to_owned())
}

/// The next offset of each partition. Blocks.
fn ends(admin: &Admin, topic: Topic) -> Result<Vec<i64>, BrokerError> {
    let all = admin.topics.all_partitions(&admin.observer, &[topic])?;
    let ends = positions::highs(&admin.observer, &admin.topics, &all)?;
    all.iter()
        .map(|partition| ends.get(partition).copied().ok_or_else(none))
        .collect()
}

/// See [`crate::Broker::find`]. Blocks.
pub(super) fn find(
    admin: &Admin,
    from: Mark,
    until: Millis,
    is_it: &dyn Fn(&Record) -> bool,
) -> Result<Option<Record>, BrokerError> {
    const DOING: &str = "looking for a record";
    let deadline = Instant::now() + SEARCH_TIMEOUT;
    let (low, high) = positions::ends(&admin.observer, &admin.topics, &[from.partition])?
        .get(&from.partition)
        .copied()
        .ok_or_else(none)?;
    let start = from.offset.max(low);
    if start >= high {
        return Ok(None);
    }
    let mut config = admin.base.clone();
    config
        .set("group.id", admin.topics.group("search"))
        .set("isolation.level", "read_uncommitted")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true");
    let reader: BaseConsumer<Context> = config
        .create_with_context(Context::new(&admin.link))
        .map_err(|error| refused(&error))?;
    reader
        .assign(&positions::list(
            &admin.topics,
            [(from.partition, Offset::Offset(start))],
        ))
        .map_err(|error| unreachable(DOING, &error))?;
    while Instant::now() < deadline {
        match reader.poll(POLL) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
            Some(Err(error)) => return Err(unreachable(DOING, &error)),
            Some(Ok(message)) => {
                let offset = message.offset();
                let record = record(from.partition, &message);
                if offset >= high || record.appended_at > until {
                    return Ok(None);
                }
                if is_it(&record) {
                    return Ok(Some(record));
                }
                if offset + 1 >= high {
                    return Ok(None);
                }
            }
        }
    }
    Err(BrokerError::Unreachable(format!(
        "{DOING}: not through with {} within {} s",
        from.partition,
        SEARCH_TIMEOUT.as_secs()
    )))
}

fn record(partition: Partition, message: &BorrowedMessage<'_>) -> Record {
    Record {
        partition,
        offset: message.offset(),
        key: message.key().map(|key| key.to_vec().into()),
        value: message.payload().map(|value| value.to_vec().into()),
        appended_at: message.timestamp().to_millis().unwrap_or_default(),
        headers: None,
    }
}
