//! What a worker hosts.

use std::{
    error::Error as StdError,
    net::SocketAddr,
    task::{Context, Poll},
};

use hyper::{
    Request, Response,
    body::{Body, Incoming},
    service::Service,
};
use hyper_util::service::TowerToHyperService;

use super::{account::Interim, moved::Moved};
use crate::{conn::Accepted, dispatch::mode::Arm};

/// Who is at the other end of a connection, and how it came.
#[derive(Debug, Clone)]
pub struct Peer {
    address: SocketAddr,
    listener: u8,
    arm: Arm,
    interim: Interim,
    moved: Option<Moved>,
}

impl Peer {
    pub(super) fn new(conn: &Accepted, interim: Interim, moved: Option<Moved>) -> Self {
        Self {
            address: conn.peer,
            listener: conn.listener,
            arm: conn.arm,
            interim,
            moved,
        }
    }

    /// The client's address. An IPv4 client of an IPv6 listener is shown as IPv4.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip().to_canonical(), self.address.port())
    }

    /// How to send it interim responses.
    pub(crate) fn interim(&self) -> &Interim {
        &self.interim
    }

    /// Which of the cluster's listeners it came in by, from 0.
    pub fn listener(&self) -> usize {
        usize::from(self.listener)
    }

    /// What came along if another process has moved it here
    /// ([`Worker::send_connection`](crate::Worker::send_connection)), and from whom.
    pub fn message(&self) -> Option<&Moved> {
        self.moved.as_ref()
    }

    /// The mode and policy that brought it.
    pub fn arm(&self) -> Arm {
        self.arm
    }
}

/// An HTTP application that a worker hosts: it makes a service for every connection.
///
/// Every [`tower_service::Service`] of the right types is one (an axum `Router`, say); its clone
/// serves each connection. Implement it yourself where a connection's service needs to know its
/// [`Peer`] or keeps state of its own, as the built-in reverse proxy does. Nothing needs to be
/// `Send`: a worker is one thread.
pub trait Application: 'static {
    /// The body of its responses.
    type ResponseBody: Body<Data: Send, Error: Into<Box<dyn StdError + Send + Sync>>> + 'static;

    /// The service for a new connection.
    fn service(
        &self,
        peer: &Peer,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<Self::ResponseBody>,
        Error: Into<Box<dyn StdError + Send + Sync>>,
    > + 'static;
}

impl<S, B> Application for S
where
    S: tower_service::Service<Request<Incoming>, Response = Response<B>> + Clone + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn StdError + Send + Sync>>> + 'static,
{
    type ResponseBody = B;

    #[allow(
        refining_impl_trait_reachable,
        reason = "the concrete type promises nothing more"
    )]
    fn service(&self, _: &Peer) -> TowerToHyperService<S> {
        TowerToHyperService::new(self.clone())
    }
}

/// A service that answers every request by calling `answer`.
///
/// ```no_run
/// use std::convert::Infallible;
///
/// use http_body_util::Full;
/// use hyper::{Response, body::Bytes};
/// use pointsman::{Cluster, service_fn};
///
/// fn main() -> pointsman::Result<()> {
///     Cluster::new().listen("127.0.0.1:8080").serve(|worker| async move {
///         let id = worker.id();
///         service_fn(move |_request| async move {
///             let text = format!("hello from worker {id}\n");
///             Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text)))
///         })
///     })
/// }
/// ```
pub fn service_fn<F, Fut, B, E>(answer: F) -> ServiceFn<F>
where
    F: FnMut(Request<Incoming>) -> Fut,
    Fut: Future<Output = Result<Response<B>, E>>,
{
    ServiceFn(answer)
}

/// What [`service_fn`] makes.
#[derive(Debug, Clone, Copy)]
pub struct ServiceFn<F>(F);

impl<F, Fut, B, E> tower_service::Service<Request<Incoming>> for ServiceFn<F>
where
    F: FnMut(Request<Incoming>) -> Fut,
    Fut: Future<Output = Result<Response<B>, E>>,
{
    type Response = Response<B>;
    type Error = E;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Fut {
        (self.0)(request)
    }
}
