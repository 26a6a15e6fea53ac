//! The engine that runs provider files over HTTP.
//!
//! What is known when a call fails decides its kind: before the request left, it is *rejected*; from then on until an answer
//! is read, it is *ambiguous*.

use std::{error::Error as _, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use posthaste_event::{Channel, ErrorKind, Failure, clock};
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use tokio::time::{Instant, timeout_at};

use crate::{
    Message, Provider, Receipt,
    answer::{Answer, one_line},
    attachments::{self, Fetcher},
    build::{Outgoing, Values},
    file::{Auth, Description, Misplaced},
    guard::{Forbidden, Guard},
    jwt::Signed,
    oauth::Tokens,
    plain::{Plain, Unanswered},
    signing::Signer,
    template::{Scope, Text},
};

/// The connections of a process: providers share them by host.
#[derive(Clone)]
pub(crate) struct Clients {
    /// To addresses from the configuration.
    pub(crate) own: reqwest::Client,
    /// The same by HTTP/2 alone: to interfaces that speak nothing else.
    pub(crate) own_http2: reqwest::Client,
    /// To the sandbox, which no proxy could reach.
    pub(crate) sandbox: reqwest::Client,
    /// To addresses from events.
    pub(crate) foreign: reqwest::Client,
    /// The same without TLS, where no proxy is in between.
    pub(crate) own_plain: Option<Plain>,
    pub(crate) sandbox_plain: Plain,
    pub(crate) foreign_plain: Option<Plain>,
    pub(crate) guard: Guard,
    pub(crate) fetcher: Fetcher,
    pub(crate) answer_bytes_max: usize,
}

/// A provider that is described by a file, with one account's values.
pub(crate) struct HttpProvider {
    pub(crate) description: Arc<Description>,
    pub(crate) values: Values,
    pub(crate) clients: Clients,
    pub(crate) timeout: Duration,
    pub(crate) tokens: Option<Tokens>,
    pub(crate) signed: Option<Signed>,
    pub(crate) signer: Option<Signer>,
    /// Taken out of whatever a provider says.
    pub(crate) secrets: Vec<String>,
}

#[async_trait]
impl Provider for HttpProvider {
    fn name(&self) -> &str {
        &self.description.name
    }

    fn channels(&self) -> &[Channel] {
        &self.description.channels
    }

    async fn send(&self, message: &Message) -> Result<Receipt, Failure> {
        if attachments::are_elsewhere(message) {
            let (within, name) = (self.timeout / 2, &self.description.name);
            // In boxes, so that all other messages need no room for it.
            let fetched = Box::pin(self.clients.fetcher.fetch(message, name, within)).await?;
            return Box::pin(self.send_whole(&fetched.message, self.timeout - within)).await;
        }
        self.send_whole(message, self.timeout).await
    }
}

impl HttpProvider {
    /// Sends a message that has all that goes with it.
    async fn send_whole(&self, message: &Message, within: Duration) -> Result<Receipt, Failure> {
        let deadline = Instant::now() + within;
        let mut outgoing = self
            .description
            .build(&self.values, message)
            .map_err(|misplaced| self.unbuildable(misplaced))?;
        let token = timeout_at(deadline, self.authorise(&mut outgoing, message))
            .await
            .unwrap_or_else(|_| {
                Err(self.failure(
                    ErrorKind::Rejected,
                    "oauth_timeout",
                    "no access token came in time",
                ))
            })?;
        let outcome = timeout_at(deadline, self.exchange(outgoing))
            .await
            .unwrap_or_else(|_| {
                Err(self.failure(
                    ErrorKind::Ambiguous,
                    "timeout",
                    &format!("no answer within {} ms", within.as_millis()),
                ))
            });
        if let (Some(token), Err(failure)) = (token, &outcome) {
            Box::pin(self.judge_token(&token, failure)).await;
        }
        outcome
    }

    /// Whether it was the token that was not taken, so that the next try needs another.
    async fn judge_token(&self, token: &str, failure: &Failure) {
        let Some(code) = failure.code.as_deref() else {
            return;
        };
        match (&self.description.auth, &self.tokens, &self.signed) {
            (Auth::GoogleServiceAccount { .. }, Some(tokens), _)
                if ["401", "UNAUTHENTICATED"].contains(&code) =>
            {
                tokens.forget(token).await;
            }
            (Auth::JwtEs256 { refused_codes, .. }, _, Some(signed))
                if refused_codes.iter().any(|refused| refused == code) =>
            {
                signed.refused(token);
            }
            _ => {}
        }
    }

    fn failure(&self, kind: ErrorKind, code: &str, message: &str) -> Failure {
        Failure::new(kind, &self.description.name, Some(code.to_owned()), message)
    }

    /// The payload does not fit this provider; no try can change that.
    fn unbuildable(&self, (path, error): Misplaced) -> Failure {
        let message = self.without_secrets(&format!("{}: {error}", path.join(".")));
        self.failure(ErrorKind::Permanent, "request", &message)
    }

    /// Adds what proves who sends. Returns the access token's header, where there is one.
    async fn authorise(&self, outgoing: &mut Outgoing, message: &Message) -> Result<Option<String>, Failure> {
        let unusable = || {
            self.failure(
                ErrorKind::Rejected,
                "credentials",
                "the credentials fit into no header",
            )
        };
        let secret = |text: &str| {
            let mut value = HeaderValue::from_str(text).map_err(|_| unusable())?;
            value.set_sensitive(true);
            Ok::<_, Failure>(value)
        };
        let null = serde_json::Value::Null;
        let scope = Scope::new(&null, &self.values.all, &null);
        let render = |text: &Text| text.render(&scope).map_err(|_| unusable());
        match &self.description.auth {
            Auth::None => {}
            Auth::Basic { username, password } => {
                let pair = STANDARD.encode(format!("{}:{}", render(username)?, render(password)?));
                outgoing
                    .headers
                    .insert(AUTHORIZATION, secret(&format!("Basic {pair}"))?);
            }
            Auth::Bearer(token) => {
                let header = secret(&format!("Bearer {}", render(token)?))?;
                outgoing.headers.insert(AUTHORIZATION, header);
            }
            Auth::Header { name, value } => {
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unusable())?;
                outgoing.headers.insert(name, secret(&render(value)?)?);
            }
            Auth::GoogleServiceAccount { .. } => {
                let tokens = self.tokens.as_ref().ok_or_else(unusable)?;
                let header = Box::pin(tokens.header()).await?;
                outgoing.headers.insert(AUTHORIZATION, secret(&header)?);
                return Ok(Some(header));
            }
            Auth::JwtEs256 { .. } => {
                let signed = self.signed.as_ref().ok_or_else(unusable)?;
                let header = signed.header(clock::now()).ok_or_else(unusable)?;
                outgoing.headers.insert(AUTHORIZATION, secret(&header)?);
                return Ok(Some(header));
            }
            Auth::StandardWebhooks { .. } => {
                let signer = self.signer.as_ref().ok_or_else(unusable)?;
                let timestamp = clock::now() / 1_000;
                let signature = signer.sign(&message.idempotency_key, timestamp, &outgoing.body);
                let headers = &mut outgoing.headers;
                headers.insert("webhook-id", secret(&message.idempotency_key)?);
                headers.insert("webhook-timestamp", HeaderValue::from(timestamp));
                headers.insert("webhook-signature", secret(&signature)?);
            }
        }
        Ok(None)
    }

    async fn exchange(&self, mut outgoing: Outgoing) -> Result<Receipt, Failure> {
        if outgoing.foreign {
            self.clients
                .guard
                .check_url(&outgoing.url)
                .map_err(|refused| self.forbidden(refused))?;
        }
        if let Some(request) = self.plain(&outgoing).and_then(|plain| plain.send(&mut outgoing)) {
            let response = request.await.map_err(|error| self.unanswered_plain(&error))?;
            return self.judge(response).await;
        }
        // In a box, so that plain requests need no room for it.
        Box::pin(self.exchange_encrypted(outgoing)).await
    }

    async fn exchange_encrypted(&self, outgoing: Outgoing) -> Result<Receipt, Failure> {
        let response = self
            .client(&outgoing)
            .request(outgoing.method, outgoing.url)
            .headers(outgoing.headers)
            .body(outgoing.body)
            .send()
            .await
            .map_err(|error| self.unanswered(&error))?;
        self.judge(hyper::Response::<reqwest::Body>::from(response)).await
    }

    fn client(&self, outgoing: &Outgoing) -> &reqwest::Client {
        if outgoing.foreign {
            &self.clients.foreign
        } else if self.values.sandboxed {
            &self.clients.sandbox
        } else if self.description.http2 {
            &self.clients.own_http2
        } else {
            &self.clients.own
        }
    }

    fn plain(&self, outgoing: &Outgoing) -> Option<&Plain> {
        if !Plain::takes(outgoing) {
            None
        } else if outgoing.foreign {
            self.clients.foreign_plain.as_ref()
        } else if self.values.sandboxed {
            Some(&self.clients.sandbox_plain)
        } else if self.description.http2 {
            None
        } else {
            self.clients.own_plain.as_ref()
        }
    }

    /// Reads an answer, as far as the bound allows, and what it means.
    async fn judge<B>(&self, response: hyper::Response<B>) -> Result<Receipt, Failure>
    where
        B: Body<Data = Bytes, Error: std::error::Error + 'static> + Unpin,
    {
        let (head, mut rest) = response.into_parts();
        let mut body = Vec::new();
        while let Some(frame) = rest.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(chunk)) => {
                    let room = self.clients.answer_bytes_max - body.len();
                    body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                    if chunk.len() >= room {
                        break;
                    }
                }
                // Trailers.
                Ok(Err(_)) => {}
                // A success that breaks off may be a success; a refusal is one from its first line.
                Err(error) if head.status.is_success() => {
                    return Err(self.failure(
                        ErrorKind::Ambiguous,
                        "answer_cut_off",
                        &self.without_secrets(&format!("the answer broke off: {}", cause(&error))),
                    ));
                }
                Err(_) => break,
            }
        }
        let text = String::from_utf8_lossy(&body);
        let answer = Answer::new(head.status.as_u16(), &head.headers, &text, clock::now());
        self.description
            .reading
            .read(&self.description.name, &answer)
            .map(|receipt| Receipt {
                message_id: receipt.message_id.map(|id| self.without_secrets(&id)),
            })
            .map_err(|failure| self.scrub(failure))
    }

    /// No try can change that.
    fn forbidden(&self, refused: Forbidden) -> Failure {
        self.failure(ErrorKind::Permanent, refused.code(), &refused.to_string())
    }

    /// What it means that no answer came to a plain request.
    fn unanswered_plain(&self, error: &hyper_util::client::legacy::Error) -> Failure {
        let (kind, code, what) = match Unanswered::of(error) {
            Unanswered::Forbidden(refused) => return self.forbidden(refused),
            Unanswered::ConnectTimeout => (ErrorKind::Rejected, "connect_timeout", "no connection in time"),
            Unanswered::Dns => (ErrorKind::Rejected, "dns", "the name cannot be resolved"),
            Unanswered::Connect => (ErrorKind::Rejected, "connect", "no connection"),
            Unanswered::Lost => (ErrorKind::Ambiguous, "connection_lost", "no answer"),
        };
        let what = format!("{what}: {}", cause(error));
        self.failure(kind, code, &self.without_secrets(&what))
    }

    /// What it means that no answer came.
    fn unanswered(&self, error: &reqwest::Error) -> Failure {
        let mut source = error.source();
        while let Some(inner) = source {
            if let Some(refused) = inner.downcast_ref::<Forbidden>() {
                return self.forbidden(*refused);
            }
            source = inner.source();
        }
        let (kind, code, what) = if error.is_builder() {
            (ErrorKind::Permanent, "request", "the request cannot be made")
        } else if error.is_connect() && error.is_timeout() {
            (ErrorKind::Rejected, "connect_timeout", "no connection in time")
        } else if error.is_dns() {
            (ErrorKind::Rejected, "dns", "the name cannot be resolved")
        } else if error.is_connect() {
            (ErrorKind::Rejected, "connect", "no connection")
        } else {
            (ErrorKind::Ambiguous, "connection_lost", "no answer")
        };
        self.failure(
            kind,
            code,
            &self.without_secrets(&format!("{what}: {}", cause(error))),
        )
    }

    fn scrub(&self, failure: Failure) -> Failure {
        let message = self.without_secrets(&failure.message);
        let code = failure.code.as_deref().map(|code| self.without_secrets(code));
        if message == failure.message && code == failure.code {
            return failure;
        }
        Failure::new(failure.kind, &self.description.name, code, &message).retry_after(failure.retry_after_ms)
    }

    fn without_secrets(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), "***");
            }
        }
        text
    }
}

/// The innermost reason of a failed call. Never the URL: it may hold a secret.
pub(crate) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut source = error.source();
    let mut last = None;
    while let Some(inner) = source {
        last = Some(inner);
        source = inner.source();
    }
    last.map_or_else(
        || "unknown reason".to_owned(),
        |inner| one_line(&inner.to_string()),
    )
}
