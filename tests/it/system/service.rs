//! One `posthaste` process of a system under test.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use posthaste_testkit::{Port, Process};

/// Longer than the slowest start seen on a loaded machine.
const READY_LIMIT: Duration = Duration::from_secs(60);

const REMEDY: &str = "`cargo build -p posthaste` first (./test.sh does it)";

/// A service with a port and a data folder of its own, over all its starts.
pub struct Service {
    name: String,
    process: Process,
    port: Port,
    arguments: Vec<String>,
    settings: Vec<(String, String)>,
    under: Vec<String>,
}

impl Service {
    /// `posthaste <arguments>`, not started yet.
    pub fn new(name: &str, arguments: Vec<String>, settings: Vec<(String, String)>) -> Self {
        Self {
            name: name.to_owned(),
            process: Process::new(name).unwrap(),
            port: Port::reserve().unwrap(),
            arguments,
            settings,
            under: Vec::new(),
        }
    }

    /// Started by this program, unless that is empty.
    pub fn under(mut self, command: &[String]) -> Self {
        command.clone_into(&mut self.under);
        self
    }

    /// From the next start on, it is killed (`kill`) or stopped (`stop`) when it comes by this point for the n-th time; with
    /// `None`, no more.
    pub fn arm(&mut self, plan: Option<String>) {
        self.settings.retain(|(variable, _)| variable != "KILL_POINT");
        self.settings
            .extend(plan.map(|plan| ("KILL_POINT".to_owned(), plan)));
    }

    /// Waits until `/ready` answers 200, or it was killed or stopped before.
    pub async fn ready_or_struck(&mut self) {
        let struck = self.strike();
        let url = format!("{}/ready", self.url());
        let start = Instant::now();
        while !struck() {
            let answer = reqwest::Client::new().get(&url).timeout(Duration::from_secs(1));
            if answer
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                return;
            }
            assert!(start.elapsed() < READY_LIMIT, "{} was not ready", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Tells whether this process was killed or stopped at the point that it was armed with.
    pub fn strike(&self) -> impl Fn() -> bool + use<> {
        let path = format!("/proc/{}/stat", self.pid());
        move || {
            // The state follows the name, which is in parentheses. Killed and not waited for: a zombie, Z.
            std::fs::read_to_string(&path).map_or(true, |stat| {
                let state = stat.rsplit(')').next().unwrap().trim_start();
                state.starts_with(['T', 'Z'])
            })
        }
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// From the next start on, started by itself.
    pub fn under_nothing(&mut self) {
        self.under.clear();
    }

    /// The running process's id.
    pub fn pid(&self) -> u32 {
        self.process.pid().unwrap()
    }

    /// Where it serves HTTP.
    pub fn url(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.process.folder().join("data")
    }

    /// Starts it (again): same port, data and name. Does not wait for it.
    pub fn launch(&mut self) {
        let mut command = posthaste_under(&self.under, &self.settings);
        command
            .args(&self.arguments)
            .args(["--listen", &self.port.address()])
            .arg("--data-dir")
            .arg(self.data())
            .env("POSTHASTE_SERVICE__INSTANCE", &self.name);
        self.process.spawn(&mut command, REMEDY).unwrap();
    }

    /// Waits until `/ready` answers 200.
    pub async fn ready(&mut self) {
        let http = reqwest::Client::new();
        let url = format!("{}/ready", self.url());
        self.process
            .wait_until(READY_LIMIT, async |_| {
                let answer = http.get(&url).timeout(Duration::from_secs(2)).send().await;
                answer.is_ok_and(|answer| answer.status().is_success())
            })
            .await
            .unwrap();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM; the process must end by itself, cleanly.
    pub async fn stop(&mut self) {
        let ended = self.process.terminate(Duration::from_secs(40)).await;
        let log = self.process.log();
        assert!(
            ended.is_some_and(|status| status.success()),
            "{} did not stop cleanly on SIGTERM ({ended:?}):\n{log}",
            self.name
        );
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.process.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(30)..].join("\n");
            eprintln!("---- {} ended its log with:\n{tail}\n", self.name);
        }
    }
}

/// Runs `posthaste <arguments>` to its end, which must be a good one.
pub async fn run_to_end(arguments: &[&str], more: &[String], settings: &[(String, String)]) {
    let mut command = posthaste(settings);
    command.args(arguments).args(more);
    run_command(command).await;
}

/// Runs this to its end, which must be a good one.
pub async fn run_command(mut command: Command) {
    let shown = format!("{command:?}");
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{shown}: {error}; {REMEDY}"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{shown} failed:\n{said}");
}

/// Runs `posthaste <arguments>` to its end: exit code, standard output, standard error.
pub async fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = posthaste(&[]);
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The program, with this environment and no other settings.
pub fn posthaste(settings: &[(String, String)]) -> Command {
    posthaste_under(&[], settings)
}

/// The same, started by another program.
fn posthaste_under(under: &[String], settings: &[(String, String)]) -> Command {
    let mut command = match under {
        [] => Command::new(binary()),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(binary());
            command
        }
    };
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("POSTHASTE_") {
            command.env_remove(variable);
        }
    }
    command.envs(settings.iter().map(|(key, value)| (key, value)));
    command
}

/// `target/<profile>/posthaste`: two folders above this executable, which is in `deps/`.
fn binary() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let binary = tests.parent().unwrap().parent().unwrap().join("posthaste");
    assert!(binary.is_file(), "{} is not there: {REMEDY}", binary.display());
    binary
}
