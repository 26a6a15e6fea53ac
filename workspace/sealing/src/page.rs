//! Pages of stored lists of recipients, as the store keeps them: sealed, and bound to their place.

use crate::{
    OpenError, Ring, SealError,
    envelope::{ALGORITHM, BEGINNING},
};

/// What is bound begins with this: a page can never be taken for a payload, nor for a later form.
const VERSION: &str = "posthaste-list-1";

/// Where a page belongs: elsewhere it does not open.
#[derive(Debug, Clone, Copy)]
pub struct Leaf<'a> {
    /// Whose list it is.
    pub tenant: &'a str,
    /// The version of the list.
    pub version: &'a str,
    /// The page's number in it.
    pub number: u32,
}

impl Leaf<'_> {
    /// None of the parts has a line end.
    fn associated(&self, kid: &str) -> Vec<u8> {
        let Leaf {
            tenant,
            version,
            number,
        } = self;
        format!("{VERSION}\n{ALGORITHM}\n{kid}\n{tenant}\n{version}\n{number}").into_bytes()
    }
}

/// Whether a page is a sealed one. No recipient in clear begins so: its fields are others.
pub fn is_sealed_page(page: &str) -> bool {
    page.starts_with(BEGINNING)
}

impl Ring {
    /// Seals a page with the active key.
    ///
    /// # Errors
    /// When the library refuses, which it does for want of randomness.
    pub fn seal_page(&self, leaf: &Leaf<'_>, page: &str) -> Result<String, SealError> {
        self.enclose(page, |kid| Some(leaf.associated(kid)), "")
    }

    /// Opens what [`Ring::seal_page`] gave, at the same place.
    ///
    /// # Errors
    /// Whether the key is missing, or nothing will ever open it.
    pub fn open_page(&self, leaf: &Leaf<'_>, page: &str) -> Result<String, OpenError> {
        self.disclose(page, |kid, bound| match bound {
            None => Ok(leaf.associated(kid)),
            Some(_) => Err(OpenError::Broken("it is bound by something unknown")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAF: Leaf<'static> = Leaf {
        tenant: "acme",
        version: "v1",
        number: 7,
    };
    const PAGE: &str = "{\"payload\": {\"phoneNumber\": \"2025550103\"}}\n{\"payload\": {}}\n";

    #[test]
    fn a_page_opens_at_its_own_place_alone_and_shows_nothing() {
        let mut ring = Ring::generate(1_790_000_000_000).unwrap();
        let sealed = ring.seal_page(&LEAF, PAGE).unwrap();
        assert!(is_sealed_page(&sealed) && !is_sealed_page(PAGE));
        assert!(!sealed.contains("2025550103") && !sealed.contains('\n'));
        ring.rotate(1_790_000_001_000).unwrap();
        assert_eq!(ring.open_page(&LEAF, &sealed).unwrap(), PAGE);
        for leaf in [
            Leaf {
                tenant: "globex",
                ..LEAF
            },
            Leaf {
                version: "v2",
                ..LEAF
            },
            Leaf { number: 8, ..LEAF },
        ] {
            let opened = ring.open_page(&leaf, &sealed);
            assert!(
                matches!(opened, Err(OpenError::Broken(_))),
                "{leaf:?}: {opened:?}"
            );
        }
        let other = Ring::generate(1_790_000_002_000).unwrap();
        assert!(matches!(
            other.open_page(&LEAF, &sealed),
            Err(OpenError::UnknownKey { .. })
        ));
        for broken in [
            sealed.replace("\"data\":\"", "\"data\":\"AAAA"),
            sealed.replace("}}", ",\"bound\":\"plan\"}}"),
            PAGE.to_owned(),
        ] {
            assert!(
                matches!(ring.open_page(&LEAF, &broken), Err(OpenError::Broken(_))),
                "{broken}"
            );
        }
    }
}
