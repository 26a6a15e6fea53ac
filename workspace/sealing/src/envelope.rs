//! Sealing and opening one payload.

use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use posthaste_event::{Channel, firing};
use serde::Deserialize;
use serde_json::{
    Value as Json,
    value::{RawValue, to_raw_value},
};

use crate::{Ring, ring::is_kid};

/// The name under which AES with 256 bits in Galois/counter mode goes in JSON (RFC 7518, section 5.3).
pub(crate) const ALGORITHM: &str = "A256GCM";
/// How a sealed payload begins as the intake writes it. No payload of a client may have this member.
pub(crate) const BEGINNING: &str = r#"{"$sealed":"#;
const MEMBER: &str = "$sealed";
/// What is bound begins with this, so that a later form of it can never be taken for this one.
const VERSION: &str = "posthaste-payload-1";

/// To what a sealed payload belongs: elsewhere it does not open.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Whose event it is.
    pub tenant: &'a str,
    /// The event's channel.
    pub channel: Channel,
    /// The event's id.
    pub event_id: &'a str,
}

/// By what of the event's id a payload is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// All of it.
    Event,
    /// The part that all firings of one plan of a schedule share: their events are made without the key.
    Plan,
}

/// Why a payload was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the payload cannot be sealed")]
pub struct SealError;

/// Why a sealed payload did not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The key may come yet.
    #[error("its payload is sealed with key {kid}, which is not here")]
    UnknownKey {
        /// The key's id.
        kid: String,
    },
    /// It was changed, moved from another event, or is not ours: no key will ever open it.
    #[error("its sealed payload does not open: {0}")]
    Broken(&'static str),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "$sealed", borrow)]
    sealed: Sealed<'a>,
}

#[derive(Deserialize)]
struct Sealed<'a> {
    kid: &'a str,
    alg: &'a str,
    nonce: &'a str,
    data: &'a str,
    /// Absent in most: bound by the event.
    #[serde(default)]
    bound: Option<&'a str>,
}

impl Bound {
    /// The name in JSON.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Plan => "plan",
        }
    }

    fn of(name: Option<&str>) -> Option<Self> {
        match name {
            None => Some(Self::Event),
            Some("plan") => Some(Self::Plan),
            Some(_) => None,
        }
    }
}

/// Whether a payload is a sealed one.
pub fn is_sealed(payload: &RawValue) -> bool {
    payload.get().starts_with(BEGINNING)
}

/// What the tag covers beside the payload. Each part but the last is of letters, digits and marks that are no line end.
fn associated(scope: &Scope<'_>, bound: Bound, kid: &str) -> Option<Vec<u8>> {
    let id = match bound {
        Bound::Event => scope.event_id,
        Bound::Plan => firing::plan_part(scope.event_id)?,
    };
    let Scope { tenant, channel, .. } = scope;
    let bound = bound.as_str();
    Some(format!("{VERSION}\n{ALGORITHM}\n{kid}\n{tenant}\n{channel}\n{bound}\n{id}").into_bytes())
}

impl Ring {
    /// Seals a payload with the active key.
    ///
    /// # Errors
    /// When the library refuses, which it does for want of randomness; or when a plan is to be bound and the id is no firing's.
    pub fn seal(
        &self,
        scope: &Scope<'_>,
        bound: Bound,
        payload: &RawValue,
    ) -> Result<Box<RawValue>, SealError> {
        let said = match bound {
            Bound::Event => "",
            Bound::Plan => r#","bound":"plan""#,
        };
        let json = self.enclose(payload.get(), |kid| associated(scope, bound, kid), said)?;
        RawValue::from_string(json).map_err(|_| SealError)
    }

    /// A text as JSON that only who has the key can read; `associated` is what it is bound to, by the key's id.
    pub(crate) fn enclose(
        &self,
        text: &str,
        associated: impl FnOnce(&str) -> Option<Vec<u8>>,
        said: &str,
    ) -> Result<String, SealError> {
        let (kid, key) = self.sealing().ok_or(SealError)?;
        let associated = associated(kid).ok_or(SealError)?;
        let mut data = text.as_bytes().to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(associated), &mut data)
            .map_err(|_| SealError)?;
        let (nonce, data) = (BASE64.encode(nonce.as_ref()), BASE64.encode(data));
        Ok(format!(
            r#"{BEGINNING}{{"kid":"{kid}","alg":"{ALGORITHM}","nonce":"{nonce}","data":"{data}"{said}}}}}"#
        ))
    }

    /// Opens what [`Ring::seal`] gave, for the same scope.
    ///
    /// # Errors
    /// Whether the key is missing, or nothing will ever open it.
    pub fn open(&self, scope: &Scope<'_>, sealed: &RawValue) -> Result<Box<RawValue>, OpenError> {
        let text = self.disclose(sealed.get(), |kid, bound| {
            let bound = Bound::of(bound).ok_or(OpenError::Broken("it is bound by something unknown"))?;
            associated(scope, bound, kid).ok_or(OpenError::Broken("it is a firing's, and the event is none"))
        })?;
        serde_json::from_str::<&RawValue>(&text)
            .map(ToOwned::to_owned)
            .map_err(|_| OpenError::Broken("there is no JSON in it"))
    }

    /// The text that [`Ring::enclose`] made this of; `associated` is told the key's id, and by what it says to be bound.
    pub(crate) fn disclose(
        &self,
        json: &str,
        associated: impl FnOnce(&str, Option<&str>) -> Result<Vec<u8>, OpenError>,
    ) -> Result<String, OpenError> {
        let Envelope { sealed } =
            serde_json::from_str(json).map_err(|_| OpenError::Broken("it is not of the form"))?;
        if sealed.alg != ALGORITHM {
            return Err(OpenError::Broken("its algorithm is not known"));
        }
        if !is_kid(sealed.kid) {
            return Err(OpenError::Broken("its key id is none"));
        }
        let key = self.opening(sealed.kid).ok_or_else(|| OpenError::UnknownKey {
            kid: sealed.kid.to_owned(),
        })?;
        let associated = associated(sealed.kid, sealed.bound)?;
        let decode = |text: &str| {
            BASE64
                .decode(text)
                .map_err(|_| OpenError::Broken("it is not base64"))
        };
        let nonce: [u8; NONCE_LEN] = decode(sealed.nonce)?
            .try_into()
            .map_err(|_| OpenError::Broken("its nonce is of another size"))?;
        let mut data = decode(sealed.data)?;
        let opened = key
            .open_in_place(Nonce::from(&nonce), Aad::from(associated), &mut data)
            .map_err(|_| OpenError::Broken("it was changed, or is another event's"))?;
        let text = std::str::from_utf8(opened).map_err(|_| OpenError::Broken("there is no text in it"))?;
        Ok(text.to_owned())
    }
}

impl Ring {
    /// The same of a sealed payload as a store gives it back. `None` when it is none, or does not open.
    pub fn open_json(&self, scope: &Scope<'_>, payload: &Json) -> Option<Json> {
        payload.get(MEMBER)?;
        let sealed = to_raw_value(payload).ok()?;
        let opened = self.open(scope, &sealed).ok()?;
        serde_json::from_str(opened.get()).ok()
    }
}

/// The id of the key that a sealed payload or page names, if the text is one.
pub fn kid_of(sealed: &str) -> Option<&str> {
    let envelope: Envelope<'_> = serde_json::from_str(sealed).ok()?;
    Some(envelope.sealed.kid).filter(|kid| is_kid(kid))
}

/// The same of a payload as the store has it.
pub fn kid_in(payload: &Json) -> Option<&str> {
    let kid = payload.get("$sealed")?.get("kid")?.as_str();
    kid.filter(|kid| is_kid(kid))
}

#[cfg(test)]
mod tests {
    use posthaste_event::{Millis, firing::Firing};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    const NOW: Millis = 1_790_000_000_000;
    const CLEAR: &str = r#"{"message":"your code is 4711","phoneNumber":"2025555555"}"#;
    const SCOPE: Scope<'static> = Scope {
        tenant: "acme",
        channel: Channel::Sms,
        event_id: "0199a1b2-0000-7000-8000-000000000001",
    };

    fn clear() -> Box<RawValue> {
        RawValue::from_string(CLEAR.to_owned()).unwrap()
    }

    fn raw(json: &Json) -> Box<RawValue> {
        serde_json::value::to_raw_value(json).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_and_shows_nothing() {
        let ring = Ring::generate(NOW).unwrap();
        let sealed = ring.seal(&SCOPE, Bound::Event, &clear()).unwrap();
        assert!(is_sealed(&sealed) && !is_sealed(&clear()));
        assert!(!sealed.get().contains("4711") && !sealed.get().contains("message"));
        assert_eq!(ring.open(&SCOPE, &sealed).unwrap().get(), CLEAR);
        let again = ring.seal(&SCOPE, Bound::Event, &clear()).unwrap();
        assert_ne!(sealed.get(), again.get(), "a nonce of its own each time");
        let read: Json = serde_json::from_str(sealed.get()).unwrap();
        let members: Vec<_> = read["$sealed"].as_object().unwrap().keys().collect();
        assert_eq!(members, ["alg", "data", "kid", "nonce"]);
        assert_eq!(read["$sealed"]["alg"], "A256GCM");
        assert_eq!(
            ring.open_json(&SCOPE, &read).unwrap()["message"],
            "your code is 4711"
        );
        assert_eq!(ring.open_json(&SCOPE, &json!({"message": "x"})), None);
        // As a store gives it back: other order, other spaces.
        let shown = RawValue::from_string(serde_json::to_string_pretty(&read).unwrap()).unwrap();
        assert_eq!(ring.open(&SCOPE, &shown).unwrap().get(), CLEAR);
    }

    #[test]
    fn the_old_key_opens_after_a_rotation_and_another_ring_does_not() {
        let mut ring = Ring::generate(NOW).unwrap();
        let sealed = ring.seal(&SCOPE, Bound::Event, &clear()).unwrap();
        let kid = ring.active().to_owned();
        ring.rotate(NOW).unwrap();
        assert_eq!(ring.open(&SCOPE, &sealed).unwrap().get(), CLEAR);
        let later = ring.seal(&SCOPE, Bound::Event, &clear()).unwrap();
        assert_eq!(kid_of(later.get()), Some(ring.active()));
        let other = Ring::generate(NOW).unwrap();
        assert_eq!(
            other.open(&SCOPE, &sealed).unwrap_err(),
            OpenError::UnknownKey { kid }
        );
    }

    /// Whatever is changed, in the envelope or around it: it does not open.
    #[test]
    fn what_is_changed_or_moved_does_not_open() {
        let mut ring = Ring::generate(NOW).unwrap();
        let old = ring.active().to_owned();
        ring.rotate(NOW).unwrap();
        let sealed = ring.seal(&SCOPE, Bound::Event, &clear()).unwrap();
        let read: Json = serde_json::from_str(sealed.get()).unwrap();
        let inner = &read["$sealed"];
        let flipped = |member: &str, at: usize| {
            let mut bytes = BASE64.decode(inner[member].as_str().unwrap()).unwrap();
            bytes[at] ^= 1;
            json!(BASE64.encode(bytes))
        };
        let bytes = BASE64.decode(inner["data"].as_str().unwrap()).unwrap().len();
        let mut changes: Vec<(&str, Json)> = (0..bytes).map(|at| ("data", flipped("data", at))).collect();
        changes.extend((0..NONCE_LEN).map(|at| ("nonce", flipped("nonce", at))));
        changes.extend([
            ("kid", json!(old)),
            ("kid", json!("a b")),
            ("alg", json!("A128GCM")),
            ("alg", json!("none")),
            ("nonce", json!("")),
            ("nonce", json!("AAAA")),
            ("data", json!("")),
            ("data", json!("!")),
            ("data", json!(7)),
            ("bound", json!("plan")),
            ("bound", json!("tenant")),
        ]);
        for (member, value) in changes {
            let mut changed = read.clone();
            changed["$sealed"][member] = value.clone();
            let opened = ring.open(&SCOPE, &raw(&changed));
            assert!(
                matches!(opened, Err(OpenError::Broken(_))),
                "{member} {value}: {opened:?}"
            );
        }
        for scope in [
            Scope {
                tenant: "acm",
                ..SCOPE
            },
            Scope {
                channel: Channel::Email,
                ..SCOPE
            },
            Scope {
                event_id: "0199a1b2-0000-7000-8000-000000000002",
                ..SCOPE
            },
        ] {
            let opened = ring.open(&scope, &sealed);
            assert!(matches!(opened, Err(OpenError::Broken(_))), "{opened:?}");
        }
        for other in [
            json!({}),
            json!({"$sealed": {}}),
            json!([1]),
            json!({"$sealed": "x"}),
        ] {
            assert!(
                matches!(ring.open(&SCOPE, &raw(&other)), Err(OpenError::Broken(_))),
                "{other}"
            );
        }
    }

    #[test]
    fn every_firing_of_a_plan_opens_what_is_bound_by_it_and_nothing_else_does() {
        let ring = Ring::generate(NOW).unwrap();
        let id = |plan: u128, at| {
            let (schedule, plan) = ("daily".to_owned(), Uuid::from_u128(plan));
            Firing {
                schedule,
                plan,
                planned_at: NOW,
                at,
            }
            .event_id()
        };
        const PLAN: u128 = 0x8f3b_93e1_5dd2_4c0f_a1b2_03f4_c5d6_e7f8;
        fn of(event_id: &str) -> Scope<'_> {
            Scope { event_id, ..SCOPE }
        }
        let sealed = ring.seal(&of(&id(PLAN, 0)), Bound::Plan, &clear()).unwrap();
        for at in [0, NOW, NOW + 60_000] {
            assert_eq!(ring.open(&of(&id(PLAN, at)), &sealed).unwrap().get(), CLEAR);
        }
        for other in [
            id(PLAN + 1, NOW),
            SCOPE.event_id.to_owned(),
            "mine".to_owned(),
            "ä".repeat(18),
        ] {
            assert!(ring.open(&of(&other), &sealed).is_err(), "{other}");
        }
        assert!(ring.seal(&of("mine"), Bound::Plan, &clear()).is_err());
    }
}
