//! A cluster seen from outside: one of our own, in a process of its own, or one that runs already. Drills
//! put faults into it, and `pointsman bench` measures it.

pub(crate) mod wire;

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    fs::File,
    io::{BufRead, BufReader, ErrorKind},
    net::{SocketAddr, UdpSocket},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{sleep, timeout};

use serde::Serialize;

use crate::{
    control::{StatusReport, Verb, WorkerReport, WorkersReport, client},
    error::{Error, Result},
    sys::tie,
};

/// How long the cluster may take to do anything at all before that counts as broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// How long a page of the admin interface may take.
const PAGE: Duration = Duration::from_secs(10);
/// How long a cluster of our own may take to end before it is killed.
const END: Duration = Duration::from_secs(15);
/// A folder that was made less than this ago is left alone.
const YOUNG: Duration = Duration::from_secs(60);
/// Lines of its log that are kept.
const LOG: usize = 60;

/// Waits until `look` gives a value.
///
/// # Errors
/// It did not within [`DEADLINE`], or it failed.
pub(crate) async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(value) = look().await? {
            return Ok(value);
        }
        if begun.elapsed() > DEADLINE {
            let seconds = DEADLINE.as_secs();
            return Err(Error::failed(format!(
                "waited {seconds} s in vain until {what}"
            )));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// A folder that only we can look into and that goes when this does; if we are killed, when the next one is made.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Says that it is in use.
    _lock: Option<Flock<File>>,
}

/// What the names of our folders begin with; our pid follows.
const FOLDER: &str = "pointsman-rig-";

impl Folder {
    /// Makes one.
    pub(crate) fn make() -> Result<Self> {
        sweep(&std::env::temp_dir());
        for n in 0..1000 {
            let name = format!("{FOLDER}{}-{n}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    return Ok(Self {
                        _lock: lock(&path),
                        path,
                    });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let what = format!("cannot make the folder {}", path.display());
                    return Err(Error::runtime(what, error));
                }
            }
        }
        let all = std::env::temp_dir();
        Err(Error::failed(format!(
            "{} is full of old folders named pointsman-rig-*: remove them",
            all.display()
        )))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Removes folders that nobody uses any more: whoever made them has been killed. A container that shares the
/// folder for temporary files has processes of its own, so that a pid alone would not tell.
fn sweep(all: &Path) {
    let Ok(entries) = std::fs::read_dir(all) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| {
            let (pid, _) = name.strip_prefix(FOLDER)?.split_once('-')?;
            pid.parse::<u32>().ok()
        });
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let Some(owner) = owner.filter(|_| is_folder) else {
            continue;
        };
        // One that has just been made may not be locked yet.
        let modified = entry.metadata().and_then(|about| about.modified());
        let age = modified.ok().and_then(|at| at.elapsed().ok());
        let is_old = age.is_some_and(|age| age > YOUNG);
        if is_old && !Path::new(&format!("/proc/{owner}")).exists() {
            let path = entry.path();
            if let Some(_held) = lock(&path) {
                // Another's stays: we may not remove it.
                let _ = std::fs::remove_dir_all(&path);
            }
        }
    }
}

/// `None`: it is somebody's.
fn lock(folder: &Path) -> Option<Flock<File>> {
    let file = File::open(folder).ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}

/// What the master and its processes hold.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Footprint {
    /// Open descriptors of the master.
    pub(crate) descriptors: u64,
    /// Resident memory of the master.
    pub(crate) rss_kib: u64,
    /// Its children.
    pub(crate) processes: u64,
    /// Those of them that ended and were not reaped.
    pub(crate) zombies: u64,
}

/// The cluster that is looked at.
#[derive(Debug)]
pub(crate) struct Subject {
    /// Where clients connect.
    pub(crate) target: SocketAddr,
    /// Where it says what it does.
    admin: SocketAddr,
    /// Where it takes commands.
    control: PathBuf,
    /// The master.
    pub(crate) pid: i32,
    own: Option<Own>,
}

/// A cluster of our own. Dropping it ends it.
#[derive(Debug)]
struct Own {
    process: Child,
    log: Arc<Mutex<VecDeque<String>>>,
}

/// The counters at one moment, by name with labels.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn read(page: &str) -> Self {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(series.collect())
    }

    /// The sum of all series of this name with that label.
    pub(crate) fn sum(&self, name: &str, label: &str) -> u64 {
        let is_it = |series: &str| series.split('{').next() == Some(name) && series.contains(label);
        let sum: f64 = self
            .0
            .iter()
            .filter(|(series, _)| is_it(series))
            .map(|(_, value)| value)
            .sum();
        sum as u64
    }

    /// Counters that have gone down, or away, since `earlier`.
    pub(crate) fn fallen_since(&self, earlier: &Self) -> Vec<String> {
        let counts = |series: &str| {
            let name = series.split('{').next().unwrap_or(series);
            let ends = ["_total", "_count", "_bucket", "_sum"];
            name.starts_with("pointsman_") && ends.iter().any(|end| name.ends_with(end))
        };
        earlier
            .0
            .iter()
            .filter(|(series, _)| counts(series))
            .filter_map(|(series, before)| match self.0.get(series) {
                None => Some(format!("{series} is gone (it was {before})")),
                Some(after) if after < before => {
                    Some(format!("{series} went from {before} to {after}"))
                }
                Some(_) => None,
            })
            .collect()
    }
}

impl Subject {
    /// Starts a cluster with `arguments` for `serve`, which must name a control socket at `control`,
    /// a listener and an admin interface.
    pub(crate) async fn start(arguments: &[OsString], control: PathBuf) -> Result<Self> {
        let program = std::env::current_exe()
            .map_err(|error| Error::runtime("cannot find our own binary", error))?;
        let mut command = Command::new(program);
        command
            .arg("serve")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        tie::to_us(&mut command);
        let mut process = command
            .spawn()
            .map_err(|error| Error::runtime("cannot start a cluster", error))?;
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let stderr = process.stderr.take();
        let mut own = Own { process, log };
        let (announce, announced) = mpsc::channel();
        if let Some(stderr) = stderr {
            let log = own.log.clone();
            // Ends with the cluster.
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(|line| line.ok()) {
                    if let Some(addresses) = announcement(&line) {
                        let _ = announce.send(addresses);
                    }
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    if log.len() == LOG {
                        log.pop_front();
                    }
                    log.push_back(line);
                }
            });
        }
        let addresses = until("a cluster is ready", async || match announced.try_recv() {
            Ok(addresses) => Ok(Some(addresses)),
            Err(_) if own.has_ended() => {
                // Its last words may be on their way still.
                sleep(Duration::from_millis(50)).await;
                let why = own.log().pop().unwrap_or_default();
                Err(Error::failed(format!("the cluster does not start: {why}")))
            }
            Err(_) => Ok(None),
        })
        .await?;
        Ok(Self {
            target: addresses.0,
            admin: addresses.1,
            control,
            pid: own.process.id() as i32,
            own: Some(own),
        })
    }

    /// The cluster that runs already and takes commands at `control`.
    pub(crate) async fn running(control: &Path, target: SocketAddr) -> Result<Self> {
        let status = client::status(control).await?;
        let listeners = status.listeners.iter().map(|l| l.address.as_str());
        if !listeners.clone().any(|listener| covers(listener, target)) {
            let all: Vec<&str> = listeners.collect();
            return Err(Error::usage(format!(
                "--target {target} is not where the master at {} listens: name one of {}",
                control.display(),
                all.join(", ")
            )));
        }
        let admin = status.admin.as_deref().and_then(|text| {
            let address = text.strip_prefix("http://").unwrap_or(text);
            address.parse().ok()
        });
        let admin = admin.ok_or_else(|| {
            Error::usage(format!(
                "the master at {} has no admin interface, and its counters have to be read: start it with --admin",
                control.display()
            ))
        })?;
        Ok(Self {
            target,
            admin,
            control: control.to_owned(),
            pid: status.pid,
            own: None,
        })
    }

    async fn page(&self, path: &str) -> Result<Vec<u8>> {
        let failed = |error| {
            let what = format!(
                "no answer from the admin interface, http://{}{path}",
                self.admin
            );
            Error::runtime(what, error)
        };
        match timeout(PAGE, wire::get(self.admin, path)).await {
            Ok(page) => page.map_err(failed),
            Err(_) => Err(failed(ErrorKind::TimedOut.into())),
        }
    }

    /// Is it of our own, so that our clients are the only ones?
    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// What each worker does now.
    pub(crate) async fn workers(&self) -> Result<WorkersReport> {
        let page = self.page("/workers").await?;
        serde_json::from_slice(&page)
            .map_err(|error| Error::failed(format!("http://{}/workers: {error}", self.admin)))
    }

    /// All counters.
    pub(crate) async fn metrics(&self) -> Result<Metrics> {
        let page = self.page("/metrics").await?;
        Ok(Metrics::read(&String::from_utf8_lossy(&page)))
    }

    /// What the master says about itself.
    pub(crate) async fn status(&self) -> Result<StatusReport> {
        client::status(&self.control).await
    }

    /// Asks the master to do something and waits until it has. The inner error is its refusal.
    pub(crate) async fn ask(&self, verb: &Verb) -> Result<String> {
        match timeout(DEADLINE, client::ask(&self.control, verb, |_| {})).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::failed(format!(
                "'{}' did not end within {} s",
                verb.name(),
                DEADLINE.as_secs()
            ))),
        }
    }

    /// Waits until there are `count` workers, all of them ready, and nobody drains.
    pub(crate) async fn settled(&self, count: usize) -> Result<WorkersReport> {
        let what = format!("there are {count} workers, all of them ready, and none drains");
        until(&what, async || {
            let report = self.workers().await?;
            let ready = processes(&report).all(|worker| worker.state == "ready");
            let all = processes(&report).count() == count;
            Ok((ready && all && report.draining.is_empty()).then_some(report))
        })
        .await
    }

    /// What master and workers hold now.
    pub(crate) fn footprint(&self) -> Footprint {
        let children = children(self.pid);
        Footprint {
            descriptors: std::fs::read_dir(format!("/proc/{}/fd", self.pid))
                .map_or(0, |entries| entries.count() as u64),
            rss_kib: rss_kib(self.pid).unwrap_or(0),
            processes: children.len() as u64,
            zombies: children.iter().filter(|state| **state == 'Z').count() as u64,
        }
    }

    /// The last lines that a cluster of our own wrote.
    pub(crate) fn log(&self) -> Vec<String> {
        self.own.as_ref().map_or_else(Vec::new, Own::log)
    }
}

/// The processes in `report`, by seat, that are workers of their own.
pub(crate) fn processes(report: &WorkersReport) -> impl Iterator<Item = &WorkerReport> {
    report
        .workers
        .iter()
        .filter(|worker| worker.pid.is_some() && worker.worker != "master")
}

impl Own {
    fn has_ended(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(Some(_)) | Err(_))
    }

    fn log(&self) -> Vec<String> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().cloned().collect()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.process.id() as i32);
        // Twice: nobody is there any more to be waited for. Not reaped yet, it keeps its pid.
        for _ in 0..2 {
            if self.has_ended() {
                return;
            }
            let _ = kill(pid, Signal::SIGTERM);
            thread::sleep(Duration::from_millis(20));
        }
        let begun = Instant::now();
        while !self.has_ended() && begun.elapsed() < END {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// Do connections to `target` arrive at the listener with this address? Faults in one cluster show
/// nothing to clients of another server.
fn covers(listener: &str, target: SocketAddr) -> bool {
    let Ok(listener) = listener.parse::<SocketAddr>() else {
        return false;
    };
    if listener.port() != target.port() {
        return false;
    }
    let (all, ip) = (listener.ip(), target.ip().to_canonical());
    if !all.is_unspecified() {
        return all.to_canonical() == ip;
    }
    // Only to an address of this machine can one bind; and to `::` come those of IPv4 too.
    (all.is_ipv6() || ip.is_ipv4()) && UdpSocket::bind((ip, 0)).is_ok()
}

/// The first listener and the admin interface, if `line` tells them.
fn announcement(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let (_, rest) = line.split_once("listening on http://")?;
    let (_, admin) = rest.split_once("admin http://")?;
    let address = |text: &str| text.split([' ', ',']).next()?.parse().ok();
    Some((address(rest)?, address(admin)?))
}

/// The states of the children of `parent`.
fn children(parent: i32) -> Vec<char> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, its_parent) = state_and_parent(&stat)?;
        (its_parent == parent).then_some(state)
    })
    .collect()
}

/// From `/proc/PID/stat`, in which the name in parentheses may hold anything.
pub(crate) fn state_and_parent(stat: &str) -> Option<(char, i32)> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

fn rss_kib(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_are_read_from_the_announcement() {
        let line = "pointsman: listening on http://127.0.0.1:81 http://127.0.0.1:82, 4 workers, \
                    upstream http://127.0.0.1:3000, admin http://127.0.0.1:9900";
        let (target, admin) = announcement(line).expect("both");
        assert_eq!((target.port(), admin.port()), (81, 9900));
        assert_eq!(announcement("pointsman: worker 1 (pid 3) ended"), None);
    }

    #[test]
    fn only_an_address_that_is_listened_on_is_a_target() {
        let target = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (listener, other, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.2:80", true),
            ("0.0.0.0:80", "127.0.0.1:81", false),
            ("0.0.0.0:80", "203.0.113.1:80", false),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "203.0.113.1:80", false),
            ("nonsense", "127.0.0.1:80", false),
        ] {
            let covered = covers(listener, target(other));
            assert_eq!(covered, expected, "{other} at {listener}");
        }
    }

    #[test]
    fn a_counter_that_falls_or_goes_away_is_noticed_and_a_gauge_is_not() {
        let before = "# HELP x\npointsman_a_total{b=\"1\"} 3\npointsman_a_total{b=\"2\"} 4\n\
                      pointsman_open 5\npointsman_d_sum 1.5\n";
        let earlier = Metrics::read(before);
        assert_eq!(earlier.sum("pointsman_a_total", ""), 7);
        assert_eq!(earlier.sum("pointsman_a_total", "b=\"2\""), 4);
        assert_eq!(earlier.sum("pointsman_a", ""), 0);
        assert!(earlier.fallen_since(&earlier).is_empty());
        let later = Metrics::read(&before.replace("open 5", "open 1").replace("} 4", "} 9"));
        assert!(later.fallen_since(&earlier).is_empty());
        let fallen = Metrics::read(&before.replace("} 3", "} 2"));
        assert_eq!(fallen.fallen_since(&earlier).len(), 1);
        let gone = Metrics::read(&before.replace("pointsman_d_sum 1.5", ""));
        assert!(gone.fallen_since(&earlier)[0].contains("is gone"));
    }

    #[test]
    fn processes_are_known_by_their_parents_whatever_they_are_called() {
        assert_eq!(state_and_parent("7 (a) b) Z 3 9 9"), Some(('Z', 3)));
        assert!(rss_kib(std::process::id() as i32).is_some_and(|kib| kib > 0));
        let parent = std::process::id() as i32;
        let mut child = Command::new("sleep").arg("60").spawn().expect("a child");
        assert!(!children(parent).is_empty());
        child.kill().and_then(|()| child.wait()).expect("our child");
    }

    #[test]
    fn a_folder_goes_with_its_owner() {
        let folder = Folder::make().expect("a folder");
        let other = Folder::make().expect("another");
        let path = folder.file("x");
        std::fs::write(&path, "x").expect("ours");
        assert_ne!(path, other.file("x"));
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn folders_of_the_dead_are_swept_and_no_others() {
        let here = Folder::make().expect("a folder");
        let mut child = Command::new("true").spawn().expect("a child");
        let dead = child.id();
        child.wait().expect("our child");
        let long_ago = std::time::SystemTime::now() - 2 * YOUNG;
        let make = |name: String, is_old: bool| {
            let path = here.file(&name);
            std::fs::create_dir(&path).expect("ours");
            std::fs::write(path.join("x"), "x").expect("ours");
            let made = File::open(&path).expect("ours");
            if is_old {
                made.set_modified(long_ago).expect("ours");
            }
            path
        };
        let gone = make(format!("{FOLDER}{dead}-0"), true);
        let young = make(format!("{FOLDER}{dead}-1"), false);
        let held = make(format!("{FOLDER}{dead}-2"), true);
        let _lock = lock(&held).expect("nobody else's");
        let alive = make(format!("{FOLDER}{}-7", std::process::id()), true);
        let other = make(format!("other-{dead}-0"), true);
        sweep(&here.path);
        let left = [young, held, alive, other];
        assert!(!gone.exists() && left.iter().all(|path| path.exists()));
    }
}
