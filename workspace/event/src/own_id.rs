//! Ids that clients choose for their events: each tenant has a space of its own.
//!
//! An event is kept, found and told apart by one id. One that is drawn here nobody else has. One that a client chose is kept as
//! `tenant~id`, so that what one tenant calls its events is no other tenant's business; the default tenant's stay as they are. Whoever is
//! bound to a tenant says and is shown the part that is its own. Before there were such spaces, ids were kept as they were chosen: so what
//! is looked up may be there in either form.

/// The tenant of whoever names none.
pub const TENANT_DEFAULT: &str = "default";

/// Stands between a tenant and what it chose: neither can hold it, and a path takes it as it is.
pub const MARK: char = '~';

/// The id of an event that its client calls `own`.
pub fn kept(tenant: &str, own: &str) -> String {
    if tenant == TENANT_DEFAULT {
        return own.to_owned();
    }
    format!("{tenant}{MARK}{own}")
}

/// What this tenant calls an event of its own.
pub fn shown<'a>(tenant: &str, id: &'a str) -> &'a str {
    let own = id.strip_prefix(tenant).and_then(|rest| rest.strip_prefix(MARK));
    own.unwrap_or(id)
}

/// The ids that an event may have which this tenant calls `name`; the one to be taken first, if there are several.
pub fn meant(tenant: &str, name: &str) -> Vec<String> {
    let as_it_is = name.to_owned();
    if tenant == TENANT_DEFAULT || name.contains(MARK) {
        return vec![as_it_is];
    }
    vec![kept(tenant, name), as_it_is]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tenants_choose_never_meets_and_is_shown_as_it_was_chosen() {
        let mut all: Vec<String> = ["default", "a", "b", "a.b"]
            .into_iter()
            .flat_map(|tenant| ["x", "b-x", "a", "a:x"].map(|own| kept(tenant, own)))
            .collect();
        assert_eq!(all.len(), 16);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 16);
        for tenant in ["default", "a", "a.b"] {
            let id = kept(tenant, "order:1");
            assert_eq!(shown(tenant, &id), "order:1");
            assert_eq!(meant(tenant, "order:1")[0], id);
            // The whole of it means the same event.
            assert_eq!(meant(tenant, &id)[0], id);
        }
    }

    #[test]
    fn what_is_not_its_own_stays_as_it_is() {
        let drawn = "0199f0a1-0000-7000-8000-000000000001";
        for id in [drawn, "b~x", "ab~x", "a", "a.b~x"] {
            assert_eq!(shown("a", id), id);
        }
        assert_eq!(shown("a", "a~x.device"), "x.device");
        // As drawn, or as chosen before there were spaces.
        assert_eq!(meant("a", drawn)[1], drawn);
        assert_eq!(meant("a", "b~x"), ["b~x"]);
        assert_eq!(meant("default", "x"), ["x"]);
    }
}
