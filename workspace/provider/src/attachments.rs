//! Fetches the files of an email that are given by their address, right before it is sent.
//!
//! Addresses come from outside, so they lead only where webhooks may ([`crate::guard`]), redirects are not followed, and no more is
//! read than may be sent. Nothing was sent when this fails: what may mend is rejected and tried again, all else is permanent.

use std::{error::Error as _, sync::Arc, time::Duration};

use posthaste_event::{
    ErrorKind, Failure, clock,
    payload::{Attachment, Payload},
};
use reqwest::{
    Response, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, RETRY_AFTER},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{
    Message,
    answer::wait_ms,
    guard::{Forbidden, Guard},
    http::cause,
};

/// Fetches files for all accounts of a process.
#[derive(Clone)]
pub(crate) struct Fetcher {
    client: reqwest::Client,
    guard: Guard,
    /// Most bytes of one email's files together.
    bytes_max: usize,
    places: Arc<Semaphore>,
}

/// A message whose files are all here, and its place among those that may be in memory at once.
pub(crate) struct Fetched {
    pub(crate) message: Message,
    _place: OwnedSemaphorePermit,
}

/// Why a file could not be had.
struct Unfetched {
    kind: ErrorKind,
    code: &'static str,
    problem: String,
    /// What its server asks for, in milliseconds.
    retry_after_ms: Option<u32>,
}

impl Unfetched {
    fn new(kind: ErrorKind, code: &'static str, problem: impl Into<String>) -> Self {
        Self {
            kind,
            code,
            problem: problem.into(),
            retry_after_ms: None,
        }
    }

    fn forbidden(refused: Forbidden) -> Self {
        Self::new(ErrorKind::Permanent, refused.code(), refused.to_string())
    }

    fn unavailable(problem: impl Into<String>) -> Self {
        Self::new(ErrorKind::Rejected, "attachment_unavailable", problem)
    }
}

/// Whether a file of the message must be fetched first.
pub(crate) fn are_elsewhere(message: &Message) -> bool {
    matches!(&message.payload, Payload::Email(email) if email.attachments.iter().any(|file| file.content.is_none()))
}

impl Fetcher {
    /// `client` connects only where `guard` lets it; so many emails are fetched for and sent `at_once`.
    pub(crate) fn new(client: reqwest::Client, guard: Guard, bytes_max: usize, at_once: usize) -> Self {
        Self {
            client,
            guard,
            bytes_max,
            places: Arc::new(Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS))),
        }
    }

    /// The message with all its files, if they come `within` that time.
    ///
    /// # Errors
    /// `provider`'s failure: permanent when another try would end the same, else rejected. Names fields, never addresses.
    pub(crate) async fn fetch(
        &self,
        message: &Message,
        provider: &str,
        within: Duration,
    ) -> Result<Box<Fetched>, Failure> {
        let deadline = Instant::now() + within;
        let failure = |failed: Unfetched| {
            let code = Some(failed.code.to_owned());
            Failure::new(failed.kind, provider, code, &failed.problem).retry_after(failed.retry_after_ms)
        };
        let late = |what: &str| {
            let problem = format!(
                "{what} within {} ms, half of the account's timeout_ms",
                within.as_millis()
            );
            failure(Unfetched::new(ErrorKind::Rejected, "attachment_timeout", problem))
        };
        let place = timeout_at(deadline, Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(late("other emails' attachments left no room for this one's"));
        };
        let mut message = message.clone();
        if let Payload::Email(email) = &mut message.payload {
            let here: usize = email.attachments.iter().filter_map(Attachment::bytes_len).sum();
            let mut room = self.bytes_max.saturating_sub(here);
            let files = email.attachments.iter_mut().enumerate();
            for (index, file) in files.filter(|(_, file)| file.content.is_none()) {
                let got = timeout_at(deadline, self.file(file.url.as_deref(), room)).await;
                let got =
                    got.map_err(|_| late(&format!("payload.attachments[{index}].url: it did not come")))?;
                let bytes = got.map_err(|failed| {
                    let problem = format!("payload.attachments[{index}].url: {}", failed.problem);
                    failure(Unfetched { problem, ..failed })
                })?;
                room -= bytes.len();
                *file = file.with_bytes(&bytes);
            }
        }
        Ok(Box::new(Fetched {
            message,
            _place: place,
        }))
    }

    /// The bytes at an address, at most `room` of them.
    async fn file(&self, url: Option<&str>, room: usize) -> Result<Vec<u8>, Unfetched> {
        let refused = |problem: String| Unfetched::new(ErrorKind::Permanent, "attachment_refused", problem);
        let url = url.and_then(|url| posthaste_event::web::url(url).ok());
        let url = url
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| refused("it is no address that can be called".to_owned()))?;
        self.guard.check_url(&url).map_err(Unfetched::forbidden)?;
        let answer = self
            .client
            .get(url)
            .header(ACCEPT, "*/*")
            .header(ACCEPT_ENCODING, "identity")
            .send()
            .await
            .map_err(|error| unanswered(&error))?;
        judge(&answer)?;
        self.body(answer, room).await
    }

    async fn body(&self, mut answer: Response, room: usize) -> Result<Vec<u8>, Unfetched> {
        let too_large = || {
            let most = self.bytes_max;
            let problem = format!(
                "it has more than is left of the {most} bytes of an email's files (provider.attachments_bytes_max)"
            );
            Unfetched::new(ErrorKind::Permanent, "attachment_too_large", problem)
        };
        let announced = answer
            .content_length()
            .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if announced.is_some_and(|bytes| bytes > room) {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(announced.unwrap_or_default());
        while let Some(chunk) = answer.chunk().await.map_err(|error| unanswered(&error))? {
            if chunk.len() > room - bytes.len() {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        if bytes.is_empty() {
            return Err(Unfetched::new(
                ErrorKind::Permanent,
                "attachment_refused",
                "it is empty",
            ));
        }
        Ok(bytes)
    }
}

/// Whether an answer has the file.
fn judge(answer: &Response) -> Result<(), Unfetched> {
    let status = answer.status();
    let said = format!("its server answered {}", status.as_u16());
    let may_mend = status.is_server_error()
        || [
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::TOO_EARLY,
            StatusCode::TOO_MANY_REQUESTS,
        ]
        .contains(&status);
    if may_mend {
        let wait = answer.headers().get(RETRY_AFTER);
        let retry_after_ms = wait.and_then(|wait| wait_ms(wait.to_str().ok()?, clock::now()));
        return Err(Unfetched {
            retry_after_ms,
            ..Unfetched::unavailable(said)
        });
    }
    if status.is_redirection() {
        let problem = format!("{said}: redirects are not followed");
        return Err(Unfetched::new(
            ErrorKind::Permanent,
            "attachment_refused",
            problem,
        ));
    }
    if status != StatusCode::OK {
        return Err(Unfetched::new(ErrorKind::Permanent, "attachment_refused", said));
    }
    let encoding = answer.headers().get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let problem = "its server compressed it, although it was asked not to";
        return Err(Unfetched::new(
            ErrorKind::Permanent,
            "attachment_refused",
            problem,
        ));
    }
    Ok(())
}

/// What it means that the file did not come, or not whole.
fn unanswered(error: &reqwest::Error) -> Unfetched {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(refused) = inner.downcast_ref::<Forbidden>() {
            return Unfetched::forbidden(*refused);
        }
        source = inner.source();
    }
    let what = if error.is_dns() {
        "its name cannot be resolved"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    };
    Unfetched::unavailable(format!("{what}: {}", cause(error)))
}
