//! Stored lists of recipients, over HTTP.

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use bytes::Bytes;
use serde_json::{Value as Json, json};
use tower::ServiceExt as _;

use crate::{
    broadcasts::appended,
    world::{Fixture, Scripted, ask},
};

async fn put(intake: &Fixture, code: &str, body: impl Into<Body>) -> (u16, Json) {
    let request = Request::put(format!("/lists/{code}"))
        .header("content-type", "application/x-ndjson")
        .body(body.into())
        .unwrap();
    let response = intake.router.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

async fn get(intake: &Fixture, path: &str) -> (u16, Json) {
    let (status, _, answer) = ask(intake, "GET", path, &[], &Json::Null).await;
    (status.as_u16(), answer)
}

fn lines(count: usize) -> String {
    let line = |index: usize| json!({"payload": {"phoneNumber": format!("+1202555{index:04}")}});
    (0..count).map(|index| format!("{}\n", line(index))).collect()
}

fn to(list: &str) -> Json {
    json!({"list": list, "message": {"channel": "sms", "payload": {"message": "hello"}}})
}

#[tokio::test]
async fn a_list_is_put_shown_sent_to_and_deleted() {
    let intake = Fixture::new(Scripted::default(), |_| ());
    let (status, answer) = put(&intake, "friends", lines(1_999)).await;
    assert_eq!((status, &answer["recipients"]), (201, &json!(1_999)), "{answer}");
    let (status, answer) = put(&intake, "friends", lines(7)).await;
    assert_eq!((status, &answer["recipients"]), (200, &json!(7)), "{answer}");
    assert_eq!(put(&intake, "all", lines(1)).await.0, 201);
    assert_eq!(
        put(&intake, "more", lines(1)).await.0,
        507,
        "a tenant may have two here"
    );
    let (_, listed) = get(&intake, "/lists").await;
    let codes: Vec<&Json> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|list| &list["code"])
        .collect();
    assert_eq!(codes, ["all", "friends"]);
    let (_, first) = get(&intake, "/lists?limit=1").await;
    assert_eq!(first["next"], "all");
    let (_, second) = get(&intake, "/lists?limit=1&after=all").await;
    assert_eq!(second["items"][0]["code"], "friends");
    assert_eq!(get(&intake, "/lists/friends").await.1["recipients"], 7);
    assert_eq!(get(&intake, "/lists/friends?tenant=other").await.0, 404);
    assert_eq!(intake.stored(), 0, "nothing was sent");

    let (status, _, answer) = ask(&intake, "POST", "/broadcasts", &[], &to("friends")).await;
    assert_eq!(
        (status.as_u16(), &answer["recipients"]),
        (202, &json!(7)),
        "{answer}"
    );
    let (chunks, _, said) = appended(&intake);
    assert_eq!((chunks[0].recipients, said.unwrap().recipients), (7, 7));

    let (status, ..) = ask(&intake, "DELETE", "/lists/friends", &[], &Json::Null).await;
    assert_eq!(status, 204);
    let (status, ..) = ask(&intake, "DELETE", "/lists/friends", &[], &Json::Null).await;
    assert_eq!(status, 404);
    let (status, _, answer) = ask(&intake, "POST", "/broadcasts", &[], &to("friends")).await;
    assert_eq!(
        (status.as_u16(), &answer["errors"][0]["field"]),
        (422, &json!("list")),
        "{answer}"
    );
    let mut both = to("all");
    both["recipients"] = json!([]);
    let (status, _, answer) = ask(&intake, "POST", "/broadcasts", &[], &both).await;
    assert_eq!(
        (status.as_u16(), &answer["errors"][0]["field"]),
        (400, &json!("list")),
        "{answer}"
    );
    assert_eq!(intake.stored(), 0);
}

#[tokio::test]
async fn what_is_no_list_is_named_and_the_one_before_stays() {
    let intake = Fixture::new(Scripted::default(), |settings| settings.event_bytes_max = 4_096);
    assert_eq!(put(&intake, "friends", lines(3)).await.0, 201);
    let long = json!({"payload": {"phoneNumber": "x".repeat(5_000)}}).to_string();
    let cases: [(Vec<u8>, &str); 8] = [
        (Vec::new(), "recipients"),
        (b"\n \n".to_vec(), "recipients"),
        (b"7\n".to_vec(), "recipients[0]"),
        (b"{}\n{\"to\": \"x\"}\n".to_vec(), "recipients[1].to"),
        (b"{\"payload\": 1}\n".to_vec(), "recipients[0].payload"),
        (b"\xff\n".to_vec(), "recipients[0]"),
        (long.into_bytes(), "recipients[0]"),
        (lines(2_001).into_bytes(), "recipients"),
    ];
    for (body, field) in cases {
        let (status, answer) = put(&intake, "friends", body).await;
        assert_eq!(
            (status, &answer["errors"][0]["field"]),
            (400, &json!(field)),
            "{answer}"
        );
    }
    let pieces = [Ok(Bytes::from(lines(9))), Err(std::io::Error::other("gone"))];
    let broken = Body::from_stream(futures_util::stream::iter(pieces));
    assert_eq!(put(&intake, "friends", broken).await.0, 400);
    assert_eq!(get(&intake, "/lists/friends").await.1["recipients"], 3);
    for code in ["a%2Fb", "..%2F..", "%20"] {
        assert_eq!(put(&intake, code, lines(1)).await.0, 400, "{code}");
        assert_eq!(get(&intake, &format!("/lists/{code}")).await.0, 404, "{code}");
    }
    let (status, ..) = ask(&intake, "PUT", "/lists/friends", &[], &json!([])).await;
    assert_eq!(status, 415);
    for query in ["?limit=0", "?limit=1001", "?page=1"] {
        assert_eq!(get(&intake, &format!("/lists{query}")).await.0, 400, "{query}");
    }
}

#[tokio::test]
async fn with_the_store_away_lists_are_not_there_for_now() {
    let intake = Fixture::without_store();
    for (method, path) in [
        ("GET", "/lists"),
        ("GET", "/lists/friends"),
        ("DELETE", "/lists/friends"),
        ("POST", "/broadcasts"),
    ] {
        let body = if method == "POST" {
            to("friends")
        } else {
            Json::Null
        };
        let (status, headers, answer) = ask(&intake, method, path, &[], &body).await;
        assert_eq!(status, 503, "{method} {path}: {answer}");
        assert!(headers.contains_key("retry-after"), "{method} {path}");
    }
    assert_eq!(put(&intake, "friends", lines(1)).await.0, 503);
    // Who brings the recipients along does not need it.
    let mut body = to("x");
    body["recipients"] = json!([{"payload": {"phoneNumber": "+12025550001"}}]);
    body.as_object_mut().unwrap().remove("list");
    let (status, _, answer) = ask(&intake, "POST", "/broadcasts", &[], &body).await;
    assert_eq!(status, 202, "{answer}");
}
