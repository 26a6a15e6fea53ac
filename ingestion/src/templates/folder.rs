//! Definitions from a folder of files, for laptops and for those who keep them beside their code.
//!
//! `<folder>/<tenant>/templates/<code>.json` and `<folder>/<tenant>/configs/<code>.json`. All are read and checked before the
//! service starts, and put when the topic was read to its end; what is in force already is not written again. A file that goes away
//! withdraws nothing.

use std::{fs, io::Read as _, path::Path, time::Duration};

use posthaste_definitions::{Expected, Key, Kind};
use posthaste_event::{FieldError, nesting};
use serde_json::value::RawValue;
use tracing::{info, warn};

use super::{Catalog, checked, is_code};
use crate::{ProviderNames, Settings};

/// Most files.
const FILES_MAX: usize = 10_000;
/// Between two tries to put what the broker did not take.
const PAUSE: Duration = Duration::from_secs(2);

/// What stood in the folder.
#[derive(Debug, Default)]
pub struct Folder {
    definitions: Vec<(Key, Box<RawValue>)>,
}

impl Folder {
    /// Reads the folder that the settings name, if they name one.
    ///
    /// # Errors
    /// The first file that cannot be taken, and why.
    pub fn read(settings: &Settings, providers: &ProviderNames) -> Result<Self, String> {
        let mut folder = Self::default();
        if settings.definitions_folder.is_empty() {
            return Ok(folder);
        }
        let top = Path::new(&settings.definitions_folder);
        for (tenant, path) in entries(top)? {
            for (what, kind) in [("templates", Kind::Template), ("configs", Kind::Config)] {
                let path = path.join(what);
                if !path.is_dir() {
                    continue;
                }
                for (file, path) in entries(&path)? {
                    let Some(code) = file.strip_suffix(".json").filter(|code| is_code(code)) else {
                        return Err(format!(
                            "{}: is no definition; accepted: a code and .json",
                            path.display()
                        ));
                    };
                    if folder.definitions.len() >= FILES_MAX {
                        return Err(format!(
                            "{}: holds more than {FILES_MAX} definitions",
                            top.display()
                        ));
                    }
                    let of_file = |error: FieldError| format!("{}: {error}", path.display());
                    let key = Key::new(kind, &tenant, code).map_err(of_file)?;
                    let text = text_of(&path, settings)?;
                    let body =
                        checked(kind, &text, providers).map_err(|mut errors| of_file(errors.remove(0)))?;
                    folder.definitions.push((key, body));
                }
            }
        }
        Ok(folder)
    }

    /// Puts what is not in force yet. Whatever hinders it is waited out.
    pub async fn put(self, catalog: &Catalog) {
        if self.definitions.is_empty() {
            return;
        }
        catalog.defining.definitions.known().await;
        let count = self.definitions.len();
        let mut is_told = false;
        for (key, body) in self.definitions {
            loop {
                let written = catalog.defining.definitions.put(
                    &catalog.defining.broker,
                    &key,
                    body.clone(),
                    &Expected::Any,
                    &catalog.defining.instance,
                );
                let Err(error) = written.await else { break };
                if !error.is_retryable() {
                    warn!(%error, key = key.encode(), "a definition of the folder cannot be put: {error}");
                    break;
                }
                if !std::mem::replace(&mut is_told, true) {
                    warn!(%error, "definitions of the folder cannot be put; trying again: {error}");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        info!(count, "{count} definitions of the folder are in force");
    }
}

/// What stands in a folder, by name; hidden files are passed over.
fn entries(folder: &Path) -> Result<Vec<(String, std::path::PathBuf)>, String> {
    let of_folder = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(of_folder)? {
        let entry = entry.map_err(of_folder)?;
        let name = entry
            .file_name()
            .into_string()
            .map_err(|name| format!("{}: {name:?} is no name", folder.display()))?;
        if !name.starts_with('.') {
            entries.push((name, entry.path()));
        }
        if entries.len() > FILES_MAX {
            return Err(format!("{}: holds more than {FILES_MAX} files", folder.display()));
        }
    }
    entries.sort();
    Ok(entries)
}

fn text_of(path: &Path, settings: &Settings) -> Result<String, String> {
    let of_file = |error: std::io::Error| format!("{}: {error}", path.display());
    let bytes_max = settings.definition_bytes_max;
    let mut text = String::new();
    fs::File::open(path)
        .map_err(of_file)?
        .take(bytes_max as u64 + 1)
        .read_to_string(&mut text)
        .map_err(of_file)?;
    if text.len() > bytes_max || nesting::is_deeper(&text, settings.nesting_max) {
        return Err(format!(
            "{}: is larger than {bytes_max} bytes or nested deeper than {} levels",
            path.display(),
            settings.nesting_max
        ));
    }
    Ok(text)
}
