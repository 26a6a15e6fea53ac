//! Closed-loop: each connection has one request under way, and the next goes out with the answer. Finds the throughput.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::LocalSet,
};

use super::{IDS_MAX, Loaded, Times, record};
use crate::{
    trouble::Trouble,
    usage::Thread,
    wire::{self, Template},
};

/// Every so many answers an id is kept.
const ID_EVERY: u64 = 256;

/// A load that goes as fast as it is answered.
#[derive(Debug, Clone)]
pub struct Closed {
    /// Whom to ask.
    pub address: SocketAddr,
    /// What to send.
    pub template: Template,
    /// Requests under way at once.
    pub connections: u64,
    /// Number of the first event.
    pub first: u64,
    /// How many requests.
    pub count: u64,
    /// When to give up.
    pub limit: Duration,
    /// Where to note when each went out.
    pub sent: Option<Arc<Times>>,
}

impl Closed {
    /// Runs it on a thread of its own.
    ///
    /// # Errors
    /// When no connection can be made.
    pub async fn run(self) -> Result<Loaded, Trouble> {
        tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(Trouble::io("start a runtime"))?;
            let thread = Thread::this()?;
            let before = thread.time();
            let mut loaded = LocalSet::new().block_on(&runtime, self.on_this_thread())?;
            loaded.time = thread.time() - before;
            Ok(loaded)
        })
        .await
        .map_err(Trouble::doing("run the load"))?
    }

    async fn on_this_thread(self) -> Result<Loaded, Trouble> {
        let next = Rc::new(Cell::new(0));
        let mut streams = Vec::new();
        for _ in 0..self.connections.min(self.count) {
            streams.push(connect(self.address).await?);
        }
        let begun = Instant::now();
        let mut tasks = Vec::new();
        for stream in streams {
            let mut worker = Worker {
                template: self.template.clone(),
                plan: self.clone(),
                next: Rc::clone(&next),
                loaded: Loaded::new(begun),
                buffer: Vec::with_capacity(4_096),
            };
            tasks.push(tokio::task::spawn_local(async move {
                worker.work(stream).await;
                worker.loaded
            }));
        }
        let mut all = Loaded::new(begun);
        for task in tasks {
            all.merge(task.await.map_err(Trouble::doing("run the load"))?);
        }
        all.elapsed = begun.elapsed();
        Ok(all)
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Trouble> {
    let doing = || format!("connect to {address}");
    let stream = TcpStream::connect(address).await.map_err(Trouble::io(doing()))?;
    stream.set_nodelay(true).map_err(Trouble::io(doing()))?;
    Ok(stream)
}

struct Worker {
    template: Template,
    plan: Closed,
    next: Rc<Cell<u64>>,
    loaded: Loaded,
    buffer: Vec<u8>,
}

impl Worker {
    async fn work(&mut self, mut stream: TcpStream) {
        let deadline = tokio::time::Instant::from_std(self.loaded.begun) + self.plan.limit;
        let mut last_id = None;
        loop {
            let index = self.next.get();
            if index >= self.plan.count {
                break;
            }
            self.next.set(index + 1);
            let out = Instant::now();
            let number = self.plan.first + index;
            if let Some(sent) = &self.plan.sent {
                sent.note(number, out);
            }
            let answered = tokio::time::timeout_at(deadline, self.exchange(&mut stream, number)).await;
            match answered {
                Ok(Ok(id)) => {
                    record(&mut self.loaded.latency, out.elapsed());
                    if index.is_multiple_of(ID_EVERY) && self.loaded.ids.len() < IDS_MAX {
                        self.loaded.ids.extend(id.clone());
                    }
                    last_id = id;
                }
                Ok(Err(trouble)) => {
                    self.loaded.fail(trouble.to_string());
                    match connect(self.plan.address).await {
                        Ok(again) => stream = again,
                        Err(_) => break,
                    }
                }
                Err(_) => {
                    self.loaded.fail(format!("not done after {:?}", self.plan.limit));
                    break;
                }
            }
        }
        self.loaded.ids.extend(last_id);
    }

    /// One request and its answer; the event's id if it was accepted.
    async fn exchange(&mut self, stream: &mut TcpStream, number: u64) -> Result<Option<String>, Trouble> {
        stream
            .write_all(self.template.fill(number))
            .await
            .map_err(Trouble::io("send a request"))?;
        self.buffer.clear();
        let message = loop {
            let read = stream
                .read_buf(&mut self.buffer)
                .await
                .map_err(Trouble::io("read an answer"))?;
            if read == 0 {
                return Err(Trouble::said("the connection was closed before the answer"));
            }
            if let Some(message) = wire::message(&self.buffer)? {
                break message;
            }
        };
        let body = &self.buffer[message.head..message.len()];
        if (200..300).contains(&message.status) {
            self.loaded.accepted += 1;
            Ok(wire::event_id(body).map(str::to_owned))
        } else {
            Err(Trouble::said(format!(
                "{} {}",
                message.status,
                String::from_utf8_lossy(body)
            )))
        }
    }
}
