//! What must be true of every event, checked at each step of it. It knows nothing of how the cluster works: it is told of each
//! record that is appended, each call of a provider, and nothing else.

use std::collections::BTreeMap;

use posthaste_event::{
    Channel, ErrorKind, Millis, Priority, Status, Topic, delivery::Policy, status::Writer,
};
use serde::Deserialize;

use crate::log::Place;

/// A promise that was broken, in words.
pub type Broken = String;

/// What the ledger reads of a record.
#[derive(Deserialize)]
struct Glance {
    delivery: Facts,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Facts {
    id: String,
    step: u32,
    generation: u32,
    status: Status,
    channel: Channel,
    priority: Priority,
    created_at: Millis,
    due_at: Option<Millis>,
    wheel: Option<Moves>,
    sends: BTreeMap<String, Tries>,
    error: Option<Kind>,
}

#[derive(Deserialize)]
struct Moves {
    moves: u32,
}

#[derive(Deserialize)]
struct Tries {
    tries: u32,
}

#[derive(Deserialize)]
struct Kind {
    kind: ErrorKind,
}

/// One event.
pub struct Life {
    /// Where its one record is; none when it ended without a letter.
    place: Option<Place>,
    step: u32,
    pub generation: u32,
    pub status: Status,
    finals: u32,
    due: Option<Millis>,
    expires: Option<Millis>,
    policy: Policy,
    calls: Vec<usize>,
    pub created_at: Millis,
    /// Somebody asked for this generation to be withdrawn.
    asked: Option<u32>,
}

/// One call of a provider.
pub struct Call {
    event: usize,
    generation: u32,
    account: String,
    key: String,
    /// How it ended, once that is recorded: `None` within is success.
    recorded: Option<Option<ErrorKind>>,
    /// A fault took it away before its outcome was recorded.
    excused: bool,
}

/// Every event and every call.
#[derive(Default)]
pub struct Ledger {
    lives: Vec<Life>,
    calls: Vec<Call>,
    pub repeated: u64,
    pub replayed: u64,
}

/// One hop, as the log saw it.
pub struct Hop<'a> {
    pub from: Place,
    /// Where the event went, and the record's value.
    pub to: (Place, &'a [u8]),
    pub writer: Writer,
    pub call: Option<usize>,
}

/// The number in an event's id.
pub fn number_of(id: &str) -> usize {
    id[1..].parse().unwrap()
}

/// How often a provider may be tried: the table of the design, not the rule file.
const fn tries_max(channel: Channel, provider: &[u8], priority: Priority) -> u32 {
    match (channel, provider) {
        (Channel::Push, b"firebase") | (Channel::Sms, b"messagebird") => 2,
        (Channel::Push | Channel::InApp, _) | (Channel::Sms, _) | (Channel::Email, b"sendgrid") => 3,
        (Channel::Email, _) => 5,
        (Channel::Slack, _) => 4,
        (Channel::Webhook, _) if matches!(priority, Priority::Low) => 2,
        (Channel::Webhook, _) => 5,
    }
}

impl Ledger {
    /// An event was answered with 2xx.
    pub fn accepted(&mut self, place: Place, value: &[u8], policy: Policy, expires: Option<Millis>) {
        let facts = read(value);
        self.lives.push(Life {
            place: Some(place),
            step: 0,
            generation: 0,
            status: facts.status,
            finals: 0,
            due: facts.due_at,
            expires,
            policy,
            calls: Vec::new(),
            created_at: facts.created_at,
            asked: None,
        });
    }

    /// Whether nobody knows what came of its last call, if that was in this generation.
    pub fn has_lost_call(&self, id: &str) -> bool {
        let life = &self.lives[number_of(id)];
        let last = life.calls.last().map(|call| &self.calls[*call]);
        last.is_some_and(|call| call.generation == life.generation && call.recorded.is_none())
    }

    /// Somebody asked for an event to be withdrawn.
    pub fn asked(&mut self, number: usize) {
        let life = &mut self.lives[number];
        life.asked = Some(life.generation);
    }

    /// What must be true of an event that was withdrawn.
    fn withdrawn(&self, life: &Life, error: Option<ErrorKind>) -> Result<(), &'static str> {
        if life.asked != Some(life.generation) {
            return Err("is withdrawn, and nobody asked for that");
        }
        let mut calls = life.calls.iter().map(|call| &self.calls[*call]);
        let is_in_doubt = calls.any(|call| {
            call.generation == life.generation
                && matches!(call.recorded, None | Some(Some(ErrorKind::Ambiguous)))
        });
        if is_in_doubt && error != Some(ErrorKind::Ambiguous) {
            return Err("is withdrawn after a send in doubt, and does not say so");
        }
        Ok(())
    }

    /// A hop went through.
    pub fn hopped(&mut self, hop: &Hop<'_>) -> Result<(), Broken> {
        let facts = read(hop.to.1);
        let id = facts.id.clone();
        let told = |what: String| Err(format!("event {id}: {what}"));
        let Some(life) = self.lives.get_mut(number_of(&id)) else {
            return told("was never accepted".into());
        };
        if life.place != Some(hop.from) {
            return told(format!("hops from {:?}, and is at {:?}", hop.from, life.place));
        }
        let topic = hop.to.0.0.topic;
        life.place = (topic != Topic::Status).then_some(hop.to.0);
        if facts.wheel.as_ref().is_some_and(|wheel| wheel.moves > 0) {
            if (facts.step, facts.status) != (life.step, life.status) {
                return told(format!(
                    "a move in the wheel says {} {}",
                    facts.step, facts.status
                ));
            }
            return Ok(());
        }
        if facts.step != life.step + 1 {
            return told(format!("step {} follows {}", facts.step, life.step));
        }
        if !life.status.may_become(facts.status, hop.writer) {
            return told(format!(
                "{:?} made {} of {}",
                hop.writer, facts.status, life.status
            ));
        }
        let replayed = u32::from(hop.writer == Writer::Replay);
        self.replayed += u64::from(replayed);
        if facts.generation != life.generation + replayed {
            return told(format!(
                "generation {} follows {}",
                facts.generation, life.generation
            ));
        }
        if replayed == 1 {
            (life.finals, life.due) = (0, None);
        }
        life.finals += u32::from(facts.status.is_final());
        if life.finals > 1 || (life.finals == 1 && !facts.status.is_final()) {
            return told(format!("goes on as {} after its end", facts.status));
        }
        (life.step, life.generation, life.status) = (facts.step, facts.generation, facts.status);
        life.due = facts.due_at;
        let error = facts.error.as_ref().map(|error| error.kind);
        if facts.status == Status::Cancelled
            && let Err(what) = self.withdrawn(&self.lives[number_of(&id)], error)
        {
            return told(what.into());
        }
        for (provider, sends) in &facts.sends {
            let max = tries_max(facts.channel, provider.as_bytes(), facts.priority);
            if sends.tries > max {
                return told(format!("{} tries of {provider}, at most {max}", sends.tries));
            }
        }
        if let Some(call) = hop.call {
            let kind = facts.error.map(|error| error.kind);
            let call = &mut self.calls[call];
            if call.recorded.is_some() {
                return told("one call is recorded twice".into());
            }
            call.recorded = Some(kind);
        }
        Ok(())
    }

    /// A provider is called for the record at `place`. Gives the call's number.
    pub fn called(
        &mut self,
        id: &str,
        place: Place,
        account: &str,
        key: String,
        now: Millis,
    ) -> Result<usize, Broken> {
        let told = |what: String| Err(format!("event {id}: {what}"));
        let event = number_of(id);
        let life = &mut self.lives[event];
        if life.place != Some(place) {
            return told(format!("is sent from {place:?}, and is at {:?}", life.place));
        }
        if life.status.is_final() {
            return told(format!("is sent again, though it is {}", life.status));
        }
        if life.due.is_some_and(|due| now < due) {
            return told(format!("is sent at {now}, before {:?}", life.due));
        }
        if life.expires.is_some_and(|expires| now >= expires) {
            return told(format!(
                "is sent at {now}, though it expired at {:?}",
                life.expires
            ));
        }
        let generation = life.generation;
        let earlier = life.calls.iter().map(|call| &self.calls[*call]);
        if life.policy == Policy::NoDuplicate
            && earlier.clone().any(|call| {
                call.generation == generation
                    && matches!(call.recorded, None | Some(None | Some(ErrorKind::Ambiguous)))
            })
        {
            return told("may go out twice, and must not".into());
        }
        if let Some(last) = earlier.clone().rev().find(|call| call.account == account) {
            let is_same = last.generation == generation;
            let mut with_key = earlier.filter(|call| call.account == account && call.key == last.key);
            let in_doubt = with_key
                .clone()
                .any(|call| call.recorded == Some(Some(ErrorKind::Ambiguous)));
            let stays = is_same && (last.recorded.is_none() || in_doubt);
            // Whoever comes after does not always know of a send that a fault took away: the same key does no harm then.
            let may_stay = with_key.any(|call| call.recorded.is_none() || call.excused);
            if last.key != key && stays || last.key == key && !stays && !may_stay {
                return told(format!("goes out by {account} as {key} after {}", last.key));
            }
            self.repeated += u64::from(last.recorded.is_none());
        }
        self.calls.push(Call {
            event,
            generation,
            account: account.to_owned(),
            key,
            recorded: None,
            excused: false,
        });
        life.calls.push(self.calls.len() - 1);
        Ok(self.calls.len() - 1)
    }

    /// A fault took the outcome of this call away.
    pub fn excuse(&mut self, call: usize) {
        self.calls[call].excused = true;
    }

    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    pub fn lives(&self) -> &[Life] {
        &self.lives
    }

    /// Nothing is under way any more: every event has ended, and every call is accounted for.
    pub fn settled(&self) -> Result<(), Broken> {
        for (number, life) in self.lives.iter().enumerate() {
            if life.finals != 1 || !life.status.is_final() {
                return Err(format!(
                    "event e{number} is {} with {} ends, at {:?}",
                    life.status, life.finals, life.place
                ));
            }
        }
        match self
            .calls
            .iter()
            .find(|call| call.recorded.is_none() && !call.excused)
        {
            Some(call) => Err(format!(
                "event e{}: a call without an outcome or a fault",
                call.event
            )),
            None => Ok(()),
        }
    }
}

impl Life {
    /// Its last step.
    pub const fn step(&self) -> u32 {
        self.step
    }
}

fn read(value: &[u8]) -> Facts {
    serde_json::from_slice::<Glance>(value).unwrap().delivery
}
