//! Compares the live documents with the shadow, and puts right what differs.

use std::{collections::HashMap, time::Duration};

use posthaste_event::clock;
use posthaste_reconnect::Reconnect;
use posthaste_store::{Change, Changes, Document, Query, Store, StoreError};
use tokio::time::sleep;

use super::{
    RebuildError, Shared,
    compare::{Verdict, differing, judge, truth},
    read::Reader,
    report::{Difference, Kind, Progress},
};

/// Documents compared at once.
const PAGE_DOCUMENTS: u32 = 500;

/// Documents that wait for a second look. More are looked at in several rounds.
const DOUBTFUL_MAX: usize = 2_000;

/// How often a document that keeps changing is tried.
const TRIES_MAX: u32 = 10;

/// Between two of them.
const PAUSE: Duration = Duration::from_millis(200);

/// Walks over everything that the shadow has.
pub(super) async fn walk(
    shared: &Shared,
    reader: &mut Reader<'_>,
    progress: &Progress,
) -> Result<(), RebuildError> {
    let mut work = Work {
        store: shared.store.as_ref(),
        progress,
        keep_after: shared
            .settings
            .retention_ms()
            .map(|kept| clock::now().saturating_sub(kept)),
        doubtful: Vec::new(),
    };
    let mut query = Query {
        limit: PAGE_DOCUMENTS,
        ..Query::default()
    };
    loop {
        let page = reader.shadow().search(&query).await.map_err(shadow)?;
        work.page(page.events).await?;
        if page.next.is_none() || work.doubtful.len() >= DOUBTFUL_MAX {
            work.second_looks(reader).await?;
        }
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(()),
        }
    }
}

struct Work<'a> {
    store: &'a dyn Store,
    progress: &'a Progress,
    /// What was last said of before this is forgotten, if anything is.
    keep_after: Option<i64>,
    /// Ids of documents that say something else than the shadow: the shadow may be behind.
    doubtful: Vec<String>,
}

impl Work<'_> {
    async fn page(&mut self, mut told: Vec<Document>) -> Result<(), RebuildError> {
        let before = told.len();
        if let Some(keep_after) = self.keep_after {
            told.retain(|document| Change::from(document.clone()).keep_from() >= keep_after);
        }
        let forgotten = (before - told.len()) as u64;
        let live = self
            .look_up(told.iter().map(|document| document.id.clone()))
            .await?;
        let (mut changes, mut differences, mut known_before) = (Vec::new(), Vec::new(), 0);
        let count = told.len() as u64;
        for told in told {
            known_before +=
                u64::from(live.contains_key(&told.id) && told.fixed.created_at < self.progress.started_at());
            let (kind, fields) = match live.get(&told.id) {
                None => (Kind::Missing, Vec::new()),
                Some(None) => {
                    self.doubtful.push(told.id);
                    continue;
                }
                Some(Some(live)) => match judge(live, &told) {
                    Verdict::Same => continue,
                    Verdict::Lacks(fields) => (Kind::Different, fields),
                    Verdict::Wrong(_) => {
                        self.doubtful.push(told.id);
                        continue;
                    }
                },
            };
            differences.push(Difference {
                event_id: told.id.clone(),
                kind,
                fields,
                repaired: false,
                reason: None,
            });
            changes.push(Change::from(told));
        }
        if !self.progress.is_dry_run() {
            self.apply(changes.into(), &mut differences).await?;
        }
        for difference in differences {
            self.progress.differs(difference);
        }
        self.progress.compared(count, known_before, forgotten);
        Ok(())
    }

    /// Adds what is lacking: all at once, and one by one when the store refuses something of it.
    async fn apply(&self, changes: Changes, differences: &mut [Difference]) -> Result<(), RebuildError> {
        if changes.is_empty() {
            return Ok(());
        }
        if self.apply_all(&changes).await.is_ok() {
            for difference in differences {
                difference.repaired = true;
            }
            return Ok(());
        }
        for (place, difference) in differences.iter_mut().enumerate() {
            match self.apply_all(&changes.part(&(place..place + 1))).await {
                Ok(()) => difference.repaired = true,
                Err(error) => {
                    self.progress.refused();
                    difference.reason = Some(error.to_string());
                }
            }
        }
        Ok(())
    }

    /// What seemed wrong is looked at again, with a shadow that has all that the projector can have written: read after the
    /// document was. A document that is replaced is what was compared, or the replacement does nothing and it is tried again.
    async fn second_looks(&mut self, reader: &mut Reader<'_>) -> Result<(), RebuildError> {
        let mut doubtful = std::mem::take(&mut self.doubtful);
        for attempt in 1.. {
            if doubtful.is_empty() {
                return Ok(());
            }
            if attempt > TRIES_MAX {
                doubtful.iter().for_each(|_| self.progress.changing());
                return Ok(());
            }
            if attempt > 1 {
                sleep(PAUSE).await;
            }
            let live = self.look_up(doubtful.iter().cloned()).await?;
            reader.catch_up().await?;
            let told = reader.shadow().events(&doubtful).await.map_err(shadow)?;
            let mut again = Vec::new();
            for (id, told) in told {
                if let (Some(live), Some(told)) = (live.get(&id), told)
                    && !self.second_look(live.as_ref(), &told).await?
                {
                    again.push(id);
                }
            }
            doubtful = again;
        }
        Ok(())
    }

    /// Answers whether the document is settled.
    async fn second_look(&self, live: Option<&Document>, told: &Document) -> Result<bool, RebuildError> {
        let right = match live {
            Some(live) => match judge(live, told) {
                Verdict::Same => return Ok(true),
                // Not wrong after all, only ahead of the projector.
                Verdict::Lacks(_) => return Ok(false),
                Verdict::Wrong(_) => truth(live, told),
            },
            None => told.clone(),
        };
        let mut difference = Difference {
            event_id: told.id.clone(),
            kind: live.map_or(Kind::Unreadable, |_| Kind::Different),
            fields: live.map_or_else(Vec::new, |live| differing(live, &right)),
            repaired: false,
            reason: None,
        };
        if !self.progress.is_dry_run() {
            match self.replace(live, &right).await {
                Ok(true) => difference.repaired = true,
                Ok(false) => return Ok(false),
                Err(error) => {
                    self.progress.refused();
                    difference.reason = Some(error.to_string());
                }
            }
        }
        self.progress.differs(difference);
        Ok(true)
    }

    async fn look_up(
        &self,
        ids: impl Iterator<Item = String>,
    ) -> Result<HashMap<String, Option<Document>>, RebuildError> {
        let ids: Vec<String> = ids.collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let mut patience = self.patience();
        loop {
            let answer = self.store.events(&ids).await;
            if let Some(answer) = patience.settle(answer).await {
                return Ok(answer.map_err(RebuildError::Store)?.into_iter().collect());
            }
        }
    }

    /// Applies, however often that has to be tried; the error is a refusal.
    async fn apply_all(&self, changes: &Changes) -> Result<(), StoreError> {
        let mut patience = self.patience();
        loop {
            let answer = self.store.apply(changes.clone(), &[]).await;
            if let Some(answer) = patience.settle(answer).await {
                return answer;
            }
        }
    }

    /// Replaces, in the same way.
    async fn replace(&self, live: Option<&Document>, right: &Document) -> Result<bool, StoreError> {
        let mut patience = self.patience();
        loop {
            let answer = self.store.replace(live, right).await;
            if let Some(answer) = patience.settle(answer).await {
                return answer;
            }
        }
    }

    fn patience(&self) -> Patience<'_> {
        Patience {
            progress: self.progress,
            waits: Reconnect::default(),
        }
    }
}

/// Waits while the store is away.
struct Patience<'a> {
    progress: &'a Progress,
    waits: Reconnect,
}

impl Patience<'_> {
    /// The store's answer, or `None` after a wait: ask again.
    async fn settle<T>(&mut self, answer: Result<T, StoreError>) -> Option<Result<T, StoreError>> {
        match answer {
            Err(error) if error.is_retryable() => {
                self.progress.waits(Some(error.to_string()));
                sleep(self.waits.next_wait()).await;
                None
            }
            answer => {
                self.progress.waits(None);
                Some(answer)
            }
        }
    }
}

fn shadow(error: StoreError) -> RebuildError {
    RebuildError::Shadow(error.to_string())
}
