//! A MongoDB-wire server for tests (mongo-java-server). A stand-in: production runs MongoDB itself.

use std::{path::PathBuf, time::Duration};

use crate::{
    Port, Process, StartError,
    cache::{JAVA_REMEDY, Recipe, java},
    kafka::blocking,
};

const RECIPE: Recipe = Recipe {
    name: "mongodb",
    pom: include_str!("../servers/mongodb/pom.xml"),
    files: &[(
        "WireServer.java",
        include_str!("../servers/mongodb/WireServer.java"),
    )],
};

/// Longer than a cold start on a loaded machine with two cores (1 s alone).
const READY_LIMIT: Duration = Duration::from_secs(60);

/// The collector of garbage that starts fastest and needs the least memory, of which a few ten thousand documents take what there is.
const SMALL: &[&str] = &["-XX:+UseSerialGC", "-Xmx256m"];
/// The one that Java takes on a server by itself, and memory for a million documents. With the other one, a stand-in of a hundred
/// thousand documents stood still for up to 3 s at a time, which no MongoDB does.
const LARGE: &[&str] = &["-XX:+UseG1GC", "-Xmx12g"];

/// Where the server keeps its documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MongoStorage {
    /// In memory: fast; empty after a restart.
    Memory,
    /// In a file, written before each answer: slower; there after a kill.
    File,
}

/// A running server; killed on drop, or when the test process ends in whatever way.
#[derive(Debug)]
pub struct MongoServer {
    process: Process,
    port: Port,
    home: PathBuf,
    storage: MongoStorage,
    memory: &'static [&'static str],
}

impl MongoServer {
    /// Starts a server. Takes about a second.
    ///
    /// # Errors
    /// When it cannot start, with what is missing or the last lines of its log.
    pub async fn start(storage: MongoStorage) -> Result<Self, StartError> {
        Self::start_by(storage, SMALL).await
    }

    /// The same for a million documents, for measuring.
    ///
    /// # Errors
    /// When it cannot start, with what is missing or the last lines of its log.
    pub async fn start_large(storage: MongoStorage) -> Result<Self, StartError> {
        Self::start_by(storage, LARGE).await
    }

    async fn start_by(storage: MongoStorage, memory: &'static [&'static str]) -> Result<Self, StartError> {
        let port = Port::reserve()?;
        let process = Process::new("mongodb")?;
        let home = blocking(|| RECIPE.folder()).await?;
        let mut server = Self {
            process,
            port,
            home,
            storage,
            memory,
        };
        server.restart().await?;
        Ok(server)
    }

    /// The connection string. Isolate by database name.
    pub fn uri(&self) -> String {
        format!("mongodb://{}", self.address())
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port (and file), killing it first if it runs; returns when it serves.
    ///
    /// # Errors
    /// When it does not come up, with the last lines of its log.
    pub async fn restart(&mut self) -> Result<(), StartError> {
        let storage = match self.storage {
            MongoStorage::Memory => PathBuf::from("memory"),
            MongoStorage::File => self.process.folder().join("documents.mv"),
        };
        let mut command = java(&self.home);
        command
            .args(self.memory)
            .arg("WireServer")
            .arg(self.port.number().to_string())
            .arg(storage);
        self.process.spawn(&mut command, JAVA_REMEDY)?;
        self.process
            .wait_until(READY_LIMIT, async |process| {
                process.log().contains("WireServer is listening")
            })
            .await
    }

    /// SIGSTOP: the server hangs, connections stay open.
    pub fn pause(&mut self) {
        self.process.pause();
    }

    /// SIGCONT: the server goes on after [`MongoServer::pause`].
    pub fn resume(&mut self) {
        self.process.resume();
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// What the server said since its last start.
    pub fn log(&self) -> String {
        self.process.log()
    }
}
