//! SMTP against servers that do what a test says.

mod messages;
mod outcomes;
mod server;

use posthaste_event::{Channel, Failure, payload::Payload};
use serde_json::{Value as Json, json, value::to_raw_value};

use crate::{Message, Receipt, Registry, build::sample_message, tests::load};

/// An account at a server of this machine, with `more` lines of configuration.
pub(super) fn account(port: u16, more: &str) -> Registry {
    let has = |key: &str| more.lines().any(|line| line.starts_with(key));
    let mut lines = format!("[provider]\nconnect_timeout_ms = 1000\n[providers.smtp]\nport = {port}\n");
    for (key, line) in [
        ("host", "host = \"127.0.0.1\"\n"),
        ("encryption", "encryption = \"none\"\n"),
    ] {
        if !has(key) {
            lines.push_str(line);
        }
    }
    load(&format!("{lines}{more}"), Some("http://127.0.0.1:9/sandbox")).unwrap()
}

pub(super) fn payload() -> Json {
    json!({"subject": "Hello", "body": "text", "to": "ann@example.com", "from": "Shop <shop@example.com>"})
}

pub(super) fn message(payload: &Json) -> Message {
    let payload = Payload::parse(Channel::Email, &to_raw_value(payload).unwrap()).unwrap();
    Message {
        idempotency_key: "01890000-0000-7000-8000-000000000000:smtp:0".to_owned(),
        ..sample_message(Channel::Email, payload, 0)
    }
}

pub(super) async fn send(registry: &Registry, payload: &Json) -> Result<Receipt, Failure> {
    let account = registry.for_provider(Channel::Email, "smtp").unwrap();
    account.provider.send(&message(payload)).await
}
