//! A TCP connection that takes its time: everything that goes through it comes late.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use crate::StartError;

/// Reads on their way at once.
const CHUNKS_MAX: usize = 256;

/// A way to a server on which every answer is this much later. Gone when dropped.
#[derive(Debug)]
pub struct SlowLink {
    address: SocketAddr,
    accepting: AbortHandle,
}

impl SlowLink {
    /// Makes a way to the server at `host:port`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn to(server: &str, delay: Duration) -> Result<Self, StartError> {
        let cannot = || StartError::io("listen on 127.0.0.1".to_owned());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(cannot())?;
        let address = listener.local_addr().map_err(cannot())?;
        let server = server.to_owned();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&server).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass(from_client, to_server, Duration::ZERO));
                tokio::spawn(pass(from_server, to_client, delay));
            }
        })
        .abort_handle();
        Ok(Self { address, accepting })
    }

    /// `host:port`, instead of the server's own.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Latency, not bandwidth: what came together goes on together.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (late, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    tokio::spawn(async move {
        while let Some((at, bytes)) = due.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if late
            .send((Instant::now() + delay, buffer[..count].to_vec()))
            .await
            .is_err()
        {
            return;
        }
    }
}
