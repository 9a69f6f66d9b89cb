//! Addresses of upstream endpoints.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

/// One address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    address: Address,
}

/// How an endpoint is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    /// `host:port`, the host an address or a name that is looked up at each connect.
    Tcp {
        /// An IPv6 address without its brackets.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// How it is reached.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointError {
    text: String,
    why: &'static str,
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "upstream '{}': {}", self.text, self.why)
    }
}

impl std::error::Error for EndpointError {}

impl FromStr for Endpoint {
    type Err = EndpointError;

    /// Reads `http://host[:port]`, `host:port` or `unix:/path`.
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let refuse = |why| {
            Err(EndpointError {
                text: text.to_owned(),
                why,
            })
        };
        if let Some(path) = text.strip_prefix("unix:") {
            // sockaddr_un holds 108 bytes, the last one zero.
            return match path.len() {
                0 => refuse("a path is missing (unix:/run/app.sock)"),
                1..108 => Ok(Self {
                    address: Address::Unix(PathBuf::from(path)),
                }),
                _ => refuse("the path of a Unix socket has at most 107 bytes"),
            };
        }
        let (authority, default_port) = match text.split_once("://") {
            Some(("http", rest)) => (rest.strip_suffix('/').unwrap_or(rest), Some(80)),
            Some(("https", _)) => {
                return refuse("TLS to upstreams is not supported yet, use http://");
            }
            Some(_) => return refuse("unknown scheme, use http://host:port or unix:/path"),
            None => (text, None),
        };
        if authority.contains(['/', '?', '#']) {
            return refuse("a path has no place here: requests keep their own");
        }
        if authority.contains('@') {
            return refuse("user information has no place here");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or("x"))),
                None => return refuse("the bracket of an IPv6 address is not closed"),
            },
            None => match authority.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return refuse("an IPv6 address stands in brackets ([::1]:3000)");
                }
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return refuse("a host is missing (http://127.0.0.1:3000)");
        }
        let port = match (port, default_port) {
            (Some(port), _) => port.parse().ok().filter(|p| *p != 0),
            (None, default) => default,
        };
        match port {
            Some(port) => Ok(Self {
                address: Address::Tcp {
                    host: host.to_owned(),
                    port,
                },
            }),
            None => refuse("a port from 1 to 65535 is missing (http://127.0.0.1:3000)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_shown_alike() {
        for (text, shown) in [
            ("http://127.0.0.1:3000", "127.0.0.1:3000"),
            ("http://app/", "app:80"),
            ("app:3000", "app:3000"),
            ("http://[::1]:3000", "[::1]:3000"),
            ("http://[::1]", "[::1]:80"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
        ] {
            assert_eq!(text.parse::<Endpoint>().expect(text).to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_a_reason() {
        for text in [
            "",
            "http://",
            "http://:80",
            "app",
            "app:0",
            "app:65536",
            "app:x",
            "http://a/b",
            "http://a?b",
            "https://a",
            "ftp://a",
            "http://u@a",
            "::1:80",
            "http://[::1",
            "http://[::1]x",
            "unix:",
            "a b:80",
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(
                error.starts_with(&format!("upstream '{text}': ")),
                "{error}"
            );
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(long.parse::<Endpoint>().is_err());
    }
}
