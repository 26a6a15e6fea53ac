//! What the log file says of its topics: to `topics check`, and to who looks for a record.

use posthaste_event::{Millis, Topic, topic::GROUPS};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{file::partition_id, log};
use crate::{BrokerError, Finding, GroupLag, Mark, Partition, Record, Severity};

/// Most records, and about most bytes, that a search reads in one go.
const SEARCH_RECORDS: u32 = 1_024;
const SEARCH_BYTES: usize = 1 << 20;

/// What there is to say of a topic that has `count` partitions where `configured` are wanted.
pub(super) fn existing(count: u32, configured: u32) -> (Severity, String) {
    if count == configured {
        return (Severity::Good, format!("has {count} partitions"));
    }
    let message = format!(
        "has {count} partitions and keeps them, though broker.partitions is {configured}: with another number the same \
         key would go to another partition"
    );
    (Severity::Warning, message)
}

fn find(connection: &Connection, name: &str) -> rusqlite::Result<Option<(i64, u32)>> {
    connection
        .prepare_cached("SELECT id, partitions FROM topic WHERE name = ?1")?
        .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// Compares what is there with what should be.
pub(super) fn check(
    connection: &Connection,
    prefix: &str,
    configured: u32,
) -> rusqlite::Result<Vec<Finding>> {
    let snapshot = connection.unchecked_transaction()?;
    let mut findings = Vec::new();
    for topic in Topic::ALL {
        let subject = topic.name(prefix);
        let (severity, message) = match find(&snapshot, &subject)? {
            Some((_, count)) => existing(count, configured),
            None => (
                Severity::Error,
                "is missing; `posthaste topics create` makes it".to_owned(),
            ),
        };
        findings.push(Finding {
            severity,
            subject,
            message,
        });
    }
    for (group, topics) in GROUPS {
        let subject = format!("{prefix}.{group}");
        for topic in *topics {
            let name = topic.name(prefix);
            let Some((id, count)) = find(&snapshot, &name)? else {
                continue;
            };
            let committed: u32 = snapshot
                .prepare_cached(
                    "SELECT count(*) FROM position WHERE member_group = ?1 AND partition >= ?2 AND partition < ?3",
                )?
                .query_row(params![subject, partition_id(id, 0), partition_id(id + 1, 0)], |row| {
                    row.get(0)
                })?;
            let (severity, message) = if committed == count {
                (Severity::Good, format!("has its positions on {name}"))
            } else {
                let message = format!(
                    "has positions in {committed} of the {count} partitions of {name}; `posthaste topics create` sets the rest"
                );
                (Severity::Error, message)
            };
            findings.push(Finding {
                severity,
                subject: subject.clone(),
                message,
            });
        }
    }
    Ok(findings)
}

/// How far a group is behind, partition by partition.
pub(super) fn lag(
    connection: &Connection,
    prefix: &str,
    group: &str,
    topics: &[Topic],
) -> rusqlite::Result<Result<Vec<GroupLag>, BrokerError>> {
    let snapshot = connection.unchecked_transaction()?;
    let group = format!("{prefix}.{group}");
    let mut lags = Vec::new();
    let mut missing = Vec::new();
    for &topic in topics {
        let name = topic.name(prefix);
        let Some((id, count)) = find(&snapshot, &name)? else {
            missing.push(name);
            continue;
        };
        for number in 0..count {
            let id = partition_id(id, number);
            let (end, committed) = snapshot
                .prepare_cached(
                    "SELECT next_offset, (SELECT committed FROM position WHERE member_group = ?2 AND partition = ?1)
                     FROM partition WHERE id = ?1",
                )?
                .query_row(params![id, group], |row| Ok((row.get(0)?, row.get(1)?)))?;
            lags.push(GroupLag {
                partition: Partition { topic, number },
                committed,
                end,
            });
        }
    }
    Ok(if missing.is_empty() {
        Ok(lags)
    } else {
        Err(BrokerError::MissingTopics(missing))
    })
}

/// The first record from a mark on that is the one, among those that are there now and were appended by `until`.
pub(super) fn search(
    connection: &Connection,
    prefix: &str,
    from: Mark,
    until: Millis,
    is_it: &dyn Fn(&Record) -> bool,
) -> rusqlite::Result<Option<Record>> {
    let Some((topic, _)) = find(connection, &from.partition.topic.name(prefix))? else {
        return Ok(None);
    };
    let id = partition_id(topic, from.partition.number);
    let end = connection
        .prepare_cached("SELECT next_offset FROM partition WHERE id = ?1")?
        .query_row([id], |row| row.get(0))?;
    let mut next = from.offset;
    loop {
        let (records, is_all) = log::read(
            connection,
            (from.partition, id),
            (next, end),
            SEARCH_RECORDS,
            SEARCH_BYTES,
        )?;
        for record in records {
            if record.appended_at > until {
                return Ok(None);
            }
            next = record.offset + 1;
            if is_it(&record) {
                return Ok(Some(record));
            }
        }
        if is_all {
            return Ok(None);
        }
    }
}
