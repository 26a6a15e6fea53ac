//! The W3C trace context of a request: which trace an event belongs to for those who look at logs of several systems.
//!
//! <https://www.w3.org/TR/trace-context/#traceparent-header>

/// `00-<trace id, 32 hex>-<parent id, 16 hex>-<flags, 2 hex>`.
const LENGTH: usize = 55;

/// The flag that says that the caller records this trace.
const SAMPLED: u8 = 1;

/// The header's value if it names a trace that is recorded. Anything else is left aside, as the standard asks.
pub fn sampled(header: &str) -> Option<&str> {
    // A later version may say more behind what is known of it.
    let known = header.get(..LENGTH)?;
    let is_whole = header.len() == LENGTH || (!header.starts_with("00") && header.as_bytes()[LENGTH] == b'-');
    let mut parts = known.split('-');
    let version = hex(parts.next()?, 2)?;
    let trace = hex(parts.next()?, 32)?;
    let parent = hex(parts.next()?, 16)?;
    let flags = u8::from_str_radix(hex(parts.next()?, 2)?, 16).ok()?;
    let is_something = |id: &str| id.bytes().any(|byte| byte != b'0');
    let good = is_whole
        && parts.next().is_none()
        && version != "ff"
        && is_something(trace)
        && is_something(parent)
        && flags & SAMPLED != 0;
    good.then_some(known)
}

/// The trace id of a value that [`sampled`] gave.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    traceparent.get(3..35)
}

fn hex(part: &str, length: usize) -> Option<&str> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (part.len() == length && part.bytes().all(is_hex)).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_recorded_trace_is_taken() {
        assert_eq!(sampled(GOOD), Some(GOOD));
        assert_eq!(trace_id(GOOD), Some("0af7651916cd43dd8448eb211c80319c"));
        let later = GOOD.replacen("00", "01", 1) + "-more";
        assert_eq!(sampled(&later), later.get(..LENGTH));
    }

    #[test]
    fn everything_else_is_left_aside() {
        let zeros = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        let not_sampled = GOOD.replace("-01", "-00");
        for header in [
            "",
            "00",
            zeros,
            not_sampled.as_str(),
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &format!("{GOOD}-more"),
            &GOOD.replacen('-', "_", 1),
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0é",
        ] {
            assert_eq!(sampled(header), None, "{header}");
        }
    }
}
