//! Starting, being told nonsense, stopping, the admin interface.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::net::UnixListener,
    process::{Command, Stdio},
    thread,
};

use nix::sys::signal::Signal::{SIGINT, SIGTERM};
use pointsman::{Mode, Policy};

use crate::harness::{
    Answer, Client, Demo, Gate, Pointsman, children, get, is_running, is_true, kill, process,
    run_to_end, until,
};

/// Nothing else may end what a test wants to see end by itself.
const NEVER: [&str; 2] = ["--drain-timeout", "3600"];

/// Waits until the master has begun to stop.
#[track_caller]
fn await_stopping(proxy: &Pointsman) {
    until("/readyz says that it stops", || {
        is_true(proxy.admin("/readyz").status == 503)
    });
}

#[track_caller]
fn await_gone(pids: &[i32]) {
    until("every process is gone", || {
        is_true(!pids.iter().any(|pid| is_running(*pid)))
    });
}

#[test]
fn it_serves_through_a_worker() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "2"]);
    assert_eq!(get(proxy.address(), "/").text(), "hello from one\n");
    assert_eq!(proxy.admin("/readyz").status, 200);
}

// ---------------------------------------------------------------------------------- starting

#[test]
fn help_names_every_mode_and_every_policy() {
    let help = run_to_end(&["serve", "--help"]);
    assert_eq!(help.code, Some(0), "{help:?}");
    let names = Mode::ALL
        .map(Mode::name)
        .into_iter()
        .chain(Policy::ALL.map(Policy::name));
    for name in names {
        let explained = |line: &str| {
            line.trim_start()
                .strip_prefix(name)
                .is_some_and(|why| why.starts_with("  ") && why.trim().len() > 10)
        };
        assert!(
            help.stdout.lines().any(explained),
            "{name} is not explained:\n{}",
            help.stdout
        );
    }
}

#[test]
fn it_says_its_version() {
    let version = run_to_end(&["--version"]);
    assert_eq!(
        version.stdout,
        concat!("pointsman ", env!("CARGO_PKG_VERSION"), "\n")
    );
    assert_eq!(version.code, Some(0));
}

/// `pointsman serve` with these arguments must refuse to start in one line that names `culprits`.
#[track_caller]
fn refused(arguments: &[&str], code: i32, culprits: &[&str]) {
    let all: Vec<_> = ["serve"].iter().chain(arguments).copied().collect();
    let end = run_to_end(&all);
    assert_eq!(end.code, Some(code), "{arguments:?}: {end:?}");
    assert_eq!(end.stderr.lines().count(), 1, "{arguments:?}: {end:?}");
    assert!(
        end.stderr.starts_with("pointsman: "),
        "{arguments:?}: {end:?}"
    );
    for culprit in culprits {
        assert!(
            end.stderr.contains(culprit),
            "{arguments:?}: {culprit} is not named: {end:?}"
        );
    }
    assert_eq!(end.stdout, "", "{arguments:?}");
}

#[test]
fn what_cannot_be_is_refused_in_one_line_that_names_the_culprit() {
    let with = |flag: &str, value: &str, culprits: &[&str]| {
        let arguments = [
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "off",
            "--upstream",
            "http://127.0.0.1:9",
            flag,
            value,
        ];
        refused(&arguments, 2, culprits);
    };
    with("--listen", "300.1.1.1:80", &["300.1.1.1:80"]);
    with("--listen", "127.0.0.1:99999", &["127.0.0.1:99999"]);
    with("--listen", "127.0.0.1", &["'127.0.0.1'", "port"]);
    with("--mode", "handof", &["handof", "handoff", "reuseport"]);
    with(
        "--policy",
        "least-loded",
        &["least-loded", "least-loaded", "round-robin"],
    );
    with("--load-signal", "cpu", &["cpu", "connections", "busy"]);
    with("--workers", "0", &["0 workers"]);
    with("--workers", "129", &["129 workers"]);
    with(
        "--upstream",
        "https://127.0.0.1:9",
        &["https://127.0.0.1:9"],
    );
    with("--upstream", "ftp://127.0.0.1:9", &["ftp://127.0.0.1:9"]);
    with(
        "--upstream",
        "http://127.0.0.1:9",
        &["127.0.0.1:9", "twice"],
    );
    with("--remote-prefix-v4", "33", &["32"]);
    with("--remote-prefix-v6", "129", &["128"]);
    refused(&["--listen", "127.0.0.1:0"], 2, &["upstream"]);
    let twice = [
        "--listen",
        "127.0.0.1:9",
        "--listen",
        "127.0.0.1:9",
        "--upstream",
        "http://127.0.0.1:9",
    ];
    refused(&twice, 2, &["127.0.0.1:9", "twice"]);
}

#[test]
fn seventeen_listeners_are_one_too_many() {
    let mut arguments = vec!["--upstream", "http://127.0.0.1:9"];
    arguments.extend(["--listen", "127.0.0.1:0"].repeat(17));
    refused(&arguments, 2, &["17 addresses"]);
}

#[test]
fn a_policy_is_refused_in_every_mode_in_which_it_has_no_say() {
    let deaf: Vec<Mode> = Mode::ALL
        .into_iter()
        .filter(|mode| !mode.takes_policy())
        .collect();
    assert!(deaf.contains(&Mode::Reuseport));
    for mode in deaf {
        for policy in Policy::ALL {
            let (mode, policy) = (mode.name(), policy.name());
            let arguments = [
                "--upstream",
                "http://127.0.0.1:9",
                "--mode",
                mode,
                "--policy",
                policy,
            ];
            refused(&arguments, 2, &[mode, policy]);
        }
    }
}

#[test]
fn a_flag_that_does_not_exist_ends_with_code_2() {
    for arguments in [&["serve", "--frobnicate"][..], &["--frobnicate"]] {
        let end = run_to_end(arguments);
        assert_eq!(end.code, Some(2), "{end:?}");
        assert!(end.stderr.contains("--frobnicate"), "{end:?}");
    }
    let end = run_to_end(&["serve", "--workers", "many"]);
    assert_eq!(end.code, Some(2), "{end:?}");
    assert!(end.stderr.contains("many"), "{end:?}");
}

#[test]
fn an_address_that_somebody_listens_on_is_refused_with_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let upstream = ["--upstream", "http://127.0.0.1:9"];
    let off = ["--admin", "off"];
    let free = ["--listen", "127.0.0.1:0"];
    refused(
        &[&upstream[..], &off, &["--listen", &address]].concat(),
        1,
        &[&address],
    );
    refused(
        &[&upstream[..], &free, &["--admin", &address]].concat(),
        1,
        &[&address, "admin"],
    );
}

#[test]
fn a_second_instance_on_the_same_address_is_refused_and_takes_nothing_from_the_first() {
    let (demo, other) = (Demo::start("first"), Demo::start("second"));
    for mode in Mode::ALL {
        let flags = ["--workers", "2", "--mode", mode.name()];
        let proxy = Pointsman::start(&[&demo.url()], &flags);
        let (listen, admin) = (proxy.address().to_string(), proxy.admin.to_string());
        let upstream = ["--upstream", &other.url(), "--mode", mode.name()];
        let off = ["--admin", "off"];
        refused(
            &[&upstream[..], &off, &["--listen", &listen]].concat(),
            1,
            &[&listen],
        );
        let free = ["--listen", "127.0.0.1:0"];
        refused(
            &[&upstream[..], &free, &["--admin", &admin]].concat(),
            1,
            &[&admin],
        );
        for _ in 0..20 {
            assert_eq!(
                get(proxy.address(), "/").text(),
                "hello from first\n",
                "{mode}"
            );
        }
    }
}

#[test]
fn an_upstream_that_is_not_there_yet_is_warned_of_and_costs_502_until_it_comes() {
    // Bound, so that nobody else takes the port, but not listening: connections are refused.
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("a free port");
    let address = socket.local_addr().expect("bound").as_socket();
    let address = address.expect("an IP address");

    let proxy = Pointsman::start(&[&format!("http://{address}")], &["--workers", "1"]);
    let warning = until("it warns of the upstream", || {
        let log = proxy.log();
        log.lines()
            .find(|line| line.contains("warning"))
            .map(str::to_owned)
    });
    assert!(warning.contains(&address.to_string()), "{warning}");
    let answer = get(proxy.address(), "/");
    assert_eq!(answer.status, 502, "{answer:?}");

    socket.listen(16).expect("a bound socket");
    thread::spawn(move || {
        for stream in TcpListener::from(socket).incoming().flatten() {
            answer_each_request(stream, "here I am\n");
        }
    });
    let answer = until("the upstream is used again", || {
        Some(get(proxy.address(), "/")).filter(|answer| answer.status != 502)
    });
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "here I am\n")
    );
}

/// Answers `text` to every request on a connection, until it is closed.
fn answer_each_request<S: std::io::Read + Write>(stream: S, text: &str) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).is_ok_and(|n| n > 0) {
        if line == "\r\n" {
            let length = text.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}");
            if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
        line.clear();
    }
}

#[test]
fn it_listens_on_several_addresses_ipv6_included_and_counts_each() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let listen = ["127.0.0.1:0", "[::1]:0", "127.0.0.1:0"];
        let flags = ["--workers", "2", "--mode", mode.name()];
        let proxy = Pointsman::start_on(&listen, &[&demo.url()], &flags);
        assert_eq!(proxy.listen.len(), 3);
        assert!(proxy.listen[1].is_ipv6());
        for (i, address) in proxy.listen.iter().enumerate() {
            for _ in 0..=i {
                assert_eq!(get(*address, "/").text(), "hello from one\n", "{mode}");
            }
            let label = format!("listener=\"{address}\"");
            let counted = proxy.metric("pointsman_connections_total", &[&label]);
            assert_eq!(counted, (i + 1) as f64, "{mode}, {label}");
        }
        let reported = proxy.workers()["listeners"].clone();
        assert_eq!(
            reported,
            serde_json::json!(
                proxy
                    .listen
                    .iter()
                    .map(|a| a.to_string())
                    .collect::<Vec<_>>()
            )
        );
    }
}

#[test]
fn an_upstream_may_be_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("pointsman-test-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a free path");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer_each_request(stream, "through a file\n"));
        }
    });
    let proxy = Pointsman::start(&[&format!("unix:{}", path.display())], &["--workers", "2"]);
    for _ in 0..6 {
        let answer = get(proxy.address(), "/");
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "through a file\n")
        );
    }
    let _ = std::fs::remove_file(&path);
}

#[test]
fn a_demo_serves_says_what_to_try_and_takes_its_upstreams_with_it() {
    let mut proxy = Pointsman::start(&[], &["--demo", "--workers", "1"]);
    let invitations = [
        format!("http://{}/ ", proxy.address()),
        format!("http://{}/ ", proxy.admin),
        format!("http://{}/metrics ", proxy.admin),
    ];
    for invitation in &invitations {
        until("it says what to try", || {
            is_true(proxy.log().contains(invitation))
        });
    }
    let hello: BTreeSet<_> = (0..8).map(|_| get(proxy.address(), "/").text()).collect();
    assert!(
        hello.iter().all(|text| text.starts_with("hello from ")),
        "{hello:?}"
    );
    assert_eq!(hello.len(), 2, "both upstreams take turns: {hello:?}");
    let (mut client, head) = (
        Client::connect(proxy.address()),
        "GET / HTTP/1.1\r\nhost: test\r\naccept: text/html\r\nconnection: close\r\n\r\n",
    );
    client.send(head).expect("an open connection");
    let page = client.read_answer(false).expect("an answer");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("<html"), "{}", page.text());
    assert_eq!(proxy.admin("/metrics").status, 200);

    let children: Vec<i32> = children(proxy.pid())
        .into_iter()
        .map(|(pid, _)| pid)
        .collect();
    assert_eq!(children.len(), 3, "a worker and two upstreams");
    proxy.signal(SIGTERM);
    assert_eq!(proxy.wait().code(), Some(0));
    await_gone(&children);
}

#[test]
fn there_are_as_many_workers_as_usable_cores_unless_told_otherwise() {
    let cores = thread::available_parallelism().expect("a number").get();
    let proxy = Pointsman::start(&["http://127.0.0.1:9"], &[]);
    assert_eq!(proxy.worker_pids().len(), cores);
    assert_eq!(children(proxy.pid()).len(), cores);
    let proxy = Pointsman::start(&["http://127.0.0.1:9"], &["--workers", "5"]);
    assert_eq!(proxy.worker_pids().len(), 5);
}

#[test]
fn pinned_workers_go_round_the_usable_cores() {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).expect("an affinity");
    let usable: Vec<usize> = (0..nix::sched::CpuSet::count())
        .filter(|core| set.is_set(*core).expect("in range"))
        .collect();
    let allowed = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        list.expect("a list of cores").trim().to_owned()
    };
    let unpinned = allowed(std::process::id() as i32);

    let proxy = Pointsman::start(&["http://127.0.0.1:9"], &["--workers", "3", "--pin-cpus"]);
    let cores: Vec<String> = proxy.worker_pids().into_iter().map(allowed).collect();
    let expected: Vec<String> = (0..3)
        .map(|i| usable[i % usable.len()].to_string())
        .collect();
    assert_eq!(cores, expected);
    assert_eq!(allowed(proxy.pid()), unpinned, "the master is free");

    let proxy = Pointsman::start(&["http://127.0.0.1:9"], &["--workers", "1"]);
    assert_eq!(allowed(proxy.worker_pids()[0]), unpinned);
}

#[test]
fn a_worker_has_the_masters_standard_input_and_output() {
    let proxy = Pointsman::start(&["http://127.0.0.1:9"], &["--workers", "2"]);
    let standard = |pid: i32| {
        [0, 1, 2].map(|fd| {
            std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).expect("an open descriptor")
        })
    };
    let masters = standard(proxy.pid());
    for pid in proxy.worker_pids() {
        assert_eq!(standard(pid), masters, "pid {pid}");
    }
}

#[test]
fn the_master_serves_too_if_asked_to() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let flags = ["--workers", "1", "--master-serves", "--mode", mode.name()];
        let mut proxy = Pointsman::start(&[&demo.url()], &flags);
        let report = proxy.workers();
        let seats: Vec<_> = report["workers"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|worker| (worker["worker"].clone(), worker["pid"].as_i64()))
            .collect();
        let worker = children(proxy.pid())[0].0;
        assert_eq!(
            seats,
            [
                ("0".into(), Some(i64::from(worker))),
                ("master".into(), Some(i64::from(proxy.pid())))
            ],
            "{mode}"
        );

        let mut held = Vec::new();
        for _ in 0..64 {
            let mut client = Client::connect(proxy.address());
            let answer = client.get("/").expect("an answer");
            assert_eq!(answer.text(), "hello from one\n", "{mode}");
            held.push(client);
        }
        let open = proxy.each_worker("connections_open");
        assert!(
            open.iter().all(|n| *n > 0) && open.iter().sum::<u64>() == 64,
            "{mode}: {open:?}"
        );
        let mine = proxy.metric("pointsman_connections_total", &["worker=\"master\""]);
        assert_eq!(mine, open[1] as f64, "{mode}");

        proxy.signal(SIGTERM);
        assert_eq!(proxy.wait().code(), Some(0), "{mode}");
        for mut client in held {
            assert_eq!(client.read_to_end().expect("a clean close"), b"", "{mode}");
        }
    }
}

// ---------------------------------------------------------------------------------- stopping

/// A proxy with one request at the gate.
fn with_a_held_request(gate: &Gate, mode: Mode, more: &[&str]) -> (Pointsman, Client) {
    let flags = [&["--workers", "2", "--mode", mode.name()], more].concat();
    let proxy = Pointsman::start(&[&gate.url()], &flags);
    let mut client = Client::connect(proxy.address());
    client
        .send("GET /held HTTP/1.1\r\nhost: test\r\n\r\n")
        .expect("an open connection");
    gate.await_held(1);
    (proxy, client)
}

#[test]
fn sigterm_lets_a_request_in_flight_finish_and_ends_with_code_0() {
    for mode in Mode::ALL {
        let gate = Gate::start();
        let (mut proxy, mut client) = with_a_held_request(&gate, mode, &NEVER);
        let workers = proxy.worker_pids();
        proxy.signal(SIGTERM);
        await_stopping(&proxy);
        gate.open();
        let answer = client.read_answer(false).expect("an answer");
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, Gate::HELD),
            "{mode}"
        );
        assert_eq!(proxy.wait().code(), Some(0), "{mode}");
        assert_eq!(client.read_to_end().expect("a clean close"), b"", "{mode}");
        await_gone(&workers);
    }
}

#[test]
fn ctrl_c_in_a_terminal_which_reaches_every_process_still_drains() {
    for mode in Mode::ALL {
        let gate = Gate::start();
        let (mut proxy, mut client) = with_a_held_request(&gate, mode, &NEVER);
        let workers = proxy.worker_pids();
        workers.iter().for_each(|pid| kill(*pid, SIGINT));
        proxy.signal(SIGINT);
        await_stopping(&proxy);
        gate.open();
        let answer = client.read_answer(false).expect("an answer");
        assert_eq!(answer.text(), Gate::HELD, "{mode}");
        assert_eq!(proxy.wait().code(), Some(0), "{mode}");
        await_gone(&workers);
    }
}

#[test]
fn sigterm_takes_no_new_connections_while_it_drains() {
    for mode in Mode::ALL {
        let gate = Gate::start();
        let (mut proxy, mut client) = with_a_held_request(&gate, mode, &NEVER);
        proxy.signal(SIGTERM);
        // Those that still get in before the listeners are closed must be answered.
        until("connections are refused", || {
            match Client::try_connect(proxy.address()) {
                Err(_) => Some(()),
                Ok(mut client) => {
                    // Reset: it was in the backlog when that was closed, or behind.
                    if let Ok(answer) = client.get("/") {
                        assert_eq!(answer.text(), Gate::FREE, "{mode}");
                    }
                    None
                }
            }
        });
        gate.open();
        assert_eq!(
            client.read_answer(false).expect("an answer").text(),
            Gate::HELD
        );
        assert_eq!(proxy.wait().code(), Some(0), "{mode}");
    }
}

#[test]
fn sigterm_closes_idle_connections_and_ends_without_waiting_for_a_limit() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let flags = [&["--workers", "2", "--mode", mode.name()][..], &NEVER].concat();
        let mut proxy = Pointsman::start(&[&demo.url()], &flags);
        let mut used = Client::connect(proxy.address());
        assert_eq!(used.get("/").expect("an answer").status, 200);
        let mut untouched = Client::connect(proxy.address());
        until("both are open", || {
            is_true(proxy.each_worker("connections_open").iter().sum::<u64>() == 2)
        });
        proxy.signal(SIGTERM);
        assert_eq!(used.read_to_end().expect("a clean close"), b"", "{mode}");
        assert_eq!(
            untouched.read_to_end().expect("a clean close"),
            b"",
            "{mode}"
        );
        assert_eq!(proxy.wait().code(), Some(0), "{mode}");
    }
}

#[test]
fn a_second_sigterm_ends_at_once() {
    for mode in Mode::ALL {
        let gate = Gate::start();
        let (mut proxy, mut client) = with_a_held_request(&gate, mode, &NEVER);
        let workers = proxy.worker_pids();
        proxy.signal(SIGTERM);
        await_stopping(&proxy);
        assert!(is_running(proxy.pid()), "{mode}: it waits for the request");
        proxy.signal(SIGTERM);
        let status = proxy.wait();
        assert!(
            status.code().is_some(),
            "{mode}: {status} instead of an exit"
        );
        let cut = client.read_answer(false);
        assert!(cut.is_err(), "{mode}: {cut:?}");
        await_gone(&workers);
    }
}

#[test]
fn the_drain_limit_cuts_a_request_that_hangs_and_says_so() {
    for mode in Mode::ALL {
        let gate = Gate::start();
        let (mut proxy, mut client) = with_a_held_request(&gate, mode, &["--drain-timeout", "1"]);
        let workers = proxy.worker_pids();
        proxy.signal(SIGTERM);
        let status = proxy.wait();
        assert!(status.code().is_some(), "{mode}: {status}");
        let cut = client.read_answer(false);
        assert!(cut.is_err(), "{mode}: {cut:?}");
        until("it tells what it cut", || {
            is_true(proxy.log().contains("cutting 1 connection"))
        });
        await_gone(&workers);
    }
}

// ----------------------------------------------------------------------------- admin interface

#[test]
fn health_and_readiness_are_told_apart_from_everything_else() {
    let proxy = Pointsman::start(&["http://127.0.0.1:9"], &["--workers", "3"]);
    let answer = |path: &str| {
        let answer = proxy.admin(path);
        (answer.status, answer.text())
    };
    assert_eq!(answer("/healthz"), (200, "ok\n".into()));
    assert_eq!(answer("/readyz"), (200, "3 of 3 workers ready\n".into()));
    let (status, text) = answer("/");
    assert_eq!(status, 200);
    assert!(text.contains("/metrics"), "{text}");
    assert_eq!(answer("/nonsense").0, 404);
    assert_eq!(answer("/metricsx").0, 404);
}

#[test]
fn the_admin_interface_is_read_only() {
    let proxy = Pointsman::start(&["http://127.0.0.1:9"], &["--workers", "1"]);
    let ask = |method: &str, path: &str| -> Answer {
        let mut client = Client::connect(proxy.admin);
        client
            .send(format!(
                "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
            ))
            .expect("an open connection");
        client.read_answer(method == "HEAD").expect("an answer")
    };
    for path in [
        "/metrics", "/workers", "/healthz", "/readyz", "/", "/page", "/page.js",
    ] {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let answer = ask(method, path);
            assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
            assert_eq!(answer.field("allow"), Some("get, head"));
        }
        assert_eq!(ask("GET", path).status, 200);
        assert_eq!(ask("HEAD", path).status, 200);
    }
}

#[test]
fn those_who_keep_looking_keep_nobody_else_away() {
    // A sixteenth of the descriptors is for those who look: ten.
    let proxy = Pointsman::start(
        &["http://127.0.0.1:9"],
        &["--workers", "1", "--nofile", "160"],
    );
    let mut kept = Vec::new();
    for _ in 0..10 {
        let mut looker = Client::connect(proxy.admin);
        let answer = looker.get("/live").expect("an answer");
        assert_eq!(answer.status, 200);
        if answer.field("connection") != Some("close") {
            kept.push(looker);
        }
    }
    assert!((5..10).contains(&kept.len()), "{}", kept.len());
    assert_eq!(proxy.admin("/healthz").status, 200);
    for looker in &mut kept {
        assert_eq!(looker.get("/live").expect("kept").status, 200);
    }
}

#[test]
fn without_an_admin_interface_it_serves_all_the_same() {
    let demo = Demo::start("one");
    let mut child = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["serve", "--admin", "off", "--listen", "127.0.0.1:0"])
        .args(["--workers", "1", "--upstream", &demo.url()])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary under test");
    let mut line = String::new();
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    stderr.read_line(&mut line).expect("it says something");
    let (_, after) = line.split_once("http://").expect("it listens");
    let (address, more) = after.split_once(',').expect("it has workers");
    let answer = get(address.parse().expect("an address"), "/");
    assert_eq!(answer.text(), "hello from one\n");
    assert!(!more.contains("admin"), "{line}");
    kill(child.id() as i32, SIGTERM);
    let status = until("it ends", || child.try_wait().expect("our child"));
    assert_eq!(status.code(), Some(0));
}

#[test]
fn workers_tells_who_is_there_and_what_they_do() {
    let gate = Gate::start();
    for mode in Mode::ALL {
        let flags = ["--workers", "2", "--mode", mode.name()];
        let proxy = Pointsman::start(&[&gate.url()], &flags);
        let answer = proxy.admin("/workers");
        assert_eq!(answer.field("content-type"), Some("application/json"));
        let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(proxy.address())).collect();
        for client in &mut clients {
            assert_eq!(client.get("/").expect("an answer").text(), Gate::FREE);
        }
        let report = proxy.workers();
        assert_eq!(report["mode"], mode.name());
        let policy = if mode.takes_policy() {
            Policy::default().name()
        } else {
            "none"
        };
        assert_eq!(report["policy"], policy);
        assert_eq!(
            report["listeners"],
            serde_json::json!([proxy.address().to_string()])
        );
        let workers = report["workers"].as_array().expect("a list");
        assert_eq!(workers.len(), 2);
        let (mut open, mut pids) = (0, BTreeSet::new());
        for (i, worker) in workers.iter().enumerate() {
            assert_eq!(worker["worker"], i.to_string());
            assert_eq!(worker["generation"], 1);
            assert_eq!(worker["state"], "ready");
            assert_eq!(worker["restarts"], 0);
            assert_eq!(worker["crash_loop"], 0);
            let pid = worker["pid"].as_i64().expect("a pid") as i32;
            assert_eq!(
                process(pid).map(|(parent, _)| parent),
                Some(proxy.pid()),
                "a child of the master"
            );
            pids.insert(pid);
            let number = |field: &str| worker[field].as_u64().expect("a number");
            assert_eq!(number("connections_open"), number("load"), "{worker}");
            assert_eq!(
                number("connections_open"),
                number("connections_handed_over") + number("connections_self_accepted"),
                "{worker}"
            );
            if mode == Mode::Handoff {
                assert_eq!(number("connections_self_accepted"), 0);
            }
            open += number("connections_open");
        }
        assert_eq!((open, pids.len()), (3, 2), "{mode}");
    }
}

#[test]
fn requests_in_flight_show_while_they_are() {
    for mode in Mode::ALL {
        let gate = Gate::start();
        let (proxy, mut client) = with_a_held_request(&gate, mode, &[]);
        let in_flight = || {
            let reported: u64 = proxy.each_worker("requests_in_flight").iter().sum();
            let measured = proxy.metric("pointsman_requests_in_flight", &[]);
            assert_eq!(reported as f64, measured, "{mode}");
            reported
        };
        assert_eq!(in_flight(), 1, "{mode}");
        gate.open();
        client.read_answer(false).expect("an answer");
        until("the request is over", || {
            is_true(proxy.metric("pointsman_requests_in_flight", &[]) == 0.0)
        });
    }
}

// ------------------------------------------------------------------------------- /metrics

#[test]
fn the_metrics_page_stands_up_to_a_strict_reader() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let flags = ["--workers", "2", "--mode", mode.name()];
        let proxy = Pointsman::start(&[&demo.url()], &flags);
        let page = proxy.admin("/metrics");
        assert_eq!(
            page.field("content-type"),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        read_strictly(&page.text());

        for path in [
            "/",
            "/status?code=404",
            "/status?code=503",
            "/bytes?n=70000",
        ] {
            for _ in 0..5 {
                get(proxy.address(), path);
            }
        }
        until("every connection is closed", || {
            is_true(proxy.metric("pointsman_connections_open", &[]) == 0.0)
        });
        let samples = read_strictly(&proxy.admin("/metrics").text());
        let sum = |name: &str, label: &str| -> f64 {
            samples
                .iter()
                .filter(|s| {
                    s.name == name
                        && (label.is_empty() || s.labels.values().any(|value| value == label))
                })
                .map(|s| s.value)
                .sum()
        };
        assert_eq!(sum("pointsman_connections_total", ""), 20.0, "{mode}");
        for (class, n) in [("2xx", 10.0), ("4xx", 5.0), ("5xx", 5.0), ("aborted", 0.0)] {
            assert_eq!(sum("pointsman_requests_total", class), n, "{mode}, {class}");
        }
        assert_eq!(
            sum("pointsman_request_duration_seconds_count", ""),
            20.0,
            "{mode}"
        );
        assert!(
            sum("pointsman_bytes_total", "out") > 5.0 * 70_000.0,
            "{mode}"
        );
        assert_eq!(sum("pointsman_worker_up", ""), 2.0, "{mode}");
        assert_eq!(sum("pointsman_worker_ready", ""), 2.0, "{mode}");
        assert_eq!(sum("pointsman_build_info", ""), 1.0, "{mode}");
        let handed = sum("pointsman_handoffs_total", "");
        let measured = sum("pointsman_handoff_duration_seconds_count", "");
        assert_eq!(handed, measured, "{mode}");
        if mode == Mode::Handoff {
            assert_eq!(handed, 20.0);
        }
    }
}

struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads a page as the text format says that it must be written, more strictly than Prometheus does.
#[track_caller]
fn read_strictly(page: &str) -> Vec<Sample> {
    assert!(page.ends_with('\n'), "the last line is not ended");
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    };
    let (mut help, mut family) = (None, None);
    let mut families = BTreeSet::new();
    let mut series = BTreeSet::new();
    let mut kinds = BTreeMap::new();
    let mut samples = Vec::new();
    for line in page.lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            let (name, text) = text.split_once(' ').expect("a name and a help text");
            assert!(is_name(name), "{line}");
            assert!(text.len() > 5, "hardly a help text: {line}");
            assert!(
                families.insert(name.to_owned()),
                "{name} begins a second time"
            );
            help = Some(name);
            family = None;
            continue;
        }
        if let Some(text) = line.strip_prefix("# TYPE ") {
            let (name, kind) = text.split_once(' ').expect("a name and a type");
            assert_eq!(help, Some(name), "TYPE without HELP just before: {line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            if name.starts_with("pointsman_") {
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            }
            kinds.insert(name, kind);
            family = Some((name, kind));
            continue;
        }
        let (family, kind) = family.unwrap_or_else(|| panic!("no TYPE before: {line}"));
        let sample = read_sample(line);
        let suffix = sample
            .name
            .strip_prefix(family)
            .unwrap_or_else(|| panic!("among the samples of {family}: {line}"));
        match kind {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            _ => assert_eq!(suffix, "", "{line}"),
        }
        assert_eq!(suffix == "_bucket", sample.labels.contains_key("le"));
        assert!(is_name(&sample.name), "{line}");
        assert!(sample.labels.keys().all(|name| is_name(name)), "{line}");
        assert!(
            kind == "gauge" || sample.value >= 0.0 && sample.value.is_finite(),
            "{line}"
        );
        assert!(
            series.insert((sample.name.clone(), sample.labels.clone())),
            "twice: {line}"
        );
        samples.push(sample);
    }
    let histograms = kinds.iter().filter(|(_, kind)| **kind == "histogram");
    let mut read = 0;
    for (name, _) in histograms {
        read += read_histogram(name, &samples);
    }
    assert!(read >= 2, "no histogram on the page");
    samples
}

/// Checks every histogram of a family; how many there are.
#[track_caller]
fn read_histogram(name: &str, samples: &[Sample]) -> usize {
    let mut buckets: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    let bucket = format!("{name}_bucket");
    for sample in samples.iter().filter(|s| s.name == bucket) {
        let mut labels = sample.labels.clone();
        let le = labels.remove("le").expect("a bound");
        let bound = le.parse().expect("a number");
        let all = buckets.entry(labels).or_default();
        all.push((bound, sample.value));
    }
    for (labels, buckets) in &buckets {
        let sorted = buckets
            .windows(2)
            .all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1);
        assert!(sorted, "{name} {labels:?} is not cumulative: {buckets:?}");
        let one = |suffix: &str| {
            let name = format!("{name}{suffix}");
            let found: Vec<f64> = samples
                .iter()
                .filter(|s| s.name == name && s.labels == *labels)
                .map(|s| s.value)
                .collect();
            assert_eq!(found.len(), 1, "{name} {labels:?}");
            found[0]
        };
        let last = *buckets.last().expect("a bucket");
        assert_eq!(last, (f64::INFINITY, one("_count")), "{name} {labels:?}");
        assert_eq!(one("_sum") > 0.0, one("_count") > 0.0, "{name} {labels:?}");
    }
    buckets.len()
}

/// `name{label="value",…} value`, with the escapes of label values.
#[track_caller]
fn read_sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let value = value.parse().expect("a number");
    let mut labels = BTreeMap::new();
    let Some((name, rest)) = series.split_once('{') else {
        let name = series.to_owned();
        return Sample {
            name,
            labels,
            value,
        };
    };
    let mut rest = rest.strip_suffix('}').expect("a closed brace");
    while !rest.is_empty() {
        let (label, quoted) = rest.split_once("=\"").expect("a quoted value");
        let (mut text, mut end, mut escaped) = (String::new(), None, false);
        for (i, c) in quoted.char_indices() {
            match (escaped, c) {
                (false, '"') => {
                    end = Some(i);
                    break;
                }
                (false, '\\') => escaped = true,
                (true, 'n') => {
                    text.push('\n');
                    escaped = false;
                }
                (true, '"' | '\\') | (false, _) => {
                    text.push(c);
                    escaped = false;
                }
                (true, _) => panic!("an unknown escape: {line}"),
            }
        }
        let end = end.unwrap_or_else(|| panic!("an open quote: {line}"));
        let before = labels.insert(label.to_owned(), text);
        assert!(before.is_none(), "{label} twice: {line}");
        rest = &quoted[end + 1..];
        if !rest.is_empty() {
            rest = rest.strip_prefix(',').expect("a comma");
        }
    }
    let name = name.to_owned();
    Sample {
        name,
        labels,
        value,
    }
}
