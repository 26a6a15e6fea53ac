//! Many events in few requests: lines of JSON, written as fast as they are taken, while the answers are read.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::Loaded;
use crate::{trouble::Trouble, usage::Thread, wire};

/// Lines that are written at once.
const BLOCK: u64 = 256;
/// How much of an answer's end is kept: the last line has the sums.
const TAIL_BYTES: usize = 4_096;

/// The line of the event with this number, its end included; all are equally long.
pub type Line = Arc<dyn Fn(u64, &mut Vec<u8>) + Send + Sync>;

/// A load of lines.
#[derive(Clone)]
pub struct Bulk {
    /// Whom to ask.
    pub address: SocketAddr,
    /// What to send.
    pub line: Line,
    /// Requests at once.
    pub requests: u64,
    /// Number of the first event.
    pub first: u64,
    /// How many events.
    pub count: u64,
    /// When to give up.
    pub limit: Duration,
}

/// What became of it.
#[derive(Debug)]
pub enum Taken {
    /// They were taken in.
    Loaded(Box<Loaded>),
    /// The service has no such path.
    NotOffered,
}

impl Bulk {
    /// Runs it on threads of its own.
    ///
    /// # Errors
    /// When events are not taken.
    pub async fn run(self) -> Result<Taken, Trouble> {
        tokio::task::spawn_blocking(move || self.on_threads())
            .await
            .map_err(Trouble::doing("run the load"))?
    }

    fn on_threads(self) -> Result<Taken, Trouble> {
        let begun = Instant::now();
        let mut all = Loaded::new(begun);
        let share = self.count.div_ceil(self.requests);
        let answers: Vec<Result<Answer, Trouble>> = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.requests)
                .map(|part| {
                    let from = (part * share).min(self.count);
                    let to = (from + share).min(self.count);
                    let plan = &self;
                    scope.spawn(move || plan.request(from, to))
                })
                .collect();
            let ended = || Err(Trouble::said("a thread of the load ended early"));
            let join = |worker: thread::ScopedJoinHandle<'_, _>| worker.join().unwrap_or_else(|_| ended());
            workers.into_iter().map(join).collect()
        });
        all.elapsed = begun.elapsed();
        for answer in answers {
            let answer = answer?;
            if matches!(answer.status, 404 | 405) {
                return Ok(Taken::NotOffered);
            }
            if !(200..300).contains(&answer.status) {
                return Err(Trouble::said(format!("{}: {}", answer.status, answer.tail)));
            }
            all.accepted += answer.accepted;
            all.time += answer.time;
        }
        if all.accepted < self.count {
            return Err(Trouble::said(format!(
                "{} of {} events were taken",
                all.accepted, self.count
            )));
        }
        Ok(Taken::Loaded(Box::new(all)))
    }

    fn request(&self, from: u64, to: u64) -> Result<Answer, Trouble> {
        let thread = Thread::this()?;
        let stream = TcpStream::connect(self.address).map_err(Trouble::io("connect"))?;
        stream.set_nodelay(true).map_err(Trouble::io("connect"))?;
        for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
            set(&stream, Some(self.limit)).map_err(Trouble::io("connect"))?;
        }
        let reader = stream.try_clone().map_err(Trouble::io("connect"))?;
        thread::scope(|scope| {
            let reading = scope.spawn(move || read(reader));
            // Its own error says less than the answer that comes instead.
            let written = self.write(&stream, from, to);
            let ended = || Err(Trouble::said("a thread of the load ended early"));
            let mut answer = reading.join().unwrap_or_else(|_| ended())?;
            if answer.status == 0 {
                written?;
            }
            answer.time += thread.time();
            Ok(answer)
        })
    }

    fn write(&self, mut stream: &TcpStream, from: u64, to: u64) -> Result<(), Trouble> {
        let mut block = Vec::new();
        (self.line)(self.first + from, &mut block);
        let length = block.len() as u64 * (to - from);
        let head = format!(
            "POST /events HTTP/1.1\r\nhost: {}\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n",
            self.address
        );
        stream
            .write_all(head.as_bytes())
            .map_err(Trouble::io("send a request"))?;
        let mut at = from;
        while at < to {
            block.clear();
            for index in at..to.min(at + BLOCK) {
                (self.line)(self.first + index, &mut block);
            }
            stream.write_all(&block).map_err(Trouble::io("send events"))?;
            at += BLOCK;
        }
        Ok(())
    }
}

struct Answer {
    status: u16,
    accepted: u64,
    tail: String,
    time: Duration,
}

/// Reads to the end, keeping the first and the last part.
fn read(mut stream: TcpStream) -> Result<Answer, Trouble> {
    let thread = Thread::this()?;
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    let mut part = vec![0; 65_536];
    loop {
        let read = stream.read(&mut part).map_err(Trouble::io("read answers"))?;
        if read == 0 {
            break;
        }
        if head.len() < 16 {
            head.extend_from_slice(&part[..read.min(16)]);
        }
        tail.extend_from_slice(&part[..read]);
        let surplus = tail.len().saturating_sub(TAIL_BYTES);
        tail.drain(..surplus);
    }
    // Whoever still writes need not any more.
    let _ = stream.shutdown(Shutdown::Both);
    let status = head
        .get(9..12)
        .and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
    let tail = String::from_utf8_lossy(&tail).into_owned();
    let accepted = tail
        .rsplit_once(r#""accepted":"#)
        .and_then(|(_, rest)| wire::number(rest.as_bytes()));
    Ok(Answer {
        status: status.unwrap_or(0),
        accepted: accepted.unwrap_or(0) as u64,
        tail,
        time: thread.time(),
    })
}
