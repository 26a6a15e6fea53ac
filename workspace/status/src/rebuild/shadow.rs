//! Where the shadow is: a scratch store in a folder of its own, on disk because the topics need not fit into memory.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use posthaste_store::{EmbeddedStore, Settings, Store};
use tokio::task::spawn_blocking;
use tracing::warn;
use uuid::Uuid;

use super::RebuildError;

/// The folder's name in a data folder.
const NAME: &str = "rebuild";

/// Nobody but the rebuild waits for the shadow.
const TIMEOUT_MS: u64 = 120_000;

/// The shadow. To be removed in the end; what a crash leaves in a data folder is removed by the next one.
pub(super) struct Shadow {
    store: Arc<EmbeddedStore>,
    folder: PathBuf,
}

impl Shadow {
    /// An empty one.
    pub async fn open(folder: Option<&Path>, settings: &Settings) -> Result<Self, RebuildError> {
        let settings = Settings {
            read_timeout_ms: TIMEOUT_MS,
            write_timeout_ms: TIMEOUT_MS,
            ..settings.clone()
        };
        let folder = match folder {
            Some(folder) => folder.join(NAME),
            None => std::env::temp_dir().join(format!("posthaste-{NAME}-{}", Uuid::new_v4().simple())),
        };
        let opened = spawn_blocking(move || {
            // Payloads are nobody else's business. A folder of this name in a data folder is what a crash left.
            match fs::DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(format!("{}: {error}", folder.display()));
                }
                _ => {}
            }
            let store = EmbeddedStore::scratch(&folder, &settings).map_err(|error| error.to_string())?;
            Ok(Self {
                store: Arc::new(store),
                folder,
            })
        });
        opened
            .await
            .map_err(|error| error.to_string())
            .and_then(|opened| opened)
            .map_err(RebuildError::Shadow)
    }

    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Closes and deletes it.
    pub async fn remove(self) {
        let removed = spawn_blocking(move || {
            drop(self.store);
            (fs::remove_dir_all(&self.folder), self.folder)
        });
        if let Ok((Err(error), folder)) = removed.await {
            warn!(
                %error,
                "the rebuild's scratch files in {} stay until the next one: {error}",
                folder.display()
            );
        }
    }
}
