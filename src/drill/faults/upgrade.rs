//! The binary is replaced in place: by itself, which must change nothing but the workers; and by
//! files that are no good, which must change nothing at all.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{Findings, Site, Standing};
use crate::{
    control::Verb,
    error::{Error, Result},
    rig::{Folder, processes},
};

/// Ways to be a bad binary: what it is, and the script in it. `None`: there is no file.
pub(super) const WAYS: [(&str, Option<&str>); 7] = [
    ("one that crashes", Some("kill -SEGV $$")),
    ("one that hangs", Some("exec sleep 600")),
    ("one that refuses", Some("exit 1")),
    ("one that is something else", Some("exit 0")),
    ("one that is not executable", Some("exit 0")),
    ("a directory", None),
    ("one that is not there", None),
];

/// Where those are that [`WAYS`] tells of.
pub(super) struct Binaries(Folder);

impl Binaries {
    pub(super) fn make() -> Result<Self> {
        Folder::make().map(Self)
    }

    /// Puts the file for `way` there.
    fn put(&self, way: usize) -> Result<PathBuf> {
        let (name, script) = WAYS[way % WAYS.len()];
        let path = self.0.file("pointsman");
        let put = |path: &Path| match script {
            Some(script) => {
                fs::write(path, format!("#!/bin/sh\n{script}\n"))?;
                let mode = if name.contains("not executable") {
                    0o600
                } else {
                    0o700
                };
                fs::set_permissions(path, fs::Permissions::from_mode(mode))
            }
            None if name == "a directory" => fs::create_dir(path),
            None => Ok(()),
        };
        put(&path)
            .map_err(|error| Error::runtime(format!("cannot write {}", path.display()), error))?;
        Ok(path)
    }
}

pub(super) async fn good(site: &mut Site<'_>) -> Result<Findings> {
    let mut findings = Findings::of("upgrade to the same binary");
    let before = site.subject.workers().await?;
    let status = site.subject.status().await?;
    let metrics = site.subject.metrics().await?;
    site.subject.ask(&Verb::Upgrade { path: None }).await?;
    let after = site.subject.settled(processes(&before).count()).await?;
    let left = Standing::of(&after).left_of(&Standing::of(&before));
    findings.hold(left == 0, || format!("{left} workers were not replaced"));
    let now = site.subject.status().await?;
    findings.hold(now.pid == status.pid, || {
        format!("the master was pid {} and is pid {}", status.pid, now.pid)
    });
    findings.hold(now.upgrades == status.upgrades + 1, || {
        format!(
            "{} upgrades were counted before, {} after",
            status.upgrades, now.upgrades
        )
    });
    findings
        .broken
        .extend(site.subject.metrics().await?.fallen_since(&metrics));
    Ok(findings)
}

pub(super) async fn bad(site: &mut Site<'_>, binaries: &Binaries, way: usize) -> Result<Findings> {
    let mut findings = Findings::of(format!("upgrade to {}", WAYS[way % WAYS.len()].0));
    let before = Standing::of(&site.subject.workers().await?);
    let status = site.subject.status().await?;
    let metrics = site.subject.metrics().await?;
    let verb = Verb::Upgrade {
        path: Some(binaries.put(way)?),
    };
    let answer = site.subject.ask(&verb).await;
    findings.hold(answer.is_err(), || "it was not refused".into());
    let after = Standing::of(&site.subject.workers().await?);
    findings.hold(after == before, || format!("{before:?} became {after:?}"));
    let now = site.subject.status().await?;
    findings.hold(
        (now.pid, now.upgrades) == (status.pid, status.upgrades),
        || {
            format!(
                "an upgrade was counted: {} after {}",
                now.upgrades, status.upgrades
            )
        },
    );
    findings
        .broken
        .extend(site.subject.metrics().await?.fallen_since(&metrics));
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_binary_is_what_it_is_said_to_be() {
        for (way, (name, script)) in WAYS.into_iter().enumerate() {
            let binaries = Binaries::make().expect("a folder");
            let path = binaries.put(way).expect("ours");
            let is_executable = fs::metadata(&path)
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o100 != 0);
            let expected = script.is_some() && name != "one that is not executable";
            assert_eq!(is_executable, expected, "{name}");
            assert_eq!(path.exists(), name != "one that is not there", "{name}");
            assert_eq!(path.is_dir(), name == "a directory", "{name}");
        }
    }
}
