//! Tokens (JWT) of an issuer: which are good, and who brings them. Pure: keys and time are arguments.
//!
//! The signature is checked by the key that the issuer publishes under the token's `kid`, with an algorithm that this key is for:
//! whatever else a token's header says of keys makes it no good.

use std::{collections::HashMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation, decode, decode_header,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use posthaste_event::{Channel, Millis, definition::is_code};
use serde_json::{Map, Value as Json};

use super::{
    access::{Role, Roles},
    principal::{CONFIGS_MAX, Tenants},
    settings::{Jwt, is_tenant},
};

/// Longest token that is looked at, in bytes; the head of a request is bounded anyway.
const TOKEN_BYTES_MAX: usize = 16 << 10;
const KID_BYTES_MAX: usize = 256;
const SUBJECT_BYTES_MAX: usize = 256;
/// RSA keys with fewer bits are taken for none.
const RSA_BYTES_LEAST: usize = 256;
/// Most keys of an issuer that are looked at.
const KEYS_MAX: usize = 100;

/// Why a token is not good.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// It is none, or its time is not now. Its signature was not looked at.
    Token(&'static str),
    /// It looks like one, and its signature is another's.
    Forged,
    /// Its key is not known, or not yet.
    Key,
    /// It is good, and says nothing of whom it is for.
    Forbidden(String),
}

/// What a good token says of who brings it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) subject: Arc<str>,
    pub(super) tenants: Tenants,
    pub(super) roles: Roles,
    pub(super) channels: Option<Vec<Channel>>,
    pub(super) configs: Option<Vec<String>>,
    pub(super) until: Millis,
}

/// The keys that an issuer publishes, by their ids.
#[derive(Default)]
pub(super) struct Keys(HashMap<String, (DecodingKey, Vec<Algorithm>)>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Keys {
    /// Reads a JWKS document. Keys that are not for signing, or of kinds that are not taken, are passed over.
    ///
    /// # Errors
    /// When it is none, or nothing in it can be used.
    pub(super) fn read(document: &[u8], allowed: &[Algorithm]) -> Result<Self, String> {
        let document: Json =
            serde_json::from_slice(document).map_err(|error| format!("is not JSON: {error}"))?;
        let listed = document["keys"].as_array().ok_or("has no list named keys")?;
        let mut keys = HashMap::new();
        for listed in listed.iter().take(KEYS_MAX) {
            let Ok(jwk) = serde_json::from_value::<Jwk>(listed.clone()) else {
                continue;
            };
            let algorithms = algorithms_of(&jwk, allowed);
            let key = DecodingKey::from_jwk(&jwk);
            if let (Some(id), Ok(key), false) = (jwk.common.key_id, key, algorithms.is_empty()) {
                keys.insert(id, (key, algorithms));
            }
        }
        if keys.is_empty() {
            return Err("has no key with an id for an algorithm that is taken".to_owned());
        }
        Ok(Self(keys))
    }
}

/// The algorithms that this key may be used with.
fn algorithms_of(jwk: &Jwk, allowed: &[Algorithm]) -> Vec<Algorithm> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let common = &jwk.common;
    let is_for_signing = common
        .public_key_use
        .as_ref()
        .is_none_or(|of| *of == PublicKeyUse::Signature)
        && common
            .key_operations
            .as_ref()
            .is_none_or(|of| of.contains(&KeyOperations::Verify));
    let of_kind: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(key) if key.n.len() * 3 / 4 >= RSA_BYTES_LEAST => {
            &[RS256, RS384, RS512, PS256, PS384, PS512]
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[EdDSA],
        _ => &[],
    };
    let named = common.key_algorithm.map(|name| name.to_string());
    of_kind
        .iter()
        .filter(|algorithm| is_for_signing && allowed.contains(algorithm))
        .filter(|algorithm| {
            named
                .as_ref()
                .is_none_or(|name| *name == format!("{algorithm:?}"))
        })
        .copied()
        .collect()
}

/// Checks a token and reads who brings it.
pub(super) fn verify(token: &str, keys: &Keys, settings: &Jwt, now: Millis) -> Result<Said, Bad> {
    const NONE: Bad = Bad::Token("the credentials are not known here");
    if token.len() > TOKEN_BYTES_MAX || token.split('.').count() != 3 {
        return Err(NONE);
    }
    let header = decode_header(token).map_err(|_| NONE)?;
    let id = key_id(&header)?;
    let (key, algorithms) = keys.0.get(id).ok_or(Bad::Key)?;
    if !algorithms.contains(&header.alg) {
        return Err(Bad::Token(
            "the token is signed with an algorithm that is not taken",
        ));
    }
    // Before the signature, which costs far more: a client that goes on with a token that is over costs little.
    check(&unproven(token).ok_or(NONE)?, settings, now)?;
    let mut validation = Validation::new(header.alg);
    // These are checked below, by the time that is given and in words of our own.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims = decode::<Map<String, Json>>(token, key, &validation)
        .map_err(|_| Bad::Forged)?
        .claims;
    let until = check(&claims, settings, now)?;
    said(&claims, settings, until)
}

/// The claims as anybody may have written them.
fn unproven(token: &str) -> Option<Map<String, Json>> {
    let claims = BASE64.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&claims).ok()
}

/// The id of the key that signed; nothing else may say what signed.
fn key_id(header: &Header) -> Result<&str, Bad> {
    let brings_keys = header.jwk.is_some()
        || header.jku.is_some()
        || header.x5u.is_some()
        || header.x5c.is_some()
        || header.crit.is_some()
        || header.enc.is_some()
        || header.zip.is_some();
    if brings_keys {
        return Err(Bad::Token("the token's header says more than kid, alg and typ"));
    }
    header
        .kid
        .as_deref()
        .filter(|id| id.len() <= KID_BYTES_MAX)
        .ok_or(Bad::Token("the token does not say which key signed it"))
}

/// Checks the time, the issuer and the audience; gives the time at which the token is over.
fn check(claims: &Map<String, Json>, settings: &Jwt, now: Millis) -> Result<Millis, Bad> {
    let bad = |why| Err(Bad::Token(why));
    let skew_ms = i64::from(settings.clock_skew_seconds) * 1_000;
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            // Seconds of times that there will be, as milliseconds.
            Some(seconds) if (0.0..1e12).contains(&seconds) => Ok(Some((seconds * 1_000.0) as Millis)),
            _ => Err(Bad::Token("a time in the token is no number of seconds")),
        },
    };
    let Some(over) = time("exp")? else {
        return bad("the token never ends");
    };
    if now >= over + skew_ms {
        return bad("the token has expired");
    }
    if time("nbf")?.is_some_and(|from| now < from - skew_ms)
        || time("iat")?.is_some_and(|at| now < at - skew_ms)
    {
        return bad("the token's time has not come");
    }
    if claims.get("iss").and_then(Json::as_str) != Some(&settings.issuer) {
        return bad("the token is of another issuer");
    }
    let is_ours = match claims.get("aud") {
        Some(Json::String(one)) => *one == settings.audience,
        Some(Json::Array(several)) => several.iter().any(|one| one == &settings.audience),
        _ => false,
    };
    if !is_ours {
        return bad("the token is for another audience");
    }
    // Keycloak says what a token is for; others leave it out.
    match claims.get("typ") {
        None => Ok(over + skew_ms),
        Some(Json::String(kind)) if kind.eq_ignore_ascii_case("bearer") => Ok(over + skew_ms),
        Some(_) => bad("the token is no access token"),
    }
}

fn said(claims: &Map<String, Json>, settings: &Jwt, until: Millis) -> Result<Said, Bad> {
    let subject = claims.get("sub").and_then(Json::as_str).unwrap_or_default();
    if !(1..=SUBJECT_BYTES_MAX).contains(&subject.len()) {
        return Err(Bad::Token("the token does not say who brings it"));
    }
    let names = role_names(claims, settings);
    let roles = names.iter().filter_map(|name| Role::of(name)).collect();
    let tenants = if names.contains(&settings.all_tenants_role.as_str()) {
        Tenants::All
    } else {
        match claim(claims, &settings.tenant_claim) {
            Some(Json::String(tenant)) if is_tenant(tenant) => Tenants::One(tenant.as_str().into()),
            _ => {
                let claim = &settings.tenant_claim;
                return Err(Bad::Forbidden(format!(
                    "the token names no tenant; its claim {claim:?} should"
                )));
            }
        }
    };
    let channels = listed(claims, &settings.channels_claim);
    let channels = channels.map(|names| names.iter().filter_map(|name| name.parse().ok()).collect());
    let configs = listed(claims, &settings.configs_claim);
    let configs = configs.map(|mut codes| {
        codes.retain(|code| is_code(code));
        codes.into_iter().take(CONFIGS_MAX).map(str::to_owned).collect()
    });
    Ok(Said {
        subject: subject.into(),
        tenants,
        roles,
        channels,
        configs,
        until,
    })
}

/// Roles of the realm, which say whose they are by how they begin, and roles of our own client.
fn role_names<'a>(claims: &'a Map<String, Json>, settings: &Jwt) -> Vec<&'a str> {
    let of_realm = claims.get("realm_access").map(|access| &access["roles"]);
    let of_realm = of_realm.into_iter().flat_map(texts);
    let of_client = claims
        .get("resource_access")
        .map(|access| &access[settings.client.as_str()]["roles"]);
    of_realm
        .filter_map(|name| name.strip_prefix(settings.realm_role_prefix.as_str()))
        .chain(of_client.into_iter().flat_map(texts))
        .collect()
}

/// What a claim lists, as a list or as a text with spaces or commas; `None` when it is not there. In any other form it lists nothing.
fn listed<'a>(claims: &'a Map<String, Json>, name: &str) -> Option<Vec<&'a str>> {
    Some(match claim(claims, name)? {
        Json::String(one) => one.split([' ', ',']).filter(|name| !name.is_empty()).collect(),
        several => texts(several).collect(),
    })
}

fn texts(list: &Json) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Json::as_str)
}

/// A claim by its name, or by the names on the way to it with dots between.
fn claim<'a>(claims: &'a Map<String, Json>, name: &str) -> Option<&'a Json> {
    if name.is_empty() {
        return None;
    }
    claims.get(name).or_else(|| {
        let mut parts = name.split('.');
        let first = claims.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    })
}

#[cfg(test)]
mod tests;
