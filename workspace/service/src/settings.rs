//! Settings that every service shares, and the name of this process.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use posthaste_event::FieldError;
use serde::Deserialize;

use crate::auth;

/// The commented `[service]` table of the default configuration.
pub const DEFAULTS: &str = include_str!("../settings.toml");

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// The `[service]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where HTTP is served; empty is the service's own port.
    pub listen: String,
    /// Where files are kept.
    pub data_dir: PathBuf,
    /// This process's name; empty makes one up.
    pub instance: String,
    /// What is logged, as `tracing-subscriber` directives.
    pub log_level: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Connections open at once.
    pub connections_max: usize,
    /// Time for a request's head, and for an idle connection, in milliseconds.
    pub header_timeout_ms: u64,
    /// Longest pause inside a body or an answer, in milliseconds.
    pub body_timeout_ms: u64,
    /// Largest head of a request, in bytes.
    pub header_bytes_max: usize,
    /// Longest wait for what is under way when stopping, in milliseconds.
    pub drain_timeout_ms: u64,
    /// Who is asked for credentials.
    pub auth: auth::AuthSettings,
}

impl Settings {
    /// Checks what types alone cannot.
    ///
    /// # Errors
    /// The first key whose value cannot work.
    pub fn check(&self) -> Result<(), FieldError> {
        let within = |key: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(FieldError::new(
                format!("service.{key}"),
                format!("{value} is out of range"),
                format!("{least} to {most}"),
            ))
        };
        if !self.listen.is_empty() {
            self.listen_address(0)?;
        }
        if self.data_dir.as_os_str().is_empty() {
            return Err(FieldError::new(
                "service.data_dir",
                "is empty",
                "a folder, such as data",
            ));
        }
        within("connections_max", self.connections_max as u64, 1, 1_000_000)?;
        within("header_timeout_ms", self.header_timeout_ms, 100, 3_600_000)?;
        within("body_timeout_ms", self.body_timeout_ms, 100, 3_600_000)?;
        within("header_bytes_max", self.header_bytes_max as u64, 8_192, 1 << 20)?;
        within("drain_timeout_ms", self.drain_timeout_ms, 0, 3_600_000)?;
        crate::telemetry::filter(&self.log_level)?;
        self.auth.check()?;
        let named = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if self.instance.len() > 100 || !self.instance.chars().all(named) {
            return Err(FieldError::new(
                "service.instance",
                "cannot be a name",
                "up to 100 letters, digits, dots, dashes and underscores, or nothing",
            ));
        }
        Ok(())
    }

    /// Where to listen: the configured address, or `port` on this machine only.
    ///
    /// # Errors
    /// When `listen` is not an address and a port.
    pub fn listen_address(&self, port: u16) -> Result<SocketAddr, FieldError> {
        if self.listen.is_empty() {
            return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
        }
        let text = self.listen.replace("localhost", "127.0.0.1");
        text.parse().map_err(|_| {
            FieldError::new(
                "service.listen",
                format!("{:?} is not an address and a port", self.listen),
                "such as 127.0.0.1:3000, 0.0.0.0:3000 or [::]:3000",
            )
        })
    }

    /// The configured name, or the machine's name with a random end.
    pub fn instance_name(&self) -> Arc<str> {
        if !self.instance.is_empty() {
            return self.instance.as_str().into();
        }
        let random = uuid::Uuid::new_v4().simple().to_string();
        format!("{}-{}", host_name(), &random[..6]).into()
    }

    /// Longest wait for what is under way when stopping.
    pub const fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}

fn host_name() -> String {
    let name = std::env::var("HOSTNAME")
        .ok()
        .or_else(|| fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .or_else(|| fs::read_to_string("/etc/hostname").ok())
        .unwrap_or_default();
    let name: String = name
        .trim()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(40)
        .collect();
    if name.is_empty() {
        "posthaste".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Settings {
        let table: toml::Table = toml::from_str(DEFAULTS).unwrap();
        table["service"].clone().try_into().unwrap()
    }

    #[test]
    fn defaults_are_complete_and_valid() {
        defaults().check().unwrap();
        assert_eq!(
            defaults().listen_address(3001).unwrap().to_string(),
            "127.0.0.1:3001"
        );
    }

    #[test]
    fn two_processes_get_two_names() {
        assert_ne!(defaults().instance_name(), defaults().instance_name());
        let named = Settings {
            instance: "a-1".into(),
            ..defaults()
        };
        assert_eq!(&*named.instance_name(), "a-1");
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        let wrong = Settings {
            listen: "3000".into(),
            ..defaults()
        };
        assert_eq!(wrong.check().unwrap_err().field, "service.listen");
        let wrong = Settings {
            log_level: "loud".into(),
            ..defaults()
        };
        assert_eq!(wrong.check().unwrap_err().field, "service.log_level");
        let wrong = Settings {
            connections_max: 0,
            ..defaults()
        };
        assert_eq!(wrong.check().unwrap_err().field, "service.connections_max");
    }
}
