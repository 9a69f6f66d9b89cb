//! Where results go.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use crate::{
    compare::{Report, report},
    error::{Error, Result},
};

/// What was asked for, opened before anything is measured: a path that cannot be written to is told at
/// once.
pub(super) struct Output {
    json: bool,
    csv: Option<(PathBuf, File)>,
    folder: Option<PathBuf>,
}

impl Output {
    /// Makes the file and the folder.
    ///
    /// # Errors
    /// One of them cannot be.
    pub(super) fn open(json: bool, csv: Option<&Path>, folder: Option<&Path>) -> Result<Self> {
        let csv = csv
            // What stood there before is lost only when there is something to replace it.
            .map(|path| {
                match File::options()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)
                {
                    Ok(file) => Ok((path.to_owned(), file)),
                    Err(error) => Err(cannot_write(path, error)),
                }
            })
            .transpose()?;
        if let Some(folder) = folder {
            fs::create_dir_all(folder).map_err(|error| cannot_write(folder, error))?;
        }
        Ok(Self {
            json,
            csv,
            folder: folder.map(Path::to_owned),
        })
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// Something cannot be written; what could be is.
    pub(super) fn write(self, reports: &[Report]) -> Result<()> {
        let mut failure = None;
        if let Some((path, mut file)) = self.csv {
            let rows = rows(reports);
            let written = file
                .set_len(0)
                .and_then(|()| file.write_all(rows.as_bytes()));
            failure = written.err().map(|error| cannot_write(&path, error));
        }
        if let Some(folder) = &self.folder {
            match write_folder(folder, reports) {
                Ok(()) => crate::notice(format_args!(
                    "the report is in {}",
                    folder.join("index.html").display()
                )),
                Err(error) => failure = Some(error),
            }
        }
        let text = match self.json {
            true => json(reports),
            false => tables(reports),
        };
        // A closed pipe changes nothing about the files.
        let _ = std::io::stdout().write_all(text.as_bytes());
        failure.map_or(Ok(()), Err)
    }
}

fn cannot_write(path: &Path, error: std::io::Error) -> Error {
    Error::runtime(format!("cannot write {}", path.display()), error)
}

fn write_folder(folder: &Path, reports: &[Report]) -> Result<()> {
    let write = |name: String, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| cannot_write(&path, error))
    };
    write("index.html".into(), report::html(reports))?;
    for one in reports {
        let scenario = &one.comparison.scenario;
        write(format!("comparison-{scenario}.json"), json(one))?;
        write(
            format!("blocks-{scenario}.csv"),
            report::csv(&one.comparison),
        )?;
    }
    Ok(())
}

fn json<T: serde::Serialize + ?Sized>(what: &T) -> String {
    let text = serde_json::to_string(what);
    text.expect("plain data with names for keys: there is nothing in it that JSON could not say")
        + "\n"
}

fn tables(reports: &[Report]) -> String {
    let tables: Vec<String> = reports.iter().map(report::table).collect();
    tables.join("\n")
}

/// The rows of all scenarios under one head.
fn rows(reports: &[Report]) -> String {
    let mut rows = String::new();
    for (i, one) in reports.iter().enumerate() {
        let text = report::csv(&one.comparison);
        match (i, text.split_once('\n')) {
            (1.., Some((_, rest))) => rows.push_str(rest),
            _ => rows.push_str(&text),
        }
    }
    rows
}
