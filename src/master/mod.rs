//! The master process: binds, starts the workers, accepts, picks, hands over, supervises and answers
//! the admin interface. It never reads a byte of a request, and survives anything a worker does.
//!
//! Two threads: the [`dispatcher`], and the control runtime with everything else.

mod admin;
mod backoff;
mod dispatcher;
mod lane;
mod process;
mod supervisor;

use std::{future::Future, os::fd::OwnedFd, sync::Arc};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::{dispatcher::Rules, supervisor::Supervisor};
use crate::{
    config::{ClusterConfig, Listen},
    error::{Error, Result},
    listener::ListenerGroup,
    scoreboard::Scoreboard,
    status::Status,
};

/// What the master runs with, all of it checked.
pub(crate) struct Plan {
    pub(crate) config: ClusterConfig,
    /// What the application asked for, in its own words.
    pub(crate) application: String,
    /// Names of the upstream endpoints, for labels.
    pub(crate) endpoints: Vec<String>,
    /// Called with the addresses once every worker is ready.
    pub(crate) on_ready: Option<OnReady>,
}

/// Where a cluster can be reached, told to [`Cluster::on_ready`](crate::Cluster::on_ready).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Ready {
    /// The addresses that it listens on, in the order in which they were asked for, with real ports.
    pub listen: Vec<std::net::SocketAddr>,
    /// The address of the admin interface, with its real port.
    pub admin: Option<std::net::SocketAddr>,
    /// Worker processes.
    pub workers: u16,
}

/// What is to be done once every worker is ready.
pub(crate) type OnReady = Box<dyn FnOnce(&Ready)>;

/// Runs a worker inside the master, on a thread of its own, over this end of a control line.
pub(crate) type ServeHere = Box<dyn FnOnce(OwnedFd) -> std::io::Result<()> + Send>;

/// Runs the master until it is told to stop. `serve_here` is used if the master serves too.
///
/// # Errors
/// The configuration is wrong, an address cannot be had, or the first workers say that they are
/// unfit.
pub(crate) fn run(plan: Plan, serve_here: ServeHere) -> Result<()> {
    let workers = plan.config.validate()?.get();
    let seats = usize::from(workers) + usize::from(plan.config.master_serves);
    raise_descriptor_limit(plan.config.listen.len(), seats)?;
    let groups = plan
        .config
        .listen
        .iter()
        .map(|listen| match listen {
            Listen::Address(address) => ListenerGroup::bind(*address, seats),
            Listen::Passed(_) => Err(Error::failed(format!("no listener {listen} was passed"))),
        })
        .collect::<Result<Arc<[_]>>>()?;
    let board = Scoreboard::create()
        .map_err(|error| Error::runtime("cannot make the scoreboard in shared memory", error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(|error| Error::runtime("cannot start the control runtime", error))?;
    let rules = Rules {
        arm: plan.config.arm,
        prefixes: plan.config.prefixes,
        signal: plan.config.load_signal,
    };
    let dispatcher = dispatcher::start(groups.clone(), board.clone(), rules)
        .map_err(|error| Error::runtime("cannot start the dispatcher", error))?;
    runtime.block_on(async {
        let addresses = groups
            .iter()
            .map(|group| group.address().to_string())
            .collect();
        let endpoints = plan.endpoints.iter().cloned().collect();
        let status = Status::new(
            board.clone(),
            workers,
            plan.config.arm,
            addresses,
            endpoints,
        );
        let admin = match plan.config.admin {
            Some(address) => Some(admin::start(address, status.clone()).await?),
            None => None,
        };
        let ready = Ready {
            listen: groups.iter().map(ListenerGroup::address).collect(),
            admin,
            workers,
        };
        Supervisor::new(plan, groups, board, dispatcher, status)
            .run(ready, serve_here)
            .await
    })
}

/// Every connection costs descriptors: takes what the hard limit allows (workers inherit it), and
/// refuses to start where not even the cluster's own would fit.
fn raise_descriptor_limit(listeners: usize, seats: usize) -> Result<()> {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Ok(());
    };
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        crate::notice(format_args!(
            "the limit of open files stays at {soft}: {error}"
        ));
    }
    // Lines, pidfds and listeners, and some for runtimes, the scoreboard and a first connection.
    let needed = 40 + listeners * (seats + 1) + 4 * seats;
    if hard < needed as u64 {
        return Err(Error::failed(format!(
            "the limit of open files is {hard}: this takes at least {needed} (ulimit -Hn), or fewer workers"
        )));
    }
    Ok(())
}

/// Boxes what [`run`] needs to serve in the master itself.
pub(crate) fn serve_here<F, Fut, A>(factory: F) -> ServeHere
where
    F: FnOnce(crate::Worker) -> Fut + Send + 'static,
    Fut: Future<Output = A> + 'static,
    A: crate::Application,
{
    Box::new(move |line| crate::worker::run(line, factory))
}
