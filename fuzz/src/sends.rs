//! What goes out to providers, and what they say.

use std::sync::LazyLock;

use posthaste_event::{Channel, ErrorKind, Failure, payload::Payload};
use posthaste_provider::{
    Message, Receipt,
    checked::{Checked, Heard, converse},
};
use serde_json::value::RawValue;
use tokio::runtime::Runtime;
use url::Url;

use super::{NOW, channel};

/// Where the providers of the target [`message`] are.
const BASE_URL: &str = "https://provider.invalid/base";

/// Headers that lettre or we write into mails.
const MAIL_HEADERS: [&str; 11] = [
    "date",
    "from",
    "to",
    "cc",
    "reply-to",
    "message-id",
    "subject",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "sender",
];

static SHIPPED: LazyLock<Vec<Checked>> = LazyLock::new(|| {
    let shipped = Checked::shipped().map(|(file, text)| Checked::read(file, text).unwrap());
    shipped.collect()
});

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().build().unwrap()
});

fn message_of(payload: Payload) -> Message {
    Message {
        event_id: "e1".to_owned(),
        tenant: "acme".to_owned(),
        payload,
        sealed: None,
        idempotency_key: "e1:twilio:0".to_owned(),
        created_at: NOW,
        expires_at: Some(NOW + 60_000),
    }
}

/// A message to a provider: a byte for the channel, then a payload. Whoever wrote it, it stays where it belongs.
pub fn message(data: &[u8]) -> bool {
    let Some((&which, data)) = data.split_first() else {
        return false;
    };
    let channel = channel(which);
    let Ok(raw) = serde_json::from_slice::<&RawValue>(data) else {
        return false;
    };
    let accepted = Payload::accept(channel, raw);
    let payload = match Payload::parse(channel, raw) {
        Ok(payload) => payload,
        Err(_) => {
            assert!(accepted.is_err(), "what is accepted can be read");
            return false;
        }
    };
    assert_eq!(payload.channel(), channel);
    let message = message_of(payload);
    let mut asks = false;
    for checked in SHIPPED
        .iter()
        .filter(|checked| checked.channels().contains(&channel))
    {
        for sandboxed in [false, true] {
            match checked.ask(&message, BASE_URL, sandboxed) {
                Ok(asked) => {
                    if sandboxed || channel != Channel::Webhook {
                        stays(&asked.url);
                    }
                    let is_ours = |name: &str| name == "host" || name.starts_with("proxy-");
                    assert!(!asked.headers.keys().any(|name| is_ours(name.as_str())));
                    assert!(!asked.body.is_empty());
                    asks = true;
                }
                Err(why) => assert!(!why.is_empty()),
            }
        }
    }
    if channel == Channel::Email {
        mailed(&message);
    }
    asks
}

/// No value leads to another host, or out of the base address's path.
fn stays(url: &Url) {
    let base = Url::parse(BASE_URL).unwrap();
    assert_eq!(url.origin(), base.origin(), "{url}");
    assert!(url.path().starts_with(base.path()), "{url}");
    assert!(url.fragment().is_none() && url.username().is_empty());
}

/// A mail ends where it ends, and has the headers that it should have.
fn mailed(message: &Message) {
    // How many recipients there are is heard from what is said to a server that takes any number and no text.
    let asked = converse_at(message, 1_000, "");
    let said = String::from_utf8_lossy(&asked.said).into_owned();
    let heard = converse_at(
        message,
        said.matches("\r\nRCPT TO:<").count(),
        "354 go on\r\n250 OK\r\n",
    );
    if let Err(failure) = &heard.outcome {
        // Nothing else can stop it at such a server.
        assert_eq!(failure.kind, ErrorKind::Permanent, "{failure:?}");
        assert!(heard.said.is_empty(), "{failure:?}");
        return;
    }
    let said = lines(&heard.said);
    let data = said.iter().position(|line| line == b"DATA").unwrap();
    for command in &said[..data] {
        let known = ["EHLO ", "MAIL FROM:<", "RCPT TO:<"].map(str::as_bytes);
        assert!(known.iter().any(|known| command.starts_with(known)));
    }
    let text = &said[data + 1..];
    let end = text.iter().position(|line| line == b".").unwrap();
    assert_eq!(end + 1, text.len(), "nothing comes after the end");
    let Payload::Email(email) = &message.payload else {
        return;
    };
    let own: Vec<String> = email.headers.keys().map(|name| name.to_lowercase()).collect();
    for line in text.iter().take_while(|line| !line.is_empty()) {
        assert!(line.len() <= 1_200, "{}", String::from_utf8_lossy(line));
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            continue;
        }
        // A dot at the beginning of a line is doubled on the way.
        let line = line.strip_prefix(b".").unwrap_or(line);
        let colon = line.iter().position(|byte| *byte == b':').unwrap();
        let name = String::from_utf8_lossy(&line[..colon]).to_lowercase();
        assert!(
            MAIL_HEADERS.contains(&name.as_str()) || own.contains(&name),
            "{name}"
        );
    }
}

/// A conversation with a server that takes the sender and so many recipients, and then says `rest`.
fn converse_at(message: &Message, recipients: usize, rest: &str) -> Heard {
    let replies = format!(
        "220 here\r\n250-here\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 SMTPUTF8\r\n{}{rest}",
        "250 OK\r\n".repeat(recipients + 1)
    );
    RUNTIME.block_on(converse(message, replies.as_bytes(), None, NOW))
}

/// Lines that end in CRLF; no other end of a line stands in them.
fn lines(text: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = vec![Vec::new()];
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, rest.first()) {
            (b'\r', Some(b'\n')) => {
                rest = &rest[1..];
                lines.push(Vec::new());
            }
            (b'\r' | b'\n', _) => panic!("a line ends in other ways than CRLF"),
            _ => lines.last_mut().unwrap().push(byte),
        }
    }
    assert_eq!(lines.pop(), Some(Vec::new()), "the last line has no end");
    lines
}

/// What a provider answers: the number of a shipped provider, the status, header lines, an empty line, the body.
pub fn answer(data: &[u8]) -> bool {
    let Some((&which, data)) = data.split_first() else {
        return false;
    };
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.trim().parse().ok())
        .unwrap_or(200);
    let mut headers = reqwest::header::HeaderMap::new();
    for (name, value) in lines.take(32).filter_map(|line| line.split_once(':')) {
        if let (Ok(name), Ok(value)) = (name.parse::<reqwest::header::HeaderName>(), value.trim().parse()) {
            headers.append(name, value);
        }
    }
    let checked = &SHIPPED[usize::from(which) % SHIPPED.len()];
    let outcome = checked.answer(status, &headers, body, NOW);
    bounded(&outcome);
    outcome.is_ok()
}

fn bounded(outcome: &Result<Receipt, Failure>) {
    match outcome {
        Ok(receipt) => {
            let id = receipt.message_id.as_deref();
            assert!(id.is_none_or(|id| !id.is_empty() && id.len() <= 256));
        }
        Err(failure) => {
            assert!(failure.message.len() <= 512 && failure.fingerprint.len() == 16);
            assert!(failure.code.as_deref().is_none_or(|code| code.len() <= 64));
            assert!(failure.retry_after_ms.is_none_or(|wait_ms| wait_ms < u32::MAX));
            assert!(!failure.message.contains(char::is_control), "{failure:?}");
        }
    }
}

/// What a mail server says: a byte (whether we log in), then all its replies.
pub fn smtp(data: &[u8]) -> bool {
    static MAIL: LazyLock<Message> = LazyLock::new(|| {
        let payload = r#"{"subject":"Hi","body":".one\n..two","to":["a@b.example","c@d.example"],"from":"e@f.example"}"#;
        let raw: &RawValue = serde_json::from_str(payload).unwrap();
        message_of(Payload::accept(Channel::Email, raw).unwrap())
    });
    let Some((&which, replies)) = data.split_first() else {
        return false;
    };
    let login = (which % 2 == 1).then_some(("user", "password"));
    let Heard { said, whole, outcome } = RUNTIME.block_on(converse(&MAIL, replies, login, NOW));
    bounded(&outcome);
    let is_over = said.ends_with(b"\r\n.\r\n");
    match outcome {
        Ok(_) => {
            assert!(whole && is_over);
            return true;
        }
        Err(failure) if !whole => {
            assert_ne!(
                failure.kind,
                ErrorKind::Ambiguous,
                "nothing was sent: {failure:?}"
            );
            assert!(!is_over);
        }
        Err(_) => assert!(is_over),
    }
    false
}
