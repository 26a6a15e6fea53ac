//! How far a replay is, in numbers that people can use. Pure.

use std::collections::BTreeMap;

use posthaste_event::{
    Millis,
    control::{Replay, Wish},
};

use super::Known;
use crate::index::marks::Counts;

/// How far a replay is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Progress {
    /// Letters that were meant.
    pub total: u64,
    /// Those that went out.
    pub replayed: u64,
    /// Those of them that died again.
    pub refailed: u64,
    /// Those that cannot go out.
    pub skipped: u64,
    /// Those that went out by another replay, or died anew, before their turn.
    pub gone: u64,
    /// When the last of it was done.
    pub finished_at: Option<Millis>,
}

impl Progress {
    /// Adds up what the control topic says and what the index counted in partitions of ours.
    pub fn of(known: &Known, replay: &Replay, counted: &BTreeMap<u32, Counts>) -> Self {
        let mut progress = Self::default();
        let mut last = replay.at;
        for share in &replay.shares {
            let part = known.parts.get(&share.partition);
            let counts = counted.get(&share.partition).copied().unwrap_or_default();
            // Marks that were deleted with the log's start are missing in the index, but not in the part.
            let replayed = counts.replayed.max(part.map_or(0, |part| part.replayed));
            let refailed = counts.refailed.max(part.map_or(0, |part| part.refailed));
            let skipped = part.map_or(0, |part| part.skipped);
            progress.total = progress.total.saturating_add(share.letters);
            progress.replayed = progress.replayed.saturating_add(replayed);
            progress.refailed = progress.refailed.saturating_add(refailed);
            progress.skipped = progress.skipped.saturating_add(skipped);
            if let Some(part) = part.filter(|part| part.finished) {
                let left = share.letters.saturating_sub(replayed.saturating_add(skipped));
                progress.gone = progress.gone.saturating_add(left);
                last = last.max(part.at);
            }
        }
        progress.finished_at = known.is_finished().then_some(last);
        progress
    }

    /// Letters that have not had their turn.
    pub const fn remaining(&self) -> u64 {
        self.total
            .saturating_sub(self.replayed)
            .saturating_sub(self.skipped)
            .saturating_sub(self.gone)
    }

    /// How much is done, from 0 to 100 with one decimal. Only what is finished is 100.
    pub fn percent(&self) -> f64 {
        if self.finished_at.is_some() || self.total == 0 {
            return 100.0;
        }
        let done = (self.total - self.remaining()) as f64 / self.total as f64;
        ((done * 1_000.0).floor() / 10.0).min(99.9)
    }

    /// The part of what went out that died again.
    pub fn refailure_ratio(&self) -> f64 {
        if self.replayed == 0 {
            return 0.0;
        }
        let ratio = self.refailed as f64 / self.replayed as f64;
        (ratio * 1_000.0).round() / 1_000.0
    }

    /// When it will be done, in seconds from now, if that can be said: by its rate, else by how fast it was so far.
    pub fn seconds_left(&self, known: &Known, replay: &Replay, now: Millis) -> Option<f64> {
        if known.is_over() || known.wish() != Wish::Running {
            return None;
        }
        let passed_ms = now
            .saturating_sub(known.state.as_ref().map_or(replay.at, |state| state.at))
            .max(0);
        let left = self.remaining() as f64;
        let seconds = match replay.rate {
            Some(rate) => {
                // In what is left of the ramp, only half of it goes out on the average.
                let ramp_left = (replay.ramp_ms as f64 - passed_ms as f64).max(0.0) / 1_000.0;
                left / rate + ramp_left / 2.0
            }
            None => {
                let before = known.state.as_ref().map_or(0, |state| state.replayed);
                let done = self.replayed.saturating_sub(before);
                if done == 0 || passed_ms == 0 {
                    return None;
                }
                left * passed_ms as f64 / 1_000.0 / done as f64
            }
        };
        Some((seconds * 10.0).ceil() / 10.0)
    }

    /// Why it must stop, if too much of what it sent died again since it was begun or resumed.
    pub fn too_many_refailures(&self, known: &Known, replay: &Replay, letters_min: u64) -> Option<String> {
        let (before, before_refailed) = known
            .state
            .as_ref()
            .map_or((0, 0), |state| (state.replayed, state.refailed));
        let replayed = self.replayed.saturating_sub(before);
        let refailed = self.refailed.saturating_sub(before_refailed);
        let is_too_many = replayed >= letters_min
            && replay.refailure_ratio < 1.0
            && refailed as f64 > replay.refailure_ratio * replayed as f64;
        is_too_many.then(|| {
            format!(
                "{refailed} of {replayed} died again, more than the {} allowed; it can be resumed when the cause is mended",
                replay.refailure_ratio
            )
        })
    }
}
