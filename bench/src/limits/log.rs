//! SQLite with the settings of the embedded backend: write-ahead log, synchronous=FULL.

use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::AT_ONCE;
use crate::trouble::Trouble;

/// Appends rows in the order of their key.
pub async fn append(value: Vec<u8>, rows: u64) -> Result<Duration, Trouble> {
    in_transactions(
        "CREATE TABLE record (place INTEGER PRIMARY KEY, at INTEGER NOT NULL, key BLOB NOT NULL, value BLOB) STRICT",
        "INSERT INTO record VALUES (?1, 0, ?2, ?3)",
        value,
        rows,
    )
    .await
}

/// Puts documents by their id.
pub async fn put(value: Vec<u8>, rows: u64) -> Result<Duration, Trouble> {
    in_transactions(
        "CREATE TABLE event (number INTEGER, id TEXT PRIMARY KEY, body TEXT) STRICT, WITHOUT ROWID",
        "INSERT INTO event VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
        value,
        rows,
    )
    .await
}

async fn in_transactions(
    table: &'static str,
    statement: &'static str,
    value: Vec<u8>,
    rows: u64,
) -> Result<Duration, Trouble> {
    tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir().map_err(Trouble::io("make a folder"))?;
        write(&folder.path().join("bare.db"), table, statement, &value, rows)
            .map_err(Trouble::doing("write with SQLite"))
    })
    .await
    .map_err(Trouble::doing("write with SQLite"))?
}

fn write(
    file: &std::path::Path,
    table: &str,
    statement: &str,
    value: &[u8],
    rows: u64,
) -> rusqlite::Result<Duration> {
    let mut connection = Connection::open(file)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(table)?;
    // JSON may be text or bytes; the column says which it takes.
    let text = String::from_utf8_lossy(value).into_owned();
    let is_text = table.contains("TEXT");
    let begun = Instant::now();
    let mut row = 0;
    while row < rows {
        let end = rows.min(row + AT_ONCE as u64);
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(statement)?;
            while row < end {
                let id = format!("019aa2f0-0000-7000-8000-{row:012}");
                let number = row.cast_signed();
                if is_text {
                    insert.execute(params![number, id, text])?;
                } else {
                    insert.execute(params![number, id.as_bytes(), value])?;
                }
                row += 1;
            }
        }
        transaction.commit()?;
    }
    Ok(begun.elapsed())
}
