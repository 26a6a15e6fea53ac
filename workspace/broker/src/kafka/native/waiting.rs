//! librdkafka's waits, by a clock that nobody sets.
//!
//! It bounds each wait by the wall clock (`cnd_timedwait`, as C11 has it). When somebody sets that back by two hours, waits
//! under way last two hours longer: no poll, no heartbeat, nothing that a service could do about it. The linker takes this
//! function instead of the C library's; the bound is carried over to the monotonic clock as the wait begins.
//!
//! On the GNU C library, whose C11 conditions and mutexes are POSIX's (`nptl/cnd_timedwait.c`); elsewhere nothing is changed.

use std::{ffi::c_int, mem::MaybeUninit};

use libc::{
    CLOCK_MONOTONIC, CLOCK_REALTIME, ETIMEDOUT, clockid_t, pthread_cond_t, pthread_mutex_t, timespec,
};

/// C11's answers, as the GNU C library numbers them (`threads.h`).
const SUCCESS: c_int = 0;
const ERROR: c_int = 2;
const TIMED_OUT: c_int = 4;

/// The clock may be set between the caller's look at it and ours. Whoever waits looks again after a time-out.
const WAIT_SECONDS_MAX: i64 = 10;
const SECOND_NANOS: i64 = 1_000_000_000;

unsafe extern "C" {
    /// Since 2.30.
    fn pthread_cond_clockwait(
        condition: *mut pthread_cond_t,
        mutex: *mut pthread_mutex_t,
        clock: clockid_t,
        until: *const timespec,
    ) -> c_int;
}

fn now(clock: clockid_t) -> timespec {
    let mut now = MaybeUninit::zeroed();
    // SAFETY: the pointer is good for a write, and zeroes are a time too, should the call fail.
    unsafe {
        libc::clock_gettime(clock, now.as_mut_ptr());
        now.assume_init()
    }
}

/// What `until`, a time of the clock that says `wall`, is on the one that says `steady`.
fn carried_over(until: timespec, wall: timespec, steady: timespec) -> timespec {
    let seconds = until
        .tv_sec
        .saturating_sub(wall.tv_sec)
        .clamp(-1, WAIT_SECONDS_MAX);
    let nanos = until.tv_nsec - wall.tv_nsec + steady.tv_nsec;
    timespec {
        tv_sec: steady.tv_sec + seconds + nanos.div_euclid(SECOND_NANOS),
        tv_nsec: nanos.rem_euclid(SECOND_NANOS),
    }
}

/// Waits for a condition, at most until the wall clock would say `until` if nobody set it.
///
/// # Safety
/// As for C11's: the condition and the mutex were made by its functions, and the caller holds the mutex.
// This crate's own tests are linked with the crate as others see it, whose function it is then.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[cfg_attr(test, expect(dead_code, reason = "the linker's to call"))]
unsafe extern "C" fn cnd_timedwait(
    condition: *mut pthread_cond_t,
    mutex: *mut pthread_mutex_t,
    until: *const timespec,
) -> c_int {
    // SAFETY: the caller's promises; C11's types are POSIX's under other names here.
    let ended = unsafe {
        let until = carried_over(*until, now(CLOCK_REALTIME), now(CLOCK_MONOTONIC));
        pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &until)
    };
    match ended {
        0 => SUCCESS,
        ETIMEDOUT => TIMED_OUT,
        _ => ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn time(tv_sec: i64, tv_nsec: i64) -> timespec {
        timespec { tv_sec, tv_nsec }
    }

    #[test]
    fn a_bound_is_as_far_away_on_the_other_clock() {
        let carried = |until, wall, steady| {
            let carried = carried_over(until, wall, steady);
            (carried.tv_sec, carried.tv_nsec)
        };
        let wall = time(1_700_000_000, 600_000_000);
        let steady = time(50, 700_000_000);
        assert_eq!(
            carried(time(1_700_000_001, 100_000_000), wall, steady),
            (51, 200_000_000)
        );
        assert_eq!(
            carried(time(1_700_000_000, 600_000_001), wall, steady),
            (50, 700_000_001)
        );
        // Over already, by however much.
        assert!(carried(time(1_699_999_999, 0), wall, steady) < (50, 700_000_000));
        assert!(carried(time(0, 0), wall, steady) < (50, 700_000_000));
        // The wall clock was set back in between: not for hours.
        assert!(carried(time(1_700_007_200, 0), wall, steady) <= (61, 0));
    }
}
