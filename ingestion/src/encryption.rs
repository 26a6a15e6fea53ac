//! `GET /encryption/keys`: what the keys of sealed payloads are still needed for, as far as that can be looked at from here.
//!
//! It never says that a key can go: what nobody can see from here may need it, and the answer says what that is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, routing::get};
use posthaste_definitions::Kind;
use posthaste_event::Status;
use posthaste_sealing::{kid_in, kid_of};
use posthaste_service::Problem;
use posthaste_store::Query;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use crate::Intake;

/// Longest look, beyond which the answer says that not all was looked at.
const LOOK_MAX: Duration = Duration::from_secs(20);
/// Events and lists that the store is asked for at once.
const AT_ONCE: u32 = 200;

/// What was found of one kind.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    /// How many were looked at, sealed or not.
    looked_at: u64,
    /// Whether these are all that there are.
    is_complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// How many each key seals.
    keys: BTreeMap<String, u64>,
}

/// What the keys are needed for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InUse {
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<String>,
    /// Keys that this process has.
    known: Vec<String>,
    schedules: Found,
    list_pages: Found,
    waiting: Found,
    dead_lettered: Found,
    /// In words.
    not_looked_at: Vec<String>,
}

pub(crate) fn router(intake: Arc<Intake>) -> Router {
    Router::new()
        .route("/encryption/keys", get(in_use))
        .with_state(intake)
}

async fn in_use(State(intake): State<Arc<Intake>>) -> Result<Json<InUse>, Problem> {
    intake.check_known()?;
    let _place = intake.looks.try_acquire().map_err(|_| {
        let retry = intake.settings.retry_after_seconds.max(1);
        Problem::unavailable("somebody else is looking at the moment", retry)
    })?;
    let until = Instant::now() + LOOK_MAX;
    let ring = intake.sealer.ring();
    let known = ring
        .iter()
        .flat_map(|ring| ring.kids().map(str::to_owned))
        .collect();
    let schedules = schedules(&intake);
    let list_pages = Found::within(until, async |found| list_pages(&intake, found).await).await;
    // In the order in which events go from one to the next, so that few are passed by on the way.
    let open = [Status::Scheduled, Status::Pending, Status::Retrying];
    let waiting = Found::within(until, async |found| events(&intake, &open, found).await).await;
    let dead = [Status::DeadLettered];
    let dead_lettered = Found::within(until, async |found| events(&intake, &dead, found).await).await;
    Ok(Json(InUse {
        active: ring.as_ref().map(|ring| ring.active().to_owned()),
        known,
        schedules,
        list_pages,
        waiting,
        dead_lettered,
        not_looked_at: not_looked_at(&intake),
    }))
}

fn not_looked_at(intake: &Intake) -> Vec<String> {
    let mut words = vec![
        "events that the status store was not told of yet, and those that it has forgotten: old dead letters among them".to_owned(),
        "what was sent, and messages in inboxes: without its key what they said is not shown".to_owned(),
        format!(
            "requests with idempotency keys of the last {} hours, which are recognised by the key of their day",
            intake.settings.key_hours
        ),
        "what an instance with other keys still seals".to_owned(),
    ];
    let (unfinished, _) = intake.broadcasts.known.unfinished("");
    if unfinished > 0 {
        words.push(format!(
            "what {unfinished} broadcasts that are not at their end have not handed over"
        ));
    }
    words
}

/// All of them are in memory, unless they have no room there.
fn schedules(intake: &Intake) -> Found {
    #[derive(Deserialize)]
    struct Kept<'a> {
        #[serde(borrow)]
        event: Model<'a>,
    }
    #[derive(Deserialize)]
    struct Model<'a> {
        #[serde(borrow)]
        payload: &'a RawValue,
    }
    let mut found = Found::new();
    for definition in intake.catalog.defining().definitions.all(Kind::Schedule) {
        let kept: Option<Kept<'_>> = serde_json::from_str(definition.body.get()).ok();
        found.add(kept.as_ref().and_then(|kept| kid_of(kept.event.payload.get())));
    }
    found.problem = intake.catalog.defining().definitions.check().err();
    found.is_complete = found.problem.is_none();
    found
}

async fn list_pages(intake: &Intake, found: &mut Found) -> Result<(), String> {
    let lists = &intake.broadcasts.lists;
    let mut after: Option<(String, String)> = None;
    loop {
        let last = after.as_ref().map(|(tenant, code)| (&**tenant, &**code));
        let page = lists.all_lists(last, AT_ONCE).await;
        let page = page.map_err(|error| error.to_string())?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some((last.tenant.clone(), last.code.clone()));
        for list in &page {
            for number in 0..list.pages {
                let text = lists.page(&list.version, number).await;
                if let Some(text) = text.map_err(|error| error.to_string())? {
                    found.add(kid_of(&text));
                }
            }
        }
    }
}

async fn events(intake: &Intake, statuses: &[Status], found: &mut Found) -> Result<(), String> {
    for status in statuses {
        let mut query = Query {
            status: Some(*status),
            limit: AT_ONCE,
            ..Query::default()
        };
        loop {
            let page = intake.store.search(&query).await;
            let page = page.map_err(|error| error.to_string())?;
            for document in &page.events {
                found.add(document.fixed.payload.as_ref().and_then(kid_in));
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
    }
    Ok(())
}

impl Found {
    const fn new() -> Self {
        Self {
            looked_at: 0,
            is_complete: false,
            problem: None,
            keys: BTreeMap::new(),
        }
    }

    fn add(&mut self, kid: Option<&str>) {
        self.looked_at += 1;
        if let Some(kid) = kid {
            *self.keys.entry(kid.to_owned()).or_default() += 1;
        }
    }

    /// What is found until then.
    async fn within(until: Instant, look: impl AsyncFnOnce(&mut Self) -> Result<(), String>) -> Self {
        let mut found = Self::new();
        let looked = timeout_at(until, look(&mut found)).await;
        found.problem = match looked {
            Ok(looked) => looked.err(),
            Err(_) => Some(format!(
                "not all were there within {} seconds",
                LOOK_MAX.as_secs()
            )),
        };
        found.is_complete = found.problem.is_none();
        found
    }
}
