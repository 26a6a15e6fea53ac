//! Who of a group reads which partition.

use std::collections::{BTreeMap, HashMap};

use posthaste_event::Topic;

use crate::Partition;

/// Spreads each topic's partitions evenly over the members that read it. Whoever owns a partition keeps it if that is fair;
/// what is left over goes to those with the least.
pub(super) fn spread(
    topics: &BTreeMap<Topic, u32>,
    members: &BTreeMap<u64, Vec<Topic>>,
    owners: &HashMap<Partition, u64>,
) -> HashMap<Partition, u64> {
    let mut fair = HashMap::new();
    let mut total: HashMap<u64, usize> = HashMap::new();
    for (&topic, &partitions) in topics {
        // How many partitions of this topic each reader has got.
        let mut got: BTreeMap<u64, usize> = members
            .iter()
            .filter(|(_, topics)| topics.contains(&topic))
            .map(|(&member, _)| (member, 0))
            .collect();
        if got.is_empty() {
            continue;
        }
        let share = partitions as usize / got.len();
        let mut larger_shares = partitions as usize % got.len();
        let mut free = Vec::new();
        for number in 0..partitions {
            let partition = Partition { topic, number };
            let owner = owners.get(&partition).copied();
            match owner.and_then(|owner| got.get_mut(&owner).map(|count| (owner, count))) {
                Some((owner, count)) if *count < share || (*count == share && larger_shares > 0) => {
                    if *count == share {
                        larger_shares -= 1;
                    }
                    *count += 1;
                    fair.insert(partition, owner);
                }
                _ => free.push(partition),
            }
        }
        for partition in free {
            let least = got
                .iter_mut()
                .min_by_key(|(member, count)| (**count, total.get(*member).copied().unwrap_or(0) + **count));
            if let Some((&member, count)) = least {
                *count += 1;
                fair.insert(partition, member);
            }
        }
        for (member, count) in got {
            *total.entry(member).or_default() += count;
        }
    }
    fair
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(fair: &HashMap<Partition, u64>, member: u64) -> usize {
        fair.values().filter(|owner| **owner == member).count()
    }

    #[test]
    fn members_read_only_what_they_subscribed() {
        let topics = BTreeMap::from([(Topic::Critical, 4), (Topic::RetryCritical, 4)]);
        let members = BTreeMap::from([
            (1, vec![Topic::Critical]),
            (2, vec![Topic::Critical, Topic::RetryCritical]),
        ]);
        let fair = spread(&topics, &members, &HashMap::new());
        assert_eq!((count(&fair, 1), count(&fair, 2)), (2, 6));
    }

    #[test]
    fn what_is_left_over_is_spread_over_topics_too() {
        let topics = BTreeMap::from([(Topic::Critical, 1), (Topic::Default, 1), (Topic::Retry, 1)]);
        let all = vec![Topic::Critical, Topic::Default, Topic::Retry];
        let members = BTreeMap::from([(1, all.clone()), (2, all.clone()), (3, all)]);
        let fair = spread(&topics, &members, &HashMap::new());
        assert_eq!([1, 2, 3].map(|member| count(&fair, member)), [1, 1, 1]);
    }

    #[test]
    fn a_topic_without_readers_is_left_alone() {
        let topics = BTreeMap::from([(Topic::Critical, 4)]);
        assert_eq!(spread(&topics, &BTreeMap::new(), &HashMap::new()), HashMap::new());
    }

    proptest! {
        #[test]
        fn every_partition_has_one_owner_shares_differ_by_one_and_the_fair_stay_put(
            partitions in 1_u32..40, members in 1_u64..12, before in proptest::collection::vec(0_u64..14, 40),
        ) {
            let topics = BTreeMap::from([(Topic::Default, partitions)]);
            let readers: BTreeMap<_, _> = (0..members).map(|member| (member, vec![Topic::Default])).collect();
            let partition = |number| Partition { topic: Topic::Default, number };
            let owners = before.iter().enumerate().map(|(n, owner)| (partition(n as u32), *owner)).collect();
            let fair = spread(&topics, &readers, &owners);
            prop_assert_eq!(fair.len(), partitions as usize);
            let counts: Vec<_> = (0..members).map(|member| count(&fair, member)).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
            prop_assert_eq!(&spread(&topics, &readers, &fair), &fair);
            // Nothing moves away from a member that has no more than its share.
            for member in 0..members {
                let owned: Vec<_> = (0..partitions).map(partition)
                    .filter(|partition| owners.get(partition) == Some(&member)).collect();
                if owned.len() <= partitions as usize / members as usize {
                    prop_assert!(owned.iter().all(|partition| fair.get(partition) == Some(&member)));
                }
            }
        }
    }
}
