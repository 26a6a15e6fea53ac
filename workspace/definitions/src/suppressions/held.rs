//! Suppressions by tenant and channel. Sorted, so that a list can go on where it ended, and a growing one never moves as a whole.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use posthaste_event::{Channel, Millis};

use super::{
    entry::{Entry, Named},
    recipient::Id,
};

type ByChannel = [BTreeMap<Id, Entry>; Channel::ALL.len()];

#[derive(Debug, Default)]
pub struct Held {
    tenants: HashMap<Box<str>, ByChannel>,
    count: usize,
}

impl Held {
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Whether anybody is suppressed for this tenant on this channel.
    pub fn has(&self, tenant: &str, channel: Channel) -> bool {
        self.tenants
            .get(tenant)
            .is_some_and(|channels| !channels[channel as usize].is_empty())
    }

    pub fn get(&self, (tenant, channel, id): Named<'_>) -> Option<&Entry> {
        self.tenants.get(tenant)?[channel as usize].get(&id)
    }

    pub fn put(&mut self, (tenant, channel, id): Named<'_>, entry: Entry) {
        let channels = match self.tenants.get_mut(tenant) {
            Some(channels) => channels,
            None => self.tenants.entry(tenant.into()).or_default(),
        };
        self.count += usize::from(channels[channel as usize].insert(id, entry).is_none());
    }

    pub fn remove(&mut self, (tenant, channel, id): Named<'_>) {
        let Some(channels) = self.tenants.get_mut(tenant) else {
            return;
        };
        self.count -= usize::from(channels[channel as usize].remove(&id).is_some());
        if channels.iter().all(BTreeMap::is_empty) {
            self.tenants.remove(tenant);
        }
    }

    /// Forgets those whose time is over.
    pub fn forget_over(&mut self, now: Millis) {
        for entries in self.tenants.values_mut().flatten() {
            entries.retain(|_, entry| !entry.is_over(now));
        }
        self.tenants
            .retain(|_, channels| !channels.iter().all(BTreeMap::is_empty));
        self.count = self.tenants.values().flatten().map(BTreeMap::len).sum();
    }

    /// A tenant's in force, `many` at most, by channel and id from the one after `after` on.
    pub fn list(
        &self,
        tenant: &str,
        channel: Option<Channel>,
        after: Option<(Channel, Id)>,
        now: Millis,
        many: usize,
    ) -> Vec<(Channel, Id, Entry)> {
        let Some(channels) = self.tenants.get(tenant) else {
            return Vec::new();
        };
        Channel::ALL
            .into_iter()
            .filter(|of| channel.is_none_or(|channel| channel == *of))
            .filter(|of| after.is_none_or(|(channel, _)| *of as usize >= channel as usize))
            .flat_map(|of| {
                let from = match after {
                    Some((channel, id)) if channel == of => Bound::Excluded(id),
                    _ => Bound::Unbounded,
                };
                let entries = channels[of as usize].range((from, Bound::Unbounded));
                entries.map(move |(id, entry)| (of, *id, entry))
            })
            .filter(|(_, _, entry)| !entry.is_over(now))
            .take(many)
            .map(|(of, id, entry)| (of, id, entry.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suppressions::entry::{Body, Reason};

    fn entry(until: Option<Millis>) -> Entry {
        let body = Body {
            reason: Reason::Bounced,
            recipient: String::new(),
            source: None,
            until,
        };
        Entry::read(&body.encode("", String::new(), 0), false).unwrap()
    }

    #[test]
    fn a_list_goes_on_over_channels_and_stays_with_its_tenant() {
        let mut held = Held::default();
        let mut all = Vec::new();
        for channel in [Channel::Push, Channel::Sms] {
            for number in 0..5 {
                let id = Id::of("a", channel, &number.to_string());
                held.put(("a", channel, id), entry(None));
                all.push((channel, id));
            }
        }
        let over = Id::of("a", Channel::Sms, "over");
        held.put(("a", Channel::Sms, over), entry(Some(1_000)));
        held.put(("b", Channel::Sms, over), entry(None));
        all.sort_by_key(|(channel, id)| (*channel as usize, *id));
        for many in [1, 3, 100] {
            let mut listed: Vec<(Channel, Id)> = Vec::new();
            loop {
                let page = held.list("a", None, listed.last().copied(), 1_000, many);
                if page.is_empty() {
                    break;
                }
                listed.extend(page.iter().map(|(channel, id, _)| (*channel, *id)));
            }
            assert_eq!(listed, all);
        }
        assert_eq!(held.list("a", Some(Channel::Push), None, 0, 100).len(), 5);
        assert_eq!(held.list("a", Some(Channel::Sms), None, 999, 100).len(), 6);
        assert_eq!(held.count(), 12);
        held.forget_over(1_000);
        assert_eq!(held.count(), 11);
        for (channel, id) in all {
            held.remove(("a", channel, id));
            held.remove(("a", channel, id));
        }
        assert!(!held.has("a", Channel::Sms) && held.has("b", Channel::Sms));
        assert_eq!(held.count(), 1);
    }
}
