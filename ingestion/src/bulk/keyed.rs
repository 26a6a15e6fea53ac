//! The items of a batch that must not count twice.

use std::collections::HashMap;

use axum::http::StatusCode;
use posthaste_broker::NewRecord;
use posthaste_event::Delivery;
use posthaste_service::Problem;
use posthaste_store::Claim;

use super::answer::Outcome;
use crate::{
    Intake,
    idempotency::{Asked, Decision, Taken, Taking},
};

/// What is to be done with an item whose keys were tried.
#[derive(Debug)]
pub(super) enum Tried {
    /// It is appended with the batch.
    Ours {
        delivery: Box<Delivery>,
        claims: Vec<Claim>,
    },
    /// Decided.
    Decided(Outcome),
    /// Taken by itself when the batch is through: somebody else has it, or an item before it.
    Later(Box<Asked>),
}

impl From<Taken> for Outcome {
    fn from(taken: Taken) -> Self {
        Self::Accepted {
            event_id: taken.event_id,
            correlation_id: taken.correlation_id,
            status: taken.status,
        }
    }
}

/// Tries the keys of all items at once; what is ours is added to `records`.
pub(super) async fn try_all(
    intake: &Intake,
    asked: Vec<Asked>,
    all_or_nothing: bool,
    records: &mut Vec<NewRecord>,
) -> Vec<Tried> {
    let (decisions, refusal) = match decide(intake, &asked).await {
        Ok(decisions) => {
            let refusal = refusal_of_all(&decisions, all_or_nothing);
            (decisions, refusal)
        }
        Err(problem) => return asked.iter().map(|_| decided(problem.clone())).collect(),
    };
    let mut tried = Vec::with_capacity(asked.len());
    let mut lost = Vec::new();
    for (asked, decision) in asked.into_iter().zip(decisions) {
        tried.push(match (decision, &refusal) {
            (Some((Decision::Refuse(problem), claims)), _) => {
                lost.extend(claims);
                decided(*problem)
            }
            (decision, Some(refusal)) => {
                lost.extend(decision.into_iter().flat_map(|(_, claims)| claims));
                decided(refusal.clone())
            }
            (Some((Decision::Append, claims)), None) => {
                records.push(asked.record);
                Tried::Ours {
                    delivery: Box::new(asked.delivery),
                    claims,
                }
            }
            (Some((Decision::Before(taken), claims)), None) => {
                lost.extend(claims);
                Tried::Decided(taken.into())
            }
            (Some((Decision::Held(_), claims)), None) => {
                lost.extend(claims);
                Tried::Later(Box::new(asked))
            }
            (None, None) => Tried::Later(Box::new(asked)),
        });
    }
    intake.release(&lost).await;
    tried
}

fn decided(problem: Problem) -> Tried {
    Tried::Decided(Outcome::refused(problem))
}

/// What was decided of an item, and its claims that are ours; nothing when an item before it has the same key.
type Decided = Option<(Decision, Vec<Claim>)>;

async fn decide(intake: &Intake, asked: &[Asked]) -> Result<Vec<Decided>, Problem> {
    let mut seen: HashMap<&str, &str> = HashMap::new();
    let mut firsts: Vec<&Asked> = Vec::with_capacity(asked.len());
    let mut is_first = Vec::with_capacity(asked.len());
    // These are refused when their turn comes by itself.
    let used = intake.were_used_before(&asked.iter().collect::<Vec<_>>()).await;
    let used = used.map_err(|error| intake.claims_failed(&error))?;
    for (one, is_used) in asked.iter().zip(used) {
        let is_new = !is_used && one.keys.ids.iter().all(|id| !seen.contains_key(id.as_str()));
        seen.extend(
            one.keys
                .ids
                .iter()
                .map(|id| (id.as_str(), one.keys.request.as_str())),
        );
        is_first.push(is_new);
        if is_new {
            firsts.push(one);
        }
    }
    let wanted = intake.wanted(&firsts).await?;
    let flat: Vec<Claim> = wanted.iter().flatten().cloned().collect();
    let mut owners = intake.claim(&flat).await?.into_iter();
    let mut tried = firsts.into_iter().zip(wanted).map(|(one, claims)| {
        let owners: Vec<Option<Claim>> = owners.by_ref().take(claims.len()).collect();
        let decision = intake.decide(&one.keys, &owners);
        let ours = claims
            .into_iter()
            .zip(owners)
            .filter_map(|(claim, owner)| owner.is_none().then_some(claim))
            .collect();
        (decision, ours)
    });
    Ok(is_first
        .into_iter()
        .map(|is_first| if is_first { tried.next() } else { None })
        .collect())
}

/// Why a batch that is taken whole or not at all is not.
fn refusal_of_all(decisions: &[Decided], all_or_nothing: bool) -> Option<Problem> {
    let stands_in_the_way = |decided: &Decided| {
        // The same key twice is told apart from a repetition only when the first is through.
        matches!(decided, None | Some((Decision::Refuse(_) | Decision::Held(_), _)))
    };
    (all_or_nothing && decisions.iter().any(stands_in_the_way)).then(|| {
        Problem::new(
            StatusCode::CONFLICT,
            "nothing was stored: a key or event id of the request was used before, is said twice, or is being taken now",
        )
    })
}

/// Takes those that had to wait, one after the other.
pub(super) async fn take_later(intake: &Intake, asked: Box<Asked>, until: tokio::time::Instant) -> Outcome {
    match Taking::new(intake, *asked, until).take().await {
        Ok(taken) => taken.into(),
        Err(problem) => Outcome::refused(problem),
    }
}
