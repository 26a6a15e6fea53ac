//! The processes of a run with faults: started, killed, hung, and ended by their ids, and no others.
//!
//! A watchdog (a small shell) holds the other end of a pipe and knows the ids. Should this process die, however it dies, the
//! pipe closes and the watchdog kills what is left.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::super::witness::lock;
use crate::failure::Failure;

/// Reads `+ID` and `-ID` until the pipe closes, then kills what was not taken away.
const WATCHDOG: &str = r#"trap '' INT TERM HUP
ids=
while read -r line; do
    id=${line#?}
    case $line in
        +*) ids="$ids $id" ;;
        *) left=; for one in $ids; do [ "$one" = "$id" ] || left="$left $one"; done; ids=$left ;;
    esac
done
for id in $ids; do kill -KILL "$id" 2>/dev/null; done"#;

/// How long a process may take to be ready on a loaded machine.
pub const READY_LIMIT: Duration = Duration::from_secs(90);
/// How long a process may take to end by itself, longer than its services' own limits.
const END_LIMIT: Duration = Duration::from_secs(40);
/// How often it is asked whether it is ready.
const LOOK: Duration = Duration::from_millis(100);

/// A shell that outlives us by a moment.
pub struct Watchdog {
    shell: std::process::Child,
}

impl Watchdog {
    pub fn start() -> Result<Arc<Mutex<Self>>, Failure> {
        let shell = std::process::Command::new("sh")
            .args(["-c", WATCHDOG])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| Failure::Runtime(format!("sh cannot be started: {error}")))?;
        Ok(Arc::new(Mutex::new(Self { shell })))
    }

    fn tell(&mut self, sign: char, id: u32) {
        if let Some(pipe) = &mut self.shell.stdin {
            // Without a watchdog our own end still ends them.
            let _ = writeln!(pipe, "{sign}{id}");
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shell.stdin = None;
        let _ = self.shell.wait();
    }
}

/// How to start a process.
pub struct Start {
    /// What `posthaste` is told.
    pub arguments: Vec<String>,
    /// And by its environment.
    pub settings: Vec<(String, String)>,
    /// Its port, the same over all its starts.
    pub port: u16,
    /// The folder of its log.
    pub folder: PathBuf,
}

/// A process over all its starts.
pub struct Member {
    pub name: String,
    start: Start,
    running: tokio::sync::Mutex<Option<Child>>,
    /// Whether it is to run: what ends meanwhile ended by itself.
    wanted: AtomicBool,
    /// What it ended with by itself.
    surprises: Mutex<Vec<String>>,
    watchdog: Arc<Mutex<Watchdog>>,
}

impl Member {
    pub fn new(name: &str, start: Start, watchdog: &Arc<Mutex<Watchdog>>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            start,
            running: tokio::sync::Mutex::default(),
            wanted: AtomicBool::new(false),
            surprises: Mutex::default(),
            watchdog: Arc::clone(watchdog),
        })
    }

    /// Where it serves HTTP.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.start.port)
    }

    /// Where its log is.
    pub fn log(&self) -> PathBuf {
        self.start.folder.join(format!("{}.log", self.name))
    }

    /// Starts it, unless it runs.
    pub async fn launch(&self) -> Result<(), Failure> {
        self.wanted.store(true, Ordering::Relaxed);
        let mut running = self.running.lock().await;
        if running.is_some() {
            return Ok(());
        }
        let wrong =
            |error: std::io::Error| Failure::Runtime(format!("{} cannot be started: {error}", self.name));
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .map_err(wrong)?;
        let errors = log.try_clone().map_err(wrong)?;
        let mut command = Command::new(std::env::current_exe().map_err(wrong)?);
        // Credentials of real providers stay here: everything goes to the sandbox.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("POSTHASTE_PROVIDERS__") {
                command.env_remove(name);
            }
        }
        let child = command
            .args(&self.start.arguments)
            .envs(self.start.settings.iter().cloned())
            .args(["--listen", &format!("127.0.0.1:{}", self.start.port)])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // Ctrl-C is for us; we end it in our own way.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(wrong)?;
        if let Some(id) = child.id() {
            lock(&self.watchdog).tell('+', id);
        }
        *running = Some(child);
        Ok(())
    }

    /// Waits until `/ready` says so. `false` when it took too long.
    pub async fn ready(&self, http: &reqwest::Client, limit: Duration) -> bool {
        let begun = Instant::now();
        let url = format!("{}/ready", self.url());
        loop {
            let answer = http.get(&url).timeout(Duration::from_secs(2)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return true;
            }
            if begun.elapsed() > limit {
                return false;
            }
            sleep(LOOK).await;
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&self) {
        self.wanted.store(false, Ordering::Relaxed);
        let mut running = self.running.lock().await;
        if let Some(mut child) = running.take() {
            let id = child.id();
            self.notice(child.try_wait().ok().flatten());
            // An error means that it has ended already.
            let _ = child.kill().await;
            self.gone(id);
        }
    }

    /// SIGSTOP: it stands still, its connections stay open.
    pub async fn hang(&self) {
        self.signal(Signal::STOP).await;
    }

    /// SIGCONT.
    pub async fn go_on(&self) {
        self.signal(Signal::CONT).await;
    }

    /// SIGTERM, and waits until it has ended; whether it did so by itself in time.
    pub async fn stop(&self) -> bool {
        self.wanted.store(false, Ordering::Relaxed);
        self.signal(Signal::TERM).await;
        let mut running = self.running.lock().await;
        let Some(mut child) = running.take() else {
            return true;
        };
        let id = child.id();
        let ended = timeout(END_LIMIT, child.wait()).await.is_ok();
        if !ended {
            let _ = child.kill().await;
        }
        self.gone(id);
        ended
    }

    async fn signal(&self, signal: Signal) {
        let running = self.running.lock().await;
        // As long as it has not been waited for, its id cannot be another process's.
        let id = running.as_ref().and_then(Child::id);
        if let Some(pid) = id.and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Starts it again if it ended by itself.
    pub async fn look_after(&self) -> Result<(), Failure> {
        let ended = {
            let mut running = self.running.lock().await;
            let id = running.as_ref().and_then(Child::id);
            let ended = running.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() {
                running.take();
                self.gone(id);
            }
            ended
        };
        if ended.is_some() && self.wanted.load(Ordering::Relaxed) {
            self.notice(ended);
            self.launch().await?;
        }
        Ok(())
    }

    fn notice(&self, ended: Option<ExitStatus>) {
        if let Some(status) = ended {
            lock(&self.surprises).push(format!(
                "{} ended by itself ({status}); see {}",
                self.name,
                self.log().display()
            ));
        }
    }

    /// What it ended with by itself.
    pub fn surprises(&self) -> Vec<String> {
        lock(&self.surprises).clone()
    }

    fn gone(&self, id: Option<u32>) {
        if let Some(id) = id {
            lock(&self.watchdog).tell('-', id);
        }
    }
}

/// Ends them all at once: those that stand still too.
pub async fn end(members: &[Arc<Member>]) {
    let mut ending = tokio::task::JoinSet::new();
    for member in members {
        let member = Arc::clone(member);
        ending.spawn(async move {
            member.go_on().await;
            member.stop().await;
        });
    }
    ending.join_all().await;
}

/// Free ports, so many, below those that the system takes for outgoing connections: none of those may sit on a port
/// while its process is down.
pub fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    let start = u16::try_from(std::process::id().wrapping_mul(7_919) % u32::from(COUNT)).unwrap_or(0);
    let ports: Vec<u16> = (0..COUNT)
        .map(|step| FIRST + (start + step) % COUNT)
        .filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .take(count)
        .collect();
    if ports.len() < count {
        return Err(Failure::Runtime(format!(
            "no {count} ports are free on 127.0.0.1"
        )));
    }
    Ok(ports)
}

/// A folder of the run's own.
pub fn make_folder(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::Runtime(format!("{} cannot be made: {error}", folder.display())))
}
