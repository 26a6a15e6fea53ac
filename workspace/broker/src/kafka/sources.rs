//! The partitions that a consumer reads, and which of them is read next.
//!
//! A worker takes some of each in turn. Who only reads along gets the records of all partitions about in the order in which
//! they were appended, also when it is far behind: what belongs together in several topics then comes together. For that, no
//! partition is read further than a little ahead of the one that is furthest behind, as long as that one gives something.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use posthaste_event::Millis;
use rdkafka::consumer::BaseConsumer;
use tracing::warn;

use super::{
    client::Context,
    native::{Event, PartitionQueue, Queue},
    table::{Batch, Table},
    topics::Topics,
};
use crate::{Partition, Tracking};

/// Records of one partition before another has its turn. A worker takes as many as intake puts into one
/// ([`super::turns`]), since whatever it hops on costs something for each partition.
const WORKER_TURN: usize = 256;
const READER_TURN: usize = 64;

/// So far a partition may be read ahead of another,
const AHEAD_MS: Millis = 250;
/// which is waited for so long: its broker may be away.
const PATIENCE: Duration = Duration::from_millis(100);
/// After so long without one it has a turn all the same: its records may have the time of a clock that is ahead.
const HELD_MAX: Duration = Duration::from_secs(1);

/// The partitions of one consumer.
pub(super) struct Sources {
    tracking: Tracking,
    list: Vec<Source>,
    /// Whose turn it is, for a worker.
    next: usize,
}

struct Source {
    partition: Partition,
    queue: PartitionQueue,
    course: Course,
}

/// How far a partition was read.
#[derive(Debug, Clone, Copy, Default)]
struct Course {
    /// When the last record that was read had been appended; `None` before the first.
    at: Option<Millis>,
    at_end: bool,
    /// Since when others wait for this one, which has given nothing.
    awaited_since: Option<Instant>,
    /// Since when it waits for others, though it has something.
    held_since: Option<Instant>,
}

impl Course {
    fn on_record(&mut self, appended_at: Millis) {
        *self = Self {
            // A clock that was set back does not make it the last again.
            at: self.at.max(Some(appended_at)),
            ..Self::default()
        };
    }

    const fn on_end(&mut self) {
        self.at_end = true;
        self.awaited_since = None;
        self.held_since = None;
    }

    /// Whether others wait for it.
    fn holds_others(&self, now: Instant) -> bool {
        !self.at_end
            && self
                .awaited_since
                .is_none_or(|since| now.saturating_duration_since(since) < PATIENCE)
    }

    /// Whether it may be read while others are as far as `horizon`.
    fn is_within(&self, horizon: Millis) -> bool {
        self.at.is_none_or(|at| at <= horizon)
    }

    /// Whether it has waited for others for too long. It has something to read that is beyond the horizon.
    fn is_held_too_long(&mut self, now: Instant) -> bool {
        let since = *self.held_since.get_or_insert(now);
        now.saturating_duration_since(since) >= HELD_MAX
    }
}

/// How far may be read now.
fn horizon<'a>(courses: impl Iterator<Item = &'a Course>, now: Instant) -> Millis {
    let holding = courses.filter(|course| course.holds_others(now));
    let last = holding.map(|course| course.at.unwrap_or(Millis::MIN)).min();
    last.map_or(Millis::MAX, |at| at.saturating_add(AHEAD_MS))
}

/// What is left when no more is taken for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing that says by itself when it comes, or when there is room for it.
    Nothing,
    /// Records of one partition, which wait for another one for a while.
    Waiting,
    /// Records that the batch had no room for.
    More,
}

impl Sources {
    pub(super) const fn new(tracking: Tracking) -> Self {
        Self {
            tracking,
            list: Vec::new(),
            next: 0,
        }
    }

    /// Takes partitions in that are about to be assigned.
    pub(super) fn add(
        &mut self,
        consumer: &BaseConsumer<Context>,
        all: &Arc<Queue>,
        topics: &Topics,
        partitions: impl Iterator<Item = Partition>,
    ) {
        for partition in partitions {
            self.remove(&[partition]);
            let name = topics.name(partition.topic);
            let Some(queue) = PartitionQueue::split_off(consumer, all, name, partition.number) else {
                // Its records come with the consumer's own events then, and are taken from there.
                warn!(%partition, "the partition has no queue of its own");
                continue;
            };
            self.list.push(Source {
                partition,
                queue,
                course: Course::default(),
            });
        }
    }

    /// Gives partitions up.
    pub(super) fn remove(&mut self, partitions: &[Partition]) {
        self.list.retain(|source| !partitions.contains(&source.partition));
    }

    /// Gives all partitions up.
    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    /// Takes what is there and has room, up to so many records in the batch. What is no record goes to `others`.
    pub(super) fn read(
        &mut self,
        table: &Arc<Table>,
        topics: &Topics,
        (batch, records_max): (&mut Batch, usize),
        others: &mut Vec<Event>,
    ) -> Left {
        let now = Instant::now();
        // Without room, or at its end: not looked at again before the next call.
        let mut passed = vec![false; self.list.len()];
        while batch.len() < records_max {
            let (next, turn) = match self.tracking {
                Tracking::Completion => (self.next_in_turn(&passed), WORKER_TURN),
                Tracking::Position => (self.next_in_time(&passed, now), READER_TURN),
            };
            let Some((index, horizon)) = next else {
                return self.wait_for_the_last(&passed, now);
            };
            let source = &mut self.list[index];
            let room = table.room(source.partition);
            let most = room.min(turn).min(records_max - batch.len());
            passed[index] = room == 0 || source.take(table, topics, (batch, most), horizon, others);
        }
        Left::More
    }

    /// Whose turn it is.
    fn next_in_turn(&mut self, passed: &[bool]) -> Option<(usize, Millis)> {
        let count = self.list.len();
        let mut turns = (0..count).map(|ahead| (self.next + ahead) % count);
        let index = turns.find(|index| !passed[*index] && self.list[*index].queue.has_news())?;
        self.next = index + 1;
        Some((index, Millis::MAX))
    }

    /// The one with the oldest records, and how far it may be read.
    fn next_in_time(&mut self, passed: &[bool], now: Instant) -> Option<(usize, Millis)> {
        let horizon = horizon(self.list.iter().map(|source| &source.course), now);
        let mut oldest = None;
        for (index, source) in self.list.iter_mut().enumerate() {
            if passed[index] || !source.queue.has_news() {
                continue;
            }
            if source.course.is_within(horizon) {
                let this = (source.course.at, index);
                oldest = Some(oldest.map_or(this, |oldest: (Option<Millis>, usize)| oldest.min(this)));
            } else if source.course.is_held_too_long(now) {
                return Some((index, Millis::MAX));
            }
        }
        oldest.map(|(_, index)| (index, horizon))
    }

    /// Nothing can be read now. If that is because others wait for the partition that is furthest behind, its time runs.
    fn wait_for_the_last(&mut self, passed: &[bool], now: Instant) -> Left {
        let mut sources = self.list.iter().zip(passed);
        if !sources.any(|(source, passed)| !passed && source.queue.has_news()) {
            return Left::Nothing;
        }
        let courses = self.list.iter_mut().map(|source| &mut source.course);
        let holding = courses.filter(|course| course.holds_others(now));
        let Some(last) = holding.min_by_key(|course| course.at) else {
            return Left::Nothing;
        };
        last.awaited_since.get_or_insert(now);
        Left::Waiting
    }
}

impl Source {
    /// Takes up to so many records, none once one is beyond the horizon. Answers whether nothing more is there.
    fn take(
        &mut self,
        table: &Arc<Table>,
        topics: &Topics,
        (batch, most): (&mut Batch, usize),
        horizon: Millis,
        others: &mut Vec<Event>,
    ) -> bool {
        let topic_of = |name: &[u8]| topics.topic(name);
        for _ in 0..most {
            let Some(event) = self.queue.next(&topic_of) else {
                return true;
            };
            match event {
                Event::Record(record) => {
                    self.course.on_record(record.appended_at);
                    table.read(record, batch);
                    if !self.course.is_within(horizon) {
                        return false;
                    }
                }
                event => {
                    if matches!(event, Event::End { .. }) {
                        self.course.on_end();
                    }
                    others.push(event);
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_until(at: Millis) -> Course {
        let mut course = Course::default();
        course.on_record(at);
        course
    }

    #[test]
    fn none_is_read_far_ahead_of_one_that_has_more() {
        let now = Instant::now();
        let (old, new) = (read_until(1_000), read_until(2_000));
        let until = horizon([old, new].iter(), now);
        assert_eq!(until, 1_000 + AHEAD_MS);
        assert!(old.is_within(until) && !new.is_within(until));
        assert_eq!(
            horizon([new, Course::default()].iter(), now),
            Millis::MIN + AHEAD_MS,
            "nothing is known of the second"
        );
    }

    #[test]
    fn one_that_is_at_its_end_or_gives_nothing_for_a_while_holds_nobody() {
        let now = Instant::now();
        let mut old = read_until(1_000);
        let new = read_until(2_000);
        old.on_end();
        assert_eq!(horizon([old, new].iter(), now), 2_000 + AHEAD_MS);
        old.on_record(1_001);
        assert_eq!(horizon([old, new].iter(), now), 1_001 + AHEAD_MS, "there is more");
        old.awaited_since = Some(now);
        assert_eq!(horizon([old, new].iter(), now), 1_001 + AHEAD_MS);
        assert_eq!(horizon([old, new].iter(), now + PATIENCE), 2_000 + AHEAD_MS);
        old.on_record(1_002);
        assert_eq!(horizon([old, new].iter(), now + PATIENCE), 1_002 + AHEAD_MS);
        old.on_end();
        let ended = read_until(2_000);
        let all = [
            old,
            Course {
                at_end: true,
                ..ended
            },
        ];
        assert_eq!(horizon(all.iter(), now), Millis::MAX);
    }

    #[test]
    fn one_that_is_held_for_long_has_a_turn() {
        let now = Instant::now();
        let mut course = read_until(2_000);
        assert!(!course.is_held_too_long(now));
        assert!(!course.is_held_too_long(now + HELD_MAX / 2));
        assert!(course.is_held_too_long(now + HELD_MAX));
        course.on_record(2_001);
        assert!(!course.is_held_too_long(now + HELD_MAX), "it waits anew");
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nobody_wait() {
        let mut course = read_until(2_000);
        course.on_record(500);
        assert_eq!(horizon([course].iter(), Instant::now()), 2_000 + AHEAD_MS);
    }
}
