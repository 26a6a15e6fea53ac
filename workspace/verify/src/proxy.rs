//! A TCP connection that can be cut, held, and slowed down while it is used.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 1_024;
/// Bytes that are passed on at once.
const CHUNK: usize = 32 * 1_024;
/// How long the server may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A listener that cannot accept tries again after this time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Everything, at once.
    Open,
    /// Everything, so much later.
    Slow(Duration),
    /// Nothing; connections stay, and what was sent passes later.
    Stalled,
    /// Nothing; connections break, and new ones at once.
    Cut,
}

/// A way to a server. Gone when dropped, with its connections.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    passage: watch::Sender<Passage>,
    accepting: AbortHandle,
}

impl Link {
    /// Listens at `listen` (port 0 takes a free one) and passes on to the server at `host:port`.
    ///
    /// # Errors
    /// When that address cannot be listened at.
    pub async fn open(listen: &str, server: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (passage, watched) = watch::channel(Passage::Open);
        let accepting = tokio::spawn(accept(listener, server.to_owned(), watched)).abort_handle();
        Ok(Self {
            address,
            passage,
            accepting,
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this passes.
    pub fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, server: String, passage: watch::Receiver<Passage>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
            continue;
        }
        let Ok((client, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if *passage.borrow() == Passage::Cut {
            continue;
        }
        let (server, passage) = (server.clone(), passage.clone());
        connections.spawn(async move {
            let mut cut = passage.clone();
            tokio::select! {
                _ = connect(client, &server, &passage) => {}
                // Both streams are dropped with what they hold.
                _ = cut.wait_for(|passage| *passage == Passage::Cut) => {}
            }
        });
    }
}

async fn connect(client: TcpStream, server: &str, passage: &watch::Receiver<Passage>) -> io::Result<()> {
    let server = timeout(CONNECT_LIMIT, TcpStream::connect(server)).await??;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(
        pass(from_client, to_server, passage.clone()),
        pass(from_server, to_client, passage.clone()),
    )?;
    Ok(())
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut passage: watch::Receiver<Passage>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let bytes = from.read(&mut chunk).await?;
        let now = *passage.borrow_and_update();
        match now {
            Passage::Open | Passage::Cut => {}
            Passage::Slow(late) => sleep(late).await,
            Passage::Stalled => {
                if passage
                    .wait_for(|passage| *passage != Passage::Stalled)
                    .await
                    .is_err()
                {
                    return Ok(());
                }
            }
        }
        if bytes == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..bytes]).await?;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// A server that says everything back, and a way to it.
    async fn echo() -> (Link, AbortHandle) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        })
        .abort_handle();
        (Link::open("127.0.0.1:0", &server).await.unwrap(), serving)
    }

    async fn ask(stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(b"hello").await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"hello");
        Ok(())
    }

    #[tokio::test]
    async fn what_is_cut_breaks_and_what_is_opened_again_passes() {
        let (link, _serving) = echo().await;
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        ask(&mut stream).await.unwrap();
        link.set(Passage::Cut);
        ask(&mut stream).await.unwrap_err();
        let mut other = TcpStream::connect(link.address()).await.unwrap();
        ask(&mut other).await.unwrap_err();
        link.set(Passage::Open);
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        ask(&mut stream).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_stalled_passes_later_over_the_same_connection() {
        let (link, _serving) = echo().await;
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        ask(&mut stream).await.unwrap();
        link.set(Passage::Stalled);
        let held = timeout(Duration::from_millis(100), ask(&mut stream)).await;
        assert!(held.is_err());
        link.set(Passage::Open);
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        ask(&mut stream).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_slow_comes_late() {
        let (link, _serving) = echo().await;
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        link.set(Passage::Slow(Duration::from_millis(30)));
        let begun = Instant::now();
        ask(&mut stream).await.unwrap();
        // There, and back.
        assert!(begun.elapsed() >= Duration::from_millis(60));
    }
}
