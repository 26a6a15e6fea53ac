//! Credentials that are no good, again and again from one address.

use super::*;

/// Asks as from `peer`.
async fn ask_from(router: &Router, peer: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Value) {
    let mut request = Request::builder().uri("/events");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::empty()).unwrap();
    request.extensions_mut().insert(Peer(peer.parse().unwrap()));
    let response = router.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, headers, serde_json::from_slice(&body).unwrap())
}

/// A day, so that no window ends within a test but one in many thousands.
const LIMITS: &str = "enabled = true\nfailures_max = 3\nfailures_window_seconds = 86400\n";

#[tokio::test]
async fn an_address_that_goes_on_with_bad_keys_is_put_off_and_good_keys_from_there_are_not() {
    let (key, over) = (mint().unwrap(), mint().unwrap());
    let ended = "tenant = \"b\"\nroles = [\"read\"]\nexpires_at = \"2020-01-01T00:00:00Z\"";
    let clients = client("a", &key, "tenant = \"a\"\nroles = [\"read\"]") + &client("b", &over, ended);
    let router = served(&format!("{LIMITS}proxies = \"10.0.0.0/8\"\n{clients}"));
    let mut wrong = key.key.clone();
    wrong.pop();
    let unknown = mint().unwrap().key;
    let good = [("x-api-key", key.key.as_str())];
    // Neither who brings nothing nor who is good counts.
    for _ in 0..10 {
        assert_eq!(ask_from(&router, "192.0.2.1", &[]).await.0, 401);
        assert_eq!(ask_from(&router, "192.0.2.1", &good).await.0, 200);
    }
    for (left, bad) in [(2, wrong.as_str()), (1, &unknown), (0, "Basic x")] {
        let (status, headers, _) = ask_from(&router, "192.0.2.1", &[("x-api-key", bad)]).await;
        assert_eq!(status, 401);
        assert_eq!(headers["ratelimit-policy"], "\"address\";q=3;w=86400");
        let expected = format!("\"address\";r={left};t=");
        assert!(
            headers["ratelimit"].to_str().unwrap().starts_with(&expected),
            "{headers:?}"
        );
    }
    // Whatever is wrong with them, the answer is the same.
    let mut told = Vec::new();
    for bad in [wrong.as_str(), &unknown, "x", &over.key] {
        let (status, headers, body) = ask_from(&router, "192.0.2.1", &[("x-api-key", bad)]).await;
        assert_eq!(status, 429);
        assert_eq!(headers["content-type"], "application/problem+json");
        let seconds: u32 = headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=86_400).contains(&seconds));
        assert!(
            headers["ratelimit"]
                .to_str()
                .unwrap()
                .starts_with("\"address\";r=0;t=")
        );
        told.push(body["detail"].clone());
    }
    assert!(told.iter().all(|detail| *detail == told[0]), "{told:?}");
    let (status, headers, _) = ask_from(&router, "192.0.2.1", &good).await;
    assert_eq!(status, 200);
    assert!(
        headers["ratelimit"]
            .to_str()
            .unwrap()
            .starts_with("\"principal\"")
    );
    // Others are others, also behind a proxy; who says of himself to be another is not.
    let bad = ("x-api-key", wrong.as_str());
    for (peer, forwarded, expected) in [
        ("192.0.2.2", "192.0.2.1", 401),
        ("192.0.2.1", "198.51.100.7", 429),
        ("10.1.1.1", "192.0.2.1", 429),
        ("10.1.1.1", "192.0.2.1, 198.51.100.7", 401),
    ] {
        let headers = [bad, ("x-forwarded-for", forwarded)];
        assert_eq!(
            ask_from(&router, peer, &headers).await.0,
            expected,
            "{peer}, {forwarded}"
        );
    }
}

#[tokio::test]
async fn tokens_that_are_new_wait_where_signatures_were_checked_in_vain_and_known_ones_do_not() {
    let (router, signer) = served_by_issuer(false, |auth| {
        auth.failures_max = 3;
        auth.failures_window_seconds = 86_400;
    })
    .await;
    let claims = forge::claims(posthaste_event::clock::now() / 1_000);
    let stranger = forge::Signer {
        id: signer.id.clone(),
        ..forge::Signer::new("x", jsonwebtoken::Algorithm::RS256)
    };
    let of = |signer: &forge::Signer, number: u32| {
        format!(
            "Bearer {}",
            signer.sign(&forge::with(claims.clone(), &json!({"jti": number})))
        )
    };
    let status = async |peer, token: &str| ask_from(&router, peer, &[("authorization", token)]).await.0;
    let known = of(&signer, 0);
    assert_eq!(status("2001:db8::1", &known).await, 200);
    // What is over is known without its signature: it is put off by itself, and shuts nobody out.
    let over = format!(
        "Bearer {}",
        signer.sign(&forge::with(claims.clone(), &json!({"exp": 1})))
    );
    for expected in [401, 401, 401, 429, 429] {
        assert_eq!(status("2001:db8::1", &over).await, expected);
    }
    assert_eq!(status("2001:db8::1", &of(&signer, 1)).await, 200);
    for number in 0..3 {
        assert_eq!(status("2001:db8::2", &of(&stranger, number)).await, 429);
    }
    for number in 2..4 {
        let (status, headers, _) =
            ask_from(&router, "2001:db8::3", &[("authorization", &of(&signer, number))]).await;
        assert_eq!(status, 429, "it was never seen");
        assert!(headers.contains_key("retry-after"));
    }
    assert_eq!(status("2001:db8::3", &known).await, 200);
    assert_eq!(
        status("2001:db8:0:1::3", &of(&signer, 4)).await,
        200,
        "another network"
    );
}
