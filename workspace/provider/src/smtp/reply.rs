//! A server's replies, and what they mean for the message.

use posthaste_event::{ErrorKind, failure::Reported};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// Longest line of a reply, in bytes. RFC 5321 (section 4.5.3.1.5) allows 512; some servers say more.
const LINE_BYTES_MAX: usize = 4_096;
/// Most lines of a reply; an EHLO answer has about 20.
const LINES_MAX: usize = 128;

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// The lines without their codes.
    pub(super) lines: Vec<String>,
}

/// No reply that could be understood.
#[derive(Debug)]
pub(super) enum Unheard {
    /// The connection ended or broke.
    Lost(String),
    /// Something came that is no SMTP.
    Garbage,
}

/// Where in a conversation a reply came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Before any message: greeting, EHLO, STARTTLS, AUTH.
    Opening,
    /// MAIL FROM.
    Sender,
    /// RCPT TO.
    Recipient,
    /// DATA, before the text.
    Data,
    /// After the final dot.
    End,
}

/// No such mailbox, moved without a new address, disabled, and a domain that takes no mail
/// (<https://www.iana.org/assignments/smtp-enhanced-status-codes>).
const GONE: [&str; 4] = ["5.1.1", "5.1.6", "5.2.1", "5.1.10"];

impl Reply {
    /// Reads one reply.
    pub(super) async fn read(stream: &mut (impl AsyncBufRead + Unpin + Send)) -> Result<Self, Unheard> {
        let mut reply = Self {
            code: 0,
            lines: Vec::new(),
        };
        loop {
            let line = read_line(stream).await?;
            let code = line.get(..3).filter(|code| code.iter().all(u8::is_ascii_digit));
            let code = code.and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
            let (Some(code), between) = (code, line.get(3).copied().unwrap_or(b' ')) else {
                return Err(Unheard::Garbage);
            };
            let fits = (200..600).contains(&code) && (reply.lines.is_empty() || reply.code == code);
            if !fits || !b" -".contains(&between) || reply.lines.len() == LINES_MAX {
                return Err(Unheard::Garbage);
            }
            reply.code = code;
            let text = String::from_utf8_lossy(line.get(4..).unwrap_or_default());
            reply.lines.push(text.trim().to_owned());
            if between == b' ' {
                return Ok(reply);
            }
        }
    }

    /// 2, 3, 4 or 5.
    pub(super) const fn class(&self) -> u16 {
        self.code / 100
    }

    /// All lines in one, the enhanced status code (RFC 2034) before each but the first left out.
    pub(super) fn text(&self) -> String {
        let first = self.lines.first().map_or("", String::as_str);
        let status = first.split(' ').next().filter(|word| is_status(word));
        let mut text = String::from(first);
        for line in self.lines.iter().skip(1) {
            let line = status
                .and_then(|status| line.strip_prefix(status))
                .unwrap_or(line);
            text.push(' ');
            text.push_str(line.trim_start());
        }
        crate::answer::one_line(&text)
    }

    /// What a server calls the message it took: the reply's text without its enhanced status code. It holds the queue id in each
    /// server's own manner (`Ok: queued as 4F2A1`, `OK id=1tXy-0001`).
    pub(super) fn queue_id(&self) -> Option<String> {
        let text = self.text();
        let rest = match text.split_once(' ') {
            Some((word, rest)) if is_status(word) => rest,
            _ => &text,
        };
        Some(posthaste_event::failure::cut(rest, 256).to_owned()).filter(|id| !id.is_empty())
    }

    /// The subject of the enhanced status code, such as 7 (security or policy) of 5.7.1.
    fn subject(&self) -> Option<&str> {
        let word = self.lines.first()?.split(' ').next()?;
        is_status(word).then(|| word.split('.').nth(1)).flatten()
    }

    /// What a refusal says of the recipient. Only with an enhanced status code: a bare 550 may as well be about us.
    pub(super) fn reported(&self, stage: Stage) -> Option<Reported> {
        let status = self.lines.first()?.split(' ').next()?;
        let is_gone = (500..600).contains(&self.code) && GONE.contains(&status);
        (stage == Stage::Recipient && is_gone).then_some(Reported::Bounced)
    }

    /// What a refusal at this stage means.
    ///
    /// Until the final dot nothing was sent, and after it a 4xx or 5xx says the same (RFC 5321, sections 4.2.1 and 6.1).
    pub(super) fn refusal(&self, stage: Stage) -> ErrorKind {
        match (self.code, stage) {
            // Service not available, mailbox busy (greylisting), local error, too much: all ask to come back later.
            (421 | 450 | 451 | 452, _) => ErrorKind::RateLimited,
            // Any other 4yz passes too, and a 5yz before MAIL is about the account or the server.
            (400..500, _) | (_, Stage::Opening) => ErrorKind::Rejected,
            // Authentication is needed, or not enough (RFC 4954, section 6): of the account.
            (530 | 534 | 535 | 538, _) => ErrorKind::Rejected,
            // Policy against the sender: of the account. Another provider may be allowed to.
            (500..600, Stage::Sender) if self.subject() == Some("7") => ErrorKind::Rejected,
            (500..600, _) => ErrorKind::Permanent,
            // Neither a yes nor a no.
            (_, Stage::End) => ErrorKind::Ambiguous,
            _ => ErrorKind::Rejected,
        }
    }
}

/// `5.1.1`: an enhanced status code (RFC 3463, section 2).
fn is_status(word: &str) -> bool {
    let mut parts = word.split('.');
    let class = parts.next().is_some_and(|class| ["2", "4", "5"].contains(&class));
    let is_number = |part: Option<&str>| {
        part.is_some_and(|part| {
            (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    class && is_number(parts.next()) && is_number(parts.next()) && parts.next().is_none()
}

/// A line without its end.
async fn read_line(stream: &mut (impl AsyncBufRead + Unpin + Send)) -> Result<Vec<u8>, Unheard> {
    let mut line = Vec::with_capacity(80);
    loop {
        let found = stream
            .fill_buf()
            .await
            .map_err(|error| Unheard::Lost(error.to_string()))?;
        if found.is_empty() {
            return Err(Unheard::Lost("the server closed the connection".to_owned()));
        }
        let end = found.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(found.len(), |end| end + 1);
        line.extend_from_slice(&found[..taken]);
        stream.consume(taken);
        if line.len() > LINE_BYTES_MAX {
            return Err(Unheard::Garbage);
        }
        if end.is_some() {
            while line.last().is_some_and(|byte| b"\r\n".contains(byte)) {
                line.pop();
            }
            return Ok(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &str) -> Option<Reply> {
        Reply::read(&mut text.as_bytes()).await.ok()
    }

    #[tokio::test]
    async fn replies_are_read_and_nothing_else_is() {
        let reply = read("250-first\r\n250-5.1.1 second\n250 last\r\n").await.unwrap();
        assert_eq!((reply.code, reply.lines.len()), (250, 3));
        assert_eq!(read("250\r\n").await.unwrap().lines, [""]);
        for wrong in [
            "",
            "250",
            "250-a\r\n",
            "250-a\r\n251 b\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
            "99 x\r\n",
            "150 x\r\n",
            "600 x\r\n",
            "2500 x\r\n",
            &"250-x\r\n".repeat(LINES_MAX + 1),
            &format!("250 {}\r\n", "x".repeat(LINE_BYTES_MAX)),
        ] {
            assert!(read(wrong).await.is_none(), "{wrong:.40}");
        }
    }

    #[tokio::test]
    async fn texts_are_one_line_with_one_status() {
        let reply = read("550-5.1.1 No such\r\n550 5.1.1 user here\r\n")
            .await
            .unwrap();
        assert_eq!(reply.text(), "5.1.1 No such user here");
        for (text, id) in [
            ("250 2.0.0 Ok: queued as 4F2A1\r\n", Some("Ok: queued as 4F2A1")),
            ("250 OK id=1tXy-0001-Ab\r\n", Some("OK id=1tXy-0001-Ab")),
            ("250 2.0.0\r\n", Some("2.0.0")),
            ("250\r\n", None),
        ] {
            assert_eq!(read(text).await.unwrap().queue_id().as_deref(), id, "{text}");
        }
    }

    #[tokio::test]
    async fn refusals_mean_what_their_stage_makes_of_them() {
        use ErrorKind::{Ambiguous, Permanent, RateLimited, Rejected};
        for (text, stage, kind) in [
            ("421 4.3.2 closing\r\n", Stage::Opening, RateLimited),
            ("554 no\r\n", Stage::Opening, Rejected),
            ("535 5.7.8 bad credentials\r\n", Stage::Opening, Rejected),
            ("454 4.7.0 later\r\n", Stage::Opening, Rejected),
            ("550 5.7.1 not your sender\r\n", Stage::Sender, Rejected),
            ("530 5.7.0 authentication required\r\n", Stage::Sender, Rejected),
            ("553 5.1.8 no such domain\r\n", Stage::Sender, Permanent),
            ("450 4.2.0 greylisted\r\n", Stage::Recipient, RateLimited),
            ("451 4.3.0 later\r\n", Stage::Recipient, RateLimited),
            ("452 4.5.3 too many\r\n", Stage::Recipient, RateLimited),
            ("432 4.2.1 down\r\n", Stage::Recipient, Rejected),
            ("550 5.1.1 no such user\r\n", Stage::Recipient, Permanent),
            ("554 5.7.1 relay denied\r\n", Stage::Recipient, Permanent),
            ("250 what\r\n", Stage::Data, Rejected),
            ("552 5.3.4 too big\r\n", Stage::End, Permanent),
            ("451 4.3.0 later\r\n", Stage::End, RateLimited),
            ("354 go on\r\n", Stage::End, Ambiguous),
        ] {
            let reply = read(text).await.unwrap();
            assert_eq!(reply.refusal(stage), kind, "{text}");
        }
    }
}
