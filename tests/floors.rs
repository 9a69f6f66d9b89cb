//! The order of `mod` lines in `src/lib.rs` is the floor plan: a module names only modules above it.

use std::{
    fs,
    path::{Path, PathBuf},
};

#[test]
fn a_module_names_only_modules_above_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let plan = read(&source.join("lib.rs"));
    let floors: Vec<&str> = plan.lines().filter_map(declared).collect();
    assert!(floors.len() > 20, "{floors:?}");
    let floor = |name: &str| floors.iter().position(|other| *other == name);
    let mut wrong = Vec::new();
    let mut named = 0;
    for path in files(&source) {
        let inside = path.strip_prefix(&source).expect("it is in there");
        let top = inside.iter().next().and_then(|top| top.to_str());
        let Some(own) = floor(top.expect("a name").trim_end_matches(".rs")) else {
            continue;
        };
        for name in names(&read(&path)) {
            named += 1;
            if floor(&name).is_some_and(|other| other > own) {
                wrong.push(format!("{} names {name}", inside.display()));
            }
        }
    }
    assert!(named > 500, "{named}: is the source read as it is written?");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The module that a line declares.
fn declared(line: &str) -> Option<&str> {
    let name = line.strip_prefix("pub ").unwrap_or(line);
    name.strip_prefix("mod ")?.strip_suffix(';')
}

/// All files of the library but those with tests in them only: a test may look down.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let paths = paths.filter(|path| path.file_stem().is_none_or(|name| name != "tests"));
    paths
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false if path.extension().is_some_and(|end| end == "rs") => vec![path],
            false => Vec::new(),
        })
        .collect()
}

/// What a file says, without comments and the tests at its end.
fn read(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a file");
    let text = text.split("#[cfg(test)]\nmod tests {").next();
    let lines = text.expect("a first part").lines();
    let code = lines.map(|line| line.split("//").next().expect("a first part"));
    code.collect::<Vec<_>>().join("\n")
}

/// The names that follow `crate::`, or stand first in the braces that do.
fn names(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for after in code.split("crate::").skip(1) {
        let Some(group) = after.strip_prefix('{') else {
            names.push(word(after));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    names.push(word(&group[start..i]));
                    start = i + 1;
                }
                _ => {}
            }
            if c == '}' && start == i + 1 {
                break;
            }
        }
    }
    names
}

/// The first word of a text.
fn word(text: &str) -> String {
    let letters = text.trim_start().chars();
    letters
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}
