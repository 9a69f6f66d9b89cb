//! What went wrong with a request, named by who is at fault, because that decides the status code.
//! Pure.

use std::io;

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};

/// Why a request has no answer of the upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The client's: what it sent is no request that can be forwarded.
    Malformed(&'static str),
    /// The client's: a method that ends at a reverse proxy.
    Method,
    /// The client's: its request's body broke off.
    BodyBrokeOff,
    /// The client's: the rest of its request's body did not come in time.
    BodyTimeout,
    /// The upstream's: no endpoint let us connect.
    Refused,
    /// The upstream's: it closed the connection, or answered what is no HTTP.
    Broken,
    /// The upstream's: it did not accept the connection in time.
    ConnectTimeout,
    /// The upstream's: it did not begin to answer in time.
    FirstByteTimeout,
    /// Ours: no descriptor, port or memory is left.
    Exhausted,
}

impl Fault {
    /// Whose fault is an error of connecting?
    pub(super) fn of_connecting(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(
                libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL,
            ) => Self::Exhausted,
            _ if error.kind() == io::ErrorKind::TimedOut => Self::ConnectTimeout,
            _ => Self::Refused,
        }
    }

    /// Is the upstream to blame?
    pub(super) fn is_upstreams(self) -> bool {
        self.status().is_server_error() && self != Self::Exhausted
    }

    /// The one place where faults become status codes (RFC 9110, section 15).
    fn status(self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::BodyBrokeOff => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Refused | Self::Broken => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::FirstByteTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Malformed(what) => what,
            Self::Method => "this method cannot be forwarded\n",
            Self::BodyBrokeOff => "the request's body broke off\n",
            Self::BodyTimeout => "the rest of the request's body did not come in time\n",
            Self::Refused => "the upstream refused the connection\n",
            Self::Broken => "the upstream closed the connection or gave no valid answer\n",
            Self::ConnectTimeout => "the upstream did not accept the connection in time\n",
            Self::FirstByteTimeout => "the upstream did not answer in time\n",
            Self::Exhausted => "the proxy is out of connections\n",
        }
    }

    /// The answer that the client gets.
    pub(super) fn response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from_static(self.text().as_bytes()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        match self {
            // Nothing that follows a refused request may be taken for another one.
            Self::Malformed(_) | Self::BodyBrokeOff | Self::BodyTimeout => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Self::Method => {
                let allowed = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";
                headers.insert(ALLOW, HeaderValue::from_static(allowed));
            }
            Self::Exhausted => _ = headers.insert(RETRY_AFTER, HeaderValue::from_static("1")),
            _ => {}
        }
        response
    }
}
