//! Provider files and mails without an account and without the network: what would be asked, and what an answer would mean.
//! For tools that look at such files, and for fuzzing.

use bytes::Bytes;
use posthaste_event::{Channel, Failure, Millis};
use reqwest::header::HeaderMap;
use url::Url;

use crate::{
    Message, Receipt,
    answer::Answer,
    file::{Description, FileError},
    registry::FILES,
    smtp,
};

pub use crate::smtp::Heard;

/// A good provider file.
pub struct Checked(Description);

/// What a provider would be asked. Nothing in it proves who asks.
pub struct Asked {
    /// Where.
    pub url: Url,
    /// With these headers.
    pub headers: HeaderMap,
    /// This.
    pub body: Bytes,
}

impl Checked {
    /// Reads a file and tries it with its samples, as at the start of the program.
    ///
    /// # Errors
    /// The first mistake, with its line.
    pub fn read(file: &str, text: &str) -> Result<Self, FileError> {
        Description::load(file, text).map(Self)
    }

    /// The files that come with the program, and their texts.
    pub fn shipped() -> impl Iterator<Item = (&'static str, &'static str)> {
        FILES.into_iter()
    }

    /// The channels that it can carry.
    pub fn channels(&self) -> &[Channel] {
        &self.0.channels
    }

    /// What an account with the settings' defaults would ask, at `base_url` or, `sandboxed`, at a sandbox there.
    ///
    /// # Errors
    /// Why the payload does not fit this provider. Never quotes it.
    pub fn ask(&self, message: &Message, base_url: &str, sandboxed: bool) -> Result<Asked, String> {
        let mut values = self.0.sample_values();
        base_url.clone_into(&mut values.base_url);
        values.sandboxed = sandboxed;
        let built = self.0.build(&values, message);
        let outgoing = built.map_err(|(path, error)| format!("{}: {error}", path.join(".")))?;
        Ok(Asked {
            url: outgoing.url,
            headers: outgoing.headers,
            body: outgoing.body,
        })
    }

    /// What an answer of the provider means.
    ///
    /// # Errors
    /// The failure that it stands for.
    pub fn answer(
        &self,
        status: u16,
        headers: &HeaderMap,
        text: &str,
        at: Millis,
    ) -> Result<Receipt, Failure> {
        let answer = Answer::new(status, headers, text, at);
        self.0.reading.read(&self.0.name, &answer)
    }
}

/// A conversation with a mail server that says `replies`, whatever it hears, and then hangs up. We log in if there is a `login`,
/// a name and a password.
pub async fn converse(message: &Message, replies: &[u8], login: Option<(&str, &str)>, now: Millis) -> Heard {
    smtp::rehearse(message, replies, login, now).await
}
