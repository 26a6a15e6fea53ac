//! One connection to a server: the conversation of RFC 5321, one message after the other.
//!
//! Handing a message over is in two parts, so that what is known when something fails is never in doubt. [`Session::hand_over`]
//! ends before the final dot: whatever happens in it, nothing was sent. [`Session::finish`] writes the dot: from then on
//! until the reply is read, the message may have been taken.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use posthaste_event::{ErrorKind, failure::Reported};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    time::{Duration, timeout},
};

use super::{
    mail::{Mail, Recipient},
    reply::{Reply, Stage, Unheard},
};

/// Most commands sent before their replies are read, so that neither side fills the other's buffers.
const PIPELINED_MAX: usize = 64;
/// How long a server that stopped reading is given to say why.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Most refused recipients named in a failure.
const NAMED_MAX: usize = 4;

/// What a conversation rides on.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Why a message did not go.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) kind: ErrorKind,
    pub(super) code: String,
    pub(super) message: String,
    /// What it says of the recipient.
    pub(super) reported: Option<Reported>,
    /// The connection can be used for further messages.
    pub(super) usable: bool,
    /// The server had ended the conversation before it began on this message, as servers do with idle connections.
    pub(super) stale: bool,
}

impl Stopped {
    pub(super) fn new(kind: ErrorKind, code: &str, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: code.to_owned(),
            message: message.into(),
            reported: None,
            usable: false,
            stale: false,
        }
    }

    fn refused(what: &str, stage: Stage, reply: &Reply) -> Self {
        let code = reply.code.to_string();
        let message = format!("{what} was refused: {code} {}", reply.text());
        Self {
            reported: reply.reported(stage),
            ..Self::new(reply.refusal(stage), &code, message)
        }
    }

    /// Nothing that could be understood came, at a time when nothing was sent yet.
    fn unheard(unheard: &Unheard) -> Self {
        match unheard {
            Unheard::Lost(why) => Self::new(
                ErrorKind::Rejected,
                "connection_lost",
                format!("the connection broke before the message was complete: {why}"),
            ),
            Unheard::Garbage => Self::new(
                ErrorKind::Rejected,
                "no_smtp",
                "what answered does not speak SMTP",
            ),
        }
    }
}

/// What a server says that it can do (EHLO).
#[derive(Debug, Default)]
struct Offers {
    pipelining: bool,
    smtputf8: bool,
    eight_bit: bool,
    starttls: bool,
    auth_plain: bool,
    auth_login: bool,
    /// Most bytes of a message; 0: no limit.
    size: Option<u64>,
}

impl Offers {
    fn read(reply: &Reply) -> Self {
        let mut offers = Self::default();
        // The first line is the server's name.
        for line in reply.lines.iter().skip(1) {
            let line = line.to_ascii_uppercase();
            let mut words = line.split([' ', '=']);
            match words.next().unwrap_or_default() {
                "PIPELINING" => offers.pipelining = true,
                "SMTPUTF8" => offers.smtputf8 = true,
                "8BITMIME" => offers.eight_bit = true,
                "STARTTLS" => offers.starttls = true,
                "SIZE" => offers.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0)),
                "AUTH" => {
                    for mechanism in words {
                        offers.auth_plain |= mechanism == "PLAIN";
                        offers.auth_login |= mechanism == "LOGIN";
                    }
                }
                _ => {}
            }
        }
        offers
    }
}

/// A conversation between two messages.
pub(super) struct Session {
    stream: BufReader<Box<dyn Io>>,
    offers: Offers,
}

impl Session {
    /// Takes the server's greeting and says who we are.
    pub(super) async fn greet(stream: Box<dyn Io>, name: &str) -> Result<Self, Stopped> {
        let mut session = Self::over(stream);
        session.expect("the connection", Stage::Opening, 2).await?;
        session.hello(name).await?;
        Ok(session)
    }

    /// Says who we are on a connection that has just become a TLS one: no greeting comes then, and what was said before
    /// counts no more (RFC 3207, section 4.2).
    pub(super) async fn greet_again(stream: Box<dyn Io>, name: &str) -> Result<Self, Stopped> {
        let mut session = Self::over(stream);
        session.hello(name).await?;
        Ok(session)
    }

    fn over(stream: Box<dyn Io>) -> Self {
        Self {
            stream: BufReader::new(stream),
            offers: Offers::default(),
        }
    }

    async fn hello(&mut self, name: &str) -> Result<(), Stopped> {
        self.write(format!("EHLO {name}\r\n").as_bytes()).await?;
        let reply = self.expect("EHLO", Stage::Opening, 2).await?;
        self.offers = Offers::read(&reply);
        Ok(())
    }

    /// Asks for TLS and gives the bare connection back, for the handshake.
    pub(super) async fn into_tls(mut self) -> Result<Box<dyn Io>, Stopped> {
        if !self.offers.starttls {
            return Err(Stopped::new(
                ErrorKind::Rejected,
                "starttls_unavailable",
                "the server does not offer STARTTLS; nothing is sent without encryption",
            ));
        }
        self.write(b"STARTTLS\r\n").await?;
        self.expect("STARTTLS", Stage::Opening, 2).await?;
        // Whatever stands here came before the handshake, from anybody on the way; it must not pass for the server's word.
        if !self.stream.buffer().is_empty() {
            return Err(Stopped::new(
                ErrorKind::Rejected,
                "starttls_injection",
                "something was said between STARTTLS and the handshake; the connection is not to be trusted",
            ));
        }
        Ok(self.stream.into_inner())
    }

    /// Proves who we are.
    pub(super) async fn log_in(&mut self, user: &str, password: &str) -> Result<(), Stopped> {
        if self.offers.auth_plain {
            // RFC 4616: authorisation identity (ours), then user and password.
            let pair = STANDARD.encode(format!("\0{user}\0{password}"));
            self.write(format!("AUTH PLAIN {pair}\r\n").as_bytes()).await?;
        } else if self.offers.auth_login {
            self.write(b"AUTH LOGIN\r\n").await?;
            for part in [user, password] {
                self.expect("AUTH LOGIN", Stage::Opening, 3).await?;
                self.write(format!("{}\r\n", STANDARD.encode(part)).as_bytes())
                    .await?;
            }
        } else {
            return Err(Stopped::new(
                ErrorKind::Rejected,
                "auth_unavailable",
                "the server offers neither AUTH PLAIN nor AUTH LOGIN",
            ));
        }
        self.expect("the login", Stage::Opening, 2).await?;
        Ok(())
    }

    /// Everything but the final dot. All recipients are taken, or nothing is sent to any of them.
    pub(super) async fn hand_over(&mut self, mail: &Mail) -> Result<(), Stopped> {
        let commands = self.commands(mail)?;
        let at_once = if self.offers.pipelining { PIPELINED_MAX } else { 1 };
        let mut refused = Refusals::default();
        let mut heard = 0;
        for chunk in commands.chunks(at_once) {
            let written = self.write(chunk.concat().as_bytes()).await;
            written.map_err(|stopped| self.stale(stopped, heard))?;
            for _ in chunk {
                let reply = Reply::read(&mut self.stream).await;
                let reply = reply.map_err(|unheard| self.stale(Stopped::unheard(&unheard), heard))?;
                if reply.code == 421 {
                    let stopped = Stopped::refused("the message", Stage::Sender, &reply);
                    return Err(self.stale(stopped, heard));
                }
                match heard.checked_sub(1) {
                    None if reply.class() != 2 => refused.sender = Some(reply),
                    Some(index) if reply.class() != 2 && refused.sender.is_none() => {
                        refused.recipients.push((index, reply));
                    }
                    _ => {}
                }
                heard += 1;
            }
            if refused.sender.is_some() {
                break;
            }
        }
        if let Some(stopped) = refused.stopped(&mail.recipients) {
            return Err(self.unsay(stopped).await);
        }
        self.write(b"DATA\r\n").await?;
        let reply = self.reply().await?;
        if reply.code != 354 {
            let stopped = Stopped::refused("the message", Stage::Data, &reply);
            return Err(match reply.class() {
                4 | 5 if reply.code != 421 => self.unsay(stopped).await,
                // The server may take what comes next for the text.
                _ => stopped,
            });
        }
        let Err(stopped) = self.write_text(&mail.text).await else {
            return Ok(());
        };
        // A server that does not want the rest says so and closes.
        match timeout(LAST_WORDS, Reply::read(&mut self.stream)).await {
            Ok(Ok(reply)) if reply.class() >= 4 => Err(Stopped::refused("the message", Stage::End, &reply)),
            _ => Err(stopped),
        }
    }

    /// The final dot, and what the server says to it.
    pub(super) async fn finish(&mut self) -> Result<Reply, Stopped> {
        let doubt = |code: &str, why: String| Stopped::new(ErrorKind::Ambiguous, code, why);
        self.write(b".\r\n").await.map_err(|stopped| {
            doubt(
                "connection_lost",
                format!(
                    "the connection broke at the end of the message: {}",
                    stopped.message
                ),
            )
        })?;
        let reply = Reply::read(&mut self.stream)
            .await
            .map_err(|unheard| match unheard {
                Unheard::Lost(why) => doubt(
                    "connection_lost",
                    format!("the message was complete, and no answer came: {why}"),
                ),
                Unheard::Garbage => doubt(
                    "no_smtp",
                    "the message was complete, and what answered is no SMTP".to_owned(),
                ),
            })?;
        if reply.class() == 2 {
            return Ok(reply);
        }
        Err(Stopped {
            usable: matches!(reply.class(), 4 | 5) && reply.code != 421,
            ..Stopped::refused("the message", Stage::End, &reply)
        })
    }

    /// MAIL, and RCPT for everyone.
    fn commands(&self, mail: &Mail) -> Result<Vec<String>, Stopped> {
        let permanent = |code: &str, message: String| Stopped {
            usable: true,
            ..Stopped::new(ErrorKind::Permanent, code, message)
        };
        let bytes = mail.text.len() as u64;
        if let Some(most) = self.offers.size.filter(|most| (1..bytes).contains(most)) {
            return Err(permanent(
                "size",
                format!("the message has {bytes} bytes; the server takes {most}"),
            ));
        }
        let mut first = format!("MAIL FROM:<{}>", mail.sender);
        if self.offers.size.is_some() {
            first.push_str(&format!(" SIZE={bytes}"));
        }
        if mail.utf8 {
            if !(self.offers.smtputf8 && self.offers.eight_bit) {
                return Err(permanent(
                    "smtputf8",
                    "an address has other letters than ASCII before its @, and the server does not offer SMTPUTF8".to_owned(),
                ));
            }
            first.push_str(" BODY=8BITMIME SMTPUTF8");
        }
        first.push_str("\r\n");
        let mut commands = Vec::with_capacity(1 + mail.recipients.len());
        commands.push(first);
        let addresses = mail.recipients.iter().map(|one| &one.address);
        commands.extend(addresses.map(|address| format!("RCPT TO:<{address}>\r\n")));
        Ok(commands)
    }

    /// A failure before the first reply to this message is the end of a conversation that had gone stale.
    fn stale(&self, stopped: Stopped, heard: usize) -> Stopped {
        Stopped {
            stale: heard == 0,
            ..stopped
        }
    }

    /// Takes back what the server took so far, so that the connection serves on.
    async fn unsay(&mut self, stopped: Stopped) -> Stopped {
        let reset = async {
            self.write(b"RSET\r\n").await?;
            self.expect("RSET", Stage::Opening, 2).await
        };
        let usable = timeout(LAST_WORDS, reset).await.is_ok_and(|reset| reset.is_ok());
        Stopped { usable, ..stopped }
    }

    /// The text, with the dots at the beginnings of lines doubled (RFC 5321, section 4.5.2).
    async fn write_text(&mut self, text: &[u8]) -> Result<(), Stopped> {
        let mut from = 0;
        let mut doubled = Vec::new();
        for at in 0..text.len() {
            if text[at] == b'.' && (at == 0 || text[at - 1] == b'\n') {
                doubled.extend_from_slice(&text[from..at]);
                doubled.push(b'.');
                from = at;
            }
        }
        if doubled.is_empty() {
            return self.write(text).await;
        }
        doubled.extend_from_slice(&text[from..]);
        self.write(&doubled).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Stopped> {
        let stream = self.stream.get_mut();
        let written = match stream.write_all(bytes).await {
            Ok(()) => stream.flush().await,
            Err(error) => Err(error),
        };
        written.map_err(|error| Stopped::unheard(&Unheard::Lost(error.to_string())))
    }

    async fn reply(&mut self) -> Result<Reply, Stopped> {
        Reply::read(&mut self.stream)
            .await
            .map_err(|unheard| Stopped::unheard(&unheard))
    }

    /// A reply of this class, or a failure.
    async fn expect(&mut self, what: &str, stage: Stage, class: u16) -> Result<Reply, Stopped> {
        let reply = self.reply().await?;
        if reply.class() == class {
            Ok(reply)
        } else {
            Err(Stopped::refused(what, stage, &reply))
        }
    }
}

/// Who was not taken.
#[derive(Default)]
struct Refusals {
    sender: Option<Reply>,
    recipients: Vec<(usize, Reply)>,
}

impl Refusals {
    /// What the refusals come to for the message. The gravest decides: one recipient that can never be reached, and no try
    /// with all of them can succeed.
    fn stopped(&self, recipients: &[Recipient]) -> Option<Stopped> {
        if let Some(reply) = &self.sender {
            return Some(Stopped::refused("from", Stage::Sender, reply));
        }
        let grave = |reply: &Reply| match reply.refusal(Stage::Recipient) {
            ErrorKind::Permanent => 0,
            ErrorKind::Rejected => 1,
            _ => 2,
        };
        let (index, reply) = self.recipients.iter().min_by_key(|(_, reply)| grave(reply))?;
        let recipient = recipients.get(*index)?;
        let mut stopped = Stopped::refused(&recipient.field, Stage::Recipient, reply);
        // Servers repeat the address; failures are kept where payloads are not.
        stopped.message = stopped.message.replace(&recipient.address, &recipient.field);
        let others: Vec<&str> = self
            .recipients
            .iter()
            .filter(|(other, _)| other != index)
            .filter_map(|(other, _)| Some(recipients.get(*other)?.field.as_str()))
            .collect();
        if let Some(named) = others
            .get(..others.len().min(NAMED_MAX))
            .filter(|named| !named.is_empty())
        {
            let more = if others.len() > NAMED_MAX { ", ..." } else { "" };
            stopped.message = format!("{}; also {}{more}", stopped.message, named.join(", "));
        }
        if self.recipients.len() < recipients.len() {
            stopped
                .message
                .push_str("; nothing was sent to the others either");
        }
        Some(stopped)
    }
}
