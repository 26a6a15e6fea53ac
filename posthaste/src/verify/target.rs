//! The services that a run talks to, and their answers.

use std::{fmt::Display, time::Duration};

use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde_json::Value as Json;

use crate::{
    cli::verify::Verify,
    client::{address, headers},
    failure::Failure,
};

/// Longest wait for an answer: longer than the service's own limits.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Target {
    http: Client,
    intake: String,
    status: String,
    sandbox: String,
}

/// An answer, or why there was none.
#[derive(Debug)]
pub enum Reply {
    /// Whatever it says.
    Answer(StatusCode, Json),
    /// Nothing was sent: nobody listens there.
    Unreached(String),
    /// It was sent, and no answer came.
    Silent(String),
}

impl Target {
    /// As the options say.
    pub fn new(options: &Verify) -> Result<Self, Failure> {
        let or_intake = |url: &Option<String>| url.clone().unwrap_or_else(|| options.url.clone());
        Self::of(
            options.url.clone(),
            or_intake(&options.status_url),
            or_intake(&options.sandbox),
        )
    }

    /// At these addresses.
    pub fn of(intake: String, status: String, sandbox: String) -> Result<Self, Failure> {
        let sandbox = sandbox
            .trim_end_matches('/')
            .trim_end_matches("/sandbox")
            .to_owned();
        for base in [&intake, &status, &sandbox] {
            address(base, "")?;
        }
        let http = Client::builder()
            .default_headers(headers())
            .timeout(ANSWER_LIMIT)
            .build()
            .map_err(Failure::runtime)?;
        Ok(Self {
            http,
            intake,
            status,
            sandbox,
        })
    }

    /// Where ingestion is.
    pub fn intake(&self) -> &str {
        &self.intake
    }

    /// Where the status service is.
    pub fn status(&self) -> &str {
        &self.status
    }

    /// Where the sandbox is.
    pub fn sandbox(&self) -> &str {
        &self.sandbox
    }

    /// `POST /event`.
    pub async fn post(&self, event: &Json) -> Reply {
        match address(&self.intake, "event") {
            Ok(url) => exchange(self.http.post(url).json(event)).await,
            Err(failure) => Reply::Unreached(failure.to_string()),
        }
    }

    /// `DELETE /events/{id}`.
    pub async fn cancel(&self, id: &str) -> Reply {
        let url = address(&self.status, "events").map_err(|failure| failure.to_string());
        match url.and_then(|mut url| append(&mut url, &[id]).map(|()| url)) {
            Ok(url) => exchange(self.http.delete(url)).await,
            Err(error) => Reply::Unreached(error),
        }
    }

    /// `GET` of the status service, with these parameters.
    pub async fn ask_status(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Json, String> {
        self.get(&self.status, path, query).await
    }

    /// `GET` of the sandbox, with these parameters.
    pub async fn ask_sandbox(&self, path: &str, query: &[(&str, &str)]) -> Result<Json, String> {
        self.get(&self.sandbox, &["sandbox", path], query).await
    }

    /// `PUT /sandbox/behaviour`.
    pub async fn behave(&self, rules: &Json) -> Result<(), String> {
        let url = address(&self.sandbox, "sandbox/behaviour").map_err(|failure| failure.to_string())?;
        good(exchange(self.http.put(url).json(rules)).await).map(drop)
    }

    async fn get(&self, base: &str, path: &[&str], query: &[(&str, &str)]) -> Result<Json, String> {
        let mut url = address(base, "").map_err(|failure| failure.to_string())?;
        append(&mut url, path)?;
        good(exchange(self.http.get(url).query(query)).await)
    }
}

fn append(url: &mut Url, path: &[&str]) -> Result<(), String> {
    let mut parts = url
        .path_segments_mut()
        .map_err(|()| "no address that can be asked".to_owned())?;
    parts.pop_if_empty().extend(path);
    Ok(())
}

fn good(reply: Reply) -> Result<Json, String> {
    match reply {
        Reply::Answer(status, answer) if status.is_success() => Ok(answer),
        Reply::Answer(status, answer) => Err(crate::client::problem(status, &answer)),
        Reply::Unreached(error) | Reply::Silent(error) => Err(error),
    }
}

async fn exchange(request: RequestBuilder) -> Reply {
    let told = |error: &dyn Display| error.to_string();
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) if error.is_connect() => return Reply::Unreached(told(&error)),
        Err(error) => return Reply::Silent(told(&error)),
    };
    let status = response.status();
    match response.bytes().await {
        Ok(body) => Reply::Answer(status, serde_json::from_slice(&body).unwrap_or_default()),
        Err(error) => Reply::Silent(told(&error)),
    }
}
