//! The letters that a replay means: chosen once when it is asked for, and found again until all of them went out.

use std::collections::{BTreeMap, HashSet};

use posthaste_broker::Assignment;
use posthaste_event::{
    Channel, Topic,
    control::{LetterPlace, Replay, ReplayShare},
};
use rusqlite::{Row, ToSql, params_from_iter};

use super::{Claim, Index, condition};
use crate::letter::{Filter, Place};

/// What a request means at this moment.
#[derive(Debug, Default)]
pub struct Chosen {
    /// The first and the last letter.
    pub span: Option<(LetterPlace, LetterPlace)>,
    /// What is meant of each partition that is ours.
    pub shares: Vec<ReplayShare>,
    /// How many letters.
    pub count: u64,
    /// The first of them.
    pub sample: Vec<Place>,
    /// Where they would go.
    pub routes: BTreeMap<Route, u64>,
    /// All of them, where they were to be claimed.
    pub claims: Vec<Claim>,
}

/// Where a letter would go: what decides it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// The topic of its lane.
    pub topic: Topic,
    /// Its channel.
    pub channel: Channel,
    /// The provider that the client insists on.
    pub pinned: Option<String>,
}

/// An open letter.
struct Candidate {
    place: LetterPlace,
    assignment: Assignment,
    route: Option<Route>,
}

impl Candidate {
    const fn claim(&self) -> Claim {
        Claim {
            place: (self.place.partition, self.place.offset),
            at: self.place.at,
            assignment: self.assignment,
        }
    }
}

impl Index {
    /// Chooses up to `limit` letters that the filter means, oldest first, after skipping `skip` of them. Those that another
    /// request is sending out are not there any more. With `claim` they are claimed, all at once.
    ///
    /// # Errors
    /// When the file fails; then nothing is claimed.
    pub fn choose(
        &mut self,
        filter: &Filter,
        skip: usize,
        limit: usize,
        sample: usize,
        claim: bool,
    ) -> rusqlite::Result<Chosen> {
        let mut skipped = 0;
        let mut chosen = Chosen::default();
        let mut letters: BTreeMap<u32, u64> = BTreeMap::new();
        let (condition, values) = meant(filter);
        self.walk(&condition, values, |candidate| {
            let place = (candidate.place.partition, candidate.place.offset);
            if self.claimed.contains_key(&place) {
                return true;
            }
            if skipped < skip {
                skipped += 1;
                return true;
            }
            if chosen.count == limit as u64 {
                return false;
            }
            let first = chosen.span.map_or(candidate.place, |(first, _)| first);
            chosen.span = Some((first, candidate.place));
            chosen.count += 1;
            *letters.entry(place.0).or_default() += 1;
            if chosen.sample.len() < sample {
                chosen.sample.push(place);
            }
            if claim {
                chosen.claims.push(candidate.claim());
            }
            if let Some(route) = candidate.route {
                *chosen.routes.entry(route).or_default() += 1;
            }
            true
        })?;
        chosen.shares = letters
            .into_iter()
            .filter_map(|(partition, letters)| {
                let below = self.owned.get(&partition)?.next;
                Some(ReplayShare {
                    partition,
                    below,
                    letters,
                })
            })
            .collect();
        self.claim(&chosen.claims);
        Ok(chosen)
    }

    /// How many letters of a replay are open, in each partition of it that is ours and read to its end; claimed ones too.
    ///
    /// # Errors
    /// When the file fails.
    pub fn left_of(
        &self,
        replay: &Replay,
        skipped: &HashSet<Place>,
    ) -> rusqlite::Result<BTreeMap<u32, (Assignment, u64)>> {
        let mut left: BTreeMap<u32, (Assignment, u64)> = replay
            .shares
            .iter()
            .filter_map(|share| {
                let owned = self.owned.get(&share.partition).filter(|owned| owned.at_end)?;
                Some((share.partition, (owned.assignment, 0)))
            })
            .collect();
        self.walk_of(replay, None, |candidate| {
            let claim = candidate.claim();
            if let Some((_, count)) = left.get_mut(&claim.place.0)
                && !skipped.contains(&claim.place)
            {
                *count += 1;
            }
            true
        })?;
        Ok(left)
    }

    /// How many letters fit a filter that does not mean them, since they are in doubt.
    ///
    /// # Errors
    /// When the file fails.
    pub fn left_in_doubt(&self, filter: &Filter) -> rusqlite::Result<u64> {
        if means_doubtful(filter) {
            return Ok(0);
        }
        let (sql, values) = condition(filter);
        let mut statement = self.db.prepare_cached(&format!(
            "SELECT partition, count(*) FROM letters WHERE in_doubt AND event_id IS NOT NULL{sql} GROUP BY partition"
        ))?;
        let mut rows = statement.query(params_from_iter(values))?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            if self.is_read(row.get(0)?) {
                count += row.get::<_, i64>(1)?.unsigned_abs();
            }
        }
        Ok(count)
    }

    /// Whether a letter is meant by both.
    ///
    /// # Errors
    /// When the file fails.
    pub fn overlap(
        &self,
        filter: &Filter,
        span: Option<(LetterPlace, LetterPlace)>,
        replay: &Replay,
    ) -> rusqlite::Result<bool> {
        let mut found = false;
        let (Some(span), Some(of_replay)) = (span, replay.span) else {
            return Ok(false);
        };
        let (mut sql, mut values) = within(filter, span);
        let (more, further) = within(&replay.filter, of_replay);
        sql.push_str(&more);
        values.extend(further);
        self.walk(&sql, values, |candidate| {
            found = is_below(replay, candidate.place);
            !found
        })?;
        Ok(found)
    }

    /// Whether a partition is ours and has been read to its end.
    pub fn is_read(&self, partition: u32) -> bool {
        self.owned.get(&partition).is_some_and(|owned| owned.at_end)
    }

    fn walk_of(
        &self,
        replay: &Replay,
        after: Option<LetterPlace>,
        mut visit: impl FnMut(Candidate) -> bool,
    ) -> rusqlite::Result<()> {
        let Some((sql, values)) = meant_by(replay, after) else {
            return Ok(());
        };
        self.walk(&sql, values, |candidate| {
            !is_below(replay, candidate.place) || visit(candidate)
        })
    }

    /// Visits the letters of a replay from `after` on, oldest first, each as [`super::stored`] reads it, until told to stop.
    pub(super) fn walk_records_of(
        &self,
        replay: &Replay,
        after: Option<LetterPlace>,
        mut visit: impl FnMut(Claim, &Row<'_>) -> rusqlite::Result<bool>,
    ) -> rusqlite::Result<()> {
        let Some((sql, values)) = meant_by(replay, after) else {
            return Ok(());
        };
        self.rows("key, value", &sql, values, |place, assignment, row| {
            let candidate = Candidate {
                place,
                assignment,
                route: None,
            };
            Ok(!is_below(replay, place) || visit(candidate.claim(), row)?)
        })
    }

    /// Visits the letters that can go out, oldest first, until told to stop.
    fn walk(
        &self,
        condition: &str,
        values: Vec<Box<dyn ToSql>>,
        mut visit: impl FnMut(Candidate) -> bool,
    ) -> rusqlite::Result<()> {
        self.rows(
            "channel, critical, pinned",
            condition,
            values,
            |place, assignment, row| {
                let channel = row.get_ref(3)?.as_str().ok().and_then(|name| name.parse().ok());
                let topic = if row.get(4)? {
                    Topic::RetryCritical
                } else {
                    Topic::Retry
                };
                let pinned = row.get(5)?;
                let route = channel.map(|channel| Route {
                    topic,
                    channel,
                    pinned,
                });
                Ok(visit(Candidate {
                    place,
                    assignment,
                    route,
                }))
            },
        )
    }

    /// Visits the letters that can go out, oldest first, with their place and these columns behind it, until told to stop.
    fn rows(
        &self,
        columns: &str,
        condition: &str,
        values: Vec<Box<dyn ToSql>>,
        mut visit: impl FnMut(LetterPlace, Assignment, &Row<'_>) -> rusqlite::Result<bool>,
    ) -> rusqlite::Result<()> {
        let mut statement = self.db.prepare_cached(&format!(
            "SELECT partition, place, at, {columns} FROM letters \
             WHERE event_id IS NOT NULL{condition} ORDER BY at, partition, place"
        ))?;
        let mut rows = statement.query(params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            let place = LetterPlace {
                at: row.get(2)?,
                partition: row.get(0)?,
                offset: row.get(1)?,
            };
            // A partition that has not been read to its end may hold the mark that closes this letter.
            let Some(owned) = self.owned.get(&place.partition).filter(|owned| owned.at_end) else {
                continue;
            };
            if !visit(place, owned.assignment, row)? {
                break;
            }
        }
        Ok(())
    }
}

/// Whether a filter means letters in doubt too. Who names events or an error knows what is sent out again.
const fn means_doubtful(filter: &Filter) -> bool {
    filter.ids.is_some() || filter.error.is_some()
}

/// The letters that go out for a filter. Those in doubt must not go out twice and may have gone out: no replay of "all" takes
/// them along.
fn meant(filter: &Filter) -> (String, Vec<Box<dyn ToSql>>) {
    let (mut sql, values) = condition(filter);
    if !means_doubtful(filter) {
        sql.push_str(" AND NOT in_doubt");
    }
    (sql, values)
}

fn is_below(replay: &Replay, place: LetterPlace) -> bool {
    replay
        .shares
        .iter()
        .any(|share| share.partition == place.partition && place.offset < share.below)
}

/// The letters of a replay from `after` on; none for one that means nothing.
fn meant_by(replay: &Replay, after: Option<LetterPlace>) -> Option<(String, Vec<Box<dyn ToSql>>)> {
    let (first, last) = replay.span?;
    Some(within(&replay.filter, (after.unwrap_or(first).max(first), last)))
}

/// What the filter means between two letters.
fn within(filter: &Filter, (first, last): (LetterPlace, LetterPlace)) -> (String, Vec<Box<dyn ToSql>>) {
    let (mut sql, mut values) = meant(filter);
    for (text, place) in [(">=", first), ("<=", last)] {
        sql.push_str(&format!(" AND (at, partition, place) {text} (?, ?, ?)"));
        values.push(Box::new(place.at));
        values.push(Box::new(place.partition));
        values.push(Box::new(place.offset));
    }
    (sql, values)
}
