//! The query of a list of what goes on for a while, such as replays and broadcasts.

use std::collections::HashMap;

use posthaste_event::{FieldError, fields::excerpt};

/// What such a list can be asked for.
#[derive(Debug, Clone, Copy)]
pub struct Listing {
    /// Parameters that are taken, beside `state` and `limit`.
    pub others: &'static [&'static str],
    /// What `state` can be.
    pub states: &'static [&'static str],
    /// Items of an answer when `limit` is not given, and at most.
    pub limit_default: usize,
    /// See `limit_default`.
    pub limit_max: usize,
}

impl Listing {
    /// The state that is asked for, if one is, and the number of items. The other parameters are left in `query`.
    ///
    /// # Errors
    /// One per parameter that cannot be taken; never empty.
    pub fn read(
        &self,
        query: &mut HashMap<String, String>,
    ) -> Result<(Option<String>, usize), Vec<FieldError>> {
        let mut errors = Vec::new();
        let state = query.remove("state");
        if state
            .as_deref()
            .is_some_and(|state| !self.states.contains(&state))
        {
            errors.push(FieldError::new("state", "is not known", self.states.join(", ")));
        }
        let limit = query
            .remove("limit")
            .map_or(Some(self.limit_default), |limit| limit.parse().ok())
            .filter(|limit| (1..=self.limit_max).contains(limit));
        if limit.is_none() {
            let accepted = format!("1 to {}", self.limit_max);
            errors.push(FieldError::new("limit", "is out of range", accepted));
        }
        let mut unknown: Vec<_> = query
            .keys()
            .filter(|name| !self.others.contains(&name.as_str()))
            .collect();
        unknown.sort_unstable();
        for name in unknown {
            let mut accepted = self.others.to_vec();
            accepted.extend(["state", "limit"]);
            errors.push(FieldError::new(
                excerpt(name),
                "is not known",
                accepted.join(", "),
            ));
        }
        match limit {
            Some(limit) if errors.is_empty() => Ok((state, limit)),
            _ => Err(errors),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_taken_is_named_with_what_is() {
        let listing = Listing {
            others: &["tenant"],
            states: &["going", "done"],
            limit_default: 5,
            limit_max: 10,
        };
        let read = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()));
            listing.read(&mut pairs.collect())
        };
        assert_eq!(read(&[("tenant", "a")]).unwrap(), (None, 5));
        let (state, limit) = read(&[("state", "done"), ("limit", "10")]).unwrap();
        assert_eq!((state.as_deref(), limit), (Some("done"), 10));
        let wrong = [("state", "gone"), ("limit", "11"), ("page", "2")];
        let errors = read(&wrong).unwrap_err();
        let named: Vec<_> = errors
            .iter()
            .map(|error| (&*error.field, &*error.accepted))
            .collect();
        let expected = [
            ("state", "going, done"),
            ("limit", "1 to 10"),
            ("page", "tenant, state, limit"),
        ];
        assert_eq!(named, expected);
        for limit in ["0", "-1", "x", ""] {
            assert_eq!(read(&[("limit", limit)]).unwrap_err()[0].field, "limit");
        }
    }
}
