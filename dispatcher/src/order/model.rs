//! Both lanes, the keys topic and the wheel as a model, driven by chance: outcomes in any order, views that lag, crashes and
//! takeovers. At no time may an event go before all that were accepted before it with its key are final; and in the end all
//! are final, and nothing is left of any key.

mod hops;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use posthaste_broker::Partition;
use posthaste_event::{
    Millis, Topic,
    keys::{KeyState, OrderKey, Part},
};
use proptest::prelude::*;
use tokio::time::Instant;

use super::{
    first::{self, Ended, First, Parked, Step},
    turns::{self, Place, Turns, Verdict},
    view::{Known, Spot, View},
    wait::Between,
};

const PARTITION: Partition = Partition {
    topic: Topic::Default,
    number: 3,
};
const NOW: Millis = 1_700_000_000_000;
const KEYS: usize = 3;

/// An event: its key and its number, in the order of acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    key: usize,
    number: u64,
}

/// An event on its way to the lane of retries.
#[derive(Debug, Clone, Copy)]
struct Away {
    event: Event,
    spot: Spot,
    after: Option<u64>,
}

type Record = (OrderKey, Part, Option<KeyState>);

/// A hop that was asked for and is not durable.
#[derive(Debug)]
enum Asked {
    Outcome {
        event: Event,
        spot: Spot,
        is_final: bool,
        said: Option<KeyState>,
    },
    Park {
        key: usize,
        items: Vec<Away>,
        tail: Spot,
    },
    Forget {
        key: usize,
        parts: Vec<Part>,
        is_all: bool,
        done: Option<Spot>,
    },
}

struct World {
    /// The topic of first attempts; `None` where a record is finished.
    log: Vec<Option<Event>>,
    read: usize,
    topic: Vec<Record>,
    /// How much of the topic is known.
    known: usize,
    view: View,
    first: First<Event>,
    turns: Turns<Event>,
    /// In the hands of the lane of first attempts, with their turn.
    heads: BTreeMap<usize, (Spot, Event)>,
    asked: Vec<Asked>,
    /// In the wheel, or failed.
    away: Vec<Away>,
    /// On the topic of retries, and whether the lane has it.
    back: Vec<(Away, bool)>,
    /// In the hands of that lane, with their turn.
    running: BTreeMap<usize, Away>,
    finals: BTreeSet<Event>,
    epoch: u64,
    sends: usize,
}

fn name(key: usize) -> OrderKey {
    OrderKey {
        key: format!("t/{key}"),
        critical: false,
    }
}

fn first() -> First<Event> {
    First::new(first::Bounds {
        key_records_max: 2,
        key_bytes_max: 1_000,
        records_max: 5,
        bytes_max: 1_000,
        wait_max: Duration::from_secs(60),
    })
}

fn turns() -> Turns<Event> {
    Turns::new(turns::Bounds {
        records_max: 4,
        bytes_max: 1_000,
        wait_ms_max: 60_000,
        between: Between {
            ms_min: 1_000,
            ms_max: 60_000,
            near: 2,
        },
    })
}

impl World {
    fn new() -> Self {
        Self {
            log: Vec::new(),
            read: 0,
            topic: Vec::new(),
            known: 0,
            view: View::default(),
            first: first(),
            turns: turns(),
            heads: BTreeMap::new(),
            asked: Vec::new(),
            away: Vec::new(),
            back: Vec::new(),
            running: BTreeMap::new(),
            finals: BTreeSet::new(),
            epoch: 1,
            sends: 0,
        }
    }

    fn goes(&mut self, event: Event) {
        self.sends += 1;
        assert!(!self.finals.contains(&event), "{event:?} goes though it is final");
        for number in 0..event.number {
            let before = Event { number, ..event };
            let accepted = self.finals.contains(&before);
            assert!(accepted, "{event:?} goes before {before:?} is final");
        }
    }

    fn say(&mut self, key: usize, part: Part, state: Option<KeyState>) {
        self.topic.push((name(key), part, state));
    }

    fn accept(&mut self, key: usize) {
        let numbers = self.log.iter().flatten().filter(|event| event.key == key).count();
        let elsewhere = self.away.iter().chain(self.back.iter().map(|(away, _)| away));
        let moved = elsewhere.filter(|away| away.event.key == key).count();
        let over = self.finals.iter().filter(|event| event.key == key).count();
        let number = (numbers + moved + over) as u64;
        self.log.push(Some(Event { key, number }));
    }

    fn read_first(&mut self) {
        while self.read < self.log.len() {
            let seq = self.read as u64;
            self.read += 1;
            if let Some(event) = self.log[seq as usize] {
                self.first
                    .admit(&name(event.key), PARTITION, seq, (10, event), Instant::now());
                self.pump(event.key);
                return;
            }
        }
    }

    fn pump(&mut self, key: usize) {
        let known = self.view.known(&name(key));
        let reached = known.reached.map(|spot| spot.seq);
        while let Some(step) = self.first.next(&name(key), reached, self.epoch, Instant::now()) {
            match step {
                Step::Go(spot, event) => {
                    self.goes(event);
                    assert_eq!(self.heads.insert(key, (spot, event)), None, "one at a time");
                }
                Step::Park(mut after, items) => {
                    let tail = items.last().unwrap().0;
                    let items: Vec<_> = items
                        .into_iter()
                        .map(|(spot, event)| {
                            let away = Away {
                                event,
                                spot,
                                after: Some(after),
                            };
                            after = spot.seq;
                            away
                        })
                        .collect();
                    self.asked.push(Asked::Park { key, items, tail });
                }
                Step::Forget => {
                    let gone = self.view.gone(&name(key), 3);
                    let is_all = gone.len() <= 2;
                    let mut parts: Vec<_> = gone.into_iter().take(2).map(Part::Gone).collect();
                    if is_all {
                        parts.extend([Part::Done, Part::Wait, Part::Tail]);
                    }
                    let done = known.reached.filter(|_| !is_all);
                    self.asked.push(Asked::Forget {
                        key,
                        parts,
                        is_all,
                        done,
                    });
                }
            }
        }
        while let Some(event) = self.turns.next(&name(key), known, NOW) {
            self.takes_turn(event);
        }
    }

    fn takes_turn(&mut self, event: Event) {
        self.goes(event);
        let at = self
            .back
            .iter()
            .position(|(away, _)| away.event == event)
            .unwrap();
        let away = Away {
            after: None,
            ..self.back[at].0
        };
        assert!(self.running.insert(event.key, away).is_none(), "one at a time");
    }

    /// The send of first attempts is over.
    fn answer(&mut self, key: usize, is_final: bool) {
        let is_asked = |asked: &Asked| matches!(asked, Asked::Outcome { event, .. } if event.key == key);
        let Some(&(spot, event)) = self.heads.get(&key) else {
            return;
        };
        if self.asked.iter().any(is_asked) {
            return;
        }
        if !self.first.may_end(&name(key)) {
            return;
        }
        let tail = self.view.tail(&name(key));
        let said = self.first.ending(&name(key), is_final, self.epoch, tail);
        self.asked.push(Asked::Outcome {
            event,
            spot,
            is_final,
            said,
        });
    }

    fn learn(&mut self, records: usize) {
        for _ in 0..records {
            let Some((key, part, state)) = self.topic.get(self.known).cloned() else {
                return;
            };
            self.known += 1;
            self.view.apply(&key, part, state);
            for number in 0..KEYS {
                self.pump(number);
            }
        }
    }

    /// An event leaves the wheel, or is tried again.
    fn comes_back(&mut self, index: usize) {
        if !self.away.is_empty() {
            let away = self.away.remove(index % self.away.len());
            self.back.push((away, false));
        }
    }

    fn ends_early(&mut self, index: usize) {
        let early: Vec<_> = (0..self.away.len())
            .filter(|at| self.away[*at].after.is_some())
            .collect();
        if early.is_empty() {
            return;
        }
        let away = self.away.remove(early[index % early.len()]);
        assert!(self.finals.insert(away.event));
        let gone = KeyState::Gone {
            seq: away.spot.seq,
            after: away.after.unwrap(),
            nth: away.spot.nth,
        };
        self.say(away.event.key, gone.part(), Some(gone));
    }

    fn read_back(&mut self) {
        let Some(at) = self.back.iter().position(|(_, taken)| !taken) else {
            return;
        };
        self.back[at].1 = true;
        let away = self.back[at].0;
        let place = Place {
            seq: away.spot.seq,
            after: away.after,
            nth: away.spot.nth,
        };
        let known = self.view.known(&name(away.event.key));
        match self
            .turns
            .admit(&name(away.event.key), place, (10, away.event), known, NOW)
        {
            Verdict::Go(event) => self.takes_turn(event),
            Verdict::Waits => {}
            Verdict::PutOff(event, _) => self.put_off(event),
        }
    }

    fn put_off(&mut self, event: Event) {
        let at = self
            .back
            .iter()
            .position(|(away, _)| away.event == event)
            .unwrap();
        self.away.push(self.back.remove(at).0);
    }

    fn look(&mut self) {
        let view = &self.view;
        let put_off = self.turns.look(NOW + 2_000, |key| Known {
            until: None,
            ..view.known(key)
        });
        for (event, _) in put_off {
            self.put_off(event);
        }
        for key in self.first.unheard(Instant::now()) {
            self.pump((0..KEYS).find(|number| name(*number) == key).unwrap());
        }
    }

    fn answer_back(&mut self, key: usize, is_final: bool) {
        let Some(away) = self.running.remove(&key) else {
            return;
        };
        let at = self
            .back
            .iter()
            .position(|(other, _)| other.event == away.event)
            .unwrap();
        self.back.remove(at);
        if is_final {
            assert!(self.finals.insert(away.event));
            let Spot { seq, nth } = away.spot;
            let state = KeyState::Done { seq, nth };
            self.say(key, Part::Done, Some(state));
            self.view.apply(&name(key), Part::Done, Some(state));
        } else {
            self.away.push(away);
        }
        self.turns.ended(&name(key), away.spot.seq, is_final, NOW);
        self.pump(key);
    }

    /// The lane of first attempts dies; what it asked for is durable or not. Whoever takes over knows the topic.
    fn first_dies(&mut self, chance: usize) {
        for (index, asked) in std::mem::take(&mut self.asked).iter().enumerate() {
            if (chance >> (index % 16)) & 1 == 1 {
                self.commit(asked);
            }
        }
        self.epoch += 1;
        self.first = first();
        self.heads.clear();
        self.read = 0;
        self.known = self.topic.len();
        self.view = View::default();
        for (key, part, state) in &self.topic {
            self.view.apply(key, *part, *state);
        }
        let open = self.view.open_in(false, PARTITION.number);
        self.first.synced(PARTITION, open);
        for number in 0..KEYS {
            self.pump(number);
        }
    }

    fn retries_die(&mut self) {
        self.turns = turns();
        self.running.clear();
        for (_, taken) in &mut self.back {
            *taken = false;
        }
    }

    fn step(&mut self, action: u8, chance: usize) {
        let key = chance % KEYS;
        match action {
            0..=5 => self.accept(key),
            6..=13 => self.read_first(),
            14..=18 => self.answer(key, !chance.is_multiple_of(4)),
            19..=26 => self.settle(chance, !chance.is_multiple_of(11)),
            27..=30 => self.learn(chance % 5),
            31..=35 => self.comes_back(chance),
            36..=41 => self.read_back(),
            42..=47 => self.answer_back(key, !chance.is_multiple_of(4)),
            48 => self.ends_early(chance),
            49 => self.look(),
            50 => self.first_dies(chance),
            _ => self.retries_die(),
        }
    }

    /// Everything goes well until nothing is left.
    fn wind_up(&mut self) {
        for _ in 0..10_000 {
            self.read_first();
            for key in 0..KEYS {
                self.answer(key, true);
                self.answer_back(key, true);
            }
            self.settle(0, true);
            self.learn(10);
            self.comes_back(0);
            self.read_back();
            self.look();
            let is_quiet = self.asked.is_empty() && self.away.is_empty() && self.back.is_empty();
            if is_quiet && self.log.iter().all(Option::is_none) && self.known == self.topic.len() {
                break;
            }
        }
        assert!(self.log.iter().all(Option::is_none), "left: {:?}", self.log);
        assert!(self.away.is_empty() && self.back.is_empty());
        let mut kept: HashMap<(OrderKey, Part), KeyState> = HashMap::new();
        for (key, part, state) in &self.topic {
            match state {
                Some(state) => kept.insert((key.clone(), *part), *state),
                None => kept.remove(&(key.clone(), *part)),
            };
        }
        assert!(kept.is_empty(), "{kept:?}");
        assert_eq!((self.view.len(), self.first.len(), self.turns.len()), (0, 0, 0));
        assert!(self.turns.waiting().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn order_holds_whatever_happens(steps in proptest::collection::vec((0..52u8, any::<u16>()), 1..400)) {
        let mut world = World::new();
        for (action, chance) in steps {
            world.step(action, usize::from(chance));
        }
        world.wind_up();
    }
}

#[test]
fn without_trouble_nothing_is_written_down() {
    let mut world = World::new();
    for round in 0..30 {
        world.accept(round % KEYS);
        world.read_first();
        for key in 0..KEYS {
            world.answer(key, true);
            world.settle(0, true);
        }
    }
    world.wind_up();
    assert_eq!((world.topic.len(), world.sends), (0, 30));
}
