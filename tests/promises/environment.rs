//! Service managers, containers and users: what is promised about whoever starts it.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{MetadataExt, OpenOptionsExt},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use nix::{
    sys::signal::Signal::{self, SIGHUP, SIGKILL, SIGPIPE, SIGTERM, SIGUSR1},
    unistd::{Pid, Uid},
};
use pointsman::Mode;

use crate::harness::{
    DEADLINE, Demo, Pointsman, children, get, is_running, is_true, kill, process, run_to_end, until,
};

const BINARY: &str = env!("CARGO_BIN_EXE_pointsman");

/// A program that a test started, and what it wrote to standard error. Dropping it ends it.
struct Program {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("an installed program");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        thread::spawn({
            let log = log.clone();
            move || {
                for line in stderr.lines().map_while(Result::ok) {
                    let mut log = log.lock().expect("no writer panics");
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        Self { child, log }
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn log(&self) -> String {
        self.log.lock().expect("no writer panics").clone()
    }

    /// Waits for a line with `text` on standard error.
    #[track_caller]
    fn says(&self, text: &str) -> String {
        until(&format!("it says '{text}'"), || {
            let log = self.log();
            log.lines().find(|l| l.contains(text)).map(str::to_owned)
        })
    }

    #[track_caller]
    fn code(&mut self) -> Option<i32> {
        until("it ends", || self.child.try_wait().expect("our child")).code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = nix::sys::signal::kill(Pid::from_raw(self.pid()), SIGTERM);
            let _ = nix::sys::signal::kill(Pid::from_raw(self.pid()), SIGTERM);
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("--- it said:\n{}---", self.log());
        }
    }
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

/// The addresses in what it says when it is ready: where it listens, and the admin interface.
fn addresses(announcement: &str) -> Vec<SocketAddr> {
    announcement
        .split([' ', ','])
        .filter_map(|word| word.strip_prefix("http://")?.parse().ok())
        .collect()
}

/// The lines of `/proc/PID/status`.
#[track_caller]
fn status_of(pid: i32) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// No capability, no way to any.
#[track_caller]
fn assert_harmless(pid: i32, bounding: bool) {
    let status = status_of(pid);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set} of {pid}");
    }
    // Who has no privileges cannot give up those either; without a way to them they are idle.
    if bounding {
        assert_eq!(status["CapBnd"], "0000000000000000", "CapBnd of {pid}");
    }
    assert_eq!(status["NoNewPrivs"], "1", "of {pid}");
}

// ------------------------------------------------------------------------------------ sockets

/// `pointsman` behind `systemd-socket-activate`, which starts it at the first connection.
fn activated(address: SocketAddr, names: &str, arguments: &[&str]) -> Program {
    let mut command = Command::new("systemd-socket-activate");
    command
        .args(["-l", &address.to_string(), &format!("--fdname={names}")])
        .args([BINARY, "serve", "--admin", "127.0.0.1:0"])
        .args(arguments);
    let program = Program::start(command);
    program.says("Listening on");
    program
}

#[test]
fn a_socket_of_systemd_serves_in_every_mode() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let address = free_address();
        let mut program = activated(
            address,
            "web",
            &[
                "--listen",
                "systemd:web",
                "--upstream",
                &demo.url(),
                "--workers",
                "2",
                "--mode",
                mode.name(),
            ],
        );
        // The first connection is what starts it, and is answered all the same.
        for _ in 0..20 {
            assert_eq!(get(address, "/").text(), "hello from one\n", "{mode}");
        }
        let told = program.says("listening on");
        assert_eq!(addresses(&told)[0], address, "{told}");
        // What systemd told the master it told nobody else.
        for (worker, _) in children(program.pid()) {
            let variables = std::fs::read(format!("/proc/{worker}/environ")).expect("our own");
            let variables = String::from_utf8_lossy(&variables).into_owned();
            assert!(!variables.contains("LISTEN_"), "{variables}");
        }
        kill(program.pid(), SIGTERM);
        assert_eq!(program.code(), Some(0), "{mode}");
    }
}

#[test]
fn a_socket_that_nobody_passed_is_refused_by_name() {
    let demo = Demo::start("one");
    let ended = run_to_end(&[
        "serve",
        "--listen",
        "systemd:web",
        "--upstream",
        &demo.url(),
        "--admin",
        "off",
    ]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("no socket named 'web'"), "{ended:?}");

    let address = free_address();
    let arguments = ["--listen", "systemd:web", "--upstream", &demo.url()];
    let mut program = activated(address, "other", &arguments);
    let _first = std::net::TcpStream::connect(address).expect("systemd listens");
    assert_eq!(program.code(), Some(2));
    program.says("no socket named 'web'");
}

#[test]
fn a_socket_of_another_user_serves_but_not_in_the_mode_that_needs_more_of_them() {
    if !Uid::effective().is_root() {
        // Nobody else can start something as another user.
        return;
    }
    let demo = Demo::start("one");
    let start = |mode: &str| {
        let address = free_address();
        let mut command = Command::new("systemd-socket-activate");
        command
            .args(["-l", &address.to_string(), "--fdname=web"])
            .args(["setpriv", "--reuid=nobody", "--clear-groups", BINARY])
            .args(["serve", "--listen", "systemd:web", "--admin", "127.0.0.1:0"])
            .args(["--workers", "2", "--upstream", &demo.url(), "--mode", mode]);
        let program = Program::start(command);
        program.says("Listening on");
        (program, address)
    };
    for mode in ["handoff", "hybrid", "shared"] {
        let (program, address) = start(mode);
        for _ in 0..10 {
            assert_eq!(get(address, "/").text(), "hello from one\n", "{mode}");
        }
        program.says("listening on");
        children(program.pid())
            .iter()
            .for_each(|(worker, _)| assert_harmless(*worker, false));
    }
    let (mut program, address) = start("reuseport");
    let _first = std::net::TcpStream::connect(address).expect("systemd listens");
    assert_eq!(program.code(), Some(2));
    let told = program.says("passed socket 'web'");
    assert!(told.contains("--user"), "the way out: {told}");
}

// ------------------------------------------------------------------------------------- notify

/// A service manager that listens.
struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pointsman-{name}-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).expect("a free path");
        socket.set_read_timeout(Some(DEADLINE)).expect("a socket");
        Self { path, socket }
    }

    #[track_caller]
    fn next(&self) -> String {
        let mut bytes = [0; 1024];
        let n = self.socket.recv(&mut bytes).expect("a message in time");
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    /// Waits for a message with the line `line`; how many came before it.
    #[track_caller]
    fn hears(&self, line: &str) -> usize {
        (0..)
            .find(|_| self.next().lines().any(|l| l == line))
            .expect("one comes in time")
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn the_service_manager_hears_of_readiness_of_life_and_of_the_end() {
    let (demo, manager) = (Demo::start("one"), Manager::new("manager"));
    let mut command = Command::new(BINARY);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--workers", "2", "--upstream", &demo.url()])
        .env("NOTIFY_SOCKET", &manager.path)
        .env("WATCHDOG_USEC", "200000");
    let mut program = Program::start(command);
    manager.hears("READY=1");
    // Not before it was true.
    let told = program.says("listening on");
    assert_eq!(get(addresses(&told)[0], "/").status, 200);
    assert_eq!(children(program.pid()).len(), 2);
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    for (worker, _) in children(program.pid()) {
        let variables = std::fs::read(format!("/proc/{worker}/environ")).expect("our own");
        let variables = String::from_utf8_lossy(&variables).into_owned();
        let secret = ["NOTIFY_SOCKET", "WATCHDOG_USEC"];
        assert!(!secret.iter().any(|v| variables.contains(v)), "{variables}");
    }
    kill(program.pid(), SIGTERM);
    manager.hears("STOPPING=1");
    assert_eq!(program.code(), Some(0));
}

#[test]
fn a_service_manager_that_is_gone_or_nonsense_harms_nobody() {
    let demo = Demo::start("one");
    for socket in ["/nowhere/at/all", "nonsense", ""] {
        let mut command = Command::new(BINARY);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--workers", "1", "--upstream", &demo.url()])
            .env("NOTIFY_SOCKET", socket)
            .env("WATCHDOG_USEC", "20000");
        let mut program = Program::start(command);
        let told = program.says("listening on");
        assert_eq!(get(addresses(&told)[0], "/").status, 200);
        kill(program.pid(), SIGTERM);
        assert_eq!(program.code(), Some(0), "{socket}");
    }
}

#[test]
fn the_unit_files_are_sound() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let room = std::env::temp_dir().join(format!("pointsman-units-{}", std::process::id()));
    std::fs::create_dir_all(&room).expect("a directory");
    for unit in ["pointsman.service", "pointsman.socket"] {
        let text = std::fs::read_to_string(source.join(unit)).expect("it is in the repository");
        // Whether the binary is there is checked too, and it is not installed here.
        let text = text.replace("/usr/local/bin/pointsman", BINARY);
        std::fs::write(room.join(unit), text).expect("a file");
    }
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze")
            .args(arguments)
            .current_dir(&room)
            .output()
            .expect("systemd is installed");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let units = ["./pointsman.service", "./pointsman.socket"];
    let verified = analyze(&["verify", "--man=no", units[0], units[1]]);
    assert_eq!(verified, (true, String::new()));
    // Tenths of points of exposure: 18 as it is, 96 without any protection.
    let (safe, text) = analyze(&["security", "--offline=true", "--threshold=20", units[0]]);
    assert!(safe, "{text}");
    std::fs::remove_dir_all(&room).expect("ours");
}

// ---------------------------------------------------------------------------------- privileges

#[test]
fn workers_have_no_capabilities_whoever_starts_them() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "2"]);
    for worker in proxy.worker_pids() {
        assert_harmless(worker, Uid::effective().is_root());
        let limits = std::fs::read_to_string(format!("/proc/{worker}/limits")).expect("alive");
        let core = limits.lines().find(|l| l.starts_with("Max core file size"));
        let soft = core.and_then(|line| line.split_whitespace().nth(4));
        assert_eq!(soft, Some("0"), "{limits}");
    }
    assert_eq!(get(proxy.address(), "/").status, 200);
}

/// A free port that only root may have.
fn low_address() -> SocketAddr {
    (600..1024)
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("one is free")
}

#[test]
fn master_and_workers_become_another_user_once_everything_is_bound() {
    let demo = Demo::start("one");
    if !Uid::effective().is_root() {
        let ended = run_to_end(&[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            &demo.url(),
            "--admin",
            "off",
            "--user",
            "daemon",
        ]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains("only root"), "{ended:?}");
        return;
    }
    let nobody = nix::unistd::User::from_name("nobody")
        .expect("a user database")
        .expect("every system has one");
    let four = |id: u32| [id.to_string().as_str(); 4].join("\t");
    for mode in Mode::ALL {
        let address = low_address();
        let proxy = Pointsman::start_on(
            &[&address.to_string()],
            &[&demo.url()],
            &["--workers", "2", "--user", "nobody", "--mode", mode.name()],
        );
        let is_nobody = |pid: i32| {
            let status = status_of(pid);
            assert_eq!(status["Uid"], four(nobody.uid.as_raw()), "of {pid}");
            assert_eq!(status["Gid"], four(nobody.gid.as_raw()), "of {pid}");
            assert_eq!(status["Groups"], nobody.gid.to_string(), "of {pid}");
            assert_harmless(pid, true);
        };
        is_nobody(proxy.pid());
        // Whoever may not be traced is shown as root's: its workers cannot look into the master, but
        // it may look at them.
        let shown_as = |pid| std::fs::metadata(format!("/proc/{pid}/maps")).map(|m| m.uid());
        assert_eq!(shown_as(proxy.pid()).expect("alive"), 0);
        assert_eq!(
            shown_as(proxy.worker_pids()[0]).expect("alive"),
            nobody.uid.as_raw()
        );
        proxy.worker_pids().into_iter().for_each(is_nobody);
        assert_eq!(get(address, "/").text(), "hello from one\n", "{mode}");
        // It still reads its own figures, and can start itself again.
        assert!(proxy.metric("process_open_fds", &[]) > 0.0);
        let victim = proxy.worker_pids()[0];
        kill(victim, SIGKILL);
        let successor = until("a successor is ready", || {
            let report = proxy.workers();
            let worker = &report["workers"][0];
            let pid = worker["pid"].as_i64()? as i32;
            (pid != victim && worker["state"] == "ready").then_some(pid)
        });
        is_nobody(successor);
        for _ in 0..10 {
            assert_eq!(get(address, "/").status, 200, "{mode}");
        }
    }
}

#[test]
fn a_master_that_has_become_another_user_stays_closed_to_it_through_an_upgrade() {
    if !Uid::effective().is_root() {
        // Tried by the tests that run as root; what comes before it is refused above.
        return;
    }
    let demo = Demo::start("one");
    let place = std::env::temp_dir().join(format!("pointsman-closed-{}", std::process::id()));
    std::fs::create_dir(&place).expect("a new directory");
    // Where that user can get at it.
    let binary = place.join("pointsman");
    std::fs::copy(BINARY, &binary).expect("room for a copy");
    let (binary, socket) = (
        binary.display().to_string(),
        place.join("s").display().to_string(),
    );
    let flags = ["--workers", "1", "--user", "nobody", "--control", &socket];
    let proxy = Pointsman::start(&[&demo.url()], &flags);
    let shown_as = || std::fs::metadata(format!("/proc/{}/maps", proxy.pid())).map(|m| m.uid());
    assert_eq!(shown_as().expect("alive"), 0);
    let ended = run_to_end(&["ctl", "--control", &socket, "upgrade", &binary]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(proxy.metric("pointsman_upgrades_total", &[]), 1.0);
    assert_eq!(shown_as().expect("alive"), 0);
    drop(proxy);
    std::fs::remove_dir_all(&place).expect("ours");
}

#[test]
fn a_user_that_is_not_there_is_refused_by_name() {
    for (flags, culprit) in [
        (&["--user", "no-such-user"][..], "no-such-user"),
        (
            &["--user", "nobody", "--group", "no-such-group"],
            "no-such-group",
        ),
        (&["--user", "root"], "root"),
    ] {
        let start = ["serve", "--listen", "127.0.0.1:0", "--admin", "off"];
        let upstream = ["--upstream", "http://127.0.0.1:9"];
        let ended = run_to_end(&[&start[..], &upstream, flags].concat());
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(culprit), "{ended:?}");
    }
}

#[test]
fn the_limit_of_open_files_is_what_was_asked_for() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "1", "--nofile", "777"]);
    for pid in [proxy.pid(), proxy.worker_pids()[0]] {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("alive");
        let files = limits.lines().find(|l| l.starts_with("Max open files"));
        let soft = files.and_then(|line| line.split_whitespace().nth(3));
        assert_eq!(soft, Some("777"), "{limits}");
    }
    let ended = run_to_end(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        &demo.url(),
        "--admin",
        "off",
        "--nofile",
        "99999999999",
    ]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("99999999999"), "{ended:?}");
}

// ------------------------------------------------------------------------------------- process 1

/// A master that is process 1 of a pid namespace of its own, as in a container.
struct Container {
    /// `unshare`, which passes its exit code on.
    program: Program,
    /// The master, as seen from here.
    master: i32,
    address: SocketAddr,
}

impl Container {
    fn start(upstream: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        if !Uid::effective().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args(["--fork", "--pid", "--mount-proc"])
            .args([BINARY, "serve", "--workers", "2"])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(upstream);
        let program = Program::start(command);
        let told = program.says("listening on");
        let (master, _) = children(program.pid())[0];
        Self {
            program,
            master,
            address: addresses(&told)[0],
        }
    }

    /// Runs a shell's command within it, which the master is no parent of.
    fn sh(&self, command: &str) {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["-t", &self.master.to_string(), "--pid", "--mount"]);
        if !Uid::effective().is_root() {
            nsenter.args(["--user", "--preserve-credentials"]);
        }
        let status = nsenter.args(["sh", "-c", command]).status();
        assert!(status.expect("util-linux is installed").success());
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // unshare(1) passes no signal on.
        if self.program.child.try_wait().is_ok_and(|s| s.is_none()) {
            let _ = nix::sys::signal::kill(Pid::from_raw(self.master), SIGKILL);
        }
    }
}

#[test]
fn as_process_1_it_reaps_orphans_and_its_own_children_rightly() {
    let container = Container::start(&["--demo"]);
    let own: Vec<(i32, char)> = children(container.master);
    assert_eq!(own.len(), 4, "two workers and two demo upstreams: {own:?}");

    // The shells are gone at once, and leave orphans that end by and by: some while nothing else
    // happens, many at a time.
    let marker = std::env::temp_dir().join(format!("pointsman-orphans-{}", std::process::id()));
    let path = marker.display();
    nix::unistd::mkfifo(&marker, nix::sys::stat::Mode::S_IRWXU).expect("a free path");
    container.sh(&format!(
        "for i in 1 2 3 4 5 6 7 8 9 10; do (read -r _ < {path}) & done"
    ));
    until("the master is given the orphans", || {
        is_true(children(container.master).len() == 14)
    });
    // Opened and closed: all of them read the end of the file, and end.
    let release = std::fs::OpenOptions::new().write(true).open(&marker);
    drop(release.expect("somebody reads"));
    until("the orphans are reaped", || {
        // Whoever had not opened it yet waits for the next who writes.
        let again = std::fs::OpenOptions::new()
            .write(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open(&marker);
        drop(again);
        is_true(children(container.master).len() == 4)
    });
    std::fs::remove_file(&marker).expect("ours");
    assert_eq!(children(container.master), own, "its own are left alone");

    // Its own children's ends are still known for what they were, even while it is busy reaping.
    std::fs::write(&marker, "").expect("a free path");
    container.sh(&format!(
        "for i in 1 2 3 4; do (while [ -e {path} ]; do (true &); done) </dev/null >/dev/null 2>&1 & done"
    ));
    until("orphans end one after the other", || {
        is_true(
            children(container.master)
                .iter()
                .any(|(_, state)| *state == 'Z'),
        )
    });
    for (pid, _) in &own {
        kill(*pid, SIGKILL);
    }
    until("its own children are reaped", || {
        is_true(!own.iter().any(|(pid, _)| process(*pid).is_some()))
    });
    std::fs::remove_file(&marker).expect("ours");
    until("all have successors", || {
        let now = children(container.master);
        let fresh = now.iter().all(|child| !own.contains(child));
        is_true(now.len() == 4 && fresh && now.iter().all(|(_, state)| *state != 'Z'))
    });
    until("it serves again", || {
        let mut client = crate::harness::Client::try_connect(container.address).ok()?;
        is_true(client.get("/").ok()?.status == 200)
    });
    let log = container.program.log();
    assert_eq!(
        log.matches(") ended after").count(),
        2,
        "two workers: {log}"
    );
    assert_eq!(log.matches("with SIGKILL, ").count(), 2, "{log}");
    assert!(!log.contains("cannot reap"), "{log}");
}

#[test]
fn as_process_1_it_ends_cleanly_when_told_and_not_by_stray_signals() {
    let demo = Demo::start("one");
    let mut container = Container::start(&["--upstream", &demo.url()]);
    let workers = children(container.master);
    for stray in [SIGHUP, SIGUSR1, SIGPIPE, Signal::SIGALRM, Signal::SIGCHLD] {
        kill(container.master, stray);
        assert_eq!(get(container.address, "/").status, 200, "{stray}");
    }
    assert!(is_running(container.master));
    kill(container.master, SIGTERM);
    assert_eq!(container.program.code(), Some(0));
    assert!(workers.iter().all(|(pid, _)| process(*pid).is_none()));
}
