//! A transactional producer, called on a thread of its own.
//!
//! librdkafka's calls for transactions do not always keep their time limits: one that waits for a coordinator whose broker
//! the client has dropped (see [`super::client::Link::tell`]) waits for ever. Such a call costs this thread and this client,
//! and a new one takes over: its `init_transactions` ends what the old one left open.

use std::{
    io,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rdkafka::{error::RDKafkaErrorCode, producer::Producer as _};
use tracing::{error, warn};

use super::{
    native::TransactionError,
    served::Served,
    transaction::{Failure, Outcomes, Transaction},
};

/// How long `init_transactions` may take before it is asked again.
const INIT_TIMEOUT: Duration = Duration::from_secs(3);
/// When a call is given up. The broker aborts a transaction that is open for 5 s, so none succeeds much later.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Calls of this process that were given up and have not returned. With so many, the next one is waited for.
const ABANDONED_MAX: usize = 16;

static ABANDONED: AtomicUsize = AtomicUsize::new(0);

type Client = Served<Outcomes>;

enum Job {
    Init(mpsc::Sender<Result<(), TransactionError>>),
    Run(Transaction, mpsc::Sender<Result<(), Failure>>),
}

/// The client and its thread.
pub(super) struct Producer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Producer {
    /// # Errors
    /// When the system has no thread left.
    pub(super) fn start(client: Client) -> io::Result<Self> {
        let (jobs, todo) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("kafka-producer".to_owned())
            .spawn(move || work(&client, &todo))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Puts an end to whatever an earlier client of this name left open. Blocks.
    ///
    /// # Errors
    /// Retriable as long as the same client may be asked again.
    pub(super) fn init(&mut self) -> Result<(), TransactionError> {
        let (answer, answered) = mpsc::channel();
        self.call(Job::Init(answer), &answered).unwrap_or_else(Err)
    }

    /// Makes a transaction. Blocks.
    ///
    /// # Errors
    /// What became of it, if that is known.
    pub(super) fn run(&mut self, transaction: Transaction) -> Result<(), Failure> {
        let (answer, answered) = mpsc::channel();
        self.call(Job::Run(transaction, answer), &answered)
            .unwrap_or_else(|error| {
                Err(Failure::Broken {
                    error,
                    is_unknown: true,
                })
            })
    }

    fn call<T>(&mut self, job: Job, answered: &mpsc::Receiver<T>) -> Result<T, TransactionError> {
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if !sent {
            return Err(gone("its thread has ended"));
        }
        match answered.recv_timeout(CALL_LIMIT) {
            Ok(answer) => Ok(answer),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(gone("its thread has ended")),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if ABANDONED.load(Ordering::Relaxed) >= ABANDONED_MAX {
                    return answered.recv().map_err(|_| gone("its thread has ended"));
                }
                self.abandon();
                Err(gone(&format!("no answer within {} s", CALL_LIMIT.as_secs())))
            }
        }
    }

    /// Leaves the thread to itself. It ends when its call returns, if it ever does.
    fn abandon(&mut self) {
        self.jobs = None;
        let Some(thread) = self.thread.take() else { return };
        ABANDONED.fetch_add(1, Ordering::Relaxed);
        warn!("a call of the Kafka client does not return; another client takes over");
        let waits = thread::Builder::new()
            .name("kafka-abandoned".to_owned())
            .spawn(move || {
                let _ = thread.join();
                ABANDONED.fetch_sub(1, Ordering::Relaxed);
            });
        if let Err(error) = waits {
            warn!(%error, "no thread could be started to wait for a Kafka client");
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the thread of a Kafka producer panicked");
        }
    }
}

fn work(client: &Client, todo: &mpsc::Receiver<Job>) {
    while let Ok(job) = todo.recv() {
        // Whoever gave the call up does not listen any more.
        match job {
            Job::Init(answer) => {
                let done = client.init_transactions(INIT_TIMEOUT);
                let _ = answer.send(done.map_err(TransactionError::from));
            }
            Job::Run(transaction, answer) => {
                let _ = answer.send(transaction.run(client));
            }
        }
    }
}

/// The client is of no more use.
fn gone(reason: &str) -> TransactionError {
    TransactionError {
        code: RDKafkaErrorCode::Fatal,
        reason: reason.to_owned(),
        must_abort: false,
        is_retriable: false,
    }
}
