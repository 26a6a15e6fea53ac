//! When to stop reading for a moment instead of parking. Pure: time comes in as an argument.
//!
//! While an account is merely busy, its queue is empty again soon: leaving the rest on the log costs nothing, parking it costs
//! two more hops an event. But what others have behind it on the log waits too. So when a queue is nearly full reading stops
//! until half of it is gone. An account that takes too long for that, or beside which another one runs dry, is waited for in
//! turns: a short stop, then a look further, which parks what has no room. The looks of one flood grow, so a short one hardly
//! parks anything, and of a long one the others behind it notice a stop for every [`LOOK_PARKED_MAX`] events.

use std::time::Duration;

use tokio::time::Instant;

/// Longest time for which reading stops at a stretch, for the sake of an account that empties its queue soon,
const BRIEFLY: Duration = Duration::from_secs(1);
/// and of one that does not, or while others could send.
const TURN: Duration = Duration::from_millis(100);

/// What the first look of a flood may park,
const LOOK_PARKED_MIN: usize = 256;
/// and what one may park after it has grown. With the stops between them looks take at most about half of the time, so that
/// sending goes on beside them.
const LOOK_PARKED_MAX: usize = 2_048;

/// How the queues of a lane are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crowd {
    /// One is more than half full,
    pub is_half_full: bool,
    /// or nearly full.
    pub is_full: bool,
    /// An account of those would not empty its queue within seconds even if it filled the lane's memory.
    pub is_slow: bool,
    /// Another account has nothing left to send, though events for it came lately.
    pub has_idle: bool,
}

/// Whether reading has stopped.
#[derive(Debug)]
pub struct Hold {
    state: State,
    /// What the next look may park.
    look: usize,
    /// An event was read that goes before others which wait.
    overtaken: bool,
}

#[derive(Debug)]
enum State {
    Reading,
    Holding { since: Instant },
    Looking { parked: usize },
}

impl Hold {
    /// Reading goes on.
    pub const fn new() -> Self {
        Self {
            state: State::Reading,
            look: LOOK_PARKED_MIN,
            overtaken: false,
        }
    }

    /// An event was read that goes before others which wait: behind it there may be more.
    pub const fn overtaken(&mut self) {
        self.overtaken = true;
    }

    /// An event was parked.
    pub const fn parked(&mut self) {
        if let State::Looking { parked } = &mut self.state {
            *parked = parked.saturating_add(1);
        }
    }

    /// Whether reading stops now.
    pub fn holds(&mut self, crowd: Crowd, now: Instant) -> bool {
        if !crowd.is_half_full {
            *self = Self::new();
            return false;
        }
        match self.state {
            State::Reading if crowd.is_full => self.state = State::Holding { since: now },
            State::Holding { since } => {
                let turn = if crowd.is_slow || crowd.has_idle || self.overtaken {
                    TURN
                } else {
                    BRIEFLY
                };
                if now.saturating_duration_since(since) >= turn {
                    (self.state, self.overtaken) = (State::Looking { parked: 0 }, false);
                }
            }
            State::Looking { parked } if parked >= self.look => {
                // A quick account's queue is worth waiting for however long the flood: it goes on as fast as parking would.
                if crowd.is_slow {
                    self.look = (self.look * 2).min(LOOK_PARKED_MAX);
                }
                self.state = State::Holding { since: now };
            }
            State::Reading | State::Looking { .. } => {}
        }
        self.is_holding()
    }

    /// Whether reading has stopped.
    pub const fn is_holding(&self) -> bool {
        matches!(self.state, State::Holding { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Crowd = Crowd {
        is_half_full: true,
        is_full: true,
        is_slow: false,
        has_idle: false,
    };
    const SLOW: Crowd = Crowd {
        is_slow: true,
        ..FULL
    };

    /// For how long reading stops, and how many events are parked, when each millisecond that it does not parks ten.
    fn held_ms(crowd: impl Fn(u64) -> Crowd, until_ms: u64) -> (u64, usize) {
        let start = Instant::now();
        let mut hold = Hold::new();
        let (mut held, mut parked) = (0, 0);
        for ms in 0..until_ms {
            let crowd = crowd(ms);
            if hold.holds(crowd, start + Duration::from_millis(ms)) {
                held += 1;
            } else if crowd.is_full {
                (0..10).for_each(|_| hold.parked());
                parked += 10;
            }
        }
        (held, parked)
    }

    #[test]
    fn reading_goes_on_when_half_of_the_queue_is_gone() {
        let draining = Crowd {
            is_full: false,
            ..FULL
        };
        let crowd = |ms| match ms % 1_000 {
            0..10 => FULL,
            10..700 => draining,
            _ => Crowd::default(),
        };
        assert_eq!(held_ms(crowd, 10_000), (7_000, 0));
        assert_eq!(held_ms(|_| draining, 1_000), (0, 0));
    }

    #[test]
    fn a_quick_account_is_waited_for_however_long_the_flood() {
        let (held, parked) = held_ms(|_| FULL, 62_000);
        assert!(held > 60_000 && parked <= 61 * 260, "{held} ms, {parked} parked");
    }

    #[test]
    fn the_looks_past_a_slow_account_grow_and_leave_time_to_send() {
        let turns = [(100, 256), (200 + 26, 768), (300 + 78, 1_792)];
        for (ms, most) in turns {
            let parked = held_ms(|_| SLOW, ms).1;
            assert!(parked <= most + 10, "{parked} in {ms} ms");
        }
        let (held, parked) = held_ms(|_| SLOW, 62_000);
        assert!((20_000..=25_000).contains(&held), "{held} ms");
        assert!(parked / 2_048 >= 180, "{parked}");
    }

    #[test]
    fn nobody_waits_long_beside_an_account_that_others_could_overtake() {
        let beside = Crowd {
            has_idle: true,
            ..FULL
        };
        let (held, parked) = held_ms(|_| beside, 12_600);
        assert!((9_500..=10_500).contains(&held), "{held} ms");
        assert!((99 * 256..=101 * 260).contains(&parked), "{parked}");
    }
}
