//! The upstream: its endpoints, which one gets the next request, and the connections to them.

mod connect;
mod link;

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::Duration,
};

use hyper::header::HeaderValue;
use tokio::time::{MissedTickBehavior, interval, timeout};

pub(super) use self::{
    connect::Socket,
    link::{Driven, Link},
};
use super::fault::Fault;
use crate::{
    config::{Address, Endpoint, ProxyConfig, UpstreamTimeouts},
    scoreboard::{self, class, count::add},
    worker::Worker,
};

/// How long an endpoint that refused a connection is only asked when no other is left.
const SHUNNED: Duration = Duration::from_secs(1);
/// How often unused connections are looked through while there are any.
const SWEEP: Duration = Duration::from_secs(5);

/// All endpoints, as one worker sees them.
pub(super) struct Upstream {
    config: ProxyConfig,
    worker: Worker,
    pools: Vec<Pool>,
    /// Whose turn it is.
    next: Cell<usize>,
    sweeping: Cell<bool>,
}

/// The unused connections to one endpoint, last in, first out: the warmest is used first, and what
/// is not needed grows old at the bottom.
#[derive(Default)]
struct Pool {
    #[allow(
        clippy::vec_box,
        reason = "a link is large, and moves between pools and bodies"
    )]
    idle: RefCell<Vec<Box<Link>>>,
    /// It refused a connection: until then others go first. Monotonic nanoseconds.
    shunned_until: Cell<u64>,
}

impl Upstream {
    pub(super) fn new(config: ProxyConfig, worker: Worker) -> Rc<Self> {
        let pools = config.endpoints.iter().map(|_| Pool::default()).collect();
        Rc::new(Self {
            config,
            worker,
            pools,
            next: Cell::new(0),
            sweeping: Cell::new(false),
        })
    }

    pub(super) fn timeouts(&self) -> &UpstreamTimeouts {
        &self.config.timeouts
    }

    /// Are interim responses passed on?
    #[inline]
    pub(super) fn relays_interim(&self) -> bool {
        self.config.interim_responses
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Endpoints that a request may try: each of them once.
    pub(super) fn len(&self) -> usize {
        self.pools.len()
    }

    /// *Select*: the endpoint for the next attempt. Each in turn; those that refused a moment ago
    /// only when all have.
    pub(super) fn select(&self) -> usize {
        let n = self.pools.len();
        if n == 1 {
            return 0;
        }
        let first = self.next.get();
        let now = self.worker.now();
        let turn = (0..n).map(|i| (first + i) % n);
        let picked = turn
            .clone()
            .find(|i| self.pools[*i].shunned_until.get() <= now)
            .unwrap_or(first);
        self.next.set((picked + 1) % n);
        picked
    }

    /// An unused connection to an endpoint. It may turn out to have been closed: what is sent over
    /// it then comes back unsent.
    #[inline]
    pub(super) fn reuse(&self, endpoint: usize) -> Option<Box<Link>> {
        let mut idle = self.pools[endpoint].idle.borrow_mut();
        loop {
            let mut link = idle.pop()?;
            if link.is_ready() || link.is_usable() {
                return Some(link);
            }
        }
    }

    /// A new connection to an endpoint.
    ///
    /// # Errors
    /// As `connect(2)`; `TimedOut` after the configured time.
    pub(super) async fn connect(&self, endpoint: usize) -> io::Result<Box<Link>> {
        let connecting = Socket::connect(self.endpoint(endpoint).address());
        let connected = timeout(self.timeouts().connect, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match connected {
            Ok(socket) => Link::new(socket, endpoint, &self.worker).await,
            Err(error) => {
                // If we are out of descriptors, the endpoint is not to blame.
                if Fault::of_connecting(&error).is_upstreams() {
                    self.failed(endpoint);
                    self.shun(endpoint);
                }
                Err(error)
            }
        }
    }

    fn shun(&self, endpoint: usize) {
        let until = self.worker.now() + SHUNNED.as_nanos() as u64;
        self.pools[endpoint].shunned_until.set(until);
    }

    /// Takes a connection back whose response has ended. Whether it can serve again is looked at
    /// when it is used again, or swept: by then more has come, and once is enough.
    #[inline]
    pub(super) fn keep(self: &Rc<Self>, mut link: Box<Link>) {
        link.idle_since = self.worker.now();
        let mut idle = self.pools[link.endpoint].idle.borrow_mut();
        if idle.len() < self.config.idle_connections {
            idle.push(link);
        }
        drop(idle);
        if !self.sweeping.replace(true) {
            tokio::task::spawn_local(self.clone().sweep());
        }
    }

    /// Closes connections that were unused too long or that the other end has closed, until none is
    /// left. An idle worker has no connection and no timer.
    async fn sweep(self: Rc<Self>) {
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let limit = self.timeouts().idle.as_nanos() as u64;
        while self.pools.iter().any(|pool| !pool.idle.borrow().is_empty()) {
            ticks.tick().await;
            let now = self.worker.now();
            for pool in &self.pools {
                pool.idle
                    .borrow_mut()
                    .retain_mut(|link| now - link.idle_since.min(now) < limit && link.is_usable());
            }
        }
        self.sweeping.set(false);
    }

    /// What to call an endpoint in a request whose client did not say.
    pub(super) fn host(&self, endpoint: usize) -> HeaderValue {
        let name = match self.endpoint(endpoint).address() {
            Address::Tcp { .. } => HeaderValue::try_from(self.endpoint(endpoint).to_string()),
            Address::Unix(_) => Ok(HeaderValue::from_static("localhost")),
        };
        name.unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    fn endpoint(&self, endpoint: usize) -> &Endpoint {
        &self.config.endpoints[endpoint]
    }

    fn counters(&self, endpoint: usize) -> &scoreboard::Endpoint {
        &self.worker.row().endpoints[self.worker.endpoint_column(endpoint)]
    }

    /// Counts an answer of an endpoint, and whether its connection had served before.
    #[inline]
    pub(super) fn answered(&self, endpoint: usize, status: hyper::StatusCode, reused: bool) {
        let counters = self.counters(endpoint);
        add(&counters.requests[class(status.as_u16())], 1);
        add(&counters.reused, u64::from(reused));
    }

    /// Counts that none came.
    pub(super) fn unanswered(&self, endpoint: usize) {
        add(&self.counters(endpoint).requests[scoreboard::ABORTED], 1);
        self.failed(endpoint);
    }

    fn failed(&self, endpoint: usize) {
        add(&self.counters(endpoint).failures, 1);
    }
}
