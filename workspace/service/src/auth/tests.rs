//! The guard before a router, as the services have it.

use axum::{
    Json, Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
    routing::get,
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

mod bad_credentials;

use super::*;
use crate::{DEFAULTS, Health, http::assemble};

fn service(auth: &str) -> Result<crate::Settings, String> {
    let mut table: toml::Table = toml::from_str(DEFAULTS).unwrap();
    let over: toml::Table = toml::from_str(auth).unwrap();
    let own = table["service"]["auth"].as_table_mut().unwrap();
    own.extend(over);
    let settings: crate::Settings = table["service"]
        .clone()
        .try_into()
        .map_err(|e: toml::de::Error| e.to_string())?;
    settings.check().map_err(|error| error.to_string())?;
    Ok(settings)
}

fn client(name: &str, key: &Minted, more: &str) -> String {
    format!(
        "[clients.{name}]\nkey_id = \"{}\"\nhash = \"{}\"\n{more}\n",
        key.id, key.hash
    )
}

async fn whoami(caller: Caller) -> Json<Value> {
    Json(json!({
        "tenant": caller.bound_to(),
        "name": caller.principal().map(|principal| principal.name.to_string()),
    }))
}

fn served(auth: &str) -> Router {
    let settings = service(auth).unwrap();
    let routes = Router::new()
        .route("/events", get(whoami))
        .route("/status/rebuild", get(whoami))
        .route("/metrics", get(whoami))
        .route("/unlisted", get(whoami))
        .route("/events/{id}", get(whoami));
    let guard = Guard::new(&settings.auth, None).unwrap();
    assemble(routes, Health::default(), "here".into(), &settings, guard)
}

async fn ask(router: &Router, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Value) {
    let (method, path) = path.split_once(' ').unwrap_or(("GET", path));
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, headers, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn a_key_opens_what_its_roles_allow_and_nothing_else() {
    let (key, other) = (mint().unwrap(), mint().unwrap());
    let clients = client("shop", &key, "tenant = \"acme\"\nroles = [\"read\"]")
        + &client("boss", &other, "tenant = \"*\"\nroles = \"admin\"");
    let router = served(&format!("enabled = true\n{clients}"));
    let bearer = format!("Bearer {}", key.key);
    let boss = format!("bearer {}", other.key);
    for headers in [
        [("authorization", bearer.as_str())],
        [("x-api-key", key.key.as_str())],
    ] {
        let (status, headers, body) = ask(&router, "/events", &headers).await;
        assert_eq!((status, &body["tenant"]), (StatusCode::OK, &json!("acme")));
        assert_eq!(body["name"], "shop");
        assert_eq!(headers["ratelimit-policy"], "\"principal\";q=100000;w=10");
    }
    let own = [("authorization", bearer.as_str())];
    let boss = [("authorization", boss.as_str())];
    for (path, headers, expected, says) in [
        (
            "/status/rebuild",
            &own,
            403,
            "the role admin is missing, for all tenants",
        ),
        ("POST /events", &own, 403, "the role send is missing"),
        ("PATCH /events", &own, 405, "Allow"),
        ("/unlisted", &own, 403, "no role allows this"),
        ("/unlisted", &boss, 403, "no role allows this"),
        ("/nothing", &own, 404, "nothing"),
        ("/metrics", &own, 403, "operate"),
    ] {
        let (status, headers, body) = ask(&router, path, headers).await;
        assert_eq!(status.as_u16(), expected, "{path}: {body}");
        assert!(body["detail"].as_str().unwrap().contains(says), "{path}: {body}");
        assert_eq!(headers["content-type"], "application/problem+json");
    }
    for path in ["/status/rebuild", "/metrics", "/events"] {
        assert_eq!(ask(&router, path, &boss).await.0, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn whoever_brings_nothing_good_is_told_what_is_taken() {
    let (key, over) = (mint().unwrap(), mint().unwrap());
    let clients = client("a", &key, "tenant = \"a\"\nroles = [\"read\"]")
        + &client(
            "b",
            &over,
            "tenant = \"b\"\nroles = [\"read\"]\nexpires_at = \"2020-01-01T00:00:00Z\"",
        );
    let router = served(&format!("enabled = true\n{clients}"));
    let mut spoilt = key.key.clone();
    spoilt.pop();
    let (bearer, spoilt, over) = (
        format!("Bearer {}", key.key),
        format!("Bearer {spoilt}"),
        format!("Bearer {}", over.key),
    );
    for (headers, expected, challenge) in [
        (vec![], 401, "Bearer realm=\"posthaste\""),
        (vec![("authorization", "Basic YTpi")], 401, "invalid_token"),
        (vec![("authorization", "Bearer ")], 401, "invalid_token"),
        (vec![("authorization", spoilt.as_str())], 401, "not known"),
        (vec![("authorization", over.as_str())], 401, "expired"),
        (
            vec![("authorization", &bearer), ("x-api-key", &key.key)],
            400,
            "invalid_request",
        ),
        (
            vec![("authorization", &bearer), ("authorization", &bearer)],
            400,
            "invalid_request",
        ),
    ] {
        for path in [
            "/events",
            "/unlisted",
            "/status/rebuild",
            "PATCH /events",
            "/metrics",
        ] {
            let (status, answered, body) = ask(&router, path, &headers).await;
            assert_eq!(status.as_u16(), expected, "{path} {headers:?}");
            let said = answered["www-authenticate"].to_str().unwrap();
            assert!(said.contains(challenge), "{said}");
            let text = format!("{answered:?}{body}");
            assert!(!text.contains(&key.key) && !text.contains(&key.hash), "{text}");
        }
    }
    for path in ["/health", "/ready"] {
        assert_eq!(ask(&router, path, &[]).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_principal_that_asks_too_much_waits_and_others_do_not() {
    let (key, other) = (mint().unwrap(), mint().unwrap());
    let clients = client("a", &key, "tenant = \"a\"\nroles = [\"read\"]")
        + &client("b", &other, "tenant = \"b\"\nroles = [\"read\"]");
    let router = served(&format!(
        "enabled = true\nrate_requests_max = 2\nrate_window_seconds = 86400\n{clients}"
    ));
    for (status, left) in [(200, "r=1;"), (200, "r=0;"), (429, "r=0;"), (429, "r=0;")] {
        let (answered, headers, _) = ask(&router, "/events", &[("x-api-key", &key.key)]).await;
        assert_eq!(answered.as_u16(), status);
        assert!(headers["ratelimit"].to_str().unwrap().contains(left));
        assert_eq!(headers.contains_key("retry-after"), status == 429);
    }
    assert_eq!(
        ask(&router, "/events", &[("x-api-key", &other.key)]).await.0,
        StatusCode::OK
    );
}

#[tokio::test]
async fn without_authentication_anyone_may_ask() {
    let router = served("");
    let (status, headers, body) = ask(&router, "/events", &[("authorization", "Bearer x")]).await;
    assert_eq!((status, &body["tenant"]), (StatusCode::OK, &Value::Null));
    assert!(!headers.contains_key("ratelimit"));
}

#[test]
fn nobody_is_let_in_from_elsewhere_unasked() {
    let off = service("").unwrap().auth;
    for (address, is_refused) in [
        ("127.0.0.1:1", false),
        ("127.9.9.9:1", false),
        ("[::1]:1", false),
        ("[::ffff:127.0.0.1]:1", false),
        ("0.0.0.0:1", true),
        ("[::]:1", true),
        ("10.0.0.1:1", true),
        ("[::ffff:10.0.0.1]:1", true),
    ] {
        let address = address.parse().unwrap();
        assert_eq!(off.check_reach(address).is_err(), is_refused, "{address}");
    }
    let insecure = service("insecure_no_auth = true").unwrap().auth;
    insecure.check_reach("0.0.0.0:1".parse().unwrap()).unwrap();
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let key = mint().unwrap();
    let good = "tenant = \"a\"\nroles = [\"read\"]";
    let twice = client("a", &key, good) + &client("b", &key, good);
    for (auth, named) in [
        ("enabled = true", "service.auth.enabled"),
        ("rate_requests_max = 0", "rate_requests_max"),
        ("failures_max = 65536", "failures_max"),
        ("failures_window_seconds = 0", "failures_window_seconds"),
        ("proxies = \"10.0.0.0/33\"", "proxies"),
        (
            &client("a", &key, "tenant = \"a/b\"\nroles = [\"read\"]"),
            "clients.a.tenant",
        ),
        (
            &client("a", &key, "tenant = \"a\"\nroles = [\"root\"]"),
            "clients.a.roles",
        ),
        (
            &client("a", &key, "tenant = \"a\"\nroles = []"),
            "clients.a.roles",
        ),
        (
            &client("a", &key, &format!("{good}\nchannels = [\"fax\"]")),
            "clients.a.channels",
        ),
        (
            &client("a", &key, &format!("{good}\nconfigs = [\"../shop\"]")),
            "clients.a.configs",
        ),
        (
            &client("a", &key, &format!("{good}\nexpires_at = \"soon\"")),
            "clients.a.expires_at",
        ),
        (&twice, "clients.b.key_id"),
        (
            "[clients.a]\nkey_id = \"1\"\nhash = \"2\"\ntenant = \"a\"\nroles = [\"read\"]",
            "clients.a.key_id",
        ),
    ] {
        let error = service(auth).map(|_| ()).unwrap_err();
        assert!(error.contains(named), "{auth}: {error}");
    }
    service(&client("a", &key, good)).unwrap();
}

/// A router that takes the tokens of an issuer, and what the issuer answers.
async fn served_by_issuer(is_away: bool, change: impl FnOnce(&mut AuthSettings)) -> (Router, forge::Signer) {
    let signer = forge::Signer::new("k", jsonwebtoken::Algorithm::RS256);
    let document = forge::document(&[&signer]).to_string();
    let keys = move || async move {
        match is_away {
            true => Err(StatusCode::BAD_GATEWAY),
            false => Ok(document),
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/certs", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/certs", get(keys))).await });
    let mut settings = service("").unwrap();
    settings.auth.enabled = true;
    settings.auth.jwt = forge::settings(&url);
    change(&mut settings.auth);
    settings.check().unwrap();
    let routes = Router::new()
        .route("/events", get(whoami))
        .route("/inbox/{recipient}", get(whoami));
    let guard = Guard::new(&settings.auth, None).unwrap();
    (
        assemble(routes, Health::default(), "here".into(), &settings, guard),
        signer,
    )
}

#[tokio::test]
async fn a_token_of_the_issuer_opens_what_its_roles_allow() {
    let (router, signer) = served_by_issuer(false, |_| {}).await;
    let claims = forge::claims(posthaste_event::clock::now() / 1_000);
    let good = format!("Bearer {}", signer.sign(&claims));
    // The first fetches the keys, the second is remembered.
    for _ in 0..2 {
        let (status, headers, body) = ask(&router, "/events", &[("authorization", &good)]).await;
        assert_eq!((status, &body["tenant"]), (StatusCode::OK, &json!("acme")));
        assert!(headers.contains_key("ratelimit"));
    }
    let (status, ..) = ask(&router, "/inbox/x", &[("authorization", &good)]).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let nobody = signer.sign(&forge::with(claims.clone(), &json!({"tenant": null})));
    let over = signer.sign(&forge::with(claims, &json!({"exp": 1})));
    for (token, expected, says) in [(nobody, 403, "names no tenant"), (over, 401, "expired")] {
        let (status, _, body) = ask(
            &router,
            "/events",
            &[("authorization", &format!("Bearer {token}"))],
        )
        .await;
        assert_eq!(status.as_u16(), expected);
        assert!(body["detail"].as_str().unwrap().contains(says), "{body}");
    }
}

#[tokio::test]
async fn while_the_issuer_is_away_nobody_is_told_that_his_token_is_wrong() {
    let (router, signer) = served_by_issuer(true, |_| {}).await;
    let token = signer.sign(&forge::claims(posthaste_event::clock::now() / 1_000));
    for _ in 0..2 {
        let (status, headers, _) = ask(&router, "/events", &[("x-api-key", &token)]).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(headers.contains_key("retry-after"));
    }
}
