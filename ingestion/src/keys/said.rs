//! What clients say of keys. Pure: the time is an argument.

use posthaste_event::{
    Channel, FieldError, Millis,
    definition::{CODE, is_code},
    fields::{Fields, Text, excerpt},
    time,
};
use posthaste_service::auth::{
    CONFIGS_MAX, Role,
    made::{FORMER_MAX, Former, Kept},
};
use serde_json::Value as Json;

use crate::request;

/// Longest name of a key, in characters.
pub(crate) const NAME_CHARS_MAX: usize = 64;
/// How far ahead a key may end, in days.
pub(crate) const DAYS_MAX: u32 = 3_660;
/// For how long a secret is good beside the one that replaces it, in seconds, if nothing is said of it.
pub(crate) const OVERLAP_SECONDS: u32 = 86_400;
/// The longest such time.
pub(crate) const OVERLAP_SECONDS_MAX: u32 = 90 * 86_400;

/// A key that is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) roles: Vec<Role>,
    pub(super) channels: Option<Vec<Channel>>,
    pub(super) configs: Option<Vec<String>>,
    pub(super) expires_at: Option<Millis>,
}

/// Reads the body of `POST /keys`.
pub(super) fn wanted(body: &str, now: Millis) -> Result<Wanted, Vec<FieldError>> {
    let mut fields = Fields::of("", body).map_err(|error| vec![error])?;
    let name = fields.required_text("name", Text::line(NAME_CHARS_MAX));
    let known = Role::ALL.map(Role::as_str).join(", ");
    let roles = match fields.required("roles", &known) {
        Some(value) => {
            let value = fields.as_json("roles", value);
            value.and_then(|value| names(&mut fields, "roles", &value, Role::of, &known))
        }
        None => None,
    };
    let known = Channel::ALL.map(Channel::as_str).join(", ");
    let channels = fields.take("channels").and_then(|value| {
        let value = fields.as_json("channels", value)?;
        names(&mut fields, "channels", &value, |name| name.parse().ok(), &known)
    });
    let configs = fields.take("configs").and_then(|value| {
        let value = fields.as_json("configs", value)?;
        let read = |code: &str| is_code(code).then(|| code.to_owned());
        names(&mut fields, "configs", &value, read, CODE)
    });
    let expires_at = fields.text("expiresAt", request::ANY).and_then(|text| {
        time::read("expiresAt", &text, DAYS_MAX, now)
            .map_err(|error| fields.push(error))
            .ok()
    });
    if expires_at.is_some_and(|at| at <= now) {
        fields.error("expiresAt", "is over", "a time in the future");
    }
    fields.refuse_unknown();
    fields.finish()?;
    name.zip(roles)
        .map(|(name, roles)| Wanted {
            name: name.into_owned(),
            roles,
            channels,
            configs,
            expires_at,
        })
        .ok_or_else(|| vec![FieldError::new("body", "cannot be read", "a key")])
}

/// A list of names of which none is twice and at least one is there.
fn names<T: PartialEq>(
    fields: &mut Fields<'_>,
    field: &str,
    value: &Json,
    read: impl Fn(&str) -> Option<T>,
    accepted: &str,
) -> Option<Vec<T>> {
    let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
        fields.error(
            field,
            "is no list with something in it",
            format!("a list of: {accepted}"),
        );
        return None;
    };
    if list.len() > CONFIGS_MAX {
        let problem = format!("has {} entries", list.len());
        fields.error(field, problem, format!("up to {CONFIGS_MAX}: {accepted}"));
        return None;
    }
    let mut all = Vec::new();
    for (index, name) in list.iter().enumerate() {
        let found = name.as_str().and_then(&read);
        let problem = match found {
            Some(found) if !all.contains(&found) => {
                all.push(found);
                continue;
            }
            Some(_) => "stands there twice".to_owned(),
            None => format!("{} is none", excerpt(&name.to_string())),
        };
        // One is enough: a list of nonsense may be long.
        fields.error(&format!("{field}[{index}]"), problem, accepted);
        return None;
    }
    Some(all)
}

/// Reads the body of `POST /keys/{id}/rotate`: for how long what was good before is good still, in seconds.
pub(super) fn overlap(body: &str) -> Result<u32, Vec<FieldError>> {
    let mut fields = Fields::of("", body).map_err(|error| vec![error])?;
    let accepted = format!("0 to {OVERLAP_SECONDS_MAX}");
    let overlap = match fields.take("overlapSeconds") {
        None => Some(OVERLAP_SECONDS),
        Some(value) => {
            let number = fields
                .as_json("overlapSeconds", value)
                .and_then(|value| value.as_f64());
            // A whole number may be written as 60.0.
            let whole = number.filter(|number| {
                number.fract() == 0.0 && (0.0..=f64::from(OVERLAP_SECONDS_MAX)).contains(number)
            });
            if whole.is_none() {
                fields.error(
                    "overlapSeconds",
                    "is no whole number of seconds within bounds",
                    accepted.clone(),
                );
            }
            // Within 32 bits, as was just checked.
            whole.map(|number| number as u32)
        }
    };
    fields.refuse_unknown();
    fields.finish()?;
    overlap.ok_or_else(|| vec![FieldError::new("overlapSeconds", "cannot be read", accepted)])
}

/// A key with another secret. What was good before is good for so many seconds still, and no longer than it was.
///
/// `None` when too many secrets would be good at once.
pub(super) fn rotated(kept: &Kept, hash: String, overlap_seconds: u32, now: Millis) -> Option<Kept> {
    let until = now + i64::from(overlap_seconds) * 1_000;
    let present = Former {
        hash: kept.hash.clone(),
        until,
    };
    let former: Vec<Former> = std::iter::once(present)
        .chain(kept.former_good(now).map(|former| Former {
            until: former.until.min(until),
            ..former.clone()
        }))
        .filter(|former| now < former.until)
        .collect();
    (former.len() <= FORMER_MAX).then(|| Kept {
        hash,
        former,
        ..kept.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_800_000_000_000;

    #[test]
    fn what_cannot_be_a_key_is_refused_by_the_name_of_its_field() {
        let full = r#"{"name": "x", "roles": ["send", "read"], "channels": ["sms"], "configs": ["shop"], "expiresAt": "2027-02-01T00:00:00Z"}"#;
        let read = wanted(full, NOW).unwrap();
        assert_eq!(read.roles, [Role::Send, Role::Read]);
        assert_eq!(read.channels, Some(vec![Channel::Sms]));
        assert_eq!(read.configs, Some(vec!["shop".to_owned()]));
        assert!(read.expires_at > Some(NOW));
        for (body, field) in [
            ("[]", "body"),
            (r#"{"roles": ["send"]}"#, "name"),
            (r#"{"name": "", "roles": ["send"]}"#, "name"),
            (r#"{"name": "a\nb", "roles": ["send"]}"#, "name"),
            (r#"{"name": "x"}"#, "roles"),
            (r#"{"name": "x", "roles": []}"#, "roles"),
            (r#"{"name": "x", "roles": "admin"}"#, "roles"),
            (r#"{"name": "x", "roles": {"0": "admin"}}"#, "roles"),
            (r#"{"name": "x", "roles": ["root"]}"#, "roles[0]"),
            (r#"{"name": "x", "roles": ["send", "send"]}"#, "roles[1]"),
            (r#"{"name": "x", "roles": ["send", 7]}"#, "roles[1]"),
            (r#"{"name": "x", "roles": ["send"], "channels": []}"#, "channels"),
            (
                r#"{"name": "x", "roles": ["send"], "channels": ["fax"]}"#,
                "channels[0]",
            ),
            (r#"{"name": "x", "roles": ["send"], "configs": []}"#, "configs"),
            (
                r#"{"name": "x", "roles": ["send"], "configs": ["a", "../b"]}"#,
                "configs[1]",
            ),
            (
                r#"{"name": "x", "roles": ["send"], "configs": ["a", "a"]}"#,
                "configs[1]",
            ),
            (
                r#"{"name": "x", "roles": ["send"], "expiresAt": "2020-01-01T00:00:00Z"}"#,
                "expiresAt",
            ),
            (
                r#"{"name": "x", "roles": ["send"], "expiresAt": "2999-01-01T00:00:00Z"}"#,
                "expiresAt",
            ),
            (
                r#"{"name": "x", "roles": ["send"], "expiresAt": 1900000000}"#,
                "expiresAt",
            ),
            (
                r#"{"name": "x", "roles": ["send"], "tenant": "globex"}"#,
                "tenant",
            ),
            (r#"{"name": "x", "roles": ["send"], "hash": "00"}"#, "hash"),
            (r#"{"name": "x", "name": "y", "roles": ["send"]}"#, "name"),
        ] {
            let errors = wanted(body, NOW).unwrap_err();
            assert_eq!(errors[0].field, field, "{body}: {errors:?}");
        }
        let codes: Vec<String> = (0..=CONFIGS_MAX).map(|number| format!("{number}")).collect();
        let many = serde_json::json!({"name": "x", "roles": ["send"], "configs": codes}).to_string();
        assert_eq!(wanted(&many, NOW).unwrap_err()[0].field, "configs");
        let many = format!(r#"{{"name": "x", "roles": [{}"x"]}}"#, "\"x\",".repeat(10_000));
        assert_eq!(wanted(&many, NOW).unwrap_err().len(), 1);
    }

    #[test]
    fn an_overlap_is_bounded() {
        assert_eq!(overlap("{}").unwrap(), OVERLAP_SECONDS);
        assert_eq!(overlap(r#"{"overlapSeconds": 0}"#).unwrap(), 0);
        assert_eq!(overlap(r#"{"overlapSeconds": 60.0}"#).unwrap(), 60);
        for wrong in ["-1", "1.5", "7776001", "\"60\"", "1e300", "[]"] {
            let errors = overlap(&format!(r#"{{"overlapSeconds": {wrong}}}"#)).unwrap_err();
            assert_eq!(errors[0].field, "overlapSeconds", "{wrong}");
        }
        assert_eq!(overlap(r#"{"hash": "x"}"#).unwrap_err()[0].field, "hash");
    }

    #[test]
    fn what_was_good_before_is_good_for_the_overlap_and_no_longer() {
        let kept = Kept {
            name: "x".to_owned(),
            hash: "a".to_owned(),
            roles: vec![Role::Send],
            channels: None,
            configs: None,
            expires_at: None,
            created_at: NOW,
            created_by: "me".to_owned(),
            former: Vec::new(),
        };
        let good = |kept: &Kept, now| {
            kept.former_good(now)
                .map(|former| (former.hash.clone(), former.until - NOW))
                .collect::<Vec<_>>()
        };
        let next = |kept: &Kept, hash: &str, seconds, now| rotated(kept, hash.to_owned(), seconds, now);
        let b = next(&kept, "b", 60, NOW).unwrap();
        assert_eq!(
            (b.hash.as_str(), good(&b, NOW)),
            ("b", vec![("a".into(), 60_000)])
        );
        assert_eq!(good(&b, NOW + 60_000), []);
        let c = next(&b, "c", 600, NOW + 1).unwrap();
        let longer = ("b".to_owned(), 600_001);
        assert_eq!(good(&c, NOW + 1), [longer.clone(), ("a".into(), 60_000)]);
        assert_eq!(good(&c, NOW + 60_000), [longer]);
        // At once, also for those of before.
        let d = next(&c, "d", 0, NOW + 2).unwrap();
        assert_eq!(good(&d, NOW + 2), []);
        let four = next(&c, "d", 600, NOW + 2).unwrap();
        assert_eq!(good(&four, NOW + 2).len(), FORMER_MAX);
        assert!(next(&four, "e", 600, NOW + 3).is_none());
        assert!(
            next(&four, "e", 600, NOW + 60_000).is_some(),
            "one is over by then"
        );
    }
}
