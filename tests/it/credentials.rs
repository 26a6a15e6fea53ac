//! Credentials that are no good, presented again and again to real services.

use serde_json::Value as Json;

use crate::{
    on_each_backend,
    system::{Backend, Plan, run},
};

on_each_backend!(bad_credentials_are_put_off_and_good_ones_from_the_same_address_are_not);

/// A key, and the settings that let it in.
pub async fn key(name: &str, tenant: &str, roles: &str) -> (String, Vec<(String, String)>) {
    let (code, out, error) = run(&[
        "api-keys", "generate", "--json", "--name", name, "--tenant", tenant, "--role", roles,
    ])
    .await;
    assert_eq!(code, Some(0), "{error}");
    let made: Json = serde_json::from_str(&out).unwrap();
    let prefix = format!("POSTHASTE_SERVICE__AUTH__CLIENTS__{}__", name.to_uppercase());
    let settings = [
        ("KEY_ID", made["keyId"].as_str().unwrap()),
        ("HASH", made["hash"].as_str().unwrap()),
        ("TENANT", tenant),
        ("ROLES", roles),
    ]
    .map(|(key, value)| (format!("{prefix}{key}"), value.to_owned()));
    (made["key"].as_str().unwrap().to_owned(), settings.to_vec())
}

async fn bad_credentials_are_put_off_and_good_ones_from_the_same_address_are_not(backend: Backend) {
    let mut plan = Plan::new(backend)
        .await
        .setting("POSTHASTE_SERVICE__AUTH__ENABLED", "true")
        .setting("POSTHASTE_SERVICE__AUTH__FAILURES_MAX", "5")
        .setting("POSTHASTE_SERVICE__AUTH__FAILURES_WINDOW_SECONDS", "86400")
        // Everybody is behind the same proxy here, which says who each is.
        .setting("POSTHASTE_SERVICE__AUTH__PROXIES", "127.0.0.0/8,::1");
    let (token, settings) = key("one", "acme", "send,read").await;
    for (variable, value) in settings {
        plan = plan.setting(&variable, &value);
    }
    let system = plan.start().await;
    let good = system.client().bearing(&token, "acme");
    let url = good.intake("/event");
    let http = reqwest::Client::new();
    let post = async |key: &str, from: &str| {
        let request = http
            .post(&url)
            .header("x-api-key", key)
            .header("x-forwarded-for", from)
            .json(&good.sms(&good.number(0)));
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        (status, headers, answer.json::<Json>().await.unwrap())
    };
    for number in 0..5 {
        let (status, headers, _) = post(&format!("ph_00112233445{number}_wrong"), "192.0.2.1").await;
        assert_eq!(status, 401);
        assert!(
            headers["ratelimit"].to_str().unwrap().contains("\"address\""),
            "{headers:?}"
        );
    }
    let known_id = format!("{}x", &token[..token.len() - 1]);
    let mut told = Vec::new();
    for wrong in ["ph_001122334455_wrong", &known_id, "not.a.token"] {
        let (status, headers, body) = post(wrong, "192.0.2.1").await;
        assert_eq!(status, 429, "{body}");
        assert!(
            headers["retry-after"].to_str().unwrap().parse::<u32>().is_ok(),
            "{headers:?}"
        );
        assert_eq!(headers["ratelimit-policy"], "\"address\";q=5;w=86400");
        told.push(body);
    }
    assert!(told.iter().all(|body| *body == told[0]), "{told:?}");
    let (status, _, taken) = post(&token, "192.0.2.1").await;
    assert_eq!(status, 201, "{taken}");
    good.wait(taken["eventId"].as_str().unwrap(), "SENT").await;
    assert_eq!(post("ph_001122334455_wrong", "192.0.2.2").await.0, 401);
}
