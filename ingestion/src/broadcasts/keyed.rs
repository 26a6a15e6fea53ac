//! A broadcast whose `Idempotency-Key` may have been said before.
//!
//! What a stream of lines says is known when all of it was read, so the key is claimed at the end: after the chunks are durable, which
//! are void by themselves, and before it is said what they mean. Whoever says the same again uploads it again, and is answered
//! with the first one; what it brought is dropped.

use posthaste_broker::{Mark, Record};
use posthaste_event::{Status, Topic, broadcast::Broadcast, clock};
use posthaste_service::Problem;
use posthaste_store::Claim;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    Intake,
    idempotency::{Decision, Keys, LOOK, LOOK_MAX},
};

/// Whose the key of a broadcast is.
#[derive(Debug)]
pub(super) enum Claimed {
    /// It is this broadcast's now.
    Ours(Box<Claim>),
    /// It is that of an earlier broadcast, which is known.
    Before(String),
}

impl Intake {
    /// Claims the key of broadcast `id`, all of which is durable but not said.
    ///
    /// # Errors
    /// When the key was said with another body, or it cannot be found out whether it was.
    pub(super) async fn claim_broadcast(&self, keys: &Keys, id: &str) -> Result<Claimed, Problem> {
        let until = self.patience();
        let mut look = LOOK;
        loop {
            let ours = self.broadcast_claim(keys, id).await?;
            let wanted = [ours];
            let firsts = self.claim(&wanted).await?;
            match self.decide(keys, &firsts) {
                Decision::Append => {
                    let [ours] = wanted;
                    return Ok(Claimed::Ours(Box::new(ours)));
                }
                Decision::Before(before) => return Ok(Claimed::Before(before.event_id)),
                Decision::Refuse(problem) => return Err(*problem),
                Decision::Held(held) if Instant::now() >= until => {
                    return Err(self.still_taken(&held.event_id));
                }
                Decision::Held(held) if held.lease_until <= clock::now() => {
                    if self.was_said(*held).await? {
                        continue;
                    }
                }
                Decision::Held(_) => {
                    sleep(look).await;
                    look = (look * 2).min(LOOK_MAX);
                }
            }
        }
    }

    async fn broadcast_claim(&self, keys: &Keys, id: &str) -> Result<Claim, Problem> {
        let key = Broadcast::key(id);
        let mark = self.marks(&[(Topic::Control, key.as_bytes())]).await?.pop();
        let Mark { partition, offset } = mark.ok_or_else(|| self.still_taken(id))?;
        let now = clock::now();
        Ok(Claim {
            id: keys.ids.concat(),
            holder: Uuid::new_v4().simple().to_string(),
            lease_until: self.lease_until(now),
            request: keys.request.clone(),
            event_id: id.to_owned(),
            correlation_id: id.to_owned(),
            status: Status::Pending,
            topic: partition.topic,
            partition: partition.number,
            offset,
            is_confirmed: false,
            expires_at: self.key_expires_at(now),
        })
    }

    /// Finds out what became of the broadcast of somebody who did not confirm in time, and says so in its claim: confirms it, or
    /// gives it up. Answers whether it was said.
    async fn was_said(&self, held: Claim) -> Result<bool, Problem> {
        let holder = Uuid::new_v4().simple().to_string();
        if !self.take_over(&held, &holder).await? {
            return Ok(false);
        }
        let held = Claim { holder, ..held };
        // That it was forgotten since says that it was there, too.
        let key = Broadcast::key(&held.event_id);
        let is_it = move |record: &Record| record.key.as_deref() == Some(key.as_bytes());
        let is_known = self.broadcasts.known.get(&held.event_id).is_some();
        let was_said = is_known || self.is_on_log(&held, is_it).await?;
        let claims = [held];
        if was_said {
            self.confirm(&claims).await;
        } else {
            self.release(&claims).await;
        }
        Ok(was_said)
    }
}
