//! How many events there are of each tenant and status: kept with every change, since counting them takes longer the more
//! there are.

use std::collections::HashMap;

use rusqlite::Connection;

/// What a transaction adds to the counts.
#[derive(Default)]
pub(super) struct Counts(HashMap<String, HashMap<&'static str, i64>>);

impl Counts {
    /// One more event of this status. One of which only notes are known has none, and is not counted.
    pub fn more(&mut self, tenant: &str, status: &str) {
        self.add(tenant, status, 1);
    }

    /// One less.
    pub fn less(&mut self, tenant: &str, status: &str) {
        self.add(tenant, status, -1);
    }

    fn add(&mut self, tenant: &str, status: &str, change: i64) {
        let Ok(status) = status.parse::<posthaste_event::Status>() else {
            return;
        };
        if !self.0.contains_key(tenant) {
            self.0.insert(tenant.to_owned(), HashMap::new());
        }
        if let Some(counts) = self.0.get_mut(tenant) {
            *counts.entry(status.as_str()).or_default() += change;
        }
    }

    /// Writes them; part of the transaction under way.
    pub fn write(self, db: &Connection) -> rusqlite::Result<()> {
        let mut add = db.prepare_cached(
            "INSERT INTO counts (tenant, status, events) VALUES (?, ?, ?)
             ON CONFLICT DO UPDATE SET events = events + excluded.events",
        )?;
        for (tenant, counts) in &self.0 {
            for (status, change) in counts.iter().filter(|(_, change)| **change != 0) {
                add.execute((tenant, status, change))?;
            }
        }
        Ok(())
    }
}
