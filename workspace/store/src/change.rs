//! The change that a batch of records makes to the document of one event.

use std::{
    collections::BTreeMap,
    ops::{Deref, Range},
    sync::Arc,
};

use posthaste_event::{Millis, nesting};
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Value as Json, value::RawValue};

use crate::{Document, Fixed, State, TimelineEntry};

/// Levels of nesting that the parser goes into: what is nested deeper is shown as text.
const NESTING_MAX: usize = 127;

/// The step of an event's acceptance.
pub(crate) const ACCEPTED: u32 = 0;

/// What a batch of records says of one event. Applying it is idempotent and commutes with every other change.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The event's id.
    pub id: String,
    /// What never changes; absent fields are left as they are.
    pub fixed: Fixed<Text>,
    /// The newest state; stored unless a higher step is there.
    pub state: Option<State>,
    /// Steps to add.
    pub timeline: Timeline,
    /// Notes to add.
    pub notes: BTreeMap<String, Json>,
}

/// The steps of an event by their number, ascending. There are two or three as a rule, for which a map has too much room.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timeline(Vec<(u32, TimelineEntry)>);

/// JSON of any shape, as its text: what comes from records is not parsed on its way to a store that keeps text.
#[derive(Debug, Clone)]
pub struct Text(Box<RawValue>);

/// Changes that are shared, or some of them that follow each other.
#[derive(Debug, Clone)]
pub struct Changes {
    all: Arc<Vec<Change>>,
    range: Range<usize>,
}

impl Change {
    /// A change that says no more than whose event it is.
    pub const fn new(id: String, fixed: Fixed<Text>) -> Self {
        Self {
            id,
            fixed,
            state: None,
            timeline: Timeline::new(),
            notes: BTreeMap::new(),
        }
    }

    /// Whether it says of its event either no more than that it was accepted, or not that.
    pub fn is_partial(&self) -> bool {
        !self.timeline.has(ACCEPTED) || self.timeline.0.len() == 1
    }

    /// Takes over a state, unless a higher one is there.
    pub fn add_state(&mut self, state: State) {
        if self.state.as_ref().is_none_or(|kept| kept.rank() < state.rank()) {
            self.state = Some(state);
        }
    }

    /// Takes over a step, unless a higher entry for it is there.
    pub fn add_step(&mut self, step: u32, entry: TimelineEntry) {
        self.timeline.add(step, entry);
    }

    /// Adds what another change of the same event says. Merging first and applying once is applying both.
    pub fn merge(&mut self, other: Self) {
        self.fixed.merge(other.fixed);
        if let Some(state) = other.state {
            self.add_state(state);
        }
        for (step, entry) in other.timeline {
            self.add_step(step, entry);
        }
        self.notes.extend(other.notes);
    }

    /// From when the document's retention counts, in milliseconds since the Unix epoch: the latest time that this names, so
    /// that an event that still waits for its day is not forgotten before it.
    pub fn keep_from(&self) -> Millis {
        let state = self.state.as_ref();
        [
            Some(self.fixed.created_at),
            self.fixed.scheduled_at,
            state.map(|state| state.at),
            state.and_then(|state| state.due_at),
        ]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or(self.fixed.created_at)
    }

    /// The document that a store without one of this event has after this change.
    pub fn into_document(self) -> Document {
        Document {
            id: self.id,
            fixed: self.fixed.map(Text::into_json),
            state: self.state,
            receipt: None,
            timeline: self
                .timeline
                .into_iter()
                .map(|(step, entry)| (step.to_string(), entry))
                .collect(),
            notes: self.notes,
        }
    }
}

impl From<Document> for Change {
    /// The change that says all that the document says, its receipt left out.
    fn from(document: Document) -> Self {
        let timeline = document.timeline.into_iter();
        Self {
            id: document.id,
            fixed: document.fixed.map(|json| Text::of_json(&json)),
            state: document.state,
            timeline: timeline
                .filter_map(|(step, entry)| Some((step.parse().ok()?, entry)))
                .collect(),
            notes: document.notes,
        }
    }
}

impl Timeline {
    /// Without steps.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Whether there is no step.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this step is there.
    pub fn has(&self, step: u32) -> bool {
        self.0.binary_search_by_key(&step, |(step, _)| *step).is_ok()
    }

    /// The steps, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &(u32, TimelineEntry)> {
        self.0.iter()
    }

    /// Takes over a step, unless a higher entry for it is there.
    pub fn add(&mut self, step: u32, entry: TimelineEntry) {
        match self.0.binary_search_by_key(&step, |(step, _)| *step) {
            Ok(place) => {
                let kept = &mut self.0[place].1;
                if kept.rank() < entry.rank() {
                    *kept = entry;
                }
            }
            Err(place) => {
                if self.0.is_empty() {
                    self.0.reserve_exact(2);
                }
                self.0.insert(place, (step, entry));
            }
        }
    }
}

impl IntoIterator for Timeline {
    type Item = (u32, TimelineEntry);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(u32, TimelineEntry)> for Timeline {
    fn from_iter<I: IntoIterator<Item = (u32, TimelineEntry)>>(steps: I) -> Self {
        let mut timeline = Self::new();
        for (step, entry) in steps {
            timeline.add(step, entry);
        }
        timeline
    }
}

impl Serialize for Timeline {
    /// An object: the entry of each step, by its number as text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &str = "0123456789";
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (step, entry) in &self.0 {
            let digit = *step as usize;
            match DIGITS.get(digit..digit.saturating_add(1)) {
                Some(digit) => map.serialize_entry(digit, entry)?,
                None => map.serialize_entry(&step.to_string(), entry)?,
            }
        }
        map.end()
    }
}

impl Text {
    /// This text; as a text in itself when it is nested too deep to be parsed again.
    pub fn of(raw: &RawValue) -> Self {
        if nesting::is_deeper(raw.get(), NESTING_MAX) {
            Self::of_json(&Json::String(raw.get().to_owned()))
        } else {
            Self(raw.to_owned())
        }
    }

    /// The text of this value.
    pub fn of_json(json: &Json) -> Self {
        // A value has texts as keys, which is all that could fail.
        Self(serde_json::value::to_raw_value(json).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The value that it says.
    pub fn to_json(&self) -> Json {
        serde_json::from_str(self.0.get()).unwrap_or_else(|_| Json::String(self.0.get().to_owned()))
    }

    fn into_json(self) -> Json {
        self.to_json()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str() || self.to_json() == other.to_json()
    }
}

impl Changes {
    /// Some of these, by their place among them. A range that reaches beyond the end is cut.
    #[must_use]
    pub fn part(&self, range: &Range<usize>) -> Self {
        let at = |place: usize| self.range.start.saturating_add(place).min(self.range.end);
        Self {
            all: Arc::clone(&self.all),
            range: at(range.start)..at(range.end.max(range.start)),
        }
    }
}

impl From<Vec<Change>> for Changes {
    fn from(all: Vec<Change>) -> Self {
        Self {
            range: 0..all.len(),
            all: Arc::new(all),
        }
    }
}

impl Deref for Changes {
    type Target = [Change];

    fn deref(&self) -> &[Change] {
        self.all.get(self.range.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_part_is_a_part() {
        let fixed = |n: usize| Fixed::new(n.to_string(), posthaste_event::Channel::Sms, 0);
        let all: Vec<_> = (0..6).map(|n| Change::new(n.to_string(), fixed(n))).collect();
        let ids = |changes: &Changes| changes.iter().map(|change| change.id.clone()).collect::<String>();
        let all = Changes::from(all);
        assert_eq!(ids(&all), "012345");
        assert_eq!(ids(&all.part(&(1..5))), "1234");
        assert_eq!(ids(&all.part(&(1..5)).part(&(2..9))), "34");
        assert_eq!(ids(&all.part(&(6..6))), "");
    }

    #[test]
    fn texts_are_alike_when_they_say_the_same() {
        let text = |json: &str| Text::of(serde_json::from_str(json).unwrap());
        assert_eq!(text(r#"{"a": 1, "b": "\u0041"}"#), text(r#"{"b":"A","a":1}"#));
        assert_ne!(text("1"), text("2"));
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(text(&deep(NESTING_MAX)).to_json().is_array());
        assert_eq!(
            text(&deep(NESTING_MAX + 1)).to_json(),
            Json::String(deep(NESTING_MAX + 1))
        );
    }
}
