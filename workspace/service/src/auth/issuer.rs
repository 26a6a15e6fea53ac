//! An issuer of tokens: fetches its keys, and remembers tokens that were found good.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
    time::Duration,
};

use jsonwebtoken::Algorithm;
use posthaste_event::Millis;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    api_key::{Digest, digest_of},
    principal::Principal,
    rate::Window,
    settings::Jwt,
    token::{self, Bad, Keys, Said},
};
use crate::Health;

/// Least time between two fetches: whoever invents ids of keys must not make us ask for each.
const PAUSE: Duration = Duration::from_secs(10);
/// For how long keys are trusted that could not be fetched again.
const KEPT_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Largest document of keys, in bytes.
const DOCUMENT_BYTES_MAX: usize = 1 << 20;
/// Principals whose limits are remembered at once, before those are forgotten of whom no token is.
const WINDOWS_MAX: usize = 10_000;

/// Keys, and when they came.
#[derive(Debug, Clone, Default)]
struct Held {
    keys: Arc<Keys>,
    at: Option<Instant>,
    /// Rises with each fetch that brought other keys than before.
    generation: u64,
}

/// How the last fetch went.
#[derive(Debug, Default)]
struct Fetches {
    last: Option<Instant>,
    document: Vec<u8>,
}

/// What is known of a token.
#[derive(Debug)]
pub(super) enum Known {
    /// It is good.
    Good(Arc<Principal>),
    /// It is not.
    Bad(Bad),
    /// The keys must be fetched first.
    AskIssuer,
    /// It was not seen before, and is not looked at now.
    Unseen,
}

/// Why it is not known what a token is worth.
pub(super) struct Unreachable;

/// Tokens that were found good, by their digests.
type Verified = HashMap<Digest, (Arc<Principal>, u64)>;

#[derive(Debug)]
pub(super) struct Issuer {
    settings: Jwt,
    allowed: Vec<Algorithm>,
    http: reqwest::Client,
    /// Least time between two fetches.
    pause: Duration,
    held: RwLock<Held>,
    fetches: tokio::sync::Mutex<Fetches>,
    /// Why the last fetch failed.
    failure: Mutex<Option<String>>,
    verified: Mutex<Verified>,
    windows: Mutex<HashMap<Arc<str>, Weak<Window>>>,
}

impl Issuer {
    /// # Errors
    /// When no client for HTTP can be made.
    pub(super) fn new(settings: &Jwt) -> Result<Self, String> {
        let unusable = |error| format!("no keys can be fetched: {error}");
        let builder = reqwest::Client::builder()
            .timeout(Duration::from_millis(settings.jwks_timeout_ms))
            .redirect(reqwest::redirect::Policy::none());
        let builder = match settings.jwks_proxy.as_str() {
            "" => builder.no_proxy(),
            "environment" => builder,
            url => builder.proxy(reqwest::Proxy::all(url).map_err(unusable)?),
        };
        let http = builder.build().map_err(unusable)?;
        Ok(Self {
            allowed: settings.allowed(),
            settings: settings.clone(),
            http,
            pause: PAUSE,
            held: RwLock::default(),
            fetches: tokio::sync::Mutex::default(),
            failure: Mutex::default(),
            verified: Mutex::default(),
            windows: Mutex::default(),
        })
    }

    /// Fetches the keys a first time, and says on `/ready` when that fails. Other credentials are good all the same.
    pub(super) fn watch(self: &Arc<Self>, health: &Health) {
        let issuer = Arc::clone(self);
        health.check_lesser("token issuer", move || {
            lock(&issuer.failure).clone().map_or(Ok(()), Err)
        });
        let issuer = Arc::clone(self);
        tokio::spawn(async move { issuer.fetch(None).await });
    }

    /// What a token is worth, as far as the keys are known. One that was not seen before is looked at only if it `may_be_new`.
    pub(super) fn know(
        self: &Arc<Self>,
        token: &str,
        now: Millis,
        may_be_new: impl FnOnce() -> bool,
    ) -> Known {
        let digest = digest_of(token.as_bytes());
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner).clone();
        let age = held.at.map(|at| at.elapsed());
        if age.is_none_or(|age| age > KEPT_MAX) {
            return if may_be_new() {
                Known::AskIssuer
            } else {
                Known::Unseen
            };
        }
        if age.is_some_and(|age| age > Duration::from_secs(u64::from(self.settings.jwks_refresh_seconds))) {
            self.refresh();
        }
        if let Some((principal, generation)) = lock(&self.verified).get(&digest)
            && *generation == held.generation
            && principal.until.is_some_and(|until| now < until)
        {
            return Known::Good(Arc::clone(principal));
        }
        if !may_be_new() {
            return Known::Unseen;
        }
        match token::verify(token, &held.keys, &self.settings, now) {
            Ok(said) => Known::Good(self.remember(digest, said, held.generation, now)),
            Err(Bad::Key) => Known::AskIssuer,
            Err(bad) => Known::Bad(bad),
        }
    }

    /// The same, when the keys had to be fetched first.
    pub(super) async fn ask(self: &Arc<Self>, token: &str, now: Millis) -> Result<Known, Unreachable> {
        let seen = self.held.read().unwrap_or_else(PoisonError::into_inner).at;
        self.fetch(seen).await;
        match self.know(token, now, || true) {
            Known::AskIssuer if lock(&self.failure).is_some() => Err(Unreachable),
            Known::AskIssuer => Ok(Known::Bad(Bad::Key)),
            known => Ok(known),
        }
    }

    /// Fetches again beside the requests, unless somebody does.
    fn refresh(self: &Arc<Self>) {
        let Ok(fetches) = self.fetches.try_lock() else {
            return;
        };
        if fetches.last.is_some_and(|last| last.elapsed() < self.pause) {
            return;
        }
        drop(fetches);
        let issuer = Arc::clone(self);
        let seen = self.held.read().unwrap_or_else(PoisonError::into_inner).at;
        tokio::spawn(async move { issuer.fetch(seen).await });
    }

    /// Fetches the keys, one at a time and not too often. `seen` is when those came that were not enough.
    async fn fetch(&self, seen: Option<Instant>) {
        let mut fetches = self.fetches.lock().await;
        let at = self.held.read().unwrap_or_else(PoisonError::into_inner).at;
        if at != seen || fetches.last.is_some_and(|last| last.elapsed() < self.pause) {
            return;
        }
        fetches.last = Some(Instant::now());
        let fetched = self.document().await.and_then(|document| {
            let keys = Keys::read(&document, &self.allowed)?;
            Ok((document, keys))
        });
        let mut failure = lock(&self.failure);
        match fetched {
            Ok((document, keys)) => {
                let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
                held.at = Some(Instant::now());
                if document != fetches.document {
                    held.keys = Arc::new(keys);
                    held.generation += 1;
                    fetches.document = document;
                    lock(&self.verified).clear();
                }
                if failure.take().is_some() {
                    info!("the keys of the token issuer can be fetched again");
                }
            }
            Err(reason) => {
                let reason = format!("the keys at service.auth.jwt.jwks_url cannot be fetched: {reason}");
                if failure.is_none() {
                    warn!(reason, "{reason}; those known are used meanwhile");
                }
                *failure = Some(reason);
            }
        }
    }

    async fn document(&self) -> Result<Vec<u8>, String> {
        let said = |error: reqwest::Error| error.without_url().to_string();
        let mut answer = self
            .http
            .get(&self.settings.jwks_url)
            .send()
            .await
            .map_err(said)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(format!("it answers {}", answer.status()));
        }
        let mut document = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(said)? {
            document.extend_from_slice(&piece);
            if document.len() > DOCUMENT_BYTES_MAX {
                return Err(format!("the document is larger than {DOCUMENT_BYTES_MAX} bytes"));
            }
        }
        Ok(document)
    }

    fn remember(&self, digest: Digest, said: Said, generation: u64, now: Millis) -> Arc<Principal> {
        let principal = Arc::new(Principal {
            window: self.window(&said.subject),
            name: said.subject,
            tenants: said.tenants,
            roles: said.roles,
            channels: said.channels,
            configs: said.configs,
            until: Some(said.until),
        });
        let mut verified = lock(&self.verified);
        if verified.len() >= self.settings.cached_tokens_max {
            verified.retain(|_, (principal, _)| principal.until.is_some_and(|until| now < until));
        }
        if verified.len() >= self.settings.cached_tokens_max {
            verified.clear();
        }
        verified.insert(digest, (Arc::clone(&principal), generation));
        principal
    }

    /// All tokens of one subject share a limit.
    fn window(&self, subject: &Arc<str>) -> Arc<Window> {
        let mut windows = lock(&self.windows);
        if let Some(window) = windows.get(subject).and_then(Weak::upgrade) {
            return window;
        }
        if windows.len() >= WINDOWS_MAX {
            windows.retain(|_, window| window.strong_count() > 0);
        }
        let window = Arc::default();
        windows.insert(Arc::clone(subject), Arc::downgrade(&window));
        window
    }
}

/// Nothing in here is half-done when a thread panics.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
