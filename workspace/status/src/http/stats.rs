//! `GET /messages/stats`: how many of a tenant's events stand where, in the words of queues.

use std::sync::Arc;

use axum::{Json, extract::State};
use posthaste_event::Status;
use posthaste_service::{Problem, auth::Caller, http::QueryParams};
use posthaste_store::Uncounted;
use serde::{Deserialize, Serialize};

use super::{Api, RETRY_SECONDS, answer::Time, unavailable};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    tenant: Option<String>,
}

/// What is answered.
#[derive(Debug, Serialize)]
pub(super) struct Stats {
    /// Whose; all tenants' without.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(flatten)]
    totals: Totals,
    /// When they were counted: a count is good for ten times as long as it took.
    timestamp: Time,
}

#[derive(Debug, Default, Serialize)]
struct Totals {
    /// Accepted, and not tried yet.
    waiting: u64,
    /// Waits for a time that was asked for.
    delayed: u64,
    /// Was tried, and will be again.
    retrying: u64,
    /// Sent, and what came after.
    completed: u64,
    /// Given up.
    failed: u64,
    /// Withdrawn, expired, or not sent on purpose.
    withdrawn: u64,
}

pub(super) async fn stats(
    State(api): State<Api>,
    caller: Caller,
    QueryParams(Asked { mut tenant }): QueryParams<Asked>,
) -> Result<Json<Stats>, Problem> {
    caller.narrow(&mut tenant, "tenant")?;
    let count = {
        let (store, tenant) = (Arc::clone(&api.store), tenant.clone());
        async move { store.counts(tenant.as_deref()).await }
    };
    let counted = api.counted.get(&tenant, count).await.map_err(|why| match why {
        Uncounted::Failed(problem) => unavailable(problem),
        Uncounted::Slow | Uncounted::Busy => Problem::unavailable(
            "the events are being counted, which takes longer than an answer should; ask again",
            RETRY_SECONDS,
        ),
    })?;
    let mut totals = Totals::default();
    for (status, count) in counted.counts {
        *match status {
            Status::Pending => &mut totals.waiting,
            Status::Scheduled => &mut totals.delayed,
            Status::Retrying => &mut totals.retrying,
            Status::Sent | Status::Delivered | Status::Read => &mut totals.completed,
            Status::DeadLettered => &mut totals.failed,
            Status::Cancelled | Status::Expired | Status::Skipped => &mut totals.withdrawn,
        } += count;
    }
    Ok(Json(Stats {
        tenant,
        totals,
        timestamp: Time(counted.at),
    }))
}
