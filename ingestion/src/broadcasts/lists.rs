//! `/lists`: recipients that are kept, for broadcasts to come.
//!
//! | path | what |
//! |---|---|
//! | `GET /lists` | `{tenant, items: [{code, recipients, updatedAt, updatedBy}], next?}`, by code; `?tenant=`, `?after=`, `?limit=` |
//! | `GET /lists/{code}` | one of these |
//! | `PUT /lists/{code}` | lines (NDJSON), a recipient each: 201 when it is new, 200 when it replaces another |
//! | `DELETE /lists/{code}` | 204; 404 when there was none |
//!
//! A list is there when all of it is durable; until then, and when an upload breaks off, the one before is. They are in the store, so
//! with that away they are answered 503. Where there are keys to seal with, pages are sealed: whom a list is for, and on which channel,
//! is only known when it is sent to.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse as _, Response},
    routing::get,
};
use posthaste_event::{FieldError, clock, fields::excerpt, nesting, time};
use posthaste_sealing::{Keys, Leaf, OpenError, is_sealed_page};
use posthaste_service::{
    Problem,
    auth::Caller,
    http::{PathParams, QueryParams},
    metrics::Refusal,
};
use posthaste_store::{List, Lists, StoreError};
use serde::Deserialize;
use serde_json::{Value as AnyJson, json};
use tokio::time::{Instant, sleep};
use tracing::{debug, info};
use uuid::Uuid;

use super::{Shared, broke_off, reseal::Resealing, said::Message};
use crate::{
    Intake, bulk,
    bulk::{
        Form,
        lines::{BodyLines, BrokeOff, Line},
    },
    defining,
    templates::{is_code, no_code},
};

/// A page is closed when it has this many bytes.
const PAGE_BYTES: usize = 256 * 1024;
pub(crate) const LIMIT_DEFAULT: u32 = 100;
pub(crate) const LIMIT_MAX: u32 = 1_000;
/// Errors after which nothing more is read.
const FAULTS_MAX: usize = 100;
/// How often, and how long after they were put, pages are swept that no list leads to: longer than any upload or broadcast reads.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);
const SWEPT_AFTER_MS: i64 = 48 * 3_600_000;

/// The query of a list of lists.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedMany {
    tenant: Option<String>,
    after: Option<String>,
    limit: Option<u32>,
}

pub(super) fn router(intake: Arc<Intake>) -> Router {
    Router::new()
        .route("/lists", get(list))
        .route("/lists/{code}", get(one).put(put).delete(delete))
        .with_state(intake)
}

/// Deletes what replaced and deleted lists and broken uploads left behind, and seals anew what another key than the active one seals, now
/// and then. Never ends.
pub async fn sweep(lists: Arc<dyn Lists>, keys: Arc<Keys>) {
    let mut resealing = Resealing::default();
    loop {
        resealing.round(&*lists, keys.ring()).await;
        match lists.sweep_pages(clock::now() - SWEPT_AFTER_MS).await {
            Ok(0) => {}
            Ok(pages) => debug!(pages, "pages of lists that are gone were deleted"),
            Err(error) => debug!(%error, "pages of lists that are gone are deleted later"),
        }
        sleep(SWEEP_EVERY).await;
    }
}

fn shown(list: &List) -> AnyJson {
    json!({
        "code": list.code,
        "tenant": list.tenant,
        "recipients": list.recipients,
        "updatedAt": time::write(list.at),
        "updatedBy": list.by,
    })
}

async fn list(
    State(intake): Shared,
    caller: Caller,
    QueryParams(asked): QueryParams<AskedMany>,
) -> Result<Json<AnyJson>, Problem> {
    let tenant = defining::tenant(&caller, asked.tenant)?;
    let limit = asked.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let error = FieldError::new("limit", "is out of range", format!("1 to {LIMIT_MAX}"));
        return Err(defining::refused(vec![error]));
    }
    let found = intake
        .broadcasts
        .lists
        .lists(&tenant, asked.after.as_deref(), limit);
    let found = found.await.map_err(|error| intake.no_lists(&error))?;
    let is_full = u32::try_from(found.len()).is_ok_and(|count| count == limit);
    let next = found.last().filter(|_| is_full).map(|list| list.code.clone());
    let items: Vec<AnyJson> = found.iter().map(shown).collect();
    let mut answer = json!({ "tenant": tenant, "items": items });
    if let Some(next) = next {
        answer["next"] = json!(next);
    }
    Ok(Json(answer))
}

async fn one(
    State(intake): Shared,
    caller: Caller,
    PathParams(code): PathParams<String>,
    QueryParams(asked): QueryParams<defining::Asked>,
) -> Result<Json<AnyJson>, Problem> {
    let tenant = defining::tenant(&caller, asked.tenant)?;
    let found = intake.stored_list(&tenant, &code).await?;
    found
        .map(|list| Json(shown(&list)))
        .ok_or_else(|| not_there(&code))
}

async fn delete(
    State(intake): Shared,
    caller: Caller,
    PathParams(code): PathParams<String>,
    QueryParams(asked): QueryParams<defining::Asked>,
) -> Result<StatusCode, Problem> {
    let tenant = defining::tenant(&caller, asked.tenant)?;
    if !is_code(&code) {
        return Err(not_there(&code));
    }
    let gone = intake.broadcasts.lists.delete_list(&tenant, &code).await;
    if gone.map_err(|error| intake.no_lists(&error))? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(not_there(&code))
}

async fn put(
    State(intake): Shared,
    caller: Caller,
    PathParams(code): PathParams<String>,
    QueryParams(asked): QueryParams<defining::Asked>,
    request: Request,
) -> Result<Response, Problem> {
    let tenant = defining::tenant(&caller, asked.tenant)?;
    if !is_code(&code) {
        return Err(defining::refused(vec![no_code("code", &code)]));
    }
    let (parts, body): (Parts, Body) = request.into_parts();
    let invalid = intake.metrics.refused(Refusal::Invalid);
    let accepted = "application/x-ndjson, one recipient a line";
    let (form, body) = bulk::opened(&parts.headers, body, accepted).inspect_err(|_| invalid.one())?;
    if form != Form::Lines {
        invalid.one();
        let detail = format!("a list comes as lines; accepted: {accepted}");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let before = intake.stored_list(&tenant, &code).await?;
    if before.is_none() {
        intake.check_lists_room(&tenant).await?;
    }
    let place = intake.broadcasts.uploads.place();
    let mut place = place.ok_or_else(|| intake.full())?;
    place.is_of(&tenant).ok_or_else(|| intake.full())?;
    let by = caller
        .principal()
        .map_or(&*intake.instance, |principal| &principal.name);
    let mut keeping = Keeping::new(&intake, &tenant);
    keeping.take_all(body).await.inspect_err(|_| invalid.one())?;
    let (version, recipients, pages) = (keeping.version, keeping.recipients, keeping.pages);
    let list = List {
        tenant,
        code,
        version,
        recipients,
        pages,
        at: clock::now(),
        by: by.to_owned(),
    };
    let put = intake.broadcasts.lists.put_list(&list).await;
    put.map_err(|error| intake.no_lists(&error))?;
    info!(
        list = list.code,
        recipients = list.recipients,
        "list {} is put",
        list.code
    );
    let status = if before.is_none() {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(shown(&list))).into_response())
}

fn not_there(code: &str) -> Problem {
    let detail = format!("there is no list {:?} of this tenant", excerpt(code));
    Problem::new(StatusCode::NOT_FOUND, detail)
}

/// A list on its way into the store.
struct Keeping<'a> {
    intake: &'a Intake,
    tenant: &'a str,
    version: String,
    pages: u32,
    recipients: u64,
    /// The page that is being filled.
    page: String,
    faults: Vec<FieldError>,
    until: Instant,
}

impl<'a> Keeping<'a> {
    fn new(intake: &'a Intake, tenant: &'a str) -> Self {
        let minutes = u64::from(intake.broadcasts.settings.upload_minutes_max);
        Self {
            intake,
            tenant,
            version: Uuid::now_v7().to_string(),
            pages: 0,
            recipients: 0,
            page: String::new(),
            faults: Vec::new(),
            until: Instant::now() + Duration::from_secs(minutes * 60),
        }
    }

    async fn take_all(&mut self, body: Body) -> Result<(), Problem> {
        let mut lines = BodyLines::new(body, self.intake.settings.event_bytes_max);
        while let Some(line) = lines
            .next()
            .await
            .map_err(|BrokeOff| broke_off("nothing was kept"))?
        {
            self.take(line).await?;
        }
        if self.recipients == 0 {
            let accepted = "at least one, a line each";
            return Err(refused(vec![FieldError::new("recipients", "are none", accepted)]));
        }
        if !self.faults.is_empty() {
            return Err(refused(std::mem::take(&mut self.faults)));
        }
        self.flush().await
    }

    async fn take(&mut self, line: Line) -> Result<(), Problem> {
        let index = self.recipients;
        let most = self.intake.broadcasts.settings.recipients_max;
        if index >= most {
            let error = FieldError::new("recipients", "are too many", format!("up to {most}"));
            return Err(refused(vec![error]));
        }
        if Instant::now() > self.until {
            let detail =
                "nothing was kept: the recipients were not there in time (broadcast.upload_minutes_max)";
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail));
        }
        self.recipients += 1;
        match self.checked(index, &line) {
            Ok(text) => {
                if self.faults.is_empty() {
                    self.page.push_str(text);
                    self.page.push('\n');
                }
            }
            Err(errors) => self.faults.extend(errors),
        }
        if self.faults.len() >= FAULTS_MAX {
            return Err(refused(std::mem::take(&mut self.faults)));
        }
        if self.page.len() >= PAGE_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// What can be said of a recipient without knowing the message.
    fn checked<'l>(&self, index: u64, line: &'l Line) -> Result<&'l str, Vec<FieldError>> {
        let settings = &self.intake.settings;
        let here = |problem: &str, accepted: String| {
            vec![FieldError::new(format!("recipients[{index}]"), problem, accepted)]
        };
        let Line::Item(json) = line else {
            return Err(here(
                "is too long",
                format!("up to {} bytes", settings.event_bytes_max),
            ));
        };
        let text = std::str::from_utf8(json).map_err(|_| here("is not UTF-8", "JSON in UTF-8".to_owned()))?;
        if nesting::is_deeper(text, settings.nesting_max) {
            return Err(here(
                "is nested too deep",
                format!("up to {} levels", settings.nesting_max),
            ));
        }
        match Message::any().recipient(text) {
            Ok(_) => Ok(text.trim()),
            Err(errors) => Err(errors.into_iter().map(|error| named(index, error)).collect()),
        }
    }

    async fn flush(&mut self) -> Result<(), Problem> {
        if self.page.is_empty() {
            return Ok(());
        }
        let mut page = std::mem::take(&mut self.page);
        if let Some(ring) = self.intake.sealer.ring() {
            let leaf = leaf(self.tenant, &self.version, self.pages);
            page = ring.seal_page(&leaf, &page).map_err(|error| {
                Problem::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("nothing was kept: {error}"),
                )
            })?;
        }
        let lists = &self.intake.broadcasts.lists;
        let put = lists.put_page(&self.version, self.pages, &page, clock::now());
        put.await.map_err(|error| self.intake.no_lists(&error))?;
        self.pages += 1;
        Ok(())
    }
}

pub(super) const fn leaf<'a>(tenant: &'a str, version: &'a str, number: u32) -> Leaf<'a> {
    Leaf {
        tenant,
        version,
        number,
    }
}

/// The error of a recipient, with its place.
pub(super) fn named(index: u64, error: FieldError) -> FieldError {
    let field = match error.field.as_str() {
        "body" => format!("recipients[{index}]"),
        field => format!("recipients[{index}].{field}"),
    };
    FieldError::new(field, error.problem, error.accepted)
}

fn refused(errors: Vec<FieldError>) -> Problem {
    let mut problem = defining::refused(errors);
    problem.detail.insert_str(0, "nothing was kept: ");
    problem
}

impl Intake {
    /// The list with this code, if there is one.
    pub(super) async fn stored_list(&self, tenant: &str, code: &str) -> Result<Option<List>, Problem> {
        if !is_code(code) {
            return Ok(None);
        }
        let found = self.broadcasts.lists.list(tenant, code).await;
        found.map_err(|error| self.no_lists(&error))
    }

    /// A page of a list, in clear; `None` when it is gone.
    pub(super) async fn list_page(&self, list: &List, number: u32) -> Result<Option<String>, Problem> {
        let page = self.broadcasts.lists.page(&list.version, number).await;
        let Some(page) = page.map_err(|error| self.no_lists(&error))? else {
            return Ok(None);
        };
        if !is_sealed_page(&page) {
            return Ok(Some(page));
        }
        let unavailable = |reason: &dyn std::fmt::Display| {
            let retry = self.settings.retry_after_seconds.max(1);
            Problem::unavailable(
                format!("nothing was sent: the list cannot be opened: {reason}"),
                retry,
            )
        };
        let Some(ring) = self.sealer.ring() else {
            return Err(unavailable(&"it is sealed, and no keys are set up here"));
        };
        let opened = ring.open_page(&leaf(&list.tenant, &list.version, number), &page);
        opened.map(Some).map_err(|error| match error {
            OpenError::UnknownKey { kid } => {
                unavailable(&format!("it is sealed with key {kid}, which is not here"))
            }
            OpenError::Broken(why) => {
                let detail = format!("nothing was sent: the list does not open: {why}; put it again");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
            }
        })
    }

    async fn check_lists_room(&self, tenant: &str) -> Result<(), Problem> {
        let most = self.broadcasts.settings.lists_max;
        let there = self.broadcasts.lists.lists(tenant, None, most).await;
        let there = there.map_err(|error| self.no_lists(&error))?;
        if u32::try_from(there.len()).is_ok_and(|count| count < most) {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::INSUFFICIENT_STORAGE,
            format!("the tenant has {most} lists, which is all that broadcast.lists_max allows"),
        ))
    }

    pub(super) fn no_lists(&self, error: &StoreError) -> Problem {
        debug!(%error, "lists cannot be read or written");
        if error.is_retryable() {
            let retry = self.settings.retry_after_seconds.max(1);
            return Problem::unavailable("lists are kept in the status store, which does not answer", retry);
        }
        let detail = "lists are kept in the status store, which refuses this";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }
}
