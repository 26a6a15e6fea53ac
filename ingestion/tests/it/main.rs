//! Intake over HTTP, without a broker behind it.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod attachments;
mod away;
mod broadcasts;
mod broadcasts_again;
mod bulk;
mod continued;
mod event;
mod idempotency;
mod keys_in_use;
mod lists;
mod schedules;
mod sealing;
mod templates;
mod world;
