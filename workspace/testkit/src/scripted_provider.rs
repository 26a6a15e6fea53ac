//! A provider that does what a test says, and remembers what it was asked.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use posthaste_event::{Channel, ErrorKind, Failure};
use posthaste_provider::{Message, Provider, Receipt};
use tokio::sync::{Semaphore, watch};

/// What one send does.
#[derive(Debug, Clone)]
pub enum Step {
    /// Accepts the message; its id is the event's id with `-sent`.
    Accept,
    /// Fails.
    Fail(Failure),
    /// Never answers.
    Hang,
    /// Waits until [`ScriptedProvider::release`] lets it through, then accepts.
    Hold,
    /// Waits, then accepts.
    Slow(Duration),
    /// Panics.
    Panic,
}

type Script = dyn Fn(&Message, usize) -> Step + Send + Sync;

/// See the module.
pub struct ScriptedProvider {
    name: String,
    channels: Vec<Channel>,
    script: Box<Script>,
    calls: Mutex<Calls>,
    count: watch::Sender<usize>,
    held: Semaphore,
}

#[derive(Default)]
struct Calls {
    messages: Vec<Message>,
    under_way: usize,
    under_way_most: usize,
}

impl ScriptedProvider {
    /// A provider for `channels`. The script is told the message and how many sends came before it.
    pub fn new(
        name: &str,
        channels: &[Channel],
        script: impl Fn(&Message, usize) -> Step + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            channels: channels.to_vec(),
            script: Box::new(script),
            calls: Mutex::default(),
            count: watch::Sender::new(0),
            held: Semaphore::new(0),
        })
    }

    /// A failure of this kind, as a script would give.
    pub fn failure(&self, kind: ErrorKind) -> Failure {
        Failure::new(
            kind,
            &self.name,
            Some("scripted".to_owned()),
            "as the script says",
        )
    }

    /// Every message that it was asked to send, in order.
    pub fn messages(&self) -> Vec<Message> {
        self.calls().messages.clone()
    }

    /// Sends that are under way now.
    pub fn under_way(&self) -> usize {
        self.calls().under_way
    }

    /// The most sends that ever were under way at once.
    pub fn under_way_most(&self) -> usize {
        self.calls().under_way_most
    }

    /// Lets `sends` held sends through.
    pub fn release(&self, sends: usize) {
        self.held.add_permits(sends);
    }

    /// Waits until it was asked for `sends` sends.
    ///
    /// # Errors
    /// How many came, when they do not within `limit`.
    pub async fn wait_for(&self, sends: usize, limit: Duration) -> Result<(), usize> {
        let mut count = self.count.subscribe();
        let waited = tokio::time::timeout(limit, count.wait_for(|count| *count >= sends)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(*self.count.borrow()),
        }
    }

    fn calls(&self) -> std::sync::MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Provider for ScriptedProvider {
    fn name(&self) -> &str {
        &self.name
    }

    fn channels(&self) -> &[Channel] {
        &self.channels
    }

    #[expect(clippy::panic, reason = "a provider that panics is what some tests are about")]
    async fn send(&self, message: &Message) -> Result<Receipt, Failure> {
        let before = {
            let mut calls = self.calls();
            calls.messages.push(message.clone());
            calls.under_way += 1;
            calls.under_way_most = calls.under_way_most.max(calls.under_way);
            calls.messages.len() - 1
        };
        // Also when this future is dropped at its time limit.
        let _leaving = Leaving(self);
        self.count.send_modify(|count| *count = before + 1);
        match (self.script)(message, before) {
            Step::Accept => {}
            Step::Fail(failure) => return Err(failure),
            Step::Hang => std::future::pending().await,
            Step::Hold => {
                if let Ok(permit) = self.held.acquire().await {
                    permit.forget();
                }
            }
            Step::Slow(wait) => tokio::time::sleep(wait).await,
            Step::Panic => panic!("as the script says"),
        }
        Ok(Receipt {
            message_id: Some(format!("{}-sent", message.event_id)),
        })
    }
}

struct Leaving<'a>(&'a ScriptedProvider);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.calls().under_way -= 1;
    }
}
