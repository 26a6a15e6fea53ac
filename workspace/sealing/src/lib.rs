//! Sealed payloads: AES-256-GCM from the intake to the moment of sending.
//!
//! A sealed payload is `{"$sealed": {"kid", "alg", "nonce", "data"}}` where the payload was, so that everything between carries it as it
//! carries any other. Who seals and who opens hold the same [`Ring`] of keys; where it comes from is a [`Source`]'s to know. Pure, but
//! for [`follow`] and what reads a file.

mod envelope;
mod follow;
mod keys;
mod mask;
mod page;
mod ring;
mod sealer;
mod settings;

pub use envelope::{Bound, OpenError, Scope, SealError, is_sealed, kid_in, kid_of};
pub use follow::follow;
pub use keys::Keys;
pub use mask::Mask;
pub use page::{Leaf, is_sealed_page};
pub use ring::{Ring, RingError};
pub use sealer::Sealer;
pub use settings::{DEFAULTS, Settings};

/// Where the keys come from: a file, the environment, a key management service that opens them.
pub trait Source: Send + Sync {
    /// The keys as of now. May block, for a few seconds at most.
    ///
    /// # Errors
    /// Why there are none, in words, without a key in them.
    fn ring(&self) -> Result<Ring, String>;

    /// Whether it can ever give others.
    fn may_change(&self) -> bool;
}
