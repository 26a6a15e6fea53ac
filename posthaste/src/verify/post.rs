//! Posts the events at their rate, however long the answers take, and keeps what was answered.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use posthaste_event::clock;
use posthaste_verify::{Answer, Mix, Posted, ledger::Place};
use reqwest::StatusCode;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::target::{Reply, Target};
use crate::client::problem;

/// How often it is asked for an event to be withdrawn, and how long after each other.
const CANCEL_TRIES: usize = 20;
const CANCEL_PAUSE: Duration = Duration::from_millis(250);

/// How far posting is.
#[derive(Debug, Default)]
pub struct Tally {
    pub accepted: AtomicUsize,
    pub unknown: AtomicUsize,
    pub refused: AtomicUsize,
    /// What the first refusal said.
    refusal: Mutex<Option<String>>,
}

impl Tally {
    pub fn posted(&self) -> usize {
        [&self.accepted, &self.unknown, &self.refused]
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    pub fn refusal(&self) -> Option<String> {
        self.refusal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn count(&self, answer: Answer, refusal: Option<String>) {
        let count = match answer {
            Answer::Accepted => &self.accepted,
            Answer::Unknown => &self.unknown,
            Answer::Refused => &self.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if let Some(refusal) = refusal {
            let mut first = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(refusal);
        }
    }
}

/// How much, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub events: u32,
    /// A second.
    pub rate: f64,
    /// Requests under way at once, at most.
    pub in_flight: usize,
}

impl Pace {
    /// How long posting takes.
    pub fn lasting(self) -> Duration {
        Duration::from_secs_f64(f64::from(self.events) / self.rate)
    }
}

/// The next place of each ordering key. Held while an event of the key is under way: the one after it comes after its answer.
type Keys = Arc<Vec<tokio::sync::Mutex<u32>>>;

/// Posts all of them.
pub async fn post_all(target: &Target, mix: &Mix, pace: Pace, tally: &Arc<Tally>) -> HashMap<u32, Posted> {
    let places = Arc::new(Semaphore::new(pace.in_flight));
    let mix = Arc::new(mix.clone());
    let keys: Keys = Arc::new((0..mix.ordering_keys).map(|_| Default::default()).collect());
    let begun = Instant::now();
    let mut under_way = JoinSet::new();
    let mut posted = HashMap::new();
    for index in 0..pace.events {
        sleep_until(begun + Duration::from_secs_f64(f64::from(index) / pace.rate)).await;
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            break;
        };
        while let Some(done) = under_way.try_join_next() {
            posted.extend(done.ok());
        }
        let (target, mix) = (target.clone(), Arc::clone(&mix));
        let (keys, tally) = (Arc::clone(&keys), Arc::clone(tally));
        under_way.spawn(async move {
            let outcome = post(&target, &mix, index, &keys, &tally).await;
            drop(place);
            (index, cancel(&target, &mix, index, outcome).await)
        });
    }
    while let Some(done) = under_way.join_next().await {
        posted.extend(done.ok());
    }
    posted
}

/// Asks for the event to be withdrawn, if it is one of those: again while the status does not know it yet, or is away.
async fn cancel(target: &Target, mix: &Mix, index: u32, mut posted: Posted) -> Posted {
    let Some(after_ms) = mix.event(index, 0).cancel_after_ms else {
        return posted;
    };
    if posted.answer != Answer::Accepted {
        return posted;
    }
    tokio::time::sleep(Duration::from_millis(after_ms)).await;
    for _ in 0..CANCEL_TRIES {
        let asked_at = clock::now();
        let (is_asked, is_settled) = match target.cancel(&mix.asked_id(index)).await {
            Reply::Answer(status, _) if status.is_success() => (true, true),
            Reply::Answer(StatusCode::NOT_FOUND, _) | Reply::Unreached(_) => (false, false),
            Reply::Answer(status, _) if status.is_client_error() => (false, true),
            // It may have been asked.
            Reply::Answer(..) | Reply::Silent(_) => (true, false),
        };
        if is_asked {
            posted.cancel_asked_at.get_or_insert(asked_at);
        }
        if is_settled {
            break;
        }
        tokio::time::sleep(CANCEL_PAUSE).await;
    }
    posted
}

async fn post(target: &Target, mix: &Mix, index: u32, keys: &Keys, tally: &Tally) -> Posted {
    let key = mix.event(index, 0).ordering_key;
    let mut turn = match key.and_then(|key| keys.get(key as usize)) {
        Some(key) => Some(key.lock().await),
        None => None,
    };
    let event = mix.event(index, clock::now());
    let (answer, refusal) = judge(target.post(&event.body).await);
    tally.count(answer, refusal);
    let place = key.zip(turn.as_deref_mut()).map(|(key, next)| {
        *next += 1;
        Place { key, seq: *next }
    });
    Posted {
        answer,
        place,
        scheduled_at: event.scheduled_at,
        expires_at: event.expires_at,
        no_duplicate: event.no_duplicate,
        cancel_asked_at: None,
    }
}

/// What is known after this reply, and what a refusal said.
fn judge(reply: Reply) -> (Answer, Option<String>) {
    match reply {
        Reply::Answer(status, _) if status.is_success() => (Answer::Accepted, None),
        // It names the event when the append may still land; otherwise nothing was stored.
        Reply::Answer(StatusCode::SERVICE_UNAVAILABLE, answer) if answer["eventId"].is_string() => {
            (Answer::Unknown, None)
        }
        Reply::Answer(status, answer)
            if status == StatusCode::SERVICE_UNAVAILABLE || status.is_client_error() =>
        {
            (Answer::Refused, Some(problem(status, &answer)))
        }
        Reply::Unreached(error) => (Answer::Refused, Some(error)),
        Reply::Answer(..) | Reply::Silent(_) => (Answer::Unknown, None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_clear_answer_settles_whether_an_event_is_there() {
        for (reply, answer) in [
            (Reply::Answer(StatusCode::CREATED, json!({})), Answer::Accepted),
            (
                Reply::Answer(StatusCode::SERVICE_UNAVAILABLE, json!({"eventId": "e"})),
                Answer::Unknown,
            ),
            (
                Reply::Answer(StatusCode::SERVICE_UNAVAILABLE, json!({"detail": "full"})),
                Answer::Refused,
            ),
            (Reply::Answer(StatusCode::BAD_REQUEST, json!({})), Answer::Refused),
            (Reply::Answer(StatusCode::BAD_GATEWAY, json!({})), Answer::Unknown),
            (Reply::Silent("reset".to_owned()), Answer::Unknown),
            (Reply::Unreached("refused".to_owned()), Answer::Refused),
        ] {
            let told = format!("{reply:?}");
            assert_eq!(judge(reply).0, answer, "{told}");
        }
    }
}
