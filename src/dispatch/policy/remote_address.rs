//! The same client always to the same worker.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::Candidate;

/// How much of a client's address counts. Clients that share a prefix share a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefixes {
    v4: u8,
    v6: u8,
}

/// A prefix length is over 32 (IPv4) or 128 (IPv6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixesOutOfRange;

impl fmt::Display for PrefixesOutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a prefix length is 0 to 32 for IPv4 and 0 to 128 for IPv6")
    }
}

impl std::error::Error for PrefixesOutOfRange {}

impl Prefixes {
    /// # Errors
    /// A length is over the address's.
    pub fn new(v4: u8, v6: u8) -> Result<Self, PrefixesOutOfRange> {
        if v4 <= 32 && v6 <= 128 {
            Ok(Self { v4, v6 })
        } else {
            Err(PrefixesOutOfRange)
        }
    }

    /// The part of `address` that counts, as a number. An IPv4 client that reached an IPv6 listener
    /// (`::ffff:a.b.c.d`) counts as what it is.
    fn key(self, address: IpAddr) -> u128 {
        match address.to_canonical() {
            IpAddr::V4(a) => {
                let kept = u32::from(a)
                    .checked_shr(32 - u32::from(self.v4))
                    .unwrap_or(0);
                u128::from(kept)
            }
            IpAddr::V6(a) => {
                let kept = u128::from(a)
                    .checked_shr(128 - u32::from(self.v6))
                    .unwrap_or(0);
                // Keep the two families apart: ::1 is not 0.0.0.1. (With a prefix of 128 bits two
                // addresses of 8000::/1 may share a worker with an IPv4 one, which does no harm.)
                kept ^ (1 << 127)
            }
        }
    }
}

/// Whole IPv4 addresses, and /64 for IPv6: what one household or host usually has.
impl Default for Prefixes {
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

/// Rendezvous hashing (highest random weight; Thaler and Ravishankar, IEEE/ACM Transactions on
/// Networking 6(1), 1998): every ready worker gets a score from the client's address and its seat,
/// the highest wins. A lost worker moves only its own clients, and they come back with it.
#[derive(Debug, Clone)]
pub struct RemoteAddress {
    prefixes: Prefixes,
}

impl RemoteAddress {
    /// A policy that looks at this much of an address.
    pub fn new(prefixes: Prefixes) -> Self {
        Self { prefixes }
    }

    /// The index of the ready candidate with the highest score for `peer`.
    pub fn pick(&self, peer: IpAddr, candidates: &[Candidate]) -> Option<usize> {
        let weight = self.weight(peer);
        candidates
            .iter()
            .enumerate()
            .filter(|(_, c)| c.ready)
            .max_by_key(|(_, c)| weight(c.seat))
            .map(|(i, _)| i)
    }

    /// The score of each seat for `peer`.
    #[inline]
    pub(super) fn weight(&self, peer: IpAddr) -> impl Fn(u16) -> u64 + use<> {
        let key = self.prefixes.key(peer);
        let client = mix((key >> 64) as u64 ^ mix(key as u64));
        move |seat| {
            let salt = SALTS.get(usize::from(seat)).copied();
            mix(client ^ salt.unwrap_or_else(|| mix(u64::from(seat) + 1)))
        }
    }
}

/// What each seat brings to a score: half of the work, done once. Higher seats than there are in one
/// cluster are still scored.
static SALTS: [u64; 256] = {
    let mut salts = [0; 256];
    let mut seat = 0;
    while seat < salts.len() {
        salts[seat] = mix(seat as u64 + 1);
        seat += 1;
    }
    salts
};

/// The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection in which every
/// input bit moves every output bit with about even odds.
const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(prefixes: Prefixes, address: &str) -> u128 {
        prefixes.key(address.parse().expect("address"))
    }

    #[test]
    fn prefixes_decide_who_counts_as_one_client() {
        let p = Prefixes::default();
        assert_eq!(key(p, "2001:db8::1"), key(p, "2001:db8::2"));
        assert_ne!(key(p, "2001:db8:0:1::1"), key(p, "2001:db8:0:2::1"));
        assert_ne!(key(p, "10.0.0.1"), key(p, "10.0.0.2"));
        assert_eq!(key(p, "::ffff:10.0.0.1"), key(p, "10.0.0.1"));
        let all = Prefixes::new(0, 0).expect("in range");
        assert_eq!(key(all, "10.0.0.1"), key(all, "192.0.2.1"));
        assert_eq!(key(all, "::1"), key(all, "2001:db8::2"));
        assert_eq!(Prefixes::new(33, 0), Err(PrefixesOutOfRange));
        assert_eq!(Prefixes::new(0, 129), Err(PrefixesOutOfRange));
    }
}
