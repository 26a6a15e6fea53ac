//! Order, bounds and bookkeeping of what waits; and the whole wheel on a made-up broker, from a seed.

use posthaste_event::{
    Channel, Delivery, Priority, Tier, Topic,
    delivery::{Accepted, Policy},
    wheel,
};
use proptest::prelude::*;

use super::*;

const NEAR: Partition = Partition {
    topic: Topic::DelayNear,
    number: 0,
};

fn other(number: u32) -> Partition {
    Partition { number, ..NEAR }
}

fn items<T: Copy>(taken: &[Taken<T>]) -> Vec<T> {
    taken.iter().map(|taken| taken.item).collect()
}

#[test]
fn the_earliest_goes_first_and_nothing_goes_early() {
    let mut waiting = Waiting::new(None);
    for (offset, wakes_at) in [(1, 300), (2, 100), (3, 200), (4, 200)] {
        waiting.hold(NEAR, offset, wakes_at, 10, offset);
    }
    waiting.hold(other(1), 1, 150, 10, 11);
    assert_eq!(waiting.next_wake(), Some(100));
    assert!(waiting.take_due(99, 10).is_empty());
    assert_eq!(items(&waiting.take_due(200, 3)), [2, 11, 3]);
    assert_eq!(items(&waiting.take_due(200, 3)), [4]);
    assert_eq!(waiting.next_wake(), Some(300));
}

#[test]
fn what_is_woken_goes_at_once_and_alone() {
    let mut waiting = Waiting::new(None);
    for (offset, wakes_at) in [(1, 300), (2, 200), (3, 400)] {
        waiting.hold(NEAR, offset, wakes_at, 10, offset);
    }
    waiting.wake(100, |item| *item == 3);
    assert_eq!(waiting.next_wake(), Some(100));
    assert_eq!(items(&waiting.take_due(100, 10)), [3]);
    assert_eq!(items(&waiting.take_due(400, 10)), [2, 1]);
}

#[test]
fn a_partition_that_is_gone_leaves_nothing_behind() {
    let mut waiting = Waiting::new(None);
    waiting.hold(NEAR, 1, 100, 10, 1);
    waiting.hold(other(1), 1, 200, 10, 2);
    waiting.forget(NEAR);
    assert_eq!((waiting.bytes, waiting.next_wake()), (10, Some(200)));
    waiting.hold(other(1), 1, 300, 20, 3);
    assert_eq!((waiting.bytes, waiting.by_time.len()), (20, 1));
    waiting.begin(other(1));
    assert_eq!((waiting.bytes, waiting.by_time.len()), (0, 0));
}

#[test]
fn a_wide_span_is_cleared_from_its_low_end() {
    let mut waiting = Waiting::new(Some(Bounds {
        offsets_max: 100,
        bytes_max: usize::MAX,
    }));
    for offset in 0..75 {
        // Every tenth is due soon.
        let wakes_at = if offset % 10 == 0 { 1_500 } else { 20_000 };
        waiting.hold(NEAR, offset, wakes_at, 1, offset);
    }
    assert!(waiting.take_overflow(0, 100).is_empty());
    waiting.hold(NEAR, 75, 20_000, 1, 75);
    let cleared = items(&waiting.take_overflow(0, 10));
    assert_eq!(cleared, [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]);
    let cleared = items(&waiting.take_overflow(0, 100));
    assert_eq!(cleared, [12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 23, 24, 25]);
    assert!(waiting.take_overflow(0, 100).is_empty(), "half is free");
    assert_eq!(items(&waiting.take_due(1_500, 3)), [0, 10, 20]);
}

#[test]
fn too_many_bytes_go_where_most_of_them_are() {
    let mut waiting = Waiting::new(Some(Bounds {
        offsets_max: usize::MAX,
        bytes_max: 1_000,
    }));
    waiting.begin(NEAR);
    waiting.begin(other(1));
    for offset in 0..7 {
        waiting.hold(NEAR, offset, 20_000, 100, offset);
    }
    waiting.hold(other(1), 0, 20_000, 50, 100);
    assert!(waiting.take_overflow(0, 100).is_empty());
    waiting.hold(NEAR, 7, 20_000, 100, 7);
    assert_eq!(items(&waiting.take_overflow(0, 100)), [0, 1, 2, 3, 4, 5]);
    assert_eq!(waiting.bytes, 250);
}

#[test]
fn what_is_due_soon_stays_however_full_it_is() {
    let mut waiting = Waiting::new(Some(Bounds {
        offsets_max: 16,
        bytes_max: 16,
    }));
    for offset in 0..100 {
        waiting.hold(NEAR, offset, 2_000, 1, offset);
    }
    assert!(waiting.take_overflow(0, 1_000).is_empty());
    assert_eq!(waiting.take_due(2_000, 1_000).len(), 100);
}

proptest! {
    /// Whatever comes and goes in whatever order: nothing is lost, doubled or early, and the counts agree.
    #[test]
    fn bookkeeping_holds(steps in prop::collection::vec((0..6_u8, 0..3_u32, 0..40_i64, 0..10_000_i64), 0..300)) {
        let mut waiting = Waiting::new(Some(Bounds { offsets_max: 20, bytes_max: 120 }));
        let mut model: BTreeMap<(Partition, i64), Millis> = BTreeMap::new();
        for (action, number, offset, time) in steps {
            let partition = other(number);
            let gone = match action {
                0..=2 => {
                    waiting.hold(partition, offset, time, 7, (partition, offset));
                    model.insert((partition, offset), time);
                    Vec::new()
                }
                3 => {
                    let taken = waiting.take_due(time, 5);
                    let first_left = model.values().filter(|wakes_at| **wakes_at <= time).count();
                    prop_assert_eq!(taken.len(), first_left.min(5));
                    for one in &taken {
                        prop_assert!(model[&one.item] <= time);
                    }
                    taken
                }
                4 => {
                    let taken = waiting.take_overflow(time, 5);
                    for one in &taken {
                        prop_assert!(model[&one.item] - time > STAYS_MS);
                    }
                    taken
                }
                _ => {
                    waiting.forget(partition);
                    model.retain(|(of, _), _| *of != partition);
                    Vec::new()
                }
            };
            for one in gone {
                prop_assert!(model.remove(&one.item).is_some());
            }
            prop_assert_eq!(waiting.by_time.len(), model.len());
            prop_assert_eq!(waiting.bytes, model.len() * 7);
            prop_assert_eq!(waiting.next_wake(), model.values().min().copied());
        }
    }

}

proptest! {
    // Each case is a year of the wheel.
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Events with any due time up to a year travel through tiers and near topics that are far too small, on a broker whose
    /// clock differs, with partitions that change hands. Each comes out once, never early, and on time.
    #[test]
    fn the_wheel_loses_nothing_and_is_never_early(
        remains in prop::collection::vec(prop_oneof![0..40_000_i64, 0..4_000_000_i64, 0..31_536_000_000_i64], 1..60),
        broker_ahead_ms in -3_000..3_000_i64,
        offsets_max in 16..40_usize,
        takeover_every in 5..50_usize,
    ) {
        let start = 1_700_000_000_000;
        let mut simulation = Simulation::new(start, broker_ahead_ms, offsets_max);
        for (id, ms) in remains.iter().enumerate() {
            simulation.accept(id, start + ms);
        }
        let mut turns = 0_usize;
        while let Some(now) = simulation.next_wake() {
            simulation.now = simulation.now.max(now);
            simulation.turn();
            turns += 1;
            prop_assert!(turns < 200_000, "the wheel does not come to rest");
            if turns.is_multiple_of(takeover_every) {
                simulation.take_over();
            }
        }
        prop_assert_eq!(simulation.out.len(), remains.len());
        for (id, ms) in remains.iter().enumerate() {
            let late = simulation.out[&id] - (start + ms);
            prop_assert!(late >= 0, "event {} went {} ms early", id, -late);
            prop_assert!(late == 0, "event {} went {} ms late", id, late);
        }
    }
}

/// The logs of the wheel's topics, one partition each, and one owner of all of them.
struct Simulation {
    now: Millis,
    broker_ahead_ms: i64,
    bounds: Bounds,
    logs: BTreeMap<Topic, Log>,
    near: Waiting<i64>,
    tiers: BTreeMap<Topic, Waiting<i64>>,
    out: BTreeMap<usize, Millis>,
}

#[derive(Default)]
struct Log {
    /// Unfinished records.
    open: BTreeMap<i64, (usize, Delivery, Millis)>,
    end: i64,
}

impl Simulation {
    fn new(now: Millis, broker_ahead_ms: i64, offsets_max: usize) -> Self {
        let bounds = Bounds {
            offsets_max,
            bytes_max: usize::MAX,
        };
        Self {
            now,
            broker_ahead_ms,
            bounds,
            logs: BTreeMap::new(),
            near: Waiting::new(Some(bounds)),
            tiers: Tier::ALL
                .map(|tier| (Topic::Delay(tier), Waiting::new(None)))
                .into(),
            out: BTreeMap::new(),
        }
    }

    fn accept(&mut self, id: usize, due: Millis) {
        let accepted = Accepted {
            id: id.to_string(),
            correlation_id: id.to_string(),
            tenant: "default".into(),
            channel: Channel::Sms,
            priority: Priority::Normal,
            provider: None,
            scheduled_at: Some(due),
            expires_at: None,
            policy: Policy::NoLoss,
        };
        let (delivery, topic) = Delivery::accepted(accepted, "here", self.now);
        self.append(topic, id, delivery);
    }

    fn append(&mut self, topic: Topic, id: usize, delivery: Delivery) {
        if !topic.is_delay() {
            let again = self.out.insert(id, self.now);
            assert!(again.is_none(), "event {id} came out twice");
            return;
        }
        let appended_at = self.now + self.broker_ahead_ms;
        let log = self.logs.entry(topic).or_default();
        let offset = log.end;
        log.end += 1;
        log.open.insert(offset, (id, delivery, appended_at));
        self.read(topic, offset);
    }

    fn read(&mut self, topic: Topic, offset: i64) {
        let (_, delivery, appended_at) = &self.logs[&topic].open[&offset];
        let wakes_at = crate::judge::looks_at(topic, *appended_at, wheel::wakes_at(delivery), self.now);
        let partition = Partition { topic, number: 0 };
        self.waiting(topic).hold(partition, offset, wakes_at, 1, offset);
    }

    fn waiting(&mut self, topic: Topic) -> &mut Waiting<i64> {
        match self.tiers.get_mut(&topic) {
            Some(waiting) => waiting,
            None => &mut self.near,
        }
    }

    fn next_wake(&self) -> Option<Millis> {
        let tiers = self.tiers.values().filter_map(Waiting::next_wake);
        tiers.chain(self.near.next_wake()).min()
    }

    fn turn(&mut self) {
        let now = self.now;
        for topic in self.tiers.keys().copied().collect::<Vec<_>>() {
            let taken = self.waiting(topic).take_due(now, 3);
            self.hop(taken, Delivery::move_in_wheel);
        }
        let taken = self.near.take_due(now, 3);
        self.hop(taken, Delivery::move_in_wheel);
        let taken = self.near.take_overflow(now, 3);
        self.hop(taken, Delivery::make_room);
        let span = self
            .near
            .shares
            .values()
            .next()
            .map_or(0, |share| share.held.len());
        assert!(span < self.bounds.offsets_max + 60, "nothing is cleared");
    }

    fn hop(&mut self, taken: Vec<Taken<i64>>, to: impl Fn(&mut Delivery, Millis) -> Topic) {
        for one in taken {
            let log = self.logs.get_mut(&one.partition.topic).unwrap();
            let (id, mut delivery, _) = log.open.remove(&one.item).unwrap();
            let topic = to(&mut delivery, self.now);
            self.append(topic, id, delivery);
        }
    }

    /// Another instance takes everything: it reads what is unfinished, and nothing else.
    fn take_over(&mut self) {
        let fresh = Self::new(self.now, self.broker_ahead_ms, self.bounds.offsets_max);
        (self.near, self.tiers) = (fresh.near, fresh.tiers);
        let open: Vec<_> = self
            .logs
            .iter()
            .flat_map(|(topic, log)| log.open.keys().map(|offset| (*topic, *offset)))
            .collect();
        for (topic, offset) in open {
            self.read(topic, offset);
        }
    }
}
