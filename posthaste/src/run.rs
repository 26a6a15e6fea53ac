//! Runs services in this process: all of them, or one alone.
//!
//! The port answers `/health` and `/ready` from the first moment; the services follow when what they need is there. Stopping
//! goes the other way round: no new requests, what is under way drains, then the broker closes.

pub mod backends;
pub mod described;
mod services;
mod tasks;
#[cfg(test)]
mod walk;

use std::{io::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use posthaste_broker::Broker;
use posthaste_definitions::{Definitions, Kind, Suppressions};
use posthaste_dispatcher::LaneName;
use posthaste_event::topic::GROUPS;
use posthaste_sealing::Keys;
use posthaste_service::{
    Configuration, Health, Metrics, Requests, Shutdown, api,
    auth::Guard,
    http,
    metrics::{Exposition, Group, Lag},
    shutdown, telemetry,
};
use tokio::{net::TcpListener, sync::watch};
use tracing::{error, info};

use crate::{
    cli::{Common, Place, Without},
    configuration::{self, Settings},
    failure::Failure,
};
use tasks::Tasks;

/// Longest time that the broker gets to flush and close, in milliseconds.
const BROKER_CLOSE_MS: u64 = 5_000;

/// A service of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// HTTP intake.
    Ingestion,
    /// Dispatchers of these lanes.
    Dispatcher(Vec<LaneName>),
    /// Verdicts and the delay wheel.
    Retry,
    /// Re-publication of dead letters.
    Replay,
    /// The projector and the status API.
    Status,
    /// The stand-in for the providers.
    Sandbox,
}

impl Role {
    /// Every service.
    pub fn all() -> Vec<Self> {
        vec![
            Self::Ingestion,
            Self::Dispatcher(LaneName::ALL.to_vec()),
            Self::Retry,
            Self::Replay,
            Self::Status,
            Self::Sandbox,
        ]
    }

    /// Every service but these.
    pub fn all_without(without: &[Without]) -> Vec<Self> {
        let mut roles = Self::all();
        roles.retain(|role| {
            let service = match role {
                Self::Ingestion => return true,
                Self::Dispatcher(_) => Without::Dispatcher,
                Self::Retry => Without::Retry,
                Self::Replay => Without::Replay,
                Self::Status => Without::Status,
                Self::Sandbox => Without::Sandbox,
            };
            !without.contains(&service)
        });
        roles
    }

    /// The consumer groups that it joins, and their topics.
    fn groups(&self) -> Vec<Group> {
        let of = |wanted: &[&str]| {
            let groups = GROUPS.iter().filter(|(name, _)| wanted.contains(name));
            groups.copied().collect()
        };
        match self {
            Self::Ingestion => of(&["inbox", "broadcast"]),
            Self::Sandbox => Vec::new(),
            Self::Dispatcher(lanes) => lanes.iter().map(|lane| (lane.group(), lane.topics())).collect(),
            Self::Retry => of(&["retry", "wheel"]),
            Self::Replay => of(&["replay"]),
            Self::Status => of(&["projector"]),
        }
    }

    /// Whether it holds events, or takes in what is asked of them.
    const fn hears_requests(&self) -> bool {
        matches!(self, Self::Dispatcher(_) | Self::Retry | Self::Status)
    }

    /// The kinds of definitions that it goes by.
    const fn definitions(&self) -> &'static [Kind] {
        match self {
            Self::Ingestion => &[Kind::Template, Kind::Config, Kind::Schedule, Kind::ApiKey],
            Self::Retry => &[Kind::Schedule],
            Self::Dispatcher(_) | Self::Replay | Self::Status | Self::Sandbox => &[],
        }
    }

    /// Whether it goes by who is suppressed, or shows that.
    const fn hears_suppressions(&self) -> bool {
        matches!(self, Self::Ingestion | Self::Dispatcher(_))
    }

    /// Whether it seals or opens payloads.
    const fn needs_keys(&self) -> bool {
        matches!(self, Self::Ingestion | Self::Dispatcher(_) | Self::Status)
    }

    /// Whether it keeps something in the store.
    const fn needs_store(&self) -> bool {
        matches!(self, Self::Ingestion | Self::Dispatcher(_) | Self::Status)
    }

    fn port(&self) -> u16 {
        match self {
            Self::Ingestion => 3000,
            Self::Dispatcher(lanes) => match lanes.first() {
                Some(LaneName::Critical) | None => 3001,
                Some(LaneName::Default) => 3003,
                Some(LaneName::Retry) => 3004,
            },
            Self::Replay => 3005,
            Self::Retry => 3006,
            Self::Status => 3007,
            Self::Sandbox => 3010,
        }
    }
}

/// Whether this process is the whole system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All services: it makes the topics itself, and may keep log and status in files.
    Up,
    /// One of several processes.
    Alone,
}

/// What everything in this process shares.
pub struct Process {
    configuration: Configuration,
    settings: Settings,
    mode: Mode,
    instance: Arc<str>,
    health: Health,
    metrics: Arc<Metrics>,
    requests: Arc<Requests>,
    definitions: Arc<Definitions>,
    suppressions: Arc<Suppressions>,
    /// What payloads are sealed and opened with.
    keys: Arc<Keys>,
    lag: Arc<Lag>,
    address: SocketAddr,
    /// Asks for credentials; `None` when nobody is asked.
    guard: Option<Arc<Guard>>,
    /// What its paths say of themselves.
    document: serde_json::Value,
}

/// Runs until told to stop.
pub fn start(common: &Common, place: &Place, roles: &[Role], mode: Mode) -> Result<(), Failure> {
    let configuration = configuration::load(common, place)?;
    let settings = configuration::settings(&configuration)?;
    telemetry::start(&settings.service).map_err(|error| configuration.refuse(&error))?;
    backends::check(&settings, roles, mode)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::runtime)?
        .block_on(serve(configuration, settings, roles, mode))
}

async fn serve(
    configuration: Configuration,
    settings: Settings,
    roles: &[Role],
    mode: Mode,
) -> Result<(), Failure> {
    let stop = shutdown::on_signals().map_err(Failure::runtime)?;
    let port = roles.first().map_or(0, Role::port);
    let address = settings
        .service
        .listen_address(port)
        .map_err(|error| configuration.refuse(&error))?;
    settings
        .service
        .auth
        .check_reach(address)
        .map_err(|error| configuration.refuse(&error))?;
    let listener = http::bind(address).await.map_err(Failure::Runtime)?;
    let names = configuration::provider_names(&configuration, &settings)?;
    let definitions = definitions(roles, &settings);
    let keys_made = (!definitions.is_needless()).then(|| Arc::clone(&definitions));
    let process = Process {
        metrics: Arc::new(Metrics::new(&names)),
        requests: Arc::default(),
        definitions,
        suppressions: suppressions(roles, &settings),
        keys: keys(roles, &settings)?,
        lag: Arc::default(),
        address: listener.local_addr().map_err(Failure::runtime)?,
        instance: settings.service.instance_name(),
        health: Health::default(),
        guard: Guard::new(&settings.service.auth, keys_made).map_err(Failure::Runtime)?,
        document: described::document(roles, &settings, &names),
        configuration,
        settings,
        mode,
    };
    if let Some(guard) = &process.guard {
        guard.watch(&process.health);
    }
    let (routers, watched) = watch::channel(process.starting());
    let intake_stop = Shutdown::new();
    let server = process.serve_http(listener, watched, intake_stop.clone());
    let mut tasks = Tasks::default();
    let outcome = process.work(roles, &routers, &mut tasks, &stop).await;
    let (broker, outcome) = match outcome {
        Ok(broker) => (broker, Ok(())),
        Err((broker, failure)) => (broker, Err(failure)),
    };
    // Intake first. The loops are told in the same moment: one that went on would send to a sandbox that is closing.
    intake_stop.cancel();
    // What is done beside requests ends when nobody has their routes any more.
    drop(routers);
    let (_served, ()) = tokio::join!(server, tasks.drain(process.drain_time()));
    if let Some(broker) = broker {
        broker.close(BROKER_CLOSE_MS).await;
    }
    match outcome {
        Ok(()) => {
            info!("stopped");
            Ok(())
        }
        // A log of JSON lines stays one.
        Err(Failure::Runtime(reason)) => {
            error!(reason, "stopped: {reason}");
            Err(Failure::Logged)
        }
        Err(failure) => Err(failure),
    }
}

/// What users have defined, of the kinds that these services go by. Whoever asks for credentials goes by keys; the sandbox alone has
/// no broker to read them from.
fn definitions(roles: &[Role], settings: &Settings) -> Arc<Definitions> {
    let is_asked = settings.service.auth.enabled && roles.iter().any(|role| *role != Role::Sandbox);
    let of_roles = roles.iter().flat_map(Role::definitions).copied();
    let kinds: Vec<Kind> = of_roles.chain(is_asked.then_some(Kind::ApiKey)).collect();
    Arc::new(Definitions::new(&kinds, settings.definitions.clone()))
}

/// Who is suppressed; with what is shown of them where that is asked for.
fn suppressions(roles: &[Role], settings: &Settings) -> Arc<Suppressions> {
    let is_shown = roles.contains(&Role::Ingestion);
    Arc::new(Suppressions::new(settings.definitions.clone(), is_shown))
}

/// The keys of sealed payloads, as they are now, for services that need them.
fn keys(roles: &[Role], settings: &Settings) -> Result<Arc<Keys>, Failure> {
    let encryption = &settings.encryption;
    if !roles.iter().any(Role::needs_keys) {
        return Ok(Arc::default());
    }
    let Some(source) = encryption.source() else {
        return match encryption.asked_by() {
            Some(setting) if roles.contains(&Role::Ingestion) => Err(Failure::Usage(format!(
                "{setting} asks for encryption, and there are no keys; set encryption.keys_file to a file with keys: \
                 posthaste keys generate --file FILE makes one"
            ))),
            _ => Ok(Arc::default()),
        };
    };
    let ring = source
        .ring()
        .map_err(|reason| Failure::Usage(format!("the keys cannot be used: {reason}")))?;
    Ok(Arc::new(Keys::new(Some(ring))))
}

/// Where a service that listens at `address` can be reached from its own machine.
pub fn url_of(address: SocketAddr) -> String {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

type Worked = Result<Option<Arc<dyn Broker>>, (Option<Arc<dyn Broker>>, Failure)>;

impl Process {
    /// Starts the services and waits until they are to stop. Gives the broker back, to be closed last.
    async fn work(
        &self,
        roles: &[Role],
        routers: &watch::Sender<Router>,
        tasks: &mut Tasks,
        stop: &Shutdown,
    ) -> Worked {
        let started = tokio::select! {
            started = services::start(self, roles, tasks) => started,
            () = stop.cancelled() => return Ok(None),
        };
        let services::Started { routes, broker } = started.map_err(|failure| (None, failure))?;
        let router = http::assemble(
            routes.merge(self.own_router()),
            self.health.clone(),
            Arc::clone(&self.instance),
            &self.settings.service,
            self.guard.clone(),
        );
        let _watched = routers.send(router);
        self.greet();
        tokio::select! {
            () = stop.cancelled() => Ok(broker),
            failure = tasks.first_end() => Err((broker, failure)),
        }
    }

    fn starting(&self) -> Router {
        http::starting(
            self.own_router(),
            self.health.clone(),
            Arc::clone(&self.instance),
            &self.settings.service,
            self.guard.clone(),
        )
    }

    /// What a process has whatever its services: metrics, and the description of its paths.
    fn own_router(&self) -> Router {
        let exposition = Exposition {
            metrics: Arc::clone(&self.metrics),
            health: self.health.clone(),
            lag: Arc::clone(&self.lag),
            instance: Arc::clone(&self.instance),
        };
        exposition.router().merge(api::router(&self.document))
    }

    fn serve_http(
        &self,
        listener: TcpListener,
        routers: watch::Receiver<Router>,
        stop: Shutdown,
    ) -> tokio::task::JoinHandle<()> {
        let settings = self.settings.service.clone();
        tokio::spawn(async move { http::serve(listener, routers, &settings, stop).await })
    }

    /// Where this process can be reached from this machine.
    pub fn url(&self) -> String {
        url_of(self.address)
    }

    fn greet(&self) {
        info!(instance = %self.instance, address = %self.address, "serving HTTP at {}", self.url());
        if self.mode == Mode::Up {
            let place = backends::place(&self.settings);
            // Nobody may be reading; then there is nobody to greet.
            let _ = writeln!(
                std::io::stdout(),
                "Posthaste is at {} ({place}).\nTry: posthaste send --url {} --channel sms --payload '{{\"message\":\"Hello\",\"phoneNumber\":\"2025555555\"}}'",
                self.url(),
                self.url()
            );
        }
    }

    /// Longer than what any service takes to drain, so that only one that hangs is cut off.
    fn drain_time(&self) -> Duration {
        let settings = &self.settings;
        let longest = settings
            .dispatcher
            .drain_ms
            .max(settings.replay.drain_ms)
            .max(settings.status.drain_ms)
            .max(settings.broker.drain_ms)
            .max(settings.service.drain_timeout_ms);
        Duration::from_millis(longest) + Duration::from_secs(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_listens_everywhere_is_reached_on_its_own_machine() {
        for (listens, url) in [
            ("0.0.0.0:3001", "http://127.0.0.1:3001"),
            ("[::]:3001", "http://[::1]:3001"),
            ("10.1.2.3:3001", "http://10.1.2.3:3001"),
        ] {
            assert_eq!(url_of(listens.parse().unwrap()), url);
        }
    }
}
