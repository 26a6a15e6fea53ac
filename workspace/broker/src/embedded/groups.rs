//! The groups of this process: who is a member, who owns which partition, and under which epoch.
//!
//! Changed by the writer's thread alone, between two transactions. So an epoch that lives when a hop is checked still lives
//! when that hop is committed, and a partition's next owner sees all that the last one finished.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use posthaste_event::Topic;
use tokio::sync::oneshot;

use super::{
    log::Log,
    mailbox::{Grant, Mailbox},
    spread::spread,
};
use crate::{
    Assignment, BrokerError, Partition, Record, Start, Subscription, Tracking, completion::Completion,
};

/// A living assignment.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) group: Arc<str>,
    pub(super) partition: Partition,
    pub(super) mailbox: Arc<Mailbox>,
}

#[derive(Debug)]
struct Member {
    mailbox: Arc<Mailbox>,
    subscription: Subscription,
    /// Told when the last partition is given up, once the member has said that it leaves.
    leaving: Option<oneshot::Sender<()>>,
    /// Partitions whose metadata cannot be read: said once, and not tried again.
    unreadable: Vec<Partition>,
}

#[derive(Debug, Clone, Copy)]
struct Ownership {
    member: u64,
    epoch: u64,
    /// When the drain is over, while the partition is being revoked.
    drained_by: Option<Instant>,
}

#[derive(Debug, Default)]
struct Group {
    members: BTreeMap<u64, Member>,
    owned: HashMap<Partition, Ownership>,
}

/// All groups.
#[derive(Debug)]
pub(super) struct Groups {
    prefix: String,
    drain: Duration,
    groups: HashMap<Arc<str>, Group>,
    living: HashMap<u64, Owned>,
    readers: HashMap<Partition, Vec<Arc<Mailbox>>>,
    last_epoch: u64,
    /// The file could not be asked for a position; try again.
    incomplete: bool,
    /// Some partition may be on its way to another member; else none has to be looked for, which is asked at each transaction.
    draining: bool,
}

impl Groups {
    pub(super) fn new(prefix: &str, drain: Duration) -> Self {
        Self {
            prefix: prefix.to_owned(),
            drain,
            groups: HashMap::new(),
            living: HashMap::new(),
            readers: HashMap::new(),
            last_epoch: 0,
            incomplete: false,
            draining: false,
        }
    }

    /// The assignment with this epoch, while it lives.
    pub(super) fn living(&self, epoch: u64) -> Option<&Owned> {
        self.living.get(&epoch)
    }

    /// Whether this member has not left.
    pub(super) fn has_member(&self, member: u64) -> bool {
        self.groups
            .values()
            .any(|group| group.members.contains_key(&member))
    }

    /// The full name of a group.
    pub(super) fn name(&self, group: &str) -> String {
        format!("{}.{group}", self.prefix)
    }

    /// Tells the owners of a partition what was written to it.
    pub(super) fn publish(&self, partition: Partition, records: &[Record], end: i64) {
        for mailbox in self.readers.get(&partition).into_iter().flatten() {
            mailbox.publish(partition, records, end);
        }
    }

    /// Takes a member in.
    pub(super) fn join(
        &mut self,
        log: &Log,
        mailbox: Arc<Mailbox>,
        subscription: Subscription,
        now: Instant,
    ) -> Result<(), BrokerError> {
        let missing: Vec<String> = subscription
            .topics
            .iter()
            .filter(|topic| log.partitions(**topic).is_none())
            .map(|topic| topic.name(&self.prefix))
            .collect();
        if !missing.is_empty() {
            return Err(BrokerError::MissingTopics(missing));
        }
        let name: Arc<str> = format!("{}.{}", self.prefix, subscription.group).into();
        if subscription.start == Start::Committed {
            check_positions(log, &name, &subscription.topics)?;
        }
        let group = self.groups.entry(Arc::clone(&name)).or_default();
        if let Some(other) = group.members.values().next()
            && other.subscription.tracking != subscription.tracking
        {
            return Err(BrokerError::Refused(format!(
                "group {name} keeps its progress in another way: members of a group must agree on that"
            )));
        }
        let member = Member {
            mailbox: Arc::clone(&mailbox),
            subscription,
            leaving: None,
            unreadable: Vec::new(),
        };
        group.members.insert(mailbox.member, member);
        self.rebalance(log, &name, now);
        Ok(())
    }

    /// Lets a member go once it holds nothing any more, or its drain time is over.
    pub(super) fn leave(&mut self, log: &Log, member: u64, reply: oneshot::Sender<()>, now: Instant) {
        let found = self
            .groups
            .iter_mut()
            .find_map(|(name, group)| Some((Arc::clone(name), group.members.get_mut(&member)?)));
        if let Some((name, member)) = found {
            member.leaving = Some(reply);
            self.rebalance(log, &name, now);
        }
    }

    /// Looks who left without a word, and which revoked partitions are drained or out of time.
    pub(super) fn attend(&mut self, log: &Log, now: Instant) {
        let names: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        let again = std::mem::take(&mut self.incomplete);
        for name in names {
            let Some(group) = self.groups.get_mut(&name) else {
                continue;
            };
            let before = group.members.len();
            let gone: Vec<u64> = group
                .members
                .extract_if(.., |_, member| member.mailbox.is_gone())
                .map(|(id, _)| id)
                .collect();
            let done: Vec<Partition> = group
                .owned
                .iter()
                .filter(|(partition, owner)| match group.members.get(&owner.member) {
                    None => true,
                    Some(member) => owner
                        .drained_by
                        .is_some_and(|by| now >= by || member.mailbox.is_idle(**partition)),
                })
                .map(|(partition, _)| *partition)
                .collect();
            debug_assert_eq!(before - gone.len(), group.members.len());
            if !done.is_empty() || !gone.is_empty() || again {
                self.take_away(&name, done);
                self.rebalance(log, &name, now);
            }
        }
        let draining = self.drains().next().is_some();
        self.draining = draining;
    }

    /// Until when partitions that go to another member may take.
    fn drains(&self) -> impl Iterator<Item = Instant> {
        let groups = self.groups.values();
        groups.flat_map(|group| group.owned.values().filter_map(|owner| owner.drained_by))
    }

    /// When to look again at the latest.
    pub(super) fn look_again_at(&self, now: Instant) -> Option<Instant> {
        let drains = self.draining.then(|| self.drains()).into_iter().flatten();
        let again = self.incomplete.then(|| now + Duration::from_millis(200));
        drains.chain(again).min()
    }

    /// Ends everything: what is held is void.
    fn close(&mut self) {
        for member in self.groups.values().flat_map(|group| group.members.values()) {
            member.mailbox.close();
        }
        self.groups.clear();
        self.living.clear();
        self.readers.clear();
    }

    /// Revokes what others should have, and gives out what is free.
    fn rebalance(&mut self, log: &Log, name: &Arc<str>, now: Instant) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        let staying: BTreeMap<u64, Vec<Topic>> = group
            .members
            .iter()
            .filter(|(_, member)| member.leaving.is_none())
            .map(|(id, member)| (*id, member.subscription.topics.clone()))
            .collect();
        let topics: BTreeMap<Topic, u32> = staying
            .values()
            .flatten()
            .filter_map(|topic| Some((*topic, log.partitions(*topic)?)))
            .collect();
        let owners = group
            .owned
            .iter()
            .map(|(partition, owner)| (*partition, owner.member))
            .collect();
        let fair = spread(&topics, &staying, &owners);

        let mut revoked: BTreeMap<u64, Vec<Partition>> = BTreeMap::new();
        for (partition, owner) in &mut group.owned {
            if owner.drained_by.is_none() && fair.get(partition) != Some(&owner.member) {
                owner.drained_by = Some(now + self.drain);
                self.draining = true;
                revoked.entry(owner.member).or_default().push(*partition);
            }
        }
        let mut idle = Vec::new();
        for (member, mut partitions) in revoked {
            partitions.sort_unstable();
            if let Some(member) = group.members.get(&member) {
                idle.extend(member.mailbox.revoke(&partitions));
            }
        }
        self.take_away(name, idle);
        self.give(log, name, &fair);
        self.let_go(name);
    }

    /// Ends these assignments; hops under their epochs are refused from now on.
    fn take_away(&mut self, name: &Arc<str>, partitions: Vec<Partition>) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        let mut taken: BTreeMap<u64, Vec<Partition>> = BTreeMap::new();
        for partition in partitions {
            if let Some(owner) = group.owned.remove(&partition) {
                self.living.remove(&owner.epoch);
                if let Some(readers) = self.readers.get_mut(&partition) {
                    readers.retain(|mailbox| mailbox.member != owner.member);
                }
                taken.entry(owner.member).or_default().push(partition);
            }
        }
        for (member, mut partitions) in taken {
            partitions.sort_unstable();
            if let Some(member) = group.members.get(&member) {
                member.mailbox.remove(&partitions);
            }
        }
    }

    /// Gives free partitions to those who should have them.
    fn give(&mut self, log: &Log, name: &Arc<str>, fair: &HashMap<Partition, u64>) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        let mut free: Vec<(Partition, u64)> = fair
            .iter()
            .filter(|(partition, _)| !group.owned.contains_key(partition))
            .map(|(partition, member)| (*partition, *member))
            .collect();
        free.sort_unstable();
        let mut given: BTreeMap<u64, Vec<Grant>> = BTreeMap::new();
        for (partition, id) in free {
            let Some(member) = group
                .members
                .get_mut(&id)
                .filter(|member| !member.unreadable.contains(&partition))
            else {
                continue;
            };
            let epoch = self.last_epoch + 1;
            let grant = match grant(log, name, &member.subscription, partition, epoch) {
                Ok(grant) => grant,
                Err(Ungranted::Unread(error)) => {
                    tracing::debug!(%error, "cannot read where group {name} stands in {partition}");
                    self.incomplete = true;
                    continue;
                }
                Err(Ungranted::Unreadable(error)) => {
                    member.unreadable.push(partition);
                    member.mailbox.refuse(error);
                    continue;
                }
            };
            self.last_epoch = epoch;
            let ownership = Ownership {
                member: id,
                epoch,
                drained_by: None,
            };
            group.owned.insert(partition, ownership);
            let mailbox = Arc::clone(&member.mailbox);
            self.readers
                .entry(partition)
                .or_default()
                .push(Arc::clone(&mailbox));
            let owned = Owned {
                group: Arc::clone(name),
                partition,
                mailbox,
            };
            self.living.insert(epoch, owned);
            given.entry(id).or_default().push(grant);
        }
        for (id, grants) in given {
            if let Some(member) = group.members.get(&id) {
                member.mailbox.grant(grants);
            }
        }
    }

    /// Says goodbye to those who wanted to leave and own nothing any more.
    fn let_go(&mut self, name: &Arc<str>) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        let owned = &group.owned;
        let left = group.members.extract_if(.., |id, member| {
            member.leaving.is_some() && !owned.values().any(|owner| owner.member == *id)
        });
        for (_, member) in left {
            if let Some(reply) = member.leaving {
                // Whoever waited may have given up; it has left all the same.
                let _ = reply.send(());
            }
        }
        if group.members.is_empty() && group.owned.is_empty() {
            self.groups.remove(name);
        }
    }
}

impl Drop for Groups {
    /// However the writer ends, its members hear of it.
    fn drop(&mut self) {
        self.close();
    }
}

/// Refuses to start in the middle of history, and commits the start where there is no history.
fn check_positions(log: &Log, name: &str, topics: &[Topic]) -> Result<(), BrokerError> {
    let unreachable = |error: rusqlite::Error| BrokerError::Unreachable(error.to_string());
    for &topic in topics {
        let mut has_position = false;
        for number in 0..log.partitions(topic).unwrap_or(0) {
            has_position |= log
                .position(name, Partition { topic, number })
                .map_err(unreachable)?
                .is_some();
        }
        if has_position {
            continue;
        }
        if log.has_records(topic) {
            return Err(BrokerError::NoPositions {
                group: name.to_owned(),
                topic: log.name(topic),
            });
        }
        log.commit_starts(name, topic).map_err(unreachable)?;
    }
    Ok(())
}

/// Why a partition is not given out.
enum Ungranted {
    /// The file could not be read now.
    Unread(rusqlite::Error),
    /// The map of finished records makes no sense.
    Unreadable(BrokerError),
}

impl From<rusqlite::Error> for Ungranted {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unread(error)
    }
}

fn grant(
    log: &Log,
    name: &str,
    subscription: &Subscription,
    partition: Partition,
    epoch: u64,
) -> Result<Grant, Ungranted> {
    let position = log.position(name, partition)?;
    let start = log.start(partition)?;
    let end = log.end(partition);
    let committed = position.as_ref().map_or(start, |position| position.committed);
    let from = match &subscription.start {
        Start::Committed => committed,
        Start::LogStart => start,
        Start::At(offsets) => offsets
            .iter()
            .find(|(at, _)| *at == partition)
            .map_or(start, |(_, offset)| *offset),
    };
    let completion = match (subscription.tracking, &subscription.start, position) {
        (Tracking::Position, ..) => None,
        (Tracking::Completion, Start::Committed, Some(position)) => {
            let resumed = Completion::resume(position.committed, &position.metadata).map_err(|error| {
                Ungranted::Unreadable(BrokerError::Metadata {
                    partition: partition.to_string(),
                    group: name.to_owned(),
                    reason: error.to_string(),
                })
            })?;
            Some(resumed)
        }
        (Tracking::Completion, ..) => Some(Completion::new(from)),
    };
    Ok(Grant {
        assignment: Assignment {
            partition,
            epoch,
            committed,
        },
        id: log.id(partition).unwrap_or(-1),
        // A position beyond the end is one of a log that was replaced by an older copy.
        from: from.min(end),
        end,
        completion,
    })
}
