//! What a delivery has that did not go straight through: its wait, its turn, what went wrong, and its replay.

use serde_json::{Error, Map};

use super::{Reader, derived, named, natural, number, perhaps, text};
use crate::{
    ErrorKind, Failure,
    delivery::{Delivery, Order, ReplayRef, RuleRef, WaitReason, Wheel},
    failure::LoggedFailure,
};

/// Whether it has no wait, no turn, and no failure, as most.
pub(super) const fn is_straight(delivery: &Delivery) -> bool {
    delivery.wheel.is_none()
        && delivery.order.is_none()
        && delivery.rule.is_none()
        && delivery.error.is_none()
        && delivery.failures.is_empty()
}

/// Writes its wait, its turn and its failures.
// Out of line: with this in their way, those that have none of it took a ninth longer.
#[inline(never)]
pub(super) fn write(delivery: &Delivery, out: &mut Vec<u8>) -> Result<(), Error> {
    if let Some(wheel) = &delivery.wheel {
        write_wheel(out, wheel)?;
    }
    if let Some(order) = &delivery.order {
        write_order(out, order)?;
    }
    if let Some(rule) = &delivery.rule {
        write_rule(out, rule)?;
    }
    if let Some(error) = &delivery.error {
        write_error(out, error)?;
    }
    write_failures(out, &delivery.failures)
}

fn write_wheel(out: &mut Vec<u8>, wheel: &Wheel) -> Result<(), Error> {
    if !wheel.unknown.is_empty() {
        return derived(out, br#","wheel":"#, wheel);
    }
    let reason = WaitReason::NAMES
        .iter()
        .find(|(reason, _)| *reason == wheel.reason);
    text(
        out,
        br#","wheel":{"reason":"#,
        reason.map_or("", |(_, name)| name),
    )?;
    text(out, br#","tier":"#, &wheel.tier)?;
    number(out, br#","moves":"#, wheel.moves.into());
    if let Some(reserved_at) = wheel.reserved_at {
        number(out, br#","reservedAt":"#, reserved_at);
    }
    out.push(b'}');
    Ok(())
}

fn write_order(out: &mut Vec<u8>, order: &Order) -> Result<(), Error> {
    if !order.unknown.is_empty() {
        return derived(out, br#","order":"#, order);
    }
    text(out, br#","order":{"key":"#, &order.key)?;
    natural(out, br#","seq":"#, order.seq);
    if let Some(after) = order.after {
        natural(out, br#","after":"#, after);
    }
    natural(out, br#","nth":"#, order.nth);
    out.push(b'}');
    Ok(())
}

fn write_rule(out: &mut Vec<u8>, rule: &RuleRef) -> Result<(), Error> {
    if !rule.unknown.is_empty() {
        return derived(out, br#","rule":"#, rule);
    }
    text(out, br#","rule":{"id":"#, &rule.id)?;
    text(out, br#","version":"#, &rule.version)?;
    out.push(b'}');
    Ok(())
}

fn write_error(out: &mut Vec<u8>, error: &Failure) -> Result<(), Error> {
    if !error.unknown.is_empty() {
        return derived(out, br#","error":"#, error);
    }
    text(out, br#","error":{"kind":"#, error.kind.as_str())?;
    perhaps(out, br#","code":"#, error.code.as_deref())?;
    text(out, br#","message":"#, &error.message)?;
    text(out, br#","fingerprint":"#, &error.fingerprint)?;
    if let Some(wait_ms) = error.retry_after_ms {
        number(out, br#","retryAfterMs":"#, wait_ms.into());
    }
    out.push(b'}');
    Ok(())
}

fn write_failures(out: &mut Vec<u8>, failures: &[LoggedFailure]) -> Result<(), Error> {
    out.extend_from_slice(br#","failures":["#);
    for (index, failure) in failures.iter().enumerate() {
        let before: &[u8] = if index == 0 { b"" } else { b"," };
        if !failure.unknown.is_empty() {
            derived(out, before, failure)?;
            continue;
        }
        out.extend_from_slice(before);
        number(out, br#"{"step":"#, failure.step.into());
        number(out, br#","attempt":"#, failure.attempt.into());
        text(out, br#","provider":"#, &failure.provider)?;
        text(out, br#","account":"#, &failure.account)?;
        number(out, br#","at":"#, failure.at);
        text(out, br#","kind":"#, failure.kind.as_str())?;
        perhaps(out, br#","code":"#, failure.code.as_deref())?;
        text(out, br#","message":"#, &failure.message)?;
        out.push(b'}');
    }
    out.push(b']');
    Ok(())
}

pub(super) fn write_replay(out: &mut Vec<u8>, replay: &ReplayRef) -> Result<(), Error> {
    if !replay.unknown.is_empty() {
        return derived(out, br#","replay":"#, replay);
    }
    text(out, br#","replay":{"id":"#, &replay.id)?;
    number(out, br#","fromStep":"#, replay.from_step.into());
    number(out, br#","at":"#, replay.at);
    out.push(b'}');
    Ok(())
}

impl Reader<'_> {
    /// Reads what [`write`] writes.
    // Out of line, as that is.
    #[inline(never)]
    pub(super) fn course(&mut self, delivery: &mut Delivery) -> Option<()> {
        delivery.wheel = self.wheel()?;
        delivery.order = self.order()?;
        delivery.rule = self.rule()?;
        delivery.error = self.error()?;
        delivery.failures = self.failures()?;
        Some(())
    }

    // Each of these may be missing, or be as it is not read here.

    fn wheel(&mut self) -> Option<Option<Wheel>> {
        if !self.passes(br#","wheel":{"#) {
            return Some(None);
        }
        let wheel = Wheel {
            reason: named(&WaitReason::NAMES, |(_, name)| name, self.text(br#""reason":"#)?)?.0,
            tier: self.string(br#","tier":"#)?,
            moves: self.small(br#","moves":"#)?,
            reserved_at: self.time(br#","reservedAt":"#)?,
            unknown: Map::new(),
        };
        self.pass(b"}")?;
        Some(Some(wheel))
    }

    fn order(&mut self) -> Option<Option<Order>> {
        if !self.passes(br#","order":{"#) {
            return Some(None);
        }
        let order = Order {
            key: self.string(br#""key":"#)?,
            seq: self.natural(br#","seq":"#)?,
            after: if self.0.starts_with(br#","after":"#) {
                Some(self.natural(br#","after":"#)?)
            } else {
                None
            },
            nth: self.natural(br#","nth":"#)?,
            unknown: Map::new(),
        };
        self.pass(b"}")?;
        Some(Some(order))
    }

    fn rule(&mut self) -> Option<Option<RuleRef>> {
        if !self.passes(br#","rule":{"#) {
            return Some(None);
        }
        let rule = RuleRef {
            id: self.string(br#""id":"#)?,
            version: self.string(br#","version":"#)?,
            unknown: Map::new(),
        };
        self.pass(b"}")?;
        Some(Some(rule))
    }

    fn error(&mut self) -> Option<Option<Failure>> {
        if !self.passes(br#","error":{"#) {
            return Some(None);
        }
        let error = Failure {
            kind: named(&ErrorKind::ALL, ErrorKind::as_str, self.text(br#""kind":"#)?)?,
            code: self.perhaps(br#","code":"#)?,
            message: self.string(br#","message":"#)?,
            fingerprint: self.string(br#","fingerprint":"#)?,
            retry_after_ms: if self.0.starts_with(br#","retryAfterMs":"#) {
                Some(self.small(br#","retryAfterMs":"#)?)
            } else {
                None
            },
            reported: None,
            unknown: Map::new(),
        };
        self.pass(b"}")?;
        Some(Some(error))
    }

    fn failures(&mut self) -> Option<Vec<LoggedFailure>> {
        self.pass(br#","failures":["#)?;
        let mut failures = Vec::new();
        while !self.passes(b"]") {
            if !failures.is_empty() {
                self.pass(b",")?;
            }
            failures.push(LoggedFailure {
                step: self.small(br#"{"step":"#)?,
                attempt: self.small(br#","attempt":"#)?,
                provider: self.string(br#","provider":"#)?,
                account: self.string(br#","account":"#)?,
                at: self.number(br#","at":"#)?,
                kind: named(&ErrorKind::ALL, ErrorKind::as_str, self.text(br#","kind":"#)?)?,
                code: self.perhaps(br#","code":"#)?,
                message: self.string(br#","message":"#)?,
                unknown: Map::new(),
            });
            self.pass(b"}")?;
        }
        Some(failures)
    }

    pub(super) fn replay(&mut self) -> Option<Option<ReplayRef>> {
        if !self.passes(br#","replay":{"#) {
            return Some(None);
        }
        let replay = ReplayRef {
            id: self.string(br#""id":"#)?,
            from_step: self.small(br#","fromStep":"#)?,
            at: self.number(br#","at":"#)?,
            unknown: Map::new(),
        };
        self.pass(b"}")?;
        Some(Some(replay))
    }
}
