//! Merges the write-ahead log into the log file, on a thread of its own.
//!
//! SQLite would do it inside some append's commit, which then waits for two more fsyncs and a lot of copying. A passive
//! merge makes nobody wait, but under unbroken load it never catches up with the last write, and only a complete one lets
//! the write-ahead log start over: past a size limit the writer completes it itself, with little left to do.

use std::{
    mem::ManuallyDrop,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use super::file;

/// SQLite's page size, which this program leaves as it is, in bytes.
const PAGE_BYTES: u64 = 4_096;

/// The writer's handle of the merging thread.
#[derive(Debug)]
pub(super) struct Merger {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    too_large: Arc<AtomicBool>,
    wal_bytes: u64,
}

impl Merger {
    /// Starts the thread.
    pub(super) fn start(file: PathBuf, wal_kib: u64, wal_kib_max: u64) -> std::io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let too_large = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&too_large);
        let pages_max = wal_kib_max * 1_024 / PAGE_BYTES;
        let thread = std::thread::Builder::new()
            .name("log-merger".to_owned())
            .spawn(move || merge(&file, &woken, pages_max, &flag))?;
        Ok(Self {
            wake: Some(wake),
            thread: Some(thread),
            too_large,
            wal_bytes: wal_kib * 1_024,
        })
    }

    /// Asks for a merge if this much is worth it; answers whether it was asked for.
    pub(super) fn wants(&self, unmerged_bytes: u64) -> bool {
        if unmerged_bytes < self.wal_bytes {
            return false;
        }
        match self.wake.as_ref().map(|wake| wake.try_send(())) {
            Some(Ok(()) | Err(TrySendError::Full(()))) => true,
            Some(Err(TrySendError::Disconnected(()))) | None => false,
        }
    }

    /// Whether the write-ahead log has grown so large that the writer has to complete the merge. Asked once, answered once.
    pub(super) fn must_wait(&self) -> bool {
        self.too_large.load(Ordering::Relaxed) && self.too_large.swap(false, Ordering::Relaxed)
    }

    /// Ends the thread and waits for it.
    pub(super) fn close(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that merges the write-ahead log ended with a panic");
        }
    }
}

fn merge(file: &std::path::Path, woken: &Receiver<()>, pages_max: u64, too_large: &AtomicBool) {
    let mut connection = None;
    let mut merged_into = None;
    while woken.recv().is_ok() {
        if connection.is_none() {
            connection = file::open_merger(file).ok();
        }
        let Some(open) = &connection else {
            continue;
        };
        if merged_into.is_none() {
            // Never closed: who closes a file gives up all locks of the process on it, SQLite's among them.
            merged_into = std::fs::File::open(file).map(ManuallyDrop::new).ok();
        }
        // busy, pages in the write-ahead log, pages merged.
        let merged = open.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(1));
        match merged {
            Ok(pages) => {
                // SQLite leaves this out unless it has come to the end of the write-ahead log; whoever completes the merge would
                // have to wait for all of it at once.
                if let Some(Err(error)) = merged_into.as_ref().map(|file| file.sync_data()) {
                    tracing::debug!(%error, "cannot sync the merged log now");
                }
                if u64::try_from(pages).is_ok_and(|pages| pages >= pages_max) {
                    too_large.store(true, Ordering::Relaxed);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot merge the write-ahead log now");
                connection = None;
            }
        }
    }
}
