//! The answers, in a shape that reads well: the status at the top, times as text, the timeline in order.

use jiff::Timestamp;
use posthaste_event::{Channel, Failure, Millis, Priority, Status, delivery::Policy};
use posthaste_store::{Document, InboxMessage, Page, State, TimelineEntry};
use serde::{Serialize, Serializer};
use serde_json::Value as Json;

use super::query::cursor;

/// A time: `2026-11-20T12:00:00.000Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub Millis);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match Timestamp::from_millisecond(self.0) {
            Ok(time) => serializer.collect_str(&format_args!("{time:.3}")),
            // Somebody wrote a time past the year 9999; the number says which.
            Err(_) => serializer.serialize_i64(self.0),
        }
    }
}

/// One event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    event_id: String,
    /// `PENDING` as long as only notes are known of it: it was accepted.
    status: Status,
    tenant: String,
    channel: Channel,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<Priority>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    created_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ordering_key: Option<String>,
    /// The event that this one replays in an edited form.
    #[serde(skip_serializing_if = "Option::is_none")]
    replay_of: Option<String>,
    /// What to do when a send is in doubt, where that is not the usual.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Policy>,
    /// When somebody last asked to cancel it, while that is not decided. Not in listings.
    #[serde(skip_serializing_if = "Option::is_none")]
    cancel_requested: Option<Time>,
    /// Where it stands; absent as long as only notes are known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Standing>,
    /// What a provider reported after accepting it.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Json>,
    /// In the order of the steps. Not in listings.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<Vec<Step>>,
    /// In the order of their times. Not in listings.
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<Vec<Json>>,
}

/// Where an event stands.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    step: u32,
    status: Status,
    at: Time,
    /// How often it was replayed.
    generation: u32,
    /// Sends in this generation.
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

/// One step of an event's life.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Only where the steps of several events stand together.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    step: u32,
    at: Time,
    status: Status,
    /// The instance that wrote it.
    by: String,
    generation: u32,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    /// Until when it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<Time>,
    /// Why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The rule that decided, as `id@version`.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    /// The replay that opened this generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_message_id: Option<String>,
    /// What went wrong in this step.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

/// `GET /events`.
#[derive(Debug, Serialize)]
pub struct Events {
    events: Vec<Event>,
    /// The cursor of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// `GET /events/{id}`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Found {
    /// The event with this id.
    One(Box<Event>),
    /// The events with this correlation id, newest first, whole.
    #[serde(rename_all = "camelCase")]
    Together {
        /// As it was asked for.
        correlation_id: String,
        /// The events.
        events: Vec<Event>,
        /// For `GET /events?correlationId=…&cursor=…`, when there are more.
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    },
}

/// `GET /events/{id}/timeline`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum FoundTimeline {
    /// Of the event with this id.
    #[serde(rename_all = "camelCase")]
    One {
        /// As it was asked for.
        event_id: String,
        /// Where it stands.
        status: Status,
        /// In the order of the steps.
        timeline: Vec<Step>,
    },
    /// Of the events with this correlation id.
    #[serde(rename_all = "camelCase")]
    Together {
        /// As it was asked for.
        correlation_id: String,
        /// The events, newest first.
        events: Vec<Summary>,
        /// The steps of all of them, in the order of their times.
        timeline: Vec<Step>,
        /// For `GET /events?correlationId=…&cursor=…`, when there are more events.
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    },
}

/// An event in a line.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    event_id: String,
    status: Status,
}

/// `GET /inbox/{recipient}`.
#[derive(Debug, Serialize)]
pub struct Inbox {
    tenant: String,
    recipient: String,
    messages: Vec<Message>,
}

/// A message in an inbox.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    event_id: String,
    at: Time,
    title: String,
    body: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Json>,
}

impl Events {
    /// A page of a search.
    pub fn of(page: Page) -> Self {
        Self {
            next: page.next.as_ref().map(cursor),
            events: page.events.into_iter().map(Event::listed).collect(),
        }
    }
}

impl Found {
    /// One event, whole.
    pub fn one(document: Document) -> Self {
        Self::One(Box::new(Event::whole(document)))
    }

    /// The events that belong together.
    pub fn together(correlation_id: String, page: Page) -> Self {
        Self::Together {
            correlation_id,
            next: page.next.as_ref().map(cursor),
            events: page.events.into_iter().map(Event::whole).collect(),
        }
    }
}

impl FoundTimeline {
    /// One event's.
    pub fn one(document: Document) -> Self {
        Self::One {
            status: status_of(&document),
            timeline: steps(document.timeline.into_iter()),
            event_id: document.id,
        }
    }

    /// That of events that belong together.
    pub fn together(correlation_id: String, page: Page) -> Self {
        let mut events = Vec::with_capacity(page.events.len());
        let mut timeline = Vec::new();
        for document in page.events {
            events.push(Summary {
                status: status_of(&document),
                event_id: document.id.clone(),
            });
            let mut latest = Millis::MIN;
            for mut step in steps(document.timeline.into_iter()) {
                step.event_id = Some(document.id.clone());
                // Whatever the clocks said, the steps of one event stay in their order.
                latest = latest.max(step.at.0);
                timeline.push((latest, step));
            }
        }
        timeline.sort_by_key(|(at, _)| *at);
        let timeline = timeline.into_iter().map(|(_, step)| step).collect();
        Self::Together {
            correlation_id,
            events,
            timeline,
            next: page.next.as_ref().map(cursor),
        }
    }
}

impl Inbox {
    /// The messages of a recipient.
    pub fn of(tenant: String, recipient: String, messages: Vec<InboxMessage>) -> Self {
        let messages = messages.into_iter().map(|message| Message {
            event_id: message.id,
            at: Time(message.at),
            title: message.title,
            body: message.body,
            data: message.data,
        });
        Self {
            tenant,
            recipient,
            messages: messages.collect(),
        }
    }
}

impl Event {
    fn whole(mut document: Document) -> Self {
        let timeline = steps(std::mem::take(&mut document.timeline).into_iter());
        let mut notes: Vec<_> = std::mem::take(&mut document.notes)
            .into_iter()
            .map(with_id)
            .collect();
        notes.sort_by_key(|(at, _)| *at);
        let event = Self::listed(document);
        let is_open = !event.status.is_final();
        let generation = event.state.as_ref().map_or(0, |state| state.generation);
        let asked = notes
            .iter()
            .rfind(|(_, note)| note["kind"] == "cancelRequested" && note["data"]["generation"] == generation);
        // It may have been scheduled for another time since it was accepted.
        let scheduled = timeline.iter().rfind(|step| step.status == Status::Scheduled);
        Self {
            scheduled_at: scheduled.and_then(|step| step.due_at).or(event.scheduled_at),
            cancel_requested: asked.filter(|_| is_open).map(|(at, _)| Time(*at)),
            timeline: Some(timeline),
            notes: (!notes.is_empty()).then(|| notes.into_iter().map(|(_, note)| note).collect()),
            ..event
        }
    }

    fn listed(document: Document) -> Self {
        let status = status_of(&document);
        let fixed = document.fixed;
        let scheduled = document
            .state
            .as_ref()
            .filter(|state| state.status == Status::Scheduled);
        let scheduled_at = scheduled.and_then(|state| state.due_at).or(fixed.scheduled_at);
        Self {
            event_id: document.id,
            status,
            tenant: fixed.tenant,
            channel: fixed.channel,
            priority: fixed.priority,
            correlation_id: fixed.correlation_id,
            created_at: Time(fixed.created_at),
            scheduled_at: scheduled_at.map(Time),
            expires_at: fixed.expires_at.map(Time),
            ordering_key: fixed.ordering_key,
            replay_of: fixed.replay_of,
            policy: fixed.policy,
            cancel_requested: None,
            state: document.state.map(Standing::of),
            receipt: document.receipt,
            payload: fixed.payload,
            metadata: fixed.metadata,
            timeline: None,
            notes: None,
        }
    }
}

impl Standing {
    fn of(state: State) -> Self {
        Self {
            step: state.step,
            status: state.status,
            at: Time(state.at),
            generation: state.generation,
            attempt: state.attempt,
            provider: state.provider,
            due_at: state.due_at.map(Time),
            provider_message_id: state.provider_message_id,
            error: state.error.map(|error| *error),
        }
    }
}

fn status_of(document: &Document) -> Status {
    document
        .state
        .as_ref()
        .map_or(Status::Pending, |state| state.status)
}

fn steps(timeline: impl Iterator<Item = (String, TimelineEntry)>) -> Vec<Step> {
    let numbered = timeline.filter_map(|(step, entry)| Some((step.parse().ok()?, entry)));
    let mut steps: Vec<_> = numbered
        .map(|(step, entry)| Step::of(None, step, entry))
        .collect();
    steps.sort_by_key(|step| step.step);
    steps
}

impl Step {
    pub(super) fn of(event_id: Option<String>, step: u32, entry: TimelineEntry) -> Self {
        Self {
            event_id,
            step,
            at: Time(entry.at),
            status: entry.status,
            by: entry.by,
            generation: entry.generation,
            attempt: entry.attempt,
            provider: entry.provider,
            account: entry.account,
            due_at: entry.due_at.map(Time),
            reason: entry.reason,
            rule: entry.rule,
            replay: entry.replay,
            provider_message_id: entry.provider_message_id,
            error: entry.error.map(|error| *error),
        }
    }
}

/// A note with its id and its time as text, and the time to sort it by.
fn with_id((id, mut note): (String, Json)) -> (Millis, Json) {
    let at = note["at"].as_i64().unwrap_or_default();
    if let Some(fields) = note.as_object_mut() {
        fields.insert("id".to_owned(), id.into());
        if let Ok(time) = serde_json::to_value(Time(at)) {
            fields.insert("at".to_owned(), time);
        }
    }
    (at, note)
}
