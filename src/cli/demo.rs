//! The demo upstreams: `pointsman serve --demo` starts them, each a process of its own, as real
//! upstreams are; `pointsman demo-upstream` runs one by itself.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use clap::Args;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    Ready,
    config::Endpoint,
    demo,
    error::{Error, Result},
    master::Companions,
    sys::{
        child::{Child, hold_signals},
        fdpass,
        readiness::watch,
    },
};

/// Run one demo upstream: an ordinary HTTP app with /, /slow?ms=, /spin?us=, /bytes?n=, /echo, /hash,
/// /headers, /status?code= and a WebSocket echo at /ws.
#[derive(Debug, Args)]
pub(super) struct DemoUpstream {
    /// Address to listen on; port 0 takes any free port.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:3000")]
    listen: SocketAddr,

    /// The name by which it signs its answers.
    #[arg(long, default_value = "demo")]
    name: String,

    /// Take the listener from the parent process, and end with it.
    #[arg(long, hide = true)]
    inherit: bool,
}

impl DemoUpstream {
    pub(super) fn run(self) -> Result<()> {
        let failed = |error| Error::runtime(format!("demo upstream on {}", self.listen), error);
        let (listener, line) = if self.inherit {
            crate::sys::child::call_by_program_name();
            let (listener, line) = inherit().map_err(failed)?;
            (listener, Some(line))
        } else {
            (listen(self.listen).map_err(failed)?, None)
        };
        listener.set_nonblocking(true).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
            if line.is_none() {
                let address = listener.local_addr().map_err(failed)?;
                crate::notice(format_args!(
                    "demo upstream '{}' on http://{address}",
                    self.name
                ));
            }
            demo::serve(listener, &self.name, stopped(line))
                .await
                .map_err(failed)
        })
    }
}

/// A listener with room for a burst; the standard library's has room for 128.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    socket2::SockRef::from(&listener).listen(4096)?;
    Ok(listener)
}

/// Waits for a signal, or for the parent's end.
async fn stopped(line: Option<OwnedFd>) {
    use tokio::{
        io::Interest,
        signal::unix::{SignalKind, signal},
    };
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => _ = signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    let has_parent = line.is_some();
    let interrupt = async {
        if has_parent {
            // Ctrl-C is for the parent to act on.
            std::future::pending().await
        } else {
            _ = tokio::signal::ctrl_c().await;
        }
    };
    let orphaned = async {
        match line.map(|line| watch(line, Interest::READABLE)) {
            Some(Ok(line)) => _ = line.readable().await,
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminate => {}
        () = interrupt => {}
        () = orphaned => {}
    }
}

/// The listener that [`DemoUpstreams::start`] sends, and the line on which its end will show.
fn inherit() -> io::Result<(TcpListener, OwnedFd)> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "no listener inherited");
    let line = crate::sys::child::inherited_channel()?.ok_or_else(missing)?;
    let mut descriptors = Vec::new();
    fdpass::receive(line.as_fd(), &mut [0; 8], &mut descriptors)?;
    let listener = descriptors.pop().ok_or_else(missing)?;
    Ok((TcpListener::from(listener), line))
}

/// Demo upstreams, running and kept so; dropping this ends them.
#[derive(Default)]
pub(super) struct DemoUpstreams {
    endpoints: Vec<Endpoint>,
    keepers: Vec<Keeper>,
}

/// Keeps one demo upstream running: a thread that starts it, and starts it again should it end.
struct Keeper {
    name: String,
    listener: Arc<TcpListener>,
    state: Arc<Mutex<Kept>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Kept {
    running: Option<Running>,
    stopping: bool,
}

/// A demo upstream's process, which ends when the line does.
struct Running {
    process: Arc<Child>,
    line: OwnedFd,
}

/// What the next binary is to know of a demo upstream. Its descriptors are the listener and the line.
#[derive(Serialize, Deserialize)]
struct Carried {
    name: String,
    pid: i32,
}

/// How long after its end a demo upstream is started again.
const PAUSE: Duration = Duration::from_millis(200);

impl DemoUpstreams {
    /// Starts two, on any free ports.
    pub(super) fn start() -> Result<Self> {
        let failed = |error| Error::runtime("cannot start the demo upstreams", error);
        let mut demo = Self::default();
        for name in ["north", "south"] {
            let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).map_err(failed)?;
            let running = spawn(name, &listener).map_err(failed)?;
            demo.keep(name, listener, running).map_err(failed)?;
        }
        Ok(demo)
    }

    /// Takes over those that the binary before has kept.
    pub(super) fn resume(words: &str, descriptors: Vec<OwnedFd>) -> Result<Self> {
        let failed = |error| Error::runtime("cannot go on with the demo upstreams", error);
        let carried: Vec<Carried> =
            serde_json::from_str(words).map_err(|error| failed(error.into()))?;
        let mut descriptors = descriptors.into_iter();
        let mut demo = Self::default();
        for Carried { name, pid } in carried {
            let (Some(listener), Some(line)) = (descriptors.next(), descriptors.next()) else {
                return Err(failed(io::ErrorKind::InvalidData.into()));
            };
            let listener = TcpListener::from(listener);
            let running = match Child::resume(pid) {
                Ok(process) => Running {
                    process: Arc::new(process),
                    line,
                },
                // It has ended in the meantime.
                Err(_) => spawn(&name, &listener).map_err(failed)?,
            };
            demo.keep(&name, listener, running).map_err(failed)?;
        }
        Ok(demo)
    }

    fn keep(&mut self, name: &str, listener: TcpListener, running: Running) -> io::Result<()> {
        let endpoint = listener.local_addr()?.to_string().parse();
        self.endpoints.push(endpoint.map_err(io::Error::other)?);
        self.keepers.push(Keeper::start(name, listener, running)?);
        Ok(())
    }

    /// Where they are.
    pub(super) fn endpoints(&self) -> &Vec<Endpoint> {
        &self.endpoints
    }
}

impl Companions for DemoUpstreams {
    fn pack(&self) -> io::Result<(String, Vec<OwnedFd>)> {
        let (mut carried, mut descriptors) = (Vec::new(), Vec::new());
        for keeper in &self.keepers {
            let kept = lock(&keeper.state);
            let gone = || io::Error::other(format!("demo upstream '{}' is gone", keeper.name));
            let running = kept.running.as_ref().ok_or_else(gone)?;
            carried.push(Carried {
                name: keeper.name.clone(),
                pid: running.process.pid(),
            });
            descriptors.push(keeper.listener.as_fd().try_clone_to_owned()?);
            descriptors.push(running.line.try_clone()?);
        }
        Ok((serde_json::to_string(&carried)?, descriptors))
    }
}

impl Keeper {
    fn start(name: &str, listener: TcpListener, running: Running) -> io::Result<Self> {
        let (name, listener) = (name.to_owned(), Arc::new(listener));
        let mut process = running.process.clone();
        let state = Arc::new(Mutex::new(Kept {
            running: Some(running),
            stopping: false,
        }));
        let thread = thread::Builder::new().name(name.clone()).spawn({
            let (name, listener, state) = (name.clone(), listener.clone(), state.clone());
            move || {
                hold_signals();
                loop {
                    let exit = process.wait();
                    if lock(&state).stopping {
                        return;
                    }
                    let how = exit.map_or_else(|error| error.to_string(), |exit| exit.to_string());
                    crate::notice(format_args!(
                        "demo upstream '{name}' ended with {how}; starting it again"
                    ));
                    thread::sleep(PAUSE);
                    // Not to be started again while it is being stopped.
                    let mut kept = lock(&state);
                    match spawn(&name, &listener) {
                        _ if kept.stopping => return,
                        Ok(running) => {
                            process = running.process.clone();
                            kept.running = Some(running);
                        }
                        Err(error) => {
                            kept.running = None;
                            crate::notice(format_args!("demo upstream '{name}' is gone: {error}"));
                            return;
                        }
                    }
                }
            }
        })?;
        Ok(Self {
            name,
            listener,
            state,
            thread: Some(thread),
        })
    }
}

fn lock(state: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts one demo upstream.
fn spawn(name: &str, listener: &TcpListener) -> io::Result<Running> {
    let (ours, theirs) = fdpass::pair()?;
    // Waits in the line until the child reads it.
    fdpass::send(ours.as_fd(), b"listener", [listener.as_fd()].into_iter())?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("pointsman")
        .args(["demo-upstream", "--inherit", "--name", name]);
    Ok(Running {
        process: Arc::new(Child::spawn(command, theirs)?),
        line: ours,
    })
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let running = {
            let mut kept = lock(&self.state);
            kept.stopping = true;
            kept.running.take()
        };
        if let Some(running) = running {
            // The proxy in front of it has drained, or was told to end at once.
            let _ = running.process.signal(Signal::SIGKILL);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What to try.
pub(super) fn invitation(ready: &Ready) -> String {
    let Some(proxy) = ready.listen.first() else {
        return String::new();
    };
    let mut lines = format!(
        "try, in another terminal or a browser:\n\
         \n    http://{proxy}/                         a page from a demo upstream, through the proxy\
         \n    curl 'http://{proxy}/slow?ms=300'       an answer that takes its time\
         \n    curl -d hello http://{proxy}/echo       a body there and back"
    );
    if let Some(admin) = ready.admin {
        lines.push_str(&format!(
            "\n    http://{admin}/                         what it does now, to look at in a browser\
             \n    http://{admin}/metrics                  what it measures\
             \n    http://{admin}/workers                  what each worker does now"
        ));
    }
    if ready.control.is_some() {
        lines.push_str(
            "\n    pointsman ctl status                         what it does now; ctl --help for what it can be told",
        );
    }
    lines.push_str("\n\nCtrl-C ends it.");
    lines
}
