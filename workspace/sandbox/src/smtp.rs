//! A small SMTP server (RFC 5321), reached by `GET /sandbox/smtp` with `Upgrade: smtp`: no port of its own to configure, and
//! wherever the sandbox is reached, SMTP is.
//!
//! It takes what is in order, and misbehaves as [`crate::behaviour`] says after the text of a message.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    time::timeout,
};

use crate::{
    apis::{Call, message, smtp},
    serve::Sandbox,
};

/// A client that says nothing for this long is left.
const SILENCE: Duration = Duration::from_secs(120);
/// Longest command, in bytes: those of RFC 5321 have 512, addresses of others more.
const COMMAND_BYTES_MAX: u64 = 4_096;
/// Most recipients of a message; RFC 5321 (section 4.5.3.1.8) wants at least 100.
const RECIPIENTS_MAX: usize = 1_000;

/// Turns an HTTP connection into an SMTP one.
pub(crate) async fn upgrade(State(sandbox): State<Arc<Sandbox>>, mut request: Request) -> Response {
    let wants = request.headers().get(header::UPGRADE);
    let wants = wants.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"smtp"));
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>().filter(|_| wants) else {
        let mut refusal = message(426, "this path speaks SMTP: send Upgrade: smtp").into_response();
        let headers = refusal.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("smtp"));
        return refusal;
    };
    let Some(place) = sandbox.conversation() else {
        return message(503, "too many SMTP connections").into_response();
    };
    tokio::spawn(async move {
        if let Ok(stream) = upgrade.await {
            // A client that leaves in the middle is none of our concern.
            let _left = converse(&sandbox, BufReader::new(TokioIo::new(stream))).await;
        }
        drop(place);
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("smtp"));
    response
}

#[derive(Default)]
struct Envelope {
    sender: Option<String>,
    recipients: Vec<String>,
}

async fn converse(sandbox: &Sandbox, mut stream: impl AsyncBufRead + AsyncWrite + Unpin) -> io::Result<()> {
    say(&mut stream, "220 sandbox.posthaste.invalid ESMTP").await?;
    let mut envelope = Envelope::default();
    loop {
        let Some(line) = command(&mut stream).await? else {
            return say(&mut stream, "500 5.5.2 this is no command").await;
        };
        let (verb, rest) = line.split_once([' ', ':']).unwrap_or((&line, ""));
        let reply = match verb.to_ascii_uppercase().as_str() {
            "EHLO" => {
                let size = sandbox.request_bytes_max();
                &format!(
                    "250-sandbox.posthaste.invalid\r\n250-PIPELINING\r\n250-SIZE {size}\r\n250-8BITMIME\r\n250 SMTPUTF8"
                )
            }
            "HELO" => "250 sandbox.posthaste.invalid",
            "NOOP" => "250 2.0.0 Ok",
            "RSET" => {
                envelope = Envelope::default();
                "250 2.0.0 Ok"
            }
            "MAIL" => match path(rest, "FROM:") {
                Some(sender) => {
                    envelope = Envelope {
                        sender: Some(sender),
                        recipients: Vec::new(),
                    };
                    "250 2.1.0 Ok"
                }
                None => "501 5.1.7 MAIL FROM:<address> is expected",
            },
            "RCPT" if envelope.sender.is_none() => "503 5.5.1 MAIL comes first",
            "RCPT" if envelope.recipients.len() == RECIPIENTS_MAX => "452 4.5.3 too many recipients",
            "RCPT" => match path(rest, "TO:").filter(|address| address.contains('@')) {
                Some(recipient) => {
                    envelope.recipients.push(recipient);
                    "250 2.1.5 Ok"
                }
                None => "501 5.1.3 RCPT TO:<address> is expected",
            },
            "DATA" if envelope.recipients.is_empty() => "503 5.5.1 RCPT comes first",
            "DATA" => {
                say(&mut stream, "354 End data with <CR><LF>.<CR><LF>").await?;
                let text = text(&mut stream, sandbox.request_bytes_max()).await?;
                let recipients = std::mem::take(&mut envelope).recipients;
                match take(sandbox, recipients, text).await {
                    Some(reply) => &reply.clone(),
                    None => return Ok(()),
                }
            }
            "QUIT" => return say(&mut stream, "221 2.0.0 Bye").await,
            _ => "502 5.5.1 not understood",
        };
        say(&mut stream, reply).await?;
    }
}

/// Gives a message to the sandbox. `None`: no reply is to be given.
async fn take(sandbox: &Sandbox, recipients: Vec<String>, text: Option<Bytes>) -> Option<String> {
    let Some(body) = text else {
        return Some("552 5.3.4 the message is too big".to_owned());
    };
    let call = Call {
        params: recipients,
        headers: HeaderMap::new(),
        body,
    };
    let reply = sandbox.answer(&smtp::API, &call).await?;
    let words = String::from_utf8_lossy(&reply.body).into_owned();
    match reply.status {
        smtp::HANG_UP => None,
        // What is asked for as garbage, on HTTP a success.
        200 => Some(words),
        code => Some(format!("{code} {words}")),
    }
}

/// A line without its end; `None` if it is too long or no text.
async fn command(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut bounded = stream.take(COMMAND_BYTES_MAX);
    let read = timeout(SILENCE, bounded.read_until(b'\n', &mut line)).await??;
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let whole = line.ends_with(b"\n");
    let text = String::from_utf8(line).ok().filter(|_| whole);
    Ok(text.map(|text| text.trim_end().to_owned()))
}

/// A message up to its final dot, the doubled dots made single; `None` if it is too long, after all of it was read.
async fn text(stream: &mut (impl AsyncBufRead + Unpin), bytes_max: usize) -> io::Result<Option<Bytes>> {
    let mut text = Vec::new();
    let (mut too_long, mut begins) = (false, true);
    loop {
        let start = text.len();
        let room = (bytes_max - start) as u64 + COMMAND_BYTES_MAX;
        let read = timeout(SILENCE, (&mut *stream).take(room).read_until(b'\n', &mut text)).await??;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if begins && &text[start..] == b".\r\n" {
            text.truncate(start);
            return Ok((!too_long).then(|| text.into()));
        }
        if begins && text[start] == b'.' {
            text.remove(start);
        }
        begins = text.ends_with(b"\n");
        if text.len() > bytes_max {
            too_long = true;
            text.clear();
        }
    }
}

/// The address in `FROM:<a@example.com> SIZE=1`.
fn path(rest: &str, word: &str) -> Option<String> {
    let rest = rest.trim_start();
    let given = rest.get(..word.len())?;
    let (address, _) = rest[word.len()..]
        .trim_start()
        .strip_prefix('<')?
        .split_once('>')?;
    given.eq_ignore_ascii_case(word).then(|| address.to_owned())
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), reply: &str) -> io::Result<()> {
    let line = format!("{reply}\r\n");
    timeout(SILENCE, stream.write_all(line.as_bytes())).await??;
    timeout(SILENCE, stream.flush()).await?
}
