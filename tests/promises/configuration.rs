//! The configuration file, and `pointsman check`.

use std::{
    ffi::CString,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::sys::signal::Signal;

use super::harness::{Demo, Finished, Pointsman, get, kill, run_to_end, until};

/// A directory of a test's own, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pointsman-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new directory");
        Self(path)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).expect("a new file");
        text(&path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// It must have refused in one line that begins with `start` and holds all of `culprits`.
#[track_caller]
fn refused(end: &Finished, start: &str, culprits: &[&str]) {
    assert_eq!(end.code, Some(2), "{end:?}");
    assert_eq!(end.stdout, "", "{end:?}");
    assert_eq!(end.stderr.lines().count(), 1, "{end:?}");
    let start = format!("pointsman: {start}");
    assert!(end.stderr.starts_with(&start), "{start}: {end:?}");
    for culprit in culprits {
        assert!(end.stderr.contains(culprit), "{culprit}: {end:?}");
    }
    assert!(!end.stderr.contains("--"), "flags nobody wrote: {end:?}");
}

const UP: &str = "upstream = 'http://127.0.0.1:9'\n";

#[test]
fn each_way_to_break_a_file_is_told_with_its_line() {
    let folder = Folder::new();
    let broken: &[(&str, &str, &[&str])] = &[
        // No TOML at all; with the column.
        ("mode = handoff", ":2:8: ", &["quoted"]),
        ("mode = 'handoff", ":2:", &["string"]),
        ("mode 'handoff'", ":2:", &[]),
        ("listen = ['a:1',\n'b:2'", ":3:6: ", &["array"]),
        (
            "\n\nupstream = 'x:1'",
            ":4:1: ",
            &["duplicate", "'upstream'"],
        ),
        // No such key, no place for it.
        (
            "polcy = 'x'",
            ":2: ",
            &["unknown key 'polcy'; did you mean 'policy'?"],
        ),
        (
            "\ndrain_timeout = 3",
            ":3: ",
            &["'drain_timeout'", "'drain-timeout'?"],
        ),
        (
            "frobnicate = 1\nlisen = 1",
            ":2: ",
            &["'frobnicate'", "line 3: ", "'listen'?"],
        ),
        ("[proxy]\nmode = 'shared'", ":2: ", &["[proxy]", "tables"]),
        ("[[proxy]]\nmode = 'shared'", ":2: ", &["[proxy]", "tables"]),
        ("policy.name = 'x'", ":2: ", &["'policy'", "a table"]),
        // Another kind of value.
        (
            "mode = 3",
            ":2: ",
            &["'mode' takes a string, not a whole number"],
        ),
        (
            "mode = ['shared']",
            ":2: ",
            &["'mode' takes a string, not a list"],
        ),
        (
            "workers = '4'",
            ":2: ",
            &["'workers' takes a whole number, not a string"],
        ),
        ("workers = 4.0", ":2: ", &["'workers' takes a whole number"]),
        (
            "drain-timeout = '3'",
            ":2: ",
            &["'drain-timeout' takes a number of seconds"],
        ),
        ("pin-cpus = 1", ":2: ", &["'pin-cpus' takes true or false"]),
        (
            "listen = [\n'127.0.0.1:0',\n5]",
            ":4: ",
            &["'listen' takes"],
        ),
        ("listen = {}", ":2: ", &["'listen' takes", "a table"]),
        ("listen = []", ":2: ", &["'listen' is empty"]),
        // A value that cannot be.
        ("mode = 'handof'", ":2: ", &["'handof'", "reuseport"]),
        ("policy = 'least'", ":2: ", &["'least'", "round-robin"]),
        (
            "mode = 'shared'\npolicy = 'round-robin'",
            ":3: ",
            &["round-robin", "shared"],
        ),
        ("workers = 0", ":2: ", &["0 workers"]),
        ("workers = -1", ":2: ", &["'workers'", "-1"]),
        (
            "workers = 4\nmax-workers = 3",
            ":3: ",
            &["max-workers 3", "4"],
        ),
        (
            "drain-timeout = 0",
            ":2: ",
            &["'drain-timeout' = 0", "seconds above 0"],
        ),
        ("idle-timeout = inf", ":2: ", &["'idle-timeout' = inf"]),
        ("hang-after = 0.001", ":2: ", &["hang-after 0.001"]),
        ("hang-kill = 0.01", ":2: ", &["hang-kill 0.01", "0.05"]),
        (
            "remote-prefix-v4 = 300",
            ":2: ",
            &["'remote-prefix-v4' = 300", "255"],
        ),
        ("nofile = 9", ":2: ", &["nofile 9", "64"]),
        ("group = 'www'", ":2: ", &["group 'www'", "user"]),
        ("admin = '127.0.0.1'", ":2: ", &["'127.0.0.1'", "port"]),
        (
            "listen = ['127.0.0.1:9',\n'127.0.0.1:9']",
            ":3: ",
            &["127.0.0.1:9", "twice"],
        ),
        ("demo = true", ":2: ", &["'demo'", "'upstream' of line 1"]),
    ];
    for (i, (content, place, culprits)) in broken.iter().enumerate() {
        let path = folder.file(&format!("{i}.toml"), format!("{UP}{content}\n"));
        let start = format!("{path}{place}");
        refused(&run_to_end(&["check", "-c", &path]), &start, culprits);
        // `serve` says the same, before it starts anything.
        if i % 9 == 0 {
            refused(&run_to_end(&["serve", "-c", &path]), &start, culprits);
        }
    }
}

#[test]
fn a_file_that_cannot_be_one_is_told_by_name() {
    let folder = Folder::new();
    let told = |path: &str, place: &str, culprit: &str| {
        let end = run_to_end(&["check", "--config", path]);
        refused(&end, &format!("{path}{place}: "), &[culprit]);
    };
    told(&text(&folder.0.join("none")), "", "no such file");
    told(&text(&folder.0), "", "directory");
    told(&folder.file("latin", b"# a\nmode = '\xe4'"), ":2", "UTF-8");
    told(&folder.file("zero", b"a\0b"), ":1:4", "");
    told(&folder.file("empty", ""), "", "no upstream");
    // Nothing to read for ever, nothing to wait for, nothing to fill the memory with.
    told("/dev/zero", "", "regular");
    let pipe = folder.0.join("pipe");
    let name = CString::new(pipe.as_os_str().as_bytes()).expect("no zero byte");
    nix::unistd::mkfifo(name.as_c_str(), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    told(&text(&pipe), "", "regular");
    let huge = folder.file("huge", "");
    let file = fs::File::options().write(true).open(&huge);
    file.and_then(|file| file.set_len(1 << 40))
        .expect("a sparse file");
    told(&huge, "", "1 MiB");
    let comment = |length| format!("{UP}#{}", "x".repeat(length - UP.len() - 1));
    told(&folder.file("over", comment((1 << 20) + 1)), "", "1 MiB");
    let most = folder.file("most", comment(1 << 20));
    assert_eq!(run_to_end(&["check", "-c", &most]).code, Some(0));
    let loops = folder.0.join("loop");
    std::os::unix::fs::symlink(&loops, &loops).expect("a link");
    told(&text(&loops), "", "cannot read it");
}

#[test]
fn a_good_file_is_told_in_short() {
    let folder = Folder::new();
    let content =
        format!("{UP}mode = 'hybrid'\nworkers = 3\nlisten = ['127.0.0.1:1', 'systemd:web']");
    let path = folder.file("good.toml", content);
    let end = run_to_end(&["check", "-c", &path]);
    assert_eq!((end.code, &end.stderr[..]), (Some(0), ""), "{end:?}");
    assert_eq!(end.stdout.lines().next(), Some(&format!("{path}: ok")[..]));
    for told in [
        "127.0.0.1:1, systemd:web",
        "hybrid, policy least-loaded",
        "3",
        "127.0.0.1:9",
    ] {
        assert!(end.stdout.contains(told), "{told}: {end:?}");
    }
    // As `serve` would see it: with a flag that wins, and without a file.
    let end = run_to_end(&["check", "-c", &path, "--mode", "shared"]);
    assert!(end.stdout.contains("mode      shared\n"), "{end:?}");
    let end = run_to_end(&["check", "--upstream", "a:1"]);
    assert!(end.stdout.starts_with("command line: ok\n"), "{end:?}");
    let end = run_to_end(&["check", "--upstream", "a:0"]);
    assert_eq!(end.code, Some(2), "{end:?}");
}

#[test]
fn the_example_is_in_order() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/pointsman.toml");
    let end = run_to_end(&["check", "-c", path]);
    assert_eq!((end.code, &end.stderr[..]), (Some(0), ""), "{end:?}");
}

#[test]
fn without_an_address_it_listens_on_what_was_passed_if_it_was_meant() {
    let listens_on = |pid: &str, flags: &str| {
        let binary = env!("CARGO_BIN_EXE_pointsman");
        let script =
            format!("LISTEN_FDS=1 LISTEN_PID={pid} exec {binary} check --upstream a:1 {flags}");
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output();
        let output = String::from_utf8(output.expect("a shell").stdout).expect("UTF-8");
        let line = output.lines().find_map(|l| l.trim().strip_prefix("listen"));
        line.expect("a summary").trim().to_owned()
    };
    assert_eq!(listens_on("$$", ""), "every listener that was passed");
    assert_eq!(listens_on("1", ""), "127.0.0.1:8080");
    assert_eq!(listens_on("$$", "--listen 127.0.0.1:5"), "127.0.0.1:5");
}

#[test]
fn it_serves_as_the_file_says_and_flags_win() {
    let (folder, demo) = (Folder::new(), Demo::start("one"));
    let content = format!(
        "listen = '127.0.0.1:0'\nupstream = ['{}']\nmode = 'shared'\nworkers = 2\n",
        demo.url()
    );
    let path = folder.file("pointsman.toml", content);
    for (flags, mode, workers) in [
        (&[][..], "mode=\"shared\"", 2),
        (
            &["--mode", "reuseport", "--workers", "1"],
            "mode=\"reuseport\"",
            1,
        ),
    ] {
        let flags = [&["-c", &path], flags].concat();
        let proxy = Pointsman::start_on(&[], &[], &flags);
        assert_eq!(get(proxy.address(), "/").text(), "hello from one\n");
        assert_eq!(proxy.worker_pids().len(), workers);
        assert_eq!(proxy.metric("pointsman_connections_total", &[mode]), 1.0);
    }
}

#[test]
fn a_worker_never_reads_the_file() {
    let (folder, demo) = (Folder::new(), Demo::start("one"));
    let content = format!(
        "listen = '127.0.0.1:0'\nupstream = '{}'\nworkers = 1",
        demo.url()
    );
    let path = folder.file("pointsman.toml", content);
    let proxy = Pointsman::start_on(&[], &[], &["-c", &path]);
    folder.file("pointsman.toml", "this is no TOML");
    let first = proxy.worker_pids()[0];
    kill(first, Signal::SIGKILL);
    until("the worker is replaced", || {
        (proxy.worker_pids()[0] != first && proxy.admin("/readyz").status == 200).then_some(())
    });
    assert_eq!(get(proxy.address(), "/").text(), "hello from one\n");
}
