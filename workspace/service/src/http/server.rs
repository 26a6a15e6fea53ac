//! Accepts connections, so many at a time, and serves them until told to stop.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time,
};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::paced::Paced;
use crate::{Settings, Shutdown, auth::Peer};

/// Wait after a failed accept: usually no file descriptor is free, and trying at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Starts listening.
///
/// # Errors
/// In words for the user: the address is taken, or not ours.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::AddrInUse => "another process listens there".to_owned(),
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
            io::ErrorKind::PermissionDenied => "not permitted (ports below 1024 are reserved)".to_owned(),
            _ => error.to_string(),
        };
        format!("cannot listen on {address}: {why}; choose another with --listen")
    })
}

/// Serves until `shutdown`, then lets requests under way finish within the drain time.
///
/// Each connection is served by the router that is in force when it is opened: [`super::starting`] until the service can
/// work, then its own.
pub async fn serve(
    listener: TcpListener,
    routers: watch::Receiver<Router>,
    settings: &Settings,
    shutdown: Shutdown,
) {
    let places = Arc::new(Semaphore::new(settings.connections_max));
    let connections_open = TaskTracker::new();
    let builder = connections(settings);
    let patience = Duration::from_millis(settings.body_timeout_ms);
    let mut accept_fails = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let (stream, peer, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !accept_fails {
                    warn!(%error, "cannot accept connections: {error}; trying on");
                }
                accept_fails = true;
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        accept_fails = false;
        // Answers are small and written whole: waiting for more to send only adds 40 ms.
        let _no_delay = stream.set_nodelay(true);
        let router = routers.borrow().clone();
        // Only the guard asks where a request comes from, and to say it costs each request an allocation.
        let peer = settings.auth.enabled.then(|| Peer(peer.ip()));
        let service = TowerToHyperService::new(router.map_request(
            move |request: Request<hyper::body::Incoming>| {
                let mut request = request.map(Body::new);
                if let Some(peer) = peer {
                    request.extensions_mut().insert(peer);
                }
                request
            },
        ));
        let connection = builder
            .serve_connection(TokioIo::new(Paced::new(stream, patience)), service)
            .with_upgrades();
        let shutdown = shutdown.clone();
        connections_open.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                biased;
                ended = &mut connection => ended,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                debug!(%error, "connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    connections_open.close();
    if time::timeout(settings.drain_timeout(), connections_open.wait())
        .await
        .is_err()
    {
        warn!("some requests did not finish within the drain time");
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(
    tokio::net::TcpStream,
    SocketAddr,
    tokio::sync::OwnedSemaphorePermit,
)> {
    let place = Arc::clone(places)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return Ok((stream, peer, place)),
            // The client left before we came to it: nobody's fault.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

fn connections(settings: &Settings) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(settings.header_timeout_ms))
        .max_header_size(settings.header_bytes_max);
    builder
}
