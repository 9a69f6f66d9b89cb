//! How a master joins others on NATS.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::Refusal;

/// How a master meets others through NATS, so that their processes are on one bus: to which servers it
/// connects, as whom, and what the masters take for proof that they are among themselves.
///
/// Secrets are never said here: a file holds each, which nobody but the user that the master runs as, or
/// becomes, may read. They are read again at each connect, so they can be changed while it runs.
///
/// ```no_run
/// use pointsman::{BusOptions, Cluster};
///
/// let bus = BusOptions::nats("tls://nats-1.example.net,tls://nats-2.example.net")
///     .password_file("pointsman", "/etc/pointsman/nats.password")
///     .secret_file("/etc/pointsman/bus.secret")
///     .prefix("shop");
/// let cluster = Cluster::new().listen("0.0.0.0:8080").bus(bus);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusOptions {
    /// URLs, each perhaps several with commas between.
    pub(crate) servers: Vec<String>,
    pub(crate) prefix: String,
    pub(crate) user: Option<String>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) nkey_file: Option<PathBuf>,
    pub(crate) credentials: Option<PathBuf>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) secret_file: Option<PathBuf>,
    pub(crate) beat: Duration,
    pub(crate) expiry: Option<Duration>,
}

/// Under which subjects masters meet if nobody says otherwise.
pub const USUAL_PREFIX: &str = "pointsman";
/// How often a master says that it is there, if nobody says otherwise.
const USUAL_BEAT: Duration = Duration::from_secs(2);
/// Beats that may be missed before a master is taken for gone, if nobody says otherwise.
const BEATS_MISSED: f64 = 3.5;

const SHORTEST_BEAT: Duration = Duration::from_millis(50);
const LONGEST_EXPIRY: Duration = Duration::from_secs(3600);
const USUAL_PORT: u16 = 4222;
const LONGEST_PREFIX: usize = 64;

impl BusOptions {
    /// Meets other masters on these servers: `nats://HOST[:PORT]` or `tls://HOST[:PORT]`, several with
    /// commas between; any that can be had. Who is given `tls://` or a [`ca`](Self::ca) speaks TLS or not
    /// at all.
    pub fn nats(servers: impl Into<String>) -> Self {
        Self {
            servers: vec![servers.into()],
            prefix: USUAL_PREFIX.into(),
            user: None,
            password_file: None,
            token_file: None,
            nkey_file: None,
            credentials: None,
            ca: None,
            cert: None,
            key: None,
            secret_file: None,
            beat: USUAL_BEAT,
            expiry: None,
        }
    }

    /// Who has the same prefix, and only those, meet; `pointsman` by default. All subjects begin with it.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Shows the server this user and the password in `file`.
    pub fn password_file(mut self, user: impl Into<String>, file: impl AsRef<Path>) -> Self {
        self.user = Some(user.into());
        self.password_file = Some(file.as_ref().into());
        self
    }

    /// Shows the server the token in `file`.
    pub fn token_file(mut self, file: impl AsRef<Path>) -> Self {
        self.token_file = Some(file.as_ref().into());
        self
    }

    /// Proves to the server that this master has the NKey seed in `file`.
    pub fn nkey_file(mut self, file: impl AsRef<Path>) -> Self {
        self.nkey_file = Some(file.as_ref().into());
        self
    }

    /// Shows the server the JWT in this credentials file, and proves that this master has its NKey.
    pub fn credentials(mut self, file: impl AsRef<Path>) -> Self {
        self.credentials = Some(file.as_ref().into());
        self
    }

    /// Trusts servers whose certificates one of those in this PEM file has signed; by default those that
    /// the machine trusts.
    pub fn ca(mut self, file: impl AsRef<Path>) -> Self {
        self.ca = Some(file.as_ref().into());
        self
    }

    /// Shows the server this certificate, whose key is in a file of its own; both PEM.
    pub fn certificate(mut self, cert: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.cert = Some(cert.as_ref().into());
        self.key = Some(key.as_ref().into());
        self
    }

    /// Signs what it says with the secret in `file`, at least 16 bytes, and believes only those who have
    /// the same. Without one, whoever may publish on the NATS server may speak for any master.
    pub fn secret_file(mut self, file: impl AsRef<Path>) -> Self {
        self.secret_file = Some(file.as_ref().into());
        self
    }

    /// Says this often that it is there; every 2 s by default, at least every hour and at most 20 times
    /// a second.
    pub fn beat(mut self, every: Duration) -> Self {
        self.beat = every;
        self
    }

    /// Is taken for gone by the others once they have heard nothing for so long; 3.5 beats by default.
    pub fn expiry(mut self, after: Duration) -> Self {
        self.expiry = Some(after);
        self
    }

    /// After how long without a word others take it for gone.
    pub(crate) fn expires_after(&self) -> Duration {
        self.expiry.unwrap_or(self.beat.mul_f64(BEATS_MISSED))
    }

    /// The servers, each `scheme://host:port`.
    ///
    /// # Errors
    /// The first that is none.
    pub(crate) fn urls(&self) -> Result<Vec<String>, Refusal> {
        let mut urls = Vec::new();
        for (i, list) in self.servers.iter().enumerate() {
            for text in list.split(',').map(str::trim) {
                let url = url(text).map_err(|why| Refusal::of(&["bus"], i, why))?;
                urls.push(url);
            }
        }
        if urls.is_empty() {
            return Err(Refusal::new(
                &["bus"],
                "bus: a server is missing (nats://127.0.0.1:4222)",
            ));
        }
        Ok(urls)
    }

    /// Does it speak TLS, whatever the server thinks of it?
    pub(crate) fn demands_tls(&self) -> bool {
        let tls = |list: &String| list.split(',').any(|url| url.trim().starts_with("tls://"));
        self.ca.is_some() || self.cert.is_some() || self.servers.iter().any(tls)
    }

    /// Checks all that can be checked without touching the machine.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        self.urls()?;
        let word = |word: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            !word.is_empty() && word.chars().all(plain)
        };
        if self.prefix.len() > LONGEST_PREFIX || !self.prefix.split('.').all(word) {
            return Err(Refusal::new(
                &["bus-prefix"],
                format!(
                    "bus-prefix '{}': letters, digits, - and _, in words with dots between \
                     (shop.east), at most {LONGEST_PREFIX} in all",
                    self.prefix
                ),
            ));
        }
        self.check_identity()?;
        self.check_times()
    }

    fn check_identity(&self) -> Result<(), Refusal> {
        let refused = |settings, message: &str| Err(Refusal::new(settings, message));
        match (&self.user, &self.password_file) {
            (Some(_), None) => {
                let message =
                    "bus-user without bus-password-file: say which file holds the password";
                return refused(&["bus-user"], message);
            }
            (None, Some(_)) => {
                let message = "bus-password-file without bus-user: say whose password it is";
                return refused(&["bus-password-file"], message);
            }
            _ => {}
        }
        if self.cert.is_some() != self.key.is_some() {
            let message = "bus-cert and bus-key go together: give both or none";
            return refused(&["bus-cert", "bus-key"], message);
        }
        let ways = [
            ("bus-user", self.user.is_some()),
            ("bus-token-file", self.token_file.is_some()),
            ("bus-nkey-file", self.nkey_file.is_some()),
            ("bus-credentials", self.credentials.is_some()),
        ];
        let mut given = ways.iter().filter(|(_, given)| *given);
        if let (Some((one, _)), Some((other, _))) = (given.next(), given.next()) {
            let message = format!("{one} and {other}: a master has one way to say who it is");
            let settings = &[
                "bus-credentials",
                "bus-nkey-file",
                "bus-token-file",
                "bus-user",
            ];
            return refused(settings, &message);
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), Refusal> {
        if self.beat < SHORTEST_BEAT {
            return Err(Refusal::new(
                &["bus-beat"],
                format!(
                    "bus-beat {} s: at least {} s",
                    self.beat.as_secs_f64(),
                    SHORTEST_BEAT.as_secs_f64()
                ),
            ));
        }
        let expiry = self.expires_after();
        if expiry < self.beat.mul_f64(1.5) || expiry > LONGEST_EXPIRY {
            return Err(Refusal::new(
                &["bus-expiry", "bus-beat"],
                format!(
                    "bus-expiry {} s: at least one beat and a half ({} s), and at most an hour",
                    expiry.as_secs_f64(),
                    self.beat.mul_f64(1.5).as_secs_f64()
                ),
            ));
        }
        Ok(())
    }
}

/// Reads one server. What it says of a text that may hold a password does not repeat it.
fn url(text: &str) -> Result<String, String> {
    if text.contains('@') {
        return Err(
            "bus: a URL with a user or a password in it is refused: say bus-user, and put the \
             password into a file (bus-password-file)"
                .into(),
        );
    }
    let refused = |why: &str| Err(format!("bus '{text}': {why}"));
    let Some((scheme @ ("nats" | "tls"), rest)) = text.split_once("://") else {
        return refused("it takes nats://HOST[:PORT] or tls://HOST[:PORT]");
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
        Some((host, port)) => (format!("[{host}]"), port.strip_prefix(':')),
        None => match authority.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (authority.to_owned(), None),
        },
    };
    let odd = |c: char| !(c.is_ascii_alphanumeric() || "-_.:[]".contains(c));
    if host.is_empty() || host == "[]" || host.contains(odd) {
        return refused("a host is missing (nats://127.0.0.1:4222)");
    }
    let port = match port.map_or(Some(USUAL_PORT), |port| port.parse().ok()) {
        Some(port @ 1..) => port,
        _ => return refused("a port from 1 to 65535 is missing (nats://127.0.0.1:4222)"),
    };
    Ok(format!("{scheme}://{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(options: &BusOptions) -> Refusal {
        let refusal = options.check().expect_err("it cannot be");
        assert_eq!(refusal.message.lines().count(), 1, "{}", refusal.message);
        refusal
    }

    #[test]
    fn servers_are_read() {
        let options = BusOptions::nats("nats://a, tls://b:1,nats://[::1]/");
        let urls = options.urls().expect("servers");
        assert_eq!(urls, ["nats://a:4222", "tls://b:1", "nats://[::1]:4222"]);
        assert!(options.demands_tls());
        assert!(!BusOptions::nats("nats://a").demands_tls());
        assert!(BusOptions::nats("nats://a").ca("f").demands_tls());
        assert_eq!(options.check(), Ok(()));
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for text in [
            "",
            "a",
            "http://a",
            "nats://",
            "nats://:1",
            "nats://a:0",
            "nats://a:x",
            "nats://[::1",
            "nats://a,",
            "nats://a/b",
            "nats://a b",
            "ws://a",
        ] {
            let refusal = refusal(&BusOptions::nats(text));
            assert_eq!(refusal.settings, ["bus"], "{text}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        for text in ["nats://me:hunter2@a", "tls://hunter2@a:1", "me:hunter2@a"] {
            let message = refusal(&BusOptions::nats(text)).message;
            assert!(!message.contains("hunter2"), "{message}");
            assert!(message.contains("bus-password-file"), "{message}");
        }
    }

    #[test]
    fn who_one_is_is_said_once_and_whole() {
        let usual = || BusOptions::nats("nats://a");
        let with = |change: fn(&mut BusOptions)| {
            let mut options = usual();
            change(&mut options);
            refusal(&options).settings[0]
        };
        assert_eq!(with(|o| o.user = Some("u".into())), "bus-user");
        let password = with(|o| o.password_file = Some("p".into()));
        assert_eq!(password, "bus-password-file");
        assert_eq!(with(|o| o.cert = Some("p".into())), "bus-cert");
        assert_eq!(with(|o| o.key = Some("p".into())), "bus-cert");
        let twice = usual().token_file("t").nkey_file("n");
        let message = refusal(&twice).message;
        assert!(
            message.contains("bus-token-file and bus-nkey-file"),
            "{message}"
        );
        for once in [
            usual().password_file("u", "p"),
            usual().token_file("t"),
            usual().nkey_file("n").certificate("c", "k"),
            usual().credentials("c").secret_file("s"),
        ] {
            assert_eq!(once.check(), Ok(()));
        }
    }

    #[test]
    fn prefixes_and_times_have_limits() {
        let usual = || BusOptions::nats("nats://a");
        for prefix in ["", "a.", "a b", "a.*", ">", "$SYS", &"a".repeat(65)] {
            assert_eq!(refusal(&usual().prefix(prefix)).settings, ["bus-prefix"]);
        }
        assert_eq!(usual().prefix("shop.east-1").check(), Ok(()));
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        assert_eq!(refusal(&usual().beat(ms(49))).settings, ["bus-beat"]);
        for expiry in [s(2), s(3601)] {
            let refusal = refusal(&usual().expiry(expiry));
            assert_eq!(refusal.settings[0], "bus-expiry");
        }
        assert_eq!(usual().beat(ms(50)).expiry(s(3600)).check(), Ok(()));
        assert_eq!(usual().expires_after(), s(7));
    }
}
