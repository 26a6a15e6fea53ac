//! Good tokens, and the many that are not.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
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
        ..settings("")
    };
    let token = signer.sign(&with(
        claims(NOW_S),
        &json!({"organization": {"id": "globex"}, "https://shop.example.com/channels": ["sms", "fax"]}),
    ));
    let said = verify(&token, &keys(&[&signer]), &inner, NOW).unwrap();
    assert_eq!(said.tenants, Tenants::One("globex".into()));
    assert_eq!(said.channels, Some(vec![Channel::Sms]));
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

/// Each with the claims of a good token.
fn hostile(signer: &Signer, stranger: &Signer) -> Vec<(&'static str, String)> {
    let claims = claims(NOW_S);
    let id = &signer.id;
    let part = |json: &Json| BASE64.encode(json.to_string());
    let name = format!("{:?}", signer.algorithm);
    let header = |more: Json| with(json!({"alg": name, "kid": id, "typ": "JWT"}), &more);
    let good = signer.sign(&claims);
    let pieces: Vec<&str> = good.split('.').collect();
    // The public key, in each form in which it may be known, as the secret of an HMAC.
    let listed = signer.listed();
    let secrets = [
        listed.to_string(),
        listed["n"].as_str().or(listed["x"].as_str()).unwrap().to_owned(),
    ];
    let by_hmac = |secret: &str| Signer {
        id: id.clone(),
        algorithm: Algorithm::HS256,
        key: EncodingKey::from_secret(secret.as_bytes()),
    };
    let mut bitten = pieces[2].to_owned().into_bytes();
    bitten[10] = if bitten[10] == b'A' { b'B' } else { b'A' };
    let bitten = String::from_utf8(bitten).unwrap();
    let mut tokens = vec![
        ("empty", String::new()),
        ("dots", "..".to_owned()),
        ("no signature", format!("{}.{}.", pieces[0], pieces[1])),
        ("two parts", format!("{}.{}", pieces[0], pieces[1])),
        ("four parts", format!("{good}.{}", pieces[2])),
        (
            "signature changed",
            format!("{}.{}.{bitten}", pieces[0], pieces[1]),
        ),
        ("signature cut", good[..good.len() - 4].to_owned()),
        (
            "signature of zeros",
            format!("{}.{}.{}", pieces[0], pieces[1], BASE64.encode([0; 64])),
        ),
        ("padding", format!("{good}==")),
        ("claims changed", {
            let other = with(claims.clone(), &json!({"tenant": "globex"}));
            format!("{}.{}.{}", pieces[0], part(&other), pieces[2])
        }),
        ("stranger's key, our id", {
            let strange = Signer {
                id: id.clone(),
                algorithm: stranger.algorithm,
                key: stranger.key.clone(),
            };
            strange.sign(&claims)
        }),
        (
            "jwk",
            signer.sign_under(&header(json!({"jwk": stranger.listed()})), &claims),
        ),
        (
            "own jwk",
            stranger.sign_under(&header(json!({"jwk": stranger.listed()})), &claims),
        ),
        (
            "jku",
            signer.sign_under(&header(json!({"jku": "https://evil.example.com/jwks"})), &claims),
        ),
        (
            "x5u",
            signer.sign_under(&header(json!({"x5u": "https://evil.example.com/x"})), &claims),
        ),
        (
            "x5c",
            signer.sign_under(&header(json!({"x5c": ["AA=="]})), &claims),
        ),
        (
            "crit",
            signer.sign_under(&header(json!({"crit": ["exp"]})), &claims),
        ),
        ("zip", signer.sign_under(&header(json!({"zip": "DEF"})), &claims)),
        (
            "no kid",
            signer.sign_under(&header(json!({"kid": null})), &claims),
        ),
        (
            "kid is a list",
            signer.sign_under(&header(json!({"kid": [id]})), &claims),
        ),
        (
            "kid is long",
            signer.sign_under(&header(json!({"kid": "k".repeat(300)})), &claims),
        ),
        (
            "too long",
            signer.sign(&with(claims.clone(), &json!({"x": "x".repeat(TOKEN_BYTES_MAX)}))),
        ),
        (
            "claims are a list",
            signer.sign_under(&header(json!({})), &json!([claims])),
        ),
        (
            "alg is another of the family",
            signer.sign_under(&header(json!({"alg": "PS512"})), &claims),
        ),
        (
            "alg of another family",
            signer.sign_under(&header(json!({"alg": "ES384"})), &claims),
        ),
    ];
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let head = part(&header(json!({"alg": none})));
        tokens.push(("alg none", format!("{head}.{}.", part(&claims))));
        tokens.push((
            "alg none, signed",
            format!("{head}.{}.{}", part(&claims), pieces[2]),
        ));
    }
    for secret in secrets {
        tokens.push(("hmac with a public key", by_hmac(&secret).sign(&claims)));
    }
    tokens.push(("hmac with nothing", by_hmac("").sign(&claims)));
    tokens
}

#[test]
fn hostile_tokens_are_no_good() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let (signer, stranger) = (Signer::new("k", algorithm), Signer::new("s", algorithm));
        let keys = keys(&[&signer]);
        for (what, token) in hostile(&signer, &stranger) {
            let judged = verify(&token, &keys, &settings(""), NOW);
            assert!(
                matches!(judged, Err(Bad::Token(_))),
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
