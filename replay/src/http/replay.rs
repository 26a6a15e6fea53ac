//! `POST /replay-dead-letter`.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use posthaste_broker::AppendError;
use posthaste_event::{
    Channel, FieldError, clock,
    control::{Control, Replay},
    fields::excerpt,
};
use posthaste_service::{Problem, auth::Caller, http::JsonBody};
use serde::Serialize;
use serde_json::Value as AnyJson;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tracing::{info, warn};
use uuid::Uuid;

use super::{Partitions, READING_SECONDS, letters::DeadLetter, mean, ready, refused, unavailable};
use crate::{
    index::{Index, sets::Chosen},
    jobs::runner::{Claims, Runner},
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
    /// Letters that fit the filter and are left alone: their events must not go out twice and may have gone out. A filter
    /// with ids or an error means them too.
    #[serde(skip_serializing_if = "is_none_of")]
    left_in_doubt: u64,
    partitions: Partitions,
    /// Events that the filter names and that have no open letter here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_open: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<Vec<DeadLetter>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    routes: Option<Vec<Predicted>>,
}

/// Where a dry run's letters would go.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Predicted {
    topic: String,
    channel: Channel,
    /// The account or provider that would carry them, as this service is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    /// Whether the clients insist on it.
    pinned: bool,
    count: u64,
}

pub(super) async fn replay(
    State(replays): State<Arc<Replays>>,
    caller: Caller,
    JsonBody(body): JsonBody<AnyJson>,
) -> Result<Response, Problem> {
    let mut request = ReplayRequest::read(&body, &replays.settings).map_err(refused)?;
    caller.narrow(&mut request.filter.tenant, "filter.tenant")?;
    let ids = request.filter.ids.clone().unwrap_or_default();
    mean(&caller, &mut request.filter);
    let permit = match request.background {
        true => None,
        false => Some(permit(&replays)?),
    };
    let (open, partitions) = ready(&replays).await?;
    let asked = Asked {
        caller,
        replays,
        open,
        partitions,
        request,
        ids,
    };
    let answer = asked.answer().await?;
    if asked.request.dry_run {
        return asked.dry_run(answer).await;
    }
    // A task of its own: what it claims and makes known it holds to its end, whether or not the client waits for it. When
    // nobody does, the conductor goes on with it.
    let begun = tokio::spawn(async move { asked.begin().await });
    let begun = begun.await.map_err(|ended| {
        let detail = format!("it is not known whether the replay began: {ended}; asking again is safe");
        Problem::unavailable(detail, READING_SECONDS)
    })??;
    if begun.replay.background {
        return Ok(begun.go_on(answer));
    }
    begun.wait_for(answer, permit).await
}

fn permit(replays: &Replays) -> Result<OwnedSemaphorePermit, Problem> {
    Arc::clone(&replays.requests).try_acquire_owned().map_err(|_| {
        let detail = "other requests are re-publishing dead letters; come back when they are done";
        Problem::unavailable(detail, BUSY_SECONDS)
    })
}

/// A request, and where it can be answered from.
struct Asked {
    caller: Caller,
    replays: Arc<Replays>,
    open: Membership,
    partitions: Partitions,
    request: ReplayRequest,
    /// The ids of its filter, as the caller said them.
    ids: Vec<String>,
}

impl Asked {
    /// The answer as far as the request alone decides it.
    async fn answer(&self) -> Result<Replayed, Problem> {
        let mut answer = Replayed {
            message: "Dead Letters Replayed",
            count: 0,
            from: self.request.from,
            limit: self.request.limit,
            replay_id: None,
            not_replayed: 0,
            left_in_doubt: 0,
            not_open: Vec::new(),
            partitions: self.partitions,
            sample: None,
            routes: None,
        };
        let filter = self.request.filter.clone();
        let look = move |index: &mut Index| index.left_in_doubt(&filter);
        answer.left_in_doubt = self.open.with_index(look).await.map_err(unavailable)?;
        let Some(ids) = self.request.filter.ids.clone().filter(|ids| !ids.is_empty()) else {
            return Ok(answer);
        };
        let asked = self.ids.len();
        let tenant = self.caller.bound_to().map(str::to_owned);
        let look = move |index: &mut Index| index.not_open(&ids, tenant.as_deref());
        let (not_open, unknown) = self.open.with_index(look).await.map_err(unavailable)?;
        let sees_all = self
            .partitions
            .total
            .is_none_or(|total| total as usize <= self.partitions.owned);
        // Who is bound to a tenant is not told whether somebody else has such an event.
        if unknown == asked && sees_all && self.caller.bound_to().is_none() {
            let problem = format!(
                "none of these events was ever given up: {}",
                excerpt(&not_open.join(", "))
            );
            let accepted = "ids of dead letters, as GET /dead-letters lists them";
            let error = FieldError::new("filter.ids", problem, accepted);
            return Err(Problem::fields(StatusCode::NOT_FOUND, vec![error]));
        }
        let not_open: HashSet<String> = not_open.into_iter().collect();
        let is_open = |id: &str| {
            self.caller
                .meant(id)
                .iter()
                .any(|meant| !not_open.contains(meant))
        };
        let mut seen = HashSet::new();
        answer.not_open = (self.ids.iter())
            .filter(|id| !is_open(id) && seen.insert(id.as_str()))
            .cloned()
            .collect();
        Ok(answer)
    }

    async fn choose(&self, claim: bool) -> Result<Chosen, IndexError> {
        let (filter, from, limit) = (self.request.filter.clone(), self.request.from, self.request.limit);
        let choose = move |index: &mut Index| index.choose(&filter, from, limit, SAMPLE, claim);
        self.open.with_index(choose).await
    }

    async fn dry_run(&self, mut answer: Replayed) -> Result<Response, Problem> {
        let chosen = self.choose(false).await.map_err(unavailable)?;
        let places = chosen.sample.clone();
        let load = move |index: &mut Index| index.load(&places, usize::MAX);
        let (letters, _) = self.open.with_index(load).await.map_err(unavailable)?;
        answer.message = "Dry Run";
        answer.count = usize::try_from(chosen.count).unwrap_or(usize::MAX);
        answer.sample = Some(
            letters
                .iter()
                .map(|letter| DeadLetter::of(letter, &self.caller))
                .collect(),
        );
        let prefix = self.replays.broker.prefix();
        let routes = chosen.routes.iter().map(|(route, count)| Predicted {
            topic: route.topic.name(prefix),
            channel: route.channel,
            provider: match &route.pinned {
                Some(provider) => Some(provider.clone()),
                None => self.replays.carriers.get(&route.channel).cloned(),
            },
            pinned: route.pinned.is_some(),
            count: *count,
        });
        answer.routes = Some(routes.collect());
        Ok(Json(answer).into_response())
    }

    /// Chooses the letters and makes the replay known; from then on it is done, whatever happens to this process.
    async fn begin(&self) -> Result<Begun, Problem> {
        let replays = &self.replays;
        if !replays.jobs.is_read() {
            return Err(Problem::unavailable(
                "the replays are being read",
                READING_SECONDS,
            ));
        }
        let _alone = replays.creating.lock().await;
        let unfinished: Vec<Arc<Replay>> = replays
            .jobs
            .unfinished()
            .into_iter()
            .filter_map(|known| known.replay.filter(|replay| replay.background))
            .collect();
        if self.request.background && unfinished.len() >= replays.settings.unfinished_max {
            let detail = format!(
                "{} replays are unfinished, which is as many as replay.unfinished_max allows: wait for one, or cancel one",
                unfinished.len()
            );
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        let mut chosen = self.choose(!self.request.background).await.map_err(unavailable)?;
        let claims = Claims::new(&self.open, std::mem::take(&mut chosen.claims));
        if let Some(other) = self.overlapping(&chosen, unfinished).await? {
            return Err(self.overlaps(&other));
        }
        self.tell(chosen, claims).await
    }

    async fn tell(&self, chosen: Chosen, claims: Claims) -> Result<Begun, Problem> {
        let replays = &self.replays;
        let replay = Arc::new(Replay {
            id: Uuid::now_v7().to_string(),
            at: clock::now(),
            by: replays.instance.to_string(),
            filter: self.request.filter.clone(),
            from: self.request.from as u64,
            limit: self.request.limit as u64,
            span: chosen.span,
            shares: chosen.shares,
            background: self.request.background,
            rate: self.request.rate,
            ramp_ms: self.request.ramp_ms,
            refailure_ratio: self.request.refailure_ratio,
            unknown: Default::default(),
        });
        replays.jobs.begin_new(Arc::clone(&replay));
        let runner = Runner::new(Arc::clone(replays), Arc::clone(&replay), claims);
        let value = Control::Replay(Box::new((*replay).clone()));
        if let Err(error) = replays.jobs.tell(&replays.broker, value).await {
            replays.jobs.drop_new(&replay.id);
            return Err(untold(&replay.id, &error));
        }
        Ok(Begun {
            replays: Arc::clone(replays),
            replay,
            runner,
            count: usize::try_from(chosen.count).unwrap_or(usize::MAX),
        })
    }

    async fn overlapping(
        &self,
        chosen: &Chosen,
        others: Vec<Arc<Replay>>,
    ) -> Result<Option<Arc<Replay>>, Problem> {
        let filter = self.request.filter.clone();
        let span = chosen.span;
        let look = move |index: &mut Index| {
            for other in others {
                if index.overlap(&filter, span, &other)? {
                    return Ok(Some(other));
                }
            }
            Ok(None)
        };
        self.open.with_index(look).await.map_err(unavailable)
    }

    fn overlaps(&self, other: &Replay) -> Problem {
        let known = self.replays.jobs.get(&other.id).unwrap_or_default();
        let (problem, accepted) = if super::replays::may_see(&self.caller, &known) {
            let (id, state) = (&other.id, super::replays::state_of(&known));
            (
                format!("means letters that replay {id} ({state}) has not finished with"),
                format!("a filter without them; or wait for it, or POST /replays/{id}/cancel"),
            )
        } else {
            (
                "means letters that a replay of an operator has not finished with".to_owned(),
                "a filter without them; or wait for it".to_owned(),
            )
        };
        Problem::fields(
            StatusCode::CONFLICT,
            vec![FieldError::new("filter", problem, accepted)],
        )
    }
}

fn untold(id: &str, error: &AppendError) -> Problem {
    match error {
        AppendError::TooLarge { .. } => {
            let error = FieldError::new("filter.ids", "are too many for one record", "fewer ids");
            Problem::fields(StatusCode::PAYLOAD_TOO_LARGE, vec![error])
        }
        AppendError::Full => Problem::unavailable("the broker is busy; nothing was begun", BUSY_SECONDS),
        AppendError::Unconfirmed { .. } => Problem::unavailable(
            format!(
                "the broker did not confirm in time; replay {id} may begin all the same, GET /replays/{id} says so"
            ),
            READING_SECONDS,
        ),
    }
}

/// A replay that is known, and so will be done.
struct Begun {
    replays: Arc<Replays>,
    replay: Arc<Replay>,
    runner: Runner,
    count: usize,
}

impl Begun {
    /// Goes on by itself.
    fn go_on(self, mut answer: Replayed) -> Response {
        let replays = Arc::clone(&self.replays);
        let replay = Arc::clone(&self.replay);
        info!(
            replay.id = replay.id,
            count = self.count,
            "replay {} begins",
            replay.id
        );
        let runner = self.runner;
        replays.under_way.spawn(async move {
            if let Err(error) = runner.run().await {
                warn!(replay.id = replay.id, %error, "replay {} broke off and goes on later: {error}", replay.id);
            }
        });
        forget_old(&self.replays);
        answer.message = "Replay Started";
        answer.count = self.count;
        answer.replay_id = Some(self.replay.id.as_str().into());
        (StatusCode::CREATED, Json(answer)).into_response()
    }

    /// Answers when it is done.
    async fn wait_for(
        self,
        mut answer: Replayed,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Response, Problem> {
        let (id, wanted) = (self.replay.id.clone(), self.count);
        let done = self.runner.done();
        // A task of its own: the letters go out whether or not the client waits for it.
        let under_way = self.replays.under_way.spawn(async move {
            let _permit = permit;
            self.runner.run().await
        });
        let limit = Duration::from_millis(self.replays.settings.request_timeout_ms);
        let result = timeout(limit, under_way).await;
        forget_old(&self.replays);
        answer.count = done.load(Ordering::Relaxed);
        let reason = match result {
            Ok(Ok(Ok(()))) => {
                info!(replay.id = %id, count = answer.count, "replayed {} dead letters", answer.count);
                answer.not_replayed = wanted.saturating_sub(answer.count);
                answer.replay_id = Some(id.into());
                return Ok((StatusCode::CREATED, Json(answer)).into_response());
            }
            Ok(Ok(Err(error))) => {
                warn!(replay.id = %id, count = answer.count, %error, "a replay broke off: {error}");
                error.to_string()
            }
            Ok(Err(ended)) => ended.to_string(),
            Err(_elapsed) => "the rest is still under way".to_owned(),
        };
        Err(broken_off(&id, answer.count, wanted, &reason))
    }
}

fn forget_old(replays: &Arc<Replays>) {
    let replays = Arc::clone(replays);
    tokio::spawn(async move {
        let kept_max = replays.settings.finished_kept_max;
        replays.jobs.forget_old(&replays.broker, kept_max).await;
    });
}

fn broken_off(id: &str, count: usize, wanted: usize, reason: &str) -> Problem {
    let detail = format!(
        "replay {id}: {count} of {wanted} dead letters went out so far: {reason}. Asking again is safe: a letter goes out once"
    );
    Problem::unavailable(detail, READING_SECONDS)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_none_of(count: &u64) -> bool {
    *count == 0
}
