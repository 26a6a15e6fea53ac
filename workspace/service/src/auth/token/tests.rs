//! Good tokens, and the many that are not.

use jsonwebtoken::EncodingKey;
use serde_json::json;

use super::*;
use crate::auth::forge::{NOW, NOW_S, Signer, claims, document, settings, with};

fn keys(signers: &[&Signer]) -> Keys {
    Keys::read(document(signers).to_string().as_bytes(), &settings("").allowed()).unwrap()
}

fn judge(signer: &Signer, changes: &Json) -> Result<Said, Bad> {
    let token = signer.sign(&with(claims(NOW_S), changes));
    verify(&token, &keys(&[signer]), &settings(""), NOW)
}

#[test]
fn a_token_of_each_kind_of_key_says_who_brings_it() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let said = judge(&Signer::new("k", algorithm), &json!({})).unwrap();
        assert_eq!(&*said.subject, "f:1:ann");
        assert_eq!(said.tenants, Tenants::One("acme".into()));
        // Neither the realm's own admin nor another client's operate is ours.
        assert_eq!(said.roles.iter().collect::<Vec<_>>(), [Role::Send, Role::Read]);
        assert_eq!((said.channels, said.until), (None, NOW + 90_000));
    }
}

#[test]
fn claims_that_do_not_fit_make_a_token_no_good() {
    let signer = Signer::new("k", Algorithm::EdDSA);
    for (changes, expected) in [
        (json!({"exp": null}), "never ends"),
        (json!({"exp": "tomorrow"}), "no number"),
        (json!({"exp": 1e300}), "no number"),
        (json!({"exp": -1}), "no number"),
        (json!({"exp": NOW_S - 30}), "expired"),
        (json!({"nbf": NOW_S + 31}), "time has not come"),
        (json!({"iat": NOW_S + 31}), "time has not come"),
        (
            json!({"iss": "https://keycloak.example.com/realms/other"}),
            "another issuer",
        ),
        (json!({"iss": null}), "another issuer"),
        (
            json!({"iss": ["https://keycloak.example.com/realms/shop"]}),
            "another issuer",
        ),
        (json!({"aud": "account"}), "another audience"),
        (json!({"aud": null}), "another audience"),
        (json!({"aud": []}), "another audience"),
        (json!({"aud": {"posthaste": true}}), "another audience"),
        (json!({"typ": "ID"}), "no access token"),
        (json!({"typ": "Refresh"}), "no access token"),
        (json!({"typ": 1}), "no access token"),
        (json!({"sub": null}), "who brings it"),
        (json!({"sub": ""}), "who brings it"),
    ] {
        match judge(&signer, &changes) {
            Err(Bad::Token(why)) => assert!(why.contains(expected), "{changes}: {why}"),
            other => panic!("{changes}: {other:?}"),
        }
    }
    for changes in [
        json!({"exp": NOW_S - 29}),
        json!({"nbf": NOW_S + 30}),
        json!({"exp": NOW_S as f64 + 0.5}),
        json!({"aud": "posthaste"}),
        json!({"typ": null}),
    ] {
        assert!(judge(&signer, &changes).is_ok(), "{changes}");
    }
}

#[test]
fn the_tenant_is_the_claims_and_nobody_elses() {
    let signer = Signer::new("k", Algorithm::EdDSA);
    for tenant in [
        json!(null),
        json!("*"),
        json!(""),
        json!("a/b"),
        json!(["acme"]),
        json!(1),
        json!("x".repeat(65)),
    ] {
        let judged = judge(&signer, &json!({ "tenant": tenant }));
        assert!(matches!(judged, Err(Bad::Forbidden(_))), "{tenant}: {judged:?}");
    }
    let all =
        json!({"tenant": null, "realm_access": {"roles": ["posthaste-all-tenants", "posthaste-operate"]}});
    assert_eq!(judge(&signer, &all).unwrap().tenants, Tenants::All);
    // Without what stands before it, it is some role of the realm.
    let none = json!({"tenant": null, "realm_access": {"roles": ["all-tenants"]}});
    assert!(matches!(judge(&signer, &none), Err(Bad::Forbidden(_))));
    let inner = Jwt {
        tenant_claim: "organization.id".to_owned(),
        channels_claim: "https://shop.example.com/channels".to_owned(),
        configs_claim: "posthaste.configs".to_owned(),
        ..settings("")
    };
    let token = signer.sign(&with(
        claims(NOW_S),
        &json!({"organization": {"id": "globex"}, "https://shop.example.com/channels": ["sms", "fax"]}),
    ));
    let said = verify(&token, &keys(&[&signer]), &inner, NOW).unwrap();
    assert_eq!(said.tenants, Tenants::One("globex".into()));
    assert_eq!((said.channels, said.configs), (Some(vec![Channel::Sms]), None));
    // Whatever is there holds the token to it, and what cannot be read allows nothing.
    for (claim, configs) in [
        (json!(["shop", "news", 7]), &["shop", "news"][..]),
        (json!("shop, news"), &["shop", "news"]),
        (json!([]), &[]),
        (json!(""), &[]),
        (json!(null), &[]),
        (json!({"shop": true}), &[]),
        (json!(true), &[]),
    ] {
        let more = json!({"organization": {"id": "globex"}, "posthaste": {"configs": claim}});
        let token = signer.sign(&with(claims(NOW_S), &more));
        let said = verify(&token, &keys(&[&signer]), &inner, NOW).unwrap();
        assert_eq!(
            said.configs.as_deref(),
            Some(&configs.iter().map(|code| (*code).to_owned()).collect::<Vec<_>>()[..]),
            "{claim}"
        );
    }
}

#[test]
fn roles_of_odd_forms_are_none() {
    let signer = Signer::new("k", Algorithm::EdDSA);
    for access in [
        json!(1),
        json!({"roles": "posthaste-admin"}),
        json!([{"roles": ["posthaste-admin"]}]),
    ] {
        let changes = json!({"realm_access": access, "resource_access": access});
        assert!(judge(&signer, &changes).unwrap().roles.is_empty(), "{access}");
    }
}

fn part(json: &Json) -> String {
    BASE64.encode(json.to_string())
}

fn header_of(signer: &Signer, more: &Json) -> Json {
    with(
        json!({"alg": format!("{:?}", signer.algorithm), "kid": signer.id, "typ": "JWT"}),
        more,
    )
}

/// What becomes of a good token on the way.
fn broken(signer: &Signer) -> Vec<(&'static str, String)> {
    let claims = claims(NOW_S);
    let good = signer.sign(&claims);
    let pieces: Vec<&str> = good.split('.').collect();
    let [head, body, signature] = pieces[..] else {
        panic!("{good}")
    };
    let mut bitten = signature.to_owned().into_bytes();
    bitten[10] = if bitten[10] == b'A' { b'B' } else { b'A' };
    let bitten = String::from_utf8(bitten).unwrap();
    let other = part(&with(claims.clone(), &json!({"tenant": "globex"})));
    let long = with(claims, &json!({"x": "x".repeat(TOKEN_BYTES_MAX)}));
    vec![
        ("empty", String::new()),
        ("dots", "..".to_owned()),
        ("no signature", format!("{head}.{body}.")),
        ("two parts", format!("{head}.{body}")),
        ("four parts", format!("{good}.{signature}")),
        ("signature changed", format!("{head}.{body}.{bitten}")),
        ("signature cut", good[..good.len() - 4].to_owned()),
        (
            "signature of zeros",
            format!("{head}.{body}.{}", BASE64.encode([0; 64])),
        ),
        ("padding", format!("{good}==")),
        ("claims changed", format!("{head}.{other}.{signature}")),
        ("too long", signer.sign(&long)),
    ]
}

/// Headers that say what they must not, with a signature that is good for them.
fn odd_headers(signer: &Signer, stranger: &Signer) -> Vec<(&'static str, String)> {
    let claims = claims(NOW_S);
    let under = |more: Json| signer.sign_under(&header_of(signer, &more), &claims);
    let own_jwk = header_of(signer, &json!({"jwk": stranger.listed()}));
    let strange = Signer {
        id: signer.id.clone(),
        algorithm: stranger.algorithm,
        key: stranger.key.clone(),
    };
    vec![
        ("stranger's key, our id", strange.sign(&claims)),
        ("own jwk", stranger.sign_under(&own_jwk, &claims)),
        ("jwk", under(json!({"jwk": stranger.listed()}))),
        ("jku", under(json!({"jku": "https://evil.example.com/jwks"}))),
        ("x5u", under(json!({"x5u": "https://evil.example.com/x"}))),
        ("x5c", under(json!({"x5c": ["AA=="]}))),
        ("crit", under(json!({"crit": ["exp"]}))),
        ("zip", under(json!({"zip": "DEF"}))),
        ("no kid", under(json!({"kid": null}))),
        ("kid is a list", under(json!({"kid": ["k"]}))),
        ("kid is long", under(json!({"kid": "k".repeat(300)}))),
        ("alg is another of the family", under(json!({"alg": "PS512"}))),
        ("alg of another family", under(json!({"alg": "ES384"}))),
        (
            "claims are a list",
            signer.sign_under(&header_of(signer, &json!({})), &json!([claims])),
        ),
    ]
}

/// Tokens that anybody can make.
fn unsigned(signer: &Signer) -> Vec<(&'static str, String)> {
    let claims = claims(NOW_S);
    let good = signer.sign(&claims);
    let signature = good.rsplit('.').next().unwrap();
    let mut tokens = Vec::new();
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let head = part(&header_of(signer, &json!({"alg": none})));
        tokens.push(("alg none", format!("{head}.{}.", part(&claims))));
        tokens.push((
            "alg none, signed",
            format!("{head}.{}.{signature}", part(&claims)),
        ));
    }
    // The public key, in each form in which it may be known, as the secret of an HMAC.
    let listed = signer.listed();
    let number = listed["n"].as_str().or(listed["x"].as_str()).unwrap();
    for secret in [listed.to_string().as_str(), number, ""] {
        let by_hmac = Signer {
            id: signer.id.clone(),
            algorithm: Algorithm::HS256,
            key: EncodingKey::from_secret(secret.as_bytes()),
        };
        tokens.push(("hmac with a public key", by_hmac.sign(&claims)));
    }
    tokens
}

#[test]
fn hostile_tokens_are_no_good() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let (signer, stranger) = (Signer::new("k", algorithm), Signer::new("s", algorithm));
        let keys = keys(&[&signer]);
        let mut tokens = broken(&signer);
        tokens.extend(odd_headers(&signer, &stranger));
        tokens.extend(unsigned(&signer));
        for (what, token) in tokens {
            let judged = verify(&token, &keys, &settings(""), NOW);
            assert!(
                matches!(judged, Err(Bad::Token(_) | Bad::Forged)),
                "{algorithm:?}, {what}: {judged:?}"
            );
        }
        for kid in [
            "../k",
            "k\u{0}",
            "K",
            "k ",
            "for-encryption",
            "' OR 1=1",
            "/dev/null",
        ] {
            let header = json!({"alg": format!("{algorithm:?}"), "kid": kid});
            let token = signer.sign_under(&header, &claims(NOW_S));
            assert_eq!(verify(&token, &keys, &settings(""), NOW), Err(Bad::Key), "{kid}");
        }
    }
}

#[test]
fn a_key_counts_for_what_it_was_published_for() {
    let signer = Signer::new("k", Algorithm::ES256);
    let allowed = settings("").allowed();
    for changes in [
        json!({"use": "enc"}),
        json!({"key_ops": ["sign"]}),
        json!({"alg": "ES384"}),
        json!({"alg": "RS256"}),
        json!({"kid": null}),
        json!({"crv": "P-384"}),
        json!({"x": "AA"}),
        json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "use": null}),
    ] {
        let document = json!({"keys": [with(signer.listed(), &changes)]});
        let read = Keys::read(document.to_string().as_bytes(), &allowed);
        // A point that is none shows when it is used.
        let is_none = read.map_or(true, |keys| {
            verify(&signer.sign(&claims(NOW_S)), &keys, &settings(""), NOW).is_err()
        });
        assert!(is_none, "{changes}");
    }
    let listed = json!({"keys": [with(signer.listed(), &json!({"use": null, "alg": null}))]});
    let keys = Keys::read(listed.to_string().as_bytes(), &allowed).unwrap();
    assert!(verify(&signer.sign(&claims(NOW_S)), &keys, &settings(""), NOW).is_ok());
    let only_rsa = Keys::read(listed.to_string().as_bytes(), &[Algorithm::RS256]);
    assert!(only_rsa.is_err(), "an algorithm that the settings leave out");
    for wrong in ["", "{}", "[]", "{\"keys\": {}}", "{\"keys\": [1, null, {}]}"] {
        assert!(Keys::read(wrong.as_bytes(), &allowed).is_err(), "{wrong}");
    }
}
