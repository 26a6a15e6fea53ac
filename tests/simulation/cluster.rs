//! The cluster: a virtual clock, what happens at which moment, and the faults.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use posthaste_broker::Partition;
use posthaste_definitions::Definitions;
use posthaste_event::{Millis, Topic};
use posthaste_rules::Rules;
use posthaste_service::Metrics;

use crate::{
    ledger::{Broken, Ledger},
    log::Log,
    node::Node,
    random::Random,
    traffic::Accounts,
};

/// When a run begins, in milliseconds since the Unix epoch.
pub const BEGIN: Millis = 1_790_000_000_000;

/// No run is this long: what still goes on then goes on for ever.
const END: Millis = BEGIN + 60 * 86_400_000;

/// Faults go on for so long after the last event was accepted.
const FAULTS_AFTER_MS: Millis = 60_000;

/// What a run is like.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub events: usize,
    /// Without faults nothing may be sent twice, and nothing late.
    pub faults: bool,
    pub nodes: usize,
    pub partitions: u32,
    /// Broken on purpose, to see that the ledger finds it.
    pub sabotage: Sabotage,
}

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    None,
    /// A record is completed and its outcome forgotten.
    LosesAnOutcome,
    /// The fence lets an outcome of a lost partition through.
    HasNoFence,
    /// The wheel lets go a second before the time.
    IsEarly,
    /// The finished records above the watermark are not handed on.
    ForgetsTheMap,
    /// A failed send is tried once more without a word.
    SendsAgain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    Ingest,
    Fault,
    /// The coordinator gives a partition away that nobody owns.
    Assign(Partition),
    /// The session of a member is over.
    Expel(usize, u32),
    Restart(usize),
    /// Somebody wants an event withdrawn.
    Withdraw(usize),
    Thaw(usize),
    /// The drain time of a revoke is over.
    Deadline(Partition, u64),
    /// A node does something, if it is the same process still.
    Deed(usize, u32, Deed),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// Looks for new records.
    Poll(Partition),
    /// A provider answered a call.
    Answered(usize),
    /// What waits to be recorded is.
    Flush,
    /// Something waiting may be due.
    Wake(usize),
    /// Queues that are too long are looked at.
    Tick,
    /// Somebody replays what this partition has.
    Replay(Partition),
    /// Reads what is asked of events.
    Hear,
}

/// Everything, and what is known of it.
pub struct Cluster {
    pub plan: Plan,
    pub now: Millis,
    pub random: Random,
    pub log: Log,
    pub ledger: Ledger,
    pub nodes: Vec<Node>,
    pub rules: Arc<Rules>,
    pub metrics: Metrics,
    /// Nothing repeats itself here.
    pub schedules: Definitions,
    pub accounts: Accounts,
    pub broker_away_until: Millis,
    faults_until: Millis,
    pub steps: u64,
    pub faults: BTreeMap<&'static str, u64>,
    /// What came up that is rare, and how often.
    pub seen: BTreeMap<&'static str, u64>,
    /// How late what left the wheel was, the latest.
    pub late_ms_max: Millis,
    sabotaged: bool,
    heap: BinaryHeap<Reverse<(Millis, u64, Event)>>,
    sequence: u64,
    pub sabotages: u64,
}

impl Cluster {
    pub fn new(plan: Plan) -> Self {
        let mut cluster = Self {
            plan,
            now: BEGIN,
            random: Random::new(plan.seed),
            log: Log::new(plan.partitions),
            ledger: Ledger::default(),
            nodes: (0..plan.nodes).map(Node::new).collect(),
            rules: Arc::new(Rules::shipped().unwrap()),
            metrics: Metrics::new(&BTreeMap::new()),
            schedules: Definitions::new(
                &[],
                posthaste_definitions::Settings {
                    bytes_max: 1 << 20,
                    suppressions_max: 1,
                    suppressions_country_code: "1".to_owned(),
                },
            ),
            accounts: Accounts::new(),
            broker_away_until: 0,
            faults_until: END,
            steps: 0,
            faults: BTreeMap::new(),
            seen: BTreeMap::new(),
            late_ms_max: 0,
            sabotaged: false,
            heap: BinaryHeap::new(),
            sequence: 0,
            sabotages: 0,
        };
        for partition in cluster.log.partitions() {
            if cluster.is_consumed(partition) {
                cluster.at(0, Event::Assign(partition));
            }
        }
        cluster.at(10, Event::Ingest);
        if plan.faults {
            cluster.at(1_000, Event::Fault);
        }
        cluster
    }

    /// Whether members share this partition.
    pub fn is_consumed(&self, partition: Partition) -> bool {
        !matches!(
            partition.topic,
            Topic::Status | Topic::Cancel | Topic::Control | Topic::Definitions | Topic::Keys
        )
    }

    /// Happens so much later.
    pub fn at(&mut self, later_ms: Millis, event: Event) {
        self.sequence += 1;
        self.heap
            .push(Reverse((self.now + later_ms, self.sequence, event)));
    }

    /// Something came up that not every run has.
    pub fn sees(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// Whether to break something now; see [`Sabotage`].
    pub fn sabotages(&mut self, what: Sabotage) -> bool {
        // A fence is needed too rarely to be let down now and then only.
        let now = self.plan.sabotage == what
            && (self.sabotaged || what == Sabotage::HasNoFence || self.random.chance(100));
        self.sabotaged |= now;
        self.sabotages += u64::from(now);
        now
    }

    /// Runs until nothing is left to do, and checks what is left.
    pub fn run(&mut self) -> Result<(), Broken> {
        while let Some(Reverse((at, _, event))) = self.heap.pop() {
            self.steps += 1;
            self.now = at;
            if at > END {
                return Err("it goes on for ever".to_owned());
            }
            self.happen(event)?;
        }
        if let Some((partition, offset)) = self.log.unfinished().first() {
            return Err(format!("{partition}@{offset} is never finished"));
        }
        self.asked_for_good()?;
        self.ledger.settled()
    }

    fn happen(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Ingest => self.ingest(),
            Event::Fault => self.fault(),
            Event::Assign(partition) => self.assign(partition),
            Event::Expel(node, incarnation) => self.expel(node, incarnation),
            Event::Restart(node) => {
                self.nodes[node].is_alive = true;
                // `Requests::known`, before anything else.
                self.hear(node);
            }
            Event::Withdraw(number) => self.withdraw(number),
            Event::Thaw(node) => self.thaw(node),
            Event::Deadline(partition, epoch) => self.hand_over(partition, epoch),
            Event::Deed(node, incarnation, deed) => {
                if !self.nodes[node].is(incarnation) {
                    return Ok(());
                }
                let frozen_ms = self.nodes[node].frozen_until - self.now;
                if frozen_ms > 0 {
                    self.at(frozen_ms, event);
                    return Ok(());
                }
                return self.deed(node, deed);
            }
        }
        Ok(())
    }

    /// A member takes a partition over.
    fn assign(&mut self, partition: Partition) {
        if self.log.shelf(partition).owner.is_some() {
            return;
        }
        let fit: Vec<usize> = (0..self.nodes.len())
            .filter(|node| self.nodes[*node].is_alive && self.nodes[*node].frozen_until <= self.now)
            .collect();
        if fit.is_empty() {
            self.at(100, Event::Assign(partition));
            return;
        }
        let node = fit[self.random.below(fit.len())];
        self.take_over(node, partition);
    }

    /// So many milliseconds until the coordinator has found a new owner.
    pub fn reassign(&mut self, partition: Partition) {
        self.log.release(partition);
        let delay_ms = self.random.within(1, 500);
        self.at(delay_ms, Event::Assign(partition));
    }

    fn owned_by(&self, node: usize) -> Vec<Partition> {
        let mut partitions = self.log.partitions();
        partitions.retain(|partition| self.log.shelf(*partition).owner == Some(node));
        partitions
    }

    fn expel(&mut self, node: usize, incarnation: u32) {
        let member = &self.nodes[node];
        let is_back = member.is(incarnation) && member.frozen_until <= self.now;
        // One that was started again joined anew; what its predecessor had went when it joined.
        if !is_back {
            for partition in self.owned_by(node) {
                if self.nodes[node].held(partition).is_none() || self.nodes[node].is(incarnation) {
                    self.reassign(partition);
                }
            }
        }
    }

    fn thaw(&mut self, node: usize) {
        if self.nodes[node].frozen_until > self.now {
            return;
        }
        for (partition, epoch) in self.nodes[node].assignments() {
            if !self.log.is_live(partition, node, epoch) {
                self.drop_partition(node, partition);
            }
        }
    }

    fn fault(&mut self) {
        if self.ledger.lives().len() >= self.plan.events {
            self.faults_until = self.faults_until.min(self.now + FAULTS_AFTER_MS);
        }
        if self.now > self.faults_until {
            return;
        }
        let pause_ms = self.random.within(50, 2_000);
        self.at(pause_ms, Event::Fault);
        let node = self.random.below(self.nodes.len());
        let name = match self.random.below(10) {
            0..=2 => self.crash(node),
            3..=4 => self.freeze(node),
            5..=7 => self.rebalance(),
            8 => {
                let away_ms = self.random.within(100, 8_000);
                self.broker_away_until = self.broker_away_until.max(self.now + away_ms);
                "broker away"
            }
            _ => {
                self.nodes[node].is_commit_lost = true;
                "commit unknown"
            }
        };
        *self.faults.entry(name).or_default() += 1;
    }

    fn crash(&mut self, node: usize) -> &'static str {
        if !self.nodes[node].is_alive {
            return "nothing";
        }
        for call in self.nodes[node].crash() {
            self.ledger.excuse(call);
        }
        let incarnation = self.nodes[node].incarnation - 1;
        let (session_ms, down_ms) = (self.random.within(500, 10_000), self.random.within(100, 20_000));
        self.at(session_ms, Event::Expel(node, incarnation));
        self.at(down_ms, Event::Restart(node));
        "crash"
    }

    fn freeze(&mut self, node: usize) -> &'static str {
        if !self.nodes[node].is_alive {
            return "nothing";
        }
        let frozen_ms = self.random.within(10, 20_000);
        let member = &mut self.nodes[node];
        member.frozen_until = member.frozen_until.max(self.now + frozen_ms);
        let (until, incarnation) = (member.frozen_until, member.incarnation);
        self.at(until - self.now, Event::Thaw(node));
        let session_ms = self.random.within(500, 10_000);
        self.at(session_ms, Event::Expel(node, incarnation));
        "freeze"
    }

    /// A partition goes to another member, as when one joins: what is under way gets some time to be recorded.
    fn rebalance(&mut self) -> &'static str {
        let all = self.log.partitions();
        let partition = all[self.random.below(all.len())];
        let (owner, epoch) = (self.log.shelf(partition).owner, self.log.shelf(partition).epoch);
        let Some(owner) = owner.filter(|_| self.is_consumed(partition)) else {
            return "nothing";
        };
        if !self.nodes[owner].is_alive || self.nodes[owner].frozen_until > self.now {
            return "nothing";
        }
        self.revoke(owner, partition);
        let drain_ms = self.random.within(0, 3_000);
        self.at(drain_ms, Event::Deadline(partition, epoch));
        "rebalance"
    }

    fn hand_over(&mut self, partition: Partition, epoch: u64) {
        let shelf = self.log.shelf(partition);
        if let Some(owner) = shelf.owner
            && shelf.epoch == epoch
        {
            if self.nodes[owner].frozen_until <= self.now {
                self.drop_partition(owner, partition);
            }
            self.reassign(partition);
        }
    }
}
