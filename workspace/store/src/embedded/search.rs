//! Listings: pages of events, newest first.

use std::time::{Duration, Instant};

use posthaste_event::Millis;
use rusqlite::{Connection, Row, ToSql};

use super::reader::{COLUMNS, add_notes, document};
use crate::{Document, PAGE_DOCUMENTS_MAX, Page, Query, contract::PAGE_BYTES};

/// How far a look-up may go through events that are not meant before its page ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    pub(super) events_max: usize,
    pub(super) time: Duration,
}

impl Reach {
    /// What a look-up may do that has this long to answer.
    pub(super) fn within(timeout: Duration) -> Self {
        Self {
            events_max: 100_000,
            time: timeout / 4,
        }
    }

    fn is_passed(self, looked_at: usize, since: Instant) -> bool {
        looked_at >= self.events_max || since.elapsed() >= self.time
    }
}

/// Goes through the events by the index that one of the conditions has, and looks up those that meet the others too. A condition that
/// few events meet and that has no index of its own would have it go through all there are, so a page may end before anything was
/// found.
///
/// Whoever asks may see only what is meant. So where a page ends names an event of its own, or else the end of a millisecond.
pub(super) fn search(db: &Connection, query: &Query, reach: Reach) -> rusqlite::Result<Page> {
    let (sql, values) = selection(query);
    let limit = query.limit.clamp(1, PAGE_DOCUMENTS_MAX) as usize;
    let mut whole = db.prepare_cached(&format!("SELECT {COLUMNS} FROM events WHERE place = ?"))?;
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(rusqlite::params_from_iter(values))?;
    let mut events: Vec<Document> = Vec::new();
    let mut next = None;
    let (since, mut looked_at, mut bytes, mut last_at) = (Instant::now(), 0, 0, None);
    while let Some(row) = rows.next()? {
        let (place, created_at, is_meant): (i64, Millis, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if let Some(at) = last_at.filter(|at| *at != created_at)
            && reach.is_passed(looked_at, since)
        {
            // No id comes before this one, so all of that millisecond is behind.
            next = Some((at, String::new()));
            break;
        }
        looked_at += 1;
        last_at = Some(created_at);
        if !is_meant {
            continue;
        }
        if events.len() == limit || bytes >= PAGE_BYTES {
            next = events.last().map(|last| (last.fixed.created_at, last.id.clone()));
            break;
        }
        let (mut document, size) = whole.query_row((place,), |row| Ok((document(row)?, weight(row)?)))?;
        bytes += size;
        add_notes(db, place, &mut document)?;
        events.push(document);
    }
    Ok(Page { events, next })
}

/// All events of the range in the order of a listing, each with whether it is meant. SQLite goes by the leading condition's index.
fn selection(query: &Query) -> (String, Vec<Box<dyn ToSql>>) {
    let mut equal: Vec<(&str, Box<dyn ToSql>)> = Vec::new();
    if let Some(correlation) = &query.correlation_id {
        equal.push(("correlation_id", Box::new(correlation.clone())));
    }
    if let Some(provider) = &query.provider {
        equal.push(("provider", Box::new(provider.clone())));
    }
    if let Some(status) = query.status {
        equal.push(("status", Box::new(status.as_str())));
    }
    if let Some(tenant) = &query.tenant {
        equal.push(("tenant", Box::new(tenant.clone())));
    }
    let leading = (!equal.is_empty()).then(|| equal.remove(0));
    if let Some(channel) = query.channel {
        equal.push(("channel", Box::new(channel.as_str())));
    }
    let mut sql = "SELECT place, created_at, 1".to_owned();
    let mut values: Vec<Box<dyn ToSql>> = Vec::new();
    for (column, value) in equal {
        // A provider may be missing, and an event of which nothing is known but notes has none.
        sql.extend([" AND ", column, " IS ?"]);
        values.push(value);
    }
    sql.push_str(" FROM events WHERE 1");
    let mut also = |condition: &str, value: Box<dyn ToSql>| {
        sql.push_str(" AND ");
        sql.push_str(condition);
        values.push(value);
    };
    if let Some((column, value)) = leading {
        also(&format!("{column} = ?"), value);
    }
    if let Some(from) = query.created_from {
        also("created_at >= ?", Box::new(from));
    }
    if let Some(until) = query.created_until {
        also("created_at < ?", Box::new(until));
    }
    if let Some((created_at, id)) = &query.after {
        also("(created_at, id) < (?", Box::new(*created_at));
        sql.push_str(", ?)");
        values.push(Box::new(id.clone()));
    }
    sql.push_str(" ORDER BY created_at DESC, id DESC");
    (sql, values)
}

/// Bytes of what may be large in an event.
fn weight(row: &Row<'_>) -> rusqlite::Result<usize> {
    let mut bytes = 0;
    for column in ["payload", "metadata"] {
        bytes += row.get_ref(column)?.as_bytes_or_null()?.map_or(0, <[u8]>::len);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use posthaste_event::{Channel, Status};

    use super::{super::schema, *};

    fn insert(db: &Connection, number: i64, channel: &str, status: &str) {
        db.execute(
            "INSERT INTO events (id, tenant, channel, created_at, keep_from, keep_hour, status)
             VALUES (?1, 'default', ?2, ?3, 0, 0, ?4)",
            (format!("event-{number:03}"), channel, number / 3, status),
        )
        .unwrap();
    }

    /// What all pages have, and how many there were.
    fn walk(db: &Connection, mut query: Query, events_max: usize) -> (Vec<String>, usize) {
        let reach = Reach {
            events_max,
            time: Duration::MAX,
        };
        let (mut found, mut pages) = (Vec::new(), 0);
        loop {
            let page = search(db, &query, reach).unwrap();
            pages += 1;
            found.extend(page.events.into_iter().map(|event| event.id));
            if let Some((_, id)) = &page.next {
                let is_shown = id.is_empty() || found.last() == Some(id);
                assert!(is_shown, "{id} is not for who asks");
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => return (found, pages),
            }
        }
    }

    #[test]
    fn what_is_rare_is_looked_for_in_several_pages_and_found_once() {
        let dir = tempfile::tempdir().unwrap();
        let db = schema::open(&dir.path().join("status.db"), schema::Durability::None).unwrap();
        for number in 0..100 {
            let is_rare = [2, 50, 51].contains(&number);
            let (channel, status) = if is_rare {
                ("push", "")
            } else {
                ("sms", Status::Sent.as_str())
            };
            insert(&db, number, channel, status);
        }
        let rare = Query {
            channel: Some(Channel::Push),
            limit: 50,
            ..Query::default()
        };
        let all_rare = ["event-051", "event-050", "event-002"].map(str::to_owned);
        assert_eq!(walk(&db, rare.clone(), 1_000), (all_rare.to_vec(), 1));
        for reach in [1, 2, 10, 90] {
            let (found, pages) = walk(&db, rare.clone(), reach);
            assert_eq!(found, all_rare, "{reach} at a time");
            assert!(pages > 1, "{pages}");
        }
        let both = Query {
            status: Some(Status::Sent),
            ..rare.clone()
        };
        assert_eq!(walk(&db, both, 40), (Vec::new(), 3));
        // Pages that end since they are full.
        let one_by_one = Query { limit: 1, ..rare };
        for reach in [1, 10, 1_000] {
            assert_eq!(
                walk(&db, one_by_one.clone(), reach).0,
                all_rare,
                "{reach} at a time"
            );
        }
    }

    #[test]
    fn one_condition_s_index_is_gone_by_and_the_order_comes_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let db = schema::open(&dir.path().join("status.db"), schema::Durability::None).unwrap();
        let plan = |query: Query| -> String {
            let (sql, values) = selection(&query);
            let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let steps = statement.query_map(rusqlite::params_from_iter(values), |row| {
                row.get::<_, String>("detail")
            });
            steps.unwrap().map(Result::unwrap).collect::<Vec<_>>().join("; ")
        };
        let all = Query {
            status: Some(Status::Sent),
            tenant: Some("acme".to_owned()),
            channel: Some(Channel::Push),
            created_from: Some(1),
            after: Some((2, "event".to_owned())),
            ..Query::default()
        };
        let of_channel = Query {
            channel: Some(Channel::Push),
            ..Query::default()
        };
        for (query, index) in [
            (Query::default(), "events_by_time"),
            (of_channel, "events_by_time"),
            (all.clone(), "events_by_status"),
            (
                Query {
                    provider: Some("twilio".to_owned()),
                    ..all.clone()
                },
                "events_by_provider",
            ),
            (
                Query {
                    correlation_id: Some("order-7".to_owned()),
                    ..all.clone()
                },
                "events_by_correlation",
            ),
            (Query { status: None, ..all }, "events_by_tenant"),
        ] {
            let plan = plan(query);
            let used = plan.split([' ', ';']).find(|word| word.starts_with("events_by"));
            assert_eq!(used, Some(index), "{plan}");
            assert!(!plan.contains("FOR ORDER BY"), "{index}: {plan}");
        }
    }
}
