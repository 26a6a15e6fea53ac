//! `POST /replay-dead-letter` and `GET /dead-letters`.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use posthaste_event::{Delivery, Millis, Value};
use posthaste_service::{
    Problem,
    http::{JsonBody, QueryParams},
};
use serde::Serialize;
use serde_json::Value as AnyJson;
use tokio::time::timeout;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    index::{Claim, Index, Stored},
    job::Job,
    letter::Place,
    membership::{IndexError, Membership, Replays},
    request::{ListRequest, ReplayRequest, cursor},
};

/// When to come back while the index is being read, in seconds.
const READING_SECONDS: u32 = 2;
/// When to come back while other requests re-publish, in seconds.
const BUSY_SECONDS: u32 = 1;
/// Letters shown by a dry run.
const SAMPLE: usize = 10;

/// The paths of the replay service.
pub fn router(replays: Arc<Replays>) -> Router {
    Router::new()
        .route("/replay-dead-letter", post(replay))
        .route("/dead-letters", get(list))
        .with_state(replays)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Replayed {
    message: &'static str,
    count: usize,
    from: usize,
    limit: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay_id: Option<Arc<str>>,
    /// Letters that were meant and did not go out: too large for the broker, or another instance's by now.
    #[serde(skip_serializing_if = "is_zero")]
    not_replayed: usize,
    partitions: Partitions,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<Vec<DeadLetter>>,
}

/// A request does what this instance owns; others own the rest.
#[derive(Serialize, Clone, Copy)]
struct Partitions {
    owned: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    dead_letters: Vec<DeadLetter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    partitions: Partitions,
}

/// A dead letter, without what it would have sent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeadLetter {
    partition: u32,
    offset: i64,
    at: Millis,
    /// Why it is here, in words.
    reason: String,
    /// Whether a replay can send it.
    replayable: bool,
    /// The delivery, with the error and the log of failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<Box<Delivery>>,
    /// A record that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    foreign: Option<ForeignSource>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ForeignSource {
    topic: String,
    partition: u32,
    offset: i64,
    truncated: bool,
}

impl DeadLetter {
    fn of(stored: &Stored) -> Self {
        let (reason, delivery, foreign) = match Value::decode(&stored.value) {
            Ok(Value::Work(work)) => {
                let reason = work.delivery.error.as_ref().map(|error| error.message.clone());
                (reason.unwrap_or_default(), Some(Box::new(work.delivery)), None)
            }
            Ok(Value::Foreign(foreign)) => {
                let source = ForeignSource {
                    topic: foreign.topic,
                    partition: foreign.partition,
                    offset: foreign.offset,
                    truncated: foreign.truncated,
                };
                (foreign.reason, None, Some(source))
            }
            _ => ("cannot be read".to_owned(), None, None),
        };
        Self {
            partition: stored.place.0,
            offset: stored.place.1,
            at: stored.at,
            reason,
            replayable: delivery.is_some(),
            delivery,
            foreign,
        }
    }
}

async fn list(
    State(replays): State<Arc<Replays>>,
    QueryParams(query): QueryParams<HashMap<String, String>>,
) -> Result<Json<Page>, Problem> {
    let request = ListRequest::read(&query).map_err(refused)?;
    let (open, partitions) = ready(&replays).await?;
    let limit = request.limit;
    let page = move |index: &mut Index| index.list(&request.filter, request.after, limit + 1);
    let mut letters = open.with_index(page).await.map_err(unavailable)?;
    let more = letters.len() > limit;
    letters.truncate(limit);
    let next = letters
        .last()
        .filter(|_| more)
        .map(|last| cursor(last.at, last.place));
    Ok(Json(Page {
        dead_letters: letters.iter().map(DeadLetter::of).collect(),
        next,
        partitions,
    }))
}

async fn replay(
    State(replays): State<Arc<Replays>>,
    JsonBody(body): JsonBody<AnyJson>,
) -> Result<Response, Problem> {
    let request = ReplayRequest::read(&body, &replays.settings).map_err(refused)?;
    let Ok(permit) = Arc::clone(&replays.requests).try_acquire_owned() else {
        let detail = "other requests are re-publishing dead letters; come back when they are done";
        return Err(Problem::unavailable(detail, BUSY_SECONDS));
    };
    let (open, partitions) = ready(&replays).await?;
    let mut answer = Replayed {
        message: "Dead Letters Replayed",
        count: 0,
        from: request.from,
        limit: request.limit,
        replay_id: None,
        not_replayed: 0,
        partitions,
        sample: None,
    };
    if request.dry_run {
        let (count, sample) = dry_run(&open, request).await.map_err(unavailable)?;
        answer.message = "Dry Run";
        answer.count = count;
        answer.sample = Some(sample);
        return Ok(Json(answer).into_response());
    }
    let id: Arc<str> = Uuid::now_v7().to_string().into();
    let job = Job {
        id: Arc::clone(&id),
        instance: Arc::clone(&replays.instance),
        open: open.clone(),
        done: Arc::default(),
    };
    let done = Arc::clone(&job.done);
    let wanted: Arc<AtomicUsize> = Arc::default();
    let told = Arc::clone(&wanted);
    let of_job = Arc::clone(&replays);
    // A task of its own: the letters are claimed and closed whether or not the client waits for it.
    let under_way = replays.jobs.spawn(async move {
        let _permit = permit;
        let claim = move |index: &mut Index| index.claim(&request.filter, request.from, request.limit);
        let claims: Vec<Claim> = job.open.with_index(claim).await?;
        told.store(claims.len(), Ordering::Relaxed);
        job.run(claims, &of_job.settings).await
    });
    let result = timeout(
        Duration::from_millis(replays.settings.request_timeout_ms),
        under_way,
    )
    .await;
    answer.count = done.load(Ordering::Relaxed);
    let wanted = wanted.load(Ordering::Relaxed);
    match result {
        Ok(Ok(Ok(()))) => {
            info!(replay.id = %id, count = answer.count, "replayed {} dead letters", answer.count);
            answer.not_replayed = wanted.saturating_sub(answer.count);
            answer.replay_id = Some(id);
            Ok((StatusCode::CREATED, Json(answer)).into_response())
        }
        Ok(Ok(Err(error))) => {
            warn!(replay.id = %id, count = answer.count, %error, "a replay broke off: {error}");
            Err(broken_off(&id, answer.count, wanted, &error.to_string()))
        }
        Ok(Err(ended)) => Err(broken_off(&id, answer.count, wanted, &ended.to_string())),
        Err(_elapsed) => Err(broken_off(
            &id,
            answer.count,
            wanted,
            "the rest is still under way",
        )),
    }
}

fn broken_off(id: &str, count: usize, wanted: usize, reason: &str) -> Problem {
    let detail = format!(
        "replay {id}: {count} of {wanted} dead letters went out so far: {reason}. Asking again is safe: a letter goes out once"
    );
    Problem::unavailable(detail, READING_SECONDS)
}

async fn dry_run(open: &Membership, request: ReplayRequest) -> Result<(usize, Vec<DeadLetter>), IndexError> {
    let look = move |index: &mut Index| {
        let claims = index.select(&request.filter, request.from, request.limit)?;
        let places: Vec<Place> = claims.iter().take(SAMPLE).map(|claim| claim.place).collect();
        let (sample, _) = index.load(&places, usize::MAX)?;
        Ok((claims.len(), sample))
    };
    let (count, sample) = open.with_index(look).await?;
    Ok((count, sample.iter().map(DeadLetter::of).collect()))
}

/// The membership, once everything that is ours has been read.
async fn ready(replays: &Replays) -> Result<(Membership, Partitions), Problem> {
    let open = replays.open().map_err(unavailable)?;
    let (owned, read) = open
        .with_index(|index| Ok(index.partitions()))
        .await
        .map_err(unavailable)?;
    if owned == 0 {
        let detail = "this instance has no partition of the dead letters now; another one may have them";
        return Err(Problem::unavailable(detail, READING_SECONDS));
    }
    if read < owned {
        let detail = format!("the dead letters are being read: {read} of {owned} partitions so far");
        return Err(Problem::unavailable(detail, READING_SECONDS));
    }
    let total = replays.partitions_total();
    Ok((open, Partitions { owned, total }))
}

fn refused(errors: Vec<posthaste_event::FieldError>) -> Problem {
    Problem::fields(StatusCode::BAD_REQUEST, errors)
}

fn unavailable(error: IndexError) -> Problem {
    Problem::unavailable(error.to_string(), READING_SECONDS)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}
