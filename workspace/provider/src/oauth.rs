//! Access tokens for Google's interfaces by a service account: a JWT signed with its key is traded for a token that lasts an hour.
//!
//! Source: <https://developers.google.com/identity/protocols/oauth2/service-account#httprest>.

use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use posthaste_event::{ErrorKind, Failure, clock};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex, RwLock},
    time::Instant,
};

/// A token is renewed this long before it ends, while the old one still serves.
const RENEWED_BEFORE: Duration = Duration::from_secs(300);
/// After a failure nobody asks again for this long: all sends that wait share the answer.
const FAILURE_SHARED: Duration = Duration::from_secs(1);
/// Longest answer read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The parts of a service account's JSON key that are used.
#[derive(Deserialize)]
pub(crate) struct ServiceAccount {
    pub(crate) client_email: String,
    private_key: String,
    #[serde(default)]
    private_key_id: Option<String>,
    #[serde(default = "google_token_uri")]
    token_uri: String,
    #[serde(default)]
    pub(crate) project_id: Option<String>,
}

fn google_token_uri() -> String {
    "https://oauth2.googleapis.com/token".to_owned()
}

impl ServiceAccount {
    /// Reads a key file and checks that its key can sign. The error never quotes it.
    pub(crate) fn parse(json: &str) -> Result<Self, String> {
        let account: Self = serde_json::from_str(json)
            .map_err(|error| format!("is not the JSON key of a service account (line {})", error.line()))?;
        EncodingKey::from_rsa_pem(account.private_key.as_bytes())
            .map_err(|_| "has a private_key that is no RSA key in PEM form".to_owned())?;
        crate::file::check_base_url(&account.token_uri).map_err(|error| format!("token_uri {error}"))?;
        Ok(account)
    }

    /// A throw-away account for the sandbox. Makes a key, which takes a while: not on an async thread.
    fn throw_away(token_uri: String) -> Result<Self, String> {
        let failed = |_| "no key could be made for the sandbox's service account".to_owned();
        let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).map_err(failed)?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
        Ok(Self {
            client_email: "sandbox@posthaste-sandbox.iam.gserviceaccount.com".to_owned(),
            private_key: format!(
                "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
                STANDARD.encode(der.as_ref())
            ),
            private_key_id: None,
            token_uri,
            project_id: None,
        })
    }
}

/// Whose tokens they are.
pub(crate) enum Credentials {
    Account(ServiceAccount),
    /// The sandbox's, whose key is made when it is first needed.
    ThrowAway {
        token_uri: String,
    },
}

struct Token {
    header: String,
    renew_at: Instant,
    ends_at: Instant,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Refused {
    error: String,
}

/// Gives out tokens, and renews them.
pub(crate) struct Tokens {
    client: reqwest::Client,
    provider: String,
    scope: String,
    token: RwLock<Option<Token>>,
    renewal: Mutex<Renewal>,
}

struct Renewal {
    credentials: Credentials,
    failed: Option<(Instant, Failure)>,
}

impl Tokens {
    pub(crate) fn new(
        client: reqwest::Client,
        provider: String,
        scope: String,
        credentials: Credentials,
    ) -> Self {
        Self {
            client,
            provider,
            scope,
            token: RwLock::new(None),
            renewal: Mutex::new(Renewal {
                credentials,
                failed: None,
            }),
        }
    }

    /// The `Authorization` header. The caller bounds the time; nothing was sent when this fails or is dropped.
    pub(crate) async fn header(&self) -> Result<String, Failure> {
        if let Some(header) = self.current(|token| token.renew_at).await {
            return Ok(header);
        }
        // One renews. The others go on with the old token while it lasts, else they wait for the new one.
        let mut renewal = match self.renewal.try_lock() {
            Ok(renewal) => renewal,
            Err(_) => match self.current(|token| token.ends_at).await {
                Some(header) => return Ok(header),
                None => self.renewal.lock().await,
            },
        };
        if let Some(header) = self.current(|token| token.renew_at).await {
            return Ok(header);
        }
        if let Some((at, failure)) = &renewal.failed
            && at.elapsed() < FAILURE_SHARED
        {
            return self
                .current(|token| token.ends_at)
                .await
                .ok_or_else(|| failure.clone());
        }
        match self.renew(&mut renewal.credentials).await {
            Ok(token) => {
                let header = token.header.clone();
                *self.token.write().await = Some(token);
                renewal.failed = None;
                Ok(header)
            }
            Err(failure) => {
                renewal.failed = Some((Instant::now(), failure.clone()));
                self.current(|token| token.ends_at).await.ok_or(failure)
            }
        }
    }

    /// Forgets the token, since the interface did not take it.
    pub(crate) async fn forget(&self, header: &str) {
        let mut token = self.token.write().await;
        if token.as_ref().is_some_and(|token| token.header == header) {
            *token = None;
        }
    }

    async fn current(&self, until: impl Fn(&Token) -> Instant) -> Option<String> {
        let token = self.token.read().await;
        token
            .as_ref()
            .filter(|token| Instant::now() < until(token))
            .map(|token| token.header.clone())
    }

    fn failure(&self, code: &str, message: &str) -> Failure {
        // Whatever it is: the message was not sent.
        Failure::new(
            ErrorKind::Rejected,
            &self.provider,
            Some(code.to_owned()),
            message,
        )
    }

    async fn renew(&self, credentials: &mut Credentials) -> Result<Token, Failure> {
        if let Credentials::ThrowAway { token_uri } = credentials {
            let token_uri = token_uri.clone();
            let made = tokio::task::spawn_blocking(|| ServiceAccount::throw_away(token_uri)).await;
            let account = made
                .unwrap_or_else(|_| Err("making a key was interrupted".to_owned()))
                .map_err(|problem| self.failure("oauth_key", &problem))?;
            *credentials = Credentials::Account(account);
        }
        let Credentials::Account(account) = credentials else {
            return Err(self.failure("oauth_key", "there is no service account"));
        };
        let assertion = self.assertion(account)?;
        let asked_at = Instant::now();
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("assertion", &assertion),
        ];
        let answer = self.client.post(&account.token_uri).form(&form).send().await;
        let mut answer =
            answer.map_err(|error| self.failure("oauth_unreachable", &crate::http::cause(&error)))?;
        let mut body = Vec::new();
        while let Some(chunk) = answer
            .chunk()
            .await
            .map_err(|error| self.failure("oauth_unreachable", &crate::http::cause(&error)))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(self.failure("oauth_answer", "the token endpoint's answer is too long"));
            }
        }
        if !answer.status().is_success() {
            // Only the error's name: a description may quote what was sent.
            let refused: Refused = serde_json::from_slice(&body).unwrap_or_default();
            let name = posthaste_event::failure::cut(&refused.error, 64);
            let status = answer.status().as_u16();
            return Err(self.failure(
                if name.is_empty() { "oauth" } else { name },
                &format!("the token endpoint answered {status} {name}"),
            ));
        }
        let granted: Granted = serde_json::from_slice(&body)
            .map_err(|_| self.failure("oauth_answer", "the token endpoint's answer holds no token"))?;
        let lasts = Duration::from_secs(granted.expires_in.min(24 * 60 * 60));
        Ok(Token {
            header: format!("Bearer {}", granted.access_token),
            renew_at: asked_at + lasts.saturating_sub(RENEWED_BEFORE).max(lasts / 2),
            ends_at: asked_at + lasts,
        })
    }

    fn assertion(&self, account: &ServiceAccount) -> Result<String, Failure> {
        let unusable = |_| self.failure("oauth_key", "the service account's private key cannot sign");
        let key = EncodingKey::from_rsa_pem(account.private_key.as_bytes()).map_err(unusable)?;
        let issued_at = clock::now() / 1_000;
        let claims = Claims {
            iss: &account.client_email,
            scope: &self.scope,
            aud: &account.token_uri,
            iat: issued_at,
            exp: issued_at + 3_600,
        };
        let header = Header {
            kid: account.private_key_id.clone(),
            ..Header::new(Algorithm::RS256)
        };
        jsonwebtoken::encode(&header, &claims, &key).map_err(unusable)
    }
}
