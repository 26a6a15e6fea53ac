//! Forgets what was asked of an event that was final by then, or that is another one by now.
//!
//! Whoever makes an event final forgets what it has heard is asked of it. What was asked too late for that to be heard
//! would stand for good; here it is known what became of the event.

use std::{sync::Arc, time::Duration};

use posthaste_broker::{Broker, NewRecord};
use posthaste_event::{Millis, Status, clock};
use posthaste_service::{
    Requests,
    requests::{Open, Wanted},
};
use posthaste_store::{Document, Store};
use tracing::debug;

/// How often, and how many events are looked at then.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_MAX: usize = 100;

/// What was asked less long ago is left to who holds the event.
const PATIENCE_MS: Millis = 30_000;

/// Events wait up to a year. One that nobody has heard of for longer than that does not exist; before, its document may have
/// been lost.
const UNHEARD_OF_MS: Millis = 400 * 86_400_000;

/// Looks every so often, never ends. While broker or store are away there is nothing to be done.
pub async fn run(broker: &Arc<dyn Broker>, store: &Arc<dyn Store>, requests: &Requests) {
    let mut after = String::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = clock::now();
        let asked = requests.asked_before(now.saturating_sub(PATIENCE_MS), &after, LOOK_MAX);
        after = match asked.last() {
            Some((id, _)) if asked.len() == LOOK_MAX => id.clone(),
            _ => String::new(),
        };
        let mut forgotten = Vec::new();
        for (id, open) in asked {
            let Ok(document) = store.event(&id).await else {
                break;
            };
            // What was asked meanwhile was asked of an event that was not final.
            if requests.of(&id).is_some_and(|newest| newest == open) {
                forgotten.extend(overtaken(&id, &open, document.as_ref(), now));
            }
        }
        let many = forgotten.len();
        if many > 0
            && let Err(error) = broker.append(forgotten).await
        {
            debug!(%error, many, "what was asked too late is forgotten later");
        }
    }
}

/// The records that forget what nobody will do any more.
fn overtaken(id: &str, open: &Open, document: Option<&Document>, now: Millis) -> Vec<NewRecord> {
    let Some(document) = document else {
        let is_old = now.saturating_sub(open.asked_at()) > UNHEARD_OF_MS;
        return if is_old {
            open.forgets(id, None)
        } else {
            Vec::new()
        };
    };
    let Some(state) = &document.state else {
        return Vec::new();
    };
    let is_another = |created_at: Millis| created_at != document.fixed.created_at;
    let mut records = Vec::new();
    if let Some(asked) = &open.cancel
        && (is_another(asked.created_at)
            || state.generation > asked.generation
            || (state.generation == asked.generation && state.status.is_final()))
    {
        records.extend(open.forgets(id, Some(Wanted::Cancel)));
    }
    if let Some(latest) = open.reschedules.last()
        && (is_another(latest.created_at) || state.status != Status::Scheduled)
    {
        let all = Wanted::Reschedule {
            due: latest.scheduled_at,
            asked_at: latest.at,
        };
        records.extend(open.forgets(id, Some(all)));
    }
    if let Some(asked) = &open.retry_now
        && (state.step > asked.step || state.status.is_final())
    {
        records.extend(open.forgets(id, Some(Wanted::RetryNow)));
    }
    records
}

#[cfg(test)]
mod tests;
