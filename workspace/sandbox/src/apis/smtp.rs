//! SMTP, in words. [`crate::smtp`] holds the conversation; here is what is read out of a message, and the replies to it, whose
//! status is the reply's code.

use super::{Api, Call, Content, Reply, Sent};

/// A status that stands for no reply at all: the connection is closed.
pub(crate) const HANG_UP: u16 = 0;

pub(crate) const API: Api = Api {
    name: "smtp",
    paths: &[],
    read,
    accepted: |_, id| Reply::text(250, &format!("2.0.0 Ok: queued as {id}")),
    invalid: |_| Reply::text(550, "5.1.1 User unknown"),
    limited: |_| Reply::text(451, "4.7.1 Greylisting in action, please come back later"),
    unavailable: || Reply::text(453, "4.3.2 System not accepting network messages"),
    failed: || Reply::text(HANG_UP, ""),
};

/// The first recipient stands for all; `call.params` are those of the envelope.
fn read(call: &Call, _: &Content) -> Result<Sent, Reply> {
    let text = String::from_utf8_lossy(&call.body);
    let head = text.split_once("\r\n\r\n").map_or(&*text, |(head, _)| head);
    for name in ["From", "Date"] {
        if field(head, name).is_none() {
            let problem = format!("5.6.0 the message has no header {name} (RFC 5322, section 3.6)");
            return Err(Reply::text(554, &problem));
        }
    }
    Ok(Sent {
        recipient: call.params.first().cloned().unwrap_or_default(),
        key: field(head, "Message-ID").and_then(|id| key(&id)),
        ..Sent::default()
    })
}

/// A header's value, its lines joined.
fn field(head: &str, name: &str) -> Option<String> {
    let mut lines = head.split("\r\n").skip_while(|line| {
        !line
            .split_once(':')
            .is_some_and(|(found, _)| found.eq_ignore_ascii_case(name))
    });
    let (_, first) = lines.next()?.split_once(':')?;
    let mut value = first.trim().to_owned();
    for line in lines.take_while(|line| line.starts_with([' ', '\t'])) {
        value.push_str(line.trim());
    }
    Some(value)
}

/// The idempotency key in a Message-ID: its parts with dots between, what an id cannot hold as `=` and hexadecimal digits.
fn key(id: &str) -> Option<String> {
    let (local, _) = id.trim_matches(['<', '>']).rsplit_once('@')?;
    let mut parts: Vec<&str> = local.rsplitn(3, '.').collect();
    parts.reverse();
    let [event, account, number] = parts.as_slice() else {
        return None;
    };
    number.parse::<u32>().ok()?;
    let mut bytes = event.bytes();
    let mut decoded = Vec::with_capacity(event.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'=' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    let event = String::from_utf8(decoded).ok()?;
    Some(format!("{event}:{account}:{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_out_of_ids() {
        for (id, expected) in [
            ("<e-1.smtp.0@shop.example>", Some("e-1:smtp:0")),
            ("<a=3Ab=2Ec.smtp_2.12@x>", Some("a:b.c:smtp_2:12")),
            ("<20261121.someone.else@x>", None),
            ("<e=3.smtp.0@x>", None),
            ("nothing", None),
        ] {
            assert_eq!(key(id).as_deref(), expected, "{id}");
        }
    }

    #[test]
    fn headers_are_found_whole() {
        let head = "Subject: a\r\n b\r\nMessage-Id:\r\n <x@y>\r\nTo: z";
        assert_eq!(field(head, "message-id").as_deref(), Some("<x@y>"));
        assert_eq!(field(head, "Subject").as_deref(), Some("ab"));
        assert_eq!(field(head, "Cc"), None);
    }
}
