//! The replay service, in small: the open letters of each partition, read from its start, and what lets them out once.

use std::collections::BTreeMap;

use posthaste_broker::{NewRecord, Partition, Record};
use posthaste_event::{Topic, Value, Work, record::Replayed};

use crate::{
    cluster::{Cluster, Deed},
    node::{Ended, Hop, Move, Waits},
};

/// Replays of one event at most, so that every run ends.
const GENERATIONS_MAX: u32 = 2;

/// The open letters of one process, by partition and event.
#[derive(Default)]
pub struct Letters(BTreeMap<Partition, BTreeMap<String, Letter>>);

struct Letter {
    offset: i64,
    work: Work,
    is_claimed: bool,
}

impl Letters {
    pub fn begin(&mut self, partition: Partition) {
        self.0.insert(partition, BTreeMap::new());
    }

    pub fn forget(&mut self, partition: Partition) {
        self.0.remove(&partition);
    }

    fn of(&mut self, partition: Partition) -> &mut BTreeMap<String, Letter> {
        self.0.entry(partition).or_default()
    }
}

impl Cluster {
    /// A letter, or the mark that one went out.
    pub fn read_letter(&mut self, node: usize, record: Record) {
        let partition = record.partition;
        match record.decode("events") {
            Ok(Value::Work(work)) => {
                if work.delivery.generation < GENERATIONS_MAX && self.random.chance(600) {
                    let later_ms = self.random.within(1, 120_000);
                    self.deed_at(node, later_ms, Deed::Replay(partition));
                }
                let letter = Letter {
                    offset: record.offset,
                    is_claimed: false,
                    work,
                };
                let letters = self.nodes[node].letters.of(partition);
                letters.insert(letter.work.delivery.id.clone(), letter);
            }
            Ok(Value::Replayed(Replayed { event_id, step, .. })) => {
                let letters = self.nodes[node].letters.of(partition);
                if letters
                    .get(&event_id)
                    .is_some_and(|letter| letter.work.delivery.step == step)
                {
                    letters.remove(&event_id);
                }
            }
            _ => {}
        }
    }

    /// Lets some letters out.
    pub fn replay(&mut self, node: usize, partition: Partition) {
        let Some(held) = self.nodes[node].held(partition) else {
            return;
        };
        let (epoch, now, by) = (held.epoch, self.now, self.nodes[node].name.clone());
        let random = &mut self.random;
        let mut moves = Vec::new();
        let letters = self.nodes[node].letters.of(partition);
        for (id, letter) in letters {
            let delivery = &letter.work.delivery;
            if letter.is_claimed || delivery.generation >= GENERATIONS_MAX || random.chance(300) {
                continue;
            }
            letter.is_claimed = true;
            let mark = Value::Replayed(Replayed {
                event_id: id.clone(),
                step: delivery.step,
                replay_id: "r1".to_owned(),
                unknown: Default::default(),
            });
            let mark = NewRecord {
                partition: Some(partition.number),
                ..NewRecord::new(Topic::DeadLetter, id.clone(), mark.encode().unwrap())
            };
            let delivery = delivery.clone().replayed("r1", &by, now);
            let topic = Topic::due(&delivery);
            let event = letter.work.event.clone();
            let work = Work { delivery, event }.encode().unwrap();
            moves.push(Move {
                from: (partition, letter.offset),
                outputs: vec![mark, NewRecord::new(topic, id.clone(), work)],
                call: None,
            });
        }
        if !moves.is_empty() {
            let waits = Waits::Replay;
            self.hop(
                node,
                Hop {
                    partition,
                    epoch,
                    moves,
                    waits,
                },
            );
        }
    }

    /// The letters are closed when the commit returns, or theirs again to replay.
    pub fn replayed(&mut self, node: usize, hop: &Hop, how: Ended) {
        let letters = self.nodes[node].letters.of(hop.partition);
        for one in &hop.moves {
            match how {
                Ended::Done => letters.retain(|_, letter| letter.offset != one.from.1),
                Ended::Fenced | Ended::NoRoom => {
                    for letter in letters.values_mut().filter(|letter| letter.offset == one.from.1) {
                        letter.is_claimed = false;
                    }
                }
            }
        }
    }
}
