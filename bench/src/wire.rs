//! Just enough of HTTP/1.1 for a load that costs next to nothing: requests made beforehand, answers read by their length.
//!
//! The generator shares the machine with what it measures, so a full HTTP client would measure itself.

use std::net::SocketAddr;

use crate::trouble::Trouble;

/// Stands in a body for the event's number, written with as many digits.
pub const NUMBER: &str = "##########";

/// Longest head of an answer that is read.
const HEAD_BYTES_MAX: usize = 16_384;

/// A request whose number changes and nothing else.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    places: Vec<usize>,
    body_at: usize,
}

impl Template {
    /// `POST <path>` with this body, in which every [`NUMBER`] becomes the event's number.
    pub fn post(address: SocketAddr, path: &str, content_type: &str, body: &str) -> Self {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Self::of(&head, body)
    }

    /// Lines of this body, for [`Template::append`].
    pub fn lines(body: &str) -> Self {
        Self::of("", &format!("{body}\n"))
    }

    fn of(head: &str, body: &str) -> Self {
        let body_at = head.len();
        let bytes = [head, body].concat().into_bytes();
        let places = bytes
            .windows(NUMBER.len())
            .enumerate()
            .filter(|(_, window)| *window == NUMBER.as_bytes())
            .map(|(at, _)| at)
            .collect();
        Self {
            bytes,
            places,
            body_at,
        }
    }

    /// The request for this number.
    pub fn fill(&mut self, number: u64) -> &[u8] {
        for &at in &self.places {
            write_number(&mut self.bytes[at..at + NUMBER.len()], number);
        }
        &self.bytes
    }

    /// Appends what this number makes of it.
    pub fn append(&self, number: u64, out: &mut Vec<u8>) {
        let from = out.len();
        out.extend_from_slice(&self.bytes);
        for &at in &self.places {
            write_number(&mut out[from + at..from + at + NUMBER.len()], number);
        }
    }

    /// The body for this number.
    pub fn body(&mut self, number: u64) -> &[u8] {
        let at = self.body_at;
        &self.fill(number)[at..]
    }
}

fn write_number(digits: &mut [u8], number: u64) {
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// Where an answer (or a request) lies in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// The status; of a request 0.
    pub status: u16,
    /// Bytes before the body.
    pub head: usize,
    /// Bytes of the body.
    pub body: usize,
}

impl Message {
    /// Bytes of it all.
    pub const fn len(&self) -> usize {
        self.head + self.body
    }

    /// Whether there are none, which cannot be.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The message at the buffer's beginning; `None` while its head or body is not all there.
///
/// # Errors
/// When it is no HTTP/1.1 with a Content-Length.
pub fn message(buffer: &[u8]) -> Result<Option<Message>, Trouble> {
    let Some(end) = find(buffer, b"\r\n\r\n") else {
        return if buffer.len() > HEAD_BYTES_MAX {
            Err(Trouble::said("the head of an HTTP message does not end"))
        } else {
            Ok(None)
        };
    };
    let head = &buffer[..end + 2];
    let status = if head.starts_with(b"HTTP/1.1 ") {
        number(&head[9..])
            .and_then(|status| u16::try_from(status).ok())
            .ok_or_else(|| Trouble::said("an answer has no status"))?
    } else {
        0
    };
    let mut body = None;
    let mut rest = head;
    while let Some(line_end) = find(rest, b"\r\n") {
        let line = &rest[..line_end];
        const NAME: &[u8] = b"content-length:";
        if line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            body = number(line[NAME.len()..].trim_ascii());
        }
        rest = &rest[line_end + 2..];
    }
    let Some(body) = body else {
        return Err(Trouble::said("an HTTP message has no Content-Length"));
    };
    let message = Message {
        status,
        head: end + 4,
        body,
    };
    Ok((buffer.len() >= message.len()).then_some(message))
}

/// The number behind the first `"n":"` of a body.
pub fn event_number(body: &[u8]) -> Option<u64> {
    const MARK: &[u8] = br#""n":""#;
    let at = find(body, MARK)? + MARK.len();
    number(&body[at..]).map(|number| number as u64)
}

/// The value of the first `"eventId":"` of an answer.
pub fn event_id(body: &[u8]) -> Option<&str> {
    const MARK: &[u8] = br#""eventId":""#;
    let rest = &body[find(body, MARK)? + MARK.len()..];
    let end = rest.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&rest[..end]).ok()
}

/// The decimal number that this begins with.
pub fn number(bytes: &[u8]) -> Option<usize> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    std::str::from_utf8(&bytes[..digits]).ok()?.parse().ok()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_back_with_its_number() {
        let address = "127.0.0.1:80".parse().unwrap();
        let mut template = Template::post(
            address,
            "/event",
            "application/json",
            &format!(r#"{{"n":"{NUMBER}"}}"#),
        );
        let request = template.fill(1_234_567).to_vec();
        let read = message(&request).unwrap().unwrap();
        assert_eq!(read.len(), request.len());
        assert_eq!(event_number(&request[read.head..]), Some(1_234_567));
        assert_eq!(template.body(1_234_567), br#"{"n":"0001234567"}"#);
    }

    #[test]
    fn an_answer_is_read_when_it_is_all_there() {
        let text = b"HTTP/1.1 201 Created\r\nContent-Length: 16\r\nx: y\r\n\r\n{\"eventId\":\"e\"}.";
        for cut in 0..text.len() {
            assert_eq!(message(&text[..cut]).unwrap(), None, "{cut}");
        }
        let read = message(text).unwrap().unwrap();
        assert_eq!((read.status, read.body), (201, 16));
        assert_eq!(event_id(&text[read.head..]), Some("e"));
    }

    #[test]
    fn a_message_without_a_length_is_refused() {
        assert!(message(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(message(&[b'x'; HEAD_BYTES_MAX + 1]).is_err());
    }
}
