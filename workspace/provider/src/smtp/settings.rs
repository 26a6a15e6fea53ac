//! `[providers.smtp]`: which server, and how to reach it.

use std::{collections::BTreeMap, sync::Arc};

use posthaste_event::FieldError;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

use super::mail::parse_address;
use crate::file::Setting;

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    /// Not at all.
    None,
    /// Begun in the clear, and never gone on with unless TLS comes (RFC 3207).
    StartTls,
    /// TLS from the first byte (RFC 8314).
    Tls,
}

/// Where a server is.
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) encryption: Encryption,
    pub(super) tls: Option<(TlsConnector, ServerName<'static>)>,
    pub(super) login: Option<(String, String)>,
}

/// What an account says.
pub(super) struct Given {
    /// None: send to the sandbox.
    pub(super) server: Option<Server>,
    /// Our name in EHLO; none: the connection's own address.
    pub(super) helo_name: Option<String>,
    /// Where bounces go; none: to the event's sender.
    pub(super) return_path: Option<String>,
}

/// The keys that an account has, besides those of all.
pub(crate) fn keys() -> BTreeMap<String, Setting> {
    let key = |name: &str, about: &str, secret: bool, required: bool, default: Option<&str>| {
        let setting = Setting {
            about: about.to_owned(),
            secret,
            required,
            default: default.map(str::to_owned),
            sandbox: None,
        };
        (name.to_owned(), setting)
    };
    BTreeMap::from([
        key("host", "name or address of the server", false, true, None),
        key("port", "its port", false, false, None),
        key(
            "encryption",
            "tls, starttls or none",
            false,
            false,
            Some("starttls"),
        ),
        key("username", "name to log in with", false, false, None),
        key("password", "password to log in with", true, false, None),
        key(
            "ca",
            "certificates to trust instead of the system's, in PEM form",
            false,
            false,
            None,
        ),
        key("helo_name", "our name in EHLO", false, false, None),
        key("return_path", "address that bounces go to", false, false, None),
    ])
}

/// The values of an account, and what its errors begin with.
struct Values<'a> {
    account: &'a str,
    values: &'a BTreeMap<String, String>,
}

impl Values<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    fn wrong(&self, key: &str, problem: impl Into<String>, accepted: &str) -> FieldError {
        FieldError::new(format!("providers.{}.{key}", self.account), problem, accepted)
    }

    fn server(&self) -> Result<Option<Server>, FieldError> {
        let Some(host) = self.get("host") else {
            let lonely = ["username", "password", "ca"];
            return match lonely.into_iter().find(|key| self.get(key).is_some()) {
                Some(key) => Err(self.wrong(
                    "host",
                    format!("is missing, while {key} is given"),
                    "name or address of the server",
                )),
                None => Ok(None),
            };
        };
        let encryption = match self.get("encryption").unwrap_or("starttls") {
            "none" => Encryption::None,
            "starttls" => Encryption::StartTls,
            "tls" => Encryption::Tls,
            _ => return Err(self.wrong("encryption", "is unknown", "tls, starttls, none")),
        };
        let port = match self.get("port") {
            Some(port) => port.parse().ok().filter(|port| *port > 0),
            None => Some(match encryption {
                Encryption::None => 25,
                Encryption::StartTls => 587,
                Encryption::Tls => 465,
            }),
        };
        let port = port.ok_or_else(|| self.wrong("port", "is no port", "1 to 65535"))?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            let accepted = "such as smtp.example.com or 192.0.2.1";
            self.wrong("host", "is no name of a server", accepted)
        })?;
        let login = self.login()?;
        if login.is_some() && encryption == Encryption::None && !is_this_machine(host) {
            let problem = "is none, so the password would go out readable by anyone on the way";
            return Err(self.wrong("encryption", problem, "tls or starttls"));
        }
        let tls = match encryption {
            Encryption::None => None,
            Encryption::StartTls | Encryption::Tls => Some((self.connector()?, name)),
        };
        Ok(Some(Server {
            host: host.to_owned(),
            port,
            encryption,
            tls,
            login,
        }))
    }

    fn login(&self) -> Result<Option<(String, String)>, FieldError> {
        match (self.get("username"), self.get("password")) {
            (Some(user), Some(password)) => Ok(Some((user.to_owned(), password.to_owned()))),
            (None, None) => Ok(None),
            (Some(_), None) => {
                let problem = "is missing, while username is given";
                Err(self.wrong("password", problem, "password to log in with"))
            }
            (None, Some(_)) => {
                let problem = "is missing, while password is given";
                Err(self.wrong("username", problem, "name to log in with"))
            }
        }
    }

    fn connector(&self) -> Result<TlsConnector, FieldError> {
        connector(self.get("ca")).map_err(|problem| {
            let accepted = "certificates in PEM form, or as ca_file the path of such a file";
            self.wrong("ca", problem, accepted)
        })
    }
}

impl Given {
    /// Checks what an account says.
    pub(super) fn read(account: &str, values: &BTreeMap<String, String>) -> Result<Self, FieldError> {
        let values = Values { account, values };
        let helo_name = values.get("helo_name").map(str::to_owned);
        if helo_name.as_deref().is_some_and(|name| !is_helo_name(name)) {
            let accepted = "such as mail.example.com or [192.0.2.1]";
            return Err(values.wrong("helo_name", "is no name of a host", accepted));
        }
        let return_path = match values.get("return_path") {
            Some(path) => {
                let address = parse_address(path).ok_or_else(|| {
                    values.wrong("return_path", "is no address", "such as bounces@example.com")
                })?;
                Some(address.to_string())
            }
            None => None,
        };
        Ok(Self {
            server: values.server()?,
            helo_name,
            return_path,
        })
    }
}

fn connector(ca: Option<&str>) -> Result<TlsConnector, String> {
    let crypto = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&crypto))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = match ca {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|_| "is not in PEM form".to_owned())?;
                roots
                    .add(certificate)
                    .map_err(|error| format!("holds a certificate that cannot be used: {error}"))?;
            }
            if roots.is_empty() {
                return Err("holds no certificate".to_owned());
            }
            builder.with_root_certificates(roots)
        }
        None => {
            let verifier = rustls_platform_verifier::Verifier::new(crypto)
                .map_err(|error| format!("is not given, and the system has no certificates: {error}"))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    Ok(TlsConnector::from(Arc::new(config.with_no_client_auth())))
}

/// Only as strict as it must be: nothing that could end the command.
fn is_helo_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-[]:".contains(&byte))
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}
