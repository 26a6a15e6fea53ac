//! `posthaste keys …`: the file with the keys of sealed payloads.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use posthaste_event::clock;
use posthaste_sealing::Ring;
use serde_json::{Value as Json, json};

use crate::{
    cli::keys::{Check, File, Keys},
    client::{address, ask, client, list_of},
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

fn check(asked: &Check) -> Result<(), Failure> {
    let options = &asked.file;
    let ring = read(&options.file)?;
    let metadata = fs::metadata(&options.file).map_err(|error| cannot("looked at", &options.file, &error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & OTHERS != 0 && !options.json {
        eprintln!(
            "warning: others than its owner may use {} (mode {mode:o}); chmod 600 keeps them out",
            options.file.display()
        );
    }
    let Some(url) = &asked.url else {
        return tell(options, &ring, "good");
    };
    let found = ask(client()?.get(address(url, "encryption/keys")?))?;
    if options.json {
        let mut told = told(options, &ring);
        told["inUse"] = found;
        return print_json(&told);
    }
    tell(options, &ring, "good")?;
    print(&needs(&ring, &found))
}

/// What may be sealed, as the answer names it and as people do, and how it comes to another key.
const KINDS: [(&str, &str, &str); 4] = [
    ("waiting", "events that wait", "they end by themselves"),
    ("deadLettered", "dead letters", "they can be replayed"),
    ("schedules", "schedules", "PUT each again"),
    (
        "listPages",
        "pages of stored lists",
        "the intake seals them anew within two hours",
    ),
];

/// What each key is needed for, as far as that was looked at.
fn needs(ring: &Ring, found: &Json) -> String {
    let mut lines = String::new();
    if found["active"].as_str() != Some(ring.active()) {
        lines += "the intake there does not seal with this file's key\n";
    }
    for kid in opening(ring) {
        let of_kind = |(name, words, how): &(&str, &str, &str)| {
            let count = found[name]["keys"][kid].as_u64().filter(|count| *count > 0)?;
            Some(format!("{count} {words} ({how})"))
        };
        let needed: Vec<String> = KINDS.iter().filter_map(of_kind).collect();
        lines += &match needed.is_empty() {
            true => format!("{kid}: nothing was found that needs it\n"),
            false => format!("{kid} is needed: {}\n", needed.join(", ")),
        };
    }
    for kid in strangers(ring, found) {
        lines += &format!("{kid} is needed and not in this file\n");
    }
    let looked = KINDS.map(|(name, words, _)| {
        let found = &found[name];
        let problem = found["problem"].as_str();
        let problem = problem.map_or_else(String::new, |problem| format!(", not all: {problem}"));
        format!("{} {words}{problem}", found["lookedAt"])
    });
    lines += &format!("looked at: {}\n", looked.join("; "));
    for words in list_of(found, "notLookedAt").iter().filter_map(Json::as_str) {
        lines += &format!("not looked at: {words}\n");
    }
    lines
}

/// Keys that something is sealed with and that the file has not.
fn strangers<'a>(ring: &Ring, found: &'a Json) -> BTreeSet<&'a str> {
    let kinds = KINDS
        .iter()
        .filter_map(|(name, ..)| found[name]["keys"].as_object());
    let kids = kinds.flat_map(|keys| keys.keys().map(String::as_str));
    kids.filter(|kid| ring.kids().all(|known| known != *kid))
        .collect()
}

fn read(path: &Path) -> Result<Ring, Failure> {
    let text = fs::read_to_string(path).map_err(|error| cannot("read", path, &error))?;
    Ring::parse(&text).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

/// What a file says, but for its keys.
fn told(options: &File, ring: &Ring) -> Json {
    json!({"file": options.file.display().to_string(), "active": ring.active(), "opening": opening(ring)})
}

fn opening(ring: &Ring) -> Vec<&str> {
    ring.kids().filter(|kid| *kid != ring.active()).collect()
}

fn tell(options: &File, ring: &Ring, what: &str) -> Result<(), Failure> {
    if options.json {
        return print_json(&told(options, ring));
    }
    let (file, active, opening) = (options.file.display(), ring.active(), opening(ring));
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
