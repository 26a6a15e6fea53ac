//! Deletes what every group is done with. Kafka frees the disk a segment at a time.

use std::{collections::HashMap, sync::Arc};

use posthaste_event::{
    Millis, Topic,
    topic::{Cleanup, GROUPS, groups_of},
};
use rdkafka::{Offset, admin::AdminOptions, consumer::Consumer as _};

use super::{
    admin::{ADMIN_TIMEOUT, ANSWER_TIMEOUT, Admin, blocking},
    client::unreachable,
    native, positions,
};
use crate::{BrokerError, Partition};

impl Admin {
    /// See [`crate::Broker::trim`].
    pub(super) async fn trim(self: Arc<Self>, before: Millis) -> Result<u64, BrokerError> {
        let admin = Arc::clone(&self);
        let cuts = blocking(move || admin.cuts(before)).await?;
        if cuts.is_empty() {
            return Ok(0);
        }
        let list = positions::list(
            &self.topics,
            cuts.iter()
                .map(|(partition, (_, cut))| (*partition, Offset::Offset(*cut))),
        );
        let client = self.client()?;
        let options = AdminOptions::new().request_timeout(Some(ADMIN_TIMEOUT));
        let deleted = client
            .delete_records(&list, &options)
            .await
            .map_err(|error| unreachable("deleting records", &error));
        // Its thread is joined on drop.
        let _ = blocking(move || {
            drop(client);
            Ok(())
        })
        .await;
        let mut trimmed = 0;
        for answer in native::committed(&deleted?) {
            let partition = self
                .topics
                .topic(answer.topic.as_bytes())
                .zip(u32::try_from(answer.partition).ok())
                .map(|(topic, number)| Partition { topic, number });
            match (answer.error, partition.and_then(|partition| cuts.get(&partition))) {
                (None, Some((first, _))) => trimmed += (answer.offset - first).max(0).unsigned_abs(),
                (None, None) => {}
                (Some(code), _) => {
                    return Err(BrokerError::Unreachable(format!(
                        "deleting records of {}/{}: {code}",
                        answer.topic, answer.partition
                    )));
                }
            }
        }
        Ok(trimmed)
    }

    /// The first offset that is there and the first that is to stay, where those differ. Blocks.
    fn cuts(&self, before: Millis) -> Result<HashMap<Partition, (i64, i64)>, BrokerError> {
        let topics: Vec<Topic> = Topic::ALL
            .into_iter()
            .filter(|topic| topic.cleanup() == Cleanup::Delete)
            .collect();
        let partitions = self.topics.all_partitions(&self.observer, &topics)?;
        let ends = positions::ends(&self.observer, &self.topics, &partitions)?;
        let mut cuts = self.before(&partitions, before, &ends)?;
        for (group, read) in GROUPS {
            let of_group: Vec<Partition> = partitions
                .iter()
                .copied()
                .filter(|partition| read.contains(&partition.topic))
                .collect();
            let committed = self.committed(&self.outsider(group)?, &of_group)?;
            for partition in of_group {
                let stands = committed.get(&partition).map_or(0, |committed| committed.offset);
                if let Some(cut) = cuts.get_mut(&partition) {
                    *cut = (*cut).min(stands);
                }
            }
        }
        Ok(cuts
            .into_iter()
            .filter(|(partition, _)| groups_of(partition.topic).next().is_some())
            .filter_map(|(partition, cut)| {
                let (first, _) = *ends.get(&partition)?;
                (cut > first).then_some((partition, (first, cut)))
            })
            .collect())
    }

    /// The first offset of each partition that was appended at or after `before`, or else its end.
    fn before(
        &self,
        partitions: &[Partition],
        before: Millis,
        ends: &positions::Ends,
    ) -> Result<HashMap<Partition, i64>, BrokerError> {
        let at = Offset::Offset(before.max(0));
        let asked = positions::list(&self.topics, partitions.iter().map(|partition| (*partition, at)));
        let answer = self
            .observer
            .offsets_for_times(asked, ANSWER_TIMEOUT)
            .map_err(|error| unreachable("asking for offsets by time", &error))?;
        let mut found: HashMap<Partition, i64> = HashMap::new();
        for one in native::committed(&answer) {
            if let (None, Some(topic), Ok(number)) = (
                one.error,
                self.topics.topic(one.topic.as_bytes()),
                u32::try_from(one.partition),
            ) {
                let partition = Partition { topic, number };
                // Negative: there is no such record.
                let end = ends.get(&partition).map_or(0, |(_, end)| *end);
                found.insert(partition, if one.offset < 0 { end } else { one.offset });
            }
        }
        Ok(found)
    }
}
