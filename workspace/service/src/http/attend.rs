//! What is done for every request whatever its path: correlation, credentials, bodies that do not come, panics.
//!
//! By hand and in one layer: made of a layer for each, it costs a request several allocations and copies of itself.

use std::{
    any::Any,
    convert::Infallible,
    future::ready,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody as _},
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use posthaste_event::clock;
use tower::{Layer, Service};
use tower_http::timeout::TimeoutBody;
use tracing::{debug, error};

use crate::{
    Problem,
    auth::{Admission, Guard},
};

/// Names what belongs together for the client; given back with every answer.
pub const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");

/// Longest correlation id taken from a client, in bytes, which are ASCII.
pub(crate) const CORRELATION_CHARS_MAX: usize = 128;

/// A body of at most this many bytes comes with the head, so that nothing of it is left unread.
const BODY_BYTES_AT_ONCE: u64 = 4_096;

/// The correlation id of a request: the client's, or one made here. In the extensions of every request.
#[derive(Debug, Clone)]
pub struct CorrelationId(pub Arc<str>);

/// Attends to each request of the services below.
#[derive(Debug, Clone)]
pub(super) struct AttendLayer {
    body_timeout: Duration,
    guard: Option<Arc<Guard>>,
}

impl AttendLayer {
    /// `body_timeout` is the longest time between two pieces of a body; `guard` asks for credentials.
    pub(super) const fn new(body_timeout: Duration, guard: Option<Arc<Guard>>) -> Self {
        Self { body_timeout, guard }
    }
}

impl<S> Layer<S> for AttendLayer {
    type Service = Attend<S>;

    fn layer(&self, inner: S) -> Attend<S> {
        Attend {
            inner,
            body_timeout: self.body_timeout,
            guard: self.guard.clone(),
        }
    }
}

/// See [`AttendLayer`].
#[derive(Debug, Clone)]
pub(super) struct Attend<S> {
    inner: S,
    body_timeout: Duration,
    guard: Option<Arc<Guard>>,
}

impl<S> Service<Request> for Attend<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let correlation = match request.headers().get(&CORRELATION_HEADER) {
            Some(value) if is_correlation(value) => value.clone(),
            Some(_) => return Box::pin(ready(Ok(no_correlation()))),
            None => made_up(),
        };
        // Both forms are ASCII by now.
        let id: Arc<str> = correlation.to_str().unwrap_or_default().into();
        let told = tracing::enabled!(tracing::Level::DEBUG).then(|| {
            let path = request.uri().path().to_owned();
            (request.method().clone(), path, Arc::clone(&id))
        });
        request.extensions_mut().insert(CorrelationId(id));
        let length = request.body().size_hint().upper();
        let body_timeout = self.body_timeout;
        let request = request.map(|body| {
            if body.is_end_stream() {
                body
            } else {
                Body::new(TimeoutBody::new(body_timeout, body))
            }
        });
        let tail = Tail {
            length,
            told,
            correlation,
        };
        let mut request = request;
        let admission = match &self.guard {
            None => Admission::Granted(None),
            Some(guard) => guard.admit(&mut request, clock::now()),
        };
        if let (Admission::Later, Some(guard)) = (&admission, &self.guard) {
            let (guard, mut inner) = (Arc::clone(guard), self.inner.clone());
            return Box::pin(async move {
                let admission = guard.admit_later(&mut request, clock::now()).await;
                let answered = call(&mut inner, &admission, request);
                tail.complete(admission, answered).await
            });
        }
        let answered = call(&mut self.inner, &admission, request);
        Box::pin(tail.complete(admission, answered))
    }
}

type Panic = Box<dyn Any + Send>;

/// Hands the request on, unless it was refused.
fn call<S: Service<Request>>(
    inner: &mut S,
    admission: &Admission,
    request: Request,
) -> Option<Result<S::Future, Panic>> {
    let is_refused = matches!(admission, Admission::Refused(_) | Admission::Later);
    (!is_refused).then(|| catch_unwind(AssertUnwindSafe(|| inner.call(request))))
}

/// What is left to do when a request was answered.
struct Tail {
    length: Option<u64>,
    told: Option<(Method, String, Arc<str>)>,
    correlation: HeaderValue,
}

impl Tail {
    async fn complete<F>(
        self,
        admission: Admission,
        answered: Option<Result<F, Panic>>,
    ) -> Result<Response, Infallible>
    where
        F: Future<Output = Result<Response, Infallible>>,
    {
        let answered = match answered {
            Some(Ok(answer)) => Some(AssertUnwindSafe(answer).catch_unwind().await),
            Some(Err(panic)) => Some(Err(panic)),
            None => None,
        };
        let answered = answered.map(|answered| match answered {
            Ok(Ok(response)) => response,
            Err(panic) => panicked(panic.as_ref()),
        });
        let mut response = match (admission, answered) {
            (Admission::Granted(Some(granted)), Some(mut response)) => {
                granted.say(response.headers_mut());
                response
            }
            (Admission::Unrouted, Some(response)) if response.status() != StatusCode::NOT_FOUND => {
                super::assemble::no_such_path().await.into_response()
            }
            (Admission::Refused(response), _) => *response,
            (_, Some(response)) => response,
            (_, None) => panicked(&"a request was admitted and not handed on"),
        };
        // An error may come before the whole body was read, and then hyper closes the connection; the client must know,
        // or its next request on it gets lost.
        let failed = response.status().is_client_error() || response.status().is_server_error();
        if failed && self.length.is_none_or(|bytes| bytes > BODY_BYTES_AT_ONCE) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        if let Some((method, path, id)) = self.told {
            let status = response.status().as_u16();
            debug!(%method, path, status, correlation.id = %id, "answered {method} {path}");
        }
        response
            .headers_mut()
            .insert(CORRELATION_HEADER, self.correlation);
        Ok(response)
    }
}

fn no_correlation() -> Response {
    let detail = format!(
        "X-Correlation-ID cannot be taken; accepted: 1 to {CORRELATION_CHARS_MAX} visible ASCII characters"
    );
    let mut response = Problem::new(StatusCode::BAD_REQUEST, detail).into_response();
    response.headers_mut().insert(CORRELATION_HEADER, made_up());
    response
}

fn panicked(panic: &(dyn Any + Send)) -> Response {
    let reason = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no reason given");
    error!(reason, "a request handler panicked: {reason}");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the request failed inside the service; its log has the reason",
    )
    .into_response()
}

fn is_correlation(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=CORRELATION_CHARS_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

fn made_up() -> HeaderValue {
    let mut buffer = uuid::Uuid::encode_buffer();
    let text = uuid::Uuid::now_v7().hyphenated().encode_lower(&mut buffer);
    // Hexadecimal digits and dashes are always a header value.
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("none"))
}
