//! Shows how far something is: a bar on a terminal, else a line now and then.

use std::{
    io::{IsTerminal as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value as Json;

use crate::{command::print, failure::Failure};

/// How often it is asked how far it is.
const LOOK: Duration = Duration::from_millis(250);
/// How often a plain line tells it, where there is no terminal.
const LINE: Duration = Duration::from_secs(2);
/// How long the service may be away, as while it is restarted, before the command gives up watching.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// Columns of the bar.
const BAR: usize = 24;

/// What is watched, and how.
pub struct Watch<'a> {
    /// Asks how far it is.
    pub look: &'a dyn Fn() -> Result<Json, Failure>,
    /// Whether it is over.
    pub is_over: &'a dyn Fn(&Json) -> bool,
    /// How far it is, in a line.
    pub line: &'a dyn Fn(&Json) -> String,
    /// Whether nothing is shown.
    pub is_quiet: bool,
    /// What becomes of it while nobody answers.
    pub meanwhile: &'a str,
}

/// Asks until it is over, and shows how far it is.
pub fn watch(watch: &Watch<'_>) -> Result<Json, Failure> {
    let mut shown = Progress::new(watch.is_quiet);
    let mut seen = Instant::now();
    loop {
        match (watch.look)() {
            Ok(job) => {
                seen = Instant::now();
                let is_over = (watch.is_over)(&job);
                shown.show(&(watch.line)(&job), is_over)?;
                if is_over {
                    return Ok(job);
                }
            }
            Err(Failure::Runtime(error)) if seen.elapsed() > AWAY_MAX => {
                return Err(Failure::Runtime(format!("{error}\n{}", watch.meanwhile)));
            }
            // Restarting, most likely.
            Err(Failure::Runtime(_)) => {}
            Err(other) => return Err(other),
        }
        thread::sleep(LOOK);
    }
}

/// The line that tells how far it is. On a terminal it moves; elsewhere it comes now and then.
pub struct Progress {
    on_terminal: bool,
    is_quiet: bool,
    told: Instant,
    last: String,
}

impl Progress {
    /// A line on standard output; none when `is_quiet`.
    pub fn new(is_quiet: bool) -> Self {
        Self {
            on_terminal: std::io::stdout().is_terminal() && !is_quiet,
            is_quiet,
            told: Instant::now(),
            last: String::new(),
        }
    }

    /// Shows it. The last line, when it `is_over`, is shown in any case and stays.
    pub fn show(&mut self, line: &str, is_over: bool) -> Result<(), Failure> {
        if self.on_terminal {
            // Over the line before; what remains of it is wiped.
            return draw(&format!("\r{line}\x1b[K{}", if is_over { "\n" } else { "" }));
        }
        if !self.is_quiet && line != self.last && (is_over || self.told.elapsed() >= LINE) {
            print(&format!("{line}\n"))?;
            self.told = Instant::now();
            line.clone_into(&mut self.last);
        }
        Ok(())
    }
}

fn draw(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Failure::runtime)
}

/// How much of a whole, from 0 to 100.
pub fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        return 100.0;
    }
    (part as f64 / whole as f64 * 100.0).min(100.0)
}

/// The bar, and the number.
pub fn bar(percent: f64) -> String {
    // From 0 to 100, so the bar is never longer than it is.
    let full = ((percent / 100.0 * BAR as f64) as usize).min(BAR);
    format!("[{}{}] {percent:5.1}%", "#".repeat(full), "-".repeat(BAR - full))
}

/// An estimate, in what people count in.
pub fn duration(seconds: f64) -> String {
    // A fraction of a second is a second, and what is beyond a century is nobody's.
    let seconds = seconds.clamp(0.0, 3e9).ceil() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_to_do_is_all_done() {
        assert_eq!(bar(percent(0, 0)), "[########################] 100.0%");
        assert_eq!(bar(percent(1, 2)), "[############------------]  50.0%");
    }

    #[test]
    fn an_estimate_is_told_in_what_people_count_in() {
        assert_eq!(duration(0.2), "1 s");
        assert_eq!(duration(59.9), "1 min 0 s");
        assert_eq!(duration(7_300.0), "2 h 1 min");
    }
}
