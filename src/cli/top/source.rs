//! Where reports come from: a master's control socket, or an admin interface, perhaps on another machine.

use std::{io::ErrorKind, path::PathBuf, time::Duration};

use tokio::{
    net::lookup_host,
    time::{Instant, timeout},
};

use crate::{
    compare::Report,
    control::{LiveReport, client},
    error::{Error, Result},
    rig::wire,
};

/// How long an admin interface may take for an answer that it has ready.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two questions about the comparison. It changes with each of its blocks only, and is long.
const COMPARISON_EVERY: Duration = Duration::from_secs(5);

/// Who is asked, and what of the last answer still holds.
#[derive(Debug)]
pub(super) struct Source {
    place: Place,
    comparison: Option<Report>,
    /// When it was asked for; `None`: not yet, or its master has gone since.
    compared: Option<Instant>,
}

/// Where to ask.
#[derive(Debug)]
enum Place {
    /// The master whose control socket this is.
    Control {
        /// The socket.
        path: PathBuf,
        /// Was it found, not named? Then it is looked for again when its master is gone.
        found: bool,
    },
    /// The admin interface at this host and port.
    Admin(String),
}

/// What the master said: its counters, and its comparison if it made one.
pub(super) type Said = (LiveReport, Option<Report>);

impl Source {
    /// The one that was asked for; by itself the only master that runs.
    ///
    /// # Errors
    /// `admin` is no address, or there is not exactly one master.
    pub(super) fn choose(control: Option<PathBuf>, admin: Option<&str>) -> Result<Self> {
        let place = match (control, admin) {
            (Some(path), _) => Place::Control { path, found: false },
            (None, Some(admin)) => Place::Admin(authority(admin)?),
            (None, None) => Place::Control {
                path: client::find()?,
                found: true,
            },
        };
        Ok(Self {
            place,
            comparison: None,
            compared: None,
        })
    }

    /// Asks now.
    ///
    /// # Errors
    /// Nobody is there, or does not answer, or may not be asked.
    pub(super) async fn ask(&mut self) -> Result<Said> {
        let live = match self.place.live().await {
            Ok(live) => live,
            Err(error) => {
                self.compared = None;
                return Err(error);
            }
        };
        if self
            .compared
            .is_none_or(|at| at.elapsed() >= COMPARISON_EVERY)
        {
            self.comparison = self.place.comparison().await;
            self.compared = Some(Instant::now());
        }
        Ok((live, self.comparison.clone()))
    }
}

impl Place {
    async fn live(&mut self) -> Result<LiveReport> {
        match self {
            Self::Control { path, found } => match client::live(path).await {
                // Its successor has another process id, and its socket another name.
                Err(error) if *found => match client::find() {
                    Ok(other) if other != *path => {
                        *path = other;
                        client::live(path).await
                    }
                    _ => Err(error),
                },
                live => live,
            },
            Self::Admin(authority) => page(authority, "/live").await,
        }
    }

    /// `None`: nothing has been compared, or there is no answer.
    async fn comparison(&self) -> Option<Report> {
        match self {
            Self::Control { path, .. } => client::comparison(path).await.ok(),
            Self::Admin(authority) => page(authority, "/comparison?brief").await.ok().flatten(),
        }
    }
}

/// `127.0.0.1:9900`, from that or from a URL of the admin interface.
fn authority(given: &str) -> Result<String> {
    let bare = given.strip_prefix("http://").unwrap_or(given);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    let port = bare.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    if bare.contains('/') || !matches!(port, Some(Ok(_))) {
        return Err(Error::usage(format!(
            "--admin {given} is no address of an admin interface: write it as http://127.0.0.1:9900 or 127.0.0.1:9900"
        )));
    }
    Ok(bare.into())
}

async fn page<T: serde::de::DeserializeOwned>(authority: &str, path: &str) -> Result<T> {
    let failed = |error: std::io::Error| {
        let url = format!("http://{authority}{path}");
        match error.kind() {
            ErrorKind::ConnectionRefused => Error::absent(format!(
                "nobody answers at {url}: is the master running, and is that its admin interface?"
            )),
            _ => Error::runtime(format!("no answer from {url}"), error),
        }
    };
    let exchange = async {
        let mut missed: std::io::Error = ErrorKind::NotFound.into();
        // A name has several: `localhost` often is ::1 before it is 127.0.0.1.
        for address in lookup_host(authority).await? {
            match wire::get(address, path).await {
                Ok(page) => return Ok(page),
                Err(error) => missed = error,
            }
        }
        Err(missed)
    };
    let page = timeout(ANSWER, exchange).await;
    let page = page.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    serde_json::from_slice(&page.map_err(failed)?).map_err(|_| {
        Error::failed(format!(
            "what answers at http://{authority}{path} is no master of this kind, or of another version"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_interface_is_named_by_its_address_or_url() {
        for given in [
            "127.0.0.1:99",
            "http://127.0.0.1:99",
            "http://127.0.0.1:99/",
        ] {
            assert_eq!(authority(given).expect(given), "127.0.0.1:99");
        }
        assert_eq!(authority("[::1]:99").expect("IPv6"), "[::1]:99");
        for given in [
            "",
            "host",
            "http://host/",
            "https://host:1",
            "host:http",
            "h:1/live",
        ] {
            assert!(authority(given).expect_err(given).is_usage(), "{given}");
        }
    }

    #[tokio::test]
    async fn whoever_is_not_there_is_told_apart() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = gone.local_addr().expect("bound").to_string();
        drop(gone);
        let mut source = Source::choose(None, Some(&address)).expect("an address");
        let error = source.ask().await.expect_err("nobody");
        assert_eq!(error.exit_code(), 3, "{error}");
        assert!(error.to_string().contains(&address), "{error}");
    }
}
