//! What a document should be, given what it is and what the topics say. Pure.

use std::collections::BTreeSet;

use posthaste_store::{Change, Document};
use serde_json::{Map, Value as Json};

/// What is to be done about a document.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Nothing: it says all that the topics say, and nothing against them.
    Same,
    /// It lacks something; applying what the topics say makes it right.
    Lacks(Vec<String>),
    /// It says something that the topics say otherwise, and that would outlive an applied change.
    Wrong(Vec<String>),
}

/// Judges a live document by what the topics say of its event.
pub(super) fn judge(live: &Document, told: &Document) -> Verdict {
    let truth = truth(live, told);
    let fields = differing(live, &truth);
    if fields.is_empty() {
        Verdict::Same
    } else if applied(live, told) == truth {
        Verdict::Lacks(fields)
    } else {
        Verdict::Wrong(fields)
    }
}

/// The right document. Where the topics tell of a step, a note or a field, they are right; what only the document has is
/// older than they reach, or newer than was read, and stays.
pub(super) fn truth(live: &Document, told: &Document) -> Document {
    let mut truth = live.clone();
    truth.fixed.merge(told.fixed.clone());
    // Nobody writes a step that is not a number.
    truth.timeline.retain(|step, _| step.parse::<u32>().is_ok());
    let steps = told.timeline.iter();
    truth
        .timeline
        .extend(steps.map(|(step, entry)| (step.clone(), entry.clone())));
    let notes = told.notes.iter();
    truth
        .notes
        .extend(notes.map(|(id, note)| (id.clone(), note.clone())));
    if let Some(told) = &told.state {
        // A state comes with its step: one that is beyond the topics and without a step was never said.
        let is_beyond = live.state.as_ref().is_some_and(|state| {
            state.step > told.step && truth.timeline.contains_key(&state.step.to_string())
        });
        if !is_beyond {
            truth.state = Some(told.clone());
        }
    }
    truth
}

/// What the document becomes when all that the topics say is applied to it.
fn applied(live: &Document, told: &Document) -> Document {
    let mut change = Change::from(live.clone());
    change.merge(Change::from(told.clone()));
    let mut applied = change.into_document();
    applied.receipt.clone_from(&live.receipt);
    // What is no step is none of a change's business.
    for (step, entry) in &live.timeline {
        applied
            .timeline
            .entry(step.clone())
            .or_insert_with(|| entry.clone());
    }
    applied
}

/// Where two documents differ: the names of fields, of steps as `timeline.<step>`, of notes as `notes.<id>`.
pub(super) fn differing(one: &Document, other: &Document) -> Vec<String> {
    if one == other {
        return Vec::new();
    }
    let (one, other) = (fields(one), fields(other));
    let mut differing = Vec::new();
    for name in names(&one, &other) {
        match (one.get(name), other.get(name)) {
            (Some(one), Some(other)) if one == other => {}
            (Some(Json::Object(one)), Some(Json::Object(other))) if name == "timeline" || name == "notes" => {
                let parts = names(one, other).into_iter();
                let parts = parts.filter(|part| one.get(*part) != other.get(*part));
                differing.extend(parts.map(|part| format!("{name}.{part}")));
            }
            _ => differing.push(name.to_owned()),
        }
    }
    differing
}

fn fields(document: &Document) -> Map<String, Json> {
    // Documents have only texts as keys, which JSON can hold.
    match serde_json::to_value(document) {
        Ok(Json::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn names<'a>(one: &'a Map<String, Json>, other: &'a Map<String, Json>) -> BTreeSet<&'a str> {
    one.keys().chain(other.keys()).map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use posthaste_event::Status;
    use posthaste_testkit::{life::Life, store_suite::expected};
    use serde_json::json;

    use super::*;

    fn document(records: usize) -> Document {
        let life = Life::new("e").everything();
        let notes = life.len() - 2;
        let mut some = life[..records.min(notes)].to_vec();
        some.extend_from_slice(&life[notes..]);
        expected(&some).remove("e").unwrap()
    }

    fn whole() -> Document {
        document(usize::MAX)
    }

    #[test]
    fn the_same_is_left_alone() {
        assert_eq!(judge(&whole(), &whole()), Verdict::Same);
    }

    #[test]
    fn what_is_newer_or_older_than_the_topics_stays() {
        let (live, mut told) = (whole(), document(4));
        assert_eq!(judge(&live, &told), Verdict::Same, "newer steps");
        told = whole();
        told.timeline.remove("0");
        told.fixed.payload = None;
        told.notes.clear();
        assert_eq!(judge(&live, &told), Verdict::Same, "older steps");
        told.state = None;
        assert_eq!(judge(&live, &told), Verdict::Same, "only notes are left");
    }

    #[test]
    fn what_is_lacking_is_applied() {
        let (mut live, told) = (document(2), whole());
        live.notes.remove("n1");
        let Verdict::Lacks(fields) = judge(&live, &told) else {
            panic!("{:?}", judge(&live, &told))
        };
        assert!(fields.contains(&"state".to_owned()) && fields.contains(&"notes.n1".to_owned()));
        assert!(fields.contains(&"timeline.5".to_owned()) && !fields.contains(&"timeline.0".to_owned()));
        assert_eq!(applied(&live, &told), told);
        let mut live = whole();
        live.fixed.tenant = "another".to_owned();
        live.fixed.payload = Some(json!({"changed": true}));
        live.receipt = Some(json!({"kept": true}));
        let verdict = judge(&live, &told);
        assert_eq!(verdict, Verdict::Lacks(vec!["payload".into(), "tenant".into()]));
    }

    #[test]
    fn what_would_outlive_an_applied_change_is_wrong() {
        let told = whole();
        let mut live = whole();
        live.timeline.get_mut("1").unwrap().at += 1_000_000;
        assert_eq!(judge(&live, &told), Verdict::Wrong(vec!["timeline.1".into()]));
        let mut live = whole();
        live.state.as_mut().unwrap().step = 4_000;
        live.state.as_mut().unwrap().status = Status::Expired;
        assert_eq!(judge(&live, &told), Verdict::Wrong(vec!["state".into()]));
        assert_eq!(truth(&live, &told), told);
        let mut live = whole();
        let entry = live.timeline["1"].clone();
        live.timeline.insert("one".to_owned(), entry);
        assert_eq!(judge(&live, &told), Verdict::Wrong(vec!["timeline.one".into()]));
    }
}
