//! One process: what it holds of each partition, what it has under way, and how its outcomes are recorded. In place of the
//! consumers' threads and the transactions of a broker; what is decided is decided by the product's own code.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use posthaste_broker::{
    Consumed, NewRecord, Partition, Record, Ticket,
    completion::{Completion, Reading},
    ticket::TicketReturn,
};
use posthaste_event::{Topic, status::Writer};
use posthaste_service::Requests;

use crate::{
    cluster::{Cluster, Deed, Event, Sabotage},
    lane::Lanes,
    ledger::{self, Broken},
    log::Place,
    replay::Letters,
    wheel::Members,
};

/// Records of one partition that a process has in hand at most.
const IN_HAND_MAX: usize = 64;

/// Records taken in at once.
const BATCH: usize = 32;

/// A partition under one assignment.
pub struct Held {
    pub epoch: u64,
    /// When it was assigned.
    pub since: i64,
    completion: Completion,
    /// The index of the record to read next.
    index: usize,
    in_hand: usize,
    revoking: bool,
    polls: bool,
}

/// Who waits for the outcome of a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    Lane(usize),
    /// A lane that wants a record marked as started, for this call-to-be.
    Start(usize),
    Member,
    Replay,
}

/// The outcome of one record.
#[derive(Debug)]
pub struct Move {
    pub from: Place,
    pub outputs: Vec<NewRecord>,
    pub call: Option<usize>,
}

/// Outcomes of one partition, recorded together.
#[derive(Debug)]
pub struct Hop {
    pub partition: Partition,
    pub epoch: u64,
    pub moves: Vec<Move>,
    pub waits: Waits,
}

/// How a hop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Done,
    Fenced,
    NoRoom,
}

/// A process.
pub struct Node {
    pub incarnation: u32,
    pub is_alive: bool,
    pub frozen_until: i64,
    /// Nobody will know whether the next commit happened.
    pub is_commit_lost: bool,
    pub name: String,
    held: BTreeMap<Partition, Held>,
    pub lanes: Lanes,
    pub members: Members,
    pub letters: Letters,
    /// What it has heard is asked of events, and how much of each partition it has heard.
    pub requests: Requests,
    pub heard: BTreeMap<Partition, usize>,
    queue: Vec<Hop>,
    flushes: bool,
}

/// Tickets are counted by the process itself.
struct Nobody;

impl TicketReturn for Nobody {
    fn returned(&self, _: Partition, _: i64, _: u64) {}
}

impl Node {
    pub fn new(number: usize) -> Self {
        Self {
            incarnation: 0,
            is_alive: true,
            frozen_until: 0,
            is_commit_lost: false,
            name: format!("node-{number}"),
            held: BTreeMap::new(),
            lanes: Lanes::default(),
            members: Members::new(),
            letters: Letters::default(),
            requests: Requests::default(),
            heard: BTreeMap::new(),
            queue: Vec::new(),
            flushes: false,
        }
    }

    pub fn is(&self, incarnation: u32) -> bool {
        self.is_alive && self.incarnation == incarnation
    }

    pub fn held(&self, partition: Partition) -> Option<&Held> {
        self.held.get(&partition)
    }

    pub fn assignments(&self) -> Vec<(Partition, u64)> {
        self.held
            .iter()
            .map(|(partition, held)| (*partition, held.epoch))
            .collect()
    }

    /// Everything in memory is gone; gives the calls whose outcome goes with it.
    pub fn crash(&mut self) -> Vec<usize> {
        let calls = self.queue.iter().flat_map(|hop| &hop.moves);
        let mut calls: Vec<usize> = calls.filter_map(|one| one.call).collect();
        calls.extend(self.lanes.calls());
        let name = std::mem::take(&mut self.name);
        *self = Self {
            incarnation: self.incarnation + 1,
            is_alive: false,
            name,
            ..Self::new(0)
        };
        calls
    }
}

impl Cluster {
    pub fn append(&mut self, record: NewRecord) -> Place {
        let gap = i64::from(self.random.chance(20)) * self.random.within(1, 40);
        let is_asked = record.topic == Topic::Cancel;
        let place = self.log.append(record, gap, self.now);
        if is_asked {
            self.hear_soon();
        }
        if let Some(owner) = self.log.shelf(place.0).owner {
            self.poll_soon(owner, place.0);
        }
        place
    }

    pub fn deed_at(&mut self, node: usize, later_ms: i64, deed: Deed) {
        let incarnation = self.nodes[node].incarnation;
        self.at(later_ms, Event::Deed(node, incarnation, deed));
    }

    fn poll_soon(&mut self, node: usize, partition: Partition) {
        if let Some(held) = self.nodes[node].held.get_mut(&partition)
            && !std::mem::replace(&mut held.polls, true)
        {
            let later_ms = self.random.within(1, 5);
            self.deed_at(node, later_ms, Deed::Poll(partition));
        }
    }

    pub fn deed(&mut self, node: usize, deed: Deed) -> Result<(), Broken> {
        match deed {
            Deed::Poll(partition) => self.poll(node, partition)?,
            Deed::Answered(call) => self.answered(node, call)?,
            Deed::Flush => self.flush(node)?,
            Deed::Wake(member) => self.wake(node, member),
            Deed::Tick => self.tick(node),
            Deed::Replay(partition) => self.replay(node, partition),
            Deed::Hear => self.hear(node),
        }
        self.start_sends(node)
    }

    pub fn take_over(&mut self, node: usize, partition: Partition) {
        let (epoch, completion, mut index) = self.log.assign(partition, node);
        if partition.topic == Topic::DeadLetter {
            index = 0;
        }
        let held = Held {
            epoch,
            since: self.now,
            completion,
            index,
            in_hand: 0,
            revoking: false,
            polls: false,
        };
        let member = &mut self.nodes[node];
        member.held.insert(partition, held);
        member.members.begin(partition);
        member.letters.begin(partition);
        self.poll_soon(node, partition);
    }

    /// No new record of it is taken; what has not begun is dropped.
    pub fn revoke(&mut self, node: usize, partition: Partition) {
        let member = &mut self.nodes[node];
        if let Some(held) = member.held.get_mut(&partition) {
            held.revoking = true;
        }
        member.lanes.forget(partition);
        member.members.forget(partition);
        member.letters.forget(partition);
    }

    /// It is gone.
    pub fn drop_partition(&mut self, node: usize, partition: Partition) {
        self.revoke(node, partition);
        self.nodes[node].held.remove(&partition);
    }

    fn poll(&mut self, node: usize, partition: Partition) -> Result<(), Broken> {
        let Some(held) = self.nodes[node].held.get_mut(&partition) else {
            return Ok(());
        };
        held.polls = false;
        if held.revoking {
            return Ok(());
        }
        for _ in 0..BATCH {
            let Some(held) = self.nodes[node].held.get_mut(&partition) else {
                return Ok(());
            };
            let Some(record) = self.log.read(partition, held.index) else {
                return Ok(());
            };
            let record = record.clone();
            if partition.topic == Topic::DeadLetter {
                held.index += 1;
                self.read_letter(node, record);
                continue;
            }
            if held.in_hand >= IN_HAND_MAX || !held.completion.has_room(record.offset) {
                return Ok(());
            }
            held.index += 1;
            let (is_unfinished, is_started) = self.log.stands((partition, record.offset));
            match held.completion.read(record.offset) {
                Reading::Finished if is_unfinished => {
                    return Err(format!(
                        "{partition}@{} is skipped, and unfinished",
                        record.offset
                    ));
                }
                Reading::Finished => {}
                Reading::Open { started } if is_unfinished && started == is_started => {
                    held.in_hand += 1;
                    let epoch = held.epoch;
                    self.take_in(node, record, epoch, started)?;
                }
                reading => {
                    return Err(format!(
                        "{partition}@{} is {reading:?}; unfinished: {is_unfinished}, started: {is_started}",
                        record.offset
                    ));
                }
            }
        }
        self.poll_soon(node, partition);
        Ok(())
    }

    fn take_in(&mut self, node: usize, record: Record, epoch: u64, started: bool) -> Result<(), Broken> {
        let (partition, offset) = (record.partition, record.offset);
        let consumed = Consumed {
            record,
            ticket: Ticket::issue(partition, offset, epoch, started, Arc::new(Nobody)),
        };
        match partition.topic {
            Topic::Critical | Topic::RetryCritical => self.admit(node, 0, consumed),
            Topic::Default => self.admit(node, 1, consumed),
            Topic::Retry => self.admit(node, 2, consumed),
            _ => {
                self.wait(node, consumed);
                Ok(())
            }
        }
    }

    /// Puts outcomes on their way.
    pub fn hop(&mut self, node: usize, hop: Hop) {
        let member = &mut self.nodes[node];
        member.queue.push(hop);
        if !std::mem::replace(&mut member.flushes, true) {
            let later_ms = self.random.within(1, 20);
            self.deed_at(node, later_ms, Deed::Flush);
        }
    }

    fn flush(&mut self, node: usize) -> Result<(), Broken> {
        let away_ms = self.broker_away_until - self.now;
        if away_ms > 0 {
            self.deed_at(node, away_ms, Deed::Flush);
            return Ok(());
        }
        let member = &mut self.nodes[node];
        member.flushes = false;
        let is_unknown = std::mem::take(&mut member.is_commit_lost);
        let hops = std::mem::take(&mut member.queue);
        let happened = !is_unknown || self.random.chance(500);
        let mut touched = BTreeSet::new();
        let mut ended = Vec::new();
        for hop in hops {
            let how = if happened {
                self.commit(node, &hop, &mut touched)?
            } else {
                Ended::Fenced
            };
            ended.push((hop, if is_unknown { Ended::Fenced } else { how }));
        }
        self.log.mark(&touched);
        if is_unknown {
            // Nobody knows what happened: the commits are read again, under new assignments.
            for (partition, epoch) in self.nodes[node].assignments() {
                if self.log.is_live(partition, node, epoch) {
                    self.drop_partition(node, partition);
                    self.take_over(node, partition);
                }
            }
        }
        for (hop, how) in ended {
            self.conclude(node, hop, how)?;
        }
        Ok(())
    }

    /// One transaction: all of it, or nothing.
    fn commit(&mut self, node: usize, hop: &Hop, touched: &mut BTreeSet<Partition>) -> Result<Ended, Broken> {
        let Hop { partition, epoch, .. } = *hop;
        if !self.log.is_live(partition, node, epoch) && !self.sabotages(Sabotage::HasNoFence) {
            return Ok(Ended::Fenced);
        }
        if let Waits::Start(_) = hop.waits {
            let place = hop.moves[0].from;
            let Some(held) = self.nodes[node].held.get_mut(&partition) else {
                return Ok(Ended::Fenced);
            };
            if !held.completion.start(place.1) {
                return Ok(Ended::NoRoom);
            }
            self.log.start(place);
            self.log.commit(partition, &held.completion)?;
            return Ok(Ended::Done);
        }
        let writer = match hop.waits {
            Waits::Lane(_) | Waits::Start(_) => Writer::Dispatcher,
            Waits::Member => Writer::Retry,
            Waits::Replay => Writer::Replay,
        };
        for one in &hop.moves {
            let loses = self.sabotages(Sabotage::LosesAnOutcome);
            for output in one.outputs.iter().filter(|_| !loses) {
                let value = output.value.clone().unwrap_or_default();
                let to = self.append(output.clone());
                touched.insert(to.0);
                // Marks of replays and what is forgotten are no steps of an event.
                if output.value.is_some() && !value.starts_with(br#"{"replayed""#) {
                    self.ledger.hopped(&ledger::Hop {
                        from: one.from,
                        to: (to, &value),
                        writer,
                        call: one.call,
                    })?;
                }
            }
            if hop.waits != Waits::Replay {
                self.log.finish(one.from)?;
                self.finish_in_hand(node, one.from);
            }
        }
        touched.insert(partition);
        let forgets = hop.waits != Waits::Replay && self.sabotages(Sabotage::ForgetsTheMap);
        if let Some(held) = self.nodes[node].held.get(&partition)
            && hop.waits != Waits::Replay
        {
            if forgets {
                let forgetful = Completion::new(held.completion.committed());
                self.log.commit(partition, &forgetful)?;
            } else {
                self.log.commit(partition, &held.completion)?;
            }
        }
        self.poll_soon(node, partition);
        Ok(Ended::Done)
    }

    fn finish_in_hand(&mut self, node: usize, (partition, offset): Place) {
        if let Some(held) = self.nodes[node].held.get_mut(&partition)
            && held.completion.finish(offset)
        {
            held.in_hand = held.in_hand.saturating_sub(1);
        }
    }

    fn conclude(&mut self, node: usize, hop: Hop, how: Ended) -> Result<(), Broken> {
        match hop.waits {
            Waits::Lane(lane) => self.lane_recorded(node, lane, hop, how),
            Waits::Start(lane) => self.lane_started(node, lane, &hop, how),
            // The next owner decides.
            Waits::Member => Ok(()),
            Waits::Replay => {
                self.replayed(node, &hop, how);
                Ok(())
            }
        }
    }
}
