//! Walks over every route of every service: each must say who may take it, and nobody comes in without credentials.

use std::collections::BTreeSet;

use axum::{
    body::Body,
    extract::Request,
    http::{Method, StatusCode},
};
use posthaste_service::auth::{Needs, access, mint};
use tower::ServiceExt as _;

use super::*;

/// A process with every service, in a folder of its own.
fn process(folder: &std::path::Path, set: &[String]) -> Process {
    let common = Common {
        set: set.to_vec(),
        ..Common::default()
    };
    let place = Place {
        data_dir: Some(folder.display().to_string()),
        ..Place::default()
    };
    let configuration = configuration::load(&common, &place).unwrap();
    let settings = configuration::settings(&configuration).unwrap();
    let definitions = definitions(&Role::all(), &settings);
    Process {
        metrics: Arc::default(),
        requests: Arc::default(),
        definitions: Arc::clone(&definitions),
        suppressions: suppressions(&Role::all(), &settings),
        keys: Arc::default(),
        lag: Arc::default(),
        address: SocketAddr::from(([127, 0, 0, 1], 9)),
        instance: "here".into(),
        health: Health::default(),
        guard: Guard::new(&settings.service.auth, Some(definitions)).unwrap(),
        document: serde_json::Value::Null,
        configuration,
        settings,
        mode: Mode::Up,
    }
}

/// The paths of a router, which has no other way to tell them.
fn paths_of(router: &Router) -> BTreeSet<String> {
    let shown = format!("{router:?}");
    // The router's own fallbacks are among them.
    let texts = shown
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|text| !text.contains("__private"));
    let paths: BTreeSet<String> = texts
        .filter(|text| text.starts_with('/'))
        .map(str::to_owned)
        .collect();
    assert!(paths.contains("/event") && paths.contains("/health"), "{paths:?}");
    paths
}

/// A request that a handler refuses, whatever it is for.
fn request(method: &Method, path: &str, token: Option<&str>) -> Request {
    let path = path.replace("{id}", "none").replace(['{', '}', '*'], "");
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header("x-api-key", token);
    }
    request.body(Body::from("[")).unwrap()
}

#[tokio::test]
async fn every_route_says_who_may_take_it() {
    let folder = tempfile::tempdir().unwrap();
    let key = mint().unwrap();
    let client = "service.auth.clients.boss";
    let set = [
        "service.auth.enabled=true".to_owned(),
        format!("{client}.key_id={}", key.id),
        format!("{client}.hash={}", key.hash),
        format!("{client}.tenant=*"),
        format!("{client}.roles=admin"),
    ];
    let process = process(folder.path(), &set);
    let mut tasks = Tasks::default();
    let started = services::start(&process, &Role::all(), &mut tasks).await.unwrap();
    let assembled = |guard| {
        let routes = started.routes.clone().merge(process.own_router());
        http::assemble(
            routes,
            process.health.clone(),
            "here".into(),
            &process.settings.service,
            guard,
        )
    };
    let (open, guarded) = (assembled(None), assembled(process.guard.clone()));
    let mut listed: BTreeSet<(String, String)> = access::table()
        .filter(|(method, ..)| *method != "*")
        .map(|(method, path, _)| (method.to_owned(), path.to_owned()))
        .collect();
    for path in paths_of(&open) {
        for method in [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ] {
            let status = |router: &Router, token| {
                let answer = router.clone().oneshot(request(&method, &path, token));
                async { answer.await.unwrap().status() }
            };
            let unguarded = status(&open, None).await;
            let is_there = unguarded != StatusCode::METHOD_NOT_ALLOWED;
            let admitted = status(&guarded, Some(&key.key)).await;
            let is_admitted = admitted != StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(
                is_there, is_admitted,
                "{method} {path} has no line in access.rs, or one too many"
            );
            assert!(
                admitted != StatusCode::FORBIDDEN || unguarded == admitted,
                "{method} {path}: not even an admin"
            );
            let refused = status(&guarded, None).await;
            let is_stand_in = path.starts_with("/sandbox") && !access::is_listed(&path);
            let is_open = is_stand_in || is_open(&method, &path);
            // Some stand-ins for providers ask for credentials of their own.
            let is_refused = refused == StatusCode::UNAUTHORIZED && unguarded != refused;
            assert_eq!(is_refused, !is_open, "{method} {path}: {refused}");
            listed.remove(&(method.to_string(), path.clone()));
        }
    }
    assert_eq!(
        listed,
        BTreeSet::new(),
        "these lines of access.rs are for no route"
    );
    tasks.drain(Duration::from_secs(20)).await;
    if let Some(broker) = started.broker {
        broker.close(BROKER_CLOSE_MS).await;
    }
}

fn is_open(method: &Method, path: &str) -> bool {
    access::table()
        .any(|(at, of, needs)| [method.as_str(), "*"].contains(&at) && of == path && needs == Needs::Anyone)
}
