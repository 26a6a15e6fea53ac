//! What the machine gives: time, a folder, and perhaps a service that already runs here.

use std::{fs, io::ErrorKind, path::Path, time::Duration};

use jiff::{Timestamp, fmt::rfc2822};
use posthaste_event::{Millis, clock};
use reqwest::header::DATE;
use serde_json::Value as Json;

use super::{CLOCKS_DIFFER_MS, Doctor};
use crate::{
    client::{address, headers, list_of, text},
    run,
};

/// Before this (2026-01-01) no clock of a machine that runs this version can be right.
const BUILT_AFTER: Millis = 1_767_225_600_000;

/// With less free space than this there is trouble soon.
const FREE_BYTES_MIN: u64 = 1 << 30;

/// Longest wait for a service's answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A `Date` header has whole seconds, and the answer took its time.
const DATE_BLUR_MS: i64 = 2_000;

impl Doctor<'_> {
    pub(super) fn clock(&mut self) {
        let now = clock::now();
        let shown =
            Timestamp::from_millisecond(now).map_or_else(|_| now.to_string(), |time| time.to_string());
        if now < BUILT_AFTER {
            self.wrong(
                "clock",
                format!(
                    "it says {shown}, which is long past: events would wait for years; set it, best by NTP"
                ),
            );
        } else {
            self.good("clock", shown);
        }
    }

    /// Another machine's clock must not differ much: due times and ages are compared across machines.
    pub(super) fn compare_clock(&mut self, whose: &str, theirs: Millis, blur_ms: i64) {
        let ahead_ms = theirs - clock::now();
        if ahead_ms.abs() > CLOCKS_DIFFER_MS + blur_ms {
            let direction = if ahead_ms > 0 { "ahead of" } else { "behind" };
            let seconds = ahead_ms.abs() / 1_000;
            self.warn(
                "clock",
                format!("{whose} is {seconds} s {direction} this machine; set both by NTP"),
            );
        }
    }

    pub(super) fn data_folder(&mut self) {
        let folder = self.settings.service.data_dir.clone();
        let shown = folder.display().to_string();
        let subject = "data folder";
        let nearest = folder
            .ancestors()
            .find(|folder| folder.exists() || folder.as_os_str().is_empty());
        let nearest = match nearest {
            Some(nearest) if !nearest.as_os_str().is_empty() => nearest,
            _ => Path::new("."),
        };
        if let Err(error) = writable(nearest) {
            let why = match error.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                    "nothing can be written there".to_owned()
                }
                ErrorKind::NotADirectory => "it is no folder".to_owned(),
                _ => error.to_string(),
            };
            let set_by = self.set_by("service.data_dir");
            return self.wrong(
                subject,
                format!(
                    "{shown}: {why}; give this user the right to, or name another with --data-dir ({set_by})"
                ),
            );
        }
        match free_bytes(nearest) {
            Some(free) if free < FREE_BYTES_MIN => self.warn(
                subject,
                format!(
                    "{shown}: {} MiB are free; make room before the disk is full",
                    free >> 20
                ),
            ),
            Some(free) => self.good(subject, format!("{shown}: {} GiB free", free >> 30)),
            None => self.good(subject, shown),
        }
    }

    /// A service that runs on this machine, or where `url` says.
    pub(super) async fn service(&mut self, url: Option<&str>) {
        let base = match (url, self.settings.service.listen_address(3000)) {
            (Some(url), _) => url.to_owned(),
            (None, Ok(listens)) => run::url_of(listens),
            (None, Err(_)) => return,
        };
        let subject = "service";
        let url = match address(&base, "ready") {
            Ok(url) => url,
            Err(failure) => return self.wrong(subject, failure.to_string()),
        };
        let asked = reqwest::Client::new()
            .get(url)
            .headers(headers())
            .timeout(ANSWER_LIMIT)
            .send()
            .await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => {
                return self.good(
                    subject,
                    format!("none answers at {base}; `posthaste up` starts one, --url names another"),
                );
            }
            Err(error) => return self.wrong(subject, format!("the one at {base} does not answer: {error}")),
        };
        let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| rfc2822::parse(date).ok()) {
            self.compare_clock(&base, date.timestamp().as_millisecond(), DATE_BLUR_MS);
        }
        let is_ready = answer.status().is_success();
        let body: Json = answer.json().await.unwrap_or_default();
        let missing: Vec<String> = list_of(&body, "missing")
            .iter()
            .map(|missing| format!("{}: {}", text(missing, "name"), text(missing, "reason")))
            .collect();
        let missing = missing.join("; ");
        match (is_ready, missing.is_empty()) {
            (true, true) => self.good(subject, format!("{base} is ready")),
            (true, false) => self.warn(subject, format!("{base} works, but is missing {missing}")),
            (false, _) => self.wrong(subject, format!("{base} is not ready: {missing}")),
        }
    }
}

/// Tries it: what a user may write cannot be told from the file's mode alone.
fn writable(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(format!(".posthaste-doctor-{}", uuid::Uuid::new_v4().simple()));
    fs::write(&probe, b"")?;
    fs::remove_file(&probe)
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
