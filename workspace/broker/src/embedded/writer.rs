//! The one thread that writes the log.
//!
//! All that waits goes into one transaction, with one fsync: the busier it is, the more share it. A hop is checked against
//! the living assignments and applied to copies of their completion maps; those are replaced when the transaction is
//! durable, and forgotten when it fails. Then appends are answered as unconfirmed, and hops are kept and tried again until
//! the disk is well.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use posthaste_event::{Millis, clock, topic::GROUPS};
use posthaste_killpoint as killpoint;
use posthaste_reconnect::Reconnect;

use super::{
    condition::Condition,
    groups::{Groups, Owned},
    log::Log,
    merger::Merger,
    queue::{Append, Control, Gather, HopRequest, Queue, Write},
};
use crate::{
    AppendError, BrokerError, Finding, Hop, HopError, NewRecord, Partition, Record, Severity,
    completion::Completion,
};

/// Most writes in one transaction.
const WRITES_MAX: usize = 4_096;
/// How often tombstones are looked through, and how many go at a time.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
const SWEEP_MAX: u32 = 1_000;
/// Most records that one trim deletes, while writers wait.
const TRIM_MAX: u32 = 2_000;
/// After this many kept hops failed one after another the rest wait for the next round.
const FAILURES_A_ROUND: u32 = 3;

/// The writer's state.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) log: Log,
    pub(super) groups: Groups,
    pub(super) queue: Arc<Queue>,
    pub(super) condition: Arc<Condition>,
    pub(super) merger: Merger,
    /// Partitions of a topic that is created.
    pub(super) partitions: u32,
    kept: VecDeque<HopRequest>,
    waits: Reconnect,
    retry_at: Option<Instant>,
    sweep_at: Instant,
}

/// What a transaction has done so far, to be told when it is durable.
#[derive(Debug, Default)]
struct Staged {
    /// By epoch.
    completions: HashMap<u64, StagedMap>,
    records: HashMap<Partition, Vec<Record>>,
    appends: Vec<Append>,
    hops: Vec<HopRequest>,
}

/// The map of a partition with a transaction's hops.
#[derive(Debug)]
struct StagedMap {
    completion: Completion,
    /// The offsets that they finish.
    finished: Vec<i64>,
    /// And those that they mark as started.
    started: Vec<i64>,
}

impl Writer {
    pub(super) fn new(
        log: Log,
        groups: Groups,
        queue: Arc<Queue>,
        condition: Arc<Condition>,
        merger: Merger,
        partitions: u32,
    ) -> Self {
        Self {
            log,
            groups,
            queue,
            condition,
            merger,
            partitions,
            kept: VecDeque::new(),
            waits: Reconnect::default(),
            retry_at: None,
            sweep_at: Instant::now() + SWEEP_EVERY,
        }
    }

    /// Writes until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let mut gather = None;
        loop {
            let taken = self.queue.take(WRITES_MAX, self.patience(), gather);
            gather = Gather::after(&taken.writes);
            if !taken.writes.is_empty() {
                self.write(taken.writes);
            }
            for control in taken.controls {
                self.control(control);
            }
            let now = Instant::now();
            if taken.attention || self.groups.look_again_at(now).is_some_and(|at| at <= now) {
                self.groups.attend(&self.log, now);
            }
            if self.retry_at.is_some_and(|at| at <= now) {
                self.retry();
            }
            self.tidy(now);
            if taken.is_last {
                break;
            }
        }
        self.end();
    }

    fn patience(&self) -> Duration {
        let now = Instant::now();
        [self.groups.look_again_at(now), self.retry_at]
            .into_iter()
            .flatten()
            .fold(self.sweep_at, Instant::min)
            .saturating_duration_since(now)
    }

    fn end(mut self) {
        if !self.kept.is_empty() {
            self.retry();
        }
        for request in self.kept.drain(..) {
            answer_hop(request, Err(HopError::Closed));
        }
        self.merger.close();
        if let Err(error) = self.log.merge_and_end() {
            tracing::debug!(%error, "the write-ahead log stays as it is until the next start");
        }
    }

    /// Puts all that waited through, in one transaction.
    fn write(&mut self, writes: Vec<Write>) {
        let mut staged = Staged::default();
        let result = self.stage(&mut staged, writes);
        self.conclude(staged, result);
    }

    fn stage(&mut self, staged: &mut Staged, writes: Vec<Write>) -> rusqlite::Result<()> {
        let now = clock::now();
        let mut result = self.log.begin();
        for write in writes {
            match write {
                Write::Append(append) => {
                    if let Some(reason) = self.log.missing(&append.records) {
                        answer_append(append, Err(AppendError::Unconfirmed { reason }));
                        continue;
                    }
                    result = result.and_then(|()| self.append(staged, &append.records, now));
                    staged.appends.push(append);
                }
                Write::Hop(request) => {
                    if let Err(refusal) = self.check(staged, &request) {
                        answer_hop(request, Err(refusal));
                        continue;
                    }
                    if let Some(reason) = self.log.missing(&request.hop.outputs) {
                        // As with any outage, the hop waits until the topic is there.
                        self.fails(&reason);
                        self.kept.push_back(request);
                        continue;
                    }
                    killpoint::at(killpoint::BEFORE_OUTPUTS);
                    result = result.and_then(|()| self.hop(staged, &request.hop, now));
                    staged.hops.push(request);
                }
            }
        }
        result?;
        let hops = !staged.hops.is_empty();
        let passes = |point| {
            if hops {
                killpoint::at(point);
            }
        };
        passes(killpoint::BEFORE_OFFSETS);
        self.set_positions(staged)?;
        passes(killpoint::BEFORE_COMMIT);
        self.log.commit()?;
        passes(killpoint::AFTER_COMMIT);
        Ok(())
    }

    fn append(&mut self, staged: &mut Staged, records: &[NewRecord], now: Millis) -> rusqlite::Result<()> {
        for record in records {
            if let Some(record) = self.log.append(record, now)? {
                staged.records.entry(record.partition).or_default().push(record);
            }
        }
        Ok(())
    }

    /// Whether all of a hop's inputs are its own to finish.
    fn check(&self, staged: &mut Staged, request: &HopRequest) -> Result<(), HopError> {
        for ticket in &request.hop.completes {
            self.open(staged, ticket.partition(), ticket.offset(), ticket.epoch())?;
        }
        let positions = request.hop.positions.iter().map(|(assignment, _)| assignment);
        for assignment in positions.chain(&request.hop.fences) {
            match self.groups.living(assignment.epoch) {
                Some(owned) if owned.partition == assignment.partition => {}
                _ => return Err(HopError::Fenced),
            }
        }
        if !self.groups.has_member(request.member) {
            return Err(HopError::Closed);
        }
        // Last, since it changes the map: nothing refuses the request after it.
        if let Some((partition, offset, epoch)) = request.start {
            let map = self.open(staged, partition, offset, epoch)?;
            if !map.completion.start(offset) {
                return Err(HopError::NoRoom);
            }
            map.started.push(offset);
        }
        Ok(())
    }

    /// The map in which this record is open.
    fn open<'s>(
        &self,
        staged: &'s mut Staged,
        partition: Partition,
        offset: i64,
        epoch: u64,
    ) -> Result<&'s mut StagedMap, HopError> {
        let owned = self.groups.living(epoch).ok_or(HopError::Fenced)?;
        if owned.partition != partition {
            return Err(HopError::Fenced);
        }
        let map = match staged.completions.entry(epoch) {
            Entry::Occupied(staged) => staged.into_mut(),
            Entry::Vacant(free) => {
                let completion = owned
                    .mailbox
                    .completion(partition, epoch)
                    .ok_or(HopError::Fenced)?;
                free.insert(StagedMap {
                    completion,
                    finished: Vec::new(),
                    started: Vec::new(),
                })
            }
        };
        if map.completion.is_open(offset) {
            Ok(map)
        } else {
            Err(HopError::Fenced)
        }
    }

    fn hop(&mut self, staged: &mut Staged, hop: &Hop, now: Millis) -> rusqlite::Result<()> {
        for ticket in &hop.completes {
            if let Some(map) = staged.completions.get_mut(&ticket.epoch()) {
                map.completion.finish(ticket.offset());
                map.finished.push(ticket.offset());
            }
        }
        for (assignment, offset) in &hop.positions {
            if let Some(owned) = self.groups.living(assignment.epoch) {
                self.log
                    .set_position(&owned.group, owned.partition, *offset, "")?;
            }
        }
        let mut touched: Vec<Partition> = Vec::with_capacity(hop.outputs.len());
        for record in &hop.outputs {
            if let Some(record) = self.log.append(record, now)? {
                if !touched.contains(&record.partition) {
                    touched.push(record.partition);
                }
                staged.records.entry(record.partition).or_default().push(record);
            }
        }
        for partition in touched {
            self.log.skip(partition);
        }
        Ok(())
    }

    fn set_positions(&self, staged: &Staged) -> rusqlite::Result<()> {
        for (epoch, map) in &staged.completions {
            if let Some(Owned { group, partition, .. }) = self.groups.living(*epoch)
                && !(map.finished.is_empty() && map.started.is_empty())
            {
                let completion = &map.completion;
                self.log
                    .set_position(group, *partition, completion.committed(), &completion.metadata())?;
            }
        }
        Ok(())
    }

    /// Tells everybody how a transaction ended.
    fn conclude(&mut self, staged: Staged, result: rusqlite::Result<()>) {
        if let Err(error) = result {
            self.log.roll_back();
            self.fails(&error);
            let reason = error.to_string();
            for append in staged.appends {
                let reason = reason.clone();
                answer_append(append, Err(AppendError::Unconfirmed { reason }));
            }
            self.kept.extend(staged.hops);
            return;
        }
        for (partition, records) in &staged.records {
            self.groups.publish(*partition, records, self.log.end(*partition));
        }
        for (epoch, map) in &staged.completions {
            if let Some(owned) = self.groups.living(*epoch) {
                let (finished, started) = (&map.finished, &map.started);
                owned.mailbox.note(owned.partition, *epoch, finished, started);
            }
        }
        let wrote = !staged.appends.is_empty() || !staged.hops.is_empty();
        for append in staged.appends {
            answer_append(append, Ok(()));
        }
        for request in staged.hops {
            answer_hop(request, Ok(()));
        }
        if wrote && self.kept.is_empty() {
            self.is_well();
        }
    }

    fn fails(&mut self, error: &dyn std::fmt::Display) {
        self.condition.fails(error);
        if self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + self.waits.next_wait());
        }
    }

    fn is_well(&mut self) {
        self.condition.is_well();
        self.waits.reset();
        self.retry_at = None;
    }

    /// Tries kept hops again, each in a transaction of its own so that one cannot hold up the others.
    fn retry(&mut self) {
        self.retry_at = None;
        if self.kept.is_empty() {
            match self.log.probe() {
                Ok(()) => self.is_well(),
                Err(error) => self.fails(&error),
            }
            return;
        }
        let mut failures = 0;
        for _ in 0..self.kept.len() {
            let Some(request) = self.kept.pop_front() else {
                break;
            };
            let before = self.kept.len();
            self.write(vec![Write::Hop(request)]);
            if self.kept.len() > before {
                failures += 1;
            }
            if failures == FAILURES_A_ROUND {
                break;
            }
        }
        if self.kept.is_empty() {
            self.is_well();
        }
    }

    fn control(&mut self, control: Control) {
        let now = Instant::now();
        match control {
            Control::Join {
                subscription,
                mailbox,
                reply,
            } => {
                let member = Arc::clone(&mailbox);
                let joined = self.groups.join(&self.log, mailbox, subscription, now);
                if reply.send(joined).is_err() {
                    // Nobody will ever read from it.
                    member.leave();
                }
            }
            Control::Leave { member, reply } => self.groups.leave(&self.log, member, reply, now),
            Control::CreateTopics { reply } => {
                // Whoever asked may have given up; the topics are there all the same.
                let _ = reply.send(self.create_topics());
            }
            Control::Trim { before, reply } => {
                let trimmed = self.log.trim(before, TRIM_MAX).map_err(unreachable);
                // Whoever asked may have given up; what is gone is gone.
                let _ = reply.send(trimmed);
            }
            #[cfg(test)]
            Control::Execute(sql, reply) => {
                self.log.connection().execute_batch(&sql).unwrap();
                reply.send(()).unwrap();
            }
        }
    }

    fn create_topics(&mut self) -> Result<Vec<Finding>, BrokerError> {
        let mut findings = Vec::new();
        for topic in posthaste_event::Topic::ALL {
            let (severity, message) = match self.log.partitions(topic) {
                None => {
                    self.log.create(topic, self.partitions).map_err(unreachable)?;
                    (
                        Severity::Good,
                        format!("created with {} partitions", self.partitions),
                    )
                }
                Some(count) => super::topics::existing(count, self.partitions),
            };
            let subject = self.log.name(topic);
            findings.push(Finding {
                severity,
                subject,
                message,
            });
        }
        for (group, topics) in GROUPS {
            let subject = self.groups.name(group);
            for &topic in *topics {
                let committed = self.log.commit_starts(&subject, topic).map_err(unreachable)?;
                if committed > 0 {
                    findings.push(Finding {
                        severity: Severity::Good,
                        subject: subject.clone(),
                        message: format!("starts at the beginning of {}", self.log.name(topic)),
                    });
                }
            }
        }
        Ok(findings)
    }

    /// Keeps the file small: merges the write-ahead log, removes what deletions left.
    fn tidy(&mut self, now: Instant) {
        if self.merger.wants(self.log.unmerged_bytes) {
            self.log.unmerged_bytes = 0;
        }
        if self.merger.must_wait()
            && let Err(error) = self.log.merge()
        {
            tracing::debug!(%error, "cannot merge the write-ahead log now");
        }
        if now >= self.sweep_at {
            self.sweep_at = now + SWEEP_EVERY;
            match self.log.sweep(clock::now(), SWEEP_MAX) {
                // There may be more: go on soon, but let writers in between.
                Ok(count) if count == SWEEP_MAX as usize => self.sweep_at = now + Duration::from_millis(100),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "cannot remove old deletions now"),
            }
        }
    }
}

fn unreachable(error: rusqlite::Error) -> BrokerError {
    BrokerError::Unreachable(error.to_string())
}

fn answer_append(append: Append, result: Result<(), AppendError>) {
    // Whoever waited may have given up; that changes nothing.
    let _ = append.reply.send(result);
}

fn answer_hop(mut request: HopRequest, result: Result<(), HopError>) {
    if result.is_ok() {
        for ticket in request.hop.completes.drain(..) {
            ticket.spend();
        }
    }
    // Refused tickets are given back before the answer, so that the next record may be among them.
    drop(std::mem::take(&mut request.hop));
    let _ = request.reply.send(result);
}
