//! Web addresses, parsed. An event's is looked at several times on its way, and many events have the same: parsing one costs as
//! much as reading a whole record.

use std::cell::RefCell;

use url::{ParseError, Url};

/// So many addresses are remembered by each thread, if they are not longer than so many bytes.
const KEPT: usize = 8;
const KEPT_BYTES_MAX: usize = 1_024;

thread_local! {
    static LATEST: RefCell<Vec<(Box<str>, Url)>> = const { RefCell::new(Vec::new()) };
}

/// Parses an address.
///
/// # Errors
/// What is wrong with it.
pub fn url(text: &str) -> Result<Url, ParseError> {
    if text.len() > KEPT_BYTES_MAX {
        return Url::parse(text);
    }
    LATEST.with_borrow_mut(|latest| {
        if let Some(index) = latest.iter().position(|(known, _)| **known == *text) {
            // The longest unused one is the last, and goes first.
            latest[..=index].rotate_right(1);
            return Ok(latest[0].1.clone());
        }
        let url = Url::parse(text)?;
        latest.truncate(KEPT - 1);
        latest.insert(0, (text.into(), url.clone()));
        Ok(url)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_its_own_however_often_and_in_whatever_order_it_is_asked_for() {
        let long = format!("http://long.example/{}", "x".repeat(KEPT_BYTES_MAX));
        for round in 0..3 {
            for number in (0..2 * KEPT).chain((0..KEPT / 2).rev()) {
                let text = format!("http://host-{number}.example/a?b#{}", round % 2);
                assert_eq!(url(&text), Url::parse(&text));
            }
            for text in ["", "http://", "http://a b/", "HTTP://A.example/../x", &long] {
                assert_eq!(url(text), Url::parse(text));
            }
        }
        assert!(LATEST.with_borrow(Vec::len) <= KEPT);
    }
}
