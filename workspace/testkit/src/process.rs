//! A server process of a test: its log, its signals, and its certain end.
//!
//! A watchdog (a small shell) holds the other end of a pipe. When the test process dies, however it dies, the pipe
//! closes and the watchdog kills the server and removes its folder.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::StartError;

/// How much of a log's end an error shows.
const TAIL_LINES: usize = 25;

/// Reads the pid to kill (or an empty line for none) until the pipe closes. Ctrl-C goes to the whole process group:
/// the watchdog must outlive it.
const WATCHDOG: &str = r#"trap '' INT TERM HUP
pid=
while read -r line; do pid=$line; done
[ -n "$pid" ] && kill -KILL "$pid" 2>/dev/null && sleep 0.2
rm -rf "$1""#;

/// A server that can be started again and again in one folder. Killed, and its folder removed, on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    folder: TempDir,
    watchdog: Child,
    pipe: Option<ChildStdin>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    command: String,
    log_from: u64,
}

impl Process {
    /// A process that is not started yet, with a folder of its own.
    ///
    /// # Errors
    /// When the folder or the watchdog cannot be made.
    pub fn new(name: impl Into<String>) -> Result<Self, StartError> {
        let name = name.into();
        let folder = tempfile::Builder::new()
            .prefix(&format!("posthaste-test-{name}-"))
            .tempdir()
            .map_err(StartError::io("create a temporary folder"))?;
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(StartError::io("start sh"))?;
        let pipe = watchdog.stdin.take();
        Ok(Self {
            name,
            folder,
            watchdog,
            pipe,
            running: None,
        })
    }

    /// The process's folder, for its data. Gone after drop.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where standard output and error of every start are appended.
    pub fn log_path(&self) -> PathBuf {
        self.folder.path().join("process.log")
    }

    /// Starts it. Kills what still runs of an earlier start.
    ///
    /// # Errors
    /// When the program cannot be started; `remedy` then says how to get it.
    pub fn spawn(&mut self, command: &mut Command, remedy: &str) -> Result<(), StartError> {
        self.kill();
        let path = self.log_path();
        let doing = || format!("open {}", path.display());
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(StartError::io(doing()))?;
        let log_from = log.metadata().map_err(StartError::io(doing()))?.len();
        let errors = log.try_clone().map_err(StartError::io(doing()))?;
        let line = command_line(command);
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|error| could_not_start(command, remedy, &error))?;
        self.watch(Some(child.id()));
        self.running = Some(Running {
            child,
            command: line,
            log_from,
        });
        Ok(())
    }

    /// The process's id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// What it said since its last start.
    pub fn log(&self) -> String {
        let from = self.running.as_ref().map_or(0, |running| running.log_from);
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(self.log_path()) {
            let _ = file.seek(SeekFrom::Start(from));
            let _ = file.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits until `ready` holds, at most `limit`.
    ///
    /// # Errors
    /// When the process ends first or the time is over, with the last lines of its log.
    pub async fn wait_until<F: AsyncFnMut(&Self) -> bool>(
        &mut self,
        limit: Duration,
        mut ready: F,
    ) -> Result<(), StartError> {
        let start = Instant::now();
        loop {
            if ready(self).await {
                return Ok(());
            }
            let ended = self.try_wait();
            if ended.is_some() || start.elapsed() > limit {
                let ended = ended.map_or_else(String::new, |status| format!("\n(ended with {status})"));
                return Err(StartError::NotReady {
                    server: self.name.clone(),
                    command: self
                        .running
                        .as_ref()
                        .map_or_else(String::new, |running| running.command.clone()),
                    waited_ms: start.elapsed().as_millis(),
                    said: format!("{}{ended}", tail(&self.log())),
                });
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.running.as_mut()?.child.try_wait().ok().flatten()
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
            self.watch(None);
        }
    }

    /// SIGTERM, and waits at most `limit` for its end; then SIGKILL. `None` when it had to be killed or did not run.
    pub async fn terminate(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.signal("TERM");
        let start = Instant::now();
        let mut ended = self.try_wait();
        while ended.is_none() && self.running.is_some() && start.elapsed() < limit {
            tokio::time::sleep(Duration::from_millis(20)).await;
            ended = self.try_wait();
        }
        self.kill();
        ended
    }

    /// SIGSTOP: the process hangs, its connections stay open.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT: the process goes on after [`Process::pause`].
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        // Only while the child has not been waited for: until then its pid cannot be another process's.
        if let Some(pid) = self.pid() {
            let _ = Command::new("sh")
                .args(["-c", r#"kill -"$1" "$2""#, "signal", name, &pid.to_string()])
                .stderr(Stdio::null())
                .status();
        }
    }

    fn watch(&mut self, pid: Option<u32>) {
        if let Some(pipe) = &mut self.pipe {
            let pid = pid.map_or_else(String::new, |pid| pid.to_string());
            let _ = writeln!(pipe, "{pid}");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.pipe = None;
        let _ = self.watchdog.wait();
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command, remedy: &str) -> Result<(), StartError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| could_not_start(command, remedy, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(StartError::Failed {
        command: command_line(command),
        said: format!("{}\n{}", output.status, tail(&String::from_utf8_lossy(&said))),
    })
}

/// Writes a file, with its folder.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), StartError> {
    let doing = format!("write {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(StartError::io(doing.clone()))?;
    }
    fs::write(path, text).map_err(StartError::io(doing))
}

fn could_not_start(command: &Command, remedy: &str, error: &std::io::Error) -> StartError {
    let program = command.get_program().to_string_lossy().into_owned();
    if error.kind() == std::io::ErrorKind::NotFound {
        StartError::Missing {
            program,
            remedy: remedy.to_owned(),
        }
    } else {
        StartError::Failed {
            command: command_line(command),
            said: error.to_string(),
        }
    }
}

fn command_line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_ends_early_tells_its_last_words() {
        let mut process = Process::new("talker").unwrap();
        process
            .spawn(Command::new("sh").args(["-c", "echo no such disk; exit 3"]), "")
            .unwrap();
        let error = process
            .wait_until(Duration::from_secs(10), async |_| false)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("no such disk"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_missing_program_says_how_to_get_it() {
        let mut process = Process::new("missing").unwrap();
        let error = process
            .spawn(&mut Command::new("no-such-program"), "apt-get install it")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no-such-program is not installed: apt-get install it"
        );
    }

    #[test]
    fn dropping_kills_and_removes_the_folder() {
        let mut process = Process::new("sleeper").unwrap();
        process.spawn(Command::new("sleep").arg("600"), "").unwrap();
        let proc = PathBuf::from(format!("/proc/{}", process.pid().unwrap()));
        let folder = process.folder().to_owned();
        assert!(proc.exists() && folder.exists());
        drop(process);
        assert!(!proc.exists() && !folder.exists());
    }

    #[tokio::test]
    async fn the_watchdog_kills_when_its_pipe_closes() {
        let mut process = Process::new("orphan").unwrap();
        process.spawn(Command::new("sleep").arg("600"), "").unwrap();
        process.pipe = None; // what the system does when the test process dies
        process
            .wait_until(Duration::from_secs(10), async |_| false)
            .await
            .unwrap_err();
        assert!(!process.try_wait().unwrap().success());
    }

    #[tokio::test]
    async fn termination_is_waited_for() {
        let mut process = Process::new("polite").unwrap();
        process
            .spawn(
                Command::new("sh").args(["-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"]),
                "",
            )
            .unwrap();
        process
            .wait_until(Duration::from_secs(10), async |process| {
                process.log().contains("up")
            })
            .await
            .unwrap();
        let status = process.terminate(Duration::from_secs(10)).await;
        assert_eq!(status.and_then(|status| status.code()), Some(7));
    }
}
