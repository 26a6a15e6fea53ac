//! What waits for the writer: a bounded queue of appends and hops, and the marks that make it look around.
//!
//! Whoever asks takes permits first (one per begun KiB and record), so the queue never holds more than the permits allow;
//! appends and hops have their own, so that a flood of intake does not hold up outcomes.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use posthaste_event::{Millis, Topic};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::mailbox::Mailbox;
use crate::{AppendError, BrokerError, Finding, Hop, HopError, NewRecord, Partition, Subscription};

/// So many writes need not wait for more.
const WRITES_ENOUGH: usize = 256;

/// After a transaction that had company in it, hops are gathered for a moment: each transaction has costs of its own, for every
/// partition and group that it touches, and while the disk takes one, a critical append waits. That, and a hop for which somebody
/// waits, ends it.
const BUSY_WRITES: usize = 2;
const GATHER_HOPS: Duration = Duration::from_millis(5);
/// After one with so many appends, appends are gathered too, but not for long. Large ones have nothing to gain, critical ones never
/// wait.
const BUSY_APPENDS: usize = 4;
const BUSY_APPENDED_MAX: usize = 512;
const GATHER_APPENDS: Duration = Duration::from_millis(1);
/// So many percent of those who append are waited for, as far as they are known: those who were just answered, and those who wait.
/// The others are still at work on what they ask next, and have the processor meanwhile. With all of them together, nobody would work
/// while the disk does; with few, the fixed costs of a transaction are shared by few.
const GATHER_PERCENT: usize = 70;

/// What the writer waits for before it takes what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gather {
    /// More hops, or an append.
    Hops,
    /// More appends.
    Appends {
        /// How many the last transaction had.
        answered: usize,
    },
}

impl Gather {
    /// What to gather after a transaction of these.
    pub(super) fn after(writes: &[Write]) -> Option<Self> {
        let appends = writes.iter().filter_map(|write| match write {
            Write::Append(append) => Some(append.records.len()),
            Write::Hop(_) => None,
        });
        let (answered, records) =
            appends.fold((0, 0), |(appends, all), records| (appends + 1, all + records));
        if answered >= BUSY_APPENDS && records <= BUSY_APPENDED_MAX {
            return Some(Self::Appends { answered });
        }
        (writes.len() >= BUSY_WRITES).then_some(Self::Hops)
    }

    const fn patience(self) -> Duration {
        match self {
            Self::Hops => GATHER_HOPS,
            Self::Appends { .. } => GATHER_APPENDS,
        }
    }

    /// How many appends end the wait, while so many wait already.
    fn enough(self, waiting: usize) -> usize {
        match self {
            Self::Hops => 1,
            Self::Appends { answered } => (answered + waiting) * GATHER_PERCENT / 100,
        }
    }
}

/// An append that waits.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) records: Vec<NewRecord>,
    pub(super) reply: oneshot::Sender<Result<(), AppendError>>,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// A hop that waits.
#[derive(Debug)]
pub(super) struct HopRequest {
    /// The member whose hopper this came through.
    pub(super) member: u64,
    pub(super) hop: Hop,
    /// A record to mark as started: partition, offset, epoch.
    pub(super) start: Option<(Partition, i64, u64)>,
    pub(super) reply: oneshot::Sender<Result<(), HopError>>,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Something to write.
#[derive(Debug)]
pub(super) enum Write {
    Append(Append),
    Hop(HopRequest),
}

/// Something to change between two transactions.
#[derive(Debug)]
pub(super) enum Control {
    Join {
        subscription: Subscription,
        mailbox: Arc<Mailbox>,
        reply: oneshot::Sender<Result<(), BrokerError>>,
    },
    Leave {
        member: u64,
        reply: oneshot::Sender<()>,
    },
    CreateTopics {
        reply: oneshot::Sender<Result<Vec<Finding>, BrokerError>>,
    },
    /// See [`crate::Broker::trim`]; a part of it, 0 when nothing is left.
    Trim {
        before: Millis,
        reply: oneshot::Sender<Result<u64, BrokerError>>,
    },
    #[cfg(test)]
    Execute(String, oneshot::Sender<()>),
}

#[derive(Debug, Default)]
struct Waiting {
    writes: VecDeque<Write>,
    controls: VecDeque<Control>,
    attention: bool,
    /// Appends among the writes.
    appends: usize,
    /// Something waits that is not to be kept waiting.
    urgent: bool,
    writer: WriterIs,
    closed: bool,
}

/// What the writer does; only when it waits is waking it worth a system call.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum WriterIs {
    #[default]
    Busy,
    /// Until there is anything.
    Sleeping,
    /// For more, until so many appends are there.
    Gathering(usize),
}

/// What the writer takes in one go.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) writes: Vec<Write>,
    pub(super) controls: Vec<Control>,
    /// Somebody left, or gave back the last record of a partition that is being revoked.
    pub(super) attention: bool,
    /// Nothing more will come.
    pub(super) is_last: bool,
}

/// The queue between everybody and the writer.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    pub(super) appends: Permits,
    pub(super) hops: Permits,
    /// Controls are awaited by those who ask, few at a time.
    pub(super) controls: Arc<Semaphore>,
}

/// A number of KiB.
#[derive(Debug)]
pub(super) struct Permits {
    semaphore: Arc<Semaphore>,
    most: u32,
}

impl Permits {
    fn new(kib_max: u32) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(kib_max as usize)),
            most: kib_max,
        }
    }

    /// What these records cost. More than all there is is all there is, so that the largest passes when it is alone.
    fn cost(&self, records: &[NewRecord]) -> u32 {
        let kib = records
            .iter()
            .map(|record| size(record) / 1_024 + 1)
            .sum::<usize>()
            .max(1);
        u32::try_from(kib).unwrap_or(u32::MAX).min(self.most)
    }

    /// Takes permits if there are enough now.
    pub(super) fn try_take(&self, records: &[NewRecord]) -> Option<OwnedSemaphorePermit> {
        let cost = self.cost(records);
        Arc::clone(&self.semaphore).try_acquire_many_owned(cost).ok()
    }

    /// Waits for permits; `None` when the broker is closed.
    pub(super) async fn take(&self, records: &[NewRecord]) -> Option<OwnedSemaphorePermit> {
        let cost = self.cost(records);
        Arc::clone(&self.semaphore).acquire_many_owned(cost).await.ok()
    }
}

/// Bytes of key and value.
pub(super) fn size(record: &NewRecord) -> usize {
    record.key.len() + record.value.as_ref().map_or(0, bytes::Bytes::len)
}

impl Waiting {
    /// Whether nothing is gained by waiting for more.
    fn is_enough(&self, appends: usize) -> bool {
        self.urgent || self.appends >= appends || self.writes.len() >= WRITES_ENOUGH
    }
}

impl Queue {
    pub(super) fn new(appends_kib_max: u32, hops_kib_max: u32) -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            appends: Permits::new(appends_kib_max),
            hops: Permits::new(hops_kib_max),
            controls: Arc::new(Semaphore::new(16)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.lock();
        change(&mut waiting);
        let wakes = match waiting.writer {
            WriterIs::Busy => false,
            WriterIs::Sleeping => true,
            WriterIs::Gathering(appends) => waiting.is_enough(appends),
        };
        if wakes {
            waiting.writer = WriterIs::Busy;
        }
        drop(waiting);
        if wakes {
            self.wake.notify_one();
        }
    }

    /// Queues a write; when the broker is closed it is dropped, and so answered.
    pub(super) fn write(&self, write: Write) {
        let mut refused = None;
        self.change(|waiting| {
            if waiting.closed {
                refused = Some(write);
            } else {
                match &write {
                    Write::Append(append) => {
                        waiting.appends += 1;
                        waiting.urgent |= append
                            .records
                            .iter()
                            .any(|record| record.topic == Topic::Critical);
                    }
                    // With a start, somebody waits with a send until this is durable.
                    Write::Hop(request) => {
                        waiting.urgent |= request.start.is_some() || !request.hop.may_wait;
                    }
                }
                waiting.writes.push_back(write);
            }
        });
        drop(refused);
    }

    /// Queues a change; dropped, and so answered, when the broker is closed.
    pub(super) fn control(&self, control: Control) {
        let mut refused = None;
        self.change(|waiting| {
            if waiting.closed {
                refused = Some(control);
            } else {
                waiting.controls.push_back(control);
                waiting.urgent = true;
            }
        });
        drop(refused);
    }

    /// Makes the writer look who left and what is drained.
    pub(super) fn attend(&self) {
        self.change(|waiting| (waiting.attention, waiting.urgent) = (true, true));
    }

    /// Takes what waits, at most `writes_max` writes; sleeps up to `patience` when there is nothing. With `gather`, what comes
    /// first is kept waiting for more.
    pub(super) fn take(&self, writes_max: usize, patience: Duration, gather: Option<Gather>) -> Taken {
        let mut waiting = self.lock();
        if let Some(gather) = gather {
            let enough = gather.enough(waiting.appends);
            if !waiting.is_enough(enough) {
                waiting = self.wait(waiting, WriterIs::Gathering(enough), gather.patience());
            }
        }
        if waiting.writes.is_empty() && !waiting.urgent {
            waiting = self.wait(waiting, WriterIs::Sleeping, patience);
        }
        let count = waiting.writes.len().min(writes_max);
        let more = waiting.writes.len() > count || waiting.closed;
        waiting.urgent = more;
        let writes: Vec<Write> = waiting.writes.drain(..count).collect();
        let left = waiting.writes.iter();
        waiting.appends = left.filter(|write| matches!(write, Write::Append(_))).count();
        Taken {
            writes,
            controls: waiting.controls.drain(..).collect(),
            attention: std::mem::take(&mut waiting.attention),
            is_last: waiting.closed && waiting.writes.is_empty(),
        }
    }

    fn wait<'w>(
        &self,
        mut waiting: MutexGuard<'w, Waiting>,
        how: WriterIs,
        patience: Duration,
    ) -> MutexGuard<'w, Waiting> {
        waiting.writer = how;
        let (mut waiting, _) = self
            .wake
            .wait_timeout_while(waiting, patience, |waiting| waiting.writer == how)
            .unwrap_or_else(PoisonError::into_inner);
        waiting.writer = WriterIs::Busy;
        waiting
    }

    /// Takes no more; what is queued already is still handed out.
    pub(super) fn close(&self) {
        self.change(|waiting| (waiting.closed, waiting.urgent) = (true, true));
        self.hops.semaphore.close();
        self.appends.semaphore.close();
        self.controls.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(queue: &Queue, topic: Topic, records: usize) -> Write {
        let records = vec![NewRecord::new(topic, "key", "value"); records];
        Write::Append(Append {
            _permit: queue.appends.try_take(&records).unwrap(),
            records,
            reply: oneshot::channel().0,
        })
    }

    fn hop(queue: &Queue, may_wait: bool) -> Write {
        let hop = Hop {
            may_wait,
            ..Hop::default()
        };
        Write::Hop(HopRequest {
            member: 1,
            hop,
            start: None,
            reply: oneshot::channel().0,
            _permit: queue.hops.try_take(&[]).unwrap(),
        })
    }

    fn is_enough(queue: &Queue, appends: usize) -> bool {
        queue.lock().is_enough(appends)
    }

    #[test]
    fn after_several_appends_most_of_those_who_append_are_waited_for() {
        let queue = Queue::new(1_024, 1_024);
        let before: Vec<_> = (0..10).map(|_| append(&queue, Topic::Default, 1)).collect();
        assert_eq!(Gather::after(&before[..1]), None);
        let gather = Gather::after(&before).unwrap();
        assert_eq!(gather.enough(0), 7, "of ten who were answered");
        assert_eq!(
            gather.enough(20),
            21,
            "more than there are would be waited for in vain"
        );
        for _ in 0..6 {
            queue.write(append(&queue, Topic::Default, 1));
            assert!(!is_enough(&queue, 7));
        }
        queue.write(append(&queue, Topic::Default, 1));
        assert!(is_enough(&queue, 7));
        assert_eq!(queue.take(usize::MAX, Duration::ZERO, None).writes.len(), 7);
        assert!(!is_enough(&queue, 7));
        queue.write(append(&queue, Topic::Critical, 1));
        assert!(is_enough(&queue, 7), "a critical append waits for nobody");
    }

    #[test]
    fn hops_are_gathered_in_company_until_somebody_waits() {
        let queue = Queue::new(1_024, 1_024);
        let alone = [hop(&queue, true)];
        assert_eq!(Gather::after(&alone), None);
        let together = [hop(&queue, true), hop(&queue, true)];
        let gather = Gather::after(&together).unwrap();
        assert_eq!(gather, Gather::Hops);
        let enough = gather.enough(0);
        let ends: [fn(&Queue) -> Write; 3] = [
            |queue| hop(queue, false),
            |queue| append(queue, Topic::Default, 1),
            |queue| append(queue, Topic::Critical, 1),
        ];
        for end in ends {
            queue.write(hop(&queue, true));
            assert!(!is_enough(&queue, enough));
            queue.write(end(&queue));
            assert!(is_enough(&queue, enough));
            queue.take(usize::MAX, Duration::ZERO, None);
        }
    }

    #[test]
    fn large_appends_are_not_gathered() {
        let queue = Queue::new(4_096, 1_024);
        let before: Vec<_> = (0..5).map(|_| append(&queue, Topic::Default, 200)).collect();
        assert_eq!(Gather::after(&before), Some(Gather::Hops));
    }
}
