//! Exact counts of what was sent, in bounded memory.
//!
//! A key or an event is remembered as 128 bits of a hash, with how often it came. When there are too many, totals go on and the
//! answer says that what is distinct is no longer exact.

use std::{
    collections::{BTreeMap, HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use serde::Serialize;

use crate::{apis, behaviour::Action};

/// Locks, so that calls seldom meet.
const SHARDS: usize = 32;
/// Events that came more than once, kept by name.
const REPEATED_MAX: usize = 1_000;

/// Counts things that are told apart by a hash.
struct Tally {
    hashers: [RandomState; 2],
    shards: [Mutex<HashMap<u128, u32>>; SHARDS],
    room: Arc<AtomicUsize>,
    total: AtomicU64,
    overflowed: AtomicU64,
}

/// How often things came.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sums {
    /// All that came.
    total: u64,
    /// Different ones.
    distinct: u64,
    /// `total - distinct`: those that had come before.
    repeats: u64,
    /// Whether `distinct` and `repeats` are exact.
    exact: bool,
    /// How many came once, twice, ...
    by_times: BTreeMap<u32, u64>,
}

impl Tally {
    /// `room`: how many more may be told apart, by all tallies that share it.
    fn new(room: Arc<AtomicUsize>) -> Self {
        Self {
            hashers: [RandomState::new(), RandomState::new()],
            shards: std::array::from_fn(|_| Mutex::new(HashMap::new())),
            room,
            total: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
        }
    }

    fn hash(&self, parts: &[&str]) -> u128 {
        let [high, low] = self.hashers.each_ref().map(|hasher| hasher.hash_one(parts));
        (u128::from(high) << 64) | u128::from(low)
    }

    fn shard(&self, hash: u128) -> MutexGuard<'_, HashMap<u128, u32>> {
        let index = (hash % SHARDS as u128) as usize;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more, and says how often it came by now; 0 if that is not known.
    fn add(&self, parts: &[&str]) -> u32 {
        self.total.fetch_add(1, Ordering::Relaxed);
        let hash = self.hash(parts);
        match self.shard(hash).entry(hash) {
            Entry::Occupied(mut entry) => {
                *entry.get_mut() = entry.get().saturating_add(1);
                *entry.get()
            }
            Entry::Vacant(entry) => {
                let take = |room: usize| room.checked_sub(1);
                if self
                    .room
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .is_err()
                {
                    self.overflowed.fetch_add(1, Ordering::Relaxed);
                    return 0;
                }
                *entry.insert(1)
            }
        }
    }

    fn times(&self, parts: &[&str]) -> u32 {
        let hash = self.hash(parts);
        self.shard(hash).get(&hash).copied().unwrap_or(0)
    }

    fn sums(&self) -> Sums {
        let mut by_times = BTreeMap::new();
        for shard in &self.shards {
            for times in shard.lock().unwrap_or_else(PoisonError::into_inner).values() {
                *by_times.entry(*times).or_insert(0) += 1;
            }
        }
        let distinct = by_times.values().sum();
        let came: u64 = by_times
            .iter()
            .map(|(times, many)| u64::from(*times) * many)
            .sum();
        Sums {
            total: self.total.load(Ordering::Relaxed),
            distinct,
            repeats: came - distinct,
            exact: self.overflowed.load(Ordering::Relaxed) == 0,
            by_times,
        }
    }
}

/// Counts of one provider's interface.
struct OfApi {
    /// Calls, whatever came of them.
    calls: AtomicU64,
    /// Calls that the interface itself would refuse: no credentials, a missing field.
    refused: AtomicU64,
    /// What was done with the others, by action.
    actions: [AtomicU64; Action::COUNT],
    /// Messages taken, by idempotency key.
    keys: Tally,
}

/// All counts.
pub(crate) struct Counts {
    apis: Vec<OfApi>,
    /// Messages taken by any interface, by event.
    events: Tally,
    repeated: Mutex<VecDeque<String>>,
}

/// What `GET /sandbox/counts` answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    /// Calls of all interfaces.
    calls: u64,
    /// Messages taken, by the event they carry, whatever the provider. Repeats are counted before any de-duplication.
    events: Sums,
    /// Some events that came more than once.
    repeated_events: Vec<String>,
    /// Per interface that was called.
    providers: BTreeMap<&'static str, ProviderSummary>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProviderSummary {
    calls: u64,
    refused: u64,
    actions: BTreeMap<&'static str, u64>,
    /// Messages taken, by idempotency key (or by recipient and text, where the interface has no place for one).
    keys: Sums,
}

impl Counts {
    pub(crate) fn new(kept_max: usize) -> Self {
        let room = Arc::new(AtomicUsize::new(kept_max));
        Self {
            apis: apis::ALL
                .iter()
                .map(|_| OfApi {
                    calls: AtomicU64::new(0),
                    refused: AtomicU64::new(0),
                    actions: [const { AtomicU64::new(0) }; Action::COUNT],
                    keys: Tally::new(room.clone()),
                })
                .collect(),
            events: Tally::new(room.clone()),
            repeated: Mutex::new(VecDeque::new()),
        }
    }

    pub(crate) fn called(&self, api: usize) {
        self.apis[api].calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self, api: usize) {
        self.apis[api].refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn acted(&self, api: usize, action: Action) {
        self.apis[api].actions[action as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A message was taken. Says how often its key has come by now.
    pub(crate) fn taken(&self, api: usize, key: &[&str], event: Option<&str>) -> u32 {
        if let Some(event) = event
            && self.events.add(&[event]) == 2
        {
            let mut repeated = self.repeated.lock().unwrap_or_else(PoisonError::into_inner);
            if repeated.len() == REPEATED_MAX {
                repeated.pop_front();
            }
            repeated.push_back(event.to_owned());
        }
        self.apis[api].keys.add(key)
    }

    /// How often an event was taken.
    pub(crate) fn times(&self, event: &str) -> u32 {
        self.events.times(&[event])
    }

    pub(crate) fn summary(&self) -> Summary {
        let number = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let providers = apis::ALL
            .iter()
            .zip(&self.apis)
            .filter(|(_, counts)| number(&counts.calls) > 0)
            .map(|(api, counts)| {
                let actions = Action::ALL
                    .iter()
                    .map(|(action, name)| (*name, number(&counts.actions[*action as usize])))
                    .filter(|(_, count)| *count > 0)
                    .collect();
                let summary = ProviderSummary {
                    calls: number(&counts.calls),
                    refused: number(&counts.refused),
                    actions,
                    keys: counts.keys.sums(),
                };
                (api.name, summary)
            })
            .collect();
        let repeated = self.repeated.lock().unwrap_or_else(PoisonError::into_inner);
        Summary {
            calls: self.apis.iter().map(|counts| number(&counts.calls)).sum(),
            events: self.events.sums(),
            repeated_events: repeated.iter().cloned().collect(),
            providers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_stay_exact_when_there_are_too_many_to_tell_apart() {
        let tally = Tally::new(Arc::new(AtomicUsize::new(3)));
        for key in ["a", "b", "a", "c", "d", "e", "a"] {
            tally.add(&[key]);
        }
        let sums = tally.sums();
        assert_eq!((sums.total, sums.exact), (7, false));
        assert_eq!((sums.distinct, sums.repeats), (3, 2));
        assert_eq!(sums.by_times, BTreeMap::from([(1, 2), (3, 1)]));
        assert_eq!(tally.times(&["a"]), 3);
    }

    #[test]
    fn an_event_counts_across_providers() {
        let counts = Counts::new(100);
        counts.taken(0, &["e:messagebird:0"], Some("e"));
        counts.taken(1, &["e:twilio:0"], Some("e"));
        counts.taken(1, &["f:twilio:0"], Some("f"));
        let summary = counts.summary();
        assert_eq!((summary.events.distinct, summary.events.repeats), (2, 1));
        assert_eq!(summary.repeated_events, ["e"]);
        assert_eq!(counts.times("e"), 2);
    }
}
