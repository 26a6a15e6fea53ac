//! What waits in a lane's memory, and in which order it goes: pure, bounded, no clock.
//!
//! Each account has its own queue. Within it priorities share the sends by weight (stride scheduling), and within a
//! priority the tenants take turns, so that one tenant's flood delays itself. A queue may grow up to what is free of the
//! window: one stuck account ends up with half of it, two with a third each, and there is always room for the others.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use posthaste_event::Priority;

/// The priorities, most urgent first.
const PRIORITIES: [Priority; 4] = [
    Priority::Critical,
    Priority::High,
    Priority::Normal,
    Priority::Low,
];

/// What the window must know of an event.
pub trait Waiting {
    /// Whose event it is.
    fn tenant(&self) -> &str;
    /// How urgent it is.
    fn priority(&self) -> Priority;
    /// Whether it comes at a slot that was reserved for it: it goes before others of its tenant and priority, and is the
    /// last to be sent away again.
    fn is_reserved(&self) -> bool;
    /// What it occupies, in bytes.
    fn bytes(&self) -> usize;
}

/// The events that wait, by account.
pub struct Window<T> {
    queues: Vec<Queue<T>>,
    records_max: usize,
    bytes_max: usize,
    records: usize,
    bytes: usize,
}

impl<T: Waiting> Window<T> {
    /// An empty window with these bounds.
    pub const fn new(records_max: usize, bytes_max: usize) -> Self {
        Self {
            queues: Vec::new(),
            records_max,
            bytes_max,
            records: 0,
            bytes: 0,
        }
    }

    /// Adds an account and returns its index.
    pub fn add_account(&mut self) -> usize {
        self.queues.push(Queue::default());
        self.queues.len() - 1
    }

    /// Events that wait, over all accounts.
    #[cfg(test)]
    const fn len(&self) -> usize {
        self.records
    }

    /// Events that wait for this account.
    pub fn waiting(&self, account: usize) -> usize {
        self.queues[account].records
    }

    /// Puts an event into an account's queue. Call [`Self::shed`] afterwards until it has nothing more.
    pub fn push(&mut self, account: usize, item: T) {
        self.records += 1;
        self.bytes += item.bytes();
        self.queues[account].push(item);
    }

    /// The next event of this account.
    pub fn pop(&mut self, account: usize) -> Option<T> {
        let item = self.queues[account].pop()?;
        self.taken(&item);
        Some(item)
    }

    /// Takes out an event that this account's queue has no room for, if it is longer than `queue_max` or than what is
    /// free: the newest of the tenant that has most, of its lowest priority.
    pub fn shed(&mut self, account: usize, queue_max: usize) -> Option<T> {
        let queue = &mut self.queues[account];
        let too_many = queue.records > queue_max.min(self.records_max.saturating_sub(self.records));
        let too_large = queue.bytes > self.bytes_max.saturating_sub(self.bytes);
        if !too_many && !too_large {
            return None;
        }
        let item = queue.shed()?;
        self.taken(&item);
        Some(item)
    }

    /// How full this account's queue is, in quarters of what it may hold before something must be shed.
    pub fn quarters(&self, account: usize, queue_max: usize) -> usize {
        let queue = &self.queues[account];
        let records_max = queue_max.min(self.records_max.saturating_sub(self.records));
        let bytes_max = self.bytes_max.saturating_sub(self.bytes);
        (queue.records.saturating_mul(4) / records_max.max(1))
            .max(queue.bytes.saturating_mul(4) / bytes_max.max(1))
    }

    /// Whether an event would go before most of what waits for this account: it is the only one of its tenant and priority, and
    /// one tenant has more than half of the queue.
    pub fn overtakes(&self, account: usize, item: &T) -> bool {
        let queue = &self.queues[account];
        let alike = queue.flows.get(item.tenant());
        let has_alike = alike.is_some_and(|flow| !flow.classes[class_of(item.priority())].is_empty());
        !has_alike && queue.flows.values().any(|flow| flow.records > queue.records / 2)
    }

    /// What one account's queue can hold at most, whatever its pace.
    pub const fn queue_records_max(&self) -> usize {
        self.records_max / 2
    }

    /// Drops the events that `gone` names, and says how many.
    pub fn drop_where(&mut self, gone: impl Fn(&T) -> bool) -> usize {
        let mut items = Vec::new();
        for queue in &mut self.queues {
            let before = items.len();
            while let Some(item) = queue.pop() {
                items.push(item);
            }
            // The shares were used up by taking them out, not by sending.
            (queue.passes, queue.now) = ([0; 4], 0);
            // Popped in their order, they are pushed back in their order.
            for item in items
                .drain(before..)
                .filter(|item| !gone(item))
                .collect::<Vec<_>>()
            {
                queue.push(item);
            }
        }
        let before = self.records;
        self.records = self.queues.iter().map(|queue| queue.records).sum();
        self.bytes = self.queues.iter().map(|queue| queue.bytes).sum();
        before - self.records
    }

    fn taken(&mut self, item: &T) {
        self.records -= 1;
        self.bytes -= item.bytes();
    }
}

/// One account's queue.
struct Queue<T> {
    flows: HashMap<Arc<str>, Flow<T>>,
    /// Per priority, the tenants that have something waiting, in turn.
    turns: [VecDeque<Arc<str>>; 4],
    /// Per priority, how far it has been served, in units of 1/weight.
    passes: [u64; 4],
    /// Where the priority served last stood: one that was idle starts here, with no claim on the past.
    now: u64,
    records: usize,
    bytes: usize,
    tenants_seen: u64,
}

/// One tenant's events in one account's queue.
struct Flow<T> {
    classes: [Class<T>; 4],
    records: usize,
    /// Rises with each tenant that joins.
    joined: u64,
}

struct Class<T> {
    reserved: VecDeque<T>,
    fresh: VecDeque<T>,
}

impl<T> Class<T> {
    fn is_empty(&self) -> bool {
        self.reserved.is_empty() && self.fresh.is_empty()
    }
}

impl<T> Default for Class<T> {
    fn default() -> Self {
        Self {
            reserved: VecDeque::new(),
            fresh: VecDeque::new(),
        }
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            flows: HashMap::new(),
            turns: Default::default(),
            passes: [0; 4],
            now: 0,
            records: 0,
            bytes: 0,
            tenants_seen: 0,
        }
    }
}

const fn class_of(priority: Priority) -> usize {
    match priority {
        Priority::Critical => 0,
        Priority::High => 1,
        Priority::Normal => 2,
        Priority::Low => 3,
    }
}

/// What one send costs a priority: the inverse of its weight.
const fn stride(class: usize) -> u64 {
    (20 / PRIORITIES[class].weight()) as u64
}

impl<T: Waiting> Queue<T> {
    fn push(&mut self, item: T) {
        let class = class_of(item.priority());
        self.records += 1;
        self.bytes += item.bytes();
        if self.turns[class].is_empty() {
            self.passes[class] = self.passes[class].max(self.now);
        }
        let tenant = match self.flows.get_key_value(item.tenant()) {
            Some((tenant, _)) => Arc::clone(tenant),
            None => Arc::from(item.tenant()),
        };
        let tenants_seen = &mut self.tenants_seen;
        let flow = self.flows.entry(Arc::clone(&tenant)).or_insert_with(|| {
            *tenants_seen += 1;
            Flow {
                classes: Default::default(),
                records: 0,
                joined: *tenants_seen,
            }
        });
        flow.records += 1;
        let place = &mut flow.classes[class];
        if place.is_empty() {
            self.turns[class].push_back(tenant);
        }
        if item.is_reserved() {
            place.reserved.push_back(item);
        } else {
            place.fresh.push_back(item);
        }
    }

    fn pop(&mut self) -> Option<T> {
        let class = (0..4)
            .filter(|class| !self.turns[*class].is_empty())
            .min_by_key(|class| (self.passes[*class], *class))?;
        self.now = self.passes[class];
        self.passes[class] += stride(class);
        let tenant = self.turns[class].pop_front()?;
        let flow = self.flows.get_mut(&tenant)?;
        let place = &mut flow.classes[class];
        let item = place.reserved.pop_front().or_else(|| place.fresh.pop_front())?;
        flow.records -= 1;
        let (more_here, more) = (!place.is_empty(), flow.records > 0);
        if !more {
            self.flows.remove(&tenant);
        }
        if more_here {
            self.turns[class].push_back(tenant);
        }
        self.records -= 1;
        self.bytes -= item.bytes();
        Some(item)
    }

    fn shed(&mut self) -> Option<T> {
        let (tenant, flow) = self
            .flows
            .iter_mut()
            .max_by_key(|(_, flow)| (flow.records, flow.joined))?;
        let fresh = (0..4).rev().find(|class| !flow.classes[*class].fresh.is_empty());
        let (class, item) = match fresh {
            Some(class) => (class, flow.classes[class].fresh.pop_back()?),
            None => {
                let class = (0..4).rev().find(|class| !flow.classes[*class].is_empty())?;
                (class, flow.classes[class].reserved.pop_back()?)
            }
        };
        flow.records -= 1;
        if flow.classes[class].is_empty() {
            self.turns[class].retain(|other| other != tenant);
        }
        if flow.records == 0 {
            let tenant = Arc::clone(tenant);
            self.flows.remove(&tenant);
        }
        self.records -= 1;
        self.bytes -= item.bytes();
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Item {
        tenant: &'static str,
        priority: Priority,
        reserved: bool,
        number: usize,
    }

    impl Waiting for Item {
        fn tenant(&self) -> &str {
            self.tenant
        }
        fn priority(&self) -> Priority {
            self.priority
        }
        fn is_reserved(&self) -> bool {
            self.reserved
        }
        fn bytes(&self) -> usize {
            10
        }
    }

    fn item(tenant: &'static str, priority: Priority, number: usize) -> Item {
        Item {
            tenant,
            priority,
            reserved: false,
            number,
        }
    }

    fn window(records_max: usize) -> (Window<Item>, usize) {
        let mut window = Window::new(records_max, usize::MAX);
        let account = window.add_account();
        (window, account)
    }

    #[test]
    fn priorities_share_the_sends_by_weight() {
        let (mut window, account) = window(10_000);
        for priority in PRIORITIES {
            for number in 0..400 {
                window.push(account, item("a", priority, number));
            }
        }
        let mut sent = HashMap::new();
        for _ in 0..360 {
            *sent.entry(window.pop(account).unwrap().priority).or_insert(0) += 1;
        }
        let shares = PRIORITIES.map(|priority| sent[&priority]);
        assert_eq!(shares, [200, 100, 50, 10]);
    }

    #[test]
    fn a_priority_that_was_idle_has_no_claim_on_the_past() {
        let (mut window, account) = window(10_000);
        for number in 0..1_000 {
            window.push(account, item("a", Priority::High, number));
        }
        for _ in 0..500 {
            window.pop(account);
        }
        for number in 0..100 {
            window.push(account, item("a", Priority::Low, number));
        }
        let low = (0..110).filter(|_| window.pop(account).unwrap().priority == Priority::Low);
        assert_eq!(low.count(), 10);
    }

    #[test]
    fn tenants_take_turns_whatever_one_of_them_floods() {
        let (mut window, account) = window(10_000);
        for number in 0..1_000 {
            window.push(account, item("flood", Priority::Normal, number));
        }
        window.push(account, item("b", Priority::Normal, 0));
        window.push(account, item("c", Priority::Normal, 0));
        let first: Vec<_> = (0..3).map(|_| window.pop(account).unwrap().tenant).collect();
        assert_eq!(first, ["flood", "b", "c"]);
    }

    #[test]
    fn the_flooding_tenant_makes_room_for_the_others() {
        let (mut window, account) = window(10_000);
        for number in 0..100 {
            window.push(account, item("flood", Priority::High, number));
        }
        window.push(account, item("b", Priority::Low, 0));
        let gone = window.shed(account, 100).unwrap();
        assert_eq!((gone.tenant, gone.number), ("flood", 99));
        assert_eq!(window.shed(account, 100), None);
    }

    #[test]
    fn what_came_at_its_slot_goes_first_and_is_shed_last() {
        let (mut window, account) = window(10_000);
        window.push(account, item("a", Priority::Normal, 1));
        let reserved = Item {
            reserved: true,
            ..item("a", Priority::Normal, 2)
        };
        window.push(account, reserved.clone());
        assert_eq!(window.shed(account, 1).unwrap().number, 1);
        window.push(account, item("a", Priority::Normal, 3));
        assert_eq!(window.pop(account), Some(reserved));
    }

    #[test]
    fn stuck_accounts_leave_room_for_the_others() {
        let mut window = Window::new(120, usize::MAX);
        let accounts: Vec<_> = (0..4).map(|_| window.add_account()).collect();
        for stuck in &accounts[..3] {
            for number in 0..1_000 {
                window.push(*stuck, item("a", Priority::Normal, number));
                while window.shed(*stuck, usize::MAX).is_some() {}
            }
        }
        assert!(window.len() <= 120 - 10, "{}", window.len());
        window.push(accounts[3], item("a", Priority::Normal, 0));
        assert_eq!(window.shed(accounts[3], usize::MAX), None);
    }

    #[test]
    fn large_events_count_by_their_bytes() {
        let mut window = Window::new(1_000_000, 100);
        let account = window.add_account();
        for number in 0..6 {
            window.push(account, item("a", Priority::Normal, number));
        }
        assert!(window.shed(account, usize::MAX).is_some());
        assert!(window.shed(account, usize::MAX).is_none());
        assert_eq!(window.len(), 5);
    }

    proptest! {
        /// Whatever is pushed comes out once, by one way or another, and nothing is left behind.
        #[test]
        fn nothing_is_lost_or_doubled(steps in proptest::collection::vec((0..5u8, 0..4usize, 0..4usize, any::<bool>()), 0..300)) {
            const TENANTS: [&str; 4] = ["a", "b", "c", "d"];
            let (mut window, account) = window(50);
            let mut pushed = 0;
            let mut out = Vec::new();
            for (step, tenant, priority, reserved) in steps {
                match step {
                    0..=2 => {
                        window.push(account, Item { reserved, ..item(TENANTS[tenant], PRIORITIES[priority], pushed) });
                        pushed += 1;
                        while let Some(item) = window.shed(account, 20) {
                            out.push(item.number);
                        }
                    }
                    3 => out.extend(window.pop(account).map(|item| item.number)),
                    _ => {
                        let dropped = std::cell::RefCell::new(Vec::new());
                        window.drop_where(|item| {
                            let gone = item.tenant == TENANTS[tenant];
                            if gone {
                                dropped.borrow_mut().push(item.number);
                            }
                            gone
                        });
                        out.extend(dropped.into_inner());
                    }
                }
                prop_assert!(window.waiting(account) <= 20);
            }
            while let Some(item) = window.pop(account) {
                out.push(item.number);
            }
            out.sort_unstable();
            prop_assert_eq!(out, (0..pushed).collect::<Vec<_>>());
            prop_assert_eq!((window.len(), window.bytes), (0, 0));
            prop_assert!(window.queues[account].flows.is_empty());
        }
    }
}
