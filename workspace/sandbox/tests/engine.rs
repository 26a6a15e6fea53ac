//! The provider engine against the sandbox: every provider's requests are taken, and every answer is understood.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;

use posthaste_event::{Channel, ErrorKind, payload::Payload};
use posthaste_provider::{Message, Registry};
use posthaste_store::EmbeddedStore;
use serde_json::{Value as Json, json, value::to_raw_value};

/// Every provider that has an interface, with its channel.
const PROVIDERS: [(&str, Channel); 12] = [
    ("twilio", Channel::Sms),
    ("messagebird", Channel::Sms),
    ("sendgrid", Channel::Email),
    ("mailgun", Channel::Email),
    ("smtp", Channel::Email),
    ("firebase", Channel::Push),
    ("onesignal", Channel::Push),
    ("apns", Channel::Push),
    ("slack", Channel::Slack),
    ("slack_webhook", Channel::Slack),
    ("teams", Channel::Slack),
    ("webhook", Channel::Webhook),
];

struct World {
    _folder: tempfile::TempDir,
    url: String,
    registry: Registry,
    http: reqwest::Client,
}

impl World {
    async fn start() -> Self {
        Self::start_with("").await
    }

    /// A sandbox on a port of its own, and accounts without credentials, with `changes` to their configuration.
    async fn start_with(changes: &str) -> Self {
        let defaults: toml::Table = toml::from_str(posthaste_sandbox::DEFAULTS).unwrap();
        let settings = defaults["sandbox"].clone().try_into().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/sandbox", listener.local_addr().unwrap());
        let router = posthaste_sandbox::router(&settings);
        tokio::spawn(async move { axum::serve(listener, router).await });

        let mut tables: toml::Table = toml::from_str(posthaste_provider::DEFAULTS).unwrap();
        // Short, so that timeouts of sends can be.
        let shared = tables["provider"].as_table_mut().unwrap();
        shared.insert("connect_timeout_ms".to_owned(), 300.into());
        for (account, keys) in toml::from_str::<toml::Table>(changes).unwrap() {
            let accounts = tables["providers"].as_table_mut().unwrap();
            let account = accounts[&account].as_table_mut().unwrap();
            account.extend(keys.as_table().unwrap().clone());
        }
        let settings: posthaste_provider::Settings = toml::Value::Table(tables).try_into().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store: toml::Table = toml::from_str(posthaste_store::DEFAULTS).unwrap();
        let store = EmbeddedStore::open(folder.path(), &store["store"].clone().try_into().unwrap()).unwrap();
        let registry = Registry::load(&settings, Some(&url), Arc::new(store)).unwrap();
        Self {
            _folder: folder,
            url,
            registry,
            http: reqwest::Client::new(),
        }
    }

    async fn behave(&self, rules: Json) {
        let answer = self
            .http
            .put(format!("{}/behaviour", self.url))
            .body(json!({ "rules": rules }).to_string())
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    async fn get(&self, path: &str) -> Json {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.unwrap();
        answer.json().await.unwrap()
    }

    /// Sends the event `id` to `recipient`; `Ok` with the message id, or the failure's kind and code.
    async fn send(
        &self,
        provider: &str,
        channel: Channel,
        recipient: &str,
        id: &str,
    ) -> Result<Option<String>, (ErrorKind, String)> {
        let account = self.registry.for_provider(channel, provider).unwrap();
        assert_eq!(account.name, provider);
        let payload = payload(channel, recipient);
        let message = Message {
            event_id: id.to_owned(),
            tenant: "default".to_owned(),
            payload: Payload::parse(channel, &to_raw_value(&payload).unwrap()).unwrap(),
            sealed: None,
            idempotency_key: format!("{id}:{provider}:0"),
            created_at: 0,
            expires_at: None,
        };
        match account.provider.send(&message).await {
            Ok(receipt) => Ok(receipt.message_id),
            Err(failure) => Err((failure.kind, failure.code.unwrap_or_default())),
        }
    }
}

fn payload(channel: Channel, recipient: &str) -> Json {
    match channel {
        Channel::Sms => json!({"message": "text \u{1f600} & \"more\"", "phoneNumber": recipient}),
        Channel::Email => {
            json!({"subject": "subject", "body": "text", "to": recipient, "from": "Me <me@example.com>"})
        }
        Channel::Push => {
            json!({"title": "title", "body": "text", "token": recipient, "link": "https://example.com/"})
        }
        Channel::Slack => json!({"channel": recipient, "text": "text"}),
        Channel::Webhook => json!({"url": recipient, "body": {"order": 1}}),
        Channel::InApp => json!({"recipient": recipient, "title": "title", "body": "text"}),
    }
}

fn recipient(channel: Channel) -> &'static str {
    match channel {
        Channel::Sms => "2025555555",
        Channel::Email => "Ann <ann@example.com>",
        Channel::Push => "a-device-token",
        Channel::Slack => "#general",
        Channel::Webhook => "https://example.com/hook?a=b",
        Channel::InApp => "ann",
    }
}

#[tokio::test]
async fn every_provider_is_taken_and_its_event_is_known() {
    let world = World::start().await;
    for (provider, channel) in PROVIDERS {
        let id = world
            .send(
                provider,
                channel,
                recipient(channel),
                &format!("event-{provider}"),
            )
            .await;
        let id = id.unwrap_or_else(|failure| panic!("{provider}: {failure:?}"));
        let nameless = ["webhook", "slack_webhook"].contains(&provider);
        assert_eq!(id.is_none(), nameless, "{provider}: {id:?}");
        let messages = world.get(&format!("/messages?provider={provider}")).await;
        let message = &messages["messages"][0];
        assert_eq!(message["action"], "accept", "{message}");
        if provider != "slack_webhook" {
            assert_eq!(message["event"], format!("event-{provider}"), "{message}");
            let path = format!("/counts?event=event-{provider}");
            assert_eq!(world.get(&path).await["times"], 1, "{provider}");
        }
    }
    let counts = world.get("/counts").await;
    assert_eq!(counts["calls"], 12, "{counts}");
    assert_eq!(counts["events"]["distinct"], 11, "{counts}");
    assert_eq!(counts["events"]["repeats"], 0, "{counts}");
}

#[tokio::test]
async fn files_arrive_at_every_provider_of_email() {
    let world = World::start().await;
    let payload = json!({
        "subject": "subject", "html": "<img src=\"cid:logo\">", "to": "ann@example.com", "from": "Me <me@example.com>",
        "attachments": [
            {"filename": "Übersicht \"1\".txt", "contentType": "text/plain", "content": "ZmlsZQ=="},
            {"filename": "logo.png", "contentType": "image/png", "content": "AAEC/w==", "contentId": "logo"},
        ],
    });
    let emails = PROVIDERS.iter().filter(|(_, channel)| *channel == Channel::Email);
    for (provider, channel) in emails {
        let message = Message {
            event_id: "e".to_owned(),
            tenant: "default".to_owned(),
            payload: Payload::accept(*channel, &to_raw_value(&payload).unwrap()).unwrap(),
            sealed: None,
            idempotency_key: format!("e:{provider}:0"),
            created_at: 0,
            expires_at: None,
        };
        let account = world.registry.account(provider).unwrap();
        account.provider.send(&message).await.unwrap();
        let messages = world.get(&format!("/messages?provider={provider}")).await;
        let got = &messages["messages"][0];
        let shown = if *provider == "mailgun" {
            "logo"
        } else {
            "logo.png"
        };
        match *provider {
            "smtp" => assert!(
                got["body"].as_str().unwrap().contains("filename=\"logo.png\""),
                "{got}"
            ),
            _ => assert_eq!(
                got["attachments"],
                json!([{"filename": "Übersicht \"1\".txt", "bytes": 4}, {"filename": shown, "bytes": 4}]),
                "{got}"
            ),
        }
    }
}

#[tokio::test]
async fn every_way_to_fail_is_understood_of_every_provider() {
    let world = World::start().await;
    for (action, kind) in [
        ("invalid", ErrorKind::Permanent),
        ("unavailable", ErrorKind::Rejected),
        ("fail", ErrorKind::Ambiguous),
        ("rate-limit", ErrorKind::RateLimited),
        ("reset", ErrorKind::Ambiguous),
    ] {
        world.behave(json!([{"action": action}])).await;
        for (provider, channel) in PROVIDERS {
            let outcome = world.send(provider, channel, recipient(channel), "e").await;
            let found = outcome.map_err(|(kind, _)| kind);
            assert_eq!(found, Err(kind), "{provider}: {action}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_no_answer_of_the_provider_leaves_the_send_in_doubt() {
    let world = World::start().await;
    world.behave(json!([{"action": "garbage"}])).await;
    for (provider, channel) in PROVIDERS {
        let outcome = world.send(provider, channel, recipient(channel), "e").await;
        // A receiver of webhooks may answer what it likes.
        let plain = provider == "webhook";
        match outcome {
            Ok(_) => assert!(plain, "{provider}"),
            Err((kind, _)) => assert_eq!((kind, plain), (ErrorKind::Ambiguous, false), "{provider}"),
        }
    }
}

#[tokio::test]
async fn recipients_alone_can_ask_for_a_failure() {
    let world = World::start().await;
    for (provider, channel, recipient, kind) in [
        ("twilio", Channel::Sms, "+15005550001", ErrorKind::Permanent),
        ("twilio", Channel::Sms, "+15005550503", ErrorKind::Rejected),
        (
            "messagebird",
            Channel::Sms,
            "+15005550429",
            ErrorKind::RateLimited,
        ),
        ("messagebird", Channel::Sms, "+15005550598", ErrorKind::Ambiguous),
        (
            "sendgrid",
            Channel::Email,
            "a+sandbox-fail@example.com",
            ErrorKind::Ambiguous,
        ),
        (
            "mailgun",
            Channel::Email,
            "a+sandbox-invalid@example.com",
            ErrorKind::Permanent,
        ),
        (
            "smtp",
            Channel::Email,
            "a+sandbox-unavailable@example.com",
            ErrorKind::Rejected,
        ),
        (
            "slack",
            Channel::Slack,
            "#sandbox-rate-limit",
            ErrorKind::RateLimited,
        ),
        (
            "webhook",
            Channel::Webhook,
            "https://example.com/sandbox-unavailable",
            ErrorKind::Rejected,
        ),
    ] {
        let outcome = world.send(provider, channel, recipient, "e").await;
        assert_eq!(
            outcome.map_err(|(kind, _)| kind),
            Err(kind),
            "{provider} {recipient}"
        );
    }
}

#[tokio::test]
async fn what_was_taken_and_never_answered_is_counted_as_sent() {
    let world = World::start_with("[twilio]\ntimeout_ms = 500").await;
    let outcome = world.send("twilio", Channel::Sms, "+15005550599", "e").await;
    assert_eq!(outcome, Err((ErrorKind::Ambiguous, "timeout".to_owned())));
    assert_eq!(world.get("/counts?event=e").await["times"], 1);
    let again = world.send("twilio", Channel::Sms, "+15005550006", "e").await;
    assert!(again.is_ok());
    let counts = world.get("/counts").await;
    assert_eq!(counts["events"]["repeats"], 1, "{counts}");
    assert_eq!(counts["repeatedEvents"], json!(["e"]));
}

#[tokio::test]
async fn wrong_credentials_and_wrong_fields_are_refused_as_the_real_ones_do() {
    let changes = "[twilio]\naccount_sid = \"XX1\"\nauth_token = \"secret-token\"\nfrom = \"+12025550100\"\n\
         [sendgrid]\napi_key = \"no-key\"\n[slack]\ntoken = \"nope-token\"\n";
    let sandbox = World::start().await;
    let changes = changes
        .replace(
            "[twilio]",
            &format!("[twilio]\nbase_url = \"{}/twilio\"", sandbox.url),
        )
        .replace(
            "[sendgrid]",
            &format!("[sendgrid]\nbase_url = \"{}/sendgrid\"", sandbox.url),
        )
        .replace(
            "[slack]",
            &format!("[slack]\nbase_url = \"{}/slack/api\"", sandbox.url),
        );
    let world = World::start_with(&changes).await;
    for (provider, channel, code) in [
        ("twilio", Channel::Sms, "20003"),
        ("sendgrid", Channel::Email, "401"),
        ("slack", Channel::Slack, "invalid_auth"),
    ] {
        let outcome = world.send(provider, channel, recipient(channel), "e").await;
        assert_eq!(outcome, Err((ErrorKind::Rejected, code.to_owned())), "{provider}");
    }
    let counts = sandbox.get("/counts").await;
    assert_eq!(counts["providers"]["twilio"]["refused"], 1, "{counts}");
    assert_eq!(counts["events"]["total"], 0, "{counts}");
}

#[tokio::test]
async fn what_is_kept_can_be_found_and_forgotten() {
    let world = World::start().await;
    for number in ["+12025550101", "+12025550102", "+12025550103"] {
        world.send("twilio", Channel::Sms, number, number).await.unwrap();
    }
    let all = world.get("/messages?limit=2").await;
    assert_eq!(all["messages"].as_array().unwrap().len(), 2);
    assert_eq!(all["messages"][0]["recipient"], "+12025550103");
    let one = world.get("/messages?recipient=%2B12025550102").await;
    assert_eq!(one["messages"].as_array().unwrap().len(), 1);
    let wrong = world
        .http
        .get(format!("{}/messages?limit=x", world.url))
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status(), 400);
    assert!(wrong.text().await.unwrap().contains("\"field\":\"limit\""));
    world
        .http
        .delete(format!("{}/messages", world.url))
        .send()
        .await
        .unwrap();
    assert_eq!(world.get("/messages").await, json!({"messages": []}));
    assert_eq!(world.get("/counts").await["calls"], 0);
}

#[tokio::test]
async fn a_third_of_the_calls_fails_on_request() {
    let world = World::start().await;
    world
        .behave(json!([{"action": "unavailable", "provider": "messagebird", "percent": 30}]))
        .await;
    let mut failed = 0;
    for number in 0..200 {
        let outcome = world
            .send("messagebird", Channel::Sms, "+12025550100", &format!("e{number}"))
            .await;
        failed += usize::from(outcome.is_err());
    }
    assert!((40..=80).contains(&failed), "{failed} of 200");
    let counts = world.get("/counts").await;
    let actions = &counts["providers"]["messagebird"]["actions"];
    assert_eq!(actions["unavailable"], failed, "{counts}");
    assert_eq!(actions["accept"], 200 - failed, "{counts}");
    let rules = world.get("/behaviour").await;
    assert_eq!(rules["rules"][0]["applied"], failed);
}
