//! The folder that a run leaves behind, and what can be read back from it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pointsman::compare::{Comparison, Ending, Recommendation, Report, report};
use pointsman::load::Scenario;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::drills::Drills;
use crate::{machine, table};

/// What has to be known of a run beside its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct About {
    /// When it began, seconds since 1970.
    pub(crate) began: u64,
    pub(crate) commit: String,
    pub(crate) command: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) seed: u64,
    /// How many workers of each proxy ran where, but for the drills.
    pub(crate) placement: String,
    /// What each program says of its version, by arm.
    pub(crate) versions: BTreeMap<String, String>,
    /// Arms that were asked for and could not be run, and why.
    pub(crate) missing: BTreeMap<String, String>,
    /// When others had much of the machine's time, in sentences.
    pub(crate) disturbances: Vec<String>,
    /// Whatever else there is to know, in sentences.
    pub(crate) notes: Vec<String>,
}

/// A run: everything that its folder holds.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) about: About,
    pub(crate) reports: Vec<Report>,
    pub(crate) drills: Option<Drills>,
}

const ABOUT: &str = "run.json";
const DRILLS: &str = "drills.json";

impl Run {
    /// Writes everything into `dir`.
    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        write_json(dir, ABOUT, &self.about)?;
        for made in &self.reports {
            let scenario = &made.comparison.scenario;
            write_json(dir, &format!("comparison-{scenario}.json"), made)?;
            write(
                dir,
                &format!("blocks-{scenario}.csv"),
                &report::csv(&made.comparison),
            )?;
        }
        if !self.reports.is_empty() {
            write(dir, "report.html", &report::html(&self.reports))?;
        }
        if let Some(drills) = &self.drills {
            write_json(dir, DRILLS, drills)?;
        }
        write(dir, "README.md", &self.readme())
    }

    /// Reads what [`save`](Self::save) wrote. What the comparisons say is made anew of their blocks: nothing that
    /// somebody has written over it counts.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let about = read_json(&dir.join(ABOUT))?.with_context(|| {
            format!(
                "{} is not the folder of a run: it has no {ABOUT}",
                dir.display()
            )
        })?;
        let mut reports = Vec::new();
        for scenario in Scenario::ALL {
            let path = dir.join(format!("comparison-{}.json", scenario.name()));
            let report: Option<Report> = read_json(&path)?;
            reports.extend(report.map(|report| judged(report.comparison)));
        }
        let drills = read_json(&dir.join(DRILLS))?;
        if reports.is_empty() && drills.is_none() {
            bail!("{} has no results", dir.display());
        }
        Ok(Self {
            about,
            reports,
            drills,
        })
    }

    /// What the folder says to a reader.
    fn readme(&self) -> String {
        let about = &self.about;
        let mut text = format!(
            "# {}, {}\n\n- Commit: {}\n- Command: `{}`\n- Machine: {}, {} cores, {}\n- Seed: {}\n",
            machine::day(about.began),
            about.processor,
            about.commit,
            about.command,
            about.processor,
            about.cores,
            about.kernel,
            about.seed,
        );
        for (arm, version) in &about.versions {
            text.push_str(&format!("- {arm}: {version}\n"));
        }
        for (arm, why) in &about.missing {
            text.push_str(&format!("- **Missing**: {arm}, because {why}\n"));
        }
        for note in &about.notes {
            text.push_str(&format!("- {note}\n"));
        }
        text.push_str(
            "\n`report.html`: charts. `comparison-*.json`: everything that was measured, and what it says. \
             `blocks-*.csv`: a row for each block. `drills.json`: what clients saw when a worker failed. \
             How it is measured: [METHODOLOGY.md](../../../METHODOLOGY.md).\n\n## In short\n\n",
        );
        text.push_str(&table::full(self));
        for made in &self.reports {
            let comparison = &made.comparison;
            text.push_str(&format!(
                "\n## {}\n\n{}.\n",
                comparison.scenario, comparison.load
            ));
            if comparison.ending != Ending::Complete {
                text.push_str(&format!(
                    "\n**Not complete**: {}.\n",
                    table::ending(&comparison.ending)
                ));
            }
            text.push_str(&format!("\n```\n{}\n```\n", report::table(made).trim_end()));
        }
        text
    }
}

/// With what it says, but for the recommendation: the cheapest of these arms is no proxy at all.
pub(crate) fn judged(comparison: Comparison) -> Report {
    let mut report = comparison.report();
    report.summary.recommendation = Recommendation {
        arm: None,
        text: "Nothing is recommended: relay and direct are the floor and the control, and proxies differ in more \
               than what was measured."
            .to_owned(),
        configuration: None,
    };
    report
}

/// Makes `parent/name`, or `parent/name-2` if that is there, and so on.
pub(crate) fn make(parent: &Path, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    for n in 1..1000 {
        let dir = match n {
            1 => parent.join(name),
            n => parent.join(format!("{name}-{n}")),
        };
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot create {}", dir.display()));
            }
        }
    }
    bail!("{} is full of runs of the name {name}", parent.display())
}

/// A name for this kind of machine: `amd-epyc-2-cores`.
pub(crate) fn machine_name(processor: &str, cores: usize) -> String {
    let words: Vec<String> = processor
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty() && !["R", "TM", "CPU"].contains(word))
        .take(4)
        .map(str::to_ascii_lowercase)
        .collect();
    match words.is_empty() {
        true => format!("{cores}-cores"),
        false => format!("{}-{cores}-cores", words.join("-")),
    }
}

pub(crate) fn write_json(dir: &Path, name: &str, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string(value).with_context(|| format!("cannot make {name}"))?;
    text.push('\n');
    write(dir, name, &text)
}

pub(crate) fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// `None`: there is no such file.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let value = serde_json::from_str(&text)
        .with_context(|| format!("{} is not what a run writes", path.display()))?;
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::sample;

    #[test]
    fn a_run_comes_back_as_it_was_saved() {
        let parent = tempfile::tempdir().expect("a folder");
        let dir = make(parent.path(), "2026-11-20-x").expect("a folder in it");
        let again = make(parent.path(), "2026-11-20-x").expect("another");
        assert!(again.ends_with("2026-11-20-x-2"));
        let run = sample();
        run.save(&dir).expect("it can be written");
        let back = Run::load(&dir).expect("it can be read");
        assert_eq!(back.about, run.about);
        assert_eq!(back.drills, run.drills);
        assert_eq!(table::full(&back), table::full(&run));

        let path = dir.join("comparison-keepalive.json");
        let mut told: serde_json::Value = read_json(&path).expect("JSON").expect("it is there");
        told["summary"]["arms"][2]["cpu_us_per_request"] = 1.0.into();
        write_json(&dir, "comparison-keepalive.json", &told).expect("it can be written");
        let back = Run::load(&dir).expect("it can be read");
        assert_eq!(table::full(&back), table::full(&run), "rows count");

        let readme = fs::read_to_string(dir.join("README.md")).expect("it was written");
        assert!(
            readme.contains("abc1234") && readme.contains("**Missing**: envoy"),
            "{readme}"
        );
        let error = format!("{:#}", Run::load(&again).expect_err("it is empty"));
        assert!(error.contains("run.json"), "{error}");
    }

    #[test]
    fn machines_have_names_that_are_names_of_folders() {
        assert_eq!(machine_name("AMD EPYC", 2), "amd-epyc-2-cores");
        assert_eq!(
            machine_name("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", 4),
            "intel-xeon-e5-2680-4-cores"
        );
        assert_eq!(machine_name("", 8), "8-cores");
    }
}
