//! For tests: an issuer's keys, and tokens shaped as Keycloak shapes them.

use aws_lc_rs::{
    encoding::AsDer as _,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value as Json, json};

use super::settings::Jwt;

pub(super) const NOW_S: i64 = 1_800_000_000;
pub(super) const NOW: i64 = NOW_S * 1_000;

/// What stands before the key itself in the DER form of an RSA key of 2,048 bits.
const RSA_HEAD: usize = 26;

/// A key that signs.
pub(super) struct Signer {
    pub(super) id: String,
    pub(super) algorithm: Algorithm,
    pub(super) key: EncodingKey,
}

impl Signer {
    pub(super) fn new(id: &str, algorithm: Algorithm) -> Self {
        let random = SystemRandom::new();
        let key = match algorithm {
            Algorithm::RS256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
                EncodingKey::from_rsa_der(&pair.as_der().unwrap().as_ref()[RSA_HEAD..])
            }
            Algorithm::ES256 => {
                let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
                EncodingKey::from_ec_der(pair.unwrap().as_ref())
            }
            Algorithm::EdDSA => {
                EncodingKey::from_ed_der(Ed25519KeyPair::generate_pkcs8v1(&random).unwrap().as_ref())
            }
            other => panic!("{other:?}"),
        };
        Self {
            id: id.to_owned(),
            algorithm,
            key,
        }
    }

    /// As a JWKS document lists it.
    pub(super) fn listed(&self) -> Json {
        let mut key =
            serde_json::to_value(Jwk::from_encoding_key(&self.key, self.algorithm).unwrap()).unwrap();
        key["kid"] = self.id.as_str().into();
        key["use"] = "sig".into();
        key
    }

    pub(super) fn sign(&self, claims: &Json) -> String {
        let header = Header {
            kid: Some(self.id.clone()),
            ..Header::new(self.algorithm)
        };
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }

    /// With a header of the caller's own; the signature is good for it.
    pub(super) fn sign_under(&self, header: &Json, claims: &Json) -> String {
        let part = |json: &Json| BASE64.encode(json.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

/// A JWKS document. Keycloak lists a key for encryption, too.
pub(super) fn document(signers: &[&Signer]) -> Json {
    let mut keys: Vec<Json> = signers.iter().map(|signer| signer.listed()).collect();
    keys.push(json!({"kid": "for-encryption", "kty": "RSA", "alg": "RSA-OAEP", "use": "enc", "n": "AQAB", "e": "AQAB"}));
    keys.push(json!({"kid": "of-tomorrow", "kty": "ML-DSA", "alg": "ML-DSA-65"}));
    json!({ "keys": keys })
}

pub(super) fn settings(url: &str) -> Jwt {
    let table: toml::Table = toml::from_str(crate::DEFAULTS).unwrap();
    let settings: Jwt = table["service"]["auth"]["jwt"].clone().try_into().unwrap();
    Jwt {
        jwks_url: url.to_owned(),
        issuer: "https://keycloak.example.com/realms/shop".to_owned(),
        ..settings
    }
}

/// An access token of Keycloak's, until a minute after `now_s`.
pub(super) fn claims(now_s: i64) -> Json {
    json!({
        "exp": now_s + 60, "iat": now_s - 5, "jti": "j", "typ": "Bearer", "azp": "shop-frontend", "sub": "f:1:ann",
        "iss": "https://keycloak.example.com/realms/shop", "aud": ["account", "posthaste"], "scope": "openid email",
        "realm_access": {"roles": ["offline_access", "admin", "posthaste-read"]},
        "resource_access": {"posthaste": {"roles": ["send"]}, "account": {"roles": ["operate"]}},
        "tenant": "acme",
    })
}

/// The same with other members; `null` takes one away.
pub(super) fn with(mut claims: Json, changes: &Json) -> Json {
    let object = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Json::Null => object.remove(name),
            value => object.insert(name.clone(), value.clone()),
        };
    }
    claims
}
