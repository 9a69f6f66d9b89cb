//! Worker groups and pins: clients of a network go to a group of workers, and everybody else to the rest.
//! Pure; which of a group's workers it is, the policy says, as ever.
//!
//! Groups have the first seats, in the order in which they are given. So a group's workers, and the rest,
//! stand side by side among the candidates, and a pick is made from a slice of them; and when the number
//! of workers changes, it is the rest that grows and shrinks.

use std::{collections::BTreeMap, fmt, net::IpAddr, ops::Range, str::FromStr};

use serde::{Deserialize, Serialize};

use super::policy::Candidate;

/// The number of the group of all workers that are in none. Groups count from 1.
pub const REST: usize = 0;

/// The longest name of a group, in bytes.
const LONGEST_NAME: usize = 32;

/// Worker groups, and who is sent to them.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// The groups; the first has the first seats.
    pub groups: Vec<WorkerGroup>,
    /// In any order: the longest prefix wins.
    pub rules: Vec<Pin>,
}

/// Workers that get the connections that are pinned to them and no others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerGroup {
    /// By which pins name it.
    pub name: String,
    /// How many workers are in it.
    pub workers: u16,
}

/// Clients of a network go to a group of workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The clients.
    pub from: Network,
    /// The name of the group.
    pub to: String,
}

/// All addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    length: u8,
}

/// The text is no group, pin or network; the message says what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPin(String);

impl fmt::Display for BadPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadPin {}

impl WorkerGroup {
    /// A group of this name.
    ///
    /// # Errors
    /// The name is empty, too long or holds what would be hard to read in a label; or there is nobody
    /// in it.
    pub fn new(name: &str, workers: u16) -> Result<Self, BadPin> {
        let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(fine) {
            return Err(BadPin(format!(
                "worker group '{name}': a name is 1 to {LONGEST_NAME} letters, digits, '-', '_' or '.'"
            )));
        }
        if workers == 0 {
            return Err(BadPin(format!(
                "worker group '{name}' of 0 workers: it takes at least 1"
            )));
        }
        Ok(Self {
            name: name.to_owned(),
            workers,
        })
    }
}

/// `special=1`.
impl FromStr for WorkerGroup {
    type Err = BadPin;

    fn from_str(text: &str) -> Result<Self, BadPin> {
        let (name, workers) = text
            .split_once('=')
            .ok_or_else(|| BadPin(format!("worker group '{text}': want NAME=WORKERS")))?;
        let number = workers.parse().map_err(|_| {
            BadPin(format!(
                "worker group '{name}': '{workers}' is no number of workers"
            ))
        })?;
        Self::new(name, number)
    }
}

/// `192.0.2.0/24=special`.
impl FromStr for Pin {
    type Err = BadPin;

    fn from_str(text: &str) -> Result<Self, BadPin> {
        let (from, to) = text
            .split_once('=')
            .ok_or_else(|| BadPin(format!("pin '{text}': want NETWORK=GROUP")))?;
        Ok(Self {
            from: from.parse()?,
            to: to.to_owned(),
        })
    }
}

impl Network {
    /// The addresses that share their first `length` bits with `address`, all others of which are 0. What
    /// IPv6 calls mapped IPv4 addresses are IPv4 addresses, as clients that come by them are.
    ///
    /// # Errors
    /// The address has no so many bits, or others behind them.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, BadPin> {
        let bits = width(address);
        if length > bits {
            return Err(BadPin(format!(
                "network '{address}/{length}': this address has {bits} bits"
            )));
        }
        let (address, length) = match address.to_canonical() {
            // The first 96 bits say only that it is one.
            mapped @ IpAddr::V4(_) if bits == 128 && length >= 96 => (mapped, length - 96),
            _ => (address, length),
        };
        let network = Self { address, length };
        let first = network.first();
        if first != address {
            return Err(BadPin(format!(
                "network '{address}/{length}' has bits set behind its first {length}: \
                 want {first}/{length}, or {address}/{}",
                width(address)
            )));
        }
        Ok(network)
    }

    /// Is this one of its addresses?
    pub fn holds(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        width(address) == width(self.address)
            && key(address, self.length) == key(self.address, self.length)
    }

    /// Its first address.
    fn first(self) -> IpAddr {
        let key = key(self.address, self.length);
        let behind = u32::from(width(self.address) - self.length);
        let first = key.checked_shl(behind).unwrap_or(0);
        match self.address {
            IpAddr::V4(_) => IpAddr::V4((first as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(first.into()),
        }
    }
}

/// `192.0.2.0/24`; an address alone is a network of one.
impl FromStr for Network {
    type Err = BadPin;

    fn from_str(text: &str) -> Result<Self, BadPin> {
        let bad = || {
            BadPin(format!(
                "network '{text}': want an address and a length (192.0.2.0/24, 2001:db8::/32)"
            ))
        };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let length = match length {
            None => width(address),
            // What `u8` reads besides, nobody writes.
            Some(text) if text.starts_with('+') => return Err(bad()),
            Some(text) => text.parse().map_err(|_| bad())?,
        };
        Self::new(address, length)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl TryFrom<String> for Network {
    type Error = BadPin;

    fn try_from(text: String) -> Result<Self, BadPin> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

/// How many bits an address has.
fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The first `length` bits of an address, as a number.
#[inline]
fn key(address: IpAddr, length: u8) -> u128 {
    let (bits, width) = match address {
        IpAddr::V4(a) => (u128::from(u32::from(a)), 32),
        IpAddr::V6(a) => (u128::from(a), 128),
    };
    bits.checked_shr(width - u32::from(length)).unwrap_or(0)
}

/// Sorts clients and seats into groups. Made once, asked for every connection; asking allocates nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sorter {
    pins: Pins,
    /// The first seat of each group from 1 on, and the first seat of the rest.
    borders: Vec<u16>,
    v4: Vec<Level>,
    v6: Vec<Level>,
    /// The group of each rule.
    numbers: Vec<usize>,
}

/// The pins of one length of prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Level {
    length: u8,
    /// The bits, and which rule it is, in ascending order.
    networks: Vec<(u128, usize)>,
}

impl Sorter {
    /// Sorts by `pins`; `None` where there is no group to sort into. Pins to a group that is not there
    /// have no say, of two for the same network one has it.
    pub fn new(pins: &Pins) -> Option<Self> {
        if pins.groups.is_empty() {
            return None;
        }
        let mut borders = vec![0_u16];
        for group in &pins.groups {
            let first = borders.last().copied().unwrap_or(0);
            borders.push(first.saturating_add(group.workers));
        }
        let number = |pin: &Pin| {
            let position = pins.groups.iter().position(|group| group.name == pin.to);
            position.map_or(REST, |i| i + 1)
        };
        let numbers: Vec<usize> = pins.rules.iter().map(number).collect();
        let levels = |width_wanted: u8| {
            let mut levels: BTreeMap<u8, Vec<(u128, usize)>> = BTreeMap::new();
            for (rule, pin) in pins.rules.iter().enumerate() {
                let Network { address, length } = pin.from;
                if numbers[rule] != REST && width(address) == width_wanted {
                    let level = levels.entry(length).or_default();
                    level.push((key(address, length), rule));
                }
            }
            let level = |(length, mut networks): (u8, Vec<(u128, usize)>)| {
                networks.sort_unstable();
                Level { length, networks }
            };
            // The longest first.
            levels.into_iter().rev().map(level).collect()
        };
        Some(Self {
            borders,
            v4: levels(32),
            v6: levels(128),
            pins: pins.clone(),
            numbers,
        })
    }

    /// How many groups there are, the rest included.
    pub fn groups(&self) -> usize {
        self.pins.groups.len() + 1
    }

    /// The group that a client is sent to: the one of the longest prefix that holds its address, or the
    /// rest.
    #[inline]
    pub fn group_of(&self, client: IpAddr) -> usize {
        self.rule_of(client).map_or(REST, |rule| self.numbers[rule])
    }

    /// What sends a client to a group; `None`: nothing, it is for the rest.
    pub fn pin_of(&self, client: IpAddr) -> Option<&Pin> {
        self.rule_of(client).map(|rule| &self.pins.rules[rule])
    }

    #[inline]
    fn rule_of(&self, client: IpAddr) -> Option<usize> {
        let client = client.to_canonical();
        let levels = match client {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        levels.iter().find_map(|level| {
            let key = key(client, level.length);
            let found = level.networks.partition_point(|(first, _)| *first < key);
            let (first, rule) = level.networks.get(found)?;
            (*first == key).then_some(*rule)
        })
    }

    /// The group that a seat is in.
    #[inline]
    pub fn group_of_seat(&self, seat: u16) -> usize {
        match self.borders.partition_point(|border| *border <= seat) {
            group if group < self.borders.len() => group,
            _ => REST,
        }
    }

    /// The name of a group; `None` for the rest.
    pub fn name(&self, group: usize) -> Option<&str> {
        let group = self.pins.groups.get(group.checked_sub(1)?)?;
        Some(&group.name)
    }

    /// Which of `candidates`, in ascending order of seat, are in each group: `among[group]`.
    #[inline]
    pub fn split(&self, candidates: &[Candidate], among: &mut Vec<Range<usize>>) {
        among.clear();
        let before = |seat: u16| candidates.partition_point(|c| c.seat < seat);
        let rest = self.borders.last().copied().unwrap_or(0);
        among.push(before(rest)..candidates.len());
        for borders in self.borders.windows(2) {
            among.push(before(borders[0])..before(borders[1]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().expect(text)
    }

    #[test]
    fn networks_are_read_and_shown() {
        for (text, shown) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("::1", "::1/128"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ] {
            assert_eq!(network(text).to_string(), shown);
            assert_eq!(network(shown), network(text));
        }
        for (text, why) in [
            ("192.0.2.0/33", "has 32 bits"),
            ("::/129", "has 128 bits"),
            ("192.0.2.1/24", "want 192.0.2.0/24, or 192.0.2.1/32"),
            ("2001:db8::1/64", "want 2001:db8::/64"),
            ("192.0.2/24", "'192.0.2/24'"),
            ("192.0.2.0/", "want an address and a length"),
            ("192.0.2.0/+8", "want an address and a length"),
            ("localhost", "'localhost'"),
            ("", "''"),
        ] {
            let error = text.parse::<Network>().expect_err(text).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_two_kinds_of_address_are_kept_apart() {
        let all = |text| network(text).holds("10.0.0.1".parse().expect("address"));
        assert!(all("0.0.0.0/0") && !all("::/0"));
        let mapped = "::ffff:10.0.0.1".parse().expect("address");
        assert!(network("10.0.0.0/8").holds(mapped) && !network("::/0").holds(mapped));
        let other = "2001:db8::1".parse().expect("address");
        assert!(network("::/0").holds(other) && !network("0.0.0.0/0").holds(other));
    }

    #[test]
    fn groups_and_pins_are_read_and_what_cannot_be_is_refused() {
        let group: WorkerGroup = "special=2".parse().expect("a group");
        assert_eq!(group, WorkerGroup::new("special", 2).expect("a group"));
        let pin: Pin = "10.0.0.0/8=special".parse().expect("a pin");
        assert_eq!((pin.from, &*pin.to), (network("10.0.0.0/8"), "special"));
        for text in ["special", "=1", "a b=1", "x=0", "x=-1", "x=99999", "ä=1"] {
            let error = text.parse::<WorkerGroup>().expect_err(text).to_string();
            assert!(error.starts_with("worker group '"), "{error}");
        }
        let long = format!("{}=1", "x".repeat(33));
        assert!(long.parse::<WorkerGroup>().is_err());
        for text in ["10.0.0.0/8", "special=10.0.0.0/8", "10.0.0.0/9=a=b/"] {
            let parsed = text.parse::<Pin>();
            // A name is looked for among the groups, where this one is not.
            assert!(parsed.is_err() || parsed.is_ok_and(|pin| pin.to == "a=b/"));
        }
    }
}
