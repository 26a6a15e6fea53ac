//! How the hops of the model end.

use posthaste_event::keys::{KeyState, Part};
use tokio::time::Instant;

use super::{Asked, Away, Ended, PARTITION, Parked, Spot, World, name};

impl World {
    pub(super) fn commit(&mut self, asked: &Asked) {
        match asked {
            Asked::Outcome {
                event,
                spot,
                is_final,
                said,
            } => {
                self.log[spot.seq as usize] = None;
                if *is_final {
                    assert!(self.finals.insert(*event), "{event:?} is final twice");
                } else {
                    self.away.push(Away {
                        event: *event,
                        spot: *spot,
                        after: None,
                    });
                }
                if let Some(state) = said {
                    self.say(event.key, state.part(), Some(*state));
                }
            }
            Asked::Park { key, items, tail } => {
                for away in items {
                    self.log[away.spot.seq as usize] = None;
                    self.away.push(*away);
                }
                let state = KeyState::Tail {
                    seq: tail.seq,
                    partition: PARTITION.number,
                    nth: tail.nth,
                };
                self.say(*key, Part::Tail, Some(state));
            }
            Asked::Forget { key, parts, done, .. } => {
                if let Some(Spot { seq, nth }) = *done {
                    self.say(*key, Part::Done, Some(KeyState::Done { seq, nth }));
                }
                for part in parts {
                    self.say(*key, *part, None);
                }
            }
        }
    }

    /// One of the hops is durable, or refused.
    pub(super) fn settle(&mut self, index: usize, done: bool) {
        if self.asked.is_empty() {
            return;
        }
        let asked = self.asked.remove(index % self.asked.len());
        if done {
            self.commit(&asked);
        }
        let now = Instant::now();
        match asked {
            Asked::Outcome {
                event,
                is_final,
                said,
                spot,
            } => {
                let key = name(event.key);
                self.heads.remove(&event.key);
                let how = match (done, is_final) {
                    (false, _) => Ended::Back,
                    (true, true) => Ended::Final,
                    (true, false) => Ended::Left,
                };
                if let (true, Some(state)) = (done, said) {
                    self.view.apply(&key, state.part(), Some(state));
                }
                self.first.ended(&key, how, now);
                self.pump(event.key);
                if !done {
                    self.first
                        .admit(&key, PARTITION, spot.seq, (10, event), Instant::now());
                    self.pump(event.key);
                }
            }
            Asked::Park { key, items, .. } => {
                let seqs: Vec<_> = items.iter().map(|away| away.spot.seq).collect();
                let how = if done { Parked::Durable } else { Parked::Refused };
                self.first.parked(&name(key), &seqs, how, now);
                self.pump(key);
                if !done {
                    for away in items.iter().rev() {
                        self.first.admit(
                            &name(key),
                            PARTITION,
                            away.spot.seq,
                            (10, away.event),
                            Instant::now(),
                        );
                        self.pump(key);
                    }
                }
            }
            Asked::Forget {
                key, parts, is_all, ..
            } => {
                if done {
                    for part in parts {
                        self.view.apply(&name(key), part, None);
                    }
                }
                self.first.forgotten(&name(key), done && is_all);
                if done {
                    self.pump(key);
                }
            }
        }
    }
}
