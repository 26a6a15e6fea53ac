//! A broker whose hops can be stopped, as in an outage.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use posthaste_broker::{
    AppendError, Broker, BrokerError, Consumer, Finding, GroupLag, Hop, HopError, Hopper, IsIt, Mark,
    NewRecord, Partition, Record, Signal, Subscription, Ticket, Unread,
};
use posthaste_event::{Millis, Topic};
use tokio::{sync::watch, time::timeout};

use crate::rig::LIMIT;

pub struct Stalling {
    inner: Arc<dyn Broker>,
    says_recording: Arc<AtomicBool>,
    flowing: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
    refusals: Arc<AtomicUsize>,
    /// Whether records are still ours; `None` while that is not known.
    holds: watch::Sender<Option<bool>>,
    /// How often those who had joined by then were made deaf.
    deafened: watch::Sender<usize>,
}

impl Stalling {
    pub fn new(inner: Arc<dyn Broker>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            says_recording: Arc::new(AtomicBool::new(true)),
            flowing: watch::Sender::new(true),
            waiting: watch::Sender::new(0),
            refusals: Arc::default(),
            holds: watch::Sender::new(Some(true)),
            deafened: watch::Sender::new(0),
        })
    }

    /// Whoever has joined by now hears nothing more, and nothing tells why.
    pub fn deafen(&self) {
        self.deafened.send_modify(|times| *times += 1);
    }

    /// Refuses the next hops as if the partition had been lost; their records come again.
    pub fn refuse(&self, hops: usize) {
        self.refusals.store(hops, Ordering::SeqCst);
    }

    /// As after standing still: whether records are still ours is not known, or it is known again.
    pub fn holds(&self, holds: Option<bool>) {
        self.holds.send_replace(holds);
    }

    /// Waits until this many hops wait.
    pub async fn wait_for_hops(&self, hops: usize) {
        let mut waiting = self.waiting.subscribe();
        let enough = timeout(LIMIT, waiting.wait_for(|waiting| *waiting >= hops))
            .await
            .is_ok();
        assert!(enough, "{} hops wait", *self.waiting.borrow());
    }

    /// Hops wait, and the hopper says so or not.
    pub fn stall(&self, says_recording: bool) {
        self.says_recording.store(says_recording, Ordering::SeqCst);
        self.flowing.send_replace(false);
    }

    pub fn flow(&self) {
        self.says_recording.store(true, Ordering::SeqCst);
        self.flowing.send_replace(true);
    }
}

struct StallingConsumer {
    inner: Box<dyn Consumer>,
    hopper: Arc<StallingHopper>,
    broker: Arc<dyn Broker>,
    subscription: Subscription,
    deafened: watch::Receiver<usize>,
    /// When it joined.
    heard: usize,
}

impl StallingConsumer {
    fn is_deaf(&self) -> bool {
        *self.deafened.borrow() != self.heard
    }
}

struct StallingHopper {
    inner: Arc<dyn Hopper>,
    says_recording: Arc<AtomicBool>,
    flowing: watch::Receiver<bool>,
    waiting: watch::Sender<usize>,
    refusals: Arc<AtomicUsize>,
    holds: watch::Receiver<Option<bool>>,
}

impl StallingHopper {
    async fn turn(&self) -> Result<(), HopError> {
        let mut flowing = self.flowing.clone();
        self.waiting.send_modify(|waiting| *waiting += 1);
        flowing.wait_for(|flowing| *flowing).await.unwrap();
        self.waiting.send_modify(|waiting| *waiting -= 1);
        let less_one = |refusals: usize| refusals.checked_sub(1);
        if self
            .refusals
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less_one)
            .is_ok()
        {
            return Err(HopError::Fenced);
        }
        Ok(())
    }
}

#[async_trait]
impl Hopper for StallingHopper {
    async fn hop(&self, hop: Hop) -> Result<(), HopError> {
        self.turn().await?;
        self.inner.hop(hop).await
    }

    async fn start(&self, ticket: &Ticket) -> Result<(), HopError> {
        self.turn().await?;
        self.inner.start(ticket).await
    }

    fn is_recording(&self) -> bool {
        self.says_recording.load(Ordering::SeqCst) && self.inner.is_recording()
    }

    fn is_sure(&self, _: &Ticket) -> bool {
        *self.holds.borrow() == Some(true)
    }

    async fn still_holds(&self, _: &Ticket) -> bool {
        let mut holds = self.holds.clone();
        let known = holds.wait_for(Option::is_some).await.unwrap();
        known.unwrap()
    }
}

#[async_trait]
impl Consumer for StallingConsumer {
    async fn next(&mut self) -> Result<Signal, BrokerError> {
        let (heard, mut deafened) = (self.heard, self.deafened.clone());
        let deaf = async {
            let _ = deafened.wait_for(|times| *times != heard).await;
        };
        tokio::select! {
            biased;
            () = deaf => std::future::pending().await,
            signal = self.inner.next() => signal,
        }
    }

    fn hopper(&self) -> Arc<dyn Hopper> {
        Arc::clone(&self.hopper) as Arc<dyn Hopper>
    }

    fn unfinished(&self) -> Vec<(Partition, i64)> {
        self.inner.unfinished()
    }

    fn unread(&self) -> Unread {
        if !self.is_deaf() {
            return self.inner.unread();
        }
        // What lies behind the group's positions: nobody else is in it.
        let (broker, subscription) = (Arc::clone(&self.broker), self.subscription.clone());
        Box::pin(async move {
            let lags = broker.lag(&subscription.group, &subscription.topics).await?;
            let unread = lags.into_iter().filter_map(|lag| {
                let next = lag.committed.filter(|committed| *committed < lag.end)?;
                Some((lag.partition, next))
            });
            Ok(unread.collect())
        })
    }

    async fn close(self: Box<Self>) {
        self.inner.close().await;
    }
}

#[async_trait]
impl Broker for Stalling {
    fn prefix(&self) -> &str {
        self.inner.prefix()
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<(), AppendError> {
        self.inner.append(records).await
    }

    async fn mark(&self, wanted: &[(Topic, &[u8])]) -> Result<Vec<Mark>, BrokerError> {
        self.inner.mark(wanted).await
    }

    async fn find(&self, from: Mark, until: Millis, is_it: IsIt) -> Result<Option<Record>, BrokerError> {
        self.inner.find(from, until, is_it).await
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn Consumer>, BrokerError> {
        let consumer = self.inner.subscribe(subscription.clone()).await?;
        let hopper = StallingHopper {
            inner: consumer.hopper(),
            says_recording: Arc::clone(&self.says_recording),
            flowing: self.flowing.subscribe(),
            waiting: self.waiting.clone(),
            refusals: Arc::clone(&self.refusals),
            holds: self.holds.subscribe(),
        };
        let deafened = self.deafened.subscribe();
        let heard = *deafened.borrow();
        Ok(Box::new(StallingConsumer {
            inner: consumer,
            hopper: Arc::new(hopper),
            broker: Arc::clone(&self.inner),
            subscription,
            deafened,
            heard,
        }))
    }

    async fn create_topics(&self) -> Result<Vec<Finding>, BrokerError> {
        self.inner.create_topics().await
    }

    async fn check_topics(&self) -> Result<Vec<Finding>, BrokerError> {
        self.inner.check_topics().await
    }

    async fn lag(&self, group: &str, topics: &[Topic]) -> Result<Vec<GroupLag>, BrokerError> {
        self.inner.lag(group, topics).await
    }

    async fn trim(&self, before: Millis) -> Result<u64, BrokerError> {
        self.inner.trim(before).await
    }

    fn health(&self) -> Result<(), String> {
        self.inner.health()
    }

    async fn close(&self, drain_ms: u64) {
        self.inner.close(drain_ms).await;
    }
}
