//! Names to addresses. Whoever owns a name decides what is answered, when, and whether at all: so lookups are bounded.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

/// Lookups under way at once. Each holds one of the 512 threads that Tokio has for what blocks, also when nobody waits for it any
/// more; others need those, too.
const AT_ONCE_MAX: usize = 64;

/// The name could not be resolved.
#[derive(Debug)]
pub(crate) struct Unresolved(pub(crate) io::Error);

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Unresolved {}

/// What finds the addresses of a name. It may block.
type Find = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Finds addresses of names.
#[derive(Clone)]
pub(crate) struct Lookup {
    find: Arc<Find>,
    places: Arc<Semaphore>,
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").finish_non_exhaustive()
    }
}

impl Default for Lookup {
    /// By the system's resolver.
    fn default() -> Self {
        Self::new(|name| (name, 0).to_socket_addrs().map(Iterator::collect))
    }
}

impl Lookup {
    pub(crate) fn new(find: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self {
            find: Arc::new(find),
            places: Arc::new(Semaphore::new(AT_ONCE_MAX)),
        }
    }

    /// The addresses of a name, if they come in time.
    pub(crate) async fn addresses(&self, name: &str, limit: Duration) -> Result<Vec<SocketAddr>, Unresolved> {
        let looking = async {
            let place = Arc::clone(&self.places).acquire_owned().await;
            let (find, name) = (Arc::clone(&self.find), name.to_owned());
            spawn_blocking(move || {
                // Given back when the lookup is over, which may be long after the limit.
                let _place = place;
                find(&name)
            })
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the lookup was interrupted")))
        };
        let found = timeout(limit, looking).await.unwrap_or_else(|_| {
            let problem = "the name's servers did not answer in time";
            Err(io::Error::new(io::ErrorKind::TimedOut, problem))
        });
        found.map_err(Unresolved)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;

    #[tokio::test]
    async fn names_that_are_never_answered_hold_a_bounded_number_of_threads() {
        let (release, held) = mpsc::channel::<()>();
        let held = std::sync::Mutex::new(held);
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        let lookup = Lookup::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            let _closed = held.lock().unwrap().recv();
            Ok(Vec::new())
        });
        let limit = Duration::from_millis(50);
        let lookups = (0..4 * AT_ONCE_MAX).map(|_| lookup.addresses("slow.example", limit));
        for found in futures_util::future::join_all(lookups).await {
            assert_eq!(found.unwrap_err().0.kind(), io::ErrorKind::TimedOut);
        }
        assert!(begun.load(Ordering::SeqCst) <= AT_ONCE_MAX);
        drop(release);
        // Those that were given up have made room for others.
        lookup
            .addresses("quick.example", Duration::from_secs(20))
            .await
            .unwrap();
    }
}
