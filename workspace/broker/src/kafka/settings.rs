//! The `[broker.kafka]` part of the configuration.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;

/// `[broker.kafka]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSettings {
    /// `host:port`, several separated by commas; empty when Kafka is not used.
    pub bootstrap_servers: String,
    /// Name shown in the broker's logs and quotas.
    pub client_id: String,
    /// Copies of each topic that is created.
    pub replication: u32,
    /// How the broker is spoken to.
    pub security: Security,
    /// SASL mechanism, with one of the `sasl_` protocols.
    pub sasl_mechanism: String,
    /// User for SASL.
    pub sasl_username: String,
    /// Password for SASL.
    pub sasl_password: Secret,
    /// PEM file of the authorities that may sign the broker's certificate; empty: the system's.
    pub ssl_ca_file: String,
    /// PEM file of our own certificate; empty: none.
    pub ssl_certificate_file: String,
    /// PEM file of its key; empty: none.
    pub ssl_key_file: String,
    /// How long an append that is not critical waits for company, in milliseconds.
    pub bulk_linger_ms: u32,
    /// Records that may wait for the broker's acknowledgement.
    pub appends_records_max: u32,
    /// KiB of those.
    pub appends_kib_max: u32,
    /// Further librdkafka options, given to every client.
    pub options: BTreeMap<String, String>,
}

/// How the broker is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// Neither encrypted nor authenticated.
    Plaintext,
    /// TLS.
    Ssl,
    /// SASL without TLS.
    SaslPlaintext,
    /// SASL over TLS.
    SaslSsl,
}

impl Security {
    /// As Kafka and the configuration write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one who needs it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl KafkaSettings {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names the key, what it is and what would be accepted.
    pub fn check(&self) -> Result<(), String> {
        for (key, value, least, most) in [
            ("replication", self.replication, 1, 9),
            ("bulk_linger_ms", self.bulk_linger_ms, 0, 1_000),
            ("appends_records_max", self.appends_records_max, 1, 1_000_000),
            ("appends_kib_max", self.appends_kib_max, 64, 1 << 20),
        ] {
            if !(least..=most).contains(&value) {
                return Err(format!(
                    "broker.kafka.{key} is {value}; accepted: {least} to {most}"
                ));
            }
        }
        if matches!(self.security, Security::SaslPlaintext | Security::SaslSsl)
            && self.sasl_username.is_empty()
        {
            return Err(format!(
                "broker.kafka.sasl_username is empty; accepted: a user name, since security is {:?}",
                self.security.as_str()
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let secret: Secret = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(format!("{secret:?}"), "<secret>");
        assert_eq!(secret.reveal(), "hunter2");
    }
}
