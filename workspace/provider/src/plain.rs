//! Plain HTTP to where no proxy is in between, by hyper alone: a third cheaper than by way of reqwest, which all else takes.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming};
use hyper_util::{
    client::legacy::{
        Client, Error,
        connect::{HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioTimer},
};
use reqwest::header::{ACCEPT, HeaderValue, USER_AGENT};
use tower::Service;

use crate::{
    build::Outgoing,
    guard::{Forbidden, Guard, Unresolved},
    settings::Shared,
};

/// The name of this program, for whoever is called.
pub(crate) const NAME: &str = concat!("Posthaste/", env!("CARGO_PKG_VERSION"));

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Connections to plain HTTP servers.
#[derive(Clone)]
pub(crate) struct Plain(Client<HttpConnector<Resolver>, Full<Bytes>>);

impl Plain {
    /// `guard` judges every address that a name leads to; without one all are taken.
    pub(crate) fn new(shared: &Shared, guard: Option<Guard>) -> Self {
        let mut connector = HttpConnector::new_with_resolver(Resolver(guard));
        connector.set_connect_timeout(Some(Duration::from_millis(shared.connect_timeout_ms)));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(shared.idle_connections_max)
            .pool_idle_timeout(Duration::from_millis(shared.idle_timeout_ms))
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self(client)
    }

    /// Whether a request is one for this client: reqwest knows how to use TLS, and what a user in the address means.
    pub(crate) fn takes(outgoing: &Outgoing) -> bool {
        let url = &outgoing.url;
        url.scheme() == "http" && url.username().is_empty() && url.password().is_none()
    }

    /// Sends a request. `None`: its address is none for hyper, and nothing was taken out of it.
    pub(crate) fn send(
        &self,
        outgoing: &mut Outgoing,
    ) -> Option<impl Future<Output = Result<Response<Incoming>, Error>> + use<>> {
        let uri = outgoing.url.as_str().parse().ok()?;
        let mut request = Request::new(Full::new(std::mem::take(&mut outgoing.body)));
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        *headers = std::mem::take(&mut outgoing.headers);
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(NAME));
        Some(self.0.request(request))
    }
}

/// The system's resolver, with a guard behind it.
#[derive(Clone)]
struct Resolver(Option<Guard>);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let guard = self.0.clone();
        Box::pin(async move {
            if let Some(guard) = guard {
                return Ok(guard.addresses(name.as_str()).await?.into_iter());
            }
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            Ok(found.map_err(Unresolved)?.collect::<Vec<_>>().into_iter())
        })
    }
}

/// Why no answer came, as far as it matters for what may be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unanswered {
    Forbidden(Forbidden),
    ConnectTimeout,
    Dns,
    Connect,
    /// The request may have arrived.
    Lost,
}

impl Unanswered {
    pub(crate) fn of(error: &Error) -> Self {
        let mut source = std::error::Error::source(error);
        let (mut timed_out, mut unresolved) = (false, false);
        while let Some(inner) = source {
            if let Some(refused) = inner.downcast_ref::<Forbidden>() {
                return Self::Forbidden(*refused);
            }
            timed_out |= inner
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut);
            unresolved |= inner.is::<Unresolved>();
            source = inner.source();
        }
        match (error.is_connect(), unresolved, timed_out) {
            (true, true, _) => Self::Dns,
            (true, false, true) => Self::ConnectTimeout,
            (true, false, false) => Self::Connect,
            (false, _, _) => Self::Lost,
        }
    }
}
