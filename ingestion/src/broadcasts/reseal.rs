//! Pages of stored lists that another key than the active one seals, or none: sealed anew, so that an old key can go.

use std::sync::Arc;

use posthaste_event::clock;
use posthaste_sealing::{Ring, is_sealed_page, kid_of};
use posthaste_store::{Lists, StoreError};
use tracing::{debug, info, warn};

use super::lists::leaf;

/// Lists that are asked for at once.
const LISTS_AT_ONCE: u32 = 100;

/// How far one process is with that.
#[derive(Debug, Default)]
pub struct Resealing {
    /// The active key of the round before.
    before: Option<String>,
    /// The key that was found to seal all pages.
    done: Option<String>,
}

/// What a round came to, in pages.
#[derive(Debug, Default)]
struct Count {
    sealed: u64,
    /// Those that do not open.
    left: u64,
}

impl Resealing {
    /// Looks at all pages, unless all were found good with this key. A key that is new waits a round: others may not have it yet.
    pub async fn round(&mut self, lists: &dyn Lists, ring: Option<Arc<Ring>>) {
        let Some(ring) = ring else { return };
        let active = Some(ring.active().to_owned());
        let is_new = self.before != active;
        self.before.clone_from(&active);
        if is_new || self.done == active {
            return;
        }
        let mut count = Count::default();
        match reseal(lists, &ring, &mut count).await {
            Ok(()) if count.sealed == 0 && count.left == 0 => self.done = active,
            Ok(()) => {}
            Err(error) => debug!(%error, "the rest of the lists is sealed anew later"),
        }
        let key = ring.active();
        if count.sealed > 0 {
            let pages = count.sealed;
            info!(
                key,
                pages, "{pages} pages of stored lists are sealed with {key} now"
            );
        }
        if count.left > 0 {
            let pages = count.left;
            warn!(
                pages,
                "{pages} pages of stored lists do not open and keep their keys; put their lists again"
            );
        }
    }
}

async fn reseal(lists: &dyn Lists, ring: &Ring, count: &mut Count) -> Result<(), StoreError> {
    let mut after: Option<(String, String)> = None;
    loop {
        let last = after.as_ref().map(|(tenant, code)| (&**tenant, &**code));
        let found = lists.all_lists(last, LISTS_AT_ONCE).await?;
        let Some(last) = found.last() else { return Ok(()) };
        after = Some((last.tenant.clone(), last.code.clone()));
        for list in &found {
            for number in 0..list.pages {
                let Some(page) = lists.page(&list.version, number).await? else {
                    continue;
                };
                if kid_of(&page) == Some(ring.active()) {
                    continue;
                }
                let leaf = leaf(&list.tenant, &list.version, number);
                let clear = if is_sealed_page(&page) {
                    ring.open_page(&leaf, &page).ok()
                } else {
                    Some(page)
                };
                let Some(sealed) = clear.and_then(|clear| ring.seal_page(&leaf, &clear).ok()) else {
                    count.left += 1;
                    continue;
                };
                // Of a list that was replaced meanwhile it is swept as what replaced lists left behind.
                lists
                    .put_page(&list.version, number, &sealed, clock::now())
                    .await?;
                count.sealed += 1;
            }
        }
    }
}
