//! `posthaste keys …`: the file with the keys of sealed payloads.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use posthaste_event::clock;
use posthaste_sealing::Ring;
use serde_json::json;

use crate::{
    cli::keys::{File, Keys},
    command::{print, print_json},
    failure::Failure,
};

/// Only who made it may read and write it.
const MODE: u32 = 0o600;
/// What others may do, in a mode.
const OTHERS: u32 = 0o077;

/// `posthaste keys …`.
pub fn keys(command: Keys) -> Result<(), Failure> {
    match command {
        Keys::Generate(options) => generate(&options),
        Keys::Rotate(options) => rotate(&options),
        Keys::Check(options) => check(&options),
    }
}

fn generate(options: &File) -> Result<(), Failure> {
    let path = &options.file;
    let ring = Ring::generate(clock::now()).map_err(Failure::runtime)?;
    write_new(path, &ring.secret_text()).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::Usage(format!(
            "{} is there already, and its keys may be in use; `posthaste keys rotate` adds a new one",
            path.display()
        )),
        _ => cannot("written", path, &error),
    })?;
    tell(options, &ring, "made")
}

fn rotate(options: &File) -> Result<(), Failure> {
    let path = &options.file;
    let mut ring = read(path)?;
    ring.rotate(clock::now()).map_err(Failure::runtime)?;
    // Links are followed: what they lead to is replaced, whole or not at all.
    let path = fs::canonicalize(path).map_err(|error| cannot("found", path, &error))?;
    let mut new = path.clone().into_os_string();
    new.push(".new");
    let new = PathBuf::from(new);
    write_new(&new, &ring.secret_text()).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::Runtime(format!(
            "{} is there: somebody else is rotating, or was cut off; if nobody is, delete it",
            new.display()
        )),
        _ => cannot("written", &new, &error),
    })?;
    if let Err(error) = fs::rename(&new, &path).and_then(|()| sync_folder(&path)) {
        // Should it not go, the next one says so.
        let _ = fs::remove_file(&new);
        return Err(cannot("replaced", &path, &error));
    }
    tell(options, &ring, "rotated")
}

fn check(options: &File) -> Result<(), Failure> {
    let ring = read(&options.file)?;
    let metadata = fs::metadata(&options.file).map_err(|error| cannot("looked at", &options.file, &error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & OTHERS != 0 && !options.json {
        eprintln!(
            "warning: others than its owner may use {} (mode {mode:o}); chmod 600 keeps them out",
            options.file.display()
        );
    }
    tell(options, &ring, "good")
}

fn read(path: &Path) -> Result<Ring, Failure> {
    let text = fs::read_to_string(path).map_err(|error| cannot("read", path, &error))?;
    Ring::parse(&text).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

fn tell(options: &File, ring: &Ring, what: &str) -> Result<(), Failure> {
    let file = options.file.display();
    let active = ring.active();
    let opening: Vec<&str> = ring.kids().filter(|kid| *kid != active).collect();
    if options.json {
        return print_json(&json!({"file": file.to_string(), "active": active, "opening": opening}));
    }
    let others = match opening.len() {
        0 => String::new(),
        _ => format!("; these open what they sealed: {}", opening.join(", ")),
    };
    print(&format!("{file} is {what}: {active} seals{others}\n"))
}

/// Writes a file that is not there yet, and makes it durable.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // What is cut off must not look like a file with keys.
        let _ = fs::remove_file(path);
    }
    written
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Usage(format!("{} cannot be {what}: {error}", path.display()))
}
