//! A mail server that does what a test says, and keeps what it was told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    sync::Mutex,
};
use tokio_rustls::{TlsAcceptor, rustls};

use crate::smtp::session::Io;

/// What it does where it does something else than a server should.
#[derive(Clone, Default)]
pub(super) struct Script {
    /// Replies by what a command begins with; the first that fits. An empty reply closes the connection, one that begins with
    /// `!` is said and the connection closed, `?` is none at all.
    pub(super) replies: Vec<(&'static str, &'static str)>,
    /// The reply to the text.
    pub(super) at_end: Option<&'static str>,
    pub(super) greeting: Option<&'static str>,
    /// What it offers besides, as lines of EHLO.
    pub(super) offers: Vec<&'static str>,
    /// Closes each connection once this many messages went over it, as if it had been idle for too long.
    pub(super) messages_max: Option<usize>,
    /// Closes the connection after this many bytes of text.
    pub(super) text_bytes_max: Option<usize>,
    pub(super) tls: Option<Tls>,
}

#[derive(Clone)]
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    /// From the first byte; else after STARTTLS.
    pub(super) at_once: bool,
}

/// A certificate for `localhost`, and what a client must trust.
pub(super) fn certificate() -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), made.cert.pem())
}

/// A message that was taken or refused at its end.
#[derive(Debug, Clone, Default)]
pub(super) struct Got {
    pub(super) sender: String,
    pub(super) recipients: Vec<String>,
    pub(super) text: String,
}

pub(super) struct Server {
    pub(super) port: u16,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) messages: Arc<Mutex<Vec<Got>>>,
    pub(super) commands: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            connections: Arc::default(),
            messages: Arc::default(),
            commands: Arc::default(),
        };
        let (connections, messages) = (server.connections.clone(), server.messages.clone());
        let commands = server.commands.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let mut one = Connection {
                    script: script.clone(),
                    messages: messages.clone(),
                    commands: commands.clone(),
                };
                tokio::spawn(async move {
                    let stream: Box<dyn Io> = match &one.script.tls {
                        Some(tls) if tls.at_once => match tls.acceptor.accept(stream).await {
                            Ok(stream) => Box::new(stream),
                            Err(_) => return,
                        },
                        _ => Box::new(stream),
                    };
                    let _ended = one.serve(stream, true).await;
                });
            }
        });
        server
    }

    pub(super) async fn told(&self, command: &str) -> bool {
        let commands = self.commands.lock().await;
        commands.iter().any(|told| told.starts_with(command))
    }
}

struct Connection {
    script: Script,
    messages: Arc<Mutex<Vec<Got>>>,
    commands: Arc<Mutex<Vec<String>>>,
}

impl Connection {
    fn usual(&self, line: &str) -> String {
        if line.starts_with("EHLO") {
            let mut lines = vec!["mail.example.com"];
            lines.extend(&self.script.offers);
            let last = lines.len() - 1;
            let line =
                |(index, line): (usize, &&str)| format!("250{}{line}", if index < last { '-' } else { ' ' });
            return lines
                .iter()
                .enumerate()
                .map(line)
                .collect::<Vec<_>>()
                .join("\r\n");
        }
        let usual = [
            ("AUTH", "235 2.7.0 welcome"),
            ("DATA", "354 go on"),
            ("STARTTLS", "220 2.0.0 ready"),
        ];
        let found = usual.iter().find(|(verb, _)| line.starts_with(verb));
        found.map_or("250 2.0.0 ok", |(_, reply)| reply).to_owned()
    }

    async fn serve(&mut self, stream: Box<dyn Io>, greet: bool) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        if greet {
            let greeting = self.script.greeting.unwrap_or("220 mail.example.com ESMTP");
            stream.write_all(format!("{greeting}\r\n").as_bytes()).await?;
        }
        let mut got = Got::default();
        let mut taken = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_owned();
            self.commands.lock().await.push(line.clone());
            let scripted = self
                .script
                .replies
                .iter()
                .find(|(start, _)| line.starts_with(start));
            let reply = scripted.map_or_else(|| self.usual(&line), |(_, reply)| (*reply).to_owned());
            let (reply, close) = match reply.strip_prefix('!') {
                Some(last) => (last.to_owned(), true),
                None => (reply, false),
            };
            if reply == "?" {
                tokio::time::sleep(Duration::from_secs(600)).await;
            }
            if reply.is_empty() {
                return Ok(());
            }
            stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
            stream.flush().await?;
            if close {
                return Ok(());
            }
            if line == "STARTTLS" && reply.starts_with("220") {
                let acceptor = self.script.tls.clone().unwrap().acceptor;
                let secured = acceptor.accept(stream.into_inner()).await?;
                return Box::pin(self.serve(Box::new(secured), false)).await;
            }
            let between = |line: &str| {
                let (_, rest) = line.split_once('<').unwrap();
                rest.split_once('>').unwrap().0.to_owned()
            };
            if line.starts_with("MAIL FROM:") {
                got = Got {
                    sender: between(&line),
                    ..Got::default()
                };
            } else if line.starts_with("RCPT TO:") && reply.starts_with('2') {
                got.recipients.push(between(&line));
            } else if line == "DATA" && reply.starts_with("354") {
                if !self.text(&mut stream, &mut got).await? {
                    return Ok(());
                }
                taken += 1;
                if self.script.messages_max == Some(taken) {
                    return Ok(());
                }
            }
        }
    }

    /// Whether the conversation goes on.
    async fn text(&self, stream: &mut BufReader<Box<dyn Io>>, got: &mut Got) -> std::io::Result<bool> {
        loop {
            let mut line = Vec::new();
            if stream.read_until(b'\n', &mut line).await? == 0 {
                return Ok(false);
            }
            if line == b".\r\n" {
                break;
            }
            let line = String::from_utf8(line).unwrap();
            got.text.push_str(line.strip_prefix('.').unwrap_or(&line));
            if self.script.text_bytes_max.is_some_and(|max| got.text.len() > max) {
                return Ok(false);
            }
        }
        self.messages.lock().await.push(got.clone());
        let reply = self.script.at_end.unwrap_or("250 2.0.0 Ok: queued as 4F2A1");
        if reply == "?" {
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
        if reply.is_empty() {
            return Ok(false);
        }
        stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
        stream.flush().await?;
        Ok(true)
    }
}
