//! Puts a run's table into README.md, between two marks. Never by hand.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::rundir::Run;
use crate::{machine, table};

const BEGIN: &str = "<!-- loadtest:begin";
const END: &str = "<!-- loadtest:end -->";

/// Puts the table of a run into README.md
#[derive(Debug, Args)]
pub(crate) struct Splice {
    /// The folder of the run, as it can be reached from the README's folder
    run: PathBuf,
    /// The file to put it into
    #[arg(long, value_name = "FILE", default_value = "README.md")]
    readme: PathBuf,
}

impl Splice {
    pub(crate) fn run(&self) -> Result<()> {
        let text = read(&self.readme)?;
        let parent = self.readme.parent().unwrap_or(Path::new(""));
        let dir = parent.join(&self.run);
        let run = Run::load(&dir)?;
        // What else is made of its rows is to be of the same code.
        run.save(&dir)?;
        let spliced = splice(&text, &self.run.display().to_string(), &run)
            .with_context(|| self.readme.display().to_string())?;
        fs::write(&self.readme, spliced)
            .with_context(|| format!("cannot write {}", self.readme.display()))?;
        eprintln!(
            "{} now has the table of {}",
            self.readme.display(),
            self.run.display()
        );
        Ok(())
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// `text` with the table of `run`, whose folder is called `name`.
fn splice(text: &str, name: &str, run: &Run) -> Result<String> {
    let (before, _, after) = parts(text)?;
    let day = machine::day(run.about.began);
    let table = table::short(run);
    Ok(format!(
        "{before}{BEGIN} {name} -->\n{table}\nMeasured {day} at commit {}; all rows, and charts: \
         [{name}]({name}/README.md).\n{END}{after}",
        run.about.commit
    ))
}

/// What is before the marks, the name of the run in the first, and what is after them.
fn parts(text: &str) -> Result<(&str, &str, &str)> {
    if text.matches(BEGIN).count() != 1 || text.matches(END).count() != 1 {
        bail!("it needs one line '{BEGIN} RUN -->' and one '{END}'");
    }
    let (before, rest) = text.split_once(BEGIN).context("it has been counted")?;
    let (name, rest) = rest
        .split_once("-->")
        .context("the first mark has no end")?;
    let (_, after) = rest
        .split_once(END)
        .context("the marks are the wrong way round")?;
    Ok((before, name.trim(), after))
}

#[cfg(test)]
mod tests {
    use pointsman::compare::report;

    use super::*;
    use crate::table::tests::sample;

    #[test]
    fn the_text_between_the_marks_is_replaced_and_nothing_else() {
        let text = format!("above\n{BEGIN} old -->\nold table\n{END}\nbelow\n");
        let once = splice(&text, "runs/new", &sample()).expect("it has marks");
        assert!(once.starts_with("above\n<!-- loadtest:begin runs/new -->\n"));
        assert!(once.ends_with("<!-- loadtest:end -->\nbelow\n"));
        assert!(once.contains("[runs/new](runs/new/README.md)") && !once.contains("old table"));
        let twice = splice(&once, "runs/new", &sample()).expect("it still has");
        assert_eq!(once, twice);
    }

    #[test]
    fn a_text_without_marks_is_left_alone() {
        for text in [
            String::new(),
            format!("{BEGIN} a -->"),
            format!("{END}\n{BEGIN} a -->"),
            format!("{BEGIN} a -->{END}{END}"),
            format!("{BEGIN} a {END}"),
        ] {
            assert!(splice(&text, "x", &sample()).is_err(), "{text:?}");
        }
    }

    /// README.md shows what follows today from the rows of the run that it names.
    #[test]
    fn the_readme_has_the_table_of_the_run_that_it_names() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let text = read(&root.join("README.md")).expect("there is a README");
        let (_, name, _) = parts(&text).expect("it has marks");
        let run = Run::load(&root.join(name)).expect("it names a run");
        let spliced = splice(&text, name, &run).expect("it has marks");
        assert!(spliced == text, "make readme-table RUN={name}");

        // What the run has for people to read is the same as what tables are made of.
        for made in &run.reports {
            let comparison = &made.comparison;
            let file = format!("blocks-{}.csv", comparison.scenario);
            let kept = read(&root.join(name).join(&file)).expect("there are rows");
            let rows = report::csv(comparison);
            assert_eq!(kept.lines().count(), rows.lines().count(), "{file}");
            for (kept, row) in kept.lines().zip(rows.lines()) {
                let mut fields = kept.split(',').zip(row.split(','));
                assert!(fields.all(is_same), "{file}:\n{kept}\n{row}");
            }
        }
    }

    /// The last digit of a number may be lost on its way through JSON.
    fn is_same((one, other): (&str, &str)) -> bool {
        let numbers = || Some((one.parse::<f64>().ok()?, other.parse::<f64>().ok()?));
        one == other || numbers().is_some_and(|(a, b)| (a - b).abs() <= a.abs() * 1e-12)
    }
}
