//! An axum server that parses an event and answers, in a process of its own: the bench's program started once more.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use axum::{Json, Router, http::StatusCode, response::IntoResponse, routing::post};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::trouble::Trouble;

/// The hidden command that [`serve`]s.
pub const COMMAND: &str = "bare-axum";

#[derive(Deserialize)]
#[expect(dead_code, reason = "parsed, as intake does, and then only answered")]
struct Event {
    channel: String,
    payload: Box<RawValue>,
    metadata: Option<Box<RawValue>>,
    priority: Option<String>,
    tenant: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ingested {
    message: &'static str,
    event_id: &'static str,
    correlation_id: &'static str,
    status: &'static str,
}

async fn ingest(Json(event): Json<Event>) -> impl IntoResponse {
    std::hint::black_box(&event);
    let answer = Ingested {
        message: "Event Ingested",
        event_id: "019aa2f0-0000-7000-8000-000000000000",
        correlation_id: "019aa2f0-0000-7000-8000-000000000001",
        status: "PENDING",
    };
    (StatusCode::CREATED, Json(answer))
}

/// Serves until the process is killed; says on standard output where.
///
/// # Errors
/// When there is no port.
pub async fn serve() -> Result<(), Trouble> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(Trouble::io("listen"))?;
    println!("{}", listener.local_addr().map_err(Trouble::io("listen"))?);
    axum::serve(listener, Router::new().route("/event", post(ingest)))
        .await
        .map_err(Trouble::io("serve"))
}

/// The server's process; killed on drop.
#[derive(Debug)]
pub struct BareAxum {
    child: Child,
    address: SocketAddr,
}

impl BareAxum {
    /// Starts one.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(program: &Path) -> Result<Self, Trouble> {
        let program = program.to_owned();
        tokio::task::spawn_blocking(move || Self::spawn(&program))
            .await
            .map_err(Trouble::doing("start a bare server"))?
    }

    fn spawn(program: &Path) -> Result<Self, Trouble> {
        let mut child = Command::new(program)
            .arg(COMMAND)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Trouble::io("start a bare server"))?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out)
                .read_line(&mut line)
                .map_err(Trouble::io("hear from a bare server"))?;
        }
        let address = line.trim().parse();
        match address {
            Ok(address) => Ok(Self { child, address }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(Trouble::said(format!(
                    "a bare server did not start: {line:?}: {error}"
                )))
            }
        }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for BareAxum {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
