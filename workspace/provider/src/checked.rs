//! A provider file that was read and tried, without an account and without the network: for tools that look at such files, and
//! for fuzzing.

use posthaste_event::{Failure, Millis};
use reqwest::header::HeaderMap;

use crate::{
    Receipt,
    answer::Answer,
    file::{Description, FileError},
    registry::FILES,
};

/// A good provider file.
pub struct Checked(Description);

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
