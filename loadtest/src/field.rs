//! The proxies under test, all running at once, each at an address of its own: the idle ones cost next to
//! nothing, and load goes to one after the other.

use std::net::SocketAddr;

use anyhow::Result;
use pointsman::bench::{Arena, Look};
use pointsman::compare;

use crate::arm::Arm;
use crate::ports::Ports;
use crate::site::{Server, Site};

/// All arms of a comparison.
pub(crate) struct Field {
    arms: Vec<compare::Arm>,
    // In the order of `arms`; they end before the upstream does.
    servers: Vec<Server>,
    _upstream: Server,
}

impl Field {
    /// Starts all of them, and a twin of the first: what these two differ by is noise.
    pub(crate) fn start(site: &Site<'_>, arms: &[Arm]) -> Result<Self> {
        let mut ports = Ports::new();
        let upstream = site.start_upstream(&mut ports)?;
        let mut servers = Vec::new();
        let described = described(arms);
        let with_twin = arms.first().into_iter().chain(arms);
        for (arm, described) in with_twin.zip(&described) {
            servers.push(site.start(*arm, &described.name, &upstream, &mut ports)?);
        }
        Ok(Self {
            arms: described,
            servers,
            _upstream: upstream,
        })
    }

    /// An error if somebody no longer answers as before: what was measured of it is then worth nothing.
    pub(crate) fn check_answers(&mut self) -> Result<()> {
        self.servers.iter_mut().try_for_each(Server::check_answers)
    }
}

/// The arms as they are compared: the first comes once more, as the second.
fn described(arms: &[Arm]) -> Vec<compare::Arm> {
    let describe = |arm: &Arm| compare::Arm {
        name: arm.to_string(),
        twin_of: None,
        configuration: arm.configuration(),
    };
    let mut described: Vec<compare::Arm> = arms.iter().map(describe).collect();
    if let Some(twin) = described.first().map(compare::Arm::twin) {
        described.insert(1, twin);
    }
    described
}

impl Arena for Field {
    fn arms(&self) -> &[compare::Arm] {
        &self.arms
    }

    async fn enter(&mut self, arm: usize) -> pointsman::Result<()> {
        self.servers[arm]
            .check_alive()
            .map_err(|error| pointsman::Error::failed(format!("{error:#}")))
    }

    fn target(&self, arm: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.servers[arm].port))
    }

    fn root(&self, arm: usize) -> i32 {
        self.servers[arm].pid
    }

    /// Peers do not say alike, or not at all, what goes on in them: none is asked.
    async fn look(&mut self, _: usize) -> pointsman::Result<Look> {
        Ok(Look::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_comes_twice() {
        let arms = ["pointsman:shared", "nginx"].map(|name| name.parse().expect("a good name"));
        let described = described(&arms);
        let names: Vec<&str> = described.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(
            names,
            ["pointsman:shared", "pointsman:shared, again", "nginx"]
        );
        assert_eq!(described[1].twin_of, Some(0));
        assert!(described[0].configuration.is_some() && described[2].configuration.is_none());
    }
}
