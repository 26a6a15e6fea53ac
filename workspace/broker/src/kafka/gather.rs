//! Which of the hops that wait go into the next transaction, and when it begins.
//!
//! A transaction costs the broker some thirty requests, writes to its own logs and a mark in each partition that it touches,
//! whatever is in it. So a hop that may wait ([`crate::Hop::may_wait`]) does not go right behind the one before: transactions of
//! such hops begin [`PACE`] apart, or further while they take long ([`Last::next_begins`]), and a hop after a while without any
//! goes at once.

use std::{
    sync::OnceLock,
    thread::{self, Thread},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::hops::{Request, Waiting};

/// Bounds of one transaction.
const BATCH_RECORDS_MAX: usize = 2_000;
const BATCH_BYTES_MAX: usize = 8 << 20;

/// The time between the beginnings of transactions, as long as all hops of the next one may wait.
const PACE: Duration = Duration::from_millis(20);
/// The longest such time. Within it, half of the time is left to others: transactions that take long say that the broker, or this
/// machine, has more to do than it can, and fewer of them with more in each are less to do.
const PACE_MAX: Duration = Duration::from_millis(60);
/// So many records are worth a transaction at any time.
const BATCH_RECORDS_ENOUGH: usize = 512;

/// Says that a hop has come that may not wait.
#[derive(Debug, Default)]
pub(super) struct Bell(OnceLock<Thread>);

impl Bell {
    /// Says whose thread it is that gathers.
    pub(super) fn set(&self, thread: &Thread) {
        // Set once, when the thread is started.
        let _ = self.0.set(thread.clone());
    }

    pub(super) fn ring(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

/// The transaction before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    pub(super) began: Instant,
    pub(super) took: Duration,
}

impl Last {
    /// When the next one begins, if all in it may wait.
    fn next_begins(self) -> Instant {
        self.began + (self.took * 2).clamp(PACE, PACE_MAX)
    }
}

/// Hops on their way into one transaction.
pub(super) struct Gathered {
    pub(super) hops: Vec<Waiting>,
    /// Nothing comes behind them any more.
    pub(super) is_last: bool,
    records: usize,
    bytes: usize,
    may_wait: bool,
}

impl Gathered {
    /// Waits for a hop, and for what comes with it until the next transaction may begin. `None` when there are no more. Blocks.
    pub(super) fn next(requests: &mut mpsc::Receiver<Request>, last: Option<Last>) -> Option<Self> {
        let Some(Request::Hop(first)) = requests.blocking_recv() else {
            return None;
        };
        let mut gathered = Self {
            hops: Vec::new(),
            is_last: false,
            records: 0,
            bytes: 0,
            may_wait: true,
        };
        gathered.add(first);
        gathered.fill(requests);
        if let Some(until) = last.map(Last::next_begins) {
            let mut now = Instant::now();
            while gathered.should_wait() && now < until {
                thread::park_timeout(until - now);
                gathered.fill(requests);
                now = Instant::now();
            }
        }
        Some(gathered)
    }

    const fn should_wait(&self) -> bool {
        self.may_wait && !self.is_last && self.records < BATCH_RECORDS_ENOUGH && self.bytes < BATCH_BYTES_MAX
    }

    fn fill(&mut self, requests: &mut mpsc::Receiver<Request>) {
        while self.records < BATCH_RECORDS_MAX && self.bytes < BATCH_BYTES_MAX && !self.is_last {
            match requests.try_recv() {
                Ok(Request::Hop(next)) => self.add(next),
                Ok(Request::End) => self.is_last = true,
                Err(_) => return,
            }
        }
    }

    fn add(&mut self, waiting: Waiting) {
        self.records += waiting.hop.outputs.len() + waiting.hop.completes.len();
        self.bytes += waiting.hop.bytes;
        self.may_wait &= waiting.hop.may_wait;
        self.hops.push(waiting);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::*;
    use crate::kafka::hops::Open;

    /// The wait after it would only end by a fault of ours.
    fn never_over() -> Option<Last> {
        Some(Last {
            began: Instant::now() + Duration::from_secs(600),
            took: Duration::ZERO,
        })
    }

    fn hop(may_wait: bool) -> Request {
        let hop = Arc::new(Open {
            completes: Vec::new(),
            positions: Vec::new(),
            fences: Vec::new(),
            start: None,
            outputs: Vec::new(),
            bytes: 0,
            may_wait,
        });
        Request::Hop(Waiting {
            hop,
            done: oneshot::channel().0,
        })
    }

    #[test]
    fn what_waits_together_goes_together_and_the_end_is_the_end() {
        let (send, mut requests) = mpsc::channel(8);
        for _ in 0..3 {
            send.try_send(hop(true)).unwrap();
        }
        send.try_send(Request::End).unwrap();
        let gathered = Gathered::next(&mut requests, never_over()).unwrap();
        assert_eq!(gathered.hops.len(), 3);
        assert!(gathered.is_last);
        drop(send);
        assert!(Gathered::next(&mut requests, None).is_none());
    }

    #[test]
    fn a_hop_that_may_not_wait_takes_those_along_that_may() {
        let (send, mut requests) = mpsc::channel(8);
        send.try_send(hop(true)).unwrap();
        send.try_send(hop(false)).unwrap();
        let gathered = Gathered::next(&mut requests, never_over()).unwrap();
        assert_eq!(gathered.hops.len(), 2);
    }

    #[test]
    fn the_bell_ends_the_wait_for_one_that_may_not() {
        let (send, mut requests) = mpsc::channel(8);
        send.try_send(hop(true)).unwrap();
        let bell = Bell::default();
        bell.set(&thread::current());
        let gathered = thread::scope(|scope| {
            scope.spawn(|| {
                send.try_send(hop(false)).unwrap();
                bell.ring();
            });
            Gathered::next(&mut requests, never_over()).unwrap()
        });
        assert_eq!(gathered.hops.len(), 2);
    }

    #[test]
    fn a_hop_after_a_while_goes_at_once() {
        let (send, mut requests) = mpsc::channel(8);
        send.try_send(hop(true)).unwrap();
        let long_ago = Last {
            began: Instant::now().checked_sub(PACE).unwrap(),
            took: Duration::ZERO,
        };
        assert_eq!(
            Gathered::next(&mut requests, Some(long_ago)).unwrap().hops.len(),
            1
        );
    }

    #[test]
    fn transactions_that_take_long_begin_further_apart_but_not_without_end() {
        let began = Instant::now();
        for (took, apart) in [
            (0, 20),
            (9, 20),
            (10, 20),
            (14, 28),
            (25, 50),
            (30, 60),
            (5_000, 60),
        ] {
            let took = Duration::from_millis(took);
            let next = Last { began, took }.next_begins();
            assert_eq!(next - began, Duration::from_millis(apart), "{took:?}");
        }
    }
}
