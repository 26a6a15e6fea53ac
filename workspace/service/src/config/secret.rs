//! Which values must never be shown.

/// Shown in place of a secret.
pub(super) const MASK: &str = "***";

/// Whether the value under this key is a secret, judged by the key's name.
pub(super) fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase();
    const WORDS: [&str; 7] = [
        "secret",
        "secrets",
        "password",
        "passphrase",
        "token",
        "tokens",
        "credentials",
    ];
    name.split(['_', '-']).any(|word| WORDS.contains(&word))
        || name == "key"
        || name == "keys"
        || name.ends_with("_key")
        || name.ends_with("_keys")
}

/// The value as it may be shown: secrets masked, and the password of an address with one.
pub(super) fn shown(key: &str, value: &toml::Value) -> String {
    let text = value.to_string();
    let is_empty = value.as_str().is_some_and(str::is_empty);
    if is_secret(key) && !is_empty {
        return MASK.to_owned();
    }
    mask_userinfo(&text)
}

/// Masks what stands between `://` and `@`, as in `mongodb://user:password@host`.
fn mask_userinfo(text: &str) -> String {
    let Some(scheme) = text.find("://") else {
        return text.to_owned();
    };
    let rest = &text[scheme + 3..];
    let authority = &rest[..rest.find(['/', '?', '#', '"']).unwrap_or(rest.len())];
    match authority.rfind('@') {
        Some(at) => format!("{}{MASK}{}", &text[..scheme + 3], &rest[at..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_name_and_by_form() {
        for key in [
            "providers.twilio.auth_token",
            "a.api_key",
            "webhook.signing_secret",
            "kafka.sasl_password",
        ] {
            assert!(is_secret(key), "{key}");
        }
        for key in [
            "service.listen",
            "dispatcher.keyed",
            "broker.kafka.key_bytes_max",
            "a.monkey",
        ] {
            assert!(!is_secret(key), "{key}");
        }
        let text = |text: &str| toml::Value::String(text.into());
        assert_eq!(shown("a.api_key", &text("k-1")), "***");
        assert_eq!(shown("a.api_key", &text("")), "\"\"");
        assert_eq!(
            shown("store.mongodb", &text("mongodb://u:p@h:1/db")),
            "\"mongodb://***@h:1/db\""
        );
        assert_eq!(shown("a.url", &text("http://h/x@y")), "\"http://h/x@y\"");
    }
}
