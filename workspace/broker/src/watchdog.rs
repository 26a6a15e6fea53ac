//! Notices that a consumer's records are not getting finished, or not even read, though nothing explains it.
//!
//! Whoever holds records bounds each wait of theirs: a send has a time limit, a queue parks what would wait long, a hop waits
//! only while the broker is away. A record that is unfinished for much longer was lost sight of, by us or by a client
//! library. So was a partition of ours that the log has more of, while reading does not go on and no limit holds it up. The
//! consumer then says so and ends; its owner shows it, leaves the group and joins again, and the records are
//! handed out once more. The fence refuses what their former holder may still come up with.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::time::sleep_until;

use crate::{Broker, BrokerError, Consumer, Hopper, Partition, Signal, Unread};

/// How long reading may stand still without a reason, for who has no settings for that.
pub const READING_PATIENCE: Duration = Duration::from_secs(120);

/// Looks that fit into the time after which a record counts as stalled.
const LOOKS: u32 = 8;

/// Since when each partition stands at its oldest unfinished record, or at what it was to read next.
#[derive(Debug, Default)]
struct Oldest(HashMap<Partition, (i64, Instant)>);

impl Oldest {
    /// Takes note of how things stand; answers the record that has been the oldest of its partition for longest.
    fn look(&mut self, unfinished: &[(Partition, i64)], now: Instant) -> Option<(Partition, i64, Duration)> {
        self.0.retain(|partition, (offset, _)| {
            unfinished
                .iter()
                .any(|(other, oldest)| other == partition && oldest == offset)
        });
        for (partition, offset) in unfinished {
            self.0.entry(*partition).or_insert((*offset, now));
        }
        let oldest = self.0.iter().min_by_key(|(_, (_, since))| *since);
        oldest
            .map(|(partition, (offset, since))| (*partition, *offset, now.saturating_duration_since(*since)))
    }
}

async fn answer(asking: &mut Option<Unread>) -> Result<Vec<(Partition, i64)>, BrokerError> {
    match asking {
        Some(asking) => asking.await,
        None => Ok(Vec::new()),
    }
}

/// A consumer that is watched while it is asked for what is next.
pub struct Watched {
    consumer: Box<dyn Consumer>,
    broker: Arc<dyn Broker>,
    patience: Duration,
    /// `None` when records may stay unfinished for as long as their holder likes.
    unfinished: Option<Oldest>,
    unread: Oldest,
    asking: Option<Unread>,
    look_at: Instant,
}

impl Watched {
    /// Ends `consumer` with [`BrokerError::Stalled`] when a record stays unfinished for longer than `patience` while
    /// `broker` is well, and with [`BrokerError::Unheard`] when records are not read for as long.
    pub fn new(consumer: Box<dyn Consumer>, broker: Arc<dyn Broker>, patience: Duration) -> Self {
        Self {
            unfinished: Some(Oldest::default()),
            ..Self::reader(consumer, broker, patience)
        }
    }

    /// The same for a consumer that keeps records until their time comes, or has none to finish: only
    /// [`BrokerError::Unheard`].
    pub fn reader(consumer: Box<dyn Consumer>, broker: Arc<dyn Broker>, patience: Duration) -> Self {
        Self {
            consumer,
            broker,
            patience,
            unfinished: None,
            unread: Oldest::default(),
            asking: None,
            look_at: Instant::now(),
        }
    }

    fn look(&mut self, now: Instant) -> Result<(), BrokerError> {
        if self.broker.health().is_err() {
            // That explains it. All time counts anew once it is back.
            self.unfinished = self.unfinished.as_ref().map(|_| Oldest::default());
            self.unread = Oldest::default();
            self.asking = None;
            return Ok(());
        }
        self.asking.get_or_insert_with(|| self.consumer.unread());
        let Some(oldest) = &mut self.unfinished else {
            return Ok(());
        };
        match oldest.look(&self.consumer.unfinished(), now) {
            Some((partition, offset, age)) if age > self.patience => Err(BrokerError::Stalled {
                partition,
                offset,
                seconds: age.as_secs(),
            }),
            _ => Ok(()),
        }
    }

    fn hear(&mut self, unread: Result<Vec<(Partition, i64)>, BrokerError>) -> Result<(), BrokerError> {
        self.asking = None;
        // Where the log does not answer there is nothing to blame the reading for.
        let unread = unread.unwrap_or_default();
        match self.unread.look(&unread, Instant::now()) {
            Some((partition, offset, age)) if age > self.patience => Err(BrokerError::Unheard {
                partition,
                offset,
                seconds: age.as_secs(),
            }),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Consumer for Watched {
    async fn next(&mut self) -> Result<Signal, BrokerError> {
        loop {
            let now = Instant::now();
            // Looked at first: there may always be something new to hand out.
            if now >= self.look_at {
                self.look_at = now + self.patience / LOOKS;
                self.look(now)?;
            }
            tokio::select! {
                biased;
                unread = answer(&mut self.asking), if self.asking.is_some() => self.hear(unread)?,
                signal = self.consumer.next() => return signal,
                () = sleep_until(self.look_at.into()) => {}
            }
        }
    }

    fn hopper(&self) -> Arc<dyn Hopper> {
        self.consumer.hopper()
    }

    fn unfinished(&self) -> Vec<(Partition, i64)> {
        self.consumer.unfinished()
    }

    fn unread(&self) -> Unread {
        self.consumer.unread()
    }

    fn gives_again(&self) -> bool {
        self.consumer.gives_again()
    }

    async fn close(self: Box<Self>) {
        self.consumer.close().await;
    }
}

#[cfg(test)]
mod tests {
    use posthaste_event::Topic;

    use super::*;

    const ONE: Partition = Partition {
        topic: Topic::Default,
        number: 1,
    };
    const TWO: Partition = Partition {
        topic: Topic::Default,
        number: 2,
    };

    #[test]
    fn a_record_ages_until_it_is_finished_and_others_do_not_hide_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut oldest = Oldest::default();
        let age = |oldest: &mut Oldest, unfinished: &[(Partition, i64)], seconds| {
            let found = oldest.look(unfinished, at(seconds));
            found.map(|(partition, offset, age)| (partition, offset, age.as_secs()))
        };
        assert_eq!(age(&mut oldest, &[(ONE, 7)], 0), Some((ONE, 7, 0)));
        assert_eq!(age(&mut oldest, &[(ONE, 7), (TWO, 3)], 5), Some((ONE, 7, 5)));
        assert_eq!(age(&mut oldest, &[(ONE, 8), (TWO, 3)], 9), Some((TWO, 3, 4)));
        assert_eq!(age(&mut oldest, &[(ONE, 8)], 12), Some((ONE, 8, 3)));
        assert_eq!(age(&mut oldest, &[], 20), None);
        assert_eq!(age(&mut oldest, &[(ONE, 8)], 30), Some((ONE, 8, 0)));
    }
}
