//! The statements that write an event's row.
//!
//! An event is written twice as a rule: when it was accepted, and when its outcome is known. So a row that is there is read
//! first, and only those columns are written that change: SQLite rewrites every index whose column is mentioned.

use std::{borrow::Cow, collections::BTreeMap};

use posthaste_event::Millis;
use rusqlite::{CachedStatement, Connection, Row, params, types::Type};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    counts::Counts,
    row::{self, EventRow, HOUR_MS, StateRow},
};

const INSERT: &str = "
    INSERT INTO events (id, tenant, channel, created_at, correlation_id, priority, payload, metadata, ordering_key,
                        scheduled_at, expires_at, replay_of, policy, keep_from, keep_hour, step, state_at, status, provider,
                        state, timeline)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)
    ON CONFLICT (id) DO NOTHING";
const KNOWN: &str = "
    SELECT place, tenant, channel, created_at, correlation_id, priority, payload, metadata, ordering_key, scheduled_at,
           expires_at, replay_of, policy, keep_from, keep_hour, step, state_at, status, timeline
    FROM events WHERE id = ?";
const FIXED: &str = "
    UPDATE events SET
        tenant = ?2,
        channel = ?3,
        created_at = ?4,
        correlation_id = coalesce(?5, correlation_id),
        priority = coalesce(?6, priority),
        payload = coalesce(?7, payload),
        metadata = coalesce(?8, metadata),
        ordering_key = coalesce(?9, ordering_key),
        scheduled_at = coalesce(?10, scheduled_at),
        expires_at = coalesce(?11, expires_at),
        replay_of = coalesce(?12, replay_of),
        policy = coalesce(?13, policy)
    WHERE place = ?1";
const STATE: &str = "
    UPDATE events SET step = ?2, state_at = ?3, status = ?4, provider = ?5, state = ?6, timeline = ?7, keep_from = ?8
    WHERE place = ?1";
const TIMELINE: &str = "UPDATE events SET timeline = ?2, keep_from = ?3 WHERE place = ?1";
const KEEP: &str = "UPDATE events SET keep_hour = ?2 WHERE place = ?1";
const NOTE: &str = "INSERT OR REPLACE INTO notes (place, id, note) VALUES (?1, ?2, ?3)";

/// The statements of a transaction, prepared once, and what it adds to the counts.
pub(super) struct Statements<'db> {
    insert: CachedStatement<'db>,
    known: CachedStatement<'db>,
    fixed: CachedStatement<'db>,
    state: CachedStatement<'db>,
    timeline: CachedStatement<'db>,
    keep: CachedStatement<'db>,
    note: CachedStatement<'db>,
    counts: Counts,
    db: &'db Connection,
}

/// A row that is there, as far as a change has to look at it.
struct Known {
    place: i64,
    tenant: String,
    is_fixed_alike: bool,
    keep_from: Millis,
    keep_hour: i64,
    /// Whether the change's state is newer.
    is_newer: bool,
    status: String,
    /// With the change's entries; `None` when there are none.
    timeline: Option<String>,
    /// Whether they add anything.
    has_grown: bool,
}

impl<'db> Statements<'db> {
    pub fn prepare(db: &'db Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            insert: db.prepare_cached(INSERT)?,
            known: db.prepare_cached(KNOWN)?,
            fixed: db.prepare_cached(FIXED)?,
            state: db.prepare_cached(STATE)?,
            timeline: db.prepare_cached(TIMELINE)?,
            keep: db.prepare_cached(KEEP)?,
            note: db.prepare_cached(NOTE)?,
            counts: Counts::default(),
            db,
        })
    }

    /// Writes a change. At the end of the transaction call [`Self::count`].
    pub fn write(&mut self, row: &EventRow<'_>) -> rusqlite::Result<()> {
        // What carries the payload is the first that is heard of an event, as a rule.
        let place = if row.payload().is_some() {
            match self.insert(row)? {
                Some(place) => Some(place),
                None => self.update(row)?,
            }
        } else {
            match self.update(row)? {
                Some(place) => Some(place),
                None => self.insert(row)?,
            }
        };
        for (id, note) in &row.change.notes {
            self.note.execute(params![place, id, row::text(note)?])?;
        }
        Ok(())
    }

    /// Writes how the counts changed.
    pub fn count(self) -> rusqlite::Result<()> {
        self.counts.write(self.db)
    }

    /// `None`: the event is there already.
    fn insert(&mut self, row: &EventRow<'_>) -> rusqlite::Result<Option<i64>> {
        let state = row.state.as_ref();
        let status = state.map_or("", |state| state.status);
        let inserted = self.insert.execute(params![
            row.change.id,
            row.change.fixed.tenant,
            row.channel(),
            row.change.fixed.created_at,
            row.correlation_id(),
            row.priority(),
            row.payload(),
            row.metadata(),
            row.change.fixed.ordering_key,
            row.change.fixed.scheduled_at,
            row.change.fixed.expires_at,
            row.change.fixed.replay_of,
            row.policy(),
            row.keep_from,
            row.keep_from.div_euclid(HOUR_MS),
            state.map_or(-1, |state| i64::from(state.step)),
            state.map_or(0, |state| state.at),
            status,
            state.and_then(|state| state.provider),
            state.map(|state| &state.json),
            Some(&row.timeline).filter(|timeline| !timeline.is_empty()),
        ])?;
        if inserted == 0 {
            return Ok(None);
        }
        self.counts.more(&row.change.fixed.tenant, status);
        Ok(Some(self.db.last_insert_rowid()))
    }

    /// `None`: the event is not there.
    fn update(&mut self, row: &EventRow<'_>) -> rusqlite::Result<Option<i64>> {
        let mut found = self.known.query((&row.change.id,))?;
        let Some(known) = found.next()?.map(|known| Known::read(known, row)).transpose()? else {
            return Ok(None);
        };
        drop(found);
        let place = known.place;
        if !known.is_fixed_alike {
            self.fixed.execute(params![
                place,
                row.change.fixed.tenant,
                row.channel(),
                row.change.fixed.created_at,
                row.correlation_id(),
                row.priority(),
                row.payload(),
                row.metadata(),
                row.change.fixed.ordering_key,
                row.change.fixed.scheduled_at,
                row.change.fixed.expires_at,
                row.change.fixed.replay_of,
                row.policy(),
            ])?;
        }
        let keep_from = known.keep_from.max(row.keep_from);
        let keep_hour = keep_from.div_euclid(HOUR_MS);
        if keep_hour != known.keep_hour {
            self.keep.execute((place, keep_hour))?;
        }
        let newer = row.state.as_ref().filter(|_| known.is_newer);
        if let Some(state) = newer {
            let timeline = known.timeline.as_deref();
            self.set_state(place, state, timeline, keep_from)?;
        } else if known.has_grown || keep_from != known.keep_from {
            self.timeline.execute(params![place, known.timeline, keep_from])?;
        }
        let status = newer.map_or(known.status.as_str(), |state| state.status);
        if status != known.status || row.change.fixed.tenant != known.tenant {
            self.counts.less(&known.tenant, &known.status);
            self.counts.more(&row.change.fixed.tenant, status);
        }
        Ok(Some(place))
    }

    fn set_state(
        &mut self,
        place: i64,
        state: &StateRow<'_>,
        timeline: Option<&str>,
        keep_from: Millis,
    ) -> rusqlite::Result<()> {
        self.state.execute(params![
            place,
            state.step,
            state.at,
            state.status,
            state.provider,
            state.json,
            timeline,
            keep_from,
        ])?;
        Ok(())
    }
}

impl Known {
    fn read(known: &Row<'_>, row: &EventRow<'_>) -> rusqlite::Result<Self> {
        let rank: (i64, Millis, &str) = (known.get(15)?, known.get(16)?, known.get_ref(17)?.as_str()?);
        let is_newer =
            (row.state.as_ref()).is_some_and(|state| rank < (i64::from(state.step), state.at, state.status));
        let kept = known.get_ref(18)?.as_str_or_null()?;
        let (timeline, has_grown) = match (kept, row.timeline.as_str()) {
            (kept, "") => (kept.map(str::to_owned), false),
            (None, new) => (Some(new.to_owned()), true),
            (Some(kept), new) => match merged(kept, new).map_err(unreadable)? {
                Some(merged) => (Some(merged), true),
                None => (Some(kept.to_owned()), false),
            },
        };
        Ok(Self {
            place: known.get(0)?,
            tenant: known.get(1)?,
            is_fixed_alike: is_fixed_alike(known, row)?,
            keep_from: known.get(13)?,
            keep_hour: known.get(14)?,
            is_newer,
            status: rank.2.to_owned(),
            timeline,
            has_grown,
        })
    }
}

/// Whether writing what never changes of an event would change nothing.
fn is_fixed_alike(known: &Row<'_>, row: &EventRow<'_>) -> rusqlite::Result<bool> {
    let text = |column: usize, new: Option<&str>| {
        Ok::<_, rusqlite::Error>(new.is_none() || known.get_ref(column)?.as_str_or_null()? == new)
    };
    let time = |column: usize, new: Option<Millis>| {
        Ok::<_, rusqlite::Error>(new.is_none() || known.get_ref(column)?.as_i64_or_null()? == new)
    };
    Ok(text(1, Some(&row.change.fixed.tenant))?
        && text(2, Some(row.channel()))?
        && time(3, Some(row.change.fixed.created_at))?
        && text(4, row.correlation_id())?
        && text(5, row.priority())?
        && text(6, row.payload())?
        && text(7, row.metadata())?
        && text(8, row.change.fixed.ordering_key.as_deref())?
        && time(9, row.change.fixed.scheduled_at)?
        && time(10, row.change.fixed.expires_at)?
        && text(11, row.change.fixed.replay_of.as_deref())?
        && text(12, row.policy())?)
}

/// What decides which of two entries for the same step is kept; see [`crate::TimelineEntry::rank`].
#[derive(Deserialize, PartialEq, PartialOrd)]
struct Rank<'a> {
    at: Millis,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow)]
    by: Cow<'a, str>,
}

/// Two timelines in one: of each step the higher entry. `None`: the new one adds nothing.
fn merged(kept: &str, new: &str) -> serde_json::Result<Option<String>> {
    let mut all: BTreeMap<u32, &RawValue> = serde_json::from_str(kept)?;
    let new: BTreeMap<u32, &RawValue> = serde_json::from_str(new)?;
    let mut has_grown = false;
    for (step, entry) in new {
        let is_higher = match all.get(&step) {
            None => true,
            Some(kept) if kept.get() == entry.get() => false,
            Some(kept) => {
                serde_json::from_str::<Rank<'_>>(kept.get())? < serde_json::from_str::<Rank<'_>>(entry.get())?
            }
        };
        if is_higher {
            all.insert(step, entry);
            has_grown = true;
        }
    }
    has_grown.then(|| serde_json::to_string(&all)).transpose()
}

fn unreadable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(18, Type::Text, Box::new(error))
}
