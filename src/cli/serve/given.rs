//! Flags and file, put together: every long flag of `serve` is a key of the file.
//!
//! Which keys there are, and what each takes, is asked of the flags themselves, so that no key can be
//! forgotten. What the file says becomes arguments that are read as flags are; but whatever is wrong
//! with it is told in the words of the file.

use std::{
    any::TypeId,
    borrow::Cow,
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};

use super::Serve;
use crate::{
    cli::file::{self, Entry, Value, Written},
    config::Refusal,
    error::{Error, Result},
};

/// How many faults of a file are told at once.
const TOLD: usize = 5;

/// The flags of `serve`, as they were given.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Given {
    matches: ArgMatches,
}

impl Args for Given {
    fn augment_args(command: Command) -> Command {
        Serve::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Serve::augment_args_for_update(command)
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            matches: matches.clone(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.matches = matches.clone();
        Ok(())
    }
}

impl Given {
    /// The file that was named, if one was.
    pub(in crate::cli) fn file(&self) -> Option<&Path> {
        self.matches
            .get_one::<PathBuf>("config")
            .map(PathBuf::as_path)
    }

    /// Reads the file, if one was named, and puts it together with the flags: a flag wins.
    ///
    /// # Errors
    /// All that is wrong with the file's keys and values, each with its line.
    pub(in crate::cli) fn serve(&self) -> Result<Serve> {
        self.merge(self.file().map(file::read).transpose()?)
    }

    /// The same, with a file that was read already.
    pub(super) fn merge(&self, written: Option<Written>) -> Result<Serve> {
        let command = command();
        let mut arguments = vec![OsString::from("serve")];
        for flag in command.get_arguments().filter(|flag| self.has(flag)) {
            arguments.extend(self.raw(flag));
        }
        let mut origin = Origin::default();
        if let Some(Written { name, entries }) = written {
            let mut faults = Vec::new();
            let mut entries: Vec<_> = entries
                .into_iter()
                .filter_map(|entry| match Setting::read(&command, &entry) {
                    Ok(setting) => setting,
                    Err(fault) => {
                        faults.push(fault);
                        None
                    }
                })
                .collect();
            // What the command line says, or rules out, the file does not.
            entries.retain(|entry| !self.overrides(&command, entry.flag));
            for (i, entry) in entries.iter().enumerate() {
                let mut before = entries[..i].iter();
                if let Some(other) = before.find(|other| conflict(&command, entry.flag, other.flag))
                {
                    faults.push(Fault {
                        line: entry.line,
                        message: format!(
                            "'{}' does not go together with '{}' of line {}",
                            key(entry.flag),
                            key(other.flag),
                            other.line
                        ),
                    });
                }
            }
            if !faults.is_empty() {
                return Err(told(&name, faults));
            }
            for entry in entries {
                origin
                    .lines
                    .insert(key(entry.flag).to_owned(), entry.lines());
                arguments.extend(entry.arguments.into_iter().map(|(_, argument)| argument));
            }
            origin.file = Some(name);
        }
        let matches = command.clone().try_get_matches_from(arguments);
        let mut serve = matches
            .and_then(|matches| Serve::from_arg_matches(&matches))
            .map_err(|error| Error::usage(reason(&error)))?;
        serve.origin = origin;
        Ok(serve)
    }

    /// Is `flag` on the command line?
    fn has(&self, flag: &Arg) -> bool {
        self.matches.value_source(flag.get_id().as_str()) == Some(ValueSource::CommandLine)
    }

    /// `flag` as it could stand on a command line again.
    fn raw(&self, flag: &Arg) -> Vec<OsString> {
        if matches!(flag.get_action(), ArgAction::SetTrue) {
            return vec![format!("--{}", key(flag)).into()];
        }
        let values = self.matches.get_raw(flag.get_id().as_str());
        values
            .into_iter()
            .flatten()
            .map(|value| argument(flag, value))
            .collect()
    }

    /// Is `flag` on the command line, or another that does not go together with it?
    fn overrides(&self, command: &Command, flag: &Arg) -> bool {
        command
            .get_arguments()
            .filter(|given| self.has(given))
            .any(|given| given.get_id() == flag.get_id() || conflict(command, given, flag))
    }
}

/// The flags of `serve`, and nothing else.
fn command() -> Command {
    Serve::augment_args(Command::new("serve"))
}

/// The flags that are keys of a file, too.
pub(super) fn keys(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|flag| flag.get_long().is_some() && flag.get_id() != "config")
}

/// A flag's key: its name without the dashes.
fn key(flag: &Arg) -> &str {
    flag.get_long().unwrap_or_default()
}

fn argument(flag: &Arg, value: impl AsRef<std::ffi::OsStr>) -> OsString {
    let mut argument = OsString::from(format!("--{}=", key(flag)));
    argument.push(value);
    argument
}

/// Do the two not go together? One of them says so.
fn conflict(command: &Command, one: &Arg, other: &Arg) -> bool {
    let names = |one, other: &Arg| {
        let mut conflicts = command.get_arg_conflicts_with(one).into_iter();
        conflicts.any(|arg| arg.get_id() == other.get_id())
    };
    names(one, other) || names(other, one)
}

/// Something wrong with a file.
#[derive(Debug)]
struct Fault {
    line: usize,
    message: String,
}

/// All of them in one line, the first in the file first.
fn told(name: &str, mut faults: Vec<Fault>) -> Error {
    use std::fmt::Write as _;
    faults.sort_by_key(|fault| fault.line);
    let mut text = String::new();
    for (i, Fault { line, message }) in faults.iter().take(TOLD).enumerate() {
        let message = one_line(message);
        let _ = match i {
            0 => write!(text, "{name}:{line}: {message}"),
            _ => write!(text, "; line {line}: {message}"),
        };
    }
    if faults.len() > TOLD {
        let _ = write!(text, "; and {} more", faults.len() - TOLD);
    }
    Error::usage(text)
}

/// `text` without what would break the line: a file's values may hold anything.
fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Takes {
    Truth,
    Whole,
    Seconds,
    Text,
}

impl Takes {
    fn of(flag: &Arg) -> Self {
        let id = flag.get_value_parser().type_id();
        let whole = [
            TypeId::of::<u8>(),
            TypeId::of::<u16>(),
            TypeId::of::<u64>(),
            TypeId::of::<usize>(),
        ];
        if matches!(flag.get_action(), ArgAction::SetTrue) {
            Self::Truth
        } else if whole.into_iter().any(|t| id == t) {
            Self::Whole
        } else if id == TypeId::of::<Duration>() {
            Self::Seconds
        } else {
            Self::Text
        }
    }

    fn name(self, several: bool) -> &'static str {
        match self {
            Self::Truth => "true or false",
            Self::Whole => "a whole number",
            Self::Seconds => "a number of seconds",
            Self::Text if several => "a string or a list of strings",
            Self::Text => "a string",
        }
    }
}

/// A key of the file, understood.
struct Setting<'a> {
    flag: &'a Arg,
    line: usize,
    /// Each with its line; none for what is set to `false`.
    arguments: Vec<(usize, OsString)>,
}

impl<'a> Setting<'a> {
    /// What `entry` sets; nothing if it says no more than that a flag is not given.
    fn read(command: &'a Command, entry: &Entry) -> Result<Option<Self>, Fault> {
        let Entry { key, line, value } = entry;
        let fault = |line: usize, message: String| Err(Fault { line, message });
        let Some(flag) = keys(command).find(|flag| self::key(flag) == key) else {
            return fault(*line, unknown(command, key, value));
        };
        let several = matches!(flag.get_action(), ArgAction::Append);
        let mut arguments = Vec::new();
        match value {
            Value::List(values) if several && values.is_empty() => {
                return fault(*line, format!("'{key}' is empty: give at least one"));
            }
            Value::List(values) if several => {
                for (line, value) in values {
                    for (line, value) in pairs(flag, *line, value) {
                        arguments.extend(one(command, flag, line, &value, several)?);
                    }
                }
            }
            value => {
                for (line, value) in pairs(flag, *line, value) {
                    arguments.extend(one(command, flag, line, &value, several)?);
                }
            }
        }
        let line = *line;
        Ok((!arguments.is_empty()).then_some(Self {
            flag,
            line,
            arguments,
        }))
    }

    /// The line of each value.
    fn lines(&self) -> Vec<usize> {
        self.arguments.iter().map(|(line, _)| *line).collect()
    }
}

/// What `value` says, where a flag takes NAME=VALUE: a table says it, too, in words of the file. What is
/// none, or has other keys, is left as it is, to be refused.
fn pairs<'v>(flag: &Arg, line: usize, value: &'v Value) -> Vec<(usize, Cow<'v, Value>)> {
    let as_it_is = || vec![(line, Cow::Borrowed(value))];
    let Value::Table {
        header: false,
        entries,
    } = value
    else {
        return as_it_is();
    };
    let pair = |line, name: &str, value: &str| {
        let text = Value::Text(format!("{name}={value}"));
        (line, Cow::Owned(text))
    };
    let found: Option<Vec<_>> = match key(flag) {
        "worker-group" => entries
            .iter()
            .map(|entry| match &entry.value {
                Value::Whole(workers) => Some(pair(entry.line, &entry.key, workers)),
                _ => None,
            })
            .collect(),
        "pin" => {
            let text = |key| match &entries.iter().find(|entry| entry.key == key)?.value {
                Value::Text(text) => Some(text),
                _ => None,
            };
            match (text("from"), text("to"), entries.len()) {
                (Some(from), Some(to), 2) => Some(vec![pair(line, from, to)]),
                _ => None,
            }
        }
        _ => None,
    };
    found
        .filter(|found| !found.is_empty())
        .unwrap_or_else(as_it_is)
}

/// The argument that says the same as `value` in the file, with its line; `None` for `false`.
fn one(
    command: &Command,
    flag: &Arg,
    line: usize,
    value: &Value,
    several: bool,
) -> Result<Option<(usize, OsString)>, Fault> {
    let takes = Takes::of(flag);
    let refused = |message: String| {
        Err(Fault {
            line,
            message: format!("'{}' {message}", key(flag)),
        })
    };
    let text = match (takes, value) {
        (Takes::Truth, Value::Truth(true)) => {
            return Ok(Some((line, format!("--{}", key(flag)).into())));
        }
        (Takes::Truth, Value::Truth(false)) => return Ok(None),
        (Takes::Whole, Value::Whole(text)) if text.starts_with('-') => {
            return refused(format!("takes a whole number of 0 or more, not {text}"));
        }
        (Takes::Text, Value::Text(text))
        | (Takes::Whole | Takes::Seconds, Value::Whole(text))
        | (Takes::Seconds, Value::Fraction(text)) => text,
        (takes, value) => {
            let wanted = match key(flag) {
                "worker-group" => "a table of names and numbers of workers: { special = 1 }",
                "pin" => "a list of tables: [{ from = \"192.0.2.0/24\", to = \"special\" }]",
                _ => {
                    return refused(format!(
                        "takes {}, not {}",
                        takes.name(several),
                        value.kind()
                    ));
                }
            };
            return refused(format!("takes {wanted}"));
        }
    };
    if text.is_empty() {
        return refused("is empty".into());
    }
    if text.contains('\0') {
        return refused("holds a zero byte".into());
    }
    let argument = argument(flag, text);
    let alone = [OsString::from("serve"), argument.clone()];
    match command.clone().try_get_matches_from(alone) {
        Ok(_) => Ok(Some((line, argument))),
        Err(error) => refused(format!("= {text}: {}", reason(&error))),
    }
}

/// What is wrong, without the words of a command line where there are others.
fn reason(error: &clap::Error) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(source) => source.to_string(),
        None => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.strip_prefix("error: ").unwrap_or(line).to_owned()
        }
    }
}

fn unknown(command: &Command, given: &str, value: &Value) -> String {
    if let Value::Table { header: true, .. } = value {
        return format!("[{given}]: there are no tables, every key stands by itself");
    }
    if given == "config" {
        return "'config' has no place in a file: files name no files".into();
    }
    let likeness = |known: &str| strsim::jaro_winkler(&given.to_lowercase(), known);
    let nearest = keys(command)
        .map(key)
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .filter(|known| likeness(known) > 0.8);
    match nearest {
        Some(known) => format!("unknown key '{given}'; did you mean '{known}'?"),
        None => format!("unknown key '{given}' (a key is a long flag without its dashes)"),
    }
}

/// Where the settings stand that came from a file.
#[derive(Debug, Default, Clone)]
pub(super) struct Origin {
    /// The file, as messages name it.
    pub(super) file: Option<String>,
    /// By key; one for each value.
    lines: BTreeMap<String, Vec<usize>>,
}

impl Origin {
    /// Says where the culprit stands, if it stands in the file.
    pub(super) fn place(&self, refusal: Refusal) -> Error {
        let Some(file) = &self.file else {
            return refusal.into();
        };
        let mut settings = refusal.settings.iter().enumerate();
        let line = settings.find_map(|(i, setting)| {
            let lines = self.lines.get(*setting)?;
            let index = if i == 0 { refusal.index } else { 0 };
            lines.get(index).or(lines.first())
        });
        let message = one_line(&refusal.message);
        match line {
            Some(line) => Error::usage(format!("{file}:{line}: {message}")),
            None => refusal.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{Mode, cli::file::parse, config::Settings};

    const EXAMPLE: &str = include_str!("../../../pointsman.toml");

    fn given(flags: &[&str]) -> Given {
        let arguments = ["serve"].iter().chain(flags);
        let matches = command().try_get_matches_from(arguments).expect("flags");
        Given { matches }
    }

    fn both(text: &str, flags: &[&str]) -> Result<Serve> {
        given(flags).merge(Some(parse("f".into(), text)?))
    }

    fn settings(text: &str, flags: &[&str]) -> Settings {
        let serve = both(text, flags).expect(text);
        serve.settings_alone().expect(text)
    }

    fn refused(text: &str, flags: &[&str]) -> String {
        let error = both(text, flags).and_then(|serve| serve.settings_alone());
        let error = error.expect_err(text);
        assert!(error.is_usage(), "{error}");
        let error = error.to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    }

    /// The example with every key in force.
    fn whole_example() -> String {
        let lines = EXAMPLE.lines().map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest,
            _ => line,
        });
        lines.map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn the_example_holds_every_key_and_all_of_it_is_accepted() {
        let command = command();
        let known: BTreeSet<&str> = keys(&command).map(key).collect();
        assert!(known.len() > 25, "{known:?}");
        let whole = whole_example();
        let written = parse("f".into(), &whole).expect("TOML");
        let held: BTreeSet<&str> = written.entries.iter().map(|e| e.key.as_str()).collect();
        assert_eq!(held, known);
        // Of four ways to say who one is to the NATS server, only one may be.
        let others = ["bus-token-file", "bus-nkey-file", "bus-credentials"];
        let lines = whole
            .lines()
            .filter(|line| !others.iter().any(|o| line.starts_with(o)));
        settings(&lines.collect::<Vec<_>>().join("\n"), &[]);
    }

    #[test]
    fn the_example_says_what_the_defaults_are() {
        let upstreams = ["http://127.0.0.1:3000", "unix:/run/app.sock"];
        let flags = upstreams.map(|u| ["--upstream", u]).concat();
        assert_eq!(settings(EXAMPLE, &[]), settings("", &flags));
    }

    #[test]
    fn the_file_says_the_same_as_flags_do() {
        let text = "listen = ['127.0.0.1:1', 'systemd:web']\nupstream = 'a:1'\nmode = 'shared'\n\
                    drain-timeout = 1.5\nhang-kill = 9\nworkers = 0x3\nmaster-serves = true\n\
                    demo = false\ncontrol = 'off'\nadmin = 'off'\nuser = '-x'\nnofile = 1_000\n";
        let flags = [
            "--listen=127.0.0.1:1",
            "--listen=systemd:web",
            "--upstream=a:1",
            "--mode=shared",
            "--drain-timeout=1.5",
            "--hang-kill=9",
            "--workers=3",
            "--master-serves",
            "--control=off",
            "--admin=off",
            "--user=-x",
            "--nofile=1000",
        ];
        let from_flags = given(&flags).merge(None).expect("flags");
        let from_flags = from_flags.settings_alone().expect("flags");
        assert_eq!(settings(text, &[]), from_flags);
        assert_ne!(settings("upstream = 'a:1'", &[]), from_flags);
    }

    #[test]
    fn groups_and_pins_are_read_from_tables_or_as_flags_have_them() {
        let flags = [
            "--upstream=a:1",
            "--workers=9",
            "--worker-group=special=1",
            "--worker-group=slow=2",
            "--pin=192.0.2.1/32=special",
            "--pin=2001:db8::/32=slow",
        ];
        let from_flags = given(&flags).merge(None).expect("flags");
        let expected = from_flags.settings_alone().expect("flags").cluster.pins;
        assert_eq!((expected.groups.len(), expected.rules.len()), (2, 2));
        let head = "upstream = 'a:1'\nworkers = 9\n";
        for groups in [
            "worker-group = { special = 1, slow = 2 }",
            "worker-group = ['special=1', 'slow=2']",
            "worker-group.special = 1\nworker-group.slow = 2",
        ] {
            for pins in [
                "pin = [{ from = '192.0.2.1', to = 'special' },\n\
                 { to = 'slow', from = '2001:db8::/32' }]",
                "pin = ['192.0.2.1=special', '2001:db8::/32=slow']",
            ] {
                let text = format!("{head}{groups}\n{pins}\n");
                assert_eq!(settings(&text, &[]).cluster.pins, expected, "{text}");
            }
        }
        let one = "worker-group = { a = 1 }\npin = { from = '::/0', to = 'a' }\n";
        let one = settings(&format!("{head}{one}"), &[]).cluster.pins;
        assert_eq!(one.rules.len(), 1);
    }

    #[test]
    fn groups_and_pins_that_cannot_be_are_placed() {
        let up = "upstream = 'a:1'\nworkers = 3\n";
        for (text, start) in [
            (
                "worker-group = {\na = 1,\nb = 2 }",
                "f:4: 3 workers: the worker",
            ),
            ("worker-group = { a = '1' }", "f:3: 'worker-group' takes"),
            (
                "worker-group = { a = 0 }",
                "f:3: worker group 'a' of 0 workers",
            ),
            ("worker-group = { 'ä' = 1 }", "f:3: worker group 'ä'"),
            (
                "worker-group = { a = 1 }\nmode = 'hybrid'",
                "f:4: mode 'hybrid'",
            ),
            (
                "pin = [{ from = '::/0', to = 'a' }]",
                "f:3: pin ::/0 to 'a'",
            ),
            ("pin = [{ from = '::/0' }]", "f:3: 'pin' takes a list"),
            (
                "pin = [{ from = '::/0', to = 'a', x = 1 }]",
                "f:3: 'pin' takes a list",
            ),
            ("pin = [\n'::/0=a',\n'::1/0=a']", "f:5: network '::1/0'"),
            ("[worker-group]\na = 1", "f:3: 'worker-group' takes"),
        ] {
            let text = format!("{up}{text}");
            let error = refused(&text, &[]);
            assert!(error.starts_with(start), "{text:?}: {error}");
        }
    }

    #[test]
    fn flags_win() {
        let text = "listen = ['127.0.0.1:1', '127.0.0.1:2']\nupstream = 'a:1'\nmode = 'shared'\n\
                    drain-timeout = 5";
        let mixed = settings(text, &["--mode", "hybrid", "--listen", "127.0.0.1:3"]);
        assert_eq!(mixed.cluster.arm.mode(), Mode::Hybrid);
        assert_eq!(mixed.cluster.drain_timeout, Duration::from_secs(5));
        let listen: Vec<_> = mixed
            .cluster
            .listen
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(listen, ["127.0.0.1:3"]);
        // What a flag rules out, it wins over too.
        let upstream = settings("demo = true", &["--upstream", "a:1"]);
        assert_eq!(upstream.endpoints, ["a:1"]);
        let demo = both("upstream = 'a:1'", &["--demo"]).expect("valid");
        assert!(demo.is_demo() && demo.upstream.is_empty());
        // Nothing is wrong with what does not count, unless it could never be right.
        settings("upstream = 'a:1'\nmode = 'x'", &["--mode", "shared"]);
        assert!(refused("mode = 1", &["--mode", "shared"]).contains("f:1: 'mode'"));
    }

    #[test]
    fn each_setting_is_placed_where_it_stands() {
        let refused = |text: &str, flags: &[&str], start: &str| {
            let error = refused(text, flags);
            assert!(error.starts_with(start), "{text:?}: {error}");
        };
        let up = "upstream = 'a:1'\n";
        refused(&format!("{up}mode = 'x'"), &[], "f:2: unknown mode");
        refused(
            &format!("{up}mode = 'a\\nb'"),
            &[],
            "f:2: unknown mode 'a\\nb'",
        );
        refused(&format!("{up}policy = 'x'"), &[], "f:2: unknown policy");
        refused(&format!("{up}load-signal = 'x'"), &[], "f:2: unknown load");
        refused(&format!("{up}admin = 'x'"), &[], "f:2: admin address 'x'");
        refused(&format!("{up}workers = 129"), &[], "f:2: 129 workers");
        refused(&format!("{up}workers = 99999"), &[], "f:2: 99999 workers");
        refused(
            &format!("{up}max-workers = 99999"),
            &[],
            "f:2: max-workers 99999",
        );
        refused(&format!("{up}remote-prefix-v4 = 33"), &[], "f:2: a prefix");
        refused(&format!("{up}remote-prefix-v6 = 129"), &[], "f:2: a prefix");
        refused(&format!("{up}group = 'www'"), &[], "f:2: group 'www'");
        refused(&format!("{up}nofile = 63"), &[], "f:2: nofile 63");
        refused(&format!("{up}hang-after = 0.009"), &[], "f:2: hang-after");
        refused(&format!("{up}bus = 'x'"), &[], "f:2: bus 'x'");
        refused(
            &format!("{up}bus = [\n'nats://a',\n'x']"),
            &[],
            "f:4: bus 'x'",
        );
        refused(&format!("{up}bus-user = 'x'"), &[], "f:2: bus-user without");
        refused(&format!("{up}bus-key = 'x'"), &[], "f:2: bus-key without");
        let bus = format!("{up}bus = 'nats://a'\n");
        refused(&format!("{bus}bus-prefix = '*'"), &[], "f:3: bus-prefix");
        refused(&format!("{bus}bus-beat = 0.01"), &[], "f:3: bus-beat");
        refused(&format!("{bus}bus-expiry = 2"), &[], "f:3: bus-expiry");
        // The culprit is the other of two, or another of several.
        refused(&format!("{up}\nhang-after = 31"), &[], "f:3: hang-kill");
        refused(
            &format!("{up}mode = 'shared'"),
            &["--policy=round-robin"],
            "f:2: policy",
        );
        refused(
            &format!("{up}load-signal = 'busy'"),
            &["--mode=shared"],
            "f:2: load signal",
        );
        refused("upstream = [\n'a:1',\n'b',\n]", &[], "f:3: upstream 'b'");
        refused("upstream = [\n'a:1',\n'a:1']", &[], "f:3: upstream a:1");
        let listen = "listen = [\n'127.0.0.1:1',\n'127.0.0.1:1']\nupstream = 'a:1'";
        refused(listen, &[], "f:3: 127.0.0.1:1 is to be listened on twice");
        refused(
            "listen = 'systemd:'\nupstream = 'a:1'",
            &[],
            "f:1: listen address",
        );
        // Neither in the file: no line is blamed.
        refused(up, &["--mode=x"], "unknown mode 'x'");
        refused("# nothing", &[], "f: no upstream");
    }

    #[test]
    fn every_fault_of_the_file_is_told_at_once_in_its_order() {
        let error = refused("zzz = 1\npolcy = 'x'\nworkers = 'two'\nmode = ''", &[]);
        assert_eq!(
            error,
            "f:1: unknown key 'zzz' (a key is a long flag without its dashes); \
             line 2: unknown key 'polcy'; did you mean 'policy'?; \
             line 3: 'workers' takes a whole number, not a string; \
             line 4: 'mode' is empty"
        );
        let many: String = (0..9).map(|n| format!("{n} = 1\n")).collect();
        assert!(refused(&many, &[]).ends_with("; and 4 more"));
    }

    #[test]
    fn a_reload_cannot_switch_the_demo_on_but_off() {
        let demo = both("demo = true", &[]).expect("valid");
        let error = demo.settings(None).expect_err("none run").to_string();
        assert!(
            error.starts_with("f:1: 'demo'") && error.ends_with("restart"),
            "{error}"
        );
        let running: Vec<crate::config::Endpoint> = vec!["demo:1".parse().expect("valid")];
        let with = |serve: &Serve| serve.settings(Some(&running)).expect("valid").endpoints;
        assert_eq!(with(&demo), ["demo:1"]);
        let other = both("upstream = 'a:1'", &[]).expect("valid");
        assert_eq!(with(&other), ["a:1"]);
    }

    #[test]
    fn near_misses_get_the_right_suggestion() {
        for (given, meant) in [
            ("polcy", "policy"),
            ("drain_timeout", "drain-timeout"),
            ("Listen", "listen"),
            ("upstreams", "upstream"),
            ("worker", "workers"),
            ("max_workers", "max-workers"),
            ("headtimeout", "head-timeout"),
        ] {
            let error = refused(&format!("{given} = 1"), &[]);
            let expected = format!("f:1: unknown key '{given}'; did you mean '{meant}'?");
            assert_eq!(error, expected);
        }
        assert!(refused("config = 'f'", &[]).contains("no place in a file"));
        assert!(refused("help = true", &[]).contains("unknown key 'help'"));
        assert!(!refused("frobnicate = 1", &[]).contains("did you mean"));
    }

    #[test]
    fn every_key_refuses_values_of_the_wrong_kind() {
        let command = command();
        for flag in keys(&command) {
            let key = key(flag);
            for wrong in ["2026-01-01", "{}", "[[1]]", "[true]"] {
                let error = refused(&format!("\n{key} = {wrong}"), &[]);
                assert!(
                    error.starts_with(&format!("f:2: '{key}' takes ")),
                    "{error}"
                );
            }
            let wrong = if Takes::of(flag) == Takes::Text {
                "1"
            } else {
                "'x'"
            };
            let error = refused(&format!("{key} = {wrong}"), &[]);
            assert!(
                error.starts_with(&format!("f:1: '{key}' takes ")),
                "{error}"
            );
        }
    }
}
