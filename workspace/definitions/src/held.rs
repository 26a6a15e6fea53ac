//! Definitions by kind, tenant and code: the fold of the topic. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use posthaste_event::definition::{Definition, Key, Kind};

/// What a definition costs beyond its texts, in bytes.
const ENTRY_BYTES: usize = 256;

type Codes = BTreeMap<Box<str>, Arc<Definition>>;

/// An API key that is in force, and whose it is.
pub type ApiKey = (Arc<str>, Arc<Definition>);

#[derive(Debug, Default)]
pub(crate) struct Held {
    kinds: HashMap<Kind, HashMap<Box<str>, Codes>>,
    /// API keys by their ids alone: who brings one names no tenant.
    api_keys: HashMap<Box<str>, ApiKey>,
    /// What it costs, in bytes.
    bytes: usize,
}

/// What a definition costs, in bytes.
pub(crate) fn cost(code: &str, definition: &Definition) -> usize {
    ENTRY_BYTES + code.len() + definition.by.len() + definition.write.len() + definition.body.get().len()
}

impl Held {
    pub(crate) fn get(&self, kind: Kind, tenant: &str, code: &str) -> Option<&Arc<Definition>> {
        self.kinds.get(&kind)?.get(tenant)?.get(code)
    }

    pub(crate) fn of(&self, key: &Key) -> Option<&Arc<Definition>> {
        self.get(key.kind(), key.tenant(), key.code())
    }

    /// Bytes that it would hold with this one.
    pub(crate) fn bytes_with(&self, key: &Key, definition: &Definition) -> usize {
        let before = self.of(key).map_or(0, |before| cost(key.code(), before));
        self.bytes - before + cost(key.code(), definition)
    }

    pub(crate) fn put(&mut self, key: &Key, definition: Arc<Definition>) {
        self.bytes = self.bytes_with(key, &definition);
        let tenants = self.kinds.entry(key.kind()).or_default();
        let codes = match tenants.get_mut(key.tenant()) {
            Some(codes) => codes,
            None => tenants.entry(key.tenant().into()).or_default(),
        };
        codes.insert(key.code().into(), Arc::clone(&definition));
        if key.kind() == Kind::ApiKey {
            let whose = key.tenant().into();
            self.api_keys.insert(key.code().into(), (whose, definition));
        }
    }

    /// The API key with this id.
    pub(crate) fn api_key(&self, id: &str) -> Option<&ApiKey> {
        self.api_keys.get(id)
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        let Some(tenants) = self.kinds.get_mut(&key.kind()) else {
            return;
        };
        let Some(codes) = tenants.get_mut(key.tenant()) else {
            return;
        };
        if let Some(gone) = codes.remove(key.code()) {
            self.bytes -= cost(key.code(), &gone);
            let is_indexed = |(_, indexed): &ApiKey| Arc::ptr_eq(indexed, &gone);
            if key.kind() == Kind::ApiKey && self.api_keys.get(key.code()).is_some_and(is_indexed) {
                self.api_keys.remove(key.code());
            }
        }
        if codes.is_empty() {
            tenants.remove(key.tenant());
        }
    }

    /// `many` at most, in the order of their codes, from the one after `after` on.
    pub(crate) fn list(
        &self,
        kind: Kind,
        tenant: &str,
        after: Option<&str>,
        many: usize,
    ) -> Vec<(String, Arc<Definition>)> {
        let Some(codes) = self.kinds.get(&kind).and_then(|tenants| tenants.get(tenant)) else {
            return Vec::new();
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        codes
            .range::<str, _>((from, Bound::Unbounded))
            .take(many)
            .map(|(code, definition)| (code.to_string(), Arc::clone(definition)))
            .collect()
    }

    /// How many a tenant has of a kind.
    /// All tenants' of a kind.
    pub(crate) fn all(&self, kind: Kind) -> Vec<Arc<Definition>> {
        let tenants = self.kinds.get(&kind).into_iter().flat_map(HashMap::values);
        tenants.flat_map(BTreeMap::values).map(Arc::clone).collect()
    }

    pub(crate) fn count(&self, kind: Kind, tenant: &str) -> usize {
        self.kinds
            .get(&kind)
            .and_then(|tenants| tenants.get(tenant))
            .map_or(0, BTreeMap::len)
    }

    /// Whether nobody has any of a kind.
    pub(crate) fn is_empty(&self, kind: Kind) -> bool {
        self.kinds.get(&kind).is_none_or(HashMap::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::definition;

    #[test]
    fn what_is_held_costs_what_it_says_and_nothing_when_it_is_gone() {
        let mut held = Held::default();
        let key = |code| Key::new(Kind::Template, "a", code).unwrap();
        held.put(&key("x"), definition("1", r#""short""#).into());
        let little = held.bytes;
        held.put(&key("x"), definition("2", r#""much longer""#).into());
        assert_eq!(held.bytes, little + "much longer".len() - "short".len());
        held.put(&key("y"), definition("3", "1").into());
        for code in ["x", "x", "y", "z"] {
            held.remove(&key(code));
        }
        assert_eq!((held.bytes, held.is_empty(Kind::Template)), (0, true));
    }

    #[test]
    fn an_api_key_is_found_by_its_id_alone_as_long_as_it_is_in_force() {
        let mut held = Held::default();
        let key = |tenant| Key::new(Kind::ApiKey, tenant, "a1").unwrap();
        held.put(&key("a"), definition("1", "1").into());
        held.put(
            &Key::new(Kind::Template, "a", "a2").unwrap(),
            definition("2", "2").into(),
        );
        let found = |held: &Held, id: &str| {
            held.api_key(id)
                .map(|(tenant, of)| (tenant.to_string(), of.write.clone()))
        };
        assert_eq!(found(&held, "a1"), Some(("a".into(), "1".into())));
        assert_eq!(found(&held, "a2"), None);
        held.put(&key("a"), definition("3", "3").into());
        // Another tenant's of the same id has no say in it.
        held.remove(&key("b"));
        assert_eq!(found(&held, "a1"), Some(("a".into(), "3".into())));
        held.remove(&key("a"));
        assert_eq!((found(&held, "a1"), held.bytes > 0), (None, true));
    }

    #[test]
    fn a_list_goes_on_after_a_code_and_stays_with_its_tenant() {
        let mut held = Held::default();
        for (tenant, code) in [("a", "3"), ("a", "1"), ("b", "2"), ("a", "2")] {
            let key = Key::new(Kind::Template, tenant, code).unwrap();
            held.put(&key, definition("w", "1").into());
        }
        let codes = |tenant, after, many| {
            held.list(Kind::Template, tenant, after, many)
                .into_iter()
                .map(|(code, _)| code)
                .collect::<Vec<_>>()
        };
        assert_eq!(codes("a", None, 2), ["1", "2"]);
        assert_eq!(codes("a", Some("2"), 2), ["3"]);
        assert_eq!(codes("b", None, 9), ["2"]);
        assert_eq!(codes("c", None, 9), [""; 0]);
        assert_eq!(held.count(Kind::Template, "a"), 3);
        assert!(held.is_empty(Kind::Config));
    }
}
