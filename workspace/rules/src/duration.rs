//! Durations as people write them in a rule file: `250ms`, `1.5s`, `3d`.

/// The longest duration that a rule may name, in milliseconds: a year.
pub(crate) const MS_MAX: u64 = 365 * 86_400_000;

/// What a duration must look like, for error messages.
pub(crate) const ACCEPTED: &str = "a number and ms, s, m, h or d, such as \"1.5s\", at most \"365d\"";

const UNITS: [(&str, u64); 5] = [
    // "ms" first: it ends with "s" as well.
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Reads a duration, in milliseconds. `None` when it is not one, is finer than a millisecond, or is above [`MS_MAX`].
pub(crate) fn parse(text: &str) -> Option<u64> {
    let (number, unit_ms) = UNITS
        .iter()
        .find_map(|(unit, ms)| text.strip_suffix(unit).map(|number| (number, *ms)))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || (number.contains('.') && !digits(fraction)) || fraction.len() > 6 {
        return None;
    }
    let mut ms = whole.parse::<u64>().ok()?.checked_mul(unit_ms)?;
    if !fraction.is_empty() {
        // At most 6 digits times a day in milliseconds: far below the limit of 64 bits.
        let scaled = fraction.parse::<u64>().ok()?.checked_mul(unit_ms)?;
        let divisor = 10_u64.pow(fraction.len() as u32);
        if !scaled.is_multiple_of(divisor) {
            return None;
        }
        ms = ms.checked_add(scaled / divisor)?;
    }
    (ms <= MS_MAX).then_some(ms)
}

/// Writes milliseconds as a duration in the largest units that say it shortly: `1.5s`, `2m`, `1h 30m`.
pub(crate) fn write(ms: u64) -> String {
    if ms < 1_000 {
        return format!("{ms}ms");
    }
    if ms < 60_000 {
        let (whole, rest) = (ms / 1_000, ms % 1_000);
        return match rest {
            0 => format!("{whole}s"),
            _ => format!("{whole}.{}s", format!("{rest:03}").trim_end_matches('0')),
        };
    }
    let mut rest = ms;
    let mut parts = Vec::new();
    for (unit, unit_ms) in UNITS.iter().rev().take(4) {
        if rest >= *unit_ms {
            parts.push(format!("{}{unit}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    // What is left below the second says nothing beside minutes.
    parts.truncate(2);
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_exact_or_refused() {
        for (text, expected) in [
            ("250ms", Some(250)),
            ("1.5s", Some(1_500)),
            ("2m", Some(120_000)),
            ("0.5d", Some(43_200_000)),
            ("365d", Some(MS_MAX)),
            ("0s", Some(0)),
            ("366d", None),
            ("1.5ms", None),
            ("0.0001s", None),
            ("5", None),
            ("s", None),
            ("-1s", None),
            (".5s", None),
            ("1.s", None),
            ("1 s", None),
            ("1e3s", None),
            ("99999999999999999999d", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_shortly() {
        for (ms, expected) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (1_050, "1.05s"),
            (60_000, "1m"),
            (5_400_000, "1h 30m"),
            (259_200_000, "3d"),
            (90_061_001, "1d 1h"),
        ] {
            assert_eq!(write(ms), expected);
        }
    }
}
