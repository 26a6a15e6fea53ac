//! The dispatcher's lanes: what `Lane` does with its tasks, on a virtual clock. Windows, paces, outcomes and what is kept
//! of them are the product's own.

use std::collections::BTreeMap;

use posthaste_broker::{Consumed, Partition};
use posthaste_dispatcher::{
    pace::{Pace, Stay},
    pending::{Outcome, Pending},
    unsettled::{Refused, Settled, Unsettled},
    window::Window,
};
use posthaste_event::{ErrorKind, Failure, Millis, delivery::Policy};

use crate::{
    cluster::{Cluster, Deed, Sabotage},
    ledger::Broken,
    log::Place,
    node::{Ended, Hop, Move, Waits},
    traffic::Answer,
};

const WINDOW_RECORDS_MAX: usize = 60;
const QUEUE_WAIT_MS_MAX: f64 = 2_000.0;
const PARK_MS: (u32, u32) = (1_000, 60_000);
const PARKED_AGE_MS_MAX: Millis = 6 * 3_600_000;

/// How often queues are looked at.
const TICK_MS: Millis = 100;

/// The lanes of one process.
#[derive(Default)]
pub struct Lanes {
    lanes: BTreeMap<usize, Lane>,
    /// Per account: sends under way, and its pace.
    accounts: BTreeMap<usize, (usize, Pace)>,
    calls: BTreeMap<usize, Sending>,
    ticks: bool,
}

struct Lane {
    window: Window<Box<Pending>>,
    /// Records that something is finishing.
    under_way: BTreeMap<Place, Option<Starting>>,
    /// Records that were handed out again meanwhile.
    early: BTreeMap<Place, Consumed>,
    unsettled: Unsettled,
    /// The calls whose outcomes are kept there.
    unsettled_calls: BTreeMap<Place, usize>,
}

/// Marked as started before its call.
struct Starting {
    pending: Box<Pending>,
    account: usize,
}

struct Sending {
    lane: usize,
    account: usize,
    pending: Box<Pending>,
    answer: Answer,
}

impl Lane {
    fn new(accounts: usize) -> Self {
        let mut window = Window::new(WINDOW_RECORDS_MAX, 1 << 20);
        for _ in 0..accounts {
            window.add_account();
        }
        Self {
            window,
            under_way: BTreeMap::new(),
            early: BTreeMap::new(),
            unsettled: Unsettled::default(),
            unsettled_calls: BTreeMap::new(),
        }
    }
}

impl Lanes {
    /// Calls whose outcome is in memory only.
    pub fn calls(&self) -> impl Iterator<Item = usize> {
        let kept = self.lanes.values().flat_map(|lane| lane.unsettled_calls.values());
        self.calls.keys().chain(kept).copied()
    }

    pub fn forget(&mut self, partition: Partition) {
        for lane in self.lanes.values_mut() {
            lane.window
                .drop_where(|pending| pending.ticket.partition() == partition);
            lane.early.retain(|(of, _), _| *of != partition);
        }
    }

    fn account(&mut self, account: usize, places: usize) -> &mut (usize, Pace) {
        self.accounts
            .entry(account)
            .or_insert_with(|| (0, Pace::new(places)))
    }
}

impl Cluster {
    fn lane(&mut self, node: usize, lane: usize) -> &mut Lane {
        let accounts = self.accounts.len();
        let lanes = &mut self.nodes[node].lanes.lanes;
        lanes.entry(lane).or_insert_with(|| Lane::new(accounts))
    }

    /// `Lane::admit`.
    pub fn admit(&mut self, node: usize, lane: usize, consumed: Consumed) -> Result<(), Broken> {
        let place = (consumed.ticket.partition(), consumed.ticket.offset());
        let now = self.now;
        let by = self.nodes[node].name.clone();
        let this = self.lane(node, lane);
        if this.under_way.contains_key(&place) {
            this.early.insert(place, consumed);
            self.sees("handed out again too early");
            return Ok(());
        }
        let since = self.nodes[node]
            .held(place.0)
            .map_or(Millis::MAX, |held| held.since);
        let is_old = consumed.record.appended_at <= since;
        let mut pending =
            Pending::read(consumed, "events", false).map_err(|_| "a record cannot be read".to_owned())?;
        // The product cannot know whether somebody lost a call of it, and takes every old one for doubtful.
        pending.is_doubtful = is_old && self.ledger.has_lost_call(&pending.work.delivery.id);
        let this = self.lane(node, lane);
        if let Some(settled) = this.unsettled.settle(place, &pending.work.delivery) {
            let call = this.unsettled_calls.remove(&place);
            let Settled::Outcome(output) = settled else {
                return Err("nothing is too large here".to_owned());
            };
            self.sees("outcome recorded after all");
            let outcome = Outcome {
                ticket: pending.ticket,
                output,
                notes: Vec::new(),
            };
            self.record(node, lane, outcome, call);
            return Ok(());
        }
        this.unsettled_calls.remove(&place);
        let account = self.accounts.resolve(&pending.work.delivery);
        if pending.ticket.is_started() {
            let provider = self.accounts.get(account).provider.name().to_owned();
            self.sees("interrupted");
            let code = Some("interrupted".to_owned());
            let failure = Failure::new(ErrorKind::Ambiguous, &provider, code, "interrupted");
            let outcome = pending.failed(&provider, &provider, failure, &by, now);
            self.record(node, lane, outcome, None);
            return Ok(());
        }
        let pending = match self.ends_unsent(node, pending) {
            Ok(outcome) => {
                self.record(node, lane, outcome, None);
                return Ok(());
            }
            Err(pending) => pending,
        };
        if self.lane(node, lane).window.waiting(account) == 0 && self.has_place(node, account) {
            self.send(node, lane, account, pending)?;
        } else {
            self.lane(node, lane).window.push(account, pending);
            self.shed(node, lane, account);
            if !std::mem::replace(&mut self.nodes[node].lanes.ticks, true) {
                self.deed_at(node, TICK_MS, Deed::Tick);
            }
        }
        Ok(())
    }

    /// `Recorder::ends_unsent`.
    fn ends_unsent(&mut self, node: usize, pending: Box<Pending>) -> Result<Outcome, Box<Pending>> {
        let now = self.now;
        let member = &self.nodes[node];
        if member.requests.cancels(&pending.work.delivery) {
            let outcome = pending.cancelled(&self.nodes[node].name, now);
            self.sees("withdrawn in a lane");
            return Ok(outcome);
        }
        if pending.work.delivery.is_expired(now) {
            return Ok(pending.expired(&self.nodes[node].name, now));
        }
        Err(pending)
    }

    fn has_place(&mut self, node: usize, account: usize) -> bool {
        let places = self.accounts.get(account).concurrency_max;
        self.broker_away_until <= self.now && self.nodes[node].lanes.account(account, places).0 < places
    }

    /// `Lane::start_sends`.
    pub fn start_sends(&mut self, node: usize) -> Result<(), Broken> {
        let lanes: Vec<usize> = self.nodes[node].lanes.lanes.keys().copied().collect();
        for lane in lanes {
            for account in 0..self.accounts.len() {
                while self.lane(node, lane).window.waiting(account) > 0 && self.has_place(node, account) {
                    let Some(pending) = self.lane(node, lane).window.pop(account) else {
                        break;
                    };
                    match self.ends_unsent(node, pending) {
                        Ok(outcome) => self.record(node, lane, outcome, None),
                        Err(pending) => self.send(node, lane, account, pending)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// `Recorder::send`, up to the call.
    fn send(
        &mut self,
        node: usize,
        lane: usize,
        account: usize,
        pending: Box<Pending>,
    ) -> Result<(), Broken> {
        let place = (pending.ticket.partition(), pending.ticket.offset());
        let epoch = pending.ticket.epoch();
        let places = self.accounts.get(account).concurrency_max;
        self.nodes[node].lanes.account(account, places).0 += 1;
        if pending.work.delivery.policy == Policy::NoDuplicate {
            let starting = Some(Starting { pending, account });
            self.lane(node, lane).under_way.insert(place, starting);
            let one = Move {
                from: place,
                outputs: Vec::new(),
                call: None,
            };
            let hop = Hop {
                partition: place.0,
                epoch,
                moves: vec![one],
                waits: Waits::Start(lane),
            };
            self.hop(node, hop);
            return Ok(());
        }
        self.lane(node, lane).under_way.insert(place, None);
        self.call(node, lane, account, pending)
    }

    fn call(
        &mut self,
        node: usize,
        lane: usize,
        account: usize,
        pending: Box<Pending>,
    ) -> Result<(), Broken> {
        let place = (pending.ticket.partition(), pending.ticket.offset());
        let name = self.accounts.get(account).name.clone();
        let delivery = &pending.work.delivery;
        let key = delivery.idempotency_key(&name);
        let call = self.ledger.called(&delivery.id, place, &name, key, self.now)?;
        let answer = self.answer(account);
        self.deed_at(node, answer.after_ms, Deed::Answered(call));
        let sending = Sending {
            lane,
            account,
            pending,
            answer,
        };
        self.nodes[node].lanes.calls.insert(call, sending);
        Ok(())
    }

    fn free(&mut self, node: usize, account: usize) {
        let places = self.accounts.get(account).concurrency_max;
        let in_use = &mut self.nodes[node].lanes.account(account, places).0;
        *in_use = in_use.saturating_sub(1);
    }

    /// `Recorder::start` has its answer.
    pub fn lane_started(&mut self, node: usize, lane: usize, hop: &Hop, how: Ended) -> Result<(), Broken> {
        let place = hop.moves[0].from;
        let Some(Some(Starting { pending, account })) = self.lane(node, lane).under_way.remove(&place) else {
            return Ok(());
        };
        let (now, by) = (self.now, self.nodes[node].name.clone());
        match how {
            Ended::Done => match self.ends_unsent(node, pending) {
                Ok(outcome) => {
                    self.free(node, account);
                    self.record(node, lane, outcome, None);
                    Ok(())
                }
                Err(pending) => {
                    self.lane(node, lane).under_way.insert(place, None);
                    self.call(node, lane, account, pending)
                }
            },
            Ended::NoRoom => {
                self.free(node, account);
                let due = now + Millis::from(PARK_MS.0);
                let name = self.accounts.get(account).name.clone();
                self.record(node, lane, pending.parked(due, &name, &by, now), None);
                Ok(())
            }
            Ended::Fenced => {
                self.free(node, account);
                self.take_early(node, lane, place)
            }
        }
    }

    /// A provider answered.
    pub fn answered(&mut self, node: usize, call: usize) -> Result<(), Broken> {
        let Some(Sending {
            lane,
            account,
            pending,
            answer,
        }) = self.nodes[node].lanes.calls.remove(&call)
        else {
            return Ok(());
        };
        self.free(node, account);
        if self.sabotages(Sabotage::SendsAgain) {
            let (delivery, ticket) = (&pending.work.delivery, &pending.ticket);
            let place = (ticket.partition(), ticket.offset());
            let name = self.accounts.get(account).name.clone();
            let key = delivery.idempotency_key(&name);
            self.ledger.called(&delivery.id, place, &name, key, self.now)?;
        }
        let places = self.accounts.get(account).concurrency_max;
        let pace = &mut self.nodes[node].lanes.account(account, places).1;
        pace.finished(answer.after_ms as f64);
        let (now, by) = (self.now, self.nodes[node].name.clone());
        let carrier = self.accounts.get(account).clone();
        let outcome = match answer.result {
            Ok(message_id) => pending.sent(&carrier, message_id, &by, now),
            Err(failure) => pending.failed(carrier.provider.name(), &carrier.name, failure, &by, now),
        };
        self.record(node, lane, outcome, Some(call));
        Ok(())
    }

    fn record(&mut self, node: usize, lane: usize, mut outcome: Outcome, call: Option<usize>) {
        // `Recorder::forget_requests`.
        if outcome.is_final() {
            let (key, value) = (&outcome.output.key, outcome.output.value.as_deref());
            let forgotten = self.nodes[node].requests.forgets(key, value, None);
            outcome.notes.extend(forgotten);
        }
        let Outcome {
            ticket,
            output,
            notes,
        } = outcome;
        let (partition, offset, epoch) = ticket.spend();
        let place = (partition, offset);
        self.lane(node, lane).under_way.insert(place, None);
        let one = Move {
            from: place,
            outputs: std::iter::once(output).chain(notes).collect(),
            call,
        };
        let hop = Hop {
            partition,
            epoch,
            moves: vec![one],
            waits: Waits::Lane(lane),
        };
        self.hop(node, hop);
    }

    /// `Lane::on_done`.
    pub fn lane_recorded(&mut self, node: usize, lane: usize, hop: Hop, how: Ended) -> Result<(), Broken> {
        for Move { from, outputs, call } in hop.moves {
            let this = self.lane(node, lane);
            this.under_way.remove(&from);
            if how != Ended::Done {
                self.sees("outcome refused");
                let this = self.lane(node, lane);
                for output in outputs.into_iter().filter(|output| output.value.is_some()) {
                    this.unsettled.keep(from, Refused::Void(output));
                }
                if let Some(call) = call {
                    this.unsettled_calls.insert(from, call);
                    self.ledger.excuse(call);
                }
            }
            self.take_early(node, lane, from)?;
        }
        Ok(())
    }

    fn take_early(&mut self, node: usize, lane: usize, place: Place) -> Result<(), Broken> {
        match self.lane(node, lane).early.remove(&place) {
            Some(consumed) => self.admit(node, lane, consumed),
            None => Ok(()),
        }
    }

    pub fn tick(&mut self, node: usize) {
        self.nodes[node].lanes.ticks = false;
        let lanes: Vec<usize> = self.nodes[node].lanes.lanes.keys().copied().collect();
        let mut waiting = 0;
        for lane in lanes {
            for account in 0..self.accounts.len() {
                self.shed(node, lane, account);
                waiting += self.lane(node, lane).window.waiting(account);
            }
        }
        if waiting > 0 {
            self.nodes[node].lanes.ticks = true;
            self.deed_at(node, TICK_MS, Deed::Tick);
        }
    }

    /// `Lane::shed` and `Lane::put_off`.
    fn shed(&mut self, node: usize, lane: usize, account: usize) {
        let places = self.accounts.get(account).concurrency_max;
        let (now, by) = (self.now, self.nodes[node].name.clone());
        loop {
            let pace = &self.nodes[node].lanes.account(account, places).1;
            let queue_max = pace.within(QUEUE_WAIT_MS_MAX, 0.0);
            let Some(pending) = self.lane(node, lane).window.shed(account, queue_max) else {
                return;
            };
            let pending = match self.ends_unsent(node, pending) {
                Ok(outcome) => {
                    self.record(node, lane, outcome, None);
                    continue;
                }
                Err(pending) => pending,
            };
            let delivery = &pending.work.delivery;
            let outcome = if now - delivery.since > PARKED_AGE_MS_MAX {
                pending.dead_lettered(ErrorKind::RateLimited, "no_place", "no free place", &by, now)
            } else {
                let pace = &mut self.nodes[node].lanes.account(account, places).1;
                let stay = Stay {
                    waits_since: delivery.since,
                    crowded_since: delivery.since,
                    parked_for_ms: pending.parked_for_ms(now),
                };
                let slot = pace.reserve(&stay, PARK_MS, now, 0.0);
                self.sees("parked");
                pending.parked(slot, &self.accounts.get(account).name, &by, now)
            };
            self.record(node, lane, outcome, None);
        }
    }
}
