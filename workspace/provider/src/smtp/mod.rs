//! Email by SMTP, to a server of one's own (RFC 5321).
//!
//! The messages are lettre's, the conversation is ours: whether a failed send may have been taken depends on whether the
//! final dot had been written, and a client that answers "the connection broke" does not say. It also lets the recipients
//! be asked for all at once (RFC 2920), and drops whatever was said before a TLS handshake.
//!
//! | what happened | kind |
//! |---|---|
//! | no connection, no TLS, no login, refused or broken before the final dot | rejected: nothing was sent |
//! | 421, 450, 451, 452 at any time | rate limited: nothing was sent, come back later |
//! | 5yz to a recipient, or to the text | permanent |
//! | no answer, or none that can be read, after the final dot | ambiguous |
//!
//! One event is one message: if the server refuses one of its recipients, nobody gets it, and the failure names who it was.
//! A try for the others alone could not be told from a repetition.

mod mail;
mod parts;
mod rehearsal;
mod reply;
mod session;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use posthaste_event::{Channel, ErrorKind, Failure, FieldError, clock, payload::Payload};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use self::{
    mail::Mail,
    session::{Io, Session, Stopped},
    settings::{Encryption, Given, Server},
};
use crate::{
    Message, Provider, Receipt,
    attachments::{self, Fetcher},
    settings::AccountSettings,
};

pub use rehearsal::Heard;
pub(crate) use rehearsal::rehearse;
pub(crate) use settings::keys;

/// Its name, which is also its default account's.
pub(crate) const NAME: &str = "smtp";

/// Where accounts without a server send: an HTTP address whose connections become SMTP ones (RFC 9110, section 7.8).
pub(crate) const SANDBOX_PATH: &str = "/smtp";

/// What a process gives to all accounts.
pub(crate) struct Shared {
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    /// Client and address of the sandbox, if there is one.
    pub(crate) sandbox: Option<(reqwest::Client, String)>,
    /// Gets the files that go with an email.
    pub(crate) fetcher: Fetcher,
}

/// One account.
pub(crate) struct Smtp {
    place: Place,
    helo_name: Option<String>,
    return_path: Option<String>,
    timeout: Duration,
    connect_timeout: Duration,
    idle: Idle,
    fetcher: Fetcher,
}

enum Place {
    Server(Server),
    Sandbox { client: reqwest::Client, url: String },
}

impl Smtp {
    /// Checks an account's settings. Calls nobody. None: it has no server, and there is no sandbox.
    pub(crate) fn new(
        account: &str,
        own: &AccountSettings,
        shared: Shared,
    ) -> Result<Option<Self>, FieldError> {
        if own.base_url.is_some() {
            return Err(FieldError::new(
                format!("providers.{account}.base_url"),
                "is not for smtp",
                "host and port",
            ));
        }
        let given = Given::read(account, &own.values)?;
        let place = match (given.server, shared.sandbox) {
            (Some(server), _) => Place::Server(server),
            (None, Some((client, url))) => Place::Sandbox { client, url },
            (None, None) => return Ok(None),
        };
        Ok(Some(Self {
            place,
            helo_name: given.helo_name,
            return_path: given.return_path,
            timeout: own.timeout,
            connect_timeout: shared.connect_timeout,
            fetcher: shared.fetcher,
            idle: Idle {
                sessions: Mutex::new(Vec::new()),
                sessions_max: own.concurrency_max,
                kept_for: shared.idle_timeout,
            },
        }))
    }

    pub(crate) fn is_sandboxed(&self) -> bool {
        matches!(self.place, Place::Sandbox { .. })
    }
}

#[async_trait]
impl Provider for Smtp {
    fn name(&self) -> &str {
        NAME
    }

    fn channels(&self) -> &[Channel] {
        &[Channel::Email]
    }

    async fn send(&self, message: &Message) -> Result<Receipt, Failure> {
        if attachments::are_elsewhere(message) {
            let within = self.timeout / 2;
            let fetched = Box::pin(self.fetcher.fetch(message, NAME, within)).await?;
            return Box::pin(self.send_whole(&fetched.message, self.timeout - within)).await;
        }
        self.send_whole(message, self.timeout).await
    }
}

impl Smtp {
    /// Sends a message that has all that goes with it.
    async fn send_whole(&self, message: &Message, within: Duration) -> Result<Receipt, Failure> {
        let began = Instant::now();
        let Payload::Email(email) = &message.payload else {
            let problem = "the payload is not one of the channel email".to_owned();
            return Err(self.failure(Stopped::new(ErrorKind::Permanent, "payload", problem)));
        };
        let mail = Mail::compose(email, message, self.return_path.as_deref(), clock::now())
            .map_err(|problem| self.failure(Stopped::new(ErrorKind::Permanent, "request", problem)))?;
        // Before the whole time is over, so that a send that surely did not happen is not taken for one in doubt.
        let sure = within - (within / 10).min(Duration::from_millis(250));
        let mut session = timeout_at(began + sure, self.hand_over(&mail))
            .await
            .unwrap_or_else(|_| {
                let problem = format!(
                    "the message could not be handed over within {} ms",
                    sure.as_millis()
                );
                Err(Stopped::new(ErrorKind::Rejected, "timeout", problem))
            })
            .map_err(|stopped| self.failure(stopped))?;
        let answer = timeout_at(began + within, session.finish())
            .await
            .unwrap_or_else(|_| {
                let problem = format!("no answer within {} ms", within.as_millis());
                Err(Stopped::new(ErrorKind::Ambiguous, "timeout", problem))
            });
        match answer {
            Ok(reply) => {
                self.idle.put(session);
                Ok(Receipt {
                    message_id: reply.queue_id(),
                })
            }
            Err(stopped) => {
                if stopped.usable {
                    self.idle.put(session);
                }
                Err(self.failure(stopped))
            }
        }
    }

    fn failure(&self, stopped: Stopped) -> Failure {
        let mut message = stopped.message;
        if let Place::Server(Server {
            login: Some((user, password)),
            ..
        }) = &self.place
        {
            for secret in [password, user].into_iter().filter(|secret| secret.len() >= 6) {
                message = message.replace(secret.as_str(), "***");
            }
        }
        Failure::new(stopped.kind, NAME, Some(stopped.code), &message).reporting(stopped.reported)
    }

    /// A session that has the whole message but the final dot.
    async fn hand_over(&self, mail: &Mail) -> Result<Session, Stopped> {
        if let Some(mut session) = self.idle.take() {
            match session.hand_over(mail).await {
                Ok(()) => return Ok(session),
                // The server had closed it meanwhile; on a new one the message begins for the first time.
                Err(stopped) if stopped.stale => {}
                Err(stopped) => return Err(self.keep(session, stopped)),
            }
        }
        let mut session = self.open().await?;
        match session.hand_over(mail).await {
            Ok(()) => Ok(session),
            Err(stopped) => Err(self.keep(session, stopped)),
        }
    }

    fn keep(&self, session: Session, stopped: Stopped) -> Stopped {
        if stopped.usable {
            self.idle.put(session);
        }
        stopped
    }

    /// A new session. The caller bounds the time that the server takes to answer.
    async fn open(&self) -> Result<Session, Stopped> {
        match &self.place {
            Place::Server(server) => self.open_server(server).await,
            Place::Sandbox { client, url } => {
                let stream = timeout(self.connect_timeout, upgraded(client, url))
                    .await
                    .unwrap_or_else(|_| Err("it does not answer".to_owned()))
                    .map_err(|why| {
                        let problem = format!("the sandbox does not turn to SMTP: {why}");
                        Stopped::new(ErrorKind::Rejected, "connect", problem)
                    })?;
                Session::greet(Box::new(stream), "localhost").await
            }
        }
    }

    async fn open_server(&self, server: &Server) -> Result<Session, Stopped> {
        let stopped = |code: &str, problem: String| Stopped::new(ErrorKind::Rejected, code, problem);
        let too_long = |what: &str| {
            let problem = format!("no {what} within {} ms", self.connect_timeout.as_millis());
            stopped("connect_timeout", problem)
        };
        let stream = timeout(self.connect_timeout, connect(server, self.connect_timeout))
            .await
            .map_err(|_| too_long("connection"))??;
        let here = stream.local_addr().ok();
        // The final dot is a write of its own, which must not wait for the text to be confirmed.
        let _no_delay = stream.set_nodelay(true);
        let name = match (&self.helo_name, here) {
            (Some(name), _) => name.clone(),
            (None, Some(address)) => literal(address),
            (None, None) => "localhost".to_owned(),
        };
        let shake = async |stream: Box<dyn Io>| -> Result<Box<dyn Io>, Stopped> {
            let Some((connector, host)) = &server.tls else {
                return Ok(stream);
            };
            let shaken = timeout(self.connect_timeout, connector.connect(host.clone(), stream)).await;
            let shaken = shaken.map_err(|_| too_long("TLS handshake"))?;
            shaken
                .map(|stream| Box::new(stream) as Box<dyn Io>)
                .map_err(|error| stopped("tls", format!("no TLS: {error}")))
        };
        let mut session = match server.encryption {
            Encryption::None => Session::greet(Box::new(stream), &name).await?,
            Encryption::Tls => Session::greet(shake(Box::new(stream)).await?, &name).await?,
            Encryption::StartTls => {
                let plain = Session::greet(Box::new(stream), &name).await?;
                Session::greet_again(shake(plain.into_tls().await?).await?, &name).await?
            }
        };
        if let Some((user, password)) = &server.login {
            session.log_in(user, password).await?;
        }
        Ok(session)
    }
}

/// To the first of the server's addresses that answers. One that says nothing leaves the others their share of the time.
async fn connect(server: &Server, within: Duration) -> Result<TcpStream, Stopped> {
    let addresses = tokio::net::lookup_host((server.host.as_str(), server.port))
        .await
        .map_err(|error| {
            let problem = format!("the name of the server cannot be resolved: {error}");
            Stopped::new(ErrorKind::Rejected, "dns", problem)
        })?;
    let addresses: Vec<SocketAddr> = addresses.collect();
    let share = within / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut last = ("connect", "it has no address".to_owned());
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = ("connect", error.to_string()),
            Err(_) => last = ("connect_timeout", "it does not answer".to_owned()),
        }
    }
    let (code, why) = last;
    Err(Stopped::new(
        ErrorKind::Rejected,
        code,
        format!("no connection: {why}"),
    ))
}

async fn upgraded(client: &reqwest::Client, url: &str) -> Result<reqwest::Upgraded, String> {
    let answer = client
        .get(url)
        .header(reqwest::header::CONNECTION, "upgrade")
        .header(reqwest::header::UPGRADE, "smtp")
        .send()
        .await
        .map_err(|error| crate::http::cause(&error))?;
    if answer.status() != reqwest::StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("it answered {}", answer.status().as_u16()));
    }
    answer.upgrade().await.map_err(|error| crate::http::cause(&error))
}

/// Our end of the connection as a name (RFC 5321, section 4.1.3): always true, if little told.
fn literal(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => format!("[{}]", address.ip()),
        SocketAddr::V6(address) => format!("[IPv6:{}]", address.ip()),
    }
}

/// Sessions between two messages. There are never more than sends were under way at once.
struct Idle {
    sessions: Mutex<Vec<(Instant, Session)>>,
    sessions_max: usize,
    kept_for: Duration,
}

impl Idle {
    /// The one that was used last; all that have waited too long are closed.
    fn take(&self) -> Option<Session> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let old = sessions.partition_point(|(since, _)| since.elapsed() >= self.kept_for);
        let closed: Vec<_> = sessions.drain(..old).collect();
        let taken = sessions.pop();
        drop(sessions);
        drop(closed);
        taken.map(|(_, session)| session)
    }

    fn put(&self, session: Session) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() < self.sessions_max {
            sessions.push((Instant::now(), session));
        }
    }
}
