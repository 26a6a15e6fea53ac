//! The provider at the end of the way: takes calls, notes when each event arrived, and answers at once, later, or with a failure.
//!
//! On a thread of its own, whose processor time is told apart from that of what is measured.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use posthaste_event::{Millis, clock};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::LocalSet,
};

use crate::{load::Times, trouble::Trouble, usage::Thread, wire};

const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";
const REFUSED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const GONE: &[u8] = b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n";

/// How often the sink is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// What arrives of a run of events.
#[derive(Debug)]
pub struct Arrivals {
    /// When each event was taken for the first time.
    pub taken: Times,
    /// When each event was refused for the first time.
    pub refused: Times,
    distinct: AtomicU64,
    repeated: AtomicU64,
    delay: Duration,
    manner: Manner,
    /// One moment on two clocks.
    made: (Instant, Millis),
}

/// What the sink answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    TakeAll,
    RefuseFirst,
    RefuseForGood,
}

impl Arrivals {
    /// For events numbered from `first` on; each answer comes after `delay`.
    pub fn new(first: u64, count: u64, delay: Duration) -> Self {
        Self {
            taken: Times::new(first, count),
            refused: Times::new(first, count),
            distinct: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            delay,
            manner: Manner::TakeAll,
            made: (Instant::now(), clock::now()),
        }
    }

    /// The first call of each event is refused for the moment.
    pub fn refusing_first(mut self) -> Self {
        self.manner = Manner::RefuseFirst;
        self
    }

    /// Every call is refused for good.
    pub fn refusing_for_good(mut self) -> Self {
        self.manner = Manner::RefuseForGood;
        self
    }

    /// When an event was taken first, by the clock, in milliseconds since the Unix epoch.
    pub fn taken_at(&self, number: u64) -> Option<Millis> {
        let (instant, millis) = self.made;
        let since = self.taken.of(number)?.saturating_duration_since(instant);
        Some(millis + i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// Events that were taken.
    pub fn distinct(&self) -> u64 {
        self.distinct.load(Ordering::Relaxed)
    }

    /// Calls that were taken for events that had been taken before.
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Notes a call; what to answer.
    fn note(&self, number: u64, at: Instant) -> &'static [u8] {
        let is_first = self.manner != Manner::TakeAll && self.refused.note(number, at);
        match self.manner {
            Manner::RefuseFirst if is_first => return REFUSED,
            Manner::RefuseForGood => return GONE,
            Manner::TakeAll | Manner::RefuseFirst => {}
        }
        if self.taken.note(number, at) {
            self.distinct.fetch_add(1, Ordering::Relaxed);
        } else if self.taken.of(number).is_some() {
            self.repeated.fetch_add(1, Ordering::Relaxed);
        }
        TAKEN
    }

    /// Waits until so many events have been taken.
    ///
    /// # Errors
    /// When they have not after `limit`.
    pub async fn reach(&self, count: u64, limit: Duration) -> Result<(), Trouble> {
        let begun = Instant::now();
        while self.distinct() < count {
            if begun.elapsed() > limit {
                return Err(Trouble::said(format!(
                    "{} of {count} events arrived within {limit:?}",
                    self.distinct()
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

type Current = Arc<Mutex<Arc<Arrivals>>>;

/// The provider; gone on drop.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    current: Current,
    thread: Thread,
    _stop: oneshot::Sender<()>,
}

impl Sink {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When there is no port or thread.
    pub async fn start() -> Result<Self, Trouble> {
        let current: Current = Arc::new(Mutex::new(Arc::new(Arrivals::new(0, 0, Duration::ZERO))));
        let (tell, told) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = Arc::clone(&current);
        std::thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || {
                let serve = serve(serving, tell, stopped);
                match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => LocalSet::new().block_on(&runtime, serve),
                    Err(error) => eprintln!("the sink cannot start: {error}"),
                }
            })
            .map_err(Trouble::io("start the sink's thread"))?;
        let (address, thread) = told.await.map_err(Trouble::doing("start the sink"))??;
        Ok(Self {
            address,
            current,
            thread,
            _stop: stop,
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on these are noted, and no others.
    pub fn expect(&self, arrivals: Arrivals) -> Arc<Arrivals> {
        let arrivals = Arc::new(arrivals);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&arrivals);
        arrivals
    }

    /// Processor time that it has taken.
    pub fn time(&self) -> Duration {
        self.thread.time()
    }
}

type Started = Result<(SocketAddr, Thread), Trouble>;

async fn serve(current: Current, tell: oneshot::Sender<Started>, stopped: oneshot::Receiver<()>) {
    let started = async {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(Trouble::io("listen"))?;
        let address = listener.local_addr().map_err(Trouble::io("listen"))?;
        Ok((listener, address, Thread::this()?))
    };
    let listener = match started.await {
        Ok((listener, address, thread)) => {
            let _ = tell.send(Ok((address, thread)));
            listener
        }
        Err(trouble) => {
            let _ = tell.send(Err(trouble));
            return;
        }
    };
    let accept = async {
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::task::spawn_local(connection(stream, Arc::clone(&current)));
            }
        }
    };
    tokio::select! {
        () = accept => {}
        _ = stopped => {}
    }
}

async fn connection(mut stream: TcpStream, current: Current) {
    let mut buffer = Vec::with_capacity(4_096);
    loop {
        let message = loop {
            match wire::message(&buffer) {
                Ok(Some(message)) => break message,
                Ok(None) => {}
                // Not ours to explain: the caller sees a closed connection.
                Err(_) => return,
            }
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        };
        let at = Instant::now();
        let arrivals = Arc::clone(&current.lock().unwrap_or_else(PoisonError::into_inner));
        let number = wire::event_number(&buffer[message.head..message.len()]);
        let answer = number.map_or(TAKEN, |number| arrivals.note(number, at));
        buffer.drain(..message.len());
        if !arrivals.delay.is_zero() {
            tokio::time::sleep(arrivals.delay).await;
        }
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}
