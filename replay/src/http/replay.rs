//! `POST /replay-dead-letter`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use posthaste_service::{Problem, http::JsonBody};
use serde::Serialize;
use serde_json::Value as AnyJson;
use tokio::time::timeout;
use tracing::{info, warn};
use uuid::Uuid;

use super::{Partitions, READING_SECONDS, letters::DeadLetter, ready, refused, unavailable};
use crate::{
    index::{Claim, Index},
    job::Job,
    letter::Place,
    membership::{IndexError, Membership, Replays},
    request::ReplayRequest,
};

/// When to come back while other requests re-publish, in seconds.
const BUSY_SECONDS: u32 = 1;
/// Letters shown by a dry run.
const SAMPLE: usize = 10;

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

pub(super) async fn replay(
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}
