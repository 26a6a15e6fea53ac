//! One call: read as the interface would, judged by the rules, counted, kept, answered.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, RawPathParams, Request, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, post},
};
use futures_util::stream;
use posthaste_event::{clock, failure::cut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Settings,
    apis::{self, Api, Call, Content, Reply, Sent},
    behaviour::{Action, Behaviour, Treatment},
    counts::Counts,
    received::{Received, Ring},
    sends::{Entry, Sends},
};

/// Most SMTP connections at once; HTTP's are bounded by the server.
const CONVERSATIONS_MAX: usize = 1_000;

/// What was received, replaced as a whole when it is forgotten.
pub(crate) struct Memory {
    pub(crate) counts: Counts,
    pub(crate) ring: Ring,
    pub(crate) sends: Sends,
}

impl Memory {
    fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            counts: Counts::new(settings.keys_max),
            ring: Ring::new(settings.messages_max),
            sends: Sends::new(settings.sends_max),
        })
    }
}

pub(crate) struct Sandbox {
    settings: Settings,
    memory: RwLock<Arc<Memory>>,
    pub(crate) behaviour: Behaviour,
    waiting: Semaphore,
    conversations: Arc<Semaphore>,
    ids: AtomicU64,
    /// Differs between processes, so that ids do.
    run: u32,
}

impl Sandbox {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            memory: RwLock::new(Memory::new(settings)),
            behaviour: Behaviour::new(settings.seed, settings.hang_ms),
            waiting: Semaphore::new(settings.waiting_max.min(Semaphore::MAX_PERMITS)),
            conversations: Arc::new(Semaphore::new(CONVERSATIONS_MAX)),
            ids: AtomicU64::new(0),
            run: uuid::Uuid::new_v4().as_fields().0,
            settings: settings.clone(),
        }
    }

    pub(crate) fn state(&self) -> Arc<Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn forget(&self) {
        let fresh = Memory::new(&self.settings);
        *self.memory.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// 128 bits in hexadecimal, unlike any other.
    fn id(&self) -> String {
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        format!("{:08x}{:08x}{number:016x}", self.run, !self.run)
    }

    /// The answer of an interface to a call, late if it is to be; `None`: the connection is to be broken off.
    pub(crate) async fn answer(&self, api: &'static Api, call: &Call) -> Option<Reply> {
        let index = apis::ALL.iter().position(|other| other.name == api.name)?;
        let memory = self.state();
        memory.counts.called(index);
        let sent = match (api.read)(call, &Content::read(&call.headers, &call.body)) {
            Ok(sent) => sent,
            Err(reply) => {
                memory.counts.refused(index);
                return Some(reply);
            }
        };
        let treatment = self.behaviour.treat(api.name, &sent.recipient);
        let place = match treatment.delay_ms {
            0 => None,
            _ => match self.waiting.try_acquire() {
                Ok(place) => Some(place),
                // Nothing was taken: better one that fails than one that waits for ever.
                Err(_) => return Some((api.unavailable)()),
            },
        };
        let (reply, action) = self.judge(index, api, &memory, &sent, treatment, call);
        memory.counts.acted(index, action);
        if place.is_some() {
            tokio::time::sleep(Duration::from_millis(treatment.delay_ms)).await;
        }
        drop(place);
        (!matches!(action, Action::Hang | Action::Reset)).then_some(reply)
    }

    /// A place for one more SMTP connection.
    pub(crate) fn conversation(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.conversations).try_acquire_owned().ok()
    }

    /// Most bytes taken of a request, and of an email by SMTP.
    pub(crate) const fn request_bytes_max(&self) -> usize {
        self.settings.request_bytes_max
    }

    /// Decides, counts and keeps; everything but waiting.
    fn judge(
        &self,
        index: usize,
        api: &'static Api,
        memory: &Memory,
        sent: &Sent,
        treatment: Treatment,
        call: &Call,
    ) -> (Reply, Action) {
        let action = treatment.action;
        let taken = action.takes();
        let at = clock::now();
        memory.sends.push(Entry {
            at,
            provider: api.name,
            action,
            key: sent.key.as_deref().map(Box::from),
        });
        let event = sent.key.as_deref().and_then(event_of);
        let text = String::from_utf8_lossy(&call.body);
        let id = taken.then(|| {
            match &sent.key {
                Some(key) => memory.counts.taken(index, &[key], event),
                None => memory.counts.taken(index, &[&sent.recipient, &text], None),
            };
            // The same key gets the same id where the interface itself tells repetitions.
            sent.same_id.clone().unwrap_or_else(|| self.id())
        });
        let reply = match action {
            Action::Invalid => (api.invalid)(sent),
            Action::Unavailable => (api.unavailable)(),
            Action::Fail => (api.failed)(),
            Action::RateLimit => {
                (api.limited)(sent).header("retry-after", treatment.retry_after_seconds.to_string())
            }
            Action::Garbage => Reply::text(200, "<html><body>Welcome to the hotel's network!</body></html>"),
            _ => (api.accepted)(sent, id.as_deref().unwrap_or_default()),
        };
        if self.settings.messages_max > 0 {
            memory.ring.push(Received {
                provider: api.name,
                at,
                recipient: sent.recipient.clone(),
                event: event.map(str::to_owned),
                key: sent.key.clone(),
                action: action.as_str(),
                message_id: id,
                attachments: sent.attachments.clone(),
                body: cut(&text, self.settings.message_bytes_max).to_owned(),
            });
        }
        (reply, action)
    }
}

/// The event in an idempotency key, `event:account:n`.
pub(crate) fn event_of(key: &str) -> Option<&str> {
    let mut parts = key.rsplitn(3, ':');
    let (_, _, event) = (parts.next()?, parts.next()?, parts.next()?);
    Some(event).filter(|event| !event.is_empty())
}

/// The route of an interface.
pub(crate) fn route(api: &'static Api) -> MethodRouter<Arc<Sandbox>> {
    post(
        move |State(sandbox): State<Arc<Sandbox>>, params: RawPathParams, request: Request| async move {
            let params = params.iter().map(|(_, value)| value.to_owned()).collect();
            let (parts, body) = request.into_parts();
            let headers: HeaderMap = parts.headers.clone();
            match Bytes::from_request(Request::from_parts(parts, body), &sandbox).await {
                Ok(body) => {
                    let call = Call {
                        params,
                        headers,
                        body,
                    };
                    let answer = sandbox.answer(api, &call).await;
                    answer.map_or_else(broken, IntoResponse::into_response)
                }
                Err(rejection) => rejection.into_response(),
            }
        },
    )
}

/// An answer that breaks off: a body is announced, and then the connection is dropped.
fn broken() -> Response {
    let nothing = stream::once(async { Err::<Bytes, _>(std::io::Error::other("reset on request")) });
    let mut response = Response::new(Body::from_stream(nothing));
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(1_000_u32));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_is_what_comes_before_account_and_number() {
        assert_eq!(event_of("a:b:twilio:0"), Some("a:b"));
        assert_eq!(event_of("e:twilio:12"), Some("e"));
        assert_eq!(event_of("twilio:0"), None);
        assert_eq!(event_of(""), None);
    }
}
