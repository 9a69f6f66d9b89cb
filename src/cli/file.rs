//! A configuration file as it is written: keys and values, each with its line. What they mean is not
//! known here.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::fcntl::OFlag;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result, describe};

/// More than any configuration needs; what is larger is some other file.
const LARGEST: u64 = 1 << 20;

/// What a configuration file says.
#[derive(Debug)]
pub(super) struct Written {
    /// The file, as messages name it.
    pub(super) name: String,
    /// In the order of the file.
    pub(super) entries: Vec<Entry>,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Where the key stands, from 1.
    pub(super) line: usize,
    pub(super) value: Value,
}

/// A value, its numbers as `FromStr` reads them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Whole(String),
    Fraction(String),
    Truth(bool),
    /// Each with its line.
    List(Vec<(usize, Value)>),
    Date,
    /// Under a `[header]`, or in braces, or by a dotted key.
    Table {
        header: bool,
        /// In the order of the file.
        entries: Vec<Entry>,
    },
}

impl Value {
    /// What it is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Whole(_) => "a whole number",
            Self::Fraction(_) => "a number with a fraction",
            Self::Truth(_) => "true or false",
            Self::List(_) => "a list",
            Self::Date => "a date or time",
            Self::Table { .. } => "a table",
        }
    }
}

/// Reads `path`.
///
/// # Errors
/// It cannot be read, is no file for people, or no TOML; the message names the file, and the line
/// where there is one.
pub(super) fn read(path: &Path) -> Result<Written> {
    let name = path.display().to_string();
    let bytes = load(path).map_err(|why| Error::usage(format!("{name}: {why}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = line_of(error.as_bytes(), error.utf8_error().valid_up_to());
        Error::usage(format!("{name}:{line}: this is not UTF-8 text"))
    })?;
    parse(name, &text)
}

fn load(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let why = |error: io::Error| format!("cannot read it: {}", describe(&error));
    let file = File::options()
        .read(true)
        // A pipe would keep a master that reloads waiting for a writer.
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(why)?;
    let kind = file.metadata().map_err(why)?.file_type();
    if kind.is_dir() {
        return Err("this is a directory, not a file".into());
    }
    if !kind.is_file() {
        return Err("this is not a regular file, which could be read again at a reload".into());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(why)?;
    if bytes.len() as u64 > LARGEST {
        return Err("it is larger than 1 MiB, too large for a configuration".into());
    }
    Ok(bytes)
}

/// Reads the text of a file that messages call `name`.
///
/// # Errors
/// It is no TOML; the message says in which line and column.
pub(super) fn parse(name: String, text: &str) -> Result<Written> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        let (line, column) = place_of(text, at);
        let culprit = match error.span().and_then(|span| text.get(span)) {
            Some(key) if error.message() == "duplicate key" => format!(" '{}'", key.trim()),
            _ => String::new(),
        };
        Error::usage(format!(
            "{name}:{line}:{column}: {}{culprit}",
            error.message()
        ))
    })?;
    Ok(Written {
        name,
        entries: entries(text, table.into_inner()),
    })
}

/// What a table holds, in the order of the file.
fn entries(text: &str, table: DeTable<'_>) -> Vec<Entry> {
    let mut entries: Vec<(usize, Entry)> = table
        .into_iter()
        .map(|(key, value)| {
            let at = key.span().start;
            let line = line_of(text.as_bytes(), at);
            let begun = text[..at].rfind('\n').map_or(0, |end| end + 1);
            let header = text[begun..].trim_start().starts_with('[');
            let entry = Entry {
                key: key.into_inner().into_owned(),
                line,
                value: plain(text, value.into_inner(), header),
            };
            (at, entry)
        })
        .collect();
    entries.sort_by_key(|(at, _)| *at);
    entries.into_iter().map(|(_, entry)| entry).collect()
}

fn plain(text: &str, value: DeValue<'_>, header: bool) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            // What is too large for this is too large for every key, which will say so.
            let decimal = i128::from_str_radix(number.as_str(), number.radix());
            Value::Whole(decimal.map_or_else(|_| number.to_string(), |n| n.to_string()))
        }
        DeValue::Float(number) => Value::Fraction(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Value::Truth(truth),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(_) if header => Value::Table {
            header,
            entries: Vec::new(),
        },
        DeValue::Array(values) => Value::List(
            values
                .into_iter()
                .map(|value| {
                    let line = line_of(text.as_bytes(), value.span().start);
                    (line, plain(text, value.into_inner(), false))
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table {
            header,
            entries: entries(text, table),
        },
    }
}

/// The line of the byte at `at`, from 1.
fn line_of(text: &[u8], at: usize) -> usize {
    1 + text.iter().take(at).filter(|b| **b == b'\n').count()
}

/// The line and column of the byte at `at`, both from 1.
fn place_of(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let begun = before.rfind('\n').map_or(0, |end| end + 1);
    (
        line_of(text.as_bytes(), at),
        before[begun..].chars().count() + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_is_read_with_its_line() {
        let text = "\u{feff}# a comment\na = 'x'\nb = 0x1_0\nc = 1_0.5\n\nd = true\n\
                    e = [\n  'y', # first\n  -3,\n]\nf = 2026-01-01\ng.h = 1\ni = {}\n\
                    [j]\nk = 1\n  [[l]]\n";
        let table = |header, key: Option<(&str, usize)>| Value::Table {
            header,
            entries: key
                .map(|(key, line)| Entry {
                    key: key.into(),
                    line,
                    value: Value::Whole("1".into()),
                })
                .into_iter()
                .collect(),
        };
        let read = parse("x".into(), text).expect("valid");
        let entries: Vec<_> = read
            .entries
            .into_iter()
            .map(|e| (e.key, e.line, e.value))
            .collect();
        let list = vec![(8, Value::Text("y".into())), (9, Value::Whole("-3".into()))];
        let expected = [
            ("a", 2, Value::Text("x".into())),
            ("b", 3, Value::Whole("16".into())),
            ("c", 4, Value::Fraction("10.5".into())),
            ("d", 6, Value::Truth(true)),
            ("e", 7, Value::List(list)),
            ("f", 11, Value::Date),
            ("g", 12, table(false, Some(("h", 12)))),
            ("i", 13, table(false, None)),
            ("j", 14, table(true, Some(("k", 15)))),
            ("l", 16, table(true, None)),
        ]
        .map(|(key, line, value)| (key.to_owned(), line, value));
        assert_eq!(entries, expected);
    }

    #[test]
    fn what_is_no_toml_is_placed() {
        for (text, place) in [
            ("a = 1\nb = ", "x:2:5: "),
            ("a = 1\n\n  b = handoff\n", "x:3:7: "),
            ("ä = 1", "x:1:1: "),
            ("a = 1\nb = 'no end\nc = 1", "x:2:"),
            ("a = [1,\n2", "x:2:2: "),
            ("[a", "x:1:3: "),
        ] {
            let error = parse("x".into(), text).expect_err(text).to_string();
            assert!(error.starts_with(place), "{text:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let error = parse("x".into(), "a = 1\n'a' = 2").expect_err("twice");
        assert_eq!(error.to_string(), "x:2:1: duplicate key ''a''");
    }
}
