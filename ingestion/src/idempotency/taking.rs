//! Taking an event whose keys may have been said before.

use std::time::Duration;

use posthaste_event::{Status, clock};
use posthaste_service::Problem;
use posthaste_store::Claim;
use tokio::time::{Instant, sleep};

use super::{Asked, Keys, Said};
use crate::{CLAIM_MAX, Intake};

/// Between two looks at a claim that somebody else holds.
pub(crate) const LOOK: Duration = Duration::from_millis(5);
pub(crate) const LOOK_MAX: Duration = Duration::from_millis(200);
/// How much longer than a lease somebody else's claim is waited for.
const BEYOND_LEASE: Duration = Duration::from_secs(2);

/// What the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) event_id: String,
    pub(crate) correlation_id: String,
    pub(crate) status: Status,
    /// It was taken before.
    pub(crate) is_again: bool,
}

impl Taken {
    fn before(claim: &Claim) -> Self {
        Self {
            event_id: claim.event_id.clone(),
            correlation_id: claim.correlation_id.clone(),
            status: claim.status,
            is_again: true,
        }
    }
}

/// What to do about an event whose keys were tried.
#[derive(Debug)]
pub(crate) enum Decision {
    /// They are ours.
    Append,
    /// It was taken before.
    Before(Taken),
    /// Not at all.
    Refuse(Box<Problem>),
    /// Somebody else has this claim and has not confirmed it.
    Held(Box<Claim>),
}

/// Claims on an event's keys, and for each the one that was there before; without one it is ours now.
struct Tried {
    ours: Vec<Claim>,
    firsts: Vec<Option<Claim>>,
}

impl Tried {
    fn into_won(self) -> Vec<Claim> {
        let claims = self.ours.into_iter().zip(self.firsts);
        claims
            .filter_map(|(ours, first)| first.is_none().then_some(ours))
            .collect()
    }
}

/// One event on its way through its claims.
pub(crate) struct Taking<'a> {
    intake: &'a Intake,
    asked: Asked,
    until: Instant,
}

impl Intake {
    /// What the first owners of an event's keys mean for it.
    pub(crate) fn decide(&self, keys: &Keys, firsts: &[Option<Claim>]) -> Decision {
        let others = || firsts.iter().flatten();
        let ring = self.sealer.ring();
        if let Some(other) = others().find(|other| !keys.are_of(&other.request, ring.as_deref())) {
            return Decision::Refuse(Box::new(self.conflict(Said::of(&other.id))));
        }
        if let Some(before) = others().find(|other| other.is_confirmed) {
            return Decision::Before(Taken::before(before));
        }
        match others().next() {
            Some(held) => Decision::Held(Box::new(held.clone())),
            None => Decision::Append,
        }
    }

    /// Has the claim from now on, or still; not if somebody else got it meanwhile, or it took too long.
    pub(crate) async fn take_over(&self, seen: &Claim, holder: &str) -> Result<bool, Problem> {
        let began = Instant::now();
        let lease_until = self.lease_until(clock::now());
        let taken = self.claims.take_over(seen, holder, lease_until).await;
        let is_ours = taken.map_err(|error| self.claims_failed(&error))?;
        Ok(is_ours && began.elapsed() < CLAIM_MAX)
    }

    /// Until when somebody else's claim is waited for.
    pub(crate) fn patience(&self) -> Instant {
        Instant::now() + self.lease() + BEYOND_LEASE
    }
}

impl<'a> Taking<'a> {
    pub(crate) const fn new(intake: &'a Intake, asked: Asked, until: Instant) -> Self {
        Self { intake, asked, until }
    }

    /// Takes the event, once.
    ///
    /// # Errors
    /// Why it was not taken, or is not known to be.
    pub(crate) async fn take(mut self) -> Result<Taken, Problem> {
        let mut look = LOOK;
        let mut tried = self.begin().await?;
        loop {
            let decision = self.intake.decide(&self.asked.keys, &tried.firsts);
            if matches!(decision, Decision::Append) {
                return self.append(&tried.ours).await;
            }
            self.intake.release(&tried.into_won()).await;
            match decision {
                Decision::Before(taken) => return Ok(taken),
                Decision::Refuse(problem) => return Err(*problem),
                Decision::Held(held) if Instant::now() >= self.until => {
                    return Err(self.intake.still_taken(&held.event_id));
                }
                Decision::Held(held) if held.lease_until <= clock::now() => {
                    if let Some(taken) = self.inherit(*held).await? {
                        return Ok(taken);
                    }
                }
                Decision::Held(_) => {
                    sleep(look).await;
                    look = (look * 2).min(LOOK_MAX);
                }
                Decision::Append => {}
            }
            tried = self.try_keys().await?;
        }
    }

    /// Tries its keys for the first time, and looks meanwhile whether its id was used in a way that no claim tells.
    async fn begin(&self) -> Result<Tried, Problem> {
        let asked = [&self.asked];
        let (used, tried) = tokio::join!(self.intake.were_used_before(&asked), self.try_keys());
        let tried = tried?;
        let refusal = match used {
            Ok(used) if used.contains(&true) => self.intake.conflict(Said::EventId),
            Err(error) => self.intake.claims_failed(&error),
            Ok(_) if self.intake.are_in_time(&tried.ours) => return Ok(tried),
            Ok(_) => {
                // The look took longer than claims may wait for their event.
                self.intake.release(&tried.into_won()).await;
                return self.try_keys().await;
            }
        };
        self.intake.release(&tried.into_won()).await;
        Err(refusal)
    }

    async fn try_keys(&self) -> Result<Tried, Problem> {
        let ours = self.intake.wanted(&[&self.asked]).await?.remove(0);
        let firsts = self.intake.claim(&ours).await?;
        Ok(Tried { ours, firsts })
    }

    async fn append(self, ours: &[Claim]) -> Result<Taken, Problem> {
        let delivery = &self.asked.delivery;
        self.intake
            .append_claimed(delivery, self.asked.record, ours)
            .await?;
        self.intake.accepted(delivery);
        Ok(Taken {
            event_id: self.asked.delivery.id,
            correlation_id: self.asked.delivery.correlation_id,
            status: self.asked.delivery.status,
            is_again: false,
        })
    }

    /// Takes over from somebody who did not confirm in time; `None` when somebody else did.
    async fn inherit(&mut self, held: Claim) -> Result<Option<Taken>, Problem> {
        let intake = self.intake;
        let holder = uuid::Uuid::new_v4().simple().to_string();
        if !intake.take_over(&held, &holder).await? {
            return Ok(None);
        }
        let ours = [Claim {
            holder,
            // Until when its event can have been appended by those before us.
            ..held
        }];
        let [claim] = &ours;
        if intake.is_there(claim).await? {
            intake.confirm(&ours).await;
            return Ok(Some(Taken::before(claim)));
        }
        let (delivery, record) = self.asked.renamed(intake, claim)?;
        // Looking may have taken longer than the lease, and somebody else may be at it by now.
        if !intake.take_over(claim, &claim.holder).await? {
            return Ok(None);
        }
        intake.append_claimed(&delivery, record, &ours).await?;
        intake.accepted(&delivery);
        Ok(Some(Taken {
            is_again: false,
            ..Taken::before(claim)
        }))
    }
}
