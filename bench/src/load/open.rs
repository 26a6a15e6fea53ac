//! Open-loop: requests go out at their times, however long the answers take, and latency counts from those times. So a stall
//! shows in every request that it held up, not in one (no coordinated omission).

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{Loaded, Times, record};
use crate::{
    trouble::Trouble,
    usage::Thread,
    wire::{self, Template},
};

/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// The system wakes a sleeper about this late (its timer slack); the rest is waited for awake.
const AWAKE: Duration = Duration::from_micros(90);

/// A load at a rate.
#[derive(Debug, Clone)]
pub struct Open {
    /// Whom to ask.
    pub address: SocketAddr,
    /// What to send.
    pub template: Template,
    /// Connections that take turns. As many requests can be under way; then they go out late, and that counts as latency.
    pub connections: u64,
    /// Number of the first event.
    pub first: u64,
    /// How many requests.
    pub count: u64,
    /// Requests a second.
    pub rate: f64,
    /// Where to note when each should have gone out.
    pub sent: Option<Arc<Times>>,
}

impl Open {
    /// Runs it on threads of its own: a blocked thread costs nothing, and wakes to the microsecond.
    ///
    /// # Errors
    /// When a connection cannot be made.
    pub async fn run(self) -> Result<Loaded, Trouble> {
        tokio::task::spawn_blocking(move || self.on_threads())
            .await
            .map_err(Trouble::doing("run the load"))?
    }

    fn on_threads(self) -> Result<Loaded, Trouble> {
        let mut streams = Vec::new();
        for _ in 0..self.connections {
            streams.push(connect(self.address)?);
        }
        let begun = Instant::now() + Duration::from_millis(20);
        let mut all = Loaded::new(begun);
        thread::scope(|scope| {
            let workers: Vec<_> = streams
                .into_iter()
                .zip(0..)
                .map(|(stream, turn)| {
                    let plan = &self;
                    scope.spawn(move || plan.work(stream, turn, begun))
                })
                .collect();
            for worker in workers {
                match worker.join() {
                    Ok(loaded) => all.merge(loaded),
                    Err(_) => all.fail("a thread of the load ended early"),
                }
            }
        });
        all.elapsed = begun.elapsed();
        Ok(all)
    }

    fn work(&self, mut stream: TcpStream, turn: u64, begun: Instant) -> Loaded {
        let (mut loaded, mut template) = (Loaded::new(begun), self.template.clone());
        let mut buffer = Vec::with_capacity(4_096);
        let thread = Thread::this().ok();
        for index in (turn..self.count).step_by(usize::try_from(self.connections).unwrap_or(1)) {
            let due = begun + Duration::from_secs_f64(index as f64 / self.rate);
            wait_until(due);
            let number = self.first + index;
            if let Some(sent) = &self.sent {
                sent.note(number, due);
            }
            record(&mut loaded.lateness, due.elapsed());
            match exchange(&mut stream, template.fill(number), &mut buffer) {
                Ok(id) => {
                    record(&mut loaded.latency, due.elapsed());
                    loaded.accepted += 1;
                    if index + self.connections >= self.count {
                        loaded.ids.extend(id);
                    }
                }
                Err(trouble) => {
                    loaded.fail(trouble.to_string());
                    match connect(self.address) {
                        Ok(again) => stream = again,
                        Err(_) => break,
                    }
                }
            }
        }
        loaded.time = thread.map_or(Duration::ZERO, |thread| thread.time());
        loaded
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream, Trouble> {
    let doing = || format!("connect to {address}");
    let stream = TcpStream::connect(address).map_err(Trouble::io(doing()))?;
    stream.set_nodelay(true).map_err(Trouble::io(doing()))?;
    stream
        .set_read_timeout(Some(ANSWER_LIMIT))
        .map_err(Trouble::io(doing()))?;
    Ok(stream)
}

fn wait_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if let Some(asleep) = left.checked_sub(AWAKE) {
        thread::sleep(asleep);
    }
    while Instant::now() < due {
        std::hint::spin_loop();
    }
}

fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> Result<Option<String>, Trouble> {
    stream.write_all(request).map_err(Trouble::io("send a request"))?;
    buffer.clear();
    let mut part = [0; 4_096];
    loop {
        let read = stream.read(&mut part).map_err(Trouble::io("read an answer"))?;
        if read == 0 {
            return Err(Trouble::said("the connection was closed before the answer"));
        }
        buffer.extend_from_slice(&part[..read]);
        let Some(message) = wire::message(buffer)? else {
            continue;
        };
        let body = &buffer[message.head..message.len()];
        return if (200..300).contains(&message.status) {
            Ok(wire::event_id(body).map(str::to_owned))
        } else {
            let said = String::from_utf8_lossy(body);
            Err(Trouble::said(format!("{} {said}", message.status)))
        };
    }
}
