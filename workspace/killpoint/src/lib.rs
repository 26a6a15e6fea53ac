//! Points at which a test may kill or stop this process: where a crash would hurt most.
//!
//! In a debug build the environment variable `KILL_POINT=<name>:<n>:kill` makes the process send itself SIGKILL when it comes
//! by the point for the n-th time; with `stop`, SIGSTOP, so that it goes on later as a zombie would. In a release build
//! there are no points.

/// Before a provider is called.
pub const BEFORE_CALL: &str = "before-call";
/// After a provider has answered, before that is recorded.
pub const AFTER_CALL: &str = "after-call";
/// A transaction with hops is open, and nothing in it.
pub const BEFORE_OUTPUTS: &str = "before-outputs";
/// The outputs are in it, the finished records are not.
pub const BEFORE_OFFSETS: &str = "before-offsets";
/// All is in it.
pub const BEFORE_COMMIT: &str = "before-commit";
/// It is committed, and nobody knows yet.
pub const AFTER_COMMIT: &str = "after-commit";

/// An idempotency key is claimed, and its event not appended.
pub const CLAIMED: &str = "claimed";
/// The event is appended, and the claim not confirmed.
pub const APPENDED: &str = "appended";
/// Events of the inbox are taken in, and their records not finished.
pub const TAKEN: &str = "taken";

/// A chunk of a broadcast is appended, and the broadcast not said.
pub const CHUNK_APPENDED: &str = "chunk-appended";
/// All chunks of a broadcast are appended, and the broadcast not said.
pub const BROADCAST_UNSAID: &str = "broadcast-unsaid";
/// A broadcast is said, and its client not answered.
pub const BROADCAST_SAID: &str = "broadcast-said";

/// Points around a provider's call: in dispatchers.
pub const OF_A_CALL: &[&str] = &[BEFORE_CALL, AFTER_CALL];
/// Points of a transaction with hops: in every service behind intake.
pub const OF_A_HOP: &[&str] = &[BEFORE_OUTPUTS, BEFORE_OFFSETS, BEFORE_COMMIT, AFTER_COMMIT];

/// This process is at that point.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn at(_point: &str) {}

/// This process is at that point.
#[cfg(debug_assertions)]
pub fn at(point: &str) {
    plan::at(point);
}

#[cfg(debug_assertions)]
mod plan {
    use std::{
        process::Command,
        sync::{
            LazyLock,
            atomic::{AtomicU32, Ordering},
        },
    };

    struct Plan {
        point: String,
        left: AtomicU32,
        signal: &'static str,
    }

    static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| parse(&std::env::var("KILL_POINT").ok()?));

    fn parse(text: &str) -> Option<Plan> {
        let mut parts = text.split(':');
        let (point, times, how) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Plan {
            point: point.to_owned(),
            left: AtomicU32::new(times.parse().ok()?),
            signal: match how {
                "kill" => "KILL",
                "stop" => "STOP",
                _ => return None,
            },
        })
    }

    pub(super) fn at(point: &str) {
        let Some(plan) = PLAN.as_ref().filter(|plan| plan.point == point) else {
            return;
        };
        if plan.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // The shell's own `kill`: nothing to install, and no unsafe code. This thread goes no further before the
            // signal has come.
            let command = format!("kill -{} {}", plan.signal, std::process::id());
            let _ = Command::new("sh").args(["-c", &command]).status();
        }
    }

    #[cfg(test)]
    mod tests {
        use super::parse;

        #[test]
        fn a_plan_names_point_turn_and_signal_and_nothing_else_is_one() {
            let plan = parse("before-commit:3:stop").unwrap();
            assert_eq!((plan.point.as_str(), plan.signal), ("before-commit", "STOP"));
            for wrong in ["", "before-commit", "a:b:kill", "a:1:term"] {
                assert!(parse(wrong).is_none(), "{wrong}");
            }
        }
    }
}
