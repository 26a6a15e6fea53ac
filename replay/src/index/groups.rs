//! Letters with the same error, counted.

use posthaste_event::Millis;
use rusqlite::{Row, params_from_iter};
use serde::Serialize;

use super::{Index, condition};
use crate::letter::Filter;

/// Groups of letters, the largest first.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Groups {
    /// As many of them as were asked for.
    pub groups: Vec<Group>,
    /// How many groups there are.
    pub groups_total: i64,
    /// How many letters there are in all of them.
    pub letters_total: i64,
}

/// Letters that died of the same error.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// What equal errors share; a filter's `error` takes it. Records that could not be read have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// What kind of error.
    pub kind: String,
    /// The provider's own code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What the newest of them says.
    pub reason: String,
    /// How many letters.
    pub count: i64,
    /// How many of them a replay can send.
    pub replayable: i64,
    /// When the first was given up.
    pub first: Millis,
    /// When the newest was.
    pub last: Millis,
    /// The channels of their events.
    pub channels: Vec<String>,
    /// The providers asked last.
    pub providers: Vec<String>,
    /// How many tenants are concerned.
    pub tenants: i64,
}

impl Index {
    /// The largest groups of the letters that the filter means.
    ///
    /// # Errors
    /// When the file fails.
    pub fn groups(&self, filter: &Filter, limit: usize) -> rusqlite::Result<Groups> {
        let (condition, mut values) = condition(filter);
        values.push(Box::new(i64::try_from(limit).unwrap_or(i64::MAX)));
        // The reason rides behind its time in the column of the newest: SQLite has no other way to ask for the oldest too.
        let mut statement = self.db.prepare_cached(&format!(
            "SELECT fingerprint, min(kind), min(code), max(printf('%020d', at) || message), count(*), count(event_id), \
             min(at), max(at), json_group_array(DISTINCT channel), json_group_array(DISTINCT provider), \
             count(DISTINCT tenant), count(*) OVER (), sum(count(*)) OVER () FROM letters WHERE 1{condition} \
             GROUP BY ifnull(fingerprint, kind) ORDER BY count(*) DESC, max(at) DESC LIMIT ?"
        ))?;
        let mut rows = statement.query(params_from_iter(values))?;
        let mut all = Groups {
            groups: Vec::new(),
            groups_total: 0,
            letters_total: 0,
        };
        while let Some(row) = rows.next()? {
            all.groups.push(group(row)?);
            (all.groups_total, all.letters_total) = (row.get(11)?, row.get(12)?);
        }
        Ok(all)
    }
}

fn group(row: &Row<'_>) -> rusqlite::Result<Group> {
    let reason: String = row.get(3)?;
    let names = |column: usize| -> rusqlite::Result<Vec<String>> {
        let json: String = row.get(column)?;
        let names: Vec<Option<String>> = serde_json::from_str(&json).unwrap_or_default();
        let mut names: Vec<String> = names.into_iter().flatten().collect();
        names.sort_unstable();
        Ok(names)
    };
    Ok(Group {
        fingerprint: row.get(0)?,
        kind: row.get(1)?,
        code: row.get(2)?,
        reason: reason.chars().skip(20).collect(),
        count: row.get(4)?,
        replayable: row.get(5)?,
        first: row.get(6)?,
        last: row.get(7)?,
        channels: names(8)?,
        providers: names(9)?,
        tenants: row.get(10)?,
    })
}
