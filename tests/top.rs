//! `pointsman top` in a real pseudo-terminal, which the test reads as a terminal would show it; and in a
//! pipe.

mod harness;

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use nix::{
    pty::{Winsize, openpty},
    sys::{
        signal::Signal,
        termios::{Termios, tcgetattr},
    },
};

use crate::harness::{Client, Demo, Pointsman, is_true, kill, place::Place, run_to_end, until};

/// What a terminal makes of the bytes that it gets; as much of that as `top` uses.
struct Screen {
    cells: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// Does it show the other page, which leaves what was there alone?
    alternate: bool,
    cursor_hidden: bool,
    /// Was anything ever coloured?
    coloured: bool,
    /// The beginning of something whose rest is on its way.
    pending: Vec<u8>,
}

impl Screen {
    fn new(rows: usize, columns: usize) -> Self {
        Self {
            cells: vec![vec![' '; columns]; rows],
            row: 0,
            column: 0,
            alternate: false,
            cursor_hidden: false,
            coloured: false,
            pending: Vec::new(),
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.pending);
        let whole = match std::str::from_utf8(&bytes) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = std::str::from_utf8(&bytes[..whole]).expect("looked at");
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if c == '\u{1b}' {
                let Some(length) = self.command(rest) else {
                    break;
                };
                rest = &rest[length..];
                continue;
            }
            match c {
                '\r' => self.column = 0,
                '\n' => self.row += 1,
                c => {
                    let cell = self
                        .cells
                        .get_mut(self.row)
                        .and_then(|row| row.get_mut(self.column));
                    if let Some(cell) = cell {
                        *cell = c;
                    }
                    self.column += 1;
                }
            }
            rest = &rest[c.len_utf8()..];
        }
        self.pending = [rest.as_bytes(), &bytes[whole..]].concat();
    }

    /// Does what stands at the beginning of `text`; its length, if it is there in full.
    fn command(&mut self, text: &str) -> Option<usize> {
        let Some(body) = text.strip_prefix("\u{1b}[") else {
            return (text.len() > 1).then_some(2);
        };
        let end = body.find(|c: char| ('@'..='~').contains(&c))?;
        let (parameters, last) = (&body[..end], &body[end..=end]);
        let number = |i: usize| parameters.split(';').nth(i)?.parse::<usize>().ok();
        match (last, parameters) {
            ("H", _) => {
                self.row = number(0).unwrap_or(1) - 1;
                self.column = number(1).unwrap_or(1) - 1;
            }
            ("J", "2") => self.cells.iter_mut().for_each(|row| row.fill(' ')),
            ("h", "?1049") => self.alternate = true,
            ("l", "?1049") => self.alternate = false,
            ("h", "?25") => self.cursor_hidden = false,
            ("l", "?25") => self.cursor_hidden = true,
            ("m", _) => {
                let colour = |part: &str| matches!(part.parse(), Ok(30..=38 | 40..=48 | 90..=107));
                self.coloured |= parameters.split(';').any(colour);
            }
            _ => {}
        }
        Some(2 + end + 1)
    }

    fn text(&self) -> String {
        let rows = self.cells.iter().map(|row| row.iter().collect::<String>());
        rows.map(|row| row.trim_end().to_owned() + "\n").collect()
    }
}

/// `pointsman top` in a terminal of its own.
struct Terminal {
    process: Child,
    keys: File,
    slave: OwnedFd,
    screen: Arc<Mutex<Screen>>,
    before: Termios,
}

impl Terminal {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        const SIZE: Winsize = Winsize {
            ws_row: 24,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(&SIZE, None).expect("a pseudo-terminal");
        let before = tcgetattr(&pair.slave).expect("a terminal");
        let end = || pair.slave.try_clone().expect("a descriptor");
        // Our own terminal, if we have one, is none of its business.
        let process = Command::new("setsid")
            .args(["--ctty", env!("CARGO_BIN_EXE_pointsman"), "top"])
            .args(arguments)
            .env_remove("NO_COLOR")
            .env("TERM", "xterm-256color")
            .envs(environment.iter().copied())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("setsid, of util-linux");
        let mut output = File::from(pair.master.try_clone().expect("a descriptor"));
        let screen = Arc::new(Mutex::new(Screen::new(24, 100)));
        thread::spawn({
            let screen = screen.clone();
            // Ends when the last end of the terminal is closed.
            move || {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = output.read(&mut buffer) {
                    screen.lock().expect("whole").take(&buffer[..n]);
                }
            }
        });
        Self {
            process,
            keys: File::from(pair.master),
            slave: pair.slave,
            screen,
            before,
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a terminal");
    }

    fn text(&self) -> String {
        self.screen.lock().expect("whole").text()
    }

    /// Waits until it shows `what`.
    #[track_caller]
    fn shows(&self, what: &str) {
        self.shows_that(what, |text| text.contains(what));
    }

    #[track_caller]
    fn shows_that(&self, what: &str, condition: impl Fn(&str) -> bool) {
        let mut last = String::new();
        let shown = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(what, || {
                last = self.text();
                is_true(condition(&last))
            });
        }));
        assert!(shown.is_ok(), "it never showed {what}:\n{last}");
    }

    fn resize(&self, rows: usize, columns: usize) {
        *self.screen.lock().expect("whole") = Screen {
            alternate: true,
            ..Screen::new(rows, columns)
        };
        let done = Command::new("stty")
            .args(["rows", &rows.to_string(), "cols", &columns.to_string()])
            .stdin(self.slave.try_clone().expect("a descriptor"))
            .status();
        assert!(done.expect("coreutils").success());
    }

    /// Waits until it has ended, and sees to it that the terminal is as it was.
    #[track_caller]
    fn ends(mut self) -> ExitStatus {
        let status = until("top ends", || self.process.try_wait().expect("our child"));
        assert_eq!(tcgetattr(&self.slave).expect("a terminal"), self.before);
        until("the screen is as before", || {
            let screen = self.screen.lock().expect("whole");
            is_true(!screen.alternate && !screen.cursor_hidden)
        });
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A client that never stops asking.
struct Load {
    over: Arc<AtomicBool>,
    client: Option<thread::JoinHandle<()>>,
}

impl Load {
    fn on(proxy: &Pointsman) -> Self {
        let (over, address) = (Arc::new(AtomicBool::new(false)), proxy.address());
        let client = thread::spawn({
            let over = over.clone();
            move || {
                while !over.load(Relaxed) {
                    let mut client = Client::connect(address);
                    // After a switch or a drain the proxy closes; then there is another.
                    while !over.load(Relaxed) && client.get("/").is_ok() {}
                }
            }
        });
        Self {
            over,
            client: Some(client),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(client) = self.client.take() {
            let _ = client.join();
        }
    }
}

fn line_with(text: &str, what: &str) -> String {
    let found = text.lines().find(|line| line.contains(what));
    found.unwrap_or_default().to_owned()
}

/// Is there a rate behind `name`, and is it more than nothing?
fn has_rate(text: &str, name: &str) -> bool {
    let line = line_with(text, name);
    let rest = line
        .split_once(name)
        .map_or("", |(_, rest)| rest.trim_start());
    rest.starts_with(|c: char| ('1'..='9').contains(&c))
}

#[test]
fn it_shows_what_the_cluster_does_and_heeds_keys() {
    let (place, demo) = (Place::new("top-keys"), Demo::start("one"));
    let proxy = place.start(&demo.url(), &["--workers", "2"]);
    let load = Load::on(&proxy);
    let mut top = Terminal::start(&["--control", &place.socket(), "--interval", "200ms"], &[]);
    top.shows("handoff, least-loaded");
    top.shows("2/2 ready");
    top.shows_that("requests a second", |text| has_rate(text, "requests "));
    top.shows_that("a latency", |text| has_rate(text, "p99 "));
    for pid in proxy.worker_pids() {
        top.shows_that("each worker", |text| {
            line_with(text, &pid.to_string()).contains("ready")
        });
    }
    top.press("p");
    top.shows("PAUSED");
    top.press("p");
    top.shows_that("that it goes on", |text| !text.contains("PAUSED"));
    top.press("2");
    top.shows("sort by PID");
    top.press("r");
    top.shows("sort by PID reversed");
    top.press("?");
    top.shows("leave the help, then top");
    top.press("\u{1b}");
    top.shows_that("no help", |text| !text.contains("leave the help"));
    place.works(&["mode", "shared"]);
    top.shows("  shared  2/2 ready");
    top.shows("* shared");
    // Smaller than most terminals ever are.
    top.resize(10, 40);
    top.shows("WORKER");
    top.shows_that("shared", |text| {
        text.lines().next().is_some_and(|l| l.contains("shared"))
    });
    top.resize(30, 90);
    top.shows("PID▲");
    assert!(top.screen.lock().expect("whole").coloured);
    drop(load);
    top.press("q");
    assert_eq!(top.ends().code(), Some(0));
}

#[test]
fn it_does_without_colours_where_somebody_wants_none() {
    let (place, demo) = (Place::new("top-grey"), Demo::start("one"));
    let _proxy = place.start(&demo.url(), &["--workers", "1"]);
    let mut top = Terminal::start(&["--control", &place.socket()], &[("NO_COLOR", "1")]);
    top.shows("running");
    assert!(!top.screen.lock().expect("whole").coloured);
    // Ctrl-C is a key there.
    top.press("\u{3}");
    assert_eq!(top.ends().code(), Some(0));
}

#[test]
fn signals_leave_the_terminal_as_it_was() {
    let (place, demo) = (Place::new("top-signals"), Demo::start("one"));
    let _proxy = place.start(&demo.url(), &["--workers", "1"]);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let top = Terminal::start(&["--control", &place.socket()], &[]);
        top.shows("running");
        assert!(top.screen.lock().expect("whole").alternate);
        kill(top.process.id() as i32, signal);
        assert_eq!(top.ends().code(), Some(0), "{signal}");
    }
}

#[test]
fn a_master_that_goes_away_is_missed_and_its_successor_is_welcome() {
    let (place, demo) = (Place::new("top-gone"), Demo::start("one"));
    let proxy = place.start(&demo.url(), &["--workers", "1"]);
    let mut top = Terminal::start(&["--control", &place.socket(), "--interval", "100ms"], &[]);
    top.shows("running");
    drop(proxy);
    top.shows("no answer");
    top.shows("gone");
    let proxy = place.start(&demo.url(), &["--workers", "3"]);
    top.shows("3/3 ready");
    let load = Load::on(&proxy);
    top.shows_that("requests a second", |text| has_rate(text, "requests "));
    drop(load);
    top.press("q");
    assert_eq!(top.ends().code(), Some(0));
}

#[test]
fn one_page_needs_no_terminal() {
    let (place, demo) = (Place::new("top-once"), Demo::start("one"));
    let proxy = place.start(&demo.url(), &["--workers", "2"]);
    let load = Load::on(&proxy);
    let (socket, admin) = (place.socket(), format!("http://{}", proxy.admin));
    let by_name = format!("localhost:{}", proxy.admin.port());
    for source in [
        ["--control", &socket],
        ["--admin", &admin],
        ["--admin", &by_name],
    ] {
        let done = run_to_end(&[&["top", "--once", "--interval", "300ms"], &source[..]].concat());
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done:?}");
        let page = done.stdout;
        assert!(!page.contains('\u{1b}'), "{page}");
        assert!(
            page.contains("running  handoff, least-loaded  2/2 ready"),
            "{page}"
        );
        assert!(
            has_rate(&page, "requests ") && has_rate(&page, "p99 "),
            "{page}"
        );
        assert!(page.contains("* handoff, least-loaded"), "{page}");
        for pid in proxy.worker_pids() {
            assert!(
                line_with(&page, &pid.to_string()).contains("ready"),
                "{page}"
            );
        }
    }
    drop(load);
}

#[test]
fn what_cannot_be_is_told_in_a_line() {
    let place = Place::new("top-nobody");
    let socket = place.socket();
    for (arguments, code, why) in [
        (vec!["top", "--control", &socket], 2, "--once"),
        (vec!["top", "--once", "--control", &socket], 3, "running?"),
        (
            vec!["top", "--once", "--admin", "127.0.0.1"],
            2,
            "127.0.0.1:9900",
        ),
        (vec!["top", "--once", "--interval", "50ms"], 2, "100ms"),
        (
            vec!["top", "--control", "/x", "--admin", "127.0.0.1:1"],
            2,
            "--admin",
        ),
    ] {
        let done = run_to_end(&arguments);
        assert_eq!(done.code, Some(code), "{arguments:?}: {done:?}");
        assert!(done.stderr.contains(why), "{arguments:?}: {done:?}");
        assert_eq!(done.stdout, "");
    }
}
