//! The status store in MongoDB: collections `events`, `inbox`, `claims`, `devices`, `lists` and `list_pages`.
//!
//! It programs to what every MongoDB version and every server that speaks its protocol can do. Nothing is asked of it at the
//! start: it may be away then and at any time, and is used again as soon as it answers.

mod apply;
mod claims;
mod devices;
mod form;
mod lists;
mod read;
mod replace;
mod write;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use mongodb::{
    Client, Collection, Database,
    bson::{Document as Bsons, RawDocumentBuf, doc},
    error::ErrorKind,
    options::{ClientOptions, ConnectionString, HostInfo},
};
use posthaste_event::{Millis, Status};
use posthaste_reconnect::Reconnect;
use tokio::{sync::OnceCell, task::JoinHandle, time};
use tracing::warn;

use apply::Novelty;
use claims::Gathering;

use crate::{
    Changes, Document, InboxMessage, Page, Position, Query, Settings, Store, StoreError, Tallies,
    condition::Condition,
};

/// How often the server is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(2);

/// The store in MongoDB.
pub struct MongoStore {
    shared: Arc<Shared>,
    watch: JoinHandle<()>,
    claims: Gathering,
    novelty: Novelty,
}

/// A MongoDB server, as it tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// Its version, such as `8.0.4`.
    pub version: String,
    /// Its clock, in milliseconds since the Unix epoch, if it tells.
    pub now: Option<Millis>,
    /// Whether it belongs to a replica set or a sharded cluster.
    pub has_replicas: bool,
}

struct Shared {
    settings: Settings,
    connection: OnceCell<Connection>,
    condition: Condition,
}

/// The driver's handles; it connects, and connects again, by itself.
struct Connection {
    database: Database,
    events: Collection<RawDocumentBuf>,
    inbox: Collection<RawDocumentBuf>,
}

impl MongoStore {
    /// Takes the address and starts to watch the server. Does not wait for it. Must be called on a Tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the address or the database's name cannot be one.
    pub fn connect(settings: &Settings) -> Result<Self, StoreError> {
        let refused = |reason: String| StoreError::Refused(format!("store.mongodb.{reason}"));
        let mongodb = &settings.mongodb;
        // The driver's own words could repeat the address, which may hold a password.
        let address = ConnectionString::parse(&mongodb.url.0).map_err(|_| {
            refused("url: not an address of MongoDB; accepted: mongodb://[user:password@]host[:port][,…]/[?options], mongodb+srv://…".into())
        })?;
        let name = &mongodb.database;
        if name.is_empty()
            || name.len() > 63
            || !name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        {
            return Err(refused(format!(
                "database: {name:?} cannot be a database's name; accepted: 1 to 63 letters, digits, _ and -"
            )));
        }
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            connection: OnceCell::new(),
            condition: Condition::unknown(format!("MongoDB at {}", place_of(&address))),
        });
        let watch = tokio::spawn(watch(shared.clone()));
        let claims = Gathering::start(Arc::clone(&shared));
        Ok(Self {
            shared,
            watch,
            claims,
            novelty: Novelty::default(),
        })
    }

    /// What the server says of itself.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn server(&self) -> Result<ServerInfo, StoreError> {
        within(self.shared.settings.read_timeout(), async {
            let database = &self.shared.connection().await?.database;
            let ask = async |command| {
                database
                    .run_command(command)
                    .await
                    .map_err(|error| failure(&error))
            };
            let build = ask(doc! {"buildInfo": 1}).await?;
            // The old name of `hello`, which every version and every stand-in knows.
            let hello = ask(doc! {"isMaster": 1}).await?;
            let has_replicas = hello.contains_key("setName") || hello.get_str("msg").is_ok();
            Ok(ServerInfo {
                version: build.get_str("version").unwrap_or("unknown").to_owned(),
                now: hello
                    .get_datetime("localTime")
                    .ok()
                    .map(|time| time.timestamp_millis()),
                has_replicas,
            })
        })
        .await
    }

    async fn read<T>(
        &self,
        look: impl AsyncFnOnce(&Connection, Duration) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let limit = self.shared.settings.read_timeout();
        within(limit, async {
            look(self.shared.connection().await?, limit).await
        })
        .await
    }

    async fn count(&self, meant: Bsons) -> Result<BTreeMap<Status, u64>, StoreError> {
        let limit = self.shared.settings.count_timeout();
        within(limit, async {
            read::counts(self.shared.connection().await?, meant, limit).await
        })
        .await
    }

    async fn write(&self, collection: &str, updates: Vec<RawDocumentBuf>) -> Result<(), StoreError> {
        let limit = self.shared.settings.write_timeout();
        let batch_max = self.shared.settings.batch_max();
        within(limit, async {
            write::run(
                self.shared.connection().await?,
                collection,
                updates,
                write::Absence::Loss,
                batch_max,
                limit,
            )
            .await
            .map(drop)
        })
        .await
    }
}

impl Drop for MongoStore {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Shared {
    /// The driver's handles, made at the first use: an address that names its servers in the DNS is resolved then.
    async fn connection(&self) -> Result<&Connection, StoreError> {
        self.connection
            .get_or_try_init(|| async {
                let settings = &self.settings;
                let mut options = ClientOptions::parse(&settings.mongodb.url.0)
                    .await
                    .map_err(|error| failure(&error))?;
                let limit = settings.write_timeout().min(settings.read_timeout());
                options.app_name.get_or_insert_with(|| "posthaste".into());
                options.connect_timeout.get_or_insert(limit);
                options.server_selection_timeout.get_or_insert(limit);
                options
                    .max_pool_size
                    .get_or_insert(settings.mongodb.connections_max.max(2));
                let database = Client::with_options(options)
                    .map_err(|error| failure(&error))?
                    .database(&settings.mongodb.database);
                Ok(Connection {
                    events: database.collection("events"),
                    inbox: database.collection("inbox"),
                    database,
                })
            })
            .await
    }

    async fn ping(&self) -> Result<&Connection, StoreError> {
        within(self.settings.read_timeout(), async {
            let connection = self.connection().await?;
            connection
                .database
                .run_command(doc! {"ping": 1})
                .await
                .map_err(|error| failure(&error))?;
            Ok(connection)
        })
        .await
    }
}

/// Asks the server now and then whether it is there, and makes the indexes the first time that it is.
async fn watch(shared: Arc<Shared>) {
    let mut waits = Reconnect::new(Duration::from_millis(100), PING_EVERY);
    let mut has_indexes = false;
    loop {
        match shared.ping().await {
            Ok(connection) => {
                shared.condition.answered();
                waits.reset();
                if !has_indexes {
                    has_indexes = true;
                    for refused in write::make_indexes(connection, shared.settings.retention_days).await {
                        warn!(
                            index = refused,
                            "MongoDB did not make an index; queries by it are slower: {refused}"
                        );
                    }
                }
                time::sleep(PING_EVERY).await;
            }
            Err(StoreError::Unreachable(reason) | StoreError::Refused(reason)) => {
                shared.condition.failed(&reason);
                time::sleep(waits.next_wait()).await;
            }
        }
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(StoreError::Unreachable(format!(
            "no answer within {} ms",
            limit.as_millis()
        )))
    })
}

/// Where the servers are, without user and password.
fn place_of(address: &ConnectionString) -> String {
    match &address.host_info {
        HostInfo::HostIdentifiers(hosts) => hosts
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(","),
        HostInfo::DnsRecord(name) => name.clone(),
        _ => "an address of another kind".to_owned(),
    }
}

/// What the driver's error means for us.
fn failure(error: &mongodb::error::Error) -> StoreError {
    match &*error.kind {
        ErrorKind::Command(command) => write::refusal(
            Some(command.code.into()),
            format!("{} (code {})", command.message, command.code),
        ),
        ErrorKind::BsonSerialization(error) => StoreError::Refused(error.to_string()),
        // Not refused: a change that a store refuses is left out for good, and this one can be mended.
        ErrorKind::ServerSelection { message, .. } if message.contains("wire version") => {
            StoreError::Unreachable(format!(
                "its version does not fit; accepted: MongoDB 4.4 or later ({message})"
            ))
        }
        other => StoreError::Unreachable(other.to_string()),
    }
}

#[async_trait]
impl Tallies for MongoStore {
    async fn tally(&self, tenant: &str, correlation_id: &str) -> Result<BTreeMap<Status, u64>, StoreError> {
        self.count(doc! {"correlationId": correlation_id, "tenant": tenant})
            .await
    }
}

#[async_trait]
impl Store for MongoStore {
    async fn apply(&self, changes: Changes, _progress: &[Position]) -> Result<(), StoreError> {
        let limit = self.shared.settings.write_timeout();
        let batch_max = self.shared.settings.batch_max();
        within(limit, async {
            let connection = self.shared.connection().await?;
            apply::apply(connection, &changes, &self.novelty, batch_max, limit).await
        })
        .await
    }

    /// A transaction over documents and positions would need a replica set, so the broker keeps them: committed after the
    /// write, which can be repeated.
    async fn progress(&self) -> Result<Option<Vec<Position>>, StoreError> {
        Ok(None)
    }

    async fn event(&self, id: &str) -> Result<Option<Document>, StoreError> {
        self.read(async |connection, limit| read::event(connection, id, limit).await)
            .await
    }

    async fn events(&self, ids: &[String]) -> Result<Vec<(String, Option<Document>)>, StoreError> {
        self.read(async |connection, limit| read::events(connection, ids, limit).await)
            .await
    }

    async fn replace(&self, seen: Option<&Document>, truth: &Document) -> Result<bool, StoreError> {
        let limit = self.shared.settings.write_timeout();
        within(limit, async {
            replace::replace(self.shared.connection().await?, seen, truth, limit).await
        })
        .await
    }

    async fn search(&self, query: &Query) -> Result<Page, StoreError> {
        self.read(async |connection, limit| read::search(connection, query, limit).await)
            .await
    }

    async fn counts(&self, tenant: Option<&str>) -> Result<BTreeMap<Status, u64>, StoreError> {
        let meant = tenant.map_or_else(Bsons::new, |tenant| doc! {"tenant": tenant});
        self.count(meant).await
    }

    async fn put_inbox(&self, message: &InboxMessage) -> Result<(), StoreError> {
        self.write("inbox", vec![write::of_message(message)?]).await
    }

    async fn inbox(
        &self,
        tenant: &str,
        recipient: &str,
        limit: u32,
    ) -> Result<Vec<InboxMessage>, StoreError> {
        self.read(async |connection, time| read::inbox(connection, tenant, recipient, limit, time).await)
            .await
    }

    async fn forget(&self, before: Millis, records_max: u32) -> Result<u64, StoreError> {
        let limit = self.shared.settings.write_timeout();
        within(limit, async {
            read::forget(self.shared.connection().await?, before, records_max, limit).await
        })
        .await
    }

    fn health(&self) -> Result<(), String> {
        self.shared.condition.health()
    }
}
