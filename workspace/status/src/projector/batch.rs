//! Records on their way into one write.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use posthaste_broker::{Partition, Record};
use posthaste_event::Value;
use posthaste_store::{Changes, Fold, Position};
use tokio::time::Instant;

use super::gauge::Gauge;

/// So many partial changes are kept back at most,
const KEPT_MAX: usize = 8_192;
/// and for so long: Kafka hands out the topics of what was accepted and of what became of it in turns of thousands of records.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// When so many times as much was kept back in vain as not, and more than a few, nothing is kept back for so many writes: what
/// is read now is long after what it belongs to, or long before.
const VAIN_TIMES: usize = 3;
const VAIN_MIN: usize = 100;
const WRITES_WITHOUT: u32 = 16;

/// What was read and is not written: folded changes, and how far that goes in each partition.
#[derive(Default)]
pub(super) struct Batch {
    fold: Fold,
    reached: BTreeMap<Partition, i64>,
    records: usize,
    bytes: usize,
    /// What was read up to earlier writes, and of which some is kept back; the oldest first.
    rounds: VecDeque<Round>,
    round: u64,
    writes_without: u32,
}

/// What was read between two writes.
struct Round {
    number: u64,
    ended_at: Instant,
    reached: BTreeMap<Partition, i64>,
}

impl Batch {
    /// Takes a record in.
    pub fn add(&mut self, record: &Record, gauge: &Gauge) {
        self.records += 1;
        self.reached.insert(record.partition, record.offset + 1);
        let value = record.value.as_ref().map(Value::decode);
        match value {
            Some(Ok(value)) => {
                if self.fold.add(value) {
                    self.bytes += record.value.as_ref().map_or(0, bytes::Bytes::len);
                }
            }
            Some(Err(_)) | None => gauge.unreadable(&format_args!("{}@{}", record.partition, record.offset)),
        }
    }

    /// Forgets how far a partition was read that is not ours any more. What its records said stays true.
    pub fn drop_partition(&mut self, partition: Partition) {
        self.reached.remove(&partition);
        for round in &mut self.rounds {
            round.reached.remove(&partition);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.reached.is_empty() && self.fold.is_empty()
    }

    /// How many records were taken in since the last write.
    pub const fn records(&self) -> usize {
        self.records
    }

    /// Whether no more should be taken in.
    pub const fn is_full(&self, records_max: usize, bytes_max: usize) -> bool {
        self.records >= records_max || self.bytes >= bytes_max
    }

    /// What to write, and how far that goes: all.
    pub fn take_all(&mut self) -> (Changes, Vec<Position>) {
        // The next is as large, as a rule.
        let next = Fold::with_room(self.fold.len());
        let fold = std::mem::replace(&mut self.fold, next);
        (self.records, self.bytes) = (0, 0);
        let mut reached = self.settled(None);
        reached.append(&mut self.reached);
        (fold.into_changes().into(), positions(reached))
    }

    /// What to write, and how far that goes. What says half of an event is kept back for the other half, for a while; half of
    /// `bytes_max` of it at most.
    pub fn take_settled(&mut self, now: Instant, bytes_max: usize) -> (Changes, Vec<Position>) {
        self.round += 1;
        self.rounds.push_back(Round {
            number: self.round,
            ended_at: now,
            reached: std::mem::take(&mut self.reached),
        });
        let is_young = |round: &&Round| now.duration_since(round.ended_at) < KEPT_FOR;
        let since = self.rounds.iter().find(is_young);
        let since = since.map_or(self.round, |round| round.number);
        let all = self.fold.len().max(1);
        let max = if self.writes_without == 0 {
            KEPT_MAX.min(bytes_max / 2 / (self.bytes / all).max(1))
        } else {
            0
        };
        self.writes_without = self.writes_without.saturating_sub(1);
        let parted = self.fold.part(self.round, since, max);
        if max > 0 && parted.expired / VAIN_TIMES > parted.completed.max(VAIN_MIN) {
            self.writes_without = WRITES_WITHOUT;
        }
        (self.records, self.bytes) = (0, self.bytes / all * self.fold.len());
        let reached = self.settled(self.fold.kept_since());
        (parted.ready.into(), positions(reached))
    }

    /// Ends the rounds before this one, or all; answers how far they went.
    fn settled(&mut self, before: Option<u64>) -> BTreeMap<Partition, i64> {
        let mut reached = BTreeMap::new();
        while let Some(round) = self
            .rounds
            .pop_front_if(|round| before.is_none_or(|before| round.number < before))
        {
            reached.extend(round.reached);
        }
        reached
    }
}

fn positions(reached: BTreeMap<Partition, i64>) -> Vec<Position> {
    let positions = reached.into_iter().map(|(partition, offset)| Position {
        topic: partition.topic,
        partition: partition.number,
        offset,
    });
    positions.collect()
}

#[cfg(test)]
mod tests {
    use posthaste_event::Topic;
    use posthaste_testkit::life::Life;

    use super::*;

    const ROOM: usize = 1 << 20;

    /// Reads records of one partition of each topic.
    #[derive(Default)]
    struct Reading {
        batch: Batch,
        offsets: BTreeMap<Topic, i64>,
        gauge: Gauge,
    }

    impl Reading {
        fn read(&mut self, topic: Topic, value: &Value) {
            let next = self.offsets.entry(topic).or_default();
            let record = Record {
                partition: Partition { topic, number: 0 },
                offset: *next,
                key: None,
                value: Some(value.encode().unwrap()),
                appended_at: 0,
                headers: None,
            };
            *next += 1;
            self.batch.add(&record, &self.gauge);
        }

        fn accepted(&mut self, id: usize) {
            self.read(Topic::Default, &Life::new(&id.to_string()).accepted());
        }

        fn sent(&mut self, id: usize) {
            self.read(Topic::Status, &Life::new(&id.to_string()).straight()[1]);
        }

        /// What is written, and how far the topics are done.
        fn settled(&mut self, at: Instant) -> String {
            said(&self.batch.take_settled(at, ROOM))
        }
    }

    fn said((changes, positions): &(Changes, Vec<Position>)) -> String {
        let ids: Vec<_> = changes.iter().map(|change| change.id.as_str()).collect();
        let reached = positions.iter().map(|at| format!("{}:{}", at.topic, at.offset));
        format!("{} | {}", ids.join(" "), reached.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn halves_wait_for_each_other_and_no_position_passes_one_that_waits() {
        let mut reading = Reading::default();
        let began = Instant::now();
        let after = |ms| began + Duration::from_millis(ms);
        for id in 0..4 {
            reading.accepted(id);
        }
        reading.sent(0);
        reading.sent(5);
        assert_eq!(reading.settled(began), "0 | ");
        reading.sent(1);
        reading.sent(2);
        reading.accepted(5);
        reading.accepted(6);
        assert_eq!(
            reading.settled(after(300)),
            "1 2 5 | ",
            "3 waits since the first write"
        );
        reading.sent(3);
        assert_eq!(reading.settled(after(600)), "3 | default:4 status:2");
        assert_eq!(reading.settled(after(900)), " | ", "6 waits, though in vain");
        assert_eq!(reading.settled(after(1_301)), "6 | default:6 status:5");
        assert!(reading.batch.is_empty());
    }

    #[test]
    fn all_is_all() {
        let mut reading = Reading::default();
        reading.accepted(0);
        assert_eq!(reading.settled(Instant::now()), " | ");
        reading.accepted(1);
        reading.batch.drop_partition(Partition {
            topic: Topic::Default,
            number: 0,
        });
        reading.sent(1);
        assert_eq!(said(&reading.batch.take_all()), "0 1 | status:1");
        assert!(reading.batch.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded_and_given_up_when_it_is_in_vain() {
        let large = 1 << 30;
        let mut reading = Reading::default();
        let mut take = |ids: std::ops::Range<usize>| {
            for id in ids {
                reading.accepted(id);
            }
            let (ready, positions) = reading.batch.take_settled(Instant::now(), large);
            (ready.len(), positions.iter().map(|at| at.offset).next())
        };
        let first = KEPT_MAX + 500;
        assert_eq!(take(0..first), (500, None));
        assert_eq!(take(first..first + 1_000), (1_000, None));
        let end = first + 1_001;
        assert_eq!(take(first + 1_000..end), (KEPT_MAX + 1, Some(end as i64)));
    }

    #[test]
    fn what_is_kept_takes_half_of_the_bytes_at_most() {
        let mut reading = Reading::default();
        for id in 0..100 {
            reading.accepted(id);
        }
        let bytes = reading.batch.bytes;
        let (ready, _) = reading.batch.take_settled(Instant::now(), bytes);
        assert!((50..=52).contains(&ready.len()), "{}", ready.len());
        assert!(!reading.batch.is_full(usize::MAX, bytes));
    }
}
