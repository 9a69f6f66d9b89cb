//! The built-in application: a reverse proxy.
//!
//! A request's path: [`forward`] prepares it ([`headers`]), [`upstream`] selects an endpoint and finds
//! or makes a connection to it, the response comes back as a [`body`] that returns the connection to
//! its pool when it ends. Whatever goes wrong is a [`fault`], named by who is to blame.
//!
//! The connection to the upstream is driven by the task of the client's connection, not by one of
//! its own: a request costs no hand-over between tasks.

mod body;
mod fault;
mod forward;
mod headers;
mod request_body;
mod tunnel;
mod upstream;

use std::{cell::RefCell, error::Error as StdError, rc::Rc};

use hyper::{
    Request, Response,
    body::Incoming,
    header::{HeaderName, HeaderValue},
    service::{Service, service_fn},
};

use self::{body::ProxyBody, upstream::Upstream};
use crate::{
    config::{Endpoint, ProxyConfig},
    error::{Error, Result},
    worker::{Alarm, Application, Peer, Worker},
};

/// The reverse proxy, as it runs in one worker.
pub(crate) struct Proxy {
    upstream: Rc<Upstream>,
}

impl Proxy {
    /// The proxy that the master's configuration asks for.
    ///
    /// # Errors
    /// The worker was not given a proxy's configuration.
    pub(crate) fn new(worker: &Worker) -> Result<Self> {
        let config: ProxyConfig = serde_json::from_str(worker.application())
            .map_err(|error| Error::failed(format!("no proxy configuration inherited: {error}")))?;
        Ok(Self {
            upstream: Upstream::new(config, worker.clone()),
        })
    }

    /// Does `endpoint` accept a connection now?
    ///
    /// # Errors
    /// It does not; as `connect(2)`.
    pub(crate) async fn probe(endpoint: &Endpoint) -> std::io::Result<()> {
        upstream::Socket::connect(endpoint.address())
            .await
            .map(drop)
    }
}

/// What the requests of one client connection share.
struct Client {
    upstream: Rc<Upstream>,
    peer: Peer,
    /// The value of `X-Forwarded-For`.
    address: HeaderValue,
    /// The fields of the present request, see [`forward`].
    fields: RefCell<Vec<(HeaderName, HeaderValue)>>,
    /// For whatever the present request waits for.
    alarm: RefCell<Alarm>,
}

impl Application for Proxy {
    type ResponseBody = ProxyBody;

    fn service(
        &self,
        peer: &Peer,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<ProxyBody>,
        Error: Into<Box<dyn StdError + Send + Sync>>,
    > + 'static {
        let address = HeaderValue::try_from(peer.address().ip().to_string())
            .expect("an IP address is a valid field value");
        let client = Rc::new(Client {
            upstream: self.upstream.clone(),
            peer: peer.clone(),
            address,
            fields: RefCell::default(),
            alarm: RefCell::default(),
        });
        service_fn(move |request| forward::forward(client.clone(), request))
    }
}
