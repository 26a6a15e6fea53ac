//! Where a URL from outside may lead: to public addresses, and to ranges that the operator allows.
//!
//! Checked where it counts: when a connection is made, on the very addresses that are then used. A name that resolves to
//! something else the second time (DNS rebinding) gains nothing. Connections that are kept were checked when they were made, and
//! are shared with nobody whose addresses are not checked. Redirects are not followed, and what proxies do is not ours to see:
//! so there is none, unless the operator says otherwise.

mod lookup;
mod ranges;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

pub(crate) use self::lookup::{Lookup, Unresolved};

/// Ports that belong to other protocols, whose servers might take a request of ours for theirs.
/// Source: "bad ports" of the Fetch standard, <https://fetch.spec.whatwg.org/#port-blocking>.
const PORTS_OF_OTHERS: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103,
    104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514,
    515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723,
    2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10_080,
];

/// Why a place may not be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forbidden {
    /// The address is not public, or it is refused.
    Address,
    /// The port is another protocol's.
    Port,
    /// The URL holds a user or a password.
    User,
}

impl Forbidden {
    /// The failure's code.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Address => "address_not_public",
            Self::Port => "port_not_allowed",
            Self::User => "address_with_user",
        }
    }
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => {
                "the address is not public; `allowed_cidrs` under [provider] can allow its range"
            }
            Self::Port => "the port belongs to another protocol than HTTP",
            Self::User => "the address holds a user or a password",
        })
    }
}

impl std::error::Error for Forbidden {}

/// Refuses addresses that are not public.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guard {
    allowed: Arc<[IpNet]>,
    refused: Arc<[IpNet]>,
    lookup: Lookup,
    lookup_limit: Duration,
}

impl Guard {
    /// `refused` comes before `allowed`, and that before what is public.
    pub(crate) fn new(
        allowed: Vec<IpNet>,
        refused: Vec<IpNet>,
        lookup: Lookup,
        lookup_limit: Duration,
    ) -> Self {
        let meant = |ranges: Vec<IpNet>| ranges.into_iter().map(ranges::range_meant).collect();
        Self {
            allowed: meant(allowed),
            refused: meant(refused),
            lookup,
            lookup_limit,
        }
    }

    pub(crate) fn check(&self, address: IpAddr) -> Result<(), Forbidden> {
        let address = ranges::meant(address);
        let is_in = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&address));
        if !is_in(&self.refused) && (is_in(&self.allowed) || ranges::is_public(address)) {
            Ok(())
        } else {
            Err(Forbidden::Address)
        }
    }

    /// Checks all that a URL says itself. A host that is an address is looked at here, since nobody resolves it.
    pub(crate) fn check_url(&self, url: &url::Url) -> Result<(), Forbidden> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Forbidden::User);
        }
        if url.port().is_some_and(|port| PORTS_OF_OTHERS.contains(&port)) {
            return Err(Forbidden::Port);
        }
        match url.host() {
            Some(url::Host::Ipv4(address)) => self.check(address.into()),
            Some(url::Host::Ipv6(address)) => self.check(address.into()),
            Some(url::Host::Domain(_)) => Ok(()),
            None => Err(Forbidden::Address),
        }
    }

    /// The addresses of a name that may be called; an error when it has some, and none of them may.
    pub(crate) async fn addresses(
        &self,
        name: &str,
    ) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
        let mut found = self.lookup.addresses(name, self.lookup_limit).await?;
        let is_any = !found.is_empty();
        found.retain(|address| self.check(address.ip()).is_ok());
        if is_any && found.is_empty() {
            return Err(Forbidden::Address.into());
        }
        Ok(found)
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move { Ok(Box::new(guard.addresses(name.as_str()).await?.into_iter()) as Addrs) })
    }
}
