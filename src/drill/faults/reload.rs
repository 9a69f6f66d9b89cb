//! The configuration is read again: a good one, which must take effect, and one that is broken,
//! which must change nothing.

use std::{
    ffi::OsString,
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use super::{Findings, Site, Standing};
use crate::{
    control::Verb,
    dispatch::{mode::Arm, policy::Policy},
    error::{Error, Result},
    rig::{Folder, processes},
};

/// Ways to break a configuration: what is wrong with it.
pub(super) const WAYS: [&str; 13] = [
    "a syntax error",
    "an unknown key",
    "an unknown mode",
    "a policy without a say",
    "an address that is not ours",
    "an address in use",
    "no workers",
    "a broken upstream",
    "2 MiB",
    "a wrong type",
    "no UTF-8",
    "no file",
    "a directory",
];

/// The configuration file of the drill's own cluster.
#[derive(Debug)]
pub(in crate::drill) struct Files {
    path: PathBuf,
    control: PathBuf,
    /// The listener and the admin interface. Not port 0: a reload would ask for another one.
    ports: [u16; 2],
    upstream: SocketAddr,
    arm: Arm,
    /// Which of the two good configurations is in force.
    in_force: usize,
    /// Holds an address that cannot be had.
    occupied: TcpListener,
}

/// What stands in a file, as TOML values.
struct Text {
    listen: String,
    upstream: String,
    mode: String,
    policy: Option<String>,
    workers: String,
    more: String,
}

/// What is put in the file's place.
enum Content {
    Bytes(Vec<u8>),
    Directory,
    Nothing,
}

impl Files {
    /// The files for a cluster that begins in `arm`, in `folder`.
    pub(in crate::drill) fn make(
        folder: &Folder,
        control: &Path,
        upstream: SocketAddr,
        arm: Arm,
    ) -> Result<Self> {
        let failed = |error| Error::runtime("cannot find a free port", error);
        let files = Self {
            path: folder.file("pointsman.toml"),
            control: control.to_owned(),
            ports: [free_port().map_err(failed)?, free_port().map_err(failed)?],
            upstream,
            arm,
            in_force: 0,
            occupied: TcpListener::bind("127.0.0.1:0").map_err(failed)?,
        };
        files.put(Content::Bytes(files.good(0).write().into()))?;
        Ok(files)
    }

    /// The flags with which the cluster is started.
    pub(in crate::drill) fn arguments(&self) -> Vec<OsString> {
        vec!["-c".into(), self.path.clone().into()]
    }

    /// One of two good configurations, which differ in whatever a reload may change.
    fn good(&self, which: usize) -> Text {
        let [listen, admin] = self.ports;
        let policy = [Policy::LeastLoaded, Policy::RoundRobin][which];
        let policy = self.arm.policy().map(|_| quoted(policy.name()));
        let more = format!(
            "admin = \"127.0.0.1:{admin}\"\ncontrol = {}\nmax-workers = 4\ndrain-timeout = 10\n\
             backoff-limit = 0.1\nidle-timeout = {}\n",
            quoted(&self.control.display().to_string()),
            [60, 50][which],
        );
        Text {
            listen: quoted(&format!("127.0.0.1:{listen}")),
            upstream: quoted(&format!("http://{}", self.upstream)),
            mode: quoted(self.arm.mode().name()),
            policy,
            workers: Self::workers(which).to_string(),
            more,
        }
    }

    fn workers(which: usize) -> usize {
        [2, 3][which]
    }

    /// A configuration that is broken in one of [`WAYS`].
    fn broken(&self, way: usize) -> Content {
        let mut text = self.good(1 - self.in_force);
        let text = match WAYS[way % WAYS.len()] {
            "a syntax error" => {
                text.more.push_str("head-timeout = = 1\n");
                text.write()
            }
            "an unknown key" => {
                text.more.push_str("hed-timeout = 1\n");
                text.write()
            }
            "an unknown mode" => {
                (text.mode, text.policy) = (quoted("fast"), None);
                text.write()
            }
            "a policy without a say" => {
                (text.mode, text.policy) = (quoted("shared"), Some(quoted("round-robin")));
                text.write()
            }
            "an address that is not ours" => {
                text.listen = format!("[{}, \"203.0.113.1:80\"]", text.listen);
                text.write()
            }
            "an address in use" => {
                let taken = self.occupied.local_addr();
                let taken = taken.map_or_else(|_| "127.0.0.1:1".into(), |a| a.to_string());
                text.listen = format!("[{}, {}]", text.listen, quoted(&taken));
                text.write()
            }
            "no workers" => {
                text.workers = "0".into();
                text.write()
            }
            "a broken upstream" => {
                text.upstream = quoted("ftp://127.0.0.1:21");
                text.write()
            }
            "a wrong type" => {
                text.workers = quoted("many");
                text.write()
            }
            "2 MiB" => {
                text.more.push('#');
                text.more.extend(std::iter::repeat_n('x', 2 << 20));
                text.write()
            }
            "no UTF-8" => {
                let mut bytes = text.write().into_bytes();
                bytes.extend(b"# \xff\n");
                return Content::Bytes(bytes);
            }
            "no file" => return Content::Nothing,
            _ => return Content::Directory,
        };
        Content::Bytes(text.into())
    }

    fn put(&self, content: Content) -> Result<()> {
        let gone = |result: std::io::Result<()>| match result {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        };
        let path = &self.path;
        let cleared = match path.is_dir() {
            true => fs::remove_dir(path),
            false => gone(fs::remove_file(path)),
        };
        cleared
            .and_then(|()| match content {
                Content::Bytes(bytes) => fs::write(path, bytes),
                Content::Directory => fs::create_dir(path),
                Content::Nothing => Ok(()),
            })
            .map_err(|error| Error::runtime(format!("cannot write {}", path.display()), error))
    }

    /// Which of the two good configurations is in force.
    pub(in crate::drill) fn in_force(&self) -> usize {
        self.in_force
    }
}

impl Text {
    fn write(&self) -> String {
        let Self {
            listen,
            upstream,
            mode,
            policy,
            workers,
            more,
        } = self;
        let policy = policy
            .as_ref()
            .map_or_else(String::new, |policy| format!("policy = {policy}\n"));
        format!(
            "listen = {listen}\nupstream = {upstream}\nmode = {mode}\n{policy}workers = {workers}\n{more}"
        )
    }
}

/// As a TOML string. What is quoted here has no control characters.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A port that is free now, and that the kernel will not give to somebody's outgoing connection.
fn free_port() -> std::io::Result<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let lowest: u16 = range
        .split_ascii_whitespace()
        .next()
        .and_then(|port| port.parse().ok())
        .unwrap_or(32_768);
    let begin = 10_000 + (crate::sys::clock::monotonic_ns() / 1000 % 10_000) as u16;
    let candidates = (begin..lowest.max(begin + 1)).chain(10_000..begin);
    for port in candidates {
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(ErrorKind::AddrInUse.into())
}

/// A good configuration: the other one of two, or whatever is there in somebody else's cluster.
pub(super) async fn good(site: &mut Site<'_>) -> Result<Findings> {
    match &site.files {
        Some(files) => {
            let which = 1 - files.in_force;
            take_up(site, which).await
        }
        None => {
            let mut findings = Findings::of("reload as it is");
            site.subject.ask(&Verb::Reload).await?;
            let status = site.subject.status().await?;
            let reload = status.reload;
            findings.hold(reload.successful, || format!("reload: {:?}", reload.error));
            site.subject.settled(usize::from(status.workers)).await?;
            Ok(findings)
        }
    }
}

/// Makes one of the two good configurations the one in force.
pub(in crate::drill) async fn take_up(site: &mut Site<'_>, which: usize) -> Result<Findings> {
    let Some(files) = site.files.as_deref_mut() else {
        return Ok(Findings::default());
    };
    let mut findings = Findings::of(format!("reload with {} workers", Files::workers(which)));
    let text = files.good(which);
    files.put(Content::Bytes(text.write().into()))?;
    site.subject.ask(&Verb::Reload).await?;
    files.in_force = which;
    let report = site.subject.settled(Files::workers(which)).await?;
    findings.hold(quoted(&report.mode) == text.mode, || {
        format!("mode {} is in force", report.mode)
    });
    let policy = text.policy.unwrap_or_else(|| quoted("none"));
    findings.hold(quoted(&report.policy) == policy, || {
        format!("policy {} is in force", report.policy)
    });
    let reload = site.subject.status().await?.reload;
    findings.hold(reload.successful, || {
        format!("it is said to have failed: {:?}", reload.error)
    });
    Ok(findings)
}

pub(super) async fn broken(site: &mut Site<'_>, way: usize) -> Result<Findings> {
    let Some(files) = site.files.as_deref() else {
        return Err(Error::failed("the configuration is not ours to break"));
    };
    let mut findings = Findings::of(format!("reload with {}", WAYS[way % WAYS.len()]));
    let before = Standing::of(&site.subject.workers().await?);
    files.put(files.broken(way))?;
    let answer = site.subject.ask(&Verb::Reload).await;
    findings.hold(answer.is_err(), || "it was not refused".into());
    let report = site.subject.workers().await?;
    let after = Standing::of(&report);
    findings.hold(after == before, || format!("{before:?} became {after:?}"));
    findings.hold(processes(&report).all(|w| w.state == "ready"), || {
        "not every worker is ready".into()
    });
    let reload = site.subject.status().await?.reload;
    findings.hold(!reload.successful && reload.error.is_some(), || {
        "it is not said to have failed".into()
    });
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::mode::Mode;

    fn files(folder: &Folder) -> Files {
        let arm = Arm::new(Mode::Handoff, None).expect("valid");
        let upstream = "127.0.0.1:3000".parse().expect("an address");
        Files::make(folder, &folder.file("c.sock"), upstream, arm).expect("a folder")
    }

    #[test]
    fn every_broken_configuration_differs_from_the_good_ones_and_from_each_other() {
        let folder = Folder::make().expect("a folder");
        let files = files(&folder);
        let mut seen = vec![files.good(0).write(), files.good(1).write()];
        assert_ne!(seen[0], seen[1]);
        let mut others = 0;
        for (way, name) in WAYS.into_iter().enumerate() {
            match files.broken(way) {
                Content::Bytes(bytes) => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    assert!(!seen.contains(&text), "{name}");
                    seen.push(text);
                }
                Content::Nothing | Content::Directory => others += 1,
            }
        }
        assert_eq!(others, 2);
    }

    #[test]
    fn a_file_can_take_the_place_of_a_directory_and_the_other_way_round() {
        let folder = Folder::make().expect("a folder");
        let files = files(&folder);
        for content in [
            Content::Directory,
            Content::Nothing,
            Content::Directory,
            Content::Bytes(b"x".into()),
            Content::Bytes(b"y".into()),
        ] {
            files.put(content).expect("ours");
        }
        assert_eq!(fs::read(&files.path).expect("a file"), b"y");
    }
}
