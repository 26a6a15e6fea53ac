//! A delivery's JSON, written and read by hand: every hop does both, and what serde derives for it took a fifth of an event's time.
//!
//! What is written is byte for byte what serde writes. Read is only what looks just like that, in the same order; all else
//! (another version's fields, firings of schedules) is left to serde, and so are errors.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Error, Map};

use super::{Delivery, Lane, Policy, Sends};
use crate::{Channel, Millis, Priority, Status};

mod course;

const LANES: [(Lane, &str); 4] = [
    (Lane::Critical, "critical"),
    (Lane::Default, "default"),
    (Lane::Retry, "retry"),
    (Lane::RetryCritical, "retry.critical"),
];

/// Writes a delivery.
///
/// # Errors
/// Never in practice: a delivery has no key or number that JSON cannot hold.
pub(crate) fn write(delivery: &Delivery, out: &mut Vec<u8>) -> Result<(), Error> {
    number(out, br#"{"v":"#, delivery.v.into());
    text(out, br#","id":"#, &delivery.id)?;
    text(out, br#","correlationId":"#, &delivery.correlation_id)?;
    text(out, br#","tenant":"#, &delivery.tenant)?;
    text(out, br#","channel":"#, delivery.channel.as_str())?;
    text(out, br#","priority":"#, delivery.priority.as_str())?;
    number(out, br#","createdAt":"#, delivery.created_at);
    number(out, br#","step":"#, delivery.step.into());
    number(out, br#","generation":"#, delivery.generation.into());
    number(out, br#","attempt":"#, delivery.attempt.into());
    text(out, br#","status":"#, delivery.status.as_str())?;
    number(out, br#","at":"#, delivery.at);
    text(out, br#","by":"#, &delivery.by)?;
    number(out, br#","since":"#, delivery.since);
    if let Some(due_at) = delivery.due_at {
        number(out, br#","dueAt":"#, due_at);
    }
    if let Some(expires_at) = delivery.expires_at {
        number(out, br#","expiresAt":"#, expires_at);
    }
    text(out, br#","policy":"#, delivery.policy.as_str())?;
    let lane = LANES.iter().find(|(lane, _)| *lane == delivery.lane);
    text(out, br#","lane":"#, lane.map_or("", |(_, name)| name))?;
    perhaps(out, br#","provider":"#, delivery.provider.as_deref())?;
    perhaps(out, br#","account":"#, delivery.account.as_deref())?;
    out.extend_from_slice(if delivery.pinned {
        br#","pinned":true,"sends":"#
    } else {
        br#","pinned":false,"sends":"#
    });
    write_sends(out, &delivery.sends)?;
    perhaps(
        out,
        br#","providerMessageId":"#,
        delivery.provider_message_id.as_deref(),
    )?;
    if course::is_straight(delivery) {
        out.extend_from_slice(br#","failures":[]"#);
    } else {
        course::write(delivery, out)?;
    }
    number(out, br#","failuresDropped":"#, delivery.failures_dropped.into());
    if let Some(replay) = &delivery.replay {
        course::write_replay(out, replay)?;
    }
    perhaps(out, br#","replayOf":"#, delivery.replay_of.as_deref())?;
    perhaps(out, br#","traceparent":"#, delivery.traceparent.as_deref())?;
    if let Some(firing) = &delivery.firing {
        derived(out, br#","firing":"#, firing)?;
    }
    for (name, value) in &delivery.unknown {
        derived(out, b",", name)?;
        derived(out, b":", value)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_sends(out: &mut Vec<u8>, sends: &BTreeMap<String, Sends>) -> Result<(), Error> {
    if sends.values().any(|sends| !sends.unknown.is_empty()) {
        return serde_json::to_writer(out, sends);
    }
    let mut before: &[u8] = b"{";
    for (account, sends) in sends {
        text(out, before, account)?;
        text(out, br#":{"provider":"#, &sends.provider)?;
        number(out, br#","n":"#, sends.n.into());
        number(out, br#","tries":"#, sends.tries.into());
        number(out, br#","ambiguous":"#, sends.ambiguous.into());
        out.push(b'}');
        before = b",";
    }
    out.extend_from_slice(if sends.is_empty() { b"{}" } else { b"}" });
    Ok(())
}

fn number(out: &mut Vec<u8>, name: &[u8], number: i64) {
    out.extend_from_slice(name);
    if number < 0 {
        out.push(b'-');
    }
    digits(out, number.unsigned_abs());
}

fn natural(out: &mut Vec<u8>, name: &[u8], number: u64) {
    out.extend_from_slice(name);
    digits(out, number);
}

fn digits(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut begin = digits.len();
    let mut left = number;
    loop {
        begin -= 1;
        digits[begin] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[begin..]);
}

fn text(out: &mut Vec<u8>, name: &[u8], text: &str) -> Result<(), Error> {
    out.extend_from_slice(name);
    // Without a branch, so that many bytes are looked at in one go.
    let is_escaped = text.bytes().fold(false, |found, byte| found | escapes(byte));
    if is_escaped {
        return serde_json::to_writer(out, text);
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
    Ok(())
}

const fn escapes(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

fn perhaps(out: &mut Vec<u8>, name: &[u8], value: Option<&str>) -> Result<(), Error> {
    value.map_or(Ok(()), |value| text(out, name, value))
}

/// As serde has it.
fn derived<T: Serialize>(out: &mut Vec<u8>, name: &[u8], value: &T) -> Result<(), Error> {
    out.extend_from_slice(name);
    serde_json::to_writer(out, value)
}

/// What is left of a text to read.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// Passes what must come next.
    pub(crate) fn pass(&mut self, expected: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// Passes what may come next; says whether it did.
    fn passes(&mut self, name: &[u8]) -> bool {
        self.pass(name).is_some()
    }

    /// A text without escapes, such as a name of ours.
    fn text(&mut self, name: &[u8]) -> Option<&'a str> {
        self.pass(name)?;
        self.pass(b"\"")?;
        let end = self.0.iter().position(|byte| escapes(*byte))?;
        let (text, rest) = self.0.split_at_checked(end)?;
        self.0 = rest;
        self.pass(b"\"")?;
        std::str::from_utf8(text).ok()
    }

    /// Any text.
    fn string(&mut self, name: &[u8]) -> Option<String> {
        let before = self.0;
        match self.text(name) {
            Some(text) => Some(text.to_owned()),
            None => self.escaped(before, name),
        }
    }

    /// A text with escapes: providers like to quote.
    #[cold]
    fn escaped(&mut self, before: &'a [u8], name: &[u8]) -> Option<String> {
        self.0 = before;
        self.pass(name)?;
        let mut texts = serde_json::Deserializer::from_slice(self.0).into_iter();
        let text: String = texts.next()?.ok()?;
        self.0 = self.0.get(texts.byte_offset()..)?;
        Some(text)
    }

    fn perhaps(&mut self, name: &[u8]) -> Option<Option<String>> {
        if !self.0.starts_with(name) {
            return Some(None);
        }
        self.string(name).map(Some)
    }

    fn number(&mut self, name: &[u8]) -> Option<i64> {
        self.pass(name)?;
        let is_negative = self.passes(b"-");
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        // Eighteen digits always fit; JSON has no leading zeros, and -0 is no integer to serde.
        let begins_well = self.0.first() != Some(&b'0') || (digits == 1 && !is_negative);
        if !(1..=18).contains(&digits) || !begins_well {
            return None;
        }
        let (number, rest) = self.0.split_at_checked(digits)?;
        self.0 = rest;
        let number = number
            .iter()
            .fold(0, |number: i64, digit| number * 10 + i64::from(digit - b'0'));
        Some(if is_negative { -number } else { number })
    }

    fn natural(&mut self, name: &[u8]) -> Option<u64> {
        self.number(name)?.try_into().ok()
    }

    fn small(&mut self, name: &[u8]) -> Option<u32> {
        self.number(name)?.try_into().ok()
    }

    fn time(&mut self, name: &[u8]) -> Option<Option<Millis>> {
        if !self.0.starts_with(name) {
            return Some(None);
        }
        self.number(name).map(Some)
    }

    fn sends(&mut self) -> Option<BTreeMap<String, Sends>> {
        let mut all = BTreeMap::new();
        if self.passes(b"{}") {
            return Some(all);
        }
        let mut before: &[u8] = b"{";
        while !self.passes(b"}") {
            let account = self.string(before)?;
            let sends = Sends {
                provider: self.string(br#":{"provider":"#)?,
                n: self.small(br#","n":"#)?,
                tries: self.small(br#","tries":"#)?,
                ambiguous: self.small(br#","ambiguous":"#)?,
                unknown: Map::new(),
            };
            self.pass(b"}")?;
            all.insert(account, sends);
            before = b",";
        }
        Some(all)
    }

    /// Reads a delivery; `None` when it has anything that is not read here.
    pub(crate) fn delivery(&mut self) -> Option<Delivery> {
        let mut delivery = Delivery {
            v: self.number(br#"{"v":"#)?.try_into().ok()?,
            id: self.string(br#","id":"#)?,
            correlation_id: self.string(br#","correlationId":"#)?,
            tenant: self.string(br#","tenant":"#)?,
            channel: named(&Channel::ALL, Channel::as_str, self.text(br#","channel":"#)?)?,
            priority: named(&PRIORITIES, Priority::as_str, self.text(br#","priority":"#)?)?,
            created_at: self.number(br#","createdAt":"#)?,
            step: self.small(br#","step":"#)?,
            generation: self.small(br#","generation":"#)?,
            attempt: self.small(br#","attempt":"#)?,
            status: named(&Status::ALL, Status::as_str, self.text(br#","status":"#)?)?,
            at: self.number(br#","at":"#)?,
            by: self.string(br#","by":"#)?,
            since: self.number(br#","since":"#)?,
            due_at: self.time(br#","dueAt":"#)?,
            expires_at: self.time(br#","expiresAt":"#)?,
            policy: named(&Policy::ALL, Policy::as_str, self.text(br#","policy":"#)?)?,
            lane: named(&LANES, |(_, name)| name, self.text(br#","lane":"#)?)?.0,
            provider: self.perhaps(br#","provider":"#)?,
            account: self.perhaps(br#","account":"#)?,
            pinned: if self.passes(br#","pinned":false"#) {
                false
            } else {
                self.pass(br#","pinned":true"#)?;
                true
            },
            sends: {
                self.pass(br#","sends":"#)?;
                self.sends()?
            },
            provider_message_id: self.perhaps(br#","providerMessageId":"#)?,
            wheel: None,
            order: None,
            rule: None,
            error: None,
            failures: Vec::new(),
            failures_dropped: 0,
            replay: None,
            replay_of: None,
            traceparent: None,
            firing: None,
            unknown: Map::new(),
        };
        if !self.passes(br#","failures":[]"#) {
            self.course(&mut delivery)?;
        }
        delivery.failures_dropped = self.small(br#","failuresDropped":"#)?;
        if !self.passes(b"}") {
            delivery.replay = self.replay()?;
            delivery.replay_of = self.perhaps(br#","replayOf":"#)?;
            delivery.traceparent = self.perhaps(br#","traceparent":"#)?;
            self.pass(b"}")?;
        }
        Some(delivery)
    }
}

const PRIORITIES: [Priority; 4] = [
    Priority::Normal,
    Priority::Critical,
    Priority::High,
    Priority::Low,
];

fn named<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, wanted: &str) -> Option<T> {
    all.iter().copied().find(|one| name(*one) == wanted)
}
