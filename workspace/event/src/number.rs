//! Whole numbers as clients write them.

/// The whole number that `json` is: `5`, and `5.0` too, as some clients write it.
pub fn whole(json: &str) -> Option<u64> {
    /// From here on not every whole number is a float.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let float = || {
        let number: f64 = json.parse().ok()?;
        let is_whole = number.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&number);
        is_whole.then(|| format!("{:.0}", number.abs()).parse().ok())?
    };
    json.parse().ok().or_else(float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_may_be_written_as_a_float() {
        for (json, number) in [
            ("5", 5),
            ("5.0", 5),
            ("1e3", 1_000),
            ("18446744073709551615", u64::MAX),
            ("-0.0", 0),
        ] {
            assert_eq!(whole(json), Some(number), "{json}");
        }
        for json in [
            "5.5",
            "-1",
            "-1.0",
            "1e300",
            "x",
            "",
            "NaN",
            "inf",
            "18446744073709551616",
        ] {
            assert_eq!(whole(json), None, "{json}");
        }
    }
}
